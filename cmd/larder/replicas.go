package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// replicaCheck is what check replicas found of one replica.
type replicaCheck struct {
	Shard   shard.ID       `json:"shard"`
	Node    string         `json:"node"`
	Role    directory.Role `json:"role"`
	Applied uint64         `json:"applied"`
	Items   uint64         `json:"items"`
	Bytes   uint64         `json:"bytes"`
	Result  string         `json:"result"`

	compared bool
	differs  bool
}

func newCheckReplicasCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "replicas",
		Short: "Compare what the replicas of each shard say of themselves",
		Long: `Compare what the replicas of each shard say of themselves: each member that the leader has must be
up, answer for itself, and have the leader's items and bytes if it has applied the same log index.
Replicas that differ there have diverged: the exit code is 8.

Checksums of the contents are not made by servers yet, so equal numbers are not proof of equal
contents, and the exit code is 1 at best: not all could be compared. To compare contents, stop nodes
and use "larder check data-dir" on their folders.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := checkReplicas(cmd.Context(), &c)
			if err != nil {
				return err
			}
			if c.output == "json" {
				err = printValue(cmd.OutOrStdout(), found)
			} else {
				t := newTable(cmd.OutOrStdout(), "SHARD", "NODE", "ROLE", "APPLIED", "ITEMS", "BYTES", "RESULT")
				for _, r := range found {
					t.row(r.Shard, r.Node, r.Role, r.Applied, r.Items, r.Bytes, oneLine(r.Result))
				}
				err = t.flush()
			}
			if err != nil {
				return err
			}
			missing := 0
			for _, r := range found {
				if r.differs {
					return violationError{fmt.Errorf("shard %d: the replica on %s differs from its leader's at the same index: keep the data folders, stop both nodes, and compare them with \"larder check data-dir\"", r.Shard, r.Node)}
				}
				if !r.compared {
					missing++
				}
			}
			checksums := "these servers make no checksums yet (501), so contents were not compared"
			if a, err := c.fetch(cmd.Context(), "/v1/shards/1/checksum", "", nil); err == nil || a.status != http.StatusNotImplemented {
				checksums = "checksums were not compared, since this version of larder can't read them"
			}
			return fmt.Errorf("%d of %d replicas could not be compared by what they say of themselves; %s: for that, stop nodes and use \"larder check data-dir\"", missing, len(found), checksums)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

// checkReplicas compares all members of all shards, the directory's own first.
func checkReplicas(ctx context.Context, c *client) ([]replicaCheck, error) {
	var table directory.TableView
	if _, err := c.fetch(ctx, "/v1/directory", "", &table); err != nil {
		return nil, err
	}
	ids := []shard.ID{shard.Directory}
	for _, s := range table.Shards {
		ids = append(ids, s.ID)
	}
	found := []replicaCheck{}
	for _, id := range ids {
		number := strconv.FormatUint(uint64(id), 10)
		var v directory.MembersView
		if _, err := c.fetch(ctx, membersPath(number), "", &v); err != nil {
			var exit exitError
			if errors.As(err, &exit) && exit.code == exitUnavailable {
				found = append(found, replicaCheck{Shard: id, Result: "not compared: " + err.Error()})
				continue
			}
			return nil, err
		}
		found = append(found, compareMembers(ctx, c, v, table.Nodes)...)
	}
	return found, nil
}

const (
	// attempts is how often a replica is looked at that differs, or can't be compared yet. A difference
	// counts only if each look finds it.
	attempts = 3
	// betweenAttempts leaves a follower the time to hear what is committed.
	betweenAttempts = 200 * time.Millisecond
)

// compareMembers compares each member with the leader.
func compareMembers(ctx context.Context, c *client, v directory.MembersView, nodes map[string]directory.NodeState) []replicaCheck {
	var found []replicaCheck
	for _, m := range v.Members {
		r := replicaCheck{Shard: v.Shard, Node: m.Node, Role: m.Role}
		different := 0
		for i := range attempts {
			if i > 0 {
				select {
				case <-time.After(betweenAttempts):
				case <-ctx.Done():
				}
			}
			r.compare(ctx, c, v, m, nodes)
			if r.differs {
				different++
			}
			if r.compared && !r.differs || m.State != directory.NodeUp || ctx.Err() != nil {
				break
			}
		}
		if r.differs && different < attempts {
			r.compared, r.differs, r.Result = false, false, "not compared: it changes too fast"
		}
		found = append(found, r)
	}
	return found
}

// compare asks the leader, the member, and the leader again: only what both had at one and the same
// applied index, unchanged around the member's answer, can be compared.
func (r *replicaCheck) compare(ctx context.Context, c *client, v directory.MembersView, m directory.MemberDetail, nodes map[string]directory.NodeState) {
	r.compared, r.differs = false, false
	fail := func(format string, args ...any) { r.Result = "not compared: " + fmt.Sprintf(format, args...) }
	if m.State != directory.NodeUp {
		fail("the node is %s", m.State)
		return
	}
	var seen [4]directory.ShardDetail
	for i, node := range []string{v.Leader, m.Node, m.Node, v.Leader} {
		if _, err := c.at(nodes[node].HTTP).fetch(ctx, "/v1/shards/", strconv.FormatUint(uint64(v.Shard), 10), &seen[i]); err != nil {
			fail("%s: %v", node, err)
			return
		}
		if seen[i].Source != node {
			fail("%s does not answer for a replica of its own", node)
			return
		}
	}
	leader, own := seen[0], seen[1]
	r.Applied, r.Items, r.Bytes = own.Applied, own.Items, own.Bytes
	same := func(a, b directory.ShardDetail) bool {
		return a.Applied == b.Applied && a.Items == b.Items && a.Bytes == b.Bytes
	}
	switch {
	case own.Conf != v.Conf || leader.Conf != v.Conf:
		fail("%s knows the conf version %s, the leader has %s", m.Node, own.Conf, v.Conf)
	case !same(seen[0], seen[3]) || !same(seen[1], seen[2]):
		fail("it changes too fast")
	case own.Applied != leader.Applied:
		fail("it has applied %d, the leader %d", own.Applied, leader.Applied)
	default:
		r.compared, r.differs = true, !same(own, leader)
		r.Result = "same numbers as the leader"
		if r.differs {
			r.Result = fmt.Sprintf("DIFFERS: the leader has %d items, %d bytes", leader.Items, leader.Bytes)
		}
	}
}
