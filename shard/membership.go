package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Changes of a group's members. Each is made by the leader, one at a time, and only upon the committed
// configuration that it was planned from (prev): the library compares, refuses while another change is
// under way, and allows none before an entry of the leader's own term is committed. The last is what
// keeps two leaders, each with a change of its own, from making two majorities that don't meet (Ongaro,
// raft-dev, "bug in single-server membership changes", 2015).
//
// A change that was sent may take effect at any time until prev is no longer the committed
// configuration; Fence makes an end of that.
//
// What a crash leaves, of the leader or of whoever asked:
//
//	before the change is in the leader's log     no trace; the configuration is still prev
//	in the log, not committed                    it is committed later, or overwritten: then still prev
//	committed, nobody was told                   Configuration shows it

// Configuration is a group's committed configuration, and how far its members are, as its leader knows.
type Configuration struct {
	Index    uint64 // log index of the configuration: the conf version
	Term     uint64 // in which the leader told this
	Last     uint64 // last index in the leader's log
	Commit   uint64
	Voters   []Progress
	Learners []Progress
	// Generation of the shard's state; 0 for groups that have none.
	Generation uint64
}

// Progress is a member and what its leader knows of its log.
type Progress struct {
	Replica ReplicaID
	Match   uint64 // highest index known to be on it as the leader has it
	// Recent tells that it took something from the leader within the last second.
	Recent bool
	// Stopped tells that its state has diverged: it must not lead, and does not serve.
	Stopped bool
}

// Find returns the member with that id, and whether it votes.
func (c *Configuration) Find(id ReplicaID) (p Progress, votes, member bool) {
	is := func(p Progress) bool { return p.Replica == id }
	if i := slices.IndexFunc(c.Voters, is); i >= 0 {
		return c.Voters[i], true, true
	}
	if i := slices.IndexFunc(c.Learners, is); i >= 0 {
		return c.Learners[i], false, true
	}
	return Progress{}, false, false
}

// configuration is a committed configuration.
type configuration struct {
	index            uint64
	voters, learners []ReplicaID
}

func newConfiguration(index uint64, c raft.Configuration) *configuration {
	n := &configuration{index: index}
	for _, s := range c.Servers {
		r, err := ParseReplicaID(string(s.ID))
		switch {
		case err != nil: // no server of ours
		case s.Suffrage == raft.Voter:
			n.voters = append(n.voters, r)
		default:
			n.learners = append(n.learners, r)
		}
	}
	return n
}

// recentContact is how long a member counts as reached after it took something.
const recentContact = time.Second

// followers is what a leader learns of others' logs from their answers.
type followers struct {
	mu    sync.Mutex // guards following
	known map[raft.ServerID]followerState
	more  chan struct{} // closed when a match grows; nil while nobody waits
}

type followerState struct {
	term, match uint64
	commit      uint64 // the commit index that it was told
	at          time.Time
}

// note records that a follower has the leader's log up to index and knows of commit; of an earlier term
// it says nothing.
func (f *followers) note(id raft.ServerID, term, index, commit uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = map[raft.ServerID]followerState{}
	}
	s := f.known[id]
	switch {
	case s.term > term: // an answer that was long on its way
		return
	case s.term == term:
		index, commit = max(index, s.match), max(commit, s.commit)
	}
	if f.more != nil && (s.term != term || index > s.match) {
		close(f.more)
		f.more = nil
	}
	f.known[id] = followerState{term, index, commit, time.Now()}
}

// commit is the commit index that a follower was told in a term and has acknowledged, 0 for none.
func (f *followers) commit(id raft.ServerID, term uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.known[id]; s.term == term {
		return s.commit
	}
	return 0
}

// await waits, for a moment at most, until a follower has the leader's log up to index. It does not wait
// for one that is far behind, or silent.
func (f *followers) await(ctx context.Context, id raft.ServerID, term, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, matchPatience)
	defer cancel()
	for {
		f.mu.Lock()
		s := f.known[id]
		if s.term == term && s.match >= index || s.match+maxReadLag < index {
			f.mu.Unlock()
			return
		}
		if f.more == nil {
			f.more = make(chan struct{})
		}
		more := f.more
		f.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (f *followers) at(id ReplicaID, term uint64) Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := Progress{Replica: id}
	if s := f.known[raft.ServerID(id.String())]; s.term == term {
		p.Match, p.Recent = s.match, time.Since(s.at) < recentContact
	}
	return p
}

// generational is a state machine that counts the lives of its group.
type generational interface{ Generation() uint64 }

// Configuration returns the committed configuration; NotLeaderError or ErrNoLeader unless this
// replica leads and is ready.
func (g *Group) Configuration() (Configuration, error) {
	i := g.instance()
	if i == nil {
		return Configuration{}, ErrStopped
	}
	term := i.ready.Load()
	conf := i.fsm.conf.Load()
	if term == 0 || conf == nil {
		return Configuration{}, i.notLeader()
	}
	c := Configuration{Index: conf.index, Term: term, Last: i.raft.LastIndex(), Commit: i.commit()}
	if m, ok := i.fsm.machine.(generational); ok {
		c.Generation = m.Generation()
	}
	progress := func(ids []ReplicaID) []Progress {
		var all []Progress
		for _, id := range ids {
			p := i.trans.progress.at(id, term)
			if id == g.id {
				p = Progress{Replica: id, Match: min(c.Last, g.store.durable()), Recent: true}
			}
			p.Stopped = g.known.has(id.String())
			all = append(all, p)
		}
		return all
	}
	c.Voters, c.Learners = progress(conf.voters), progress(conf.learners)
	return c, nil
}

