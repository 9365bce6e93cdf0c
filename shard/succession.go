package shard

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Succession: how soon another leads once a leader is lost.
//
// The library's follower looks after its leader once in one to two heartbeat timeouts, so it may take three until it
// stands. Its pre-vote is then refused by all whose own look is still to come, and it waits an election timeout or two
// before it asks again. Here a follower that misses its leader asks the other voters, and stands as soon as enough of
// them miss it too, or the leader itself says that it does not lead:
//
//	the leader's process is gone       its links break and its address refuses new ones: at once
//	the process was started again      the links break, and it says that it does not lead: at once
//	the machine is gone, or silent     nobody has heard anything of that node for HeartbeatTimeout
//	it leads no more, or is stuck      no heartbeat for the group's patience
//
// A node is heard with anything that comes from it, pings among others, so one silence tells of all that it led. The patience of a
// group is HeartbeatTimeout where shards are few. Of a thousand the heartbeats would cost more than all else, and say no more than
// the node's own: there it is longer (Host.SetShards).
//
// A group that knows of no leader, as its members have voted since they heard one, has none whose heartbeats could be rare: its patience
// begins with HeartbeatTimeout, too, however many shards there are. It doubles with each vote that led to nothing, up to what it is otherwise: where all
// is slow, elections must not be asked for sooner than they can end.
//
// One that misses its leader alone does not stand, nor one that could not win. Of several the one with the longest log goes
// first, then the one that comes first in an order that differs from shard to shard: so that the votes are not split, and
// that a lost node's shards do not all go to the same one. One that stands already is waited for. Where it does not come to
// it, the next one goes, and where all that fails, the library's own timeouts are still there: raftPatience makes them the
// last resort.
//
// A candidate whose votes do not come, as they were lost or given to another one, would wait for the library's election timeout, which can't
// be shorter than what rare heartbeats ask for: two that stood at the same time would wait for ten seconds. So its candidacy is ended
// once it has lasted for ElectionTimeout, or half of the group's patience where that is longer, by a request for a vote in the next term that nobody can win (endCandidacy), and it looks after its
// leader like any follower. Each candidacy that fails makes the next one twice as long, so that where all is slow there are not ever more of them.
//
// After one that failed, whoever stands does so a random time later (5.2): what those find that can't ask each other, as the links between them break, they find at
// the same time.
//
// Nothing here decides who leads: whoever stands needs the votes of a majority, as ever, and any replica may stand at any
// time (Ongaro and Ousterhout 2014, 5.2; that it need not wait is the point of Ongaro 2014, 3.10, TimeoutNow). The votes are
// asked for as after a transfer, so voters give them although they may take the lost one for their leader.

const (
	// missesAfter is the part of a group's patience, two in so many, after which a silent leader is asked about. A heartbeat
	// comes each quarter at the latest, later by what it waits for company and by the way.
	missesAfter = 5
	// askPause is the pause between two questions of a replica about its leader; it doubles, up to half of HeartbeatTimeout, once
	// the leader is lost.
	askPause = 50 * time.Millisecond
	// askTimeout is how long a voter may take to answer, the way there and back included; one that enough others answer is waited for no longer than askGrace.
	askTimeout = 500 * time.Millisecond
	askGrace   = 30 * time.Millisecond
	// maxDeferred is how often a replica lets another go first.
	maxDeferred = 4
	// raftPatience is how long the library waits, in quarters of HeartbeatTimeout.
	raftPatience = 5

	// hurryPatience, in HeartbeatTimeouts, is how long the replicas of a new group leave it to the one that is to hurry (hurry.go). Its
	// node may be gone.
	hurryPatience = 2
	// mostFailed is how often the time that an election is given doubles.
	mostFailed = 3

	// lookCost bounds what the looks after all groups take, together, to a few hundredths of a processor.
	lookCost = 50 * time.Microsecond

	methodSuccession = "shard.succession"
)

// successionQuestion asks a voter what it knows of the shard's leader.
type successionQuestion struct {
	Source, Target string // server ids
	Term           uint64
}

