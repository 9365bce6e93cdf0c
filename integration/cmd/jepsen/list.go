package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/integration/nemesis"
	"github.com/larder-cache/larder/integration/workload"
)

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List workloads and faults", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "workloads: %s\n\n", strings.Join(workload.Names(), " "))
			fmt.Fprintf(w, "FAULT\tCLASS\tWEIGHT\tNEEDS\t\n")
			for _, f := range nemesis.Faults() {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", f.Name, f.Class, f.Weight, f.Needs, f.About)
			}
			return w.Flush()
		},
	}
}
