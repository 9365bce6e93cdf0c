package directory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/larder-cache/larder/shard"
)

// The directory's leader moves replicas off nodes that are drained, and off those that were unseen for so long that they count as
// gone; and where nothing presses it to, and the setting balance lets it, it adds members that are missing (see missing) and spreads
// the replicas over zones and nodes (see improvement). Each move is one operation, which adds another replica, on another node,
// before it removes the old one. Nothing of it is planned ahead: each look at the table finds what is to be done still, so
// whoever leads next goes on.
//
// What a death of the directory's leader leaves, by the moment:
//
//	before the operation is recorded   nothing; the next leader finds the same replica in its place
//	recorded                           the operation, which the next leader goes on with (see Operation.next)
//	over                               the table without the old replica, or with the new one

const (
	// maxRelocations is how many operations may run when another replacement begins: each copies a shard.
	maxRelocations = 2
	// maxGone is the part of the nodes, one in so many, beyond which nodes that are gone are not replaced: what then is
	// broken is the network, or the room, and copying makes it worse.
	maxGone = 3
)

// sight is what the directory's leader believes of a node.
type sight struct {
	up   bool
	gone time.Duration // for how long it is unseen, where that is long enough to replace what it hosts; else 0
}

// sights looks at all nodes of t.
func (s *Service) sights(t *Table) map[string]sight {
	all := make(map[string]sight, len(t.Nodes))
	after, began := t.Settings.Repair(), *s.began.Load()
	for id := range t.Nodes {
		state, seen := s.soft.state(id)
		if seen.Before(began) { // this node may not have been there to see it
			seen = began
		}
		v := sight{up: state == NodeUp}
		if unseen := time.Since(seen); !v.up && after > 0 && unseen >= after {
			v.gone = unseen
		}
		all[id] = v
	}
	return all
}

// outlook is what placing replicas goes by beside the table. It is only believed: a wrong guess costs a move that was of no use.
type outlook struct {
	sights map[string]sight
	bytes  map[shard.ID]uint64 // that a replica of each data shard holds; absent: not known
	by     map[shard.ID]string // who leads; absent or "": not known
	rates  map[shard.ID]uint64 // requests per second that the leader of each data shard serves; absent: not known
	hands  map[shard.ID]bool   // groups that an operator is at, see hands
}

// outlook looks at all nodes and shards of t.
func (s *Service) outlook(t *Table) outlook {
	v := outlook{sights: s.sights(t), bytes: make(map[shard.ID]uint64, len(t.Shards)), by: make(map[shard.ID]string, len(t.Shards)+1),
		rates: make(map[shard.ID]uint64, len(t.Shards)), hands: s.hands.at(t, time.Now())}
	v.by[shard.Directory], _ = s.soft.leader(shard.Directory)
	for _, sh := range t.Shards {
		v.by[sh.ID], _ = s.soft.leader(sh.ID)
		if rate, known := s.rates.rate(sh.ID); known {
			v.rates[sh.ID] = rate
		}
		var most uint64 // one that is still catching up has less
		known := false
		for _, m := range sh.Members {
			if r, ok := s.soft.replica(m.Node, sh.ID); ok {
				most, known = max(most, r.bytes), true
			}
		}
		if known {
			v.bytes[sh.ID] = s.sizes.settled(sh.ID, most)
		}
	}
	return v
}

// leads is 1 where a node leads a shard, else 0.
func (v outlook) leads(node string, id shard.ID) int {
	if v.by[id] == node {
		return 1
	}
	return 0
}

// relocation is a change of one shard's members: one that is to leave its node, for another or not, or one that is to come.
type relocation struct {
	shard  shard.ID
	from   Member // the zero one: none leaves
	to     string // the node that another replica is to come to; "": none comes
	reason string
	waits  string // what keeps it from beginning, "" for nothing
	// calm: nothing presses, so it begins only when things have settled.
	calm bool
}

// wanted returns all changes of members that the directory is to begin, in the order in which it does; of a shard at most one that does not wait.
// It is pure.
func (t *Table) wanted(v outlook) []relocation {
	all := t.relocations(v)
	if !t.Settings.Balanced() || t.Level < placementLevel {
		return all
	}
	leaving := len(all)
	all = append(all, t.missing(v, all)...)
	if r, ok := t.improvement(v); ok {
		if r.waits == "" && (leaving > 0 || slices.ContainsFunc(all, func(r relocation) bool { return r.waits == "" })) {
			r.waits = "other replicas go first"
		}
		all = append(all, r)
	}
	return all
}

