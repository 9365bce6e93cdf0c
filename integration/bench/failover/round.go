package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/larder-cache/larder/integration/bench/local"
	"github.com/larder-cache/larder/integration/cluster"
)

// fault is one way to lose a node.
type fault struct {
	name string
	goal time.Duration // for the median of the rounds
	hurt func(*cluster.Cluster, *cluster.Node) error
	heal func(*cluster.Cluster, *cluster.Node) error
}

var allFaults = []fault{
	{
		name: "kill", goal: 2 * time.Second,
		hurt: func(_ *cluster.Cluster, n *cluster.Node) error { return n.Kill() },
		heal: func(_ *cluster.Cluster, n *cluster.Node) error { return n.Start() },
	},
	{
		name: "stop", goal: 3 * time.Second,
		hurt: func(_ *cluster.Cluster, n *cluster.Node) error { return n.Pause() },
		heal: func(_ *cluster.Cluster, n *cluster.Node) error { return n.Resume() },
	},
	{
		name: "cut", goal: 3 * time.Second,
		hurt: func(c *cluster.Cluster, n *cluster.Node) error { return c.Links.Isolate(n.ID) },
		heal: func(c *cluster.Cluster, _ *cluster.Node) error { return c.Links.Heal() },
	},
}

// bench is a cluster that is hurt again and again.
type bench struct {
	cfg     config
	cluster *cluster.Cluster
	keys    []key
}

// key is what one client writes to.
type key struct {
	name  string
	shard uint64
}

// start starts the nodes, and finds keys for all clients.
func start(ctx context.Context, cfg config, dir string) (b *bench, err error) {
	c, err := cluster.Open(cluster.Config{
		Binary: cfg.binary, Dir: dir, Shards: cfg.shards, Net: cfg.net, Args: cfg.args,
		Limit: time.Duration(3*cfg.rounds*len(cfg.faults)+2) * cfg.limit, // more than all waits together
	})
	if err != nil {
		return nil, err
	}
	b = &bench{cfg: cfg, cluster: c}
	if err := c.StartAll(ctx, cfg.limit); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := b.findKeys(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return b, nil
}

// findKeys gives each client a key of its own, and each shard as many as another, but for one.
func (b *bench) findKeys(ctx context.Context) error {
	const tries = 10_000
	count := map[uint64]int{}
	most := (b.cfg.writers + b.cfg.shards - 1) / b.cfg.shards
	for n := 0; len(b.keys) < b.cfg.writers; n++ {
		if n == tries {
			return fmt.Errorf("no keys for %d clients", b.cfg.writers)
		}
		name := fmt.Sprintf("failover-%d", n)
		at, err := b.cluster.Nodes[0].Locate(ctx, name)
		if err != nil {
			return err
		}
		if count[at.Shard] < most {
			count[at.Shard]++
			b.keys = append(b.keys, key{name, at.Shard})
		}
	}
	if len(count) < b.cfg.shards {
		return fmt.Errorf("keys in %d of %d shards", len(count), b.cfg.shards)
	}
	return nil
}

// round loses the node that leads most shards, waits until all that it led were written to again, and undoes the fault.
func (b *bench) round(ctx context.Context, f fault, number int) (l loss, err error) {
	w := b.startWriters(ctx)
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := b.whole(ctx, w.tally); err != nil {
		return l, err
	}
	victim, affected := busiest(w.tally.leaders(), b.cluster.Nodes, number)
	l = loss{Fault: f.name, Round: number, Node: victim.ID, Rate: w.tally.rate(w.clock.Now())}

	back := w.tally.begin(victim.ID, affected, w.clock)
	if err := f.hurt(b.cluster, victim); err != nil {
		return l, err
	}
	w.tally.complete(w.clock)
	limited, cancel := context.WithTimeout(ctx, b.cfg.limit)
	defer cancel()
	select {
	case <-back:
	case <-limited.Done():
	}
	var missing []uint64
	if l.Shards, missing, err = w.tally.end(); err != nil {
		return l, err
	}
	if len(missing) > 0 {
		return l, fmt.Errorf("no write to the shards %d of %s in %s: %w", missing, victim.ID, b.cfg.limit, limited.Err())
	}
	return l, f.heal(b.cluster, victim)
}

// busiest returns the node that leads most shards, and these. Of several it is another one in each round.
func busiest(leaders map[uint64]string, nodes []*cluster.Node, round int) (victim *cluster.Node, led []uint64) {
	count := local.Leads(leaders)
	for i := range nodes {
		if n := nodes[(round+i)%len(nodes)]; victim == nil || count[n.ID] > count[victim.ID] {
			victim = n
		}
	}
	for shard, leader := range leaders {
		if leader == victim.ID {
			led = append(led, shard)
		}
	}
	return victim, led
}

// whole waits until all nodes are ready, leaders are spread, all nodes know them, and they take writes.
func (b *bench) whole(ctx context.Context, t *tally) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.limit)
	defer cancel()
	if err := b.cluster.Ready(ctx); err != nil {
		return err
	}
	var nodes []string
	for _, n := range b.cluster.Nodes {
		nodes = append(nodes, n.ID)
	}
	var leaders map[uint64]string
	err := cluster.Poll(ctx, func() bool {
		leaders = t.leaders()
		return len(leaders) == b.cfg.shards && local.Spread(leaders, nodes) && b.known(ctx, leaders)
	})
	if err != nil {
		return fmt.Errorf("shards are led by %v: %w", leaders, err)
	}
	return b.cluster.Ready(ctx)
}

// known reports whether all nodes take each other for up, and those for the leaders.
func (b *bench) known(ctx context.Context, leaders map[uint64]string) bool {
	for _, n := range b.cluster.Nodes {
		d, err := n.Directory(ctx)
		if err != nil || len(d.Shards) != len(leaders) {
			return false
		}
		for _, sh := range d.Shards {
			if sh.Leader != leaders[sh.ID] {
				return false
			}
		}
		for _, other := range b.cluster.Nodes {
			if d.Nodes[other.ID].State != "up" {
				return false
			}
		}
	}
	return true
}
