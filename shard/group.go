package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
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
	snaps      raft.SnapshotStore
	newMachine func() StateMachine
	spools     spools

	inst atomic.Pointer[instance] // nil while none is running

	stopped atomic.Pointer[Verdict] // nil unless the replica has stopped for good (verdict.go)
	doubt   atomic.Pointer[Verdict] // nil unless it waits for a comparison to decide
	halt    chan struct{}           // one token: stopped was set
	known   known                   // members that have stopped, as this leader knows

	transferTerm   atomic.Uint64 // term in which this replica hands leadership over
	lastTimeoutNow atomic.Uint64 // term of the last TimeoutNow taken

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// instance is one life of the Raft library on a replica's stores, with a transport and a state
// machine of its own.
type instance struct {
	group  *Group
	raft   *raft.Raft
	trans  *transport
	fsm    *adapter
	reads  readRounds
	notify chan bool

	follows followerReads

	// ready is the term in which this instance leads and has applied a barrier; 0 = it does not.
	ready   atomic.Uint64
	stamps  atomic.Pointer[stamper] // of the ready term
	kicking atomic.Bool

	transferSince atomic.Int64 // monotonic time of the first refusal because of a transfer; 0 = none
	transferLast  atomic.Int64 // and of the last
	asking        atomic.Bool  // a barrier asks whether the refusals have ended

	snapshotAfter atomic.Int64 // monotonic time before which none is taken: the last one failed

	installed chan struct{} // one token: a snapshot of the leader was restored
	quit      chan struct{} // closed when the instance is being stopped

	mu       sync.Mutex // guards what follows, and wg against an Add beside stopInstance's Wait
	stopping bool
	// transferFailed says, for each voter to which a transfer failed, what it must have of the log before
	// another is tried.
	transferFailed map[string]uint64
	wg             sync.WaitGroup // calls of the library that wait for its answer
}

// clocked is a state machine with a log clock (R2).
type clocked interface{ Clock() uint64 }

func newGroup(h *Host, spec Spec, store replicaStore, snaps raft.SnapshotStore, spoolDir string, newMachine func() StateMachine) *Group {
	ctx, cancel := context.WithCancel(h.ctx)
	return &Group{host: h, id: ReplicaID{spec.Shard, h.cfg.Node, spec.R}, spec: spec, store: store, snaps: snaps,
		newMachine: newMachine, spools: spools{dir: spoolDir}, halt: make(chan struct{}, 1), ctx: ctx, cancel: cancel, done: make(chan struct{})}
}

// start starts the first instance and the goroutine that watches over it.
func (g *Group) start() error {
	g.spools.clean()
	inst, err := g.startInstance()
	if err != nil {
		return err
	}
	go g.run(inst)
	return nil
}

// instance returns the running instance, nil when there is none.
func (g *Group) instance() *instance { return g.inst.Load() }

func (g *Group) raftConfig(notify chan<- bool) *raft.Config {
	cfg := g.host.cfg
	if g.stopped.Load() != nil { // others first
		cfg.HeartbeatTimeout *= sealedPatience
		cfg.ElectionTimeout *= sealedPatience
	}
	return &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		HeartbeatTimeout:   cfg.HeartbeatTimeout,
		ElectionTimeout:    cfg.ElectionTimeout,
		CommitTimeout:      cfg.CommitTimeout, // only: how soon idle followers learn the commit index
		MaxAppendEntries:   64,                // the transport cuts by bytes
		BatchApplyCh:       false,             // what still waits in a buffer at a shutdown is never answered
		ShutdownOnRemove:   false,             // replicas are destroyed by the directory's word
		TrailingLogs:       cfg.TrailingLogs,
		SnapshotInterval:   time.Hour, // snapshots are triggered by bytes, see maintain
		SnapshotThreshold:  math.MaxUint64,
		LeaderLeaseTimeout: cfg.HeartbeatTimeout / 2, // a cut-off leader steps down; no read relies on it
		LocalID:            raft.ServerID(g.id.String()),
		NotifyCh:           notify,
		Logger:             newRaftLogger(g.host.log, g.id.Shard),
		NoLegacyTelemetry:  true,
	}
}

