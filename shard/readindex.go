package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Reads on followers, and reads that may be old (R12).
//
// A follower's linearizable read asks the leader for a read index: the index that a read of the leader's
// own would have to see (probe.go), confirmed by a quorum after the question came. Readers gather in an
// open round. The round closes when its question is made, so after its last reader arrived; whoever comes
// later goes with the next. One question is in flight at a time. When the answer is here and this
// replica's state machine has applied the index, its readers see all that was acknowledged before they
// arrived: the quorum that confirmed the leader was asked after the question came, so after they arrived
// (that is the argument of probe.go, with the question as the reader).
//
// The question names the replica that asks and the one that it takes for the leader. It is answered only
// by that one, only while it leads, and only to a replica of its configuration: one that was removed gets
// no confirmation of a state that nobody feeds any more. The answer names the generation of the state it
// is about; a state of another generation is no ground for a read.
//
// A follower learns late what is committed: by the next entry, or by the library's commit timeout. So the
// leader waits a moment until the follower is known to have the index in its log, and its answer says what
// is committed, as an empty AppendEntries would: with the entry's term, so that the follower's instance
// compares its log before it believes it. The follower hands that to its instance where it is behind.
//
// Time: the answer carries the stamp that the leader would give now. An entry that is due by it, and not
// dead by the log clock, has to be seen dead by all who read later, wherever: that takes an entry in the
// log, so such a read is left to the leader (R2).
//
// A read that may be old needs no question while the replica is known to be fresh enough: fresh is the
// time, on this node's monotonic clock, when the latest question that was confirmed and whose index is
// applied was made; what the replica shows is at least as new as that moment. It belongs to the
// instance: a new one knows nothing of how fresh it is until it has asked.

const (
	// readIndexTimeout is how long a leader may take for an answer.
	readIndexTimeout = time.Second
	// followLook is how often a question that takes long is looked after.
	followLook = 20 * time.Millisecond
	// maxReadLag is how many entries a follower may have yet to apply for a read to wait for them;
	// beyond it the read goes to the leader.
	maxReadLag = 1000
	// catchUpTime is how long a read waits for it otherwise.
	catchUpTime = 300 * time.Millisecond
	// matchPatience is how long the leader waits until the follower has the index in its log.
	matchPatience = 200 * time.Millisecond
)

// readIndex is what a leader answers.
type readIndex struct {
	leader     string // node
	visible    uint64 // index that must have been applied
	generation uint64 // of the leader's state; 0 where it has none
	now        uint64 // stamp that the leader would give, 0 where the state has no clock
	asked      time.Duration

	// What the leader knows to be committed in its term, and that entry's term; 0 where it is not told.
	term, commit, commitTerm uint64
}

// indexRound is a set of readers that one question serves.
type indexRound struct {
	done  chan struct{} // closed when decided
	probe bool          // one of its readers wants no lease to be the ground
	// Set before done is closed.
	readIndex
	err error
}

// followerReads are the rounds of one Raft instance, and how fresh it is known to be. A goroutine asks
// while there are rounds; the instance waits for it.
type followerReads struct {
	inst *instance

	fresh atomic.Int64 // monotonic time + 1, see above; 0: nothing was confirmed yet

	mu       sync.Mutex // guards following
	open     *indexRound
	asking   bool
	told     *readIndex // to be learnt from; nil: none
	learning bool
}

// join returns a read index that was asked for after the call began.
func (q *followerReads) join(ctx context.Context, probe bool) (readIndex, error) {
	q.mu.Lock()
	r := q.open
	if r == nil {
		r = &indexRound{done: make(chan struct{})}
		q.open = r
	}
	r.probe = r.probe || probe
	if !q.asking {
		if !q.inst.enter() {
			q.open = nil
			q.mu.Unlock()
			return readIndex{}, ErrStopped
		}
		q.asking = true
		go q.run()
	}
	q.mu.Unlock()
	select {
	case <-r.done:
		return r.readIndex, r.err
	case <-ctx.Done():
		return readIndex{}, ErrDeadline
	case <-q.inst.trans.ctx.Done():
		return readIndex{}, ErrStopped
	}
}

// run asks until nobody waits.
func (q *followerReads) run() {
	defer q.inst.wg.Done()
	for {
		q.mu.Lock()
		r := q.open
		q.open = nil // from here on its readers are fixed
		q.asking = r != nil
		q.mu.Unlock()
		if r == nil {
			return
		}
		r.readIndex, r.err = q.inst.askReadIndex(r.probe)
		close(r.done)
		if r.err == nil {
			q.learn(r.readIndex)
		}
	}
}

