package directory

import (
	"context"
	"fmt"
	"slices"

	"github.com/larder-cache/larder/shard"
)

// After the directory was rebuilt each shard is settled: the directory's leader asks the shard's own leader for its members, confirmed by a quorum
// of them, and records these. Learners, and members on nodes that the table does not know, leave first: whoever added them is gone. A fence goes
// before, so that no step of the lost directory that is still under way takes effect later.
//
//	a death of the directory's leader     leaves
//	before, or between steps              the shard unsettled: the next one begins anew, with what the shard's leader tells then
//	the record is not committed           either, as with any write
//	after it                              the shard settled
//
// TestSettleStep shows the steps, TestRebuildAcrossCrashes that they go on.
//
// Until then no operation begins on the shard, it is not reset, and no replica is destroyed since the table does not list it, which may be a member
// of a shard whose leader was not heard. Replicas of the lost lineage are destroyed only upon the word of their shard's leader that they are no members (retire).

// unsettledWaits is what changes of an unsettled shard's members wait for.
const unsettledWaits = "the shard's leader has not told its members since the directory was rebuilt"

// unsettled reports whether a shard's members are a guess.
func (t *Table) unsettled(id shard.ID) bool {
	sh, ok := t.Shard(id)
	return ok && sh.Unsettled
}

// settle settles the shards that are not. Only the directory's leader does.
func (s *Service) settle(t *Table) {
	for _, sh := range t.Shards {
		if sh.Unsettled {
			s.duties.try(fmt.Sprintf("settle shard %d", sh.ID), func(ctx context.Context) error { return s.settleShard(ctx, t, sh) })
		}
	}
}

func (s *Service) settleShard(ctx context.Context, t *Table, sh Shard) error {
	conf, leader, err := s.configuration(ctx, sh.ID)
	if err != nil {
		return fmt.Errorf("asking the leader of shard %d: %w", sh.ID, err)
	}
	step, why := t.settleStep(sh.ID, conf, leader)
	if why != "" {
		return fmt.Errorf("shard %d is not settled: %s", sh.ID, why)
	}
	step.Table = t.Version
	if err := s.stepAt(ctx, leader, step); err != nil {
		return fmt.Errorf("%s by %s: %w", step.Step, leader, err)
	}
	if step.Step != stepFence {
		s.log.Info("step to settle a shard, as the directory was rebuilt", "shard", sh.ID, "step", step.Step, "replica", step.Replica, "to", step.Node, "leader", leader)
		return nil // the next try goes on
	}
	fenced, err := s.configurationAt(ctx, leader, sh.ID)
	if err != nil {
		return err
	}
	found, err := s.survey(ctx, leader)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found.Holdings, func(h shard.Holding) bool { return h.Replica.Shard == sh.ID && h.Leads && h.Cache != nil })
	if next, why := t.settleStep(sh.ID, fenced, leader); why != "" || next.Step != stepFence || i < 0 {
		return fmt.Errorf("shard %d changed while it was settled", sh.ID)
	}
	c := &SettleMembers{Shard: sh.ID, Generation: sh.Generation, Has: heldGrant(*found.Holdings[i].Cache), Leader: leader}
	for _, v := range fenced.Voters {
		c.Voters = append(c.Voters, Member{Node: v.Replica.Node, R: v.Replica.R, Role: RoleVoter})
	}
	return s.proposeDuty(ctx, Command{Settle: c})
}

// settleStep returns what its leader is to do next until a shard is settled: a fence where nobody has to leave. It is pure.
func (t *Table) settleStep(id shard.ID, conf shard.Configuration, leader string) (step memberStep, why string) {
	step = memberStep{Shard: id, Step: stepRemove, Prev: conf.Index}
	if len(conf.Learners) > 0 {
		step.Replica = conf.Learners[0].Replica.String()
		return step, ""
	}
	for _, v := range conf.Voters {
		if _, known := t.Nodes[v.Replica.Node]; known {
			continue
		}
		if why := costsQuorum(conf, leader, v.Replica); why != "" {
			return step, fmt.Sprintf("member %s is on a node that is unknown: %s", v.Replica, why)
		}
		step.Replica = v.Replica.String()
		if v.Replica.Node == leader {
			step = memberStep{Shard: id, Step: stepTransfer, Node: successor(conf, leader, nobody)}
			if step.Node == "" {
				return step, fmt.Sprintf("its leader, %s, is unknown, and no other voter answers it", leader)
			}
		}
		return step, ""
	}
	step.Step = stepFence
	return step, ""
}

// doubtful reports whether a replica that a table does not list may be a member of its shard all the same: it is of a lineage of tables that is lost.
func (t *Table) doubtful(id shard.ReplicaID) bool {
	return id.Shard != shard.Directory && id.R < t.Rebuilt && id.R >= t.began(id.Shard)
}

// leave destroys a doubtful replica once its shard's leader has told that it is no member.
func (s *Service) leave(ctx context.Context, id shard.ReplicaID) error {
	conf, leader, err := s.configuration(ctx, id.Shard)
	if err != nil {
		return fmt.Errorf("replica %s is not listed since the directory was rebuilt, and stays until its shard's leader says that it is no member: %w", id, err)
	}
	if st, ok := s.soft.status(id.Shard); ok && st.Replica == id.String() && st.Cache != nil && st.Cache.Generation > conf.Generation {
		return fmt.Errorf("replica %s is of generation %d and stays: its shard's leader, %s, is of generation %d", id, st.Cache.Generation, leader, conf.Generation)
	}
	if _, _, member := conf.Find(id); member {
		return fmt.Errorf("replica %s is not listed since the directory was rebuilt, and stays: its shard's leader, %s, has it", id, leader)
	}
	return s.destroy(s.Table(), id)
}