// startInstance starts a Raft instance on the stores. A crash at any point of it leaves the stores
// as they were, or repaired, which can be repeated.
func (g *Group) startInstance() (*instance, error) {
	i := &instance{group: g, trans: newTransport(g), notify: make(chan bool, 64), installed: make(chan struct{}, 1),
		quit: make(chan struct{}), transferFailed: map[string]uint64{}}
	i.reads.inst, i.follows.inst = i, i
	i.fsm = &adapter{shard: g.id.Shard, machine: g.newMachine(), sealed: g.stopped.Load() != nil,
		last: g.store.LastIndex, onRestore: func() { notify(i.installed) }}
	index, term, err := recoveryPoint(g.store, g.snaps)
	if err != nil {
		return nil, err
	}
	if wiped, err := repair(g.store, index, term); err != nil {
		return nil, err
	} else if wiped {
		g.host.log.Info("log replaced by snapshot", "shard", g.id.Shard, "index", index)
	}
	i.raft, err = raft.NewRaft(g.raftConfig(i.notify), i.fsm, g.store, g.store, describedSnapshots{g.snaps}, i.trans)
	if err == nil {
		// The library falls back to an older snapshot; the log in between may be gone.
		if failed := i.fsm.failed.Load(); failed != nil {
			_ = i.raft.Shutdown().Error()
			err = *failed
		}
	}
	if err != nil {
		i.trans.cancel()
		return nil, fmt.Errorf("replica %s: %w", g.id, err)
	}
	i.fsm.started.Store(true) // from now on a Restore means a snapshot that the leader sent
	g.inst.Store(i)
	return i, nil
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

// enter announces a call of the library whose answer will be waited for, until i.wg.Done; false once
// the instance is being stopped.
func (i *instance) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopping {
		return false
	}
	i.wg.Add(1)
	return true
}

// pause waits a moment; false once the instance is being stopped.
func (i *instance) pause() bool {
	t := time.NewTimer(20 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-i.quit:
		return false
	}
}

func (g *Group) run(i *instance) {
	defer close(g.done)
	for {
		why := i.watch(g.ctx)
		g.stopInstance(i)
		if why == "" {
			return
		}
		g.host.log.Info("raft instance replaced", "shard", g.id.Shard, "why", why)
		next, err := g.startInstance()
		if err != nil {
			g.host.fatal(err)
			return
		}
		i = next
	}
}

// watch follows an instance until it is to be replaced (the reason) or ctx ends ("").
func (i *instance) watch(ctx context.Context) string {
	tick := time.NewTimer(untilNext(time.Second)) // with all others: an idle process then wakes up once
	defer tick.Stop()
	led := 0
	for {
		select {
		case leads := <-i.notify:
			if leads {
				i.wg.Go(i.becomeReady)
			} else {
				i.stepDown()
			}
		case <-i.installed:
			if why := i.afterInstall(); why != "" {
				return why
			}
		case <-i.group.halt:
			if i.fsm.sealed { // it began so
				continue
			}
			i.yield()
			return "its state has diverged"
		case <-tick.C:
			if led++; !i.fsm.sealed || i.raft.State() != raft.Leader {
				led = 0
			} else if led > maxSealedLead {
				return "it must not lead, and nobody takes over"
			}
			if i.transferStuck() {
				return "a leadership transfer does not end"
			}
			i.maintain()
			tick.Reset(untilNext(time.Second))
		case <-ctx.Done():
			return ""
		}
	}
}

