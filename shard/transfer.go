package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// TransferLeadership hands leadership to the voter on node, by name: left to choose, the library
// may pick a dead one.
func (g *Group) TransferLeadership(ctx context.Context, node string) error {
	i := g.instance()
	if i == nil {
		return ErrStopped
	}
	term := i.ready.Load()
	if term == 0 {
		return i.notLeader()
	}
	target, ok := i.voterOn(node)
	id := target.String()
	if !ok || node == g.id.Node {
		return fmt.Errorf("%w: no other voter of shard %d is on node %q", ErrConfChanged, g.id.Shard, node)
	}
	if g.known.has(id) {
		return fmt.Errorf("%w: the replica on node %s must not lead", ErrDiverged, node)
	}
	// The library never forgets a transfer to a voter that does not answer (hashicorp/raft #696).
	if time.Since(g.host.Heard(node)) > 2*pingInterval {
		return fmt.Errorf("%w: node %s was not heard lately", ErrUnreachable, node)
	}
	// Nor may a second one begin while the first still waits for the target's replication: where that
	// ends with the leadership, the library's goroutine never does.
	if p := i.trans.progress.at(target, term); !p.Recent || !i.takesLead(p) {
		return fmt.Errorf("%w: node %s has not taken the log of shard %d lately", ErrUnreachable, node, g.id.Shard)
	}
	if !i.enter() {
		return ErrStopped
	}
	g.transferTerm.Store(term)
	done := make(chan error, 1)
	go func() { // may outlive ctx: the library's own timeout ends it
		defer i.wg.Done()
		done <- i.handTo(id)
	}()
	select {
	case err := <-done:
		if err != nil {
			return i.writeError(err) // the target may have been told all the same
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// takesLead reports whether a voter has what it must have of the log for a transfer to it to begin. One that has kept an entry
// to itself for long has a disk that is stuck, or is further behind than a transfer waits for.
func (i *instance) takesLead(p Progress) bool {
	var next raft.Log
	if i.group.store.GetLog(p.Match+1, &next) == nil && !next.AppendedAt.IsZero() && time.Since(next.AppendedAt) > recentContact {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return p.Match >= min(i.transferFailed[p.Replica.String()], i.raft.LastIndex()) // what was not committed then may be gone
}

// handTo hands leadership to a voter.
func (i *instance) handTo(id string) error {
	err := i.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id)).Error()
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil {
		i.transferFailed[id] = i.raft.LastIndex()
	} else {
		delete(i.transferFailed, id)
	}
	return err
}

// voterOn returns the shard's voter on node.
func (i *instance) voterOn(node string) (ReplicaID, bool) {
	voters, _ := i.voters()
	voters = i.confirmers(voters)
	n := slices.IndexFunc(voters, func(r ReplicaID) bool { return r.Node == node })
	if n < 0 {
		return ReplicaID{}, false
	}
	return voters[n], true
}

// transferring notes that the library refuses work because of a leadership transfer.
func (i *instance) transferring() {
	now := int64(i.group.host.mono()) + 1
	i.transferLast.Store(now)
	i.transferSince.CompareAndSwap(0, now)
}

// transferStuck reports that a leader has refused all work for longer than any transfer takes: the
// library's flag can stay set for ever, and then a leader serves nobody while its heartbeats keep all
// others quiet (hashicorp/raft #696). While it is not known whether the refusals have ended, a barrier
// asks. Only watch calls it.
func (i *instance) transferStuck() bool {
	since := i.transferSince.Load()
	switch {
	case since == 0:
		return false
	case i.raft.State() != raft.Leader: // it was handed over
		i.transferSince.Store(0)
		return false
	case time.Duration(i.transferLast.Load()-since) > 3*i.group.host.cfg.ElectionTimeout:
		return true
	case i.asking.CompareAndSwap(false, true): // one at a time: the disk may stall
		i.wg.Go(func() {
			defer i.asking.Store(false)
			switch err := i.raft.Barrier(0).Error(); {
			case err == nil:
				i.transferSince.Store(0)
			case errors.Is(err, raft.ErrLeadershipTransferInProgress):
				i.transferring()
			}
		})
	}
	return false
}
