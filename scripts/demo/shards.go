package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// leaderOfBusiest returns the shard with the most entries and the node that leads it.
func leaderOfBusiest(ctx context.Context, nodes []*node) (*node, uint64, error) {
	shards, err := led(ctx, nodes)
	if err != nil {
		return nil, 0, err
	}
	busiest := slices.MaxFunc(shards, func(a, b shardInfo) int { return int(a.Items) - int(b.Items) })
	i := slices.IndexFunc(nodes, func(n *node) bool { return n.id == busiest.Leader })
	if i < 0 {
		return nil, 0, fmt.Errorf("shard %d is led by %q, which is none of ours", busiest.ID, busiest.Leader)
	}
	return nodes[i], busiest.ID, nil
}

// settled returns what led does once it has not changed for a moment: nodes tell numbers that are up to
// a second old.
func settled(ctx context.Context, nodes []*node) ([]shardInfo, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last []shardInfo
	for {
		shards, err := led(ctx, nodes)
		if err != nil || slices.Equal(shards, last) {
			return shards, err
		}
		last = shards
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// led waits until each shard has a leader among the nodes that run, and returns all shards, with the numbers that
// their leaders tell.
func led(ctx context.Context, nodes []*node) ([]shardInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if shards, ok := ledNow(ctx, nodes); ok {
			return shards, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, fmt.Errorf("some shard has no leader after %v", readyLimit)
			}
			return nil, ctx.Err()
		}
	}
}

func ledNow(ctx context.Context, nodes []*node) ([]shardInfo, bool) {
	byLeader := map[uint64]shardInfo{}
	count := 0
	for _, n := range nodes {
		if !n.alive() {
			continue
		}
		shards, err := n.shards(ctx)
		if err != nil {
			return nil, false
		}
		count = max(count, len(shards))
		for _, s := range shards {
			if s.Leader == n.id {
				byLeader[s.ID] = s
			}
		}
	}
	var all []shardInfo
	for _, s := range byLeader {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b shardInfo) int { return int(a.ID) - int(b.ID) })
	return all, count > 0 && len(all) == count
}

// keyOf returns a key that belongs to shard.
func keyOf(ctx context.Context, n *node, shard uint64) (string, error) {
	const tries = 10_000
	for i := range tries {
		key := fmt.Sprintf("demo-probe-%d", i)
		_, body, err := n.get(ctx, "/v1/locate/"+key)
		if err != nil {
			return "", err
		}
		var place struct{ Shard uint64 }
		if err := json.Unmarshal(body, &place); err != nil {
			return "", fmt.Errorf("locating a key: %w: %s", err, body)
		}
		if place.Shard == shard {
			return key, nil
		}
	}
	return "", fmt.Errorf("none of %d keys belongs to shard %d", tries, shard)
}
