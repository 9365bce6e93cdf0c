package shard

import (
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// openings lets one at a time open or destroy replicas of a shard, disk writes and the end of an instance included, and replicas of
// different shards be opened beside each other: a thousand of them wait for a disk together, whose syncs they share.
type openings struct {
	mu     sync.Mutex // guards following
	shards map[ID]*opening
	closed bool
	open   sync.WaitGroup // those that are within; Add only with mu, and not once closed
}

// opening is the turn of those who wait for a shard. It is held over waits: a channel of one, so that tests in virtual time go on
// while somebody waits for it.
type opening struct {
	turn  chan struct{}
	users int // who holds or waits for it
}

// begin returns once nobody else opens or destroys replicas of the shard; false: close was called. The caller calls end after it returned true.
func (o *openings) begin(id ID) bool {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return false
	}
	s := o.shards[id]
	if s == nil {
		s = &opening{turn: make(chan struct{}, 1)}
		if o.shards == nil {
			o.shards = map[ID]*opening{}
		}
		o.shards[id] = s
	}
	s.users++
	o.open.Add(1)
	o.mu.Unlock()
	s.turn <- struct{}{}
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		o.end(id)
	}
	return !closed
}

// end lets the next one in.
func (o *openings) end(id ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.shards[id]
	if s.users--; s.users == 0 {
		delete(o.shards, id)
	}
	<-s.turn
	o.open.Done()
}

// close refuses whoever comes from now on, and returns once nobody is within.
func (o *openings) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.open.Wait()
}

// OpenCache makes sure that the replica of a data shard exists and runs; it is idempotent. Another
// replica of the shard that runs here must be destroyed first.
func (h *Host) OpenCache(spec Spec) error {
	if !h.opening.begin(spec.Shard) {
		return ErrStopped
	}
	defer h.opening.end(spec.Shard)
	g, err := h.open(spec, func() StateMachine { return newCacheMachine(spec.Shard) })
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.caches[spec.Shard] == nil {
		c := newCache(g)
		h.caches[spec.Shard] = c
		c.start()
	}
	return nil
}

// OpenGroup is OpenCache for any other state machine (the directory's). newMachine is called for
// each life of the Raft instance: a recycled instance gets a new machine, but for one that begins with the snapshot that the one before it restored.
func (h *Host) OpenGroup(spec Spec, newMachine func() StateMachine) (*Group, error) {
	if !h.opening.begin(spec.Shard) {
		return nil, ErrStopped
	}
	defer h.opening.end(spec.Shard)
	return h.open(spec, newMachine)
}

// open opens a replica; within opening.
func (h *Host) open(spec Spec, newMachine func() StateMachine) (*Group, error) {
	switch g := h.Group(spec.Shard); {
	case g == nil:
	case g.spec.R == spec.R:
		return g, nil
	case spec.Keep.R == 0 || g.spec.R != spec.Keep.R:
		return nil, fmt.Errorf("shard %d runs here as replica %d, not %d", spec.Shard, g.spec.R, spec.R)
	}
	if v := h.lost(ReplicaID{spec.Shard, h.cfg.Node, spec.R}); v != nil {
		return nil, v.err() // what can't be read does not get better
	}
	if len(spec.Members) > 0 && !slices.Contains(spec.Members, Member{h.cfg.Node, spec.R}) {
		return nil, fmt.Errorf("shard %d: replica %d of %s is not among its members", spec.Shard, spec.R, h.cfg.Node)
	}
	if len(spec.First) > 0 && len(spec.Members) != 1 { // others would begin without it
		return nil, fmt.Errorf("shard %d: a group of %d members can't begin with an entry", spec.Shard, len(spec.Members))
	}
	id := ReplicaID{spec.Shard, h.cfg.Node, spec.R}
	spoolDir := h.storage.spoolDir(id)
	if spec.Volatile {
		spoolDir = "" // it has no folder
	}
	g := newGroup(h, spec, nil, nil, spoolDir, newMachine)
	bootstrap := g.bootstrap
	if spec.Keep.R != 0 {
		m, err := h.kept(spec)
		if err != nil {
			g.cancel()
			return nil, h.lose(id, fmt.Errorf("replica %s: %w", id, err))
		}
		bootstrap = func(store replicaStore, snaps raft.SnapshotStore) error { return g.seed(m, store, snaps) }
	}
	first := false
	store, snaps, err := h.storage.open(id, spec.Volatile, spec.Keep.R, newRaftLogger(h.log, spec.Shard), h.fatal,
		func(store replicaStore, snaps raft.SnapshotStore) error {
			first = spec.R <= firstR
			return bootstrap(store, snaps)
		})
	if err != nil {
		g.cancel()
		return nil, h.lose(id, fmt.Errorf("replica %s: %w", id, err))
	}
	if former := (ReplicaID{spec.Shard, h.cfg.Node, spec.Keep.R}); spec.Keep.R != 0 && slices.Contains(h.storage.replicas(), former) {
		if err := h.destroy(spec.Shard, spec.Keep.R); err != nil { // it has ended, and never opens again: that can be made up for later
			h.log.Warn("a replica whose state was kept is not destroyed yet", "shard", spec.Shard, "replica", former.String(), "err", err)
		}
	}
	g.store, g.snaps = store, snaps
	if !first && spec.Shard != Directory { // of which no leader asks for promises
		g.promise.begin(h.mono())
	}
	if v := h.storage.verdict(id); v != nil {
		g.stopped.Store(v)
		h.log.Error("replica does not serve: "+v.String(), "shard", spec.Shard, "replica", id.String())
	}
	if err := g.start(); err != nil {
		g.cancel()
		store.Close()
		return nil, h.lose(id, err)
	}
	h.found(id)
	h.mu.Lock()
	h.groups[spec.Shard] = g
	h.mu.Unlock()
	notify(h.missing)
	if last, err := store.LastIndex(); spec.Campaign && err == nil && last <= spec.begins() && store.Term() <= 1 {
		h.wg.Go(g.hurry)
	}
	return g, nil
}

// bootstrap writes the group's first configuration: the same on all its members, each of which
// could otherwise vote for anybody. A replica that joins writes none: until the leader sends it one, it
// may vote for anybody too, but nobody counts its vote who has not got it in his own configuration, and
// then it is one vote of one replica in one term like any other.
func (g *Group) bootstrap(store replicaStore, snaps raft.SnapshotStore) error {
	if len(g.spec.Members) == 0 {
		return nil
	}
	var servers []raft.Server
	for _, m := range g.spec.Members {
		id := ReplicaID{g.spec.Shard, m.Node, m.R}.String()
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	err := raft.BootstrapCluster(g.raftConfig(nil), store, store, snaps, newTransport(g), raft.Configuration{Servers: servers})
	if err != nil || len(g.spec.First) == 0 {
		return err
	}
	// Of the same term as the configuration, which is entry 1: the only member commits both when it first leads.
	return store.StoreLog(&raft.Log{Index: g.spec.begins(), Term: 1, Type: raft.LogCommand, Data: g.spec.First})
}

// firstR is the highest r of founders of a cluster's first groups: no group of the shard was before them.
const firstR = 1

// begins is the last index of the log that a new group's members begin with.
func (s Spec) begins() uint64 {
	if len(s.First) > 0 {
		return 2
	}
	return 1
}
