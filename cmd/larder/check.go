package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/shard"
)

func newCheckCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Check data for damage and divergence"}
	cmd.AddCommand(newCheckDataDirCmd())
	return cmd
}

func newCheckDataDirCmd() *cobra.Command {
	var at []string
	var output string
	cmd := &cobra.Command{
		Use:   "data-dir DIR",
		Short: "Check the data folder of a node that does not run",
		Long: `Check the data folder of a node that does not run: replays the log of each data shard over its
newest snapshot and prints the checksum of the state. Replicas of a shard have the same
checksum at the same index: compare them with --at SHARD=INDEX.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			indexes, err := parseIndexes(at)
			if err != nil {
				return usageError{err}
			}
			found, damage := shard.Inspect(args[0], indexes)
			if len(found) == 0 && damage != nil {
				return damage
			}
			out := cmd.OutOrStdout()
			switch output {
			case "json":
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				if err := e.Encode(found); err != nil {
					return err
				}
			case "table":
				w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "SHARD\tREPLICA\tSNAPSHOT\tLOG\tAPPLIED\tENTRIES\tBYTES\tCHECKSUM")
				for _, i := range found {
					sum := i.Checksum
					if i.Error != "" {
						sum = "error: " + i.Error
					}
					fmt.Fprintf(w, "%d\t%s\t%d\t%d-%d\t%d\t%d\t%d\t%s\n", i.Shard, i.Replica, i.SnapshotIndex, i.FirstIndex, i.LastIndex, i.Applied, i.Entries, i.Bytes, sum)
				}
				if err := w.Flush(); err != nil {
					return err
				}
			default:
				return usageError{fmt.Errorf("-o %q is not table or json", output)}
			}
			if damage != nil {
				return violationError{damage}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&at, "at", nil, "SHARD=INDEX: stop at this log index (repeatable)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func parseIndexes(at []string) (map[shard.ID]uint64, error) {
	indexes := map[shard.ID]uint64{}
	for _, a := range at {
		s, i, ok := strings.Cut(a, "=")
		id, err1 := strconv.ParseUint(s, 10, 64)
		index, err2 := strconv.ParseUint(i, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("--at %q is not SHARD=INDEX", a)
		}
		indexes[shard.ID(id)] = index
	}
	return indexes, nil
}
