package directory

import (
	"fmt"
	"slices"

	"github.com/larder-cache/larder/shard"
)

// Operation is a change that takes several steps. It is part of the table, so it survives whoever
// leads the directory. Each step that changes a shard's configuration is recorded before it is made,
// with the configuration that it was planned from (Conf); the shard's leader makes it only upon that
// one. So whoever was deposed in the middle, and whatever of his is still under way, does no harm (R18).
//
//	add     adding -> catching-up -> promoting -> done
//	              \       |         /
//	               +-> backing-out -> cancelled            (also: failed; done where it voted already)
//	remove  handing-over -> removing -> done
//	              |               \
//	              |                backing-out -> cancelled (also: failed; done where it was removed already)
//	              +-> cancelled
//	rebuild handing-over -> removing -> adding -> catching-up -> promoting -> done
//	replace adding -> catching-up -> promoting -> handing-over -> removing -> done
//
// A rebuild replaces a replica by a new one on the same node: a removal, then an addition, in one
// operation, so that nobody forgets the second half. Until the removal is made it ends as a removal does; once
// it is made the table lists the new replica, and it ends as an addition does.
//
// A replacement is an addition, then the removal of another member: one of them leaves its node, and the shard has no less voters
// meanwhile. Until the new one votes it ends as an addition does; from then on as a removal does, and what was added stays.
//
// An operation may wait for ever for a node that never comes back; so a step that was recorded can be
// taken back too, by another change upon the same configuration: of the two only one takes effect.
type Operation struct {
	ID    uint64        `json:"id"`
	Kind  OperationKind `json:"kind"`
	Shard shard.ID      `json:"shard"`
	Node  string        `json:"node"`
	// R names the replica that comes or goes; of a replacement, the one that comes.
	R     uint64         `json:"r"`
	State OperationState `json:"state"`
	Phase Phase          `json:"phase,omitempty"` // while it runs
	// Conf is the index of the committed configuration that the present step is planned from. Nothing
	// that was planned before it can take effect once a later one is committed.
	Conf   uint64 `json:"conf"`
	Detail string `json:"detail,omitempty"` // what it waits for
	Error  string `json:"error,omitempty"`  // why it failed
	Reason string `json:"reason,omitempty"` // why it was begun, where the directory began it
	// Removed tells of a rebuild that the old replica is gone, and R that of the new one.
	Removed bool `json:"removed,omitempty"`
	// Again tells of a rebuild that its new replica was lost too: it is backed out, and another one is made.
	Again bool `json:"again,omitempty"`
	// From and FromR name the replica that a replacement removes.
	From  string `json:"from,omitempty"`
	FromR uint64 `json:"from_r,omitempty"`
	// Added tells of a replacement that the new replica votes.
	Added bool `json:"added,omitempty"`
}

// OperationKind says what an operation does.
type OperationKind string

// The kinds of operations.
const (
	AddMember    OperationKind = "add-member"
	RemoveMember OperationKind = "remove-member"
	// RebuildMember needs feature level 2.
	RebuildMember OperationKind = "rebuild-member"
	// ReplaceMember needs feature level 3.
	ReplaceMember OperationKind = "replace-member"
	// RecoverGeneration is what a RecoverShard leaves: it never runs. Needs feature level 4.
	RecoverGeneration OperationKind = "recover-shard"
	// RebuildDirectory is what a RebuildTable leaves: it never runs. Needs feature level 4.
	RebuildDirectory OperationKind = "rebuild-directory"
)

// OperationState says how far an operation is.
type OperationState string

// The states of an operation.
const (
	OperationRunning   OperationState = "running"
	OperationDone      OperationState = "done"
	OperationFailed    OperationState = "failed"
	OperationCancelled OperationState = "cancelled"
)

// Phase is the step that a running operation is at.
type Phase string

// The phases of a running operation.
const (
	PhaseAdding      Phase = "adding"       // becomes a learner
	PhaseCatchingUp  Phase = "catching-up"  // gets the log
	PhasePromoting   Phase = "promoting"    // becomes a voter
	PhaseBackingOut  Phase = "backing-out"  // was cancelled: what began is undone
	PhaseHandingOver Phase = "handing-over" // gives its leadership away
	PhaseRemoving    Phase = "removing"
)

