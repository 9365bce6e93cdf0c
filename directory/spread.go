package directory

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// leastUnit is what a replica counts at least where nodes are compared, bytes: of shards that hold next to nothing, one holds as much as
// another.
const leastUnit = 1 << 20

// loads is what nodes are compared by: what the replicas on each of them count (of the directory, nothing), as they are once all operations
// that run are done. A replica counts the bytes that it holds, and as many as an average one holds: the room of a node is divided by their
// number (planLimits), and what is empty now may fill. Two nodes compare as the room that either gives to an average replica.
type loads struct {
	nodes  map[string]Node
	weight map[shard.ID]uint64 // of one replica
	free   uint64              // the room that a node has beside its replicas, as planLimits has it
	on     map[string]uint64
}

func (t *Table) loads(v outlook) loads {
	l := loads{nodes: t.Nodes, weight: make(map[shard.ID]uint64, len(t.Shards)), on: make(map[string]uint64, len(t.Nodes))}
	var sum, known uint64
	for _, sh := range t.Shards {
		if bytes, ok := v.bytes[sh.ID]; ok {
			sum += min(bytes, fsm.MaxLimit)
			known++
		}
	}
	mean := sum / max(known, 1)
	unit := max(mean, leastUnit)
	l.free = (unit + mean) / 2 * 3
	for _, sh := range t.Shards {
		bytes, ok := v.bytes[sh.ID]
		if !ok {
			bytes = mean
		}
		l.weight[sh.ID] = unit + min(bytes, fsm.MaxLimit)
		for _, m := range t.settled(sh) {
			l.on[m.Node] += l.weight[sh.ID]
		}
	}
	return l
}

// move counts a replica of a shard on another node than before; "" is none.
func (l loads) move(id shard.ID, from, to string) {
	if from != "" {
		l.on[from] -= l.weight[id]
	}
	if to != "" {
		l.on[to] += l.weight[id]
	}
}

// compare compares a node that has less, by a weight, with another one that has more.
func (l loads) compare(a string, less uint64, b string, more uint64) int {
	return compareLoad(l.free+l.on[a]-less, l.nodes[a].Capacity, l.free+l.on[b]+more, l.nodes[b].Capacity)
}

// compareLoad compares a/ofA with b/ofB.
func compareLoad(a, ofA, b, ofB uint64) int {
	aHigh, aLow := bits.Mul64(a, ofB)
	bHigh, bLow := bits.Mul64(b, ofA)
	return cmp.Or(cmp.Compare(aHigh, bHigh), cmp.Compare(aLow, bLow))
}

// settled returns a group's members as they are once the operation that runs on it is done.
func (t *Table) settled(sh Shard) []Member {
	o, runs := t.runningOn(sh.ID)
	if !runs || o.Kind != RemoveMember && o.Kind != ReplaceMember || o.Phase == PhaseBackingOut {
		return sh.Members
	}
	return slices.DeleteFunc(slices.Clone(sh.Members), func(m Member) bool { return m.id(sh.ID) == o.leaving() })
}

// improvement returns the replica that moves next though its node is well: into a zone that has less of its shard; else, where no shard gets more
// crowded in a zone by it, from a node to one that holds less for its capacity. It is pure.
//
// A node that gives one for the sake of the load holds no less afterwards than the one that takes it, and less than it did. So the loads of all nodes,
// the highest first, only ever fall in the order of the dictionary; moves between zones come first and never undo each other, as each lowers the number
// of pairs of replicas that share a zone and none for the load raises it. Hence moves come to an end, and none is taken back as long as the bytes
// stay; and they stay until they are off by a quarter (sizes).
func (t *Table) improvement(v outlook) (relocation, bool) {
	l := t.loads(v)
	r, ok := t.toOtherZone(v, l)
	if !ok {
		r, ok = t.toLessLoaded(v, l)
	}
	r.calm, r.waits = true, t.unrest(v)
	return r, ok
}

// unrest says what keeps replicas from moving where nothing presses, "" for nothing: they do one at a time, and while all others are there.
func (t *Table) unrest(v outlook) string {
	for _, o := range t.Operations {
		if o.State == OperationRunning {
			return fmt.Sprintf("operation %d runs", o.ID)
		}
	}
	for _, sh := range t.groups() {
		if sh.Unsettled {
			return unsettledWaits
		}
		if down := down(sh.Members, v); down != "" {
			return fmt.Sprintf("node %s is down", down)
		}
	}
	return ""
}

