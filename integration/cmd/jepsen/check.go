package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/report"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check DIR", Short: "Check a recorded run again, and write its report anew", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := history.ReadRun(args[0])
			if err != nil {
				return err
			}
			verdict, err := judge(args[0], r, c.OutOrStdout())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", verdict, args[0])
			return asError(verdict)
		},
	}
}

// keyTime bounds the search for an order of one key's operations.
const keyTime = 10 * time.Second

// What a run must reach to prove anything is recorded among the flags of its history.Meta, so that a later check asks
// for the same.
const (
	leastRate   = "least-rate"
	leastFaults = "least-faults"
)

// shownKeys is how many keys that are wrong, or undecided, get a page.
const shownKeys = 20

// writePages writes a page for each key that is wrong or undecided.
func writePages(dir string, r *history.Run, v check.Report, o check.Options) error {
	keys := v.BadKeys()
	if len(keys) == 0 {
		return nil
	}
	pages := filepath.Join(dir, "linearizability")
	if err := os.MkdirAll(pages, 0o755); err != nil {
		return err
	}
	for i, key := range keys[:min(shownKeys, len(keys))] {
		f, err := os.Create(filepath.Join(pages, fmt.Sprintf("%d-%s.html", i+1, strings.ReplaceAll(key, "/", "-"))))
		if err != nil {
			return err
		}
		if err := errors.Join(check.Page(f, r, key, o), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// judge checks a run, writes verdict and report to its folder, and shows what matters.
func judge(dir string, r *history.Run, say io.Writer) (check.Verdict, error) {
	o := check.Options{KeyLimit: keyTime}
	var err error
	if o.LeastRate, err = strconv.ParseFloat(r.Meta.Flags[leastRate], 64); err != nil {
		return "", fmt.Errorf("%s: %w", leastRate, err)
	}
	if o.LeastFaults, err = strconv.Atoi(r.Meta.Flags[leastFaults]); err != nil {
		return "", fmt.Errorf("%s: %w", leastFaults, err)
	}
	v := check.Run(r, o)
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "verdict.json"), append(data, '\n'), 0o644); err != nil {
		return "", err
	}
	if err := writePages(dir, r, v, o); err != nil {
		return "", fmt.Errorf("the pages of keys: %w", err)
	}
	if err := report.Write(dir, r, v); err != nil {
		return "", fmt.Errorf("the report: %w", err)
	}
	for _, c := range v.Checks {
		if c.Checked == 0 && c.Verdict == check.Valid {
			continue // it had nothing to say
		}
		fmt.Fprintf(say, "  %-14s %-10s %7d checked  %s\n", c.Name, c.Verdict, c.Checked, c.Detail)
	}
	const shown = 3
	for i, violation := range v.Violations {
		if i == shown {
			fmt.Fprintf(say, "and %d violations more\n", len(v.Violations)-shown)
			break
		}
		fmt.Fprintln(say, violation)
	}
	for _, failure := range r.Failures {
		fmt.Fprintln(say, "failure:", failure)
	}
	return v.Verdict(), nil
}
