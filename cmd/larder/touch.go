package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func newTouchCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "touch KEY...",
		Short: "Count as a use of entries",
		Long: `Count as a use of entries, so that they are evicted later, without reading them. All keys are tried; where some
have no entry the exit code is 3.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, key := range args {
				if err := c.checkKey(key); err != nil {
					return err
				}
			}
			missing := 0
			for _, key := range args {
				r := request{method: http.MethodPost, path: kvPrefix, name: key, query: url.Values{"op": {"touch"}}, learn: "touch it again, that does no harm"}
				a, err := c.do(cmd.Context(), r)
				if err != nil {
					return err
				}
				touched := a.status == http.StatusNoContent
				if !touched {
					if err := refusal(a, true); exitCode(err) != exitNotFound || len(args) == 1 {
						return err
					}
					missing++
				}
				if c.output == "" {
					if touched {
						fmt.Fprintf(cmd.ErrOrStderr(), "%s: touched\n", cell(key))
					} else {
						fmt.Fprintf(cmd.ErrOrStderr(), "%s: not found\n", cell(key))
					}
					continue
				}
				e := entryOf(key, a)
				e.add("touched", touched)
				if err := e.print(cmd.OutOrStdout(), c.output); err != nil {
					return err
				}
			}
			if missing > 0 {
				return exitError{exitNotFound, fmt.Errorf("%d of %d keys not found", missing, len(args))}
			}
			return nil
		},
	}
	c.flags(cmd.Flags())
	return cmd
}