// successionAnswer is what a voter knows.
type successionAnswer struct {
	Term   uint64 // of the replica that answers
	Leads  bool   // it leads itself
	Lost   bool   // it has lost its leader
	Able   bool   // it would stand
	Bound  bool   // it promised its leader to take no part in an election yet (readlease.go), or can't, as its disk is stuck
	Stands bool   // it stands already; that it asks for votes is heard only when its disk has its own
	// Its last entry.
	LastTerm, LastIndex uint64
}

// compareLog tells whose log is longer, as voters do (5.4.1).
func (a successionAnswer) compareLog(b successionAnswer) int {
	return cmp.Or(cmp.Compare(a.LastTerm, b.LastTerm), cmp.Compare(a.LastIndex, b.LastIndex))
}

// succession is how long a replica misses its leader; it belongs to an instance.
type succession struct {
	// heard is the monotonic time when an entry or heartbeat of a leader came, or this replica gave its vote to one that is to
	// have time to lead; 0 = never.
	heard atomic.Int64
	// preVote is the term for which the library asked last whether this replica would get votes, 0 once it was told to stand, and
	// wouldWin the last one for which a voter said yes.
	preVote, wouldWin atomic.Uint64
	// failed is how often this replica has voted, or stood in vain, since a leader was known.
	failed atomic.Int32

	mu       sync.Mutex // guards following
	asking   bool
	asked    time.Duration // when the voters were asked last
	since    int64         // heard, as it was then
	tries    int           // questions since then that this replica asked while it had lost its leader
	deferred int           // and how often it let another go first

	candidacy candidacy // the last one that was seen
}

// candidacy is one that lasts: a replica stands in a term.
type candidacy struct {
	term  uint64
	since time.Duration
}

// hear notes that a leader was heard.
func (i *instance) hear() { i.heirs.heard.Store(int64(i.group.host.mono()) + 1) }

// succeed looks after the leaders of all replicas here, whenever one has been silent for too long or a node is gone.
func (h *Host) succeed() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-h.missing:
		case <-h.ctx.Done():
			return
		}
		h.mu.RLock()
		groups := slices.Collect(maps.Values(h.groups))
		h.mu.RUnlock()
		next := h.cfg.HeartbeatTimeout
		for _, g := range groups {
			if i := g.instance(); i != nil {
				next = min(next, i.lookAfterLeader())
			}
		}
		// Of many groups some are always due: they are looked at together.
		timer.Reset(max(next, askPause/10, time.Duration(len(groups))*lookCost))
	}
}

// lookAfterLeader asks about the leader if it is missed, and returns in how long to look again.
func (i *instance) lookAfterLeader() time.Duration {
	timeout, patience := i.group.host.cfg.HeartbeatTimeout, i.patience()
	switch i.raft.State() {
	case raft.Follower:
	case raft.Candidate:
		return i.lookAfterCandidacy()
	default:
		i.heirs.failed.Store(0)
		return timeout
	}
	now, heard := i.group.host.mono(), i.heirs.heard.Load()
	signs, silent, misses := i.signs(now), now-time.Duration(heard), patience*2/missesAfter
	if !signs.gone && !signs.broken && signs.left > 0 && heard != 0 && silent < misses {
		if i.leader() != "" {
			i.heirs.failed.Store(0)
		}
		return min(misses-silent, signs.left)
	}
	if i.group.stopped.Load() != nil || !i.votes() {
		return timeout
	}
	if left := i.group.began + hurryPatience*timeout - now; left > 0 && i.group.store.Term() <= 1 { // the first leader is hurry's business
		return min(left, timeout)
	}
	if left := i.group.promise.left(now); left > 0 {
		return left
	}
	s := &i.heirs
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since != heard {
		s.since, s.tries, s.deferred = heard, 0, 0
	}
	pause := min(askPause<<min(s.tries, 10), timeout/2)
	lost := signs.gone || signs.left <= 0 || heard == 0 || silent >= patience
	if s.tries == 0 && !lost {
		pause = min(timeout/8, patience-silent) // it may be late, and so may the leaders of all other shards there
	}
	switch {
	case s.asking:
		return askPause
	case s.asked != 0 && now-s.asked < pause && (s.tries > 0 || !signs.gone):
		return pause - (now - s.asked)
	case !i.enter():
		return timeout
	}
	if lost {
		s.tries++
	}
	s.asking, s.asked = true, max(now, 1)
	go func() {
		defer i.wg.Done()
		i.stand()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asking = false
	}()
	return pause
}

