package directory

import (
	"fmt"

	"github.com/larder-cache/larder/shard"
)

// promoteLag is how many log entries a learner may lack when it is promoted: what a few round trips
// bring. It has its own configuration in any case: until then it answers heartbeats, and has nothing.
const promoteLag = 64

// move is what comes next in an operation: something to record, or the step that is recorded already.
// Both nil: wait.
type move struct {
	advance *AdvanceOperation
	step    *memberStep
}

// stepKind says what a shard's leader is to do.
type stepKind string

const (
	stepAddLearner stepKind = "add-learner"
	stepPromote    stepKind = "promote"
	stepRemove     stepKind = "remove"
	stepFence      stepKind = "fence"
	stepTransfer   stepKind = "transfer"
)

// memberStep is one step that a shard's leader makes.
type memberStep struct {
	Shard   shard.ID `json:"shard"`
	Step    stepKind `json:"step"`
	Replica string   `json:"replica,omitempty"` // which one; server id
	Prev    uint64   `json:"prev,omitempty"`    // configuration that it was planned from
	Node    string   `json:"node,omitempty"`    // transfer: who is to lead
	// Table is the version of the table that it was planned by. A replica with a later r is of another generation, or was not there:
	// its group does not make the step. 0, as of builds before level 4, is any.
	Table uint64 `json:"table,omitempty"`
}

// next decides how an operation goes on, from its shard's configuration as its leader told it. It is
// pure. A leader that has not heard of the configuration that the operation is at tells the past: then
// nothing follows.
//
// What a death of the directory's leader leaves, by the moment:
//
//	before a step is recorded      the operation is where it was; the next leader plans anew
//	recorded, not made             the next leader makes it: upon the same configuration, or, where that
//	                               is gone, sees what became of it
//	made, nobody was told          the configuration shows it; the next leader records what follows
func (o Operation) next(conf shard.Configuration, leader string) move {
	if conf.Index < o.Conf {
		return move{}
	}
	if !o.adds() {
		return o.nextRemoval(conf, leader)
	}
	p, votes, member := conf.Find(o.replica())
	step := func(kind stepKind) move {
		return move{step: &memberStep{Shard: o.Shard, Step: kind, Replica: o.replica().String(), Prev: o.Conf}}
	}
	switch {
	case votes && o.Kind == ReplaceMember:
		return o.to(PhaseHandingOver, conf, "")
	case votes:
		return o.end(OperationDone, conf, "")
	case o.Phase == PhaseBackingOut && member && conf.Index > o.Conf:
		return o.to(PhaseBackingOut, conf, "")
	case o.Phase == PhaseBackingOut && member:
		return step(stepRemove)
	case o.Phase == PhaseBackingOut && conf.Index == o.Conf:
		// The step that was recorded last may still be under way, and would add the learner.
		return step(stepFence)
	case o.Phase == PhaseBackingOut && o.Again:
		return o.to(PhaseAdding, conf, o.Detail)
	case o.Phase == PhaseBackingOut:
		return o.end(OperationCancelled, conf, "")
	case o.Phase == PhaseAdding && member:
		return o.to(PhaseCatchingUp, conf, "")
	case o.Phase == PhaseAdding && conf.Index > o.Conf && o.Kind == RebuildMember:
		return o.to(PhaseAdding, conf, "") // what was planned before has no effect any more
	case o.Phase == PhaseAdding && conf.Index > o.Conf:
		return o.end(OperationFailed, conf, fmt.Sprintf("the shard's configuration changed from %d to %d before the change began", o.Conf, conf.Index))
	case o.Phase == PhaseAdding:
		return step(stepAddLearner)
	case !member:
		return o.end(OperationFailed, conf, "the replica was removed meanwhile")
	}
	switch {
	case !p.Recent && p.Match == 0:
		return o.wait(conf, fmt.Sprintf("the leader, %s, waits for the first answer of %s", leader, o.Node))
	case !p.Recent:
		return o.wait(conf, fmt.Sprintf("the leader, %s, gets no answer of %s", leader, o.Node))
	case p.Stopped:
		return o.wait(conf, fmt.Sprintf("the replica on %s has diverged", o.Node))
	case conf.Last > p.Match+promoteLag, p.Match < conf.Index: // a young group's whole log may be short
		return o.wait(conf, "")
	}
	if why := oneMore(conf, leader); why != "" {
		return o.wait(conf, why)
	}
	if o.Phase == PhasePromoting && conf.Index == o.Conf {
		return step(stepPromote)
	}
	return o.to(PhasePromoting, conf, "")
}

