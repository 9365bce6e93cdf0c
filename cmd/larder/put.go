package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func newPutCmd() *cobra.Command {
	var c client
	var cond condition
	var once idempotency
	var ttl, contentType, fillToken string
	var returnOld bool
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE|-]",
		Short: "Store a value",
		Long: `Store a value. Without VALUE, or with -, it is read from standard input.
A time to live that the key had is replaced by --ttl, or cleared. With --return-old the value that
was replaced goes to standard output.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.checkKey(args[0]); err != nil {
				return err
			}
			r := request{method: http.MethodPut, path: kvPrefix, name: args[0], query: url.Values{}, header: http.Header{}, learn: learnByReading}
			if err := cond.apply(cmd, r.header); err != nil {
				return err
			}
			if err := once.apply(cmd, r.header); err != nil {
				return err
			}
			if err := applyTTL(cmd, ttl, r.query); err != nil {
				return err
			}
			if cmd.Flags().Changed("fill-token") {
				if fillToken == "" || strings.Trim(fillToken, "0123456789") != "" {
					return usageError{fmt.Errorf("--fill-token %q is not the token that get --fill told", fillToken)}
				}
				r.header.Set("Larder-Fill", fillToken)
			}
			if returnOld {
				r.query.Set("return", "old")
			}
			if contentType != "" {
				r.header.Set("Content-Type", contentType)
			}
			if len(args) == 2 && args[1] != "-" {
				r.body = []byte(args[1])
			} else {
				var err error
				if r.body, err = readInput(cmd.InOrStdin(), cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			a, err := c.do(cmd.Context(), r)
			if err != nil {
				return err
			}
			replaced := a.status == http.StatusOK && a.header.Get("Larder-Existed") != "" // its value is the body
			if a.status != http.StatusCreated && a.status != http.StatusNoContent && !replaced {
				return refusal(a, true)
			}
			created := a.status == http.StatusCreated
			if c.output == "" {
				done := "replaced"
				if created {
					done = "created"
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s, version %s%s\n", done, version(a), again(a))
				if replaced {
					_, err = cmd.OutOrStdout().Write(a.body)
				}
				return err
			}
			e := entryOf(args[0], a)
			e.add("created", created)
			e.addReplayed(a)
			if replaced {
				e.add("old_content_type", a.header.Get("Content-Type"))
				e.addBytes("old_value", a.body)
			}
			return e.print(cmd.OutOrStdout(), c.output)
		},
	}
	c.flags(cmd.Flags())
	cond.flags(cmd)
	cmd.Flags().BoolVar(&cond.absent, "if-absent", false, "only if there is no entry")
	cmd.Flags().StringVar(&fillToken, "fill-token", "", "only if the key was not written or removed since get --fill told this token")
	cmd.MarkFlagsMutuallyExclusive("if-match", "if-absent", "fill-token")
	once.flags(cmd)
	cmd.Flags().StringVar(&ttl, "ttl", "", "time to live, such as 60s, or none (default: the cluster's)")
	cmd.Flags().BoolVar(&returnOld, "return-old", false, "print the value that was replaced")
	cmd.Flags().StringVar(&contentType, "content-type", "", "media type that readers get with it")
	return cmd
}

// readInput reads a value, and tells a person at a terminal that it is waiting for one.
func readInput(in io.Reader, stderr io.Writer) ([]byte, error) {
	if file, ok := in.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintln(stderr, "reading the value from the terminal, ^D ends it")
		}
	}
	value, err := io.ReadAll(io.LimitReader(in, maxValue+1))
	if err != nil {
		return nil, fmt.Errorf("reading the value: %w", err)
	}
	if len(value) > maxValue {
		return nil, fmt.Errorf("the value has more than %d bytes", maxValue)
	}
	return value, nil
}