// leader is the server id of the leader that this replica follows, "" for none.
func (i *instance) leader() raft.ServerID {
	_, id := i.raft.LeaderWithID()
	return id
}

// patience is how long this replica's leader may be silent, or whoever it voted for since.
func (i *instance) patience() time.Duration {
	if i.leader() == "" {
		return min(i.group.patience, i.heirs.slower(i.group.host.cfg.HeartbeatTimeout, 1))
	}
	return i.group.patience
}

// slower is how long d becomes by the elections that led to nothing, of which the first few don't count.
func (s *succession) slower(d time.Duration, first int32) time.Duration {
	return d << min(max(s.failed.Load()-first, 0), mostFailed)
}

// leaderPeer is the node of the leader that this replica follows, nil for none.
func (i *instance) leaderPeer() *peer {
	_, id := i.raft.LeaderWithID()
	r, err := ParseReplicaID(string(id))
	if err != nil || r == i.group.id {
		return nil
	}
	return i.group.host.peer(r.Node)
}

// leaderSigns are what this node knows of the leader's node.
type leaderSigns struct {
	gone   bool          // its address refuses links, and the leader was not heard since
	broken bool          // a link to it ended, and the leader was not heard since: a reason to ask
	left   time.Duration // for how long it may be silent yet until all that it leads counts as lost; not above 0: it does
}

func (i *instance) signs(now time.Duration) leaderSigns {
	p, timeout := i.leaderPeer(), i.group.host.cfg.HeartbeatTimeout
	if p == nil {
		return leaderSigns{left: timeout}
	}
	heard := i.heirs.heard.Load()
	return leaderSigns{
		gone:   p.refused.Load() > heard,
		broken: p.broke.Load() > heard,
		left:   time.Duration(max(p.heard.Load(), heard)) + timeout - now,
	}
}

// knows is this replica's own answer. A candidate of the library whose pre-vote nobody grants does not stand: voters refuse it as long
// as their own patience is not over, and whoever waited for it would wait for an election timeout.
func (i *instance) knows() successionAnswer {
	a := successionAnswer{Term: i.group.store.Term(), LastIndex: i.raft.LastIndex()}
	var last raft.Log
	if i.group.store.GetLog(a.LastIndex, &last) == nil {
		a.LastTerm = last.Term
	}
	state, heard := i.raft.State(), i.heirs.heard.Load()
	now := i.group.host.mono()
	silent := now - time.Duration(heard)
	a.Leads = state == raft.Leader && !i.silent()
	signs := i.signs(now)
	a.Lost = state != raft.Leader && (heard == 0 || silent >= i.patience() || signs.left <= 0 || signs.gone)
	a.Stands = state == raft.Candidate && i.stands(a.Term)
	stuck := i.diskStuck()
	a.Bound = i.group.promise.left(now) > 0 || stuck
	a.Able = state == raft.Follower && !stuck && i.group.stopped.Load() == nil && i.votes()
	return a
}

// stand asks the other voters, and stands where they miss their leader too.
func (i *instance) stand() {
	heard := i.heirs.heard.Load()
	_, leader := i.raft.LeaderWithID()
	voters, _ := i.voters()
	mine := i.knows()
	answers := i.askVoters(voters, mine)
	if l, err := ParseReplicaID(string(leader)); err == nil {
		if a := answers[l]; a.Leads && a.Term == mine.Term && i.heirs.heard.CompareAndSwap(heard, int64(i.group.host.mono())+1) {
			return // it says so itself: as good as a heartbeat
		}
	}
	switch decide(i.group.id, voters, string(leader), answers) {
	case staysBehind:
		return
	case goesLater:
		if i.heirs.defers() {
			return
		}
	}
	if failed := i.heirs.failed.Load(); failed > 0 && !i.pause(rand.N(askPause<<min(failed, mostFailed))) {
		return
	}
	if i.raft.State() != raft.Follower || i.group.store.Term() != mine.Term || i.heirs.heard.Load() != heard {
		return // somebody leads, or stands
	}
	i.group.host.log.Info("stands for election, as the leader is lost", "shard", i.group.id.Shard, "term", mine.Term, "leader", string(leader))
	// Where Raft is busy for longer, with a leader's entries or a candidate's vote, the answers may not hold any more.
	ctx, cancel := context.WithTimeout(i.trans.ctx, askPause)
	defer cancel()
	i.heirs.preVote.Store(0)
	_, _ = i.trans.deliver(ctx, &raft.TimeoutNowRequest{RPCHeader: header(i.group.id.String())}, nil)
}

