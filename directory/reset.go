package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/larder-cache/larder/shard"
)

// Where shards are in memory alone, one is reset once so many of its replicas are gone that it can never have a quorum again: a new generation of
// it begins, empty, without anybody's word (R18). Only what is certain counts: a node that says, itself and now, that a replica
// was in the memory of a process of its that has ended; it never speaks again. A node that is not heard may come back with all that it
// had, so it is waited for, or an operator gives it up (RecoverShard).

// resetPatience is how long the directory's leader waits, from its own start on, for nodes that would take a replica of a shard that is reset: where all
// start again, some are later than others.
const resetPatience = 10 * time.Second

// reset begins the next generation of shards that can't have a quorum again. Only the directory's leader does.
func (s *Service) reset(t *Table) {
	if t.Level < recoveryLevel || !t.Settings.MemoryOnly {
		return
	}
	for _, sh := range t.Shards {
		if t.mayRecur(sh.ID, func(id shard.ReplicaID) bool {
			r, ok := s.soft.replica(id.Node, id.Shard)
			return ok && r.diverged
		}) {
			continue
		}
		s.duties.try(fmt.Sprintf("reset shard %d", sh.ID), func(ctx context.Context) error { return s.resetShard(ctx, t, sh) })
	}
}

// resetShard asks the nodes themselves, and resets the shard where they confirm it.
func (s *Service) resetShard(ctx context.Context, t *Table, sh Shard) error {
	gone := map[shard.ReplicaID]bool{}
	for _, m := range sh.Members {
		v, _ := s.diverged(ctx, m.id(sh.ID))
		gone[m.id(sh.ID)] = v != nil && v.Outcome == shard.OutcomeLost
	}
	if t.mayRecur(sh.ID, func(id shard.ReplicaID) bool { return gone[id] }) {
		return nil
	}
	nodes := t.newHosts(sh.ID, s.outlook(t))
	if wanted := min(t.Settings.Replicas, len(t.Nodes)); len(nodes) == 0 || len(nodes) < wanted && time.Since(*s.began.Load()) < resetPatience {
		return fmt.Errorf("shard %d is to be reset: %d nodes that are up take a replica, %d are wanted", sh.ID, len(nodes), wanted)
	}
	s.log.Error("a shard is reset and begins empty: a majority of its replicas was in the memory of processes that have ended", "shard", sh.ID,
		"generation", sh.Generation+1, "nodes", nodes)
	return s.proposeDuty(ctx, Command{Recover: &RecoverShard{Shard: sh.ID, Generation: sh.Generation, Nodes: nodes}})
}

// mayRecur reports whether a shard can have a quorum again, though some replicas are gone for good: by the table's voters, and by
// what these may be while an operation goes on that the table has not seen the end of. It is pure.
func (t *Table) mayRecur(id shard.ID, gone func(shard.ReplicaID) bool) bool {
	members, _ := t.Members(id)
	voters := map[shard.ReplicaID]bool{}
	for _, m := range members {
		voters[m.id(id)] = m.Role == RoleVoter
	}
	uncertain := []shard.ReplicaID{}
	if o, runs := t.runningOn(id); runs {
		uncertain = append(uncertain, o.replica(), o.leaving())
	}
	return recurs(voters, uncertain, gone)
}

// recurs tries all configurations in which the uncertain ones vote or do not.
func recurs(voters map[shard.ReplicaID]bool, uncertain []shard.ReplicaID, gone func(shard.ReplicaID) bool) bool {
	if len(uncertain) > 0 {
		first, rest := uncertain[0], uncertain[1:]
		was := voters[first]
		defer func() { voters[first] = was }()
		for _, votes := range []bool{true, false} {
			voters[first] = votes
			if recurs(voters, rest, gone) {
				return true
			}
		}
		return false
	}
	all, left := 0, 0
	for id, votes := range voters {
		if votes {
			all++
			if !gone(id) {
				left++
			}
		}
	}
	return left > all/2
}
