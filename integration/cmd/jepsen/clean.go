package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/integration/cluster"
)

func cleanCommand() *cobra.Command {
	return &cobra.Command{
		Use: "clean", Short: "Remove namespaces, mounts and loop devices of runs that were killed", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			removed, err := cluster.Clean()
			for _, what := range removed {
				fmt.Fprintln(c.OutOrStdout(), "removed", what)
			}
			return err
		},
	}
}