// relocations returns the replicas that are to leave their nodes, as these are gone or drained: those of nodes that are gone first, and the
// directory's own before those of other shards. It is pure. Where one replica of a shard moves, its others wait.
func (t *Table) relocations(v outlook) []relocation {
	if t.Level < placementLevel {
		return nil
	}
	sights := v.sights
	gone, tooMany := t.tooManyGone(sights)
	loads := t.loads(v)
	var all []relocation
	moving := map[shard.ID]bool{}
	find := func(concerned func(node string) (reason, waits string)) {
		for _, sh := range t.groups() {
			for _, m := range sh.Members {
				reason, waits := concerned(m.Node)
				if reason == "" || slices.ContainsFunc(all, func(r relocation) bool { return r.shard == sh.ID && r.from == m }) {
					continue
				}
				r := relocation{shard: sh.ID, from: m, reason: reason, waits: waits}
				switch o, runs := t.runningOn(sh.ID); {
				case r.waits != "":
				case runs && o.leaving() == m.id(sh.ID) && (!o.adds() || o.replaces()):
					continue // it goes already
				case runs:
					r.waits = fmt.Sprintf("operation %d runs on shard %d", o.ID, sh.ID)
				case t.unsettled(sh.ID):
					r.waits = unsettledWaits
				case moving[sh.ID]:
					r.waits = fmt.Sprintf("another replica of shard %d moves first", sh.ID)
				case t.hasMore(sh):
					moving[sh.ID] = true
				default:
					if r.to = t.target(sh.Members, m, sights, loads); r.to == "" && len(sh.Members) <= t.wants(sh.ID) {
						r.waits = "no other node takes it: each is down, is drained, or has one of that shard"
						break
					}
					loads.move(sh.ID, "", r.to)
					moving[sh.ID] = true
				}
				all = append(all, r)
			}
		}
	}
	find(func(node string) (reason, waits string) {
		if sights[node].gone == 0 {
			return "", ""
		}
		if tooMany && !t.drained(node) { // which somebody asked for
			waits = fmt.Sprintf("%d of %d nodes look gone: too many for it to be the nodes", gone, len(t.Nodes))
		}
		return fmt.Sprintf("node %s is gone", node), waits
	})
	find(func(node string) (reason, waits string) {
		if !t.drained(node) {
			return "", ""
		}
		return fmt.Sprintf("node %s is drained", node), ""
	})
	return all
}

// tooManyGone counts the nodes that are gone, and tells whether these are too many to believe it.
func (t *Table) tooManyGone(sights map[string]sight) (gone int, tooMany bool) {
	for _, v := range sights {
		if v.gone > 0 {
			gone++
		}
	}
	return gone, gone*maxGone > len(t.Nodes)
}

// groups returns all groups, the directory's own first.
func (t *Table) groups() []Shard {
	return slices.Concat([]Shard{{ID: shard.Directory, Members: t.Directory}}, t.Shards)
}

// target returns the node for a replica in place of from, one of members, or beside all of them: in the zone that the other members use least,
// then the one with the most room for another. "" when no node takes one.
func (t *Table) target(members []Member, from Member, sights map[string]sight, l loads) string {
	zones := t.zones(members, from)
	best := ""
	for _, id := range t.NodeIDs() {
		if !t.takes(members, id, sights) {
			continue
		}
		if best == "" || cmp.Or(
			cmp.Compare(zones[t.Nodes[id].Zone], zones[t.Nodes[best].Zone]),
			l.compare(id, 0, best, 0)) < 0 {
			best = id
		}
	}
	return best
}

// takes reports whether a node may get a replica beside members.
func (t *Table) takes(members []Member, node string, sights map[string]sight) bool {
	return sights[node].up && !t.drained(node) && !slices.ContainsFunc(members, func(m Member) bool { return m.Node == node })
}

// zones counts the members in each zone, without one of them.
func (t *Table) zones(members []Member, without Member) map[string]int {
	zones := map[string]int{}
	for _, m := range members {
		if m != without {
			zones[t.Nodes[m.Node].Zone]++
		}
	}
	return zones
}

// place begins the changes of members that may begin, and has drained nodes hand over what they lead. Only the directory's leader does.
// calm: things have settled.
func (s *Service) place(t *Table, v outlook, calm bool) {
	if t.Level < placementLevel {
		return
	}
	sights := v.sights
	_, tooMany := t.tooManyGone(sights)
	running := 0
	for _, o := range t.Operations {
		if o.State != OperationRunning {
			continue
		}
		running++
		gone := sights[o.Node].gone > 0 && !tooMany
		comes := o.replaces() || o.Kind == AddMember && o.Reason != "" // as the directory wanted it
		if o.Phase != PhaseBackingOut && (comes && (gone || t.drained(o.Node)) || o.rebuilds() && gone) {
			s.duties.try(fmt.Sprintf("take back operation %d", o.ID), func(ctx context.Context) error {
				s.log.Info("an operation is taken back, as its node takes no replica", "operation", o.ID, "shard", o.Shard, "node", o.Node)
				return s.takeBack(ctx, CancelOperation{ID: o.ID, R: o.R})
			})
		}
	}
	for _, r := range t.wanted(v) {
		if r.waits == "" && running < maxRelocations && (calm || !r.calm) {
			running++
			s.duties.try(fmt.Sprintf("relocate a replica of shard %d", r.shard), func(ctx context.Context) error { return s.relocate(ctx, r) })
		}
	}
	s.handOver(t)
}

