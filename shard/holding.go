package shard

import (
	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// Holding is what a node has of one of its replicas: what a lost directory is rebuilt from.
type Holding struct {
	Replica ReplicaID
	// Runs: it takes part in its group, with its data. All below is zero where it does not.
	Runs  bool
	Leads bool // or takes itself for the leader
	Ready bool // leads, and has committed something in its term
	Term  uint64
	Last  uint64 // index in its log that is synced
	// Voters and Learners are of the latest configuration in its log, committed or not.
	Voters   []ReplicaID
	Learners []ReplicaID
	// Cache is the state machine's account; nil for the directory's group.
	Cache *fsm.Stats
}

// Holdings names all replicas that this node created, or began to, and did not destroy, and tells what it has of those that run.
func (h *Host) Holdings() []Holding {
	var all []Holding
	for _, id := range h.Replicas() {
		v := Holding{Replica: id}
		if g := h.Group(id.Shard); g != nil && g.id == id {
			g.hold(&v)
		}
		if c := h.Cache(id.Shard); c != nil && v.Runs && c.group.id == id {
			v.Cache = c.Status().Cache
		}
		all = append(all, v)
	}
	return all
}

func (g *Group) hold(v *Holding) {
	i := g.instance()
	if i == nil || g.Diverged() != nil {
		return
	}
	v.Runs, v.Term, v.Leads, v.Ready = true, i.raft.CurrentTerm(), i.raft.State() == raft.Leader, i.ready.Load() != 0
	c := newConfiguration(0, i.raft.GetConfiguration().Configuration())
	v.Last, v.Voters, v.Learners = i.last(), c.voters, c.learners
}