const (
	// maxOver bounds the operations that are kept after they ended.
	maxOver = 64
	// maxDetail bounds a detail or an error, bytes.
	maxDetail = 512
)

// StartOperation begins a change of a shard's members. Preconditions: the shard and the node are known,
// its group is the one that was planned for, no other operation runs on the shard, the node has no replica of it (add, replace) or has one (remove, rebuild)
// that is not the last voter, for a rebuild the one that R names; for a replacement the node From has that one, and the other is not drained. Add and
// replace allot the replica: it is a learner in the table from then on.
type StartOperation struct {
	Kind  OperationKind `json:"kind"`
	Shard shard.ID      `json:"shard"`
	Node  string        `json:"node"`
	Conf  uint64        `json:"conf"`
	// R and Reason are a rebuild's, a replacement's, and a removal's that the directory begins; Reason also an addition's.
	R      uint64 `json:"r,omitempty"`
	Reason string `json:"reason,omitempty"`
	// From is a replacement's.
	From string `json:"from,omitempty"`
	// Table is the version of a table that was known before the configuration was asked for: Conf says nothing of a group that began
	// later, whose configurations are numbered anew. 0, as of builds before level 4, is any.
	Table uint64 `json:"table,omitempty"`
}

// AdvanceOperation records the next step of an operation, before it is made, or its end. Precondition:
// the operation runs and is in phase From with Conf. An empty Phase ends it in State.
type AdvanceOperation struct {
	ID       uint64         `json:"id"`
	From     Phase          `json:"from"`
	FromConf uint64         `json:"from_conf"`
	State    OperationState `json:"state"`
	Phase    Phase          `json:"phase,omitempty"`
	Conf     uint64         `json:"conf"`
	Detail   string         `json:"detail,omitempty"`
	Error    string         `json:"error,omitempty"`
}

// CancelOperation asks for the end of an operation. Precondition: it runs. Where its last step is made
// already, it ends as done all the same.
type CancelOperation struct {
	ID uint64 `json:"id"`
	// Again asks a rebuild that has removed the old replica to take back the new one and to make another; it
	// is no more than a cancel of any other operation.
	Again bool `json:"again,omitempty"`
	// R is the replica that the operation must be about; 0: any. A rebuild goes on from the old one to new ones. Needs level 3.
	R uint64 `json:"r,omitempty"`
}

// transitions are the phases that may follow one another; a detail may change without.
var transitions = map[Phase][]Phase{
	PhaseAdding:      {PhaseAdding, PhaseCatchingUp},
	PhaseCatchingUp:  {PhaseCatchingUp, PhasePromoting},
	PhasePromoting:   {PhasePromoting},
	PhaseBackingOut:  {PhaseBackingOut},
	PhaseHandingOver: {PhaseHandingOver, PhaseRemoving},
	PhaseRemoving:    {PhaseRemoving},
}

// follows reports whether an operation may go to phase.
func (o Operation) follows(phase Phase) bool {
	// What was made can't be taken back: a rebuild goes on from the removal, a replacement from the addition, whatever it was at.
	return slices.Contains(transitions[o.Phase], phase) || phase == PhaseAdding && (o.rebuilds() || o.Again) ||
		phase == PhaseHandingOver && o.replaces()
}

// adds reports whether what the operation is about comes.
func (o Operation) adds() bool {
	return o.Kind == AddMember || o.Kind == RebuildMember && o.Removed || o.replaces()
}

// replaces reports whether it is a replacement whose new replica does not vote yet.
func (o Operation) replaces() bool { return o.Kind == ReplaceMember && !o.Added }

// rebuilds reports whether it is a rebuild that has not removed the old replica yet.
func (o Operation) rebuilds() bool { return o.Kind == RebuildMember && !o.Removed }

// replica is the server id of the replica that the operation is about; of a replacement, the one that comes.
func (o Operation) replica() shard.ReplicaID {
	return shard.ReplicaID{Shard: o.Shard, Node: o.Node, R: o.R}
}