// learn has the instance learn what is committed, the newest that it was told. Its main goroutine may be in
// a disk write, and the next question does not wait for that.
func (q *followerReads) learn(x readIndex) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told = &x
	if q.learning || !q.inst.enter() {
		return
	}
	q.learning = true
	go func() {
		defer q.inst.wg.Done()
		for {
			q.mu.Lock()
			x := q.told
			q.told = nil
			q.learning = x != nil
			q.mu.Unlock()
			if x == nil {
				return
			}
			q.inst.learnCommit(*x)
		}
	}()
}

// askReadIndex asks the leader. Errors refuse: a question changes nothing.
func (i *instance) askReadIndex(probe bool) (readIndex, error) {
	_, id := i.raft.LeaderWithID()
	leader, err := ParseReplicaID(string(id))
	if err != nil || leader == i.group.id {
		return readIndex{}, i.notLeader()
	}
	h := i.group.host
	p := h.peer(leader.Node)
	if p == nil || time.Since(h.Heard(leader.Node)) > 2*pingInterval {
		return readIndex{}, fmt.Errorf("%w: the leader, %s, was not heard lately", ErrUnreachable, leader.Node)
	}
	ctx, cancel := context.WithTimeout(i.trans.ctx, readIndexTimeout)
	defer cancel()
	defer i.whileFollowing(id, cancel)()
	asked := h.mono()
	body := appendDuration(nil, readIndexTimeout)
	body = binary.AppendUvarint(body, uint64(i.group.id.Shard))
	body = appendString(body, i.group.id.String())
	body = appendString(body, leader.String())
	body = appendBool(body, probe)
	answer, err := p.call(ctx, frameIndex, body, false)
	var notLeader *NotLeaderError
	switch {
	case errors.As(err, &notLeader), errors.Is(err, ErrOverloaded):
		return readIndex{}, err
	case errors.Is(err, ErrOutcomeUnknown), errors.Is(err, ErrDeadline), errors.Is(err, ErrUnreachable):
		return readIndex{}, fmt.Errorf("%w: no read index from %s: %v", ErrUnreachable, leader.Node, err)
	case err != nil:
		return readIndex{}, fmt.Errorf("%w: no read index from %s: %v", ErrNoLeader, leader.Node, err)
	}
	r := reader{b: answer}
	x := readIndex{leader: leader.Node, visible: r.uint(), generation: r.uint(), now: r.uint(), asked: asked,
		term: r.uint(), commit: r.uint(), commitTerm: r.uint()}
	if r.err != nil {
		return readIndex{}, fmt.Errorf("%w: read index of %s: %v", ErrNoLeader, leader.Node, r.err)
	}
	return x, nil
}

// whileFollowing calls cancel once this replica follows another leader, or none, or is being stopped, unless
// the function that it returns was called before: there is no use in waiting for the answer of one that was deposed.
func (i *instance) whileFollowing(leader raft.ServerID, cancel func()) (end func()) {
	var mu sync.Mutex // guards t, and the end
	var t *time.Timer
	ended := false
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(followLook, func() {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return
		}
		select {
		case <-i.quit:
			cancel()
			return
		default:
		}
		if _, now := i.raft.LeaderWithID(); now != leader {
			cancel()
			return
		}
		t.Reset(followLook)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		t.Stop()
	}
}

// learnCommit hands to this instance what its leader said to be committed, where it does not know it and
// has it in its log.
func (i *instance) learnCommit(x readIndex) {
	if x.commitTerm == 0 || x.commit <= i.commit() || x.commit > i.raft.LastIndex() {
		return
	}
	_, id := i.raft.LeaderWithID()
	if leader, err := ParseReplicaID(string(id)); err != nil || leader.Node != x.leader {
		return
	}
	ctx, cancel := context.WithTimeout(i.trans.ctx, readIndexTimeout)
	defer cancel()
	_, _ = i.trans.deliver(ctx, &raft.AppendEntriesRequest{RPCHeader: header(string(id)), Term: x.term,
		PrevLogEntry: x.commit, PrevLogTerm: x.commitTerm, LeaderCommitIndex: x.commit}, nil)
}