// down returns the node of a member that is down, "" for none.
func down(members []Member, v outlook) string {
	for _, m := range members {
		if !v.sights[m.Node].up {
			return m.Node
		}
	}
	return ""
}

// toOtherZone finds a shard that shares a zone more than the nodes make necessary.
func (t *Table) toOtherZone(v outlook, l loads) (relocation, bool) {
	for _, sh := range t.groups() {
		if _, runs := t.runningOn(sh.ID); runs {
			continue
		}
		from := t.surplus(sh, v, l)
		to := t.target(sh.Members, from, v.sights, l)
		zones, own, other := t.zones(sh.Members, from), t.Nodes[from.Node].Zone, t.Nodes[to].Zone
		if to != "" && zones[other] < zones[own] {
			return relocation{shard: sh.ID, from: from, to: to,
				reason: fmt.Sprintf("zone %q has %d more of it, zone %q has %d", own, zones[own], other, zones[other])}, true
		}
	}
	return relocation{}, false
}

// surplus returns the member that a group misses the least: in the zone that has most of it, then on the node that holds most for its capacity,
// then one that does not lead.
func (t *Table) surplus(sh Shard, v outlook, l loads) Member {
	zones := t.zones(sh.Members, Member{})
	return slices.MaxFunc(sh.Members, func(a, b Member) int {
		return cmp.Or(
			cmp.Compare(zones[t.Nodes[a.Node].Zone], zones[t.Nodes[b.Node].Zone]),
			l.compare(a.Node, 0, b.Node, 0),
			v.leads(b.Node, sh.ID)-v.leads(a.Node, sh.ID))
	})
}

// toLessLoaded finds a data shard's replica, the heaviest, on the node that holds most for its capacity, for the one that holds least.
func (t *Table) toLessLoaded(v outlook, l loads) (relocation, bool) {
	nodes := t.NodeIDs()
	slices.SortStableFunc(nodes, func(a, b string) int { return l.compare(b, 0, a, 0) })
	for _, from := range nodes {
		for _, to := range slices.Backward(nodes) {
			if l.compare(from, 0, to, 0) <= 0 {
				break // and so are all others
			}
			best, found := Shard{}, false
			for _, sh := range t.Shards {
				if !t.mayMove(sh, from, to, v, l) {
					continue
				}
				if !found || cmp.Or(
					cmp.Compare(l.weight[sh.ID], l.weight[best.ID]),
					v.leads(from, best.ID)-v.leads(from, sh.ID)) > 0 {
					best, found = sh, true
				}
			}
			if found {
				m, _ := best.Member(from)
				return relocation{shard: best.ID, from: m, to: to, reason: fmt.Sprintf("node %s holds more for its capacity than node %s", from, to)}, true
			}
		}
	}
	return relocation{}, false
}

// mayMove reports whether a shard's replica on one node may move to another one for the sake of their loads.
func (t *Table) mayMove(sh Shard, from, to string, v outlook, l loads) bool {
	m, member := sh.Member(from)
	if _, runs := t.runningOn(sh.ID); runs || !member || !t.takes(sh.Members, to, v.sights) {
		return false
	}
	zones := t.zones(sh.Members, m)
	return zones[t.Nodes[to].Zone] <= zones[t.Nodes[from].Zone] && l.compare(from, l.weight[sh.ID], to, l.weight[sh.ID]) >= 0
}

// sizes are the bytes that shards hold, as placing replicas goes by them: what grows and shrinks a little moves nothing.
type sizes struct {
	mu sync.Mutex // guards of
	of map[shard.ID]uint64
}

// settled returns what a shard holds, given what it holds now: what was returned before, unless that is off by more than a quarter.
func (s *sizes) settled(id shard.ID, now uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.of[id]
	if off := max(now, before) - min(now, before); known && off <= before/4 {
		return before
	}
	if s.of == nil {
		s.of = make(map[shard.ID]uint64)
	}
	s.of[id] = now
	return now
}