// leaving is the server id of the replica that the operation removes, where it removes one.
func (o Operation) leaving() shard.ReplicaID {
	if o.Kind == ReplaceMember {
		return shard.ReplicaID{Shard: o.Shard, Node: o.From, R: o.FromR}
	}
	return o.replica()
}

// Members returns the members of a shard, or of the directory's own group; false: there is no such.
func (t *Table) Members(id shard.ID) ([]Member, bool) {
	if id == shard.Directory {
		return t.Directory, t.Founded()
	}
	s, ok := t.Shard(id)
	return s.Members, ok
}

// member returns a node's replica of a shard.
func (t *Table) member(id shard.ID, node string) (Member, bool) {
	members, _ := t.Members(id)
	i := slices.IndexFunc(members, func(m Member) bool { return m.Node == node })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}

// setMembers replaces the members of a shard of a table that is not published yet.
func (t *Table) setMembers(id shard.ID, members []Member) {
	if id == shard.Directory {
		t.Directory = members
		return
	}
	if i := t.place(id); i >= 0 {
		t.Shards[i].Members = members
	}
}

// Operation returns the operation of that id, as long as it is kept.
func (t *Table) Operation(id uint64) (Operation, bool) {
	i := slices.IndexFunc(t.Operations, func(o Operation) bool { return o.ID == id })
	if i < 0 {
		return Operation{}, false
	}
	return t.Operations[i], true
}

// runningOn returns the operation that runs on a shard.
func (t *Table) runningOn(id shard.ID) (Operation, bool) {
	i := slices.IndexFunc(t.Operations, func(o Operation) bool { return o.Shard == id && o.State == OperationRunning })
	if i < 0 {
		return Operation{}, false
	}
	return t.Operations[i], true
}

func voters(members []Member) int {
	n := 0
	for _, m := range members {
		if m.Role == RoleVoter {
			n++
		}
	}
	return n
}

