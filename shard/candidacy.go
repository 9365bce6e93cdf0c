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

// endCandidacy makes a candidate a follower, where a majority can be reached and has no leader, and reports whether it tried. Nothing else does so but a
// message of a later term: a request for a vote in the next one. It names another voter, so that this replica refuses it if it has come to lead
// meanwhile, and a log that is empty, so that it gets no vote. Any voter might send the like at any time; what it says is not true of that
// voter, and nobody but this replica hears it.
func (i *instance) endCandidacy(term uint64) bool {
	voters, _ := i.voters()
	answers := i.askVoters(voters, i.knows())
	if len(answers) <= len(voters)/2 {
		return false
	}
	other := i.group.id
	for v, a := range answers {
		if a.Leads && a.Term >= term {
			return false // it will be heard
		}
		if v != i.group.id {
			other = v
		}
	}
	if other == i.group.id || i.raft.State() != raft.Candidate || i.group.store.Term() != term {
		return false
	}
	i.group.host.log.Info("its election came to nothing", "shard", i.group.id.Shard, "term", term)
	ctx, cancel := context.WithTimeout(i.trans.ctx, askPause) // a vote may be on its way through Raft, whose answers would be older then
	defer cancel()
	_, err := i.trans.deliverVote(ctx, voidVote(other, term), term+1, false)
	return err == nil
}

// voidVote asks for votes in the term after term, with a log that no vote is given to.
func voidVote(from ReplicaID, term uint64) *raft.RequestVoteRequest {
	return &raft.RequestVoteRequest{RPCHeader: header(from.String()), Term: term + 1}
}
