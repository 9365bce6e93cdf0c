package shard

import (
	"context"
	"encoding/binary"
	"slices"
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
// goes with the next. As many are asked as must answer, the same for all replicas of a node as far as
// they vote there, and all others as soon as one of them fails to, or takes long: a peer that hangs
// holds up few, and not for long. To ask all at once would have all answer what one answer settles.

const (
	probeTimeout = time.Second
	// probePatience is how long a round waits for those who were asked before all others are asked too.
	probePatience = 10 * time.Millisecond
	// slowTime is how long one who took longer is not among those who are asked first.
	slowTime = time.Second
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
	began time.Duration // monotonic
	all   bool          // all are asked
	term  uint64
	need  int             // further voters that must confirm
	ask   map[string]bool // voters (nodes) that have not confirmed yet
}

// readRounds are the rounds of one Raft instance.
type readRounds struct {
	inst *instance

	mu    sync.Mutex
	open  *readRound   // gathers readers; nil = none
	sent  []*readRound // closed, undecided
	look  *time.Timer  // when rounds are looked at that may take long
	looks bool         // look is set
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
		r = q.beginLocked()
	}
	q.mu.Unlock()
	if fresh {
		q.inst.askPeers(false)
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
	q.beginLocked()
	q.mu.Unlock()
	q.inst.askPeers(false)
}

// beginLocked opens a round.
func (q *readRounds) beginLocked() *readRound {
	r := &readRound{done: make(chan struct{}), began: q.inst.group.host.mono()}
	q.open = r
	if !q.looks {
		q.lookLaterLocked()
	}
	return r
}

func (q *readRounds) lookLaterLocked() {
	q.looks = true
	if q.look == nil {
		q.look = time.AfterFunc(probePatience, q.lookAfter)
		return
	}
	q.look.Reset(probePatience)
}

// lookAfter has all peers asked for rounds that take long.
func (q *readRounds) lookAfter() {
	q.mu.Lock()
	q.looks = false
	now := q.inst.group.host.mono()
	late := false
	for _, r := range append(q.sent, q.open) {
		if r == nil || r.all {
			continue
		}
		if now-r.began < probePatience {
			if !q.looks {
				q.lookLaterLocked()
			}
			continue
		}
		late, r.all = true, true
	}
	q.mu.Unlock()
	if late {
		q.inst.blame()
		q.inst.askPeers(true)
	}
}

// blame notes which peers take long to answer.
func (i *instance) blame() {
	now := i.group.host.mono()
	for _, p := range i.toAsk(true) {
		if since := p.asked.Load(); since != 0 && now-time.Duration(since-1) >= probePatience {
			p.slow.Store(int64(now + slowTime))
		}
	}
}

// askPeers makes the probers of voters take the open round, and of all voters those that are undecided. A shard whose only
// voter is this node needs none.
func (i *instance) askPeers(all bool) {
	peers := i.toAsk(all)
	for _, p := range peers {
		p.probes.add(i)
	}
	if len(peers) > 0 && i.ready.Load() != 0 {
		return
	}
	if m := i.members(); i.ready.Load() == 0 || m.self && len(m.voters) == 1 {
		i.reads.mu.Lock()
		i.reads.closeLocked()
		i.reads.mu.Unlock()
	}
}

// toAsk returns the peers that are asked at first, or all. They are taken from the configuration's order, beginning behind this
// node, so that each node of a few has another one to ask.
func (i *instance) toAsk(all bool) []*peer {
	voters, self := i.voters()
	need := needed(len(voters), self)
	list := i.confirmers(voters)
	h := i.group.host
	own := slices.IndexFunc(list, func(v ReplicaID) bool { return v.Node == h.cfg.Node })
	peers := make([]*peer, 0, len(list))
	prompt := 0
	now := int64(h.mono())
	for k := range list {
		v := list[(own+1+k)%len(list)]
		if v.Node == h.cfg.Node {
			continue
		}
		p := h.peer(v.Node)
		if p == nil {
			continue
		}
		peers = append(peers, p)
		if now >= p.slow.Load() && p.linked() {
			peers[prompt], peers[len(peers)-1] = p, peers[prompt]
			prompt++
		}
	}
	if all || prompt < need {
		return peers
	}
	return peers[:need]
}

// needed is how many others must confirm what this replica believes, one of so many voters or none of them.
func needed(voters int, self bool) int {
	need := voters/2 + 1
	if self || bugSelfCounted.on() {
		need--
	}
	return need
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
	voters, self := i.voters() // before the look at the term: so they are not those of a later leader
	if r.term == 0 || i.group.store.Term() != r.term {
		r.err = i.notLeader()
		close(r.done)
		return
	}
	commit := i.commit()
	r.visible = i.visible(commit)
	r.need = needed(len(voters), self)
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

// spread has all voters asked for rounds that one of them did not confirm.
func (q *readRounds) spread(rounds []*readRound) {
	q.mu.Lock()
	undecided := false
	for _, r := range rounds {
		if r.need > 0 && !r.all {
			undecided, r.all = true, true
		}
	}
	q.mu.Unlock()
	if undecided {
		q.inst.askPeers(true)
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

// wants reports whether a peer still has something to confirm.
func (q *readRounds) wants(p *peer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	asked := false // without a look at who is
	for _, r := range q.sent {
		if r.ask[p.node] && r.all {
			return true
		}
		asked = asked || r.ask[p.node]
	}
	if q.open != nil && q.open.all {
		return true
	}
	return (asked || q.open != nil) && slices.Contains(q.inst.toAsk(false), p)
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
		p.asked.Store(int64(asked) + 1)
		ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
		answer, err := p.call(ctx, frameProbe, body, false)
		cancel()
		p.asked.Store(0)
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
			if term != it.term {
				p.slow.Store(int64(p.host.mono() + slowTime))
				it.inst.reads.spread(it.rounds)
			}
			switch {
			case !it.inst.reads.wants(p):
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