func (c *StartOperation) apply(t *Table) (*Table, string) {
	members, ok := t.Members(c.Shard)
	if !ok {
		return nil, fmt.Sprintf("shard %d is unknown", c.Shard)
	}
	if _, known := t.Nodes[c.Node]; !known {
		return nil, fmt.Sprintf("node %s is unknown", c.Node)
	}
	if o, runs := t.runningOn(c.Shard); runs && !bugTwoChanges.on() {
		return nil, fmt.Sprintf("operation %d runs on shard %d: one at a time", o.ID, c.Shard)
	}
	began := t.began(c.Shard)
	if c.Shard == shard.Directory {
		began = t.Rebuilt
	}
	if t.Level >= recoveryLevel && c.Table != 0 && c.Table < began {
		return nil, fmt.Sprintf("shard %d began anew at table version %d, the change was planned by version %d", c.Shard, began, c.Table)
	}
	if t.unsettled(c.Shard) {
		return nil, fmt.Sprintf("shard %d is not settled since the directory was rebuilt: its leader has not told its members yet", c.Shard)
	}
	next := t.clone()
	next.Version++
	next.NextOperation++
	o := Operation{ID: next.NextOperation, Kind: c.Kind, Shard: c.Shard, Node: c.Node, State: OperationRunning, Conf: c.Conf}
	has, member := t.member(c.Shard, c.Node)
	switch c.Kind {
	case AddMember:
		if member {
			return nil, fmt.Sprintf("node %s has a replica of shard %d already", c.Node, c.Shard)
		}
		if len(members) >= maxReplicas {
			return nil, fmt.Sprintf("shard %d has %d members, more are not allowed", c.Shard, maxReplicas)
		}
		if t.Level >= countLevel { // builds before it leave the reason out
			if len(c.Reason) > maxDetail {
				return nil, "a reason is too long"
			}
			o.Reason = c.Reason
		}
		o.R, o.Phase = next.Version, PhaseAdding
		next.setMembers(c.Shard, append(slices.Clone(members), Member{Node: c.Node, R: o.R, Role: RoleLearner}))
	case ReplaceMember:
		from, there := t.member(c.Shard, c.From)
		switch {
		case t.Level < placementLevel:
			return nil, fmt.Sprintf("the directory has feature level %d, a replacement needs %d", t.Level, placementLevel)
		case member:
			return nil, fmt.Sprintf("node %s has a replica of shard %d already", c.Node, c.Shard)
		case t.drained(c.Node):
			return nil, fmt.Sprintf("node %s is drained", c.Node)
		case !there || from.R != c.R:
			return nil, fmt.Sprintf("node %s has no replica %d of shard %d", c.From, c.R, c.Shard)
		case len(members) > maxReplicas:
			return nil, fmt.Sprintf("shard %d has %d members, more are not allowed", c.Shard, len(members))
		case len(c.Reason) > maxDetail:
			return nil, "a reason is too long"
		}
		o.R, o.Phase, o.From, o.FromR, o.Reason = next.Version, PhaseAdding, c.From, c.R, c.Reason
		next.setMembers(c.Shard, append(slices.Clone(members), Member{Node: c.Node, R: o.R, Role: RoleLearner}))
	case RemoveMember:
		switch {
		case !member:
			return nil, fmt.Sprintf("node %s has no replica of shard %d", c.Node, c.Shard)
		case c.R != 0 && has.R != c.R:
			return nil, fmt.Sprintf("node %s has no replica %d of shard %d", c.Node, c.R, c.Shard)
		case len(c.Reason) > maxDetail:
			return nil, "a reason is too long"
		}
		if has.Role == RoleVoter && voters(members) == 1 {
			return nil, fmt.Sprintf("node %s has the last voter of shard %d", c.Node, c.Shard)
		}
		o.R, o.Phase, o.Reason = has.R, PhaseHandingOver, c.Reason
	case RebuildMember:
		switch {
		case t.Level < rebuildLevel:
			return nil, fmt.Sprintf("the directory has feature level %d, a rebuild needs %d", t.Level, rebuildLevel)
		case !member || has.R != c.R:
			return nil, fmt.Sprintf("node %s has no replica %d of shard %d", c.Node, c.R, c.Shard)
		case has.Role == RoleVoter && voters(members) == 1:
			return nil, fmt.Sprintf("node %s has the last voter of shard %d", c.Node, c.Shard)
		case len(c.Reason) > maxDetail:
			return nil, "a reason is too long"
		}
		o.R, o.Phase, o.Reason = has.R, PhaseHandingOver, c.Reason
	default:
		return nil, fmt.Sprintf("there is no operation %q", c.Kind)
	}
	next.keepOperation(o)
	return next, ""
}

// keepOperation adds an operation to a table that is not published yet, and forgets those that ended long ago.
func (t *Table) keepOperation(o Operation) {
	over := 0
	for _, o := range t.Operations {
		if o.State != OperationRunning {
			over++
		}
	}
	t.Operations = slices.DeleteFunc(t.Operations, func(o Operation) bool {
		if o.State == OperationRunning || over < maxOver {
			return false
		}
		over--
		return true
	})
	t.Operations = append(t.Operations, o)
}

