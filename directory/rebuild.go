package directory

import (
	"context"
	"fmt"
	"slices"

	"github.com/larder-cache/larder/shard"
)

// rebuildLevel is the feature level of the directory from which there are operations of RebuildMember.
const rebuildLevel = 2

// The reasons of a RebuildMember that the directory begins by itself.
const (
	reasonDiverged = "diverged"
	reasonLost     = "data lost"
)

// rebuild sees to it that a replica which has stopped, as its state is not that of the majority or its data
// is lost, is replaced by a new one on the same node. Only the directory's leader does. Where no majority agreed
// nobody knows which replica to keep: that is left to an operator.
//
// A replica whose data was lost and is there after all, after a start of its node, is kept, where it is not removed yet: its
// rebuild may wait for ever, for others whose own rebuild waits for it.
func (s *Service) rebuild(t *Table) {
	if t.Level < rebuildLevel {
		return
	}
	for _, sh := range slices.Concat([]Shard{{ID: shard.Directory, Members: t.Directory}}, t.Shards) {
		if sh.Unsettled {
			continue
		}
		for _, m := range sh.Members {
			r, ok := s.soft.replica(m.Node, sh.ID)
			if !ok {
				continue
			}
			id := m.id(sh.ID)
			o, runs := t.runningOn(sh.ID)
			ours := runs && o.replica() == id
			switch {
			case r.diverged && runs && !(ours && o.adds()): // one at a time; or it goes already
			case r.diverged:
				s.duties.try(fmt.Sprintf("rebuild replica %s", id), func(ctx context.Context) error { return s.replace(ctx, id, o) })
			case ours && o.rebuilds() && o.Reason == reasonLost && o.Phase != PhaseBackingOut:
				s.duties.try(fmt.Sprintf("keep replica %s", id), func(ctx context.Context) error { return s.keepReplica(ctx, id, o) })
			}
		}
	}
}

// replace begins the rebuild of a replica that has stopped, or takes back the operation that adds it, the zero one for none.
func (s *Service) replace(ctx context.Context, id shard.ReplicaID, adds Operation) error {
	reason := ""
	switch v, _ := s.diverged(ctx, id); {
	case v != nil && v.Outcome == shard.OutcomeMinority:
		reason = reasonDiverged
	case v != nil && v.Outcome == shard.OutcomeLost:
		reason = reasonLost
	default:
		return nil
	}
	if adds.ID != 0 { // what is being added must not come to vote
		return s.takeBack(ctx, CancelOperation{ID: adds.ID, Again: reason == reasonLost, R: id.R})
	}
	return s.beginRebuild(ctx, id, reason)
}

// keepReplica takes back the rebuild of a replica that runs.
func (s *Service) keepReplica(ctx context.Context, id shard.ReplicaID, o Operation) error {
	if v, known := s.diverged(ctx, id); !known || v != nil {
		return nil
	}
	s.log.Warn("a replica whose data was lost runs, and is kept", "shard", id.Shard, "replica", id.String(), "operation", o.ID)
	return s.takeBack(ctx, CancelOperation{ID: o.ID, R: id.R})
}

// takeBack proposes the cancel of an operation, as the feature level knows it.
func (s *Service) takeBack(ctx context.Context, c CancelOperation) error {
	if s.Table().Level < placementLevel {
		c.R = 0
	}
	return s.proposeDuty(ctx, Command{Cancel: &c})
}

// beginRebuild records a rebuild, unless the shard would have no quorum without the replica: then it waits
// until others are back, and leaves room for another operation.
func (s *Service) beginRebuild(ctx context.Context, id shard.ReplicaID, reason string) error {
	table := s.Table().Version
	conf, leader, err := s.configuration(ctx, id.Shard)
	if err != nil {
		return fmt.Errorf("asking the leader of shard %d: %w", id.Shard, err)
	}
	if _, votes, _ := conf.Find(id); votes {
		if why := costsQuorum(conf, leader, id); why != "" {
			return fmt.Errorf("replica %s is to be rebuilt (%s): %s", id, reason, why)
		}
	}
	s.log.Warn("a replica is rebuilt", "why", reason, "shard", id.Shard, "replica", id.String())
	return s.proposeDuty(ctx, Command{Start: &StartOperation{Kind: RebuildMember, Shard: id.Shard, Node: id.Node, R: id.R,
		Conf: conf.Index, Reason: reason, Table: table}})
}
