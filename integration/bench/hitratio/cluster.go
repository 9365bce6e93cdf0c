package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// nodes is how many nodes a cluster has; each hosts a replica of every shard.
const nodes = 3

// patience bounds how long a request is tried again, elections included.
const patience = 30 * time.Second

// cluster is a set of nodes in this process, with timeouts as in production.
type cluster struct {
	net    *shard.MemoryNetwork
	names  []string
	hosts  map[string]*shard.Host // those that are alive
	shards int
	leader map[shard.ID]string // as last seen
	ending sync.WaitGroup      // hosts that were killed
}

// startCluster starts nodes whose shards divide the slots, and limit bytes, evenly among them, and
// waits until all shards serve.
func startCluster(ctx context.Context, shards int, limit uint64) (*cluster, error) {
	c := &cluster{net: shard.NewMemoryNetwork(1), hosts: map[string]*shard.Host{}, shards: shards, leader: map[shard.ID]string{}}
	if err := c.start(ctx, limit); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *cluster) start(ctx context.Context, limit uint64) error {
	memory, peers := map[string]*shard.Memory{}, map[string]shard.Peer{}
	var founders []shard.Founder
	var members []shard.Member
	for i := range nodes {
		name := string(rune('a' + i))
		c.names = append(c.names, name)
		memory[name] = shard.NewMemory(name)
		incarnation := memory[name].Identity().Incarnation
		founders = append(founders, shard.Founder{Node: name, Incarnation: incarnation})
		peers[name] = shard.Peer{Addr: name + ":1", Incarnation: incarnation}
		members = append(members, shard.Member{Node: name, R: 1})
	}
	for _, name := range c.names {
		if err := memory[name].Form(shard.ClusterID(founders), founders); err != nil {
			return err
		}
		h, err := shard.NewHost(shard.Config{Node: name, Memory: memory[name], Network: c.net.From(name), Addr: peers[name].Addr})
		if err != nil {
			return err
		}
		c.hosts[name] = h
		if err := h.Start(); err != nil {
			return err
		}
		h.SetPeers(peers)
		for id := range c.ids() {
			spec := shard.Spec{Shard: id, R: 1, Members: members, Campaign: name == c.names[int(id)%nodes]}
			if err := h.OpenCache(spec); err != nil {
				return err
			}
		}
	}
	for id := range c.ids() {
		grant := fsm.Grant{Range: c.rangeOf(id), Epoch: 1, Generation: 1, VersionBits: 1, Limit: limit / uint64(c.shards), TableVersion: 1}
		if err := c.propose(ctx, id, fsm.Command{Kind: fsm.KindGrant, Grant: grant}); err != nil {
			return fmt.Errorf("granting shard %d its range: %w", id, err)
		}
		if err := c.propose(ctx, id, fsm.Command{Kind: fsm.KindLevel, Level: fsm.MaxLevel, Seed: 0x9E3779B97F4A7C15}); err != nil {
			return fmt.Errorf("raising shard %d's level: %w", id, err)
		}
	}
	return nil
}

// ids yields the shards.
func (c *cluster) ids() func(yield func(shard.ID) bool) {
	return func(yield func(shard.ID) bool) {
		for n := range c.shards {
			if !yield(shard.ID(n + 1)) {
				return
			}
		}
	}
}

// rangeOf returns the slots of a shard.
func (c *cluster) rangeOf(id shard.ID) fsm.Range {
	at := func(n int) uint32 { return uint32(n * fsm.Slots / c.shards) }
	return fsm.Range{Start: at(int(id) - 1), End: at(int(id))}
}

// shardOf returns the shard of a key.
func (c *cluster) shardOf(key []byte) shard.ID {
	return shard.ID((int(fsm.Slot(key))*c.shards+c.shards-1)/fsm.Slots + 1)
}

// propose puts a command of the directory into a shard's log.
func (c *cluster) propose(ctx context.Context, id shard.ID, command fsm.Command) error {
	data, err := fsm.Batch{Level: 1, Commands: []fsm.Command{command}}.AppendBinary(nil)
	if err != nil {
		return err
	}
	return c.retry(ctx, id, func(ctx context.Context, node string) error {
		_, _, err := c.hosts[node].Cache(id).Group().Propose(ctx, data)
		return err
	})
}

// do performs a request on the leader of the key's shard.
func (c *cluster) do(ctx context.Context, req shard.Request) (resp shard.Response, err error) {
	req.Shard = c.shardOf(req.Key)
	err = c.retry(ctx, req.Shard, func(ctx context.Context, node string) error {
		resp, err = c.hosts[node].Do(ctx, node, req)
		return err
	})
	return resp, err
}

// retry calls f with the leader of a shard until it succeeds, as long as what failed was refused. An
// unknown outcome is tried again too: nothing here does harm when done twice.
func (c *cluster) retry(ctx context.Context, id shard.ID, f func(ctx context.Context, node string) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		node := c.leader[id]
		err := errors.New("no leader")
		if node != "" {
			if err = f(ctx, node); err == nil {
				return nil
			}
		}
		if errors.As(err, new(*shard.NotOwnerError)) {
			return err
		}
		c.leader[id] = c.findLeader(id)
		if c.leader[id] != "" && c.leader[id] != node {
			continue
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w; at last: %w", ctx.Err(), err)
		}
	}
}

// findLeader returns the node that leads a shard and serves, "" while there is none.
func (c *cluster) findLeader(id shard.ID) string {
	for name, h := range c.hosts {
		if h.Cache(id).Group().Status().Ready {
			return name
		}
	}
	return ""
}

// leaderStats are the leaders' accounts of all shards.
func (c *cluster) leaderStats() []fsm.Stats {
	var all []fsm.Stats
	for id := range c.ids() {
		if h := c.hosts[c.leader[id]]; h != nil {
			all = append(all, *h.Cache(id).Status().Cache)
		}
	}
	return all
}

// killLeader silences the node that leads a shard, as kill -9 does: nothing that it has not sent by
// now reaches anybody.
func (c *cluster) killLeader(id shard.ID) error {
	node := c.findLeader(id)
	if node == "" {
		return fmt.Errorf("shard %d has no leader to kill", id)
	}
	c.net.Kill(node)
	h := c.hosts[node]
	delete(c.hosts, node)
	for id, leader := range c.leader {
		if leader == node {
			delete(c.leader, id)
		}
	}
	c.ending.Go(func() { h.Close() })
	return nil
}

func (c *cluster) close() {
	for _, h := range c.hosts {
		c.ending.Go(func() { h.Close() })
	}
	c.ending.Wait()
}
