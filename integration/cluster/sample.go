package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/larder-cache/larder/integration/history"
)

// Samples returns what the node says of its own replicas, the directory's (shard 0) included. Their time is left to the caller.
func (n *Node) Samples(ctx context.Context) ([]history.Sample, error) {
	var directory Replica
	if err := n.get(ctx, "/v1/shards/0", &directory); err != nil {
		return nil, err
	}
	data, err := n.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	var samples []history.Sample
	for _, r := range append([]Replica{directory}, data...) {
		i := slices.IndexFunc(r.Members, func(m struct{ Node, Role string }) bool { return m.Node == n.ID })
		if i < 0 || r.Source != n.ID {
			continue // it hosts none, and tells of another's
		}
		role := r.Members[i].Role
		if r.Leader == n.ID {
			role = "leader"
		}
		text, _, _ := strings.Cut(r.Conf, "-")
		generation, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: shard %d of %s has the configuration %q", ErrInterface, r.ID, n.ID, r.Conf)
		}
		samples = append(samples, history.Sample{
			Node: n.ID, Shard: r.ID, Role: role, Generation: generation, Term: r.Term, Leader: r.Leader, Applied: r.Applied, Commit: r.Commit,
			Entries: r.Items, Bytes: r.Bytes, Evicted: r.Evictions,
		})
	}
	return samples, nil
}

// Checksums lets the node compare the replicas of a data shard at one place of its log, and returns a sample of each. It fails when
// they differ, or one of them did not say.
func (n *Node) Checksums(ctx context.Context, shard uint64) ([]history.Sample, error) {
	var c struct {
		Index    uint64
		Equal    bool
		Replicas []struct{ Node, Checksum, Error string }
	}
	if err := n.get(ctx, fmt.Sprintf("/v1/shards/%d/checksum", shard), &c); err != nil {
		return nil, err
	}
	var samples []history.Sample
	silent := len(c.Replicas) == 0
	for _, r := range c.Replicas {
		silent = silent || r.Checksum == ""
		samples = append(samples, history.Sample{Node: r.Node, Shard: shard, Applied: c.Index, Commit: c.Index, Checksum: r.Checksum})
	}
	if !c.Equal || silent {
		return samples, fmt.Errorf("the replicas of shard %d are not equal at index %d: %+v", shard, c.Index, c.Replicas)
	}
	return samples, nil
}