// becomeReady makes a new leader serve: only once a barrier of its own term is applied has it
// applied everything that earlier leaders acknowledged.
func (i *instance) becomeReady() {
	for i.raft.State() == raft.Leader {
		if i.group.stopped.Load() != nil {
			i.yield()
			if !i.pause() {
				return
			}
			continue
		}
		term := i.raft.CurrentTerm()
		if err := i.raft.Barrier(0).Error(); err != nil {
			if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
				i.transferring()
			}
			if !i.pause() { // a transfer under way refuses barriers
				return
			}
			continue
		}
		if i.raft.CurrentTerm() != term {
			continue
		}
		if m, ok := i.fsm.machine.(clocked); ok {
			// The first stamp of all needs the time of day: from zero, time would not go on but jump.
			for m.Clock() == 0 && i.raft.State() == raft.Leader {
				if _, known := i.wall(); known {
					break
				}
				if !i.pause() {
					return
				}
			}
			i.stamps.Store(newStamper(i.wall, m.Clock()))
		}
		i.transferSince.Store(0)
		i.ready.Store(term)
		if i.raft.State() != raft.Leader || i.raft.CurrentTerm() != term || i.group.stopped.Load() != nil {
			if i.ready.CompareAndSwap(term, 0) { // stepDown may have come before the Store
				i.reads.fail(i.notLeader())
			}
			continue
		}
		i.group.host.log.Info("leads", "shard", i.group.id.Shard, "term", term)
		i.group.host.changed()
		return
	}
}

func (i *instance) stepDown() {
	i.ready.Store(0)
	i.reads.fail(i.notLeader())
	i.endFills()
	i.group.host.changed()
}

// wall is the lower median of the voters' clocks, see clocks.median.
func (i *instance) wall() (millis int64, known bool) {
	h := i.group.host
	voters, _ := i.voters()
	names := make([]string, len(voters))
	for n, v := range voters {
		names[n] = v.Node
	}
	return h.clocks.median(h.now(), h.cfg.Node, names)
}

// notLeader is the refusal of a replica that does not lead, or does not serve yet.
func (i *instance) notLeader() error {
	_, id := i.raft.LeaderWithID()
	r, err := ParseReplicaID(string(id))
	switch {
	case err != nil:
		return ErrNoLeader
	case r == i.group.id:
		return fmt.Errorf("%w: not ready yet", ErrNoLeader)
	}
	return &NotLeaderError{Leader: r.Node}
}

// voters returns the voters of the latest configuration, and whether this replica is one.
func (i *instance) voters() (voters []ReplicaID, self bool) {
	for _, s := range i.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if r, err := ParseReplicaID(string(s.ID)); err == nil {
			voters = append(voters, r)
			self = self || r == i.group.id
		}
	}
	return voters, self
}

func (i *instance) votes() bool {
	_, self := i.voters()
	return self
}

// kick makes an instance that a peer has outvoted find out: its own heartbeats ignore terms. The
// result is not used, and not waited for: the instance's main goroutine may be in a disk write.
func (i *instance) kick() {
	if !i.kicking.CompareAndSwap(false, true) {
		return
	}
	if !i.enter() {
		return
	}
	go func() {
		defer i.wg.Done()
		defer i.kicking.Store(false)
		_ = i.raft.VerifyLeader().Error()
	}()
}

// afterInstall runs after a snapshot of the leader was restored: the instance is always replaced
// then. The library keeps its last index and term when a snapshot replaces a divergent log, and then
// refuses the leader for ever (hashicorp/raft #697); and a snapshot of its own that was being written
// meanwhile would set its snapshot index back.
func (i *instance) afterInstall() string {
	// The main goroutine is still busy with the installation: wait until it is past it.
	if err := i.raft.VerifyLeader().Error(); errors.Is(err, raft.ErrRaftShutdown) {
		return ""
	}
	return fmt.Sprintf("snapshot at %d of the leader installed", i.fsm.restored.Load())
}

// snapshotRetry is the pause after a snapshot that failed, as on a full disk.
const snapshotRetry = 5 * time.Second

