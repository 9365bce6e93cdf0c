package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

const (
	keysPath = "/v1/keys"
	// scanPage is how many keys are asked for at a time.
	scanPage = 1000
)

func newScanCmd() *cobra.Command {
	var c client
	var limit int
	cmd := &cobra.Command{
		Use:   "scan [PREFIX]",
		Short: "List keys",
		Long: `List the keys that begin with PREFIX, or all, one a line, in the order of slots and then of their bytes. What is
not plain text is quoted; -o json is exact. A key that is there all the time is listed once; the list is no state of one moment.
To list a key is no use of its entry.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			if limit < 0 {
				return usageError{fmt.Errorf("--limit %d is negative", limit)}
			}
			query := url.Values{}
			for _, prefix := range args {
				if len(prefix) > maxKey {
					return usageError{fmt.Errorf("the prefix has %d bytes, no key has more than %d", len(prefix), maxKey)}
				}
				query.Set("prefix", prefix)
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			defer out.Flush()
			for listed := 0; ; {
				most := scanPage
				if limit > 0 {
					most = min(most, limit-listed)
				}
				query.Set("limit", strconv.Itoa(most))
				a, err := c.do(cmd.Context(), request{method: http.MethodGet, path: keysPath, query: query, again: true})
				if err != nil {
					return err
				}
				if a.status != http.StatusOK {
					return refusal(a, false)
				}
				var page struct {
					Keys []struct {
						Key    string
						KeyB64 []byte `json:"key_b64"`
					}
					Cursor *string
				}
				if err := json.Unmarshal(a.body, &page); err != nil || page.Cursor == nil {
					return strange(a, false)
				}
				for _, k := range page.Keys {
					if c.output == "json" {
						var e entry
						e.addBytes("key", []byte(k.Key+string(k.KeyB64)))
						err = e.printJSON(out)
					} else {
						_, err = fmt.Fprintln(out, cell(k.Key+string(k.KeyB64)))
					}
					if err != nil {
						return err
					}
				}
				if listed += len(page.Keys); *page.Cursor == "" || limit > 0 && listed >= limit {
					return out.Flush()
				}
				if err := out.Flush(); err != nil {
					return err
				}
				query.Set("cursor", *page.Cursor)
			}
		},
	}
	c.flags(cmd.Flags())
	cmd.Flags().Lookup("output").Usage = "table or json: an object a line, with key or key_b64"
	cmd.Flags().IntVar(&limit, "limit", 0, "how many keys to list at most; 0 for all")
	return cmd
}