func (o Operation) nextRemoval(conf shard.Configuration, leader string) move {
	id := o.leaving()
	_, votes, member := conf.Find(id)
	switch {
	case !member && o.Kind == RebuildMember:
		return o.to(PhaseAdding, conf, "")
	case !member:
		return o.end(OperationDone, conf, "")
	case o.Phase == PhaseBackingOut && conf.Index > o.Conf:
		return o.end(OperationCancelled, conf, "")
	case o.Phase == PhaseBackingOut:
		// The removal that was recorded may still be under way.
		return move{step: &memberStep{Shard: o.Shard, Step: stepFence, Prev: o.Conf}}
	case conf.Index > o.Conf:
		return o.end(OperationFailed, conf, fmt.Sprintf("the shard's configuration changed from %d to %d before the member was removed", o.Conf, conf.Index))
	}
	if votes {
		if why := costsQuorum(conf, leader, id); why != "" {
			return o.wait(conf, why)
		}
	}
	if leader == id.Node {
		to := successor(conf, leader, nobody)
		if to == "" {
			return o.wait(conf, "no other voter answers the leader and has its log")
		}
		return move{step: &memberStep{Shard: o.Shard, Step: stepTransfer, Node: to}}
	}
	if o.Phase == PhaseHandingOver {
		return o.to(PhaseRemoving, conf, "")
	}
	return move{step: &memberStep{Shard: o.Shard, Step: stepRemove, Replica: id.String(), Prev: o.Conf}}
}

// lives reports whether a voter counts as alive: the leader itself, or one that it reached lately and that
// has most of what is committed. One that answers heartbeats and takes no entries commits nothing; one whose
// state has diverged serves nothing, and is not to be relied on.
func lives(v shard.Progress, conf shard.Configuration, leader string) bool {
	return v.Replica.Node == leader || v.Recent && !v.Stopped && v.Match+maxLag >= conf.Commit
}

// living counts the voters that are alive, and all voters.
func living(conf shard.Configuration, leader string) (alive, all int) {
	for _, v := range conf.Voters {
		if lives(v, conf, leader) {
			alive++
		}
	}
	return alive, len(conf.Voters)
}

// oneMore says why another voter would cost the shard its quorum, "" when it would not.
func oneMore(conf shard.Configuration, leader string) string {
	if alive, all := living(conf, leader); alive+1 <= (all+1)/2 {
		return fmt.Sprintf("only %d of %d voters answer and have the log: one more would cost the quorum", alive, all)
	}
	return ""
}

// costsQuorum says why the shard would have no quorum without a voter, "" when it would.
func costsQuorum(conf shard.Configuration, leader string, without shard.ReplicaID) string {
	alive, all := 0, 0
	for _, v := range conf.Voters {
		if v.Replica == without {
			continue
		}
		all++
		if lives(v, conf, leader) {
			alive++
		}
	}
	switch {
	case all == 0:
		return "it is the last voter"
	case alive <= all/2:
		return fmt.Sprintf("only %d of the other %d voters answer and have the log: without it there would be no quorum", alive, all)
	}
	return ""
}

// nobody is no node.
func nobody(string) bool { return false }

// successor returns the node whose voter is to lead instead of the leader: one that it reached lately, that has most of its log and that
// is not one to avoid; "" when there is none.
func successor(conf shard.Configuration, leader string, avoid func(node string) bool) string {
	best, match := "", uint64(0)
	for _, v := range conf.Voters {
		if v.Replica.Node != leader && v.Recent && !v.Stopped && !avoid(v.Replica.Node) && (best == "" || v.Match > match) {
			best, match = v.Replica.Node, v.Match
		}
	}
	return best
}

func (o Operation) to(phase Phase, conf shard.Configuration, detail string) move {
	return move{advance: &AdvanceOperation{ID: o.ID, From: o.Phase, FromConf: o.Conf,
		State: OperationRunning, Phase: phase, Conf: conf.Index, Detail: detail}}
}

// wait stays at the phase, and records why where that is new.
func (o Operation) wait(conf shard.Configuration, detail string) move {
	if detail == o.Detail {
		return move{}
	}
	m := o.to(o.Phase, conf, detail)
	m.advance.Conf = o.Conf
	return m
}

func (o Operation) end(state OperationState, conf shard.Configuration, why string) move {
	return move{advance: &AdvanceOperation{ID: o.ID, From: o.Phase, FromConf: o.Conf, State: state, Conf: conf.Index, Error: why}}
}