// maintain takes a snapshot once enough was applied since the last.
func (i *instance) maintain() {
	h := i.group.host
	if i.group.serves() != nil { // nobody is to get a state that may be wrong
		return
	}
	bytes, entries := i.fsm.written.Load(), i.fsm.entries.Load()
	if bytes < h.cfg.SnapshotBytes && entries < h.cfg.SnapshotEntries || i.fsm.persisting.Load() > 0 ||
		int64(h.mono()) < i.snapshotAfter.Load() {
		return
	}
	select {
	case h.snapshotting <- struct{}{}: // few at a time: they share the disk with the logs
	default:
		return
	}
	i.wg.Go(func() {
		defer func() { <-h.snapshotting }()
		rc := i.raft.ReloadableConfig()
		// As many trailing entries as fit the snapshot's own trigger in bytes.
		rc.TrailingLogs = min(h.cfg.TrailingLogs, max(64, h.cfg.SnapshotBytes/max(1, bytes/max(1, entries))))
		if err := i.raft.ReloadConfig(rc); err != nil {
			h.log.Warn("trailing logs", "shard", i.group.id.Shard, "err", err)
		}
		err := i.raft.Snapshot().Error()
		if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && !errors.Is(err, raft.ErrRaftShutdown) {
			h.log.Warn("no snapshot, trying again later", "shard", i.group.id.Shard, "err", err)
			i.snapshotAfter.Store(int64(h.mono() + snapshotRetry))
		}
	})
}

// hurry sends what waits on the links to the other voters. The library's replication to a voter waits for
// the answer to its last message, which may be one that tells nothing new and so is in no hurry itself: an
// entry must not wait behind it.
func (i *instance) hurry() {
	voters, _ := i.voters()
	for _, v := range voters {
		if p := i.group.host.peer(v.Node); p != nil {
			p.flush()
		}
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

// writeError sorts the library's errors of a proposal into refused and unknown. Refused are only
// those which it gives before it touches the log.
func (i *instance) writeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return i.notLeader()
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		i.transferring()
		return fmt.Errorf("%w: leadership is being handed over", ErrNoLeader)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrDeadline
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// ReadBarrier returns nil once a read of the local state machine is linearizable: this replica led,
// with its term confirmed by a quorum after the call began, and has applied what was committed then.
func (g *Group) ReadBarrier(ctx context.Context) error {
	i := g.instance()
	if i == nil {
		return ErrStopped
	}
	return i.readBarrier(ctx)
}

func (i *instance) readBarrier(ctx context.Context) error {
	if i.ready.Load() == 0 {
		return i.notLeader()
	}
	if faultVerifyLeaderReads() {
		if err := i.raft.VerifyLeader().Error(); err != nil {
			return i.notLeader()
		}
		return nil
	}
	began := i.group.host.mono()
	visible, err := i.reads.join(ctx)
	if err != nil {
		return err
	}
	if err := i.fsm.applied.wait(ctx, i.trans.ctx.Done(), visible); err != nil {
		return err
	}
	i.confirmed(began)
	return nil
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
	switch i.raft.State() {
	case raft.Leader:
		s.Role = RoleLeader
	case raft.Candidate:
		s.Role = RoleCandidate
	case raft.Follower:
		s.Role = RoleFollower
	}
	s.Ready = i.ready.Load() != 0 && s.Role == RoleLeader
	s.Term, s.Commit, s.Last = i.raft.CurrentTerm(), i.raft.CommitIndex(), i.raft.LastIndex()
	s.Applied = i.fsm.applied.at()
	if _, id := i.raft.LeaderWithID(); id != "" {
		if r, err := ParseReplicaID(string(id)); err == nil {
			s.Leader = r.Node
		}
	}
	if conf := i.fsm.conf.Load(); conf != nil {
		s.Conf = conf.index
	}
	s.SnapshotBytes, s.SnapshotTotal = g.spools.progress()
	for _, sv := range i.raft.GetConfiguration().Configuration().Servers {
		r, err := ParseReplicaID(string(sv.ID))
		if err != nil {
			continue
		}
		if sv.Suffrage == raft.Voter {
			s.Voters = append(s.Voters, r.Node)
		} else {
			s.Learners = append(s.Learners, r.Node)
		}
	}
	return s
}

// close stops the replica for good.
func (g *Group) close() error {
	g.cancel()
	<-g.done
	g.spools.close()
	return g.store.Close()
}
