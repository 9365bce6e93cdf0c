package directory

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/larder-cache/larder/shard"
)

// The directory's leader moves replicas off nodes that are drained, and off those that were unseen for so long that they count as
// gone: each by one operation that adds another replica, on another node, before it removes the old one. Nothing of it is
// planned ahead: each look at the table finds what is to be moved still, so whoever leads next goes on.
//
// What a death of the directory's leader leaves, by the moment:
//
//	before the operation is recorded   nothing; the next leader finds the same replica in its place
//	recorded                           the operation, which the next leader goes on with (see Operation.next)
//	over                               the table without the old replica

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

// relocation is a replica that is to leave its node.
type relocation struct {
	shard  shard.ID
	from   Member
	to     string // the node that another replica is to come to; "": the shard has enough without
	reason string
	waits  string // what keeps it from beginning, "" for nothing
}

// relocations returns the replicas that are to leave their nodes, those of nodes that are gone first; the directory's own before
// those of other shards. It is pure. Where one replica of a shard moves, its others wait.
func (t *Table) relocations(sights map[string]sight) []relocation {
	if t.Level < placementLevel {
		return nil
	}
	gone, tooMany := t.tooManyGone(sights)
	hosts := t.hosts()
	var all []relocation
	moving := map[shard.ID]bool{}
	find := func(concerned func(node string) (reason, waits string)) {
		for _, sh := range slices.Concat([]Shard{{ID: shard.Directory, Members: t.Directory}}, t.Shards) {
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
				case moving[sh.ID]:
					r.waits = fmt.Sprintf("another replica of shard %d moves first", sh.ID)
				case t.hasMore(sh):
					moving[sh.ID] = true
				default:
					if r.to = t.target(sh.Members, m, sights, hosts); r.to == "" {
						r.waits = "no other node takes it: each is down, is drained, or has one of that shard"
						break
					}
					hosts[r.to]++
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

// hasMore reports whether a shard has more members than it is to have: as the settings say, and the directory one less than an even
// number, which outlives no more failures.
func (t *Table) hasMore(sh Shard) bool {
	if sh.ID == shard.Directory {
		return len(sh.Members)%2 == 0 && len(sh.Members) > 2
	}
	return len(sh.Members) > t.Settings.Replicas
}

// hosts counts the replicas on each node, those of the directory too.
func (t *Table) hosts() map[string]uint64 {
	hosts := make(map[string]uint64, len(t.Nodes))
	for id := range t.Nodes {
		hosts[id] = uint64(len(t.hosted(id)))
	}
	return hosts
}

// target returns the node for a replica in place of from, one of members: in the zone that the other members use least, then the one that
// hosts the least for its capacity. "" when no node takes one.
func (t *Table) target(members []Member, from Member, sights map[string]sight, hosts map[string]uint64) string {
	zones := map[string]int{}
	for _, m := range members {
		if m != from {
			zones[t.Nodes[m.Node].Zone]++
		}
	}
	best := ""
	for _, id := range t.NodeIDs() {
		if !sights[id].up || t.drained(id) || slices.ContainsFunc(members, func(m Member) bool { return m.Node == id }) {
			continue
		}
		if best == "" || cmp.Or(
			cmp.Compare(zones[t.Nodes[id].Zone], zones[t.Nodes[best].Zone]),
			compareLoad(hosts[id], t.Nodes[id].Capacity, hosts[best], t.Nodes[best].Capacity)) < 0 {
			best = id
		}
	}
	return best
}

// compareLoad compares a/ofA with b/ofB.
func compareLoad(a, ofA, b, ofB uint64) int {
	aHigh, aLow := bits.Mul64(a, ofB)
	bHigh, bLow := bits.Mul64(b, ofA)
	return cmp.Or(cmp.Compare(aHigh, bHigh), cmp.Compare(aLow, bLow))
}

// place begins the relocations that may begin, and has drained nodes hand over what they lead. Only the directory's leader does.
func (s *Service) place(t *Table) {
	if t.Level < placementLevel {
		return
	}
	sights := s.sights(t)
	_, tooMany := t.tooManyGone(sights)
	running := 0
	for _, o := range t.Operations {
		if o.State != OperationRunning {
			continue
		}
		running++
		gone := sights[o.Node].gone > 0 && !tooMany
		if o.Phase != PhaseBackingOut && (o.replaces() && (gone || t.drained(o.Node)) || o.rebuilds() && gone) {
			s.duties.try(fmt.Sprintf("take back operation %d", o.ID), func(ctx context.Context) error {
				s.log.Info("an operation is taken back, as its node takes no replica", "operation", o.ID, "shard", o.Shard, "node", o.Node)
				return s.takeBack(ctx, CancelOperation{ID: o.ID, R: o.R})
			})
		}
	}
	for _, r := range t.relocations(sights) {
		if r.waits == "" && running < maxRelocations {
			running++
			s.duties.try(fmt.Sprintf("relocate a replica of shard %d", r.shard), func(ctx context.Context) error { return s.relocate(ctx, r) })
		}
	}
	s.handOver(t)
}

// relocate records the operation by which a replica leaves its node, unless that would cost its shard the quorum now.
func (s *Service) relocate(ctx context.Context, r relocation) error {
	conf, leader, err := s.configuration(ctx, r.shard)
	if err != nil {
		return fmt.Errorf("asking the leader of shard %d: %w", r.shard, err)
	}
	c := StartOperation{Kind: ReplaceMember, Shard: r.shard, Node: r.to, From: r.from.Node, R: r.from.R, Conf: conf.Index, Reason: r.reason}
	if r.to == "" {
		c.Kind, c.Node, c.From = RemoveMember, r.from.Node, ""
		if why := costsQuorum(conf, leader, r.from.id(r.shard)); why != "" {
			return fmt.Errorf("replica %s is to leave, as %s: %s", r.from.id(r.shard), r.reason, why)
		}
	} else if why := oneMore(conf, leader); why != "" {
		return fmt.Errorf("replica %s is to leave, as %s: %s", r.from.id(r.shard), r.reason, why)
	}
	s.log.Info("a replica leaves its node", "shard", r.shard, "replica", r.from.id(r.shard).String(), "why", r.reason, "to", r.to)
	return s.proposeDuty(ctx, Command{Start: &c})
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
		why := s.forbidsDrain(t, id)
		if why == "" {
			break
		}
		unheard := func(id string) bool { _, seen := s.soft.state(id); return seen.IsZero() }
		if !slices.ContainsFunc(t.NodeIDs(), unheard) || time.Since(began) > softLife || !s.pause(ctx) {
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
		if !t.hasMore(Shard{ID: sh, Members: members}) && !t.drained(id) && t.target(members, m, sights, nil) == "" {
			return fmt.Sprintf("no other node takes its replica of shard %d: each is down, is drained, or has one; add a node first", sh)
		}
	}
	return ""
}