// relocate records the operation by which a replica leaves its node, or comes to one, unless that would cost its shard the quorum now.
func (s *Service) relocate(ctx context.Context, r relocation) error {
	table := s.Table().Version
	conf, leader, err := s.configuration(ctx, r.shard)
	if err != nil {
		return fmt.Errorf("asking the leader of shard %d: %w", r.shard, err)
	}
	c := StartOperation{Kind: ReplaceMember, Shard: r.shard, Node: r.to, From: r.from.Node, R: r.from.R, Conf: conf.Index, Reason: r.reason, Table: table}
	why := ""
	switch {
	case r.to == "":
		c.Kind, c.Node, c.From = RemoveMember, r.from.Node, ""
		why = costsQuorum(conf, leader, r.from.id(r.shard))
	case r.from == Member{}:
		c.Kind = AddMember
		why = oneMore(conf, leader)
	default:
		why = oneMore(conf, leader)
	}
	if why != "" {
		return fmt.Errorf("%s, as %s: %s", r.describe(), r.reason, why)
	}
	s.log.Info("replicas are placed", "what", r.describe(), "why", r.reason)
	return s.proposeDuty(ctx, Command{Start: &c})
}

// describe says what is to be done, for a person.
func (r relocation) describe() string {
	switch {
	case r.from == Member{} && r.to == "":
		return fmt.Sprintf("shard %d: one more is to come", r.shard)
	case r.from == Member{}:
		return fmt.Sprintf("shard %d: one more is to come to %s", r.shard, r.to)
	case r.to == "":
		return fmt.Sprintf("shard %d: the one on %s is to go", r.shard, r.from.Node)
	}
	return fmt.Sprintf("shard %d: the one on %s is to go to %s", r.shard, r.from.Node, r.to)
}

// handOver has another node lead what a drained one does.
func (s *Service) handOver(t *Table) {
	for _, node := range t.Draining {
		for _, id := range t.hosted(node) {
			if leader, _ := s.soft.leader(id); leader != node {
				continue
			}
			s.duties.try(fmt.Sprintf("hand over shard %d", id), func(ctx context.Context) error {
				conf, leader, err := s.configuration(ctx, id)
				if err != nil || leader != node {
					return err
				}
				to := successor(conf, leader, t.drained)
				if to == "" {
					return fmt.Errorf("no other voter of shard %d can lead it in place of %s, which is drained", id, node)
				}
				return s.stepAt(ctx, leader, memberStep{Shard: id, Step: stepTransfer, Node: to})
			})
		}
	}
}

// DrainNode begins to drain a node, or ends that, and returns it once this node's table shows the change. A ConflictError says what forbids
// it: above all that no other node takes a replica of this one. ErrOutcomeUnknown: Node tells, in time.
func (s *Service) DrainNode(ctx context.Context, id string, drain bool) (NodeView, error) {
	if err := s.Known(); err != nil {
		return NodeView{}, err
	}
	t, err := s.knowing(ctx, s.Table(), id)
	if err != nil {
		return NodeView{}, err
	}
	// A node that joined just now was not heard here yet.
	for began := time.Now(); drain; {
		// Before it is judged: who is heard meanwhile may take a replica, and is to be looked at again.
		unheard := slices.ContainsFunc(t.NodeIDs(), func(id string) bool { _, seen := s.soft.state(id); return seen.IsZero() })
		why := s.forbidsDrain(t, id)
		if why == "" {
			break
		}
		if !unheard || time.Since(began) > softLife || !s.pause(ctx) {
			return NodeView{}, &ConflictError{Reason: why}
		}
	}
	result, err := s.change(ctx, Command{DrainNode: &DrainNode{ID: id, Drain: drain}})
	if err != nil {
		return NodeView{}, err
	}
	if _, err := s.latest.Newer(ctx, result.Version-1); err != nil {
		return NodeView{}, fmt.Errorf("%w: it was taken, but this node has not seen it yet: %w", shard.ErrOutcomeUnknown, err)
	}
	v, _ := s.Node(id)
	return v, nil
}

// forbidsDrain says why a node can't be drained now, "" for nothing.
func (s *Service) forbidsDrain(t *Table, id string) string {
	sights := s.sights(t)
	for _, sh := range t.hosted(id) {
		members, _ := t.Members(sh)
		m, _ := t.member(sh, id)
		if len(members) <= t.wants(sh) && !t.drained(id) && t.target(members, m, sights, loads{}) == "" {
			return fmt.Sprintf("no other node takes its replica of shard %d: each is down, is drained, or has one; add a node first", sh)
		}
	}
	return ""
}
