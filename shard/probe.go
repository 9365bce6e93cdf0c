package shard

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Linearizable reads on a leader (R12). hashicorp/raft's VerifyLeader is no ground for them: an
// answer to a request that left before the read came counts as a confirmation of it, and so does a
// learner's.
//
// Readers gather in the open round of their replica. A round closes when a peer's prober takes it:
// only then are the ready term, CommitIndex and the configuration loaded, once, so after its last
// reader arrived. The peers are asked whether that term is still theirs. When a quorum of voters
// said so after the round closed, no leader of a later term existed when its readers arrived (a
// voter persists a term before it votes in it), and everything acknowledged before they arrived is
// at or below the CommitIndex that was loaded.
//
// Each peer has one request in flight, for all replicas of the node pair together; whoever waits
// goes with the next. A peer that hangs holds up nobody whom the others can confirm.

const (
	probeTimeout = time.Second
	// probePause is the wait before a peer that did not confirm is asked again.
	probePause = 30 * time.Millisecond
)

// readRound is a set of readers that are confirmed together.
type readRound struct {
	done chan struct{} // closed when decided
	// Set before done is closed.
	err     error
	visible uint64 // the last index at or below CommitIndex that the state machine sees

	// Guarded by readRounds.mu.
	term uint64
	need int             // further voters that must confirm
	ask  map[string]bool // voters (nodes) that have not confirmed yet
}

// readRounds are the rounds of one Raft instance.
type readRounds struct {
	inst *instance

	mu   sync.Mutex
	open *readRound   // gathers readers; nil = none
	sent []*readRound // closed, undecided
}

// join waits until a read that began before the call is linearizable, and returns the index that
// the state machine must have applied first.
func (q *readRounds) join(ctx context.Context) (visible uint64, err error) {
	q.mu.Lock()
	r := q.open
	if bugLateJoin.on() && len(q.sent) > 0 {
		r = q.sent[len(q.sent)-1]
	}
	fresh := r == nil
	if fresh {
		r = &readRound{done: make(chan struct{})}
		q.open = r
	}
	q.mu.Unlock()
	if fresh {
		q.inst.askPeers(q)
	}
	select {
	case <-r.done:
		return r.visible, r.err
	case <-ctx.Done():
		return 0, ErrDeadline
	case <-q.inst.trans.ctx.Done():
		return 0, ErrStopped
	}
}

// renew asks the peers for what nobody waits for: promises (readlease.go). Where they are asked already, it does nothing.
func (q *readRounds) renew() {
	q.mu.Lock()
	if q.open != nil || len(q.sent) > 0 {
		q.mu.Unlock()
		return
	}
	q.open = &readRound{done: make(chan struct{})}
	q.mu.Unlock()
	q.inst.askPeers(q)
}

// askPeers makes the probers of all voters take the open round. A shard whose only voter is this
// node needs none.
func (i *instance) askPeers(q *readRounds) {
	voters, self := i.voters()
	others := 0
	for _, v := range i.confirmers(voters) {
		if v.Node == i.group.id.Node {
			continue
		}
		others++
		if p := i.group.host.peer(v.Node); p != nil {
			p.probes.add(i)
		}
	}
	if others == 0 && self || i.ready.Load() == 0 {
		q.mu.Lock()
		q.closeLocked()
		q.mu.Unlock()
	}
}

// take closes the open round, and returns the term to ask node about with the rounds that its
// answer will count for.
func (q *readRounds) take(node string) (term uint64, rounds []*readRound) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closeLocked()
	term = q.inst.ready.Load()
	for _, r := range q.sent {
		if r.ask[node] && r.term == term {
			rounds = append(rounds, r)
		}
	}
	return term, rounds
}

// closeLocked ends the gathering of the open round: from here on its readers are fixed, and what
// they may see is loaded.
func (q *readRounds) closeLocked() {
	r, i := q.open, q.inst
	if r == nil {
		return
	}
	q.open = nil
	r.term = i.ready.Load()
	if r.term == 0 || i.group.store.Term() != r.term {
		r.err = i.notLeader()
		close(r.done)
		return
	}
	commit := i.raft.CommitIndex()
	r.visible = i.visible(commit)
	voters, self := i.voters()
	r.need = len(voters)/2 + 1
	if self || bugSelfCounted.on() {
		r.need--
	}
	r.ask = map[string]bool{}
	for _, v := range i.confirmers(voters) {
		if v.Node != i.group.id.Node {
			r.ask[v.Node] = true
		}
	}
	if r.need <= 0 {
		close(r.done)
		return
	}
	q.sent = append(q.sent, r)
}

// confirm counts a voter's answer for the rounds it was asked about.
func (q *readRounds) confirm(node string, rounds []*readRound) {
	q.mu.Lock()
	defer q.mu.Unlock()
	decided := false
	for _, r := range rounds {
		if r.need <= 0 || !r.ask[node] {
			continue // decided meanwhile
		}
		delete(r.ask, node)
		if r.need--; r.need == 0 {
			close(r.done)
			decided = true
		}
	}
	if decided {
		q.sweepLocked()
	}
}

