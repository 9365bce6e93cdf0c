package shard

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// stands reports whether a candidate asks for votes, or is about to: it does not where it only asks whether it would get them and nobody
// says yes.
func (i *instance) stands(term uint64) bool {
	return i.heirs.preVote.Load() != term+1 || i.heirs.wouldWin.Load() == term+1
}

// lookAfterCandidacy ends a candidacy of this replica that has come to nothing, and returns in how long to look again.
func (i *instance) lookAfterCandidacy() time.Duration {
	timeout := max(i.group.host.cfg.ElectionTimeout, i.group.patience/2)
	now, term := i.group.host.mono(), i.group.store.Term()
	s := &i.heirs
	s.mu.Lock()
	defer s.mu.Unlock()
	if !i.stands(term) {
		return timeout
	}
	if s.candidacy.term != term {
		s.candidacy = candidacy{term, now}
	}
	if left := s.candidacy.since + s.slower(timeout, 0) - now; left > 0 {
		return left
	}
	if s.asking || !i.enter() {
		return askPause
	}
	s.asking = true
	go func() {
		defer i.wg.Done()
		if i.endCandidacy(term) {
			s.failed.Add(1)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asking, s.candidacy = false, candidacy{}
	}()
	return timeout
}

// endCandidacy makes a candidate a follower, where a majority can be reached and has lost its leader, and reports whether it tried. Where it has one, that
// one leads, and would be deposed by the terms of a candidate that keeps failing beside it.
//
// Nothing else makes it a follower but a message of a later term: a request for a vote in the next one (voidVote). It is its own, and nobody but this replica hears it.
func (i *instance) endCandidacy(term uint64) bool {
	voters, _ := i.voters()
	lost := 0
	for _, a := range i.askVoters(voters, i.knows()) {
		if a.Leads && a.Term >= term {
			return false // it will be heard
		}
		if a.Lost {
			lost++
		}
	}
	if lost <= len(voters)/2 || i.raft.State() != raft.Candidate || i.group.store.Term() != term {
		return false
	}
	i.group.host.log.Info("its election came to nothing", "shard", i.group.id.Shard, "term", term)
	ctx, cancel := context.WithTimeout(i.trans.ctx, askPause) // a vote may be on its way through Raft, whose answers would be older then
	defer cancel()
	_, err := i.trans.deliverVote(ctx, voidVote(i.group.id, term), term+1, false)
	return err == nil
}

// voidVote asks a replica for its vote in the term after term, for nobody. By the id it comes from a voter, as the library demands; its address is that of
// no replica, so it is refused whenever the replica knows of a leader, as it has come to lead meanwhile, or follows one. Its log is empty, so that it gets no vote,
// and one that it got would be nobody's.
func voidVote(to ReplicaID, term uint64) *raft.RequestVoteRequest {
	h := header(to.String())
	h.Addr = []byte("nobody")
	return &raft.RequestVoteRequest{RPCHeader: h, Term: term + 1}
}
