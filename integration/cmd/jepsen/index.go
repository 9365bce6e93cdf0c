package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/integration/report"
)

func indexCommand() *cobra.Command {
	return &cobra.Command{
		Use: "index DIR", Short: "Write DIR/index.html over all runs whose folders lie in DIR", Args: cobra.ExactArgs(1),
		Long: "Write DIR/index.html over all runs whose folders lie in DIR: their verdicts, what these rest on, and links to their reports.\n" +
			"Runs with a seeded bug are listed and do not count. A run without a report gets one by jepsen check.",
		RunE: func(c *cobra.Command, args []string) error {
			runs, err := filepath.Glob(filepath.Join(args[0], "*", "run.json"))
			if err != nil {
				return err
			}
			if len(runs) == 0 {
				return fmt.Errorf("no run lies in %s", args[0])
			}
			dirs := make([]string, len(runs))
			for i, run := range runs {
				dirs[i] = filepath.Dir(run)
			}
			sums, err := report.Index(args[0], dirs...)
			if sums != "" {
				fmt.Fprintf(c.OutOrStdout(), "%s\n%s\n", sums, filepath.Join(args[0], "index.html"))
			}
			return err
		},
	}
}