func (c *AdvanceOperation) apply(t *Table) (*Table, string) {
	i := slices.IndexFunc(t.Operations, func(o Operation) bool { return o.ID == c.ID })
	switch {
	case i < 0:
		return nil, fmt.Sprintf("there is no operation %d", c.ID)
	case t.Operations[i].State != OperationRunning:
		return nil, fmt.Sprintf("operation %d is %s", c.ID, t.Operations[i].State)
	case t.Operations[i].Phase != c.From || t.Operations[i].Conf != c.FromConf:
		return nil, fmt.Sprintf("operation %d is %s from configuration %d, not %s from %d",
			c.ID, t.Operations[i].Phase, t.Operations[i].Conf, c.From, c.FromConf)
	case len(c.Detail) > maxDetail || len(c.Error) > maxDetail:
		return nil, "a detail is too long"
	case c.Conf < c.FromConf:
		return nil, fmt.Sprintf("configuration %d is before %d", c.Conf, c.FromConf)
	}
	o := t.Operations[i]
	switch c.State {
	case OperationRunning, OperationDone, OperationFailed, OperationCancelled:
	default:
		return nil, fmt.Sprintf("there is no state %q", c.State)
	}
	if c.State == OperationRunning {
		if !o.follows(c.Phase) {
			return nil, fmt.Sprintf("%s does not follow %s", c.Phase, c.From)
		}
		if o.Phase == c.Phase && o.Conf == c.Conf && o.Detail == c.Detail {
			return nil, ""
		}
	} else if c.Phase != "" {
		return nil, fmt.Sprintf("an operation that is %s has no phase", c.State)
	}
	if o.rebuilds() && c.State == OperationDone {
		return nil, "a rebuild is not done when the old replica is gone"
	}
	if o.replaces() && c.State == OperationDone {
		return nil, "a replacement is not done when the new replica votes"
	}
	removed := (o.rebuilds() || o.Again) && c.Phase == PhaseAdding
	added := o.replaces() && c.Phase == PhaseHandingOver
	o.State, o.Phase, o.Conf, o.Detail, o.Error = c.State, c.Phase, c.Conf, c.Detail, c.Error
	o.Again = o.Again && (c.State == OperationRunning || t.Level < placementLevel)
	next := t.clone()
	next.Version++
	members, _ := next.Members(o.Shard)
	members = slices.Clone(members)
	at := slices.IndexFunc(members, func(m Member) bool { return m.Node == o.Node && m.R == o.R })
	switch {
	case removed && at >= 0:
		o.Removed, o.Again, o.R = true, false, next.Version
		members[at] = Member{Node: o.Node, R: o.R, Role: RoleLearner}
		if voters(members) == 0 {
			return nil, fmt.Sprintf("shard %d would have no voter", o.Shard)
		}
	case added && at >= 0:
		o.Added = true
		members[at].Role = RoleVoter
	case c.State == OperationRunning || at < 0:
	case o.Kind == ReplaceMember && o.Added && c.State == OperationDone:
		members = slices.DeleteFunc(members, func(m Member) bool { return m.Node == o.From && m.R == o.FromR })
	case o.adds() && c.State == OperationDone:
		members[at].Role = RoleVoter
	case o.adds() && members[at].Role == RoleLearner, o.Kind == RemoveMember && c.State == OperationDone:
		members = slices.Delete(members, at, at+1)
		if voters(members) == 0 {
			return nil, fmt.Sprintf("shard %d would have no voter", o.Shard)
		}
	}
	next.Operations[i] = o
	next.setMembers(o.Shard, members)
	return next, ""
}

func (c *CancelOperation) apply(t *Table) (*Table, string) {
	i := slices.IndexFunc(t.Operations, func(o Operation) bool { return o.ID == c.ID })
	if i < 0 {
		return nil, fmt.Sprintf("there is no operation %d", c.ID)
	}
	o := t.Operations[i]
	switch {
	case o.State != OperationRunning:
		return nil, fmt.Sprintf("operation %d is %s", o.ID, o.State)
	case c.R != 0 && o.R != c.R:
		return nil, fmt.Sprintf("operation %d is about replica %d, not %d", o.ID, o.R, c.R)
	case c.R != 0 && o.Added:
		return nil, fmt.Sprintf("operation %d has added replica %d already", o.ID, o.R)
	case o.Phase == PhaseBackingOut && o.Again && !c.Again:
		o.Again, o.Detail = false, ""
	case o.Phase == PhaseBackingOut:
		return nil, "" // it was cancelled already
	case o.Phase == PhaseHandingOver: // nothing but leadership was moved
		o.State, o.Phase, o.Detail = OperationCancelled, "", ""
	default:
		o.Phase, o.Detail = PhaseBackingOut, ""
		if o.Again = c.Again && o.Kind == RebuildMember && o.Removed; o.Again {
			o.Detail = "the new replica was lost too"
		}
	}
	next := t.clone()
	next.Version++
	next.Operations[i] = o
	return next, ""
}