func (q *readRounds) sweepLocked() {
	left := q.sent[:0]
	for _, r := range q.sent {
		if r.need > 0 {
			left = append(left, r)
		}
	}
	clear(q.sent[len(left):])
	q.sent = left
}

// fail ends all rounds: the instance stopped leading or is closing.
func (q *readRounds) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range append(q.sent, q.open) {
		if r != nil && (r == q.open || r.need > 0) {
			r.need = 0
			r.err = err
			close(r.done)
		}
	}
	q.sent, q.open = nil, nil
}

// wants reports whether node still has something to confirm.
func (q *readRounds) wants(node string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open != nil {
		return true
	}
	for _, r := range q.sent {
		if r.ask[node] {
			return true
		}
	}
	return false
}

// probeQueue holds the instances that want something of a peer.
type probeQueue struct {
	wake chan struct{}
	mu   sync.Mutex
	want map[*instance]struct{}
}

func newProbeQueue() probeQueue {
	return probeQueue{wake: make(chan struct{}, 1), want: map[*instance]struct{}{}}
}

// add makes the peer be asked for i, unless i has ended: nothing may keep it, it holds a cache.
func (q *probeQueue) add(i *instance) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-i.quit: // forget comes after it, and under the same lock
		return
	default:
	}
	q.want[i] = struct{}{}
	notify(q.wake)
}

// forget drops an instance that has ended.
func (q *probeQueue) forget(i *instance) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.want, i)
}

func (q *probeQueue) take() []*instance {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]*instance, 0, len(q.want))
	for i := range q.want {
		all = append(all, i)
	}
	clear(q.want)
	return all
}

type probeItem struct {
	inst   *instance
	target ReplicaID
	term   uint64
	rounds []*readRound
}

// probeLoop confirms rounds with one peer: one request in flight, the next takes all who wait.
func (p *peer) probeLoop(stop <-chan struct{}) {
	for {
		select {
		case <-p.probes.wake:
		case <-stop:
			return
		}
		var items []probeItem
		body := []byte(nil)
		for _, i := range p.probes.take() {
			term, rounds := i.reads.take(p.node)
			target, ok := i.voterOn(p.node)
			if !ok || len(rounds) == 0 {
				continue
			}
			items = append(items, probeItem{i, target, term, rounds})
			body = binary.AppendUvarint(body, uint64(i.group.id.Shard))
			body = appendString(body, target.String())
			body = binary.AppendUvarint(body, term)
			lease := time.Duration(0)
			if i.leases() {
				lease = leaseTime
			}
			body = appendDuration(body, lease)
		}
		if len(items) == 0 {
			continue
		}
		body = append(binary.AppendUvarint(nil, uint64(len(items))), body...)
		asked := p.host.mono()
		ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
		answer, err := p.call(ctx, frameProbe, body, false)
		cancel()
		r := reader{b: answer}
		for _, it := range items {
			term, promised := uint64(0), false
			if err == nil {
				term, promised = r.uint(), r.bool()
			}
			if promised && term == it.term {
				it.inst.lease.promised(it.target, term, asked)
			}
			switch {
			case term == it.term:
				it.inst.reads.confirm(p.node, it.rounds)
			case term > it.term:
				it.inst.kick()
			}
			switch {
			case !it.inst.reads.wants(p.node):
			case term == it.term:
				p.probes.add(it.inst)
			default: // this replica can't confirm now; the others of the node must not wait for it
				time.AfterFunc(probePause, func() { p.probes.add(it.inst) })
			}
		}
	}
}

// answerProbe says, for each replica asked about, the highest term it ever persisted; 0 where the
// replica is not here or has no instance running. And whether it promised the leader of the term that was asked about what a lease
// needs (readlease.go), where that counts on it for no longer than it binds.
func (h *Host) answerProbe(body []byte) ([]byte, error) {
	r := reader{b: body}
	n := r.uint()
	if r.err != nil || n > uint64(len(body)) {
		return nil, errShortFrame
	}
	answer := make([]byte, 0, 3*n)
	for range n {
		shard, target, asked, lease := ID(r.uint()), r.string(), r.uint(), r.duration()
		if r.err != nil {
			return nil, r.err
		}
		term, promised := uint64(0), false
		if g := h.Group(shard); g != nil && g.id.String() == target && g.instance() != nil {
			promised = lease > 0 && lease <= leaseTime && g.promise.give(h.mono(), asked, g.store.Term)
			term = g.store.Term()
		}
		answer = appendBool(binary.AppendUvarint(answer, term), promised)
	}
	return answer, nil
}

// visible is the last index at or below commit that the state machine sees. The library never
// shows it barriers and no-ops, so waiting for the commit index itself could hang.
func (i *instance) visible(commit uint64) uint64 {
	applied := i.fsm.applied.at()
	for ; commit > applied; commit-- {
		kind, ok := i.group.store.Kind(commit)
		if !ok { // compacted since: then all that the state machine sees of it was applied, but after the look above
			return i.fsm.applied.at()
		}
		if kind == raft.LogCommand || kind == raft.LogConfiguration {
			return commit
		}
	}
	return commit
}
