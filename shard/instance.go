package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// instance is one life of the Raft library on a replica's stores, with a transport and a state
// machine of its own.
type instance struct {
	group  *Group
	raft   *raft.Raft
	trans  *transport
	fsm    *adapter
	reads  readRounds
	lease  readLease
	notify chan bool

	follows followerReads
	heirs   succession
	latest  atomic.Pointer[members] // as last read, see members

	// ready is the term in which this instance leads and has applied a barrier; 0 = it does not.
	ready   atomic.Uint64
	stamps  atomic.Pointer[stamper] // of the ready term
	kicking atomic.Bool
	evading atomic.Bool
	waited  atomic.Int32 // looks of the supervisor, one after the other, at which the disk had not ended a write for a second

	// lastTimeoutNow is the term of the last TimeoutNow taken. A later instance may take another in that term: the election that this one
	// was to begin may have ended with it, and the voter could not be handed the lead as long as the term lasts.
	lastTimeoutNow atomic.Uint64

	transferSince atomic.Int64 // monotonic time of the first refusal because of a transfer; 0 = none
	transferLast  atomic.Int64 // and of the last
	asking        atomic.Bool  // a barrier asks whether the refusals have ended

	snapshotAfter atomic.Int64 // monotonic time before which none is taken: the last one failed
	snapshots     atomic.Bool  // one is being taken, or waits for its turn

	installed chan struct{} // one token: a snapshot of the leader was restored
	renewed   atomic.Bool   // likewise: the instance is about to be replaced
	quit      chan struct{} // closed when the instance is being stopped
	over      chan struct{} // closed once another runs in its place, or none ever will

	mu       sync.Mutex // guards what follows, and wg against an Add beside stopInstance's Wait
	stopping bool
	// transferFailed says, for each voter to which a transfer failed, what it must have of the log before
	// another is tried.
	transferFailed map[string]uint64
	wg             sync.WaitGroup // calls of the library that wait for its answer
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

// commit is the last index that is known to be committed, as far as this replica may tell anybody: what the library counts upon an entry that is
// not durable here yet is left out (store_ahead.go).
func (i *instance) commit() uint64 {
	return min(i.raft.CommitIndex(), i.group.toldUpTo())
}

// last is the last index of the log that outlasts this process, as far as is known (store_ahead.go): what others may decide by.
func (i *instance) last() uint64 {
	return min(i.raft.LastIndex(), i.group.store.durable())
}

// moment is the pause before something is tried again that will do soon.
const moment = 20 * time.Millisecond

// pause waits for d; false once the instance is being stopped.
func (i *instance) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-i.quit:
		return false
	}
}