// askVoters asks all voters, this replica's own answer being known, and returns what those say that answer in time.
func (i *instance) askVoters(voters []ReplicaID, mine successionAnswer) map[ReplicaID]successionAnswer {
	ctx, cancel := context.WithTimeout(i.trans.ctx, askTimeout)
	type told struct {
		by     ReplicaID
		answer successionAnswer
		err    error
	}
	answers := map[ReplicaID]successionAnswer{i.group.id: mine}
	tells := make(chan told, len(voters))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	missing := 0
	for _, v := range voters {
		if v == i.group.id {
			continue
		}
		missing++
		wg.Go(func() {
			a, err := i.askVoter(ctx, v, mine.Term)
			tells <- told{v, a, err}
		})
	}
	var grace <-chan time.Time
	for ; missing > 0; missing-- {
		select {
		case t := <-tells:
			if t.err == nil {
				answers[t.by] = t.answer
			}
		case <-grace:
			return answers
		case <-i.quit:
			return nil
		}
		if grace == nil && len(answers) > len(voters)/2 {
			timer := time.NewTimer(askGrace)
			defer timer.Stop()
			grace = timer.C
		}
	}
	return answers
}

func (i *instance) askVoter(ctx context.Context, v ReplicaID, term uint64) (a successionAnswer, err error) {
	body, err := json.Marshal(successionQuestion{Source: i.group.id.String(), Target: v.String(), Term: term})
	if err != nil {
		return a, err
	}
	body, err = i.group.host.Call(ctx, v.Node, methodSuccession, body)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(body, &a)
}

// heir is what a replica is to do that has asked about its leader.
type heir int

const (
	staysBehind heir = iota // the leader is not lost, or this replica could not win
	goesLater               // another is to go first
	goesFirst
)

// decide says what a replica is to do by the voters' answers, its own among them. leader is the server id of whom it takes for the leader.
func decide(me ReplicaID, voters []ReplicaID, leader string, answers map[ReplicaID]successionAnswer) heir {
	mine := answers[me]
	lost, behind, denied, first := 0, 0, false, true // behind: those that would give it their votes
	for v, a := range answers {
		if a.Leads && a.Term >= mine.Term {
			return staysBehind
		}
		if a.Lost {
			lost++
		}
		if v.String() == leader { // it answers, and does not lead
			denied = true
		}
		longer := a.compareLog(mine)
		if longer <= 0 && !a.Bound {
			behind++
		}
		if a.Stands && longer >= 0 || a.Able && (longer > 0 || longer == 0 && turn(v, voters) < turn(me, voters)) {
			first = false
		}
	}
	quorum := len(voters)/2 + 1
	switch {
	case !denied && lost < quorum, behind < quorum, mine.Bound:
		return staysBehind
	case !first:
		return goesLater
	}
	return goesFirst
}

// defers counts that another is to go first; false once that was often enough.
func (s *succession) defers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deferred++
	return s.deferred <= maxDeferred
}

// turn is the place of a voter among those whose logs are equally long.
func turn(v ReplicaID, voters []ReplicaID) int {
	nodes := make([]string, len(voters))
	for n, o := range voters {
		nodes[n] = o.Node
	}
	slices.Sort(nodes)
	n := len(nodes)
	return (slices.Index(nodes, v.Node) + int(uint64(v.Shard)%uint64(n))) % n
}

// handleSuccession answers a successionQuestion.
func (h *Host) handleSuccession(_ context.Context, from string, payload []byte) ([]byte, error) {
	var q successionQuestion
	if err := json.Unmarshal(payload, &q); err != nil {
		return nil, fmt.Errorf("question for the leader: %w", err)
	}
	g, err := h.meant(from, q.Source, q.Target)
	if err != nil {
		return nil, err
	}
	i := g.instance()
	if i == nil {
		return nil, ErrStopped
	}
	return json.Marshal(i.knows())
}
