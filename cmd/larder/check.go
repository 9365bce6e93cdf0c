package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/shard"
)

func newCheckCmd() *cobra.Command {
	return newGroup("check", "Check data for damage and divergence", newCheckDataDirCmd(), newCheckReplicasCmd())
}

func newCheckDataDirCmd() *cobra.Command {
	var at []string
	var output string
	cmd := &cobra.Command{
		Use:   "data-dir DIR",
		Short: "Check the data folder of a node that does not run",
		Long: `Check the data folder of a node that does not run: that its parts are there, that snapshots, log entries and
records have their checksums, and that the log of each data shard can be replayed over its newest snapshot.
It prints the checksum of the state that this gives. All replicas of a shard have the same one at
the same index: compare them with --at SHARD=INDEX, at an index that all of them have committed.

What is damaged is what keeps a replica from running; the cluster makes it anew by itself where the others have a quorum.
A replica that has stopped, since its state was not that of the others, is told too.

The exit code is 8 for damage and for such a replica, and 1 when the data ends before an index of --at.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			indexes, err := parseIndexes(at)
			if err != nil {
				return usageError{err}
			}
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("-o %q is not table or json", output)}
			}
			found, damage := shard.Inspect(args[0], indexes)
			if len(found) == 0 && damage != nil {
				if errors.Is(damage, shard.ErrDataLost) {
					return violationError{damage}
				}
				return damage // it could not be looked at
			}
			for _, id := range slices.Sorted(maps.Keys(indexes)) {
				if !slices.ContainsFunc(found, func(i shard.Inspection) bool { return i.Shard == id }) {
					return usageError{fmt.Errorf("--at %d=%d: %s has no replica of shard %d", id, indexes[id], args[0], id)}
				}
			}
			out := cmd.OutOrStdout()
			switch output {
			case "json":
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				if err := e.Encode(found); err != nil {
					return err
				}
			default:
				w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "SHARD\tREPLICA\tSNAPSHOT\tLOG\tAPPLIED\tENTRIES\tBYTES\tCHECKSUM")
				for _, i := range found {
					sum := i.Checksum
					if i.Error != "" {
						sum = "error: " + i.Error
					}
					if i.Diverged != "" {
						sum += " (has stopped: " + i.Diverged + ")"
					}
					fmt.Fprintf(w, "%d\t%s\t%d\t%d-%d\t%d\t%d\t%d\t%s\n", i.Shard, i.Replica, i.SnapshotIndex, i.FirstIndex, i.LastIndex, i.Applied, i.Entries, i.Bytes, sum)
				}
				if err := w.Flush(); err != nil {
					return err
				}
			}
			switch {
			case damage == nil && !slices.ContainsFunc(found, func(i shard.Inspection) bool { return i.Diverged != "" }):
				return nil
			case damage == nil:
				return violationError{errors.New("a replica has stopped, since its state was not that of the others")}
			case beyondEnd(args[0], indexes, found):
				return damage
			}
			return violationError{damage}
		},
	}
	cmd.Flags().StringArrayVar(&at, "at", nil, "SHARD=INDEX: stop at this log index (repeatable)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// beyondEnd reports whether all that is wrong with found, inspected at the given indexes, is that
// these lie after the end of the data, which is sound by itself.
func beyondEnd(dir string, at map[shard.ID]uint64, found []shard.Inspection) bool {
	if len(at) == 0 {
		return false
	}
	whole, damage := shard.Inspect(dir, nil)
	if damage != nil {
		return false
	}
	end := map[string]uint64{}
	for _, i := range whole {
		end[i.Replica] = i.At
	}
	return !slices.ContainsFunc(found, func(i shard.Inspection) bool {
		return i.Error != "" && at[i.Shard] <= end[i.Replica]
	})
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