// watch follows an instance until it is to be replaced (the reason) or ctx ends ("").
func (i *instance) watch(ctx context.Context) string {
	tick := time.NewTimer(untilNext(time.Second)) // with all others: an idle process then wakes up once
	defer tick.Stop()
	led, stuck := 0, 0
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
		case <-i.fsm.grown:
			i.maintain()
		case <-i.group.halt:
			if i.fsm.sealed { // it began so
				continue
			}
			i.yield()
			return "its state has diverged"
		case <-tick.C:
			i.lookAtDisk()
			if led++; i.raft.State() != raft.Leader || i.ready.Load() != 0 {
				led = 0
			}
			switch {
			case led <= maxIdleLead:
			case i.fsm.sealed:
				return "it must not lead, and nobody takes over"
			default:
				led = 0
				i.giveUp()
			}
			if i.raft.State() != raft.Leader || !i.diskStuck() {
				stuck = 0
			} else {
				i.evade(stuck%maxIdleLead == 0)
				stuck++
			}
			if i.transferStuck() {
				return "a leadership transfer does not end"
			}
			i.group.store.age()
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
			if !i.pause(moment) {
				return
			}
			continue
		}
		if i.foundedAlone() && i.group.promise.left(i.group.host.mono()) > 0 {
			if !i.pause(moment) {
				return
			}
			continue
		}
		term := i.raft.CurrentTerm()
		if err := i.barrier(); err != nil {
			if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
				i.transferring()
			}
			if !i.pause(moment) { // a transfer under way refuses barriers
				return
			}
			continue
		}
		if i.raft.CurrentTerm() != term {
			continue
		}
		if m, ok := i.fsm.machine.(clocked); ok {
			// The first stamp needs the time of day, which a majority tells as soon as it can be reached: from where the log's
			// time stood before an outage it would not go on but jump, and take what was stored meanwhile with it.
			for i.raft.State() == raft.Leader {
				if _, known := i.wall(); known {
					break
				}
				if !i.pause(moment) {
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

// foundedAlone reports whether this replica's group may be a next generation that it is the only voter of: it asks nobody for a vote,
// so the promise that it began with has not held up its election.
func (i *instance) foundedAlone() bool {
	voters, self := i.voters()
	return i.group.spec.R > firstR && self && len(voters) == 1
}

// giveUp has another voter lead instead of this one, which leads and does not come to serve.
func (i *instance) giveUp() {
	why := "its first entry is not committed"
	_, clocked := i.fsm.machine.(clocked)
	if _, known := i.wall(); clocked && !known {
		why = "the time of day is not known: too few clocks were heard"
	}
	i.group.host.log.Warn("leads and does not come to serve", "shard", i.group.id.Shard, "term", i.raft.CurrentTerm(), "why", why)
	i.wg.Go(i.yield)
}

const (
	// maxSyncTime is how long the sync of an append may take until a leader takes its disk for stuck.
	maxSyncTime = 5 * time.Second
	// stuckLooks is how often the supervisor, which looks once a second, must have met that: to a process that was stopped for a while,
	// or got no processor, each write took that long.
	stuckLooks = 3
)

// lookAtDisk counts the looks at a disk that has not ended a write for a second.
func (i *instance) lookAtDisk() {
	if s := i.group.store; max(s.storing(), s.syncing()) >= time.Second {
		i.waited.Add(1)
	} else {
		i.waited.Store(0)
	}
}

// stuck reports whether the library's main goroutine waits for a disk that is stuck: then it can't even hand leadership over.
func (i *instance) stuck() bool { return i.tooLong(i.group.store.storing()) }

// diskStuck reports whether an append does not come to its end, whoever waits for it: a vote would wait, too.
func (i *instance) diskStuck() bool { return i.stuck() || i.tooLong(i.group.store.syncing()) }

// tooLong reports whether a write that has taken so long says that the disk is stuck.
func (i *instance) tooLong(write time.Duration) bool {
	return write >= maxSyncTime && i.waited.Load() >= stuckLooks
}

// silent reports whether this replica, where it leads, behaves as if it were gone: it is stuck, and of the other voters enough are there to elect one of
// them. Where they are not, its silence would only end its own lead.
func (i *instance) silent() bool {
	if !i.stuck() {
		return false
	}
	voters, _ := i.voters()
	others := 0
	for _, v := range voters {
		if v != i.group.id && time.Since(i.group.host.Heard(v.Node)) <= 2*pingInterval {
			others++
		}
	}
	return others > len(voters)/2
}

// evade has another voter lead instead of this one, whose disk is stuck: its own writes would wait for it, and its heartbeats keep all others quiet.
// Where too few of the others take what it sends to elect one of them, it stays: its own vote would wait for the disk, too. Where it is stuck altogether,
// it sends no more (transport.append), and says that it does not lead (knows), as if it were gone. tell: it logs that.
func (i *instance) evade(tell bool) {
	if i.stuck() {
		if tell {
			i.group.host.log.Warn("leads, and its disk does not end a write", "shard", i.group.id.Shard, "term", i.group.store.Term(), "silent", i.silent())
		}
		return
	}
	term, others := i.raft.CurrentTerm(), 0
	voters, _ := i.voters()
	for _, v := range voters {
		if _, ok := i.takes(v, term); ok {
			others++
		}
	}
	if tell {
		i.group.host.log.Warn("leads, and its disk does not end a sync", "shard", i.group.id.Shard, "term", term, "others", others)
	}
	if others <= len(voters)/2 || !i.evading.CompareAndSwap(false, true) {
		return
	}
	i.wg.Go(func() {
		defer i.evading.Store(false)
		i.yield()
	})
}

// barrier returns once all entries of former terms, and one of this, are applied.
func (i *instance) barrier() error {
	if bugReadyAtElection.on() {
		return nil
	}
	return i.raft.Barrier(0).Error()
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
	return h.clocks.median(h.now(), h.cfg.Node, i.members().nodes)
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

// members is a configuration, read once for all who ask about it.
type members struct {
	servers  []raft.Server
	voters   []ReplicaID
	self     bool     // this replica is a voter
	nodes    []string // of the voters
	learners []string // nodes of the others
}

// members returns the latest configuration, which is not to be changed. The library hands out the same servers as long as that is the latest.
func (i *instance) members() *members {
	servers := i.raft.GetConfiguration().Configuration().Servers
	if m := i.latest.Load(); m != nil && len(m.servers) == len(servers) && (len(servers) == 0 || &m.servers[0] == &servers[0]) {
		return m
	}
	m := &members{servers: servers}
	for _, s := range servers {
		r, err := ParseReplicaID(string(s.ID))
		switch {
		case err != nil:
		case s.Suffrage == raft.Voter:
			m.voters, m.nodes = append(m.voters, r), append(m.nodes, r.Node)
			m.self = m.self || r == i.group.id
		default:
			m.learners = append(m.learners, r.Node)
		}
	}
	m.voters, m.nodes, m.learners = slices.Clip(m.voters), slices.Clip(m.nodes), slices.Clip(m.learners)
	i.latest.Store(m)
	return m
}

// voters returns the voters of the latest configuration, which are not to be changed, and whether this replica is one.
func (i *instance) voters() (voters []ReplicaID, self bool) {
	m := i.members()
	return m.voters, m.self
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
	if bugRestoreMerges.on() {
		return "" // what it merged lives on
	}
	// The main goroutine is still busy with the installation: wait until it is past it.
	if err := i.raft.VerifyLeader().Error(); errors.Is(err, raft.ErrRaftShutdown) {
		return ""
	}
	return fmt.Sprintf("snapshot at %d of the leader installed", i.fsm.restored.Load())
}

// snapshotRetry is the pause after a snapshot that failed, as on a full disk.
const snapshotRetry = 5 * time.Second

// catchUpPatience is how many times the usual of commands or entries may be applied until a snapshot is taken although a follower is being
// caught up: the log behind the snapshot that it gets stays, and the disk has one thing less to do.
const catchUpPatience = 4

// catchesUp reports whether a follower is being caught up with a snapshot, or with the log behind it. Where the log takes memory no
// more than usual of it is kept for that.
func (i *instance) catchesUp() bool {
	if i.group.spec.Volatile {
		return false
	}
	term, last := i.raft.CurrentTerm(), i.raft.LastIndex()
	return i.trans.sends.any(func(id raft.ServerID) bool {
		replica, err := ParseReplicaID(string(id))
		return err == nil && i.trans.progress.at(replica, term).Match+i.group.host.cfg.TrailingLogs/2 < last
	})
}

// unreadable has snapshots taken in place of those kept, as one of them can't be read: a member that lacks what is only
// there would wait for ever, and a restart would find the replica's data lost.
func (i *instance) unreadable(err error) {
	if passing(err) {
		return
	}
	if i.fsm.renewals.Swap(retainSnapshots) == 0 {
		i.group.host.log.Error("a snapshot can't be read, and is replaced", "shard", i.group.id.Shard, "err", err)
	}
}

// VolatileShare is how many bytes of entries volatile replicas may have that have memory in all: beside them there is the newest snapshot, a
// new one of some replica, and the log of a quarter of the entries (see snapshotBytes).
func VolatileShare(memory uint64) uint64 { return memory / 5 * 2 }

// leastVolatileSnapshot is the least that is applied between two snapshots of a volatile replica, bytes.
const leastVolatileSnapshot = 1 << 20

// snapshotBytes is how much is applied between two snapshots, and stays in the log behind one. The log of a volatile replica takes
// memory: it is bounded by that of the entries.
func (i *instance) snapshotBytes() uint64 {
	most := i.group.host.cfg.SnapshotBytes
	if m, ok := i.fsm.machine.(*cacheMachine); ok && i.group.spec.Volatile {
		return min(most, max(leastVolatileSnapshot, m.Stats().Limit/8))
	}
	return most
}

// maintain takes a snapshot once enough was applied since the last, or one is to be replaced.
func (i *instance) maintain() {
	h := i.group.host
	if i.snapshots.Load() || i.group.serves() != nil { // nobody is to get a state that may be wrong
		return
	}
	bytes, entries := i.fsm.written.Load(), i.fsm.entries.Load()
	renewals, due := i.fsm.renewals.Load(), i.snapshotBytes()
	if i.group.spec.Volatile {
		i.fsm.due.Store(due) // the limit may be another now
	}
	if bytes < due && entries < h.cfg.SnapshotEntries && renewals == 0 || i.fsm.persisting.Load() > 0 ||
		int64(h.mono()) < i.snapshotAfter.Load() {
		return
	}
	if bytes < catchUpPatience*h.cfg.SnapshotBytes && entries < catchUpPatience*h.cfg.SnapshotEntries && renewals == 0 && i.catchesUp() {
		return
	}
	if !i.snapshots.CompareAndSwap(false, true) {
		return
	}
	i.wg.Go(func() {
		defer i.snapshots.Store(false)
		end, ok := i.snapshotTurn()
		if !ok {
			return
		}
		defer end()
		rc, least := i.raft.ReloadableConfig(), uint64(64)
		if i.group.spec.Volatile {
			least = 1 // large entries would take more memory than there is for the log
		}
		// As many trailing entries as fit the snapshot's own trigger in bytes.
		rc.TrailingLogs = min(h.cfg.TrailingLogs, max(least, due/max(1, bytes/max(1, entries))))
		if err := i.raft.ReloadConfig(rc); err != nil {
			h.log.Warn("trailing logs", "shard", i.group.id.Shard, "err", err)
		}
		err := i.raft.Snapshot().Error()
		if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && !errors.Is(err, raft.ErrRaftShutdown) {
			h.log.Warn("no snapshot, trying again later", "shard", i.group.id.Shard, "err", err)
			i.snapshotAfter.Store(int64(h.mono() + snapshotRetry))
		}
		if err == nil && renewals > 0 {
			i.fsm.renewals.CompareAndSwap(renewals, renewals-1)
		}
	})
}

// snapshotTurn waits until a snapshot may be taken, and returns what ends that; false where it is not worth it.
func (i *instance) snapshotTurn() (end func(), ok bool) {
	h := i.group.host
	if !i.group.spec.Volatile {
		select {
		case h.snapshotting <- struct{}{}: // few at a time: they share the disk with the logs
			return func() { <-h.snapshotting }, true
		default:
			return nil, false
		}
	}
	// One at a time has memory. The next follows at once: the log grows in memory meanwhile.
	select {
	case h.inMemory <- struct{}{}:
		return func() { <-h.inMemory }, true
	case <-i.quit:
		return nil, false
	}
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

// readBarrier returns once a read of this replica, which leads, is linearizable, and what confirmed that. probe: no lease may.
func (i *instance) readBarrier(ctx context.Context, probe bool) (ReadPath, error) {
	if i.ready.Load() == 0 && !bugStaleOwner.on() {
		return "", i.notLeader()
	}
	switch {
	case bugLocalReads.on(), bugStaleOwner.on():
		return ReadProbe, nil
	case bugVerifyLeader.on():
		if err := i.raft.VerifyLeader().Error(); err != nil {
			return "", i.notLeader()
		}
		return ReadProbe, nil
	}
	began := i.group.host.mono()
	visible, path, err := i.confirm(ctx, probe)
	if err != nil {
		return "", err
	}
	if err := i.fsm.applied.wait(ctx, i.trans.ctx.Done(), visible); err != nil {
		return "", err
	}
	i.confirmed(began)
	return path, nil
}
