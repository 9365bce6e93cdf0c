package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

func newGetCmd() *cobra.Command {
	var c client
	var consistency string
	var staleness, fill time.Duration
	var touch bool
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Read a value",
		Long: `Read a value: its bytes go to standard output, and nothing else. With -o they are left
to json, and the table tells of the entry alone: also how it was read (probe, log, follower or
local) and, unless the read is linearizable, its age in seconds. With --fill, and nothing there, the first client
to ask is told a token at once; it is to load the value and put it with --fill-token. The others wait for it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.checkKey(args[0]); err != nil {
				return err
			}
			r := request{method: http.MethodGet, path: kvPrefix, name: args[0], query: url.Values{}, header: http.Header{}}
			switch consistency {
			case "linearizable", "bounded", "any":
				r.query.Set("consistency", consistency)
			default:
				return usageError{fmt.Errorf("--consistency %q is not linearizable, bounded or any", consistency)}
			}
			if cmd.Flags().Changed("max-staleness") {
				if consistency != "bounded" {
					return usageError{errors.New("--max-staleness goes with --consistency bounded")}
				}
				if staleness <= 0 {
					return usageError{fmt.Errorf("--max-staleness %s: more than 0", staleness)}
				}
				r.query.Set("max-staleness", staleness.String())
			}
			if cmd.Flags().Changed("fill") {
				if fill <= 0 || fill%time.Millisecond != 0 || fill > maxFill || consistency != "linearizable" {
					return usageError{fmt.Errorf("--fill %s: more than 0, at most %s, in whole milliseconds, and with --consistency linearizable", fill, maxFill)}
				}
				r.query.Set("fill", fill.String())
				r.wait = fill
			}
			if !touch {
				r.query.Set("touch", "false")
			}
			a, err := c.do(cmd.Context(), r)
			if err != nil {
				return err
			}
			if a.status != http.StatusOK {
				err := refusal(a, false)
				if token := a.header.Get("Larder-Fill"); token != "" {
					return exitError{exitCode(err), fmt.Errorf("%w Load the value and put it with --fill-token %s", err, token)}
				}
				return err
			}
			if c.output == "" {
				_, err = cmd.OutOrStdout().Write(a.body)
				return err
			}
			e := entryOf(args[0], a)
			e.addHeader("read", a.header.Get("Larder-Read"))
			e.addHeader("age", a.header.Get("Age"))
			e.add("content_type", a.header.Get("Content-Type"))
			e.add("bytes", len(a.body))
			e.addTTL(a.header.Get("Cache-Status"))
			e.addBytes("value", a.body)
			return e.print(cmd.OutOrStdout(), c.output)
		},
	}
	c.flags(cmd.Flags())
	cmd.Flags().StringVar(&consistency, "consistency", "linearizable", "linearizable, bounded or any")
	cmd.Flags().DurationVar(&fill, "fill", 0, "wait so long for another client that loads a missing value; one is told a token to load it by")
	cmd.Flags().BoolVar(&touch, "touch", true, "count as a use of the entry")
	cmd.Flags().DurationVar(&staleness, "max-staleness", 2*time.Second, "with bounded: how old the answer may be")
	return cmd
}
