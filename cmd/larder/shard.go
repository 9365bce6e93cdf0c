package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

func newShardCmd() *cobra.Command {
	return newGroup("shard", "Look at shards, hand leaderships over, recover lost ones", newShardListCmd(), newShardShowCmd(), newShardChecksumCmd(), newTransferLeaderCmd(), newRecoverCmd())
}

func newShardListCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the data shards",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list struct{ Shards []directory.ShardDetail }
			a, err := c.fetch(cmd.Context(), "/v1/shards", "", &list)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			return printShards(cmd.OutOrStdout(), list.Shards)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newShardShowCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one shard; 0 is the directory",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseShard(args[0])
			if err != nil {
				return err
			}
			var s directory.ShardDetail
			a, err := c.fetch(cmd.Context(), "/v1/shards/", id, &s)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			if err := printShards(cmd.OutOrStdout(), []directory.ShardDetail{s}); err != nil || s.Sizing == nil {
				return err
			}
			return printSizing(cmd.OutOrStdout(), s)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newTransferLeaderCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "transfer-leader ID NODE",
		Short: "Hand the leadership of a shard to one of its voters",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseShard(args[0])
			if err != nil {
				return err
			}
			node, err := parseNode(args[1])
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]string{"node": node})
			if err != nil {
				return err
			}
			r := request{
				method: http.MethodPut, path: "/v1/shards/" + id + "/leader", body: body,
				header: http.Header{"Content-Type": {"application/json"}},
				learn:  fmt.Sprintf("\"larder member list %s\" shows who leads", id),
			}
			if _, err := c.change(cmd.Context(), r, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s leads shard %s\n", node, id)
			return nil
		},
	}
	c.connectionFlags(cmd.Flags())
	return cmd
}

func printShards(w io.Writer, shards []directory.ShardDetail) error {
	t := newTable(w, "SHARD", "SLOTS", "EPOCH", "CONF", "LEADER", "MEMBERS", "TERM", "APPLIED", "ITEMS", "BYTES", "LIMIT", "HITS", "MISSES", "EVICTIONS")
	for _, s := range shards {
		t.row(s.ID, slots(s), s.Epoch, s.Conf, s.Leader, members(s), s.Term, s.Applied, s.Items, size(s.Bytes), limit(s), s.Hits, s.Misses, s.Evictions)
	}
	return t.flush()
}

// printSizing shows what more memory would have done for the last minutes' reads.
func printSizing(w io.Writer, s directory.ShardDetail) error {
	fmt.Fprintf(w, "\nReads of node %s, the last minutes', by memory:\n", s.Source)
	t := newTable(w, "MEMORY", "HIT-RATIO")
	for _, r := range []struct {
		memory string
		ratio  float64
	}{{"as it is", s.Sizing.HitRatio}, {"+25 %", s.Sizing.Plus25}, {"+50 %", s.Sizing.Plus50}, {"+100 %", s.Sizing.Plus100}} {
		t.row(r.memory, fmt.Sprintf("%.1f %%", 100*r.ratio))
	}
	return t.flush()
}

func slots(s directory.ShardDetail) string {
	if s.End == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", s.Start, s.End-1)
}

// members names those of a shard, with a word for those that don't vote.
func members(s directory.ShardDetail) string {
	names := make([]string, len(s.Members))
	for i, m := range s.Members {
		names[i] = m.Node
		if m.Role != directory.RoleVoter {
			names[i] += "(" + string(m.Role) + ")"
		}
	}
	return strings.Join(names, ",")
}

// limit is what a shard may hold; the directory has none.
func limit(s directory.ShardDetail) string {
	if s.Limit == 0 {
		return ""
	}
	return size(s.Limit)
}
