package shard

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Group is one replica of a Raft group on this node: its stores, which live as long as the replica,
// and the Raft instance that runs on them, which may be replaced (see instance).
//
// run owns the instance: it starts it, watches it, recycles it and stops it. It ends with Close.
type Group struct {
	host       *Host
	id         ReplicaID
	spec       Spec
	store      replicaStore
	snaps      snapshotStore
	newMachine func() StateMachine
	spools     spools

	inst atomic.Pointer[instance] // nil while none is running

	stopped atomic.Pointer[Verdict] // nil unless the replica has stopped for good (verdict.go)
	doubt   atomic.Pointer[Verdict] // nil unless it waits for a comparison to decide
	halt    chan struct{}           // one token: stopped was set
	known   known                   // members that have stopped, as this leader knows

	transferTerm atomic.Uint64 // term in which this replica hands leadership over
	handed       atomic.Uint64 // term whose leader has handed leadership to this replica
	promise      promise

	began    time.Duration // when it was opened
	patience time.Duration // how long its leader may be silent though its node is not (succession.go)

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// clocked is a state machine with a log clock (R2).
type clocked interface{ Clock() uint64 }

func newGroup(h *Host, spec Spec, store replicaStore, snaps snapshotStore, spoolDir string, newMachine func() StateMachine) *Group {
	ctx, cancel := context.WithCancel(h.ctx)
	return &Group{host: h, id: ReplicaID{spec.Shard, h.cfg.Node, spec.R}, spec: spec, store: store, snaps: snaps,
		newMachine: newMachine, began: h.mono(), patience: h.patience(), spools: spools{dir: spoolDir, traffic: h.snapshots}, halt: make(chan struct{}, 1), ctx: ctx, cancel: cancel, done: make(chan struct{})}
}

// start starts the first instance and the goroutine that watches over it.
func (g *Group) start() error {
	g.spools.adopt()
	inst, err := g.startInstance(nil)
	if err != nil {
		return err
	}
	go g.run(inst)
	return nil
}

// ID returns the replica's server id.
func (g *Group) ID() ReplicaID { return g.id }

// toldUpTo is the last index that others may hear of as committed.
func (g *Group) toldUpTo() uint64 {
	if bugTellUnsynced.on() {
		return math.MaxUint64
	}
	return g.store.durable()
}

// instance returns the running instance, nil when there is none.
func (g *Group) instance() *instance { return g.inst.Load() }

func (g *Group) raftConfig(notify chan<- bool) *raft.Config {
	cfg := g.host.cfg
	cfg.HeartbeatTimeout = g.patience
	cfg.CommitTimeout *= g.patience / g.host.cfg.HeartbeatTimeout
	if g.stopped.Load() != nil { // others first
		cfg.HeartbeatTimeout *= sealedPatience
		cfg.ElectionTimeout *= sealedPatience
	}
	patience := cfg.HeartbeatTimeout * raftPatience / 4
	lease := patience / 2
	if g.patience > g.host.cfg.HeartbeatTimeout { // of many shards all would lose their leaders where a node stands still for a moment, and elect others at the same time
		lease = patience
	}
	return &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		HeartbeatTimeout:   patience, // a last resort, see succession.go
		ElectionTimeout:    max(patience, cfg.ElectionTimeout),
		CommitTimeout:      cfg.CommitTimeout, // only: how soon idle followers learn the commit index
		MaxAppendEntries:   64,                // the transport cuts by bytes
		BatchApplyCh:       false,             // what still waits in a buffer at a shutdown is never answered
		ShutdownOnRemove:   false,             // replicas are destroyed by the directory's word
		TrailingLogs:       cfg.TrailingLogs,
		SnapshotInterval:   time.Hour, // snapshots are triggered by bytes, see maintain
		SnapshotThreshold:  math.MaxUint64,
		LeaderLeaseTimeout: lease, // a cut-off leader steps down; no read relies on it
		LocalID:            raft.ServerID(g.id.String()),
		NotifyCh:           notify,
		Logger:             newRaftLogger(g.host.log, g.id.Shard),
		NoLegacyTelemetry:  true,
	}
}

// startInstance starts a Raft instance on the stores, after another (nil: it is the first). A crash at any point of it leaves the stores
// as they were, or repaired, which can be repeated.
func (g *Group) startInstance(before *instance) (*instance, error) {
	i := &instance{group: g, trans: newTransport(g), notify: make(chan bool, 64), installed: make(chan struct{}, 1),
		quit: make(chan struct{}), over: make(chan struct{}), transferFailed: map[string]uint64{}}
	i.reads.inst, i.follows.inst, i.lease.inst = i, i, i
	i.fsm = &adapter{shard: g.id.Shard, machine: g.newMachine(), sealed: g.stopped.Load() != nil,
		log: g.store, discard: g.discard, grown: make(chan struct{}, 1), onRestore: func() {
			i.renewed.Store(true)
			notify(i.installed)
		}}
	if g.spec.Volatile {
		i.fsm.due.Store(leastVolatileSnapshot)
	}
	if before != nil {
		i.fsm.inherit(before.fsm)
	}
	index, term, err := recoveryPoint(g.store, g.snaps)
	if err != nil {
		return nil, err
	}
	if wiped, err := repair(g.store, index, term); err != nil {
		return nil, err
	} else if wiped {
		g.host.log.Info("log replaced by snapshot", "shard", g.id.Shard, "index", index)
	}
	snaps := describedSnapshots{SnapshotStore: g.snaps, fsm: i.fsm, start: index, unreadable: i.unreadable}
	i.raft, err = raft.NewRaft(g.raftConfig(i.notify), i.fsm, g.store, g.store, snaps, i.trans)
	if failed := i.fsm.failed.Load(); err != nil && failed != nil {
		err = *failed // which the library does not tell
	}
	if err != nil {
		i.trans.cancel()
		return nil, fmt.Errorf("replica %s: %w", g.id, err)
	}
	i.fsm.started.Store(true) // from now on a Restore means a snapshot that the leader sent
	g.inst.Store(i)
	return i, nil
}

