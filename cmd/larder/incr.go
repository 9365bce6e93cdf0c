package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

func newIncrCmd() *cobra.Command {
	var c client
	var cond condition
	var once idempotency
	var ttl string
	cmd := &cobra.Command{
		Use:   "incr KEY [BY]",
		Short: "Add to a number",
		Long: `Add BY (default 1) to the decimal integer under a key, and print the sum. An absent key counts as 0 and is
created, with --ttl; an entry that is there keeps its time to live. For a negative BY: larder incr -- KEY -5.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.checkKey(args[0]); err != nil {
				return err
			}
			r := request{method: http.MethodPost, path: kvPrefix, name: args[0], query: url.Values{"op": {"incr"}}, header: http.Header{}, learn: learnByReading}
			if len(args) == 2 {
				if _, err := strconv.ParseInt(args[1], 10, 64); err != nil {
					return usageError{fmt.Errorf("BY %q is not an integer of 64 bits", args[1])}
				}
				r.query.Set("by", args[1])
			}
			if err := cond.apply(cmd, r.header); err != nil {
				return err
			}
			if err := once.apply(cmd, r.header); err != nil {
				return err
			}
			if err := applyTTL(cmd, ttl, r.query); err != nil {
				return err
			}
			a, err := c.do(cmd.Context(), r)
			if err != nil {
				return err
			}
			if a.status != http.StatusOK && a.status != http.StatusNoContent || a.header.Get("Larder-Shard") == "" {
				return refusal(a, true)
			}
			if c.output == "" {
				if note := again(a); note != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "done%s\n", note)
				}
				if a.status == http.StatusOK {
					fmt.Fprintf(cmd.OutOrStdout(), "%s\n", a.body)
				}
				return nil
			}
			e := entryOf(args[0], a)
			e.addReplayed(a)
			if a.status == http.StatusOK {
				e.add("value", string(a.body))
			}
			return e.print(cmd.OutOrStdout(), c.output)
		},
	}
	c.flags(cmd.Flags())
	cond.flags(cmd)
	once.flags(cmd)
	cmd.Flags().StringVar(&ttl, "ttl", "", "time to live of an entry that this creates, such as 60s, or none (default: the cluster's)")
	return cmd
}
