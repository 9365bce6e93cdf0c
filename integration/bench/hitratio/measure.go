package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// result is what one trace came to at one size: percent of accesses that were hits.
type result struct {
	trace string
	share float64
	limit uint64 // bytes

	exact, ours, failover, forgotten, fifo, shards float64

	refused       int // accesses that found an entry above an eighth of the limit
	shardsRefused int
}

var resultHeader = []string{"trace", "size", "bytes", "exact LRU", "one shard", "one shard, failover", "forgotten at failover", "FIFO", "8 shards"}

func (x result) row() []string {
	percent := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	return []string{x.trace, fmt.Sprintf("%g %%", 100*x.share), fmt.Sprint(x.limit), percent(x.exact), percent(x.ours),
		percent(x.failover), percent(x.forgotten), percent(x.fifo), percent(x.shards)}
}

// series are the ratios of a result by name, as the plot shows them.
func (x result) series() []float64 {
	return []float64{x.exact, x.ours, x.failover, x.forgotten, x.fifo, x.shards}
}

func difference(a, b float64) float64 { return math.Abs(a - b) }

// shardsOfMany is how many shards the cluster as a whole has.
const shardsOfMany = 8

// measure replays a trace in a share of its bytes.
func measure(ctx context.Context, tr trace, share float64) (result, error) {
	limit := uint64(share * float64(tr.total()))
	res := result{trace: tr.name, share: share, limit: limit}
	half, percent := len(tr.keys)/2, func(hits int) float64 { return 100 * float64(hits) / float64(len(tr.keys)) }

	exact, forgotten, fifo := newLRU(limit), newLRU(limit), newLRU(limit)
	fifo.fifo = true
	for i, key := range tr.keys {
		if i == half {
			forgotten.forget()
		}
		c := cost(key)
		exact.access(key, c)
		forgotten.access(key, c)
		fifo.access(key, c)
	}
	res.exact, res.forgotten, res.fifo = percent(exact.hits), percent(forgotten.hits), percent(fifo.hits)
	res.refused = exact.refused

	for _, run := range []struct {
		shards, killAt int
		ratio          *float64
		refused        *int
	}{
		{1, -1, &res.ours, new(int)},
		{1, half, &res.failover, new(int)},
		{shardsOfMany, -1, &res.shards, &res.shardsRefused},
	} {
		p, err := replay(ctx, tr, run.shards, limit, run.killAt)
		if err != nil {
			return res, err
		}
		*run.ratio, *run.refused = percent(p.hits), p.refused
		// A refusal that the exact LRU does not see would make the two incomparable.
		if run.shards == 1 && p.hits == exact.hits && p.refused != exact.refused {
			return res, fmt.Errorf("%d puts refused, %d by the exact LRU", p.refused, exact.refused)
		}
	}
	return res, nil
}

// played is what a replay counted.
type played struct{ hits, refused int }

// replay replays a trace against a new cluster, one access after the other. Before access killAt the
// leader of the first shard dies; -1: nobody does.
func replay(ctx context.Context, tr trace, shards int, limit uint64, killAt int) (p played, err error) {
	c, err := startCluster(ctx, shards, limit)
	if err != nil {
		return p, err
	}
	defer c.close()
	value := make([]byte, largestValue)
	for i, key := range tr.keys {
		if i == killAt {
			if err := c.killLeader(1); err != nil {
				return p, err
			}
		}
		r, err := c.do(ctx, shard.Request{Op: shard.OpGet, Key: []byte(key)})
		if err != nil {
			return p, err
		}
		if r.Found {
			if len(r.Value) != valueSize(key) {
				return p, fmt.Errorf("key %q has a value of %d bytes, want %d", key, len(r.Value), valueSize(key))
			}
			p.hits++
			continue
		}
		r, err = c.do(ctx, shard.Request{Op: shard.OpPut, Key: []byte(key), Value: value[:valueSize(key)]})
		if err != nil {
			return p, err
		}
		switch r.Status {
		case fsm.StatusOK:
		case fsm.StatusTooLarge:
			p.refused++
		default:
			return p, fmt.Errorf("put of %q: status %d", key, r.Status)
		}
	}
	var bytes uint64
	for _, s := range c.leaderStats() {
		bytes += s.Bytes
		if s.Bytes > s.Limit {
			return p, errors.New("a shard holds more than its limit")
		}
	}
	if bytes > limit {
		return p, fmt.Errorf("the shards hold %d bytes of %d", bytes, limit)
	}
	return p, nil
}