// serveReadIndex answers a follower's question.
func (h *Host) serveReadIndex(ctx context.Context, from string, age time.Duration, body []byte) ([]byte, error) {
	r := reader{b: body}
	timeout, id, source, target, probe := r.duration(), ID(r.uint()), r.string(), r.string(), r.bool()
	if r.err != nil {
		return nil, r.err
	}
	asks, err := ParseReplicaID(source)
	if err != nil || asks.Node != from || asks.Shard != id {
		return nil, fmt.Errorf("source %q does not fit node %s and shard %d", source, from, id)
	}
	if timeout <= age {
		return nil, ErrDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, timeout-age)
	defer cancel()
	g := h.Group(id)
	if g == nil || g.id.String() != target {
		return nil, fmt.Errorf("%w: no replica %s here", ErrUnknownShard, target)
	}
	i := g.instance()
	if i == nil {
		return nil, ErrStopped
	}
	if i.ready.Load() == 0 {
		return nil, i.notLeader()
	}
	if err := g.serves(); err != nil {
		return nil, err
	}
	if !i.member(source) {
		return nil, fmt.Errorf("%w: %s is no member", ErrUnknownShard, source)
	}
	visible, _, err := i.confirm(ctx, probe)
	if err != nil {
		return nil, err
	}
	term := i.ready.Load()
	i.trans.progress.await(ctx, raft.ServerID(source), term, visible)
	var generation, now, commitTerm uint64
	if m, ok := i.fsm.machine.(generational); ok {
		generation = m.Generation()
	}
	if stamps := i.stamps.Load(); stamps != nil {
		now = stamps.peek()
	}
	answer := binary.AppendUvarint(nil, visible)
	answer = binary.AppendUvarint(answer, generation)
	answer = binary.AppendUvarint(answer, now)
	commit := i.commit()
	var entry raft.Log
	if g.store.GetLog(commit, &entry) == nil && i.ready.Load() == term {
		commitTerm = entry.Term
	}
	answer = binary.AppendUvarint(answer, term)
	answer = binary.AppendUvarint(answer, commit)
	return binary.AppendUvarint(answer, commitTerm), nil
}

// member reports whether a replica is in the latest configuration.
func (i *instance) member(id string) bool {
	for _, s := range i.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) == id {
			return true
		}
	}
	return false
}

// followerBarrier returns once a read of this replica is linearizable, and on which ground.
func (i *instance) followerBarrier(ctx context.Context, probe bool) (readIndex, error) {
	if m, ok := i.fsm.machine.(generational); ok && bugFollowerLocal.on() {
		return readIndex{generation: m.Generation()}, nil
	}
	x, err := i.follows.join(ctx, probe)
	if err != nil {
		return readIndex{}, err
	}
	if bugNoReadIndex.on() {
		return x, nil
	}
	if applied := i.fsm.applied.at(); x.visible > applied+maxReadLag {
		return readIndex{}, &NotLeaderError{Leader: x.leader}
	}
	wait, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	if err := i.fsm.applied.wait(wait, i.trans.ctx.Done(), x.visible); err != nil {
		if ctx.Err() == nil && errors.Is(err, ErrDeadline) {
			return readIndex{}, &NotLeaderError{Leader: x.leader}
		}
		return readIndex{}, err
	}
	if m, ok := i.fsm.machine.(generational); ok && m.Generation() != x.generation {
		return readIndex{}, &NotLeaderError{Leader: x.leader} // its state is of another life of the shard
	}
	i.confirmed(x.asked)
	return x, nil
}

// confirmed notes that the state is at least as new as that moment.
func (i *instance) confirmed(at time.Duration) {
	for {
		known := i.follows.fresh.Load()
		if int64(at)+1 <= known || i.follows.fresh.CompareAndSwap(known, int64(at)+1) {
			return
		}
	}
}

// fresh is the moment, on this node's monotonic clock, that the state is at least as new as; false: that
// is not known.
func (i *instance) fresh() (at time.Duration, known bool) {
	f := i.follows.fresh.Load()
	return time.Duration(f - 1), f > 0
}

// freshen makes the state known to be no older than the call, by whatever this replica is.
func (i *instance) freshen(ctx context.Context, probe bool) (ReadPath, error) {
	if i.ready.Load() != 0 {
		return i.readBarrier(ctx, probe)
	}
	_, err := i.followerBarrier(ctx, probe)
	return ReadFollower, err
}
