package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

func newDelCmd() *cobra.Command {
	var c client
	var cond condition
	var once idempotency
	cmd := &cobra.Command{
		Use:   "del KEY",
		Short: "Remove a key",
		Long:  `Remove a key. It is no error that it is absent.`,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.checkKey(args[0]); err != nil {
				return err
			}
			r := request{method: http.MethodDelete, path: kvPrefix, name: args[0], header: http.Header{}, learn: learnByReading}
			if err := cond.apply(cmd, r.header); err != nil {
				return err
			}
			if err := once.apply(cmd, r.header); err != nil {
				return err
			}
			a, err := c.do(cmd.Context(), r)
			if err != nil {
				return err
			}
			if a.status != http.StatusNoContent {
				return refusal(a, true)
			}
			existed := a.header.Get("Larder-Existed") == "?1"
			if c.output == "" {
				done := "was absent"
				if existed {
					done = "removed"
				}
				fmt.Fprintln(cmd.ErrOrStderr(), done+again(a))
				return nil
			}
			e := entryOf(args[0], a)
			e.add("existed", existed)
			e.addReplayed(a)
			return e.print(cmd.OutOrStdout(), c.output)
		},
	}
	c.flags(cmd.Flags())
	cond.flags(cmd)
	once.flags(cmd)
	return cmd
}
