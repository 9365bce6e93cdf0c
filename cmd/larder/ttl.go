package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// noTTL is how a person asks for an entry without end, and is told of one.
const noTTL = "none"

// parseTTL reads a time to live, 0 for none.
func parseTTL(text string) (time.Duration, error) {
	if text == noTTL {
		return 0, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl <= 0 || ttl%time.Millisecond != 0 {
		return 0, usageError{fmt.Errorf("the time to live %q is not a duration such as 60s, more than 0 and in whole milliseconds, or %s", text, noTTL)}
	}
	return ttl, nil
}

// applyTTL sets the parameter of a write from its flag --ttl, if that was given.
func applyTTL(cmd *cobra.Command, text string, query url.Values) error {
	if !cmd.Flags().Changed("ttl") {
		return nil
	}
	ttl, err := parseTTL(text)
	if err != nil {
		return err
	}
	if ttl == 0 {
		query.Set("ttl", noTTL)
	} else {
		query.Set("ttl", ttl.String())
	}
	return nil
}

func newTTLCmd() *cobra.Command {
	var c client
	var cond condition
	var once idempotency
	cmd := &cobra.Command{
		Use:   "ttl KEY [DURATION|none]",
		Short: "Show or change a time to live",
		Long: `Show how long an entry still lives, in whole seconds, or none where it has no end; that does not count as
a use of it. With DURATION it lives that long from now on, with none until it is removed.`,
		Args:      cobra.RangeArgs(1, 2),
		ValidArgs: []string{noTTL},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.checkKey(args[0]); err != nil {
				return err
			}
			r := request{method: http.MethodGet, path: kvPrefix, name: args[0], query: url.Values{"touch": {"false"}}, header: http.Header{}}
			good := http.StatusOK
			if len(args) == 1 && (cmd.Flags().Changed("if-match") || cmd.Flags().Changed("idempotency-key")) {
				return usageError{fmt.Errorf("--if-match and --idempotency-key are for a change: DURATION is missing")}
			}
			if len(args) == 2 {
				ttl, err := parseTTL(args[1])
				if err != nil {
					return err
				}
				var value any
				if ttl != 0 {
					value = ttl.String()
				}
				r.method, r.query, r.learn, good = http.MethodPatch, nil, "look at it again with larder ttl", http.StatusNoContent
				r.header.Set("Content-Type", "application/merge-patch+json")
				if r.body, err = json.Marshal(map[string]any{"ttl": value}); err != nil {
					return err
				}
				if err := cond.apply(cmd, r.header); err != nil {
					return err
				}
				if err := once.apply(cmd, r.header); err != nil {
					return err
				}
			}
			a, err := c.do(cmd.Context(), r)
			if err != nil {
				return err
			}
			if a.status != good || a.header.Get("Larder-Shard") == "" {
				return refusal(a, r.write())
			}
			e := entryOf(args[0], a)
			if r.write() {
				e.addReplayed(a)
				if c.output == "" {
					fmt.Fprintln(cmd.ErrOrStderr(), "changed"+again(a))
					return nil
				}
				return e.print(cmd.OutOrStdout(), c.output)
			}
			left := noTTL
			if seconds := ttlLeft(a.header.Get("Cache-Status")); seconds != "" {
				left = seconds + "s"
			}
			if c.output == "" {
				fmt.Fprintln(cmd.OutOrStdout(), left)
				return nil
			}
			e.add("ttl", left)
			return e.print(cmd.OutOrStdout(), c.output)
		},
	}
	c.flags(cmd.Flags())
	cond.flags(cmd)
	once.flags(cmd)
	return cmd
}

// ttlLeft is the time to live in seconds that a hit's Cache-Status tells (RFC 9211), "" for none.
func ttlLeft(cacheStatus string) string {
	for parameter := range strings.SplitSeq(cacheStatus, ";") {
		if seconds, ok := strings.CutPrefix(strings.TrimSpace(parameter), "ttl="); ok {
			return seconds
		}
	}
	return ""
}