// AddLearner adds a replica that gets the log and does not vote. It has no effect on one that votes.
func (g *Group) AddLearner(ctx context.Context, id ReplicaID, prev uint64) error {
	return g.changeMembers(ctx, prev, func(r *raft.Raft, prev uint64, timeout time.Duration) raft.IndexFuture {
		return r.AddNonvoter(raft.ServerID(id.String()), raft.ServerAddress(id.String()), prev, timeout)
	})
}

// Promote makes a learner a voter. It counts for the quorum from the moment that the change is in the
// leader's log, so it must have caught up before.
func (g *Group) Promote(ctx context.Context, id ReplicaID, prev uint64) error {
	i := g.instance()
	if i == nil {
		return ErrStopped
	}
	if conf := i.fsm.conf.Load(); conf == nil || conf.index != prev || !slices.Contains(conf.learners, id) {
		return fmt.Errorf("%w: %s is no learner of configuration %d", ErrConfChanged, id, prev)
	}
	return g.changeMembers(ctx, prev, func(r *raft.Raft, prev uint64, timeout time.Duration) raft.IndexFuture {
		return r.AddVoter(raft.ServerID(id.String()), raft.ServerAddress(id.String()), prev, timeout)
	})
}

// Remove removes another replica. The leader itself is refused: it hands leadership over first.
func (g *Group) Remove(ctx context.Context, id ReplicaID, prev uint64) error {
	if id == g.id {
		return fmt.Errorf("%w: it leads the shard", errBadRequest)
	}
	return g.changeMembers(ctx, prev, func(r *raft.Raft, prev uint64, timeout time.Duration) raft.IndexFuture {
		return r.RemoveServer(raft.ServerID(id.String()), prev, timeout)
	})
}

// Fence replaces the configuration prev by one with the same members: no change that was planned
// from prev can take effect after it.
func (g *Group) Fence(ctx context.Context, prev uint64) error {
	return g.changeMembers(ctx, prev, func(r *raft.Raft, prev uint64, timeout time.Duration) raft.IndexFuture {
		return r.AddVoter(raft.ServerID(g.id.String()), raft.ServerAddress(g.id.String()), prev, timeout)
	})
}

// changeMembers makes one change and waits until it is committed. Errors refuse, but for
// ErrOutcomeUnknown: then Configuration tells, in time, what became of it.
func (g *Group) changeMembers(ctx context.Context, prev uint64, change func(r *raft.Raft, prev uint64, timeout time.Duration) raft.IndexFuture) error {
	i := g.instance()
	if i == nil {
		return ErrStopped
	}
	if i.ready.Load() == 0 || !i.votes() {
		return i.notLeader()
	}
	if prev == 0 {
		return fmt.Errorf("%w: a change of members without the configuration that it was planned from", errBadRequest)
	}
	if bugNoPrevIndex.on() {
		prev = 0 // the library compares nothing then
	} else if conf := i.fsm.conf.Load(); conf == nil || conf.index != prev {
		return fmt.Errorf("%w: it is not the one of index %d", ErrConfChanged, prev)
	}
	timeout := timeLeft(ctx, g.host.cfg.ElectionTimeout) - answerTime
	if timeout <= 0 || ctx.Err() != nil {
		return ErrDeadline
	}
	if !i.enter() {
		return ErrStopped
	}
	done := make(chan error, 1)
	go func() { // the library holds the call back while another change is under way
		defer i.wg.Done()
		i.lease.suspend()
		defer i.lease.resume()
		done <- change(i.raft, prev, timeout).Error()
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, raft.ErrEnqueueTimeout) {
		return i.writeError(err)
	}
	if conf := i.fsm.conf.Load(); conf != nil && conf.index != prev {
		// The library has no error of its own for it. Whether this very change made the new one,
		// Configuration tells.
		return fmt.Errorf("%w: %w: %w", ErrOutcomeUnknown, ErrConfChanged, err)
	}
	return i.writeError(err)
}

// Replicas names the replicas that this node created, or began to, and did not destroy, and those that it could not even begin, as what they were to keep is
// lost.
func (h *Host) Replicas() []ReplicaID {
	ids := h.storage.replicas()
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, l := range h.losses {
		if !slices.Contains(ids, l.id) {
			ids = append(ids, l.id)
		}
	}
	slices.SortFunc(ids, compareReplicas)
	return ids
}

// Destroy ends a replica of this node for good: it is stopped, noted as destroyed, and its data removed.
// It is idempotent; a replica that was never here can be destroyed too, and never comes. A crash before
// the note leaves it as it was; after it, the rest is removed at the next start.
func (h *Host) Destroy(shard ID, r uint64) error {
	if !h.opening.begin(shard) {
		return ErrStopped
	}
	defer h.opening.end(shard)
	return h.destroy(shard, r)
}

// destroy is Destroy; within opening.
func (h *Host) destroy(shard ID, r uint64) error {
	if g := h.Group(shard); g != nil && g.id.R == r {
		h.mu.Lock()
		c := h.caches[shard]
		delete(h.groups, shard)
		delete(h.caches, shard)
		h.mu.Unlock()
		err := g.close()
		if c != nil {
			c.stop()
		}
		if err != nil {
			return fmt.Errorf("closing replica %s: %w", g.id, err)
		}
	}
	id := ReplicaID{shard, h.cfg.Node, r}
	h.found(id)
	if err := h.storage.destroy(id); err != nil {
		return err
	}
	h.log.Info("replica destroyed", "shard", shard, "replica", id.String())
	h.changed()
	return nil
}