// discard removes a snapshot that the leader sent and that holds no state: nothing here goes by it yet, and the next start would.
func (g *Group) discard(id string) {
	if err := g.snaps.discard(id); err != nil {
		g.host.log.Error("a snapshot that can't be restored stays", "shard", g.id.Shard, "snapshot", id, "err", err)
	}
}

// stopInstance ends an instance; its stores are free when it returns.
//
// The library never answers what waits in its queues at Shutdown, so all that is in flight is waited
// for before: it is applied or, without a quorum, lost with the leadership. Where that takes long, all
// peers are taken from it, and the library's lease ends the leadership.
func (g *Group) stopInstance(i *instance) {
	g.inst.CompareAndSwap(i, nil)
	i.ready.Store(0)
	i.reads.fail(ErrStopped)
	i.endFills()
	i.mu.Lock()
	i.stopping = true
	i.mu.Unlock()
	close(i.quit)
	patience := time.AfterFunc(g.host.cfg.HeartbeatTimeout, i.trans.cancel)
	i.wg.Wait()
	patience.Stop()
	i.trans.cancel() // unblocks the library's RPCs
	_ = i.raft.Shutdown().Error()
	g.host.forget(i)
}

func (g *Group) run(i *instance) {
	defer close(g.done)
	for {
		why := i.watch(g.ctx)
		g.stopInstance(i)
		if why == "" {
			close(i.over)
			return
		}
		g.host.log.Info("raft instance replaced", "shard", g.id.Shard, "why", why)
		next, err := g.startInstance(i)
		close(i.over)
		if err != nil {
			g.host.fatal(err)
			return
		}
		i = next
	}
}

// Propose replicates data and returns its index and what the local state machine's Apply returned.
func (g *Group) Propose(ctx context.Context, data []byte) (index uint64, result any, err error) {
	return g.propose(ctx, raft.Log{Data: data})
}

// propose replicates an entry: its Data and Extensions count.
func (g *Group) propose(ctx context.Context, entry raft.Log) (index uint64, result any, err error) {
	i := g.instance()
	if i == nil {
		return 0, nil, ErrStopped
	}
	if i.ready.Load() == 0 {
		return 0, nil, i.notLeader()
	}
	timeout := time.Duration(0) // none
	if d, ok := ctx.Deadline(); ok {
		if timeout = time.Until(d) - answerTime; timeout <= 0 {
			return 0, nil, ErrDeadline
		}
	}
	if ctx.Err() != nil {
		return 0, nil, ErrDeadline
	}
	if !i.enter() {
		return 0, nil, ErrStopped
	}
	i.hurry()
	f := i.raft.ApplyLog(entry, timeout)
	done := make(chan error, 1)
	go func() {
		defer i.wg.Done()
		done <- f.Error()
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
	if err != nil {
		return 0, nil, i.writeError(err)
	}
	if err, ok := f.Response().(error); ok { // the state machine did not see it
		return 0, nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return f.Index(), f.Response(), nil
}

// Spread makes followers learn at once that what was proposed before is committed, by another entry. They
// would else learn it with the next one, or after CommitTimeout. This replica must lead.
func (g *Group) Spread(ctx context.Context) error {
	i := g.instance()
	if i == nil || !i.enter() {
		return ErrStopped
	}
	i.hurry()
	done := make(chan error, 1)
	go func() {
		defer i.wg.Done()
		done <- i.raft.Barrier(0).Error()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ErrDeadline
	}
}

// ReadBarrier returns nil once a read of the local state machine is linearizable: this replica led,
// with its term confirmed by a quorum after the call began, and has applied what was committed then.
func (g *Group) ReadBarrier(ctx context.Context) error {
	i := g.instance()
	if i == nil {
		return ErrStopped
	}
	_, err := i.readBarrier(ctx, true)
	return err
}

// Status returns what the replica knows of itself.
func (g *Group) Status() Status {
	s := Status{Shard: g.id.Shard, Replica: g.id.String(), Role: RoleStopped, Stopped: g.stopped.Load() != nil}
	if err := g.serves(); err != nil {
		s.Diverged = err.Error()
	}
	i := g.instance()
	if i == nil {
		return s
	}
	// Raft tells them one by one: they belong together where the term is still the same after them.
	for once := true; once || i.raft.CurrentTerm() != s.Term; once = false {
		s.Term, s.Role, s.Leader = i.raft.CurrentTerm(), RoleStopped, ""
		switch i.raft.State() {
		case raft.Leader:
			s.Role = RoleLeader
		case raft.Candidate:
			s.Role = RoleCandidate
		case raft.Follower:
			s.Role = RoleFollower
		}
		if _, id := i.raft.LeaderWithID(); id != "" {
			if r, err := ParseReplicaID(string(id)); err == nil {
				s.Leader = r.Node
			}
		}
	}
	s.Ready = i.ready.Load() != 0 && s.Role == RoleLeader
	s.Commit, s.Last = i.commit(), min(i.raft.LastIndex(), g.toldUpTo())
	s.Applied = i.fsm.applied.at()
	if conf := i.fsm.conf.Load(); conf != nil {
		s.Conf = conf.index
	}
	s.SnapshotBytes, s.SnapshotTotal = g.spools.progress()
	m := i.members()
	s.Voters, s.Learners = m.nodes, m.learners
	return s
}

// close stops the replica for good.
func (g *Group) close() error {
	g.cancel()
	<-g.done
	g.spools.close()
	return g.store.Close()
}
