package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

func newCheckReplicasCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "replicas",
		Short: "Compare the contents of all replicas of each data shard",
		Long: `Compare the contents of all replicas of each data shard, while they serve: the leader logs a mark,
and each replica tells the checksum of the state that it had right there. The leader does so by itself
every few seconds, while a shard is in use; a replica that differs from the majority stops to serve,
and is replaced by a new one. Where no majority agrees all replicas of the shard stop.

The exit code is 0 when the replicas of each shard are equal, 8 when some differ, and 1 when none
differ but not all could be compared, as where a node is down.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := checkReplicas(cmd.Context(), &c)
			if err != nil {
				return err
			}
			if c.output == "json" {
				err = printValue(cmd.OutOrStdout(), found)
			} else {
				t := newTable(cmd.OutOrStdout(), "SHARD", "INDEX", "NODE", "REPLICA", "CHECKSUM")
				for _, v := range found {
					for _, r := range v.Replicas {
						sum := r.Checksum
						switch {
						case r.Diverged && sum != "":
							sum += " diverged"
						case r.Diverged:
							sum = oneLine("stopped: " + r.Error)
						case r.Error != "":
							sum = oneLine("not compared: " + r.Error)
						}
						t.row(v.Shard, v.Index, r.Node, r.Replica, sum)
					}
				}
				err = t.flush()
			}
			if err != nil {
				return err
			}
			return verdict(found)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

// checkReplicas asks for the checksums of each data shard. What can't be asked for is in the view's one
// line.
func checkReplicas(ctx context.Context, c *client) ([]directory.ChecksumView, error) {
	var table directory.TableView
	if _, err := c.fetch(ctx, "/v1/directory", "", &table); err != nil {
		return nil, err
	}
	found := []directory.ChecksumView{}
	for _, s := range table.Shards {
		v := directory.ChecksumView{}
		if _, err := c.fetch(ctx, "/v1/shards/"+strconv.FormatUint(uint64(s.ID), 10)+"/checksum", "", &v); err != nil {
			var exit exitError
			if !errors.As(err, &exit) || exit.code != exitUnavailable {
				return nil, err
			}
			v = directory.ChecksumView{Replicas: []directory.ReplicaChecksum{{Error: err.Error()}}}
		}
		v.Shard = s.ID
		found = append(found, v)
	}
	return found, nil
}

// verdict is nil when all are equal.
func verdict(found []directory.ChecksumView) error {
	missing, all := 0, 0
	for _, v := range found {
		first := ""
		for _, r := range v.Replicas {
			all++
			switch {
			case r.Diverged && r.Checksum == "":
				return violationError{fmt.Errorf("the replica of shard %d on %s has stopped, since its state differed: it is replaced where a majority agrees, see \"larder operation list\"", v.Shard, r.Node)}
			case r.Error != "":
				missing++
			case first == "":
				first = r.Checksum
			case r.Checksum != first:
				return violationError{fmt.Errorf("the replicas of shard %d differ at index %d: keep the data folders, and compare them with \"larder check data-dir --at %d=%d\" once their nodes are stopped", v.Shard, v.Index, v.Shard, v.Index)}
			}
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d replicas could not be compared; none of the others differ. \"larder status\" tells which nodes are down", missing, all)
	}
	return nil
}
