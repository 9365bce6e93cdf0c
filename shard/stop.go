package shard

import (
	"cmp"
	"errors"
	"slices"

	"github.com/hashicorp/raft"
)

// What a replica does about a comparison, and how one that has stopped goes on as a Raft member. See
// verdict.go for the whole.

// sealedPatience is by how much longer a replica that has stopped waits before it stands for election.
const sealedPatience = 3

// maxIdleLead is how many looks of the supervisor, one a second, a replica may lead that does not serve. One that
// has stopped leads to hand over, and where nobody takes over it lets others try.
const maxIdleLead = 10

// errSealed refuses what would need a state.
var errSealed = errors.New("the replica has stopped: it has no state")

// serves is nil unless what is known of its state keeps this replica from serving: then an ErrDiverged.
func (g *Group) serves() error {
	if v := g.stopped.Load(); v != nil {
		return v.err()
	}
	if v := g.doubt.Load(); v != nil {
		return v.err()
	}
	return nil
}

// Diverged returns why the replica has stopped for good, nil if it has not.
func (g *Group) Diverged() *Verdict { return g.stopped.Load() }

// judge has this replica act upon a comparison. It does nothing upon one of an earlier term, or that is
// not about the state that it has.
func (i *instance) judge(c *Comparison) {
	g := i.group
	m, ok := i.fsm.machine.(*cacheMachine)
	if bugChecksumSilent.on() || !ok || g.stopped.Load() != nil || c.Shard != g.id.Shard || c.Format != sumFormat || c.Term < g.store.Term() {
		return
	}
	own, told := c.line(g.id.String())
	k, known := m.marks.at(c.Index)
	if !told || !known || own.Checksum != k.hex() || c.Generation != k.generation || c.Level != k.level {
		return
	}
	o, common := c.Outcome()
	switch {
	case o == OutcomeSplit, o == OutcomeMinority && own.Checksum != common:
		g.stop(&Verdict{Outcome: o, Comparison: *c})
	case o == OutcomeDoubt:
		v := &Verdict{Outcome: o, Comparison: *c}
		if g.doubt.Swap(v) == nil {
			g.host.log.Error("replicas differ; this one serves nothing until a majority was heard", "shard", g.id.Shard, "replica", g.id.String(), "index", c.Index, "replicas", c.Replicas)
			g.host.changed()
		}
	case o == OutcomeEqual, o == OutcomeMinority:
		if g.doubt.Swap(nil) != nil {
			g.host.log.Warn("this replica agrees with a majority, and serves again", "shard", g.id.Shard, "replica", g.id.String(), "index", c.Index)
			g.host.changed()
		}
	}
}

// stop ends this replica's service for good. The refusals come first, then the note, then the new instance.
func (g *Group) stop(v *Verdict) {
	if !g.stopped.CompareAndSwap(nil, v) {
		return
	}
	if i := g.instance(); i != nil {
		i.ready.Store(0)
		i.reads.fail(v.err())
	}
	g.host.log.Error("replica stops for good: "+v.String(), "shard", g.id.Shard, "replica", g.id.String(),
		"outcome", v.Outcome, "index", v.Comparison.Index, "replicas", v.Comparison.Replicas)
	g.host.changed()
	if err := g.host.storage.diverged(g.id, v); err != nil {
		g.host.fatal(err)
	}
	notify(g.halt)
}

// takes reports whether another voter takes what this leader sends, and how far it has come.
func (i *instance) takes(v ReplicaID, term uint64) (p Progress, ok bool) {
	p = i.trans.progress.at(v, term)
	return p, v != i.group.id && p.Recent && i.takesLead(p)
}

// yield has another voter lead: one that takes what this leader sends, and lacks little.
func (i *instance) yield() {
	g := i.group
	term := i.raft.CurrentTerm()
	voters, _ := i.voters()
	var others []Progress
	for _, v := range voters {
		if p, ok := i.takes(v, term); ok && p.Match+maxReadLag >= i.raft.LastIndex() && !g.known.has(v.String()) {
			others = append(others, p)
		}
	}
	slices.SortFunc(others, func(a, b Progress) int { return cmp.Compare(b.Match, a.Match) })
	for _, p := range others {
		if i.raft.State() != raft.Leader || i.raft.CurrentTerm() != term {
			return
		}
		g.transferTerm.Store(term)
		if err := i.handTo(p.Replica.String()); err == nil {
			return
		}
	}
}
