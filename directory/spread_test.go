package directory

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/shard"
)

// anyScattered is a table whose members are anywhere, as no plan would put them, and what is believed of it.
func anyScattered(t *rapid.T, tb testing.TB) (*Table, outlook) {
	table, sights := anyPlaced(t, tb)
	ids := table.NodeIDs()
	v := outlook{sights: sights, bytes: map[shard.ID]uint64{}, by: map[shard.ID]string{}}
	for _, sh := range table.groups() {
		members := rapid.Permutation(ids).Draw(t, "members")[:rapid.IntRange(1, min(5, len(ids))).Draw(t, "replicas")]
		var all []Member
		for _, id := range members {
			all = append(all, Member{Node: id, R: 1, Role: RoleVoter})
		}
		table.setMembers(sh.ID, all)
		v.by[sh.ID] = members[0]
		if sh.ID != shard.Directory && rapid.IntRange(0, 3).Draw(t, "known") > 0 {
			v.bytes[sh.ID] = rapid.SampledFrom([]uint64{0, 1 << 10, 1 << 20, 5 << 20, 64 << 20, 1 << 35, math.MaxUint64}).Draw(t, "bytes")
		}
	}
	table.Settings.Replicas = rapid.IntRange(1, 5).Draw(t, "wanted")
	return table, v
}

// make does what a relocation is for, at once.
func (t *Table) make(r relocation) {
	members, _ := t.Members(r.shard)
	members = slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m == r.from })
	if r.to != "" {
		members = append(members, Member{Node: r.to, R: 1, Role: RoleVoter})
	}
	t.setMembers(r.shard, members)
}

// sharing counts the pairs of a group's members that share a zone.
func (t *Table) sharing(id shard.ID) (pairs int) {
	members, _ := t.Members(id)
	for _, n := range t.zones(members, Member{}) {
		pairs += n * (n - 1) / 2
	}
	return pairs
}

// loadOf is what a node holds for its capacity, by the definition (loads).
func (t *Table) loadOf(v outlook, node string) *big.Rat {
	const most, least = 32 << 30, 1 << 20
	var sum, known uint64
	for _, b := range v.bytes {
		sum += min(b, most)
		known++
	}
	mean := sum / max(known, 1)
	unit := max(mean, least)
	total := (unit + mean) / 2 * 3
	for _, sh := range t.Shards {
		b, ok := v.bytes[sh.ID]
		if !ok {
			b = mean
		}
		if _, member := sh.Member(node); member {
			total += unit + min(b, most)
		}
	}
	return new(big.Rat).SetFrac(new(big.Int).SetUint64(total), new(big.Int).SetUint64(t.Nodes[node].Capacity))
}

// better returns a move of a replica that makes the table better, by the definition: to where fewer of its shard share a zone; or no more, and
// the node that gives it holds no less for its capacity afterwards than the one that takes it. "" for none.
func (t *Table) better(v outlook) string {
	for _, sh := range t.groups() {
		for _, m := range sh.Members {
			for id := range t.Nodes {
				if !v.sights[id].up || t.drained(id) || slices.ContainsFunc(sh.Members, func(m Member) bool { return m.Node == id }) {
					continue
				}
				after := t.clone()
				after.make(relocation{shard: sh.ID, from: m, to: id})
				switch before, now := t.sharing(sh.ID), after.sharing(sh.ID); {
				case now < before:
					return fmt.Sprintf("shard %d from %s to %s, for the zone", sh.ID, m.Node, id)
				case now == before && sh.ID != shard.Directory && after.loadOf(v, m.Node).Cmp(after.loadOf(v, id)) >= 0:
					return fmt.Sprintf("shard %d from %s to %s, for the load", sh.ID, m.Node, id)
				}
			}
		}
	}
	return ""
}

// state is who has what.
func (t *Table) state() (s string) {
	for _, sh := range t.groups() {
		var nodes []string
		for _, m := range sh.Members {
			nodes = append(nodes, m.Node)
		}
		slices.Sort(nodes)
		s += fmt.Sprintf("%d: %v\n", sh.ID, nodes)
	}
	return s
}

// TestImprovementEnds ensures that from any table the moves that nothing presses to come to an end, where no move makes it better; that none of
// them goes to a node which is down, drained or has one, has more of a shard share a zone, leaves the giver with less than the taker has, or
// is the reverse of the last one; and that no table comes back on the way.
func TestImprovementEnds(t *testing.T) {
	most := 0
	rapid.Check(t, func(rt *rapid.T) {
		table, v := anyScattered(rt, t)
		seen := map[string]bool{}
		var last relocation
		for moves := 0; ; moves++ {
			state := table.state()
			if seen[state] {
				rt.Fatalf("it was there before:\n%s", state)
			}
			seen[state] = true
			r, ok := table.improvement(v)
			if !ok {
				most = max(most, moves)
				break
			}
			replicas := len(table.Directory)
			for _, sh := range table.Shards {
				replicas += len(sh.Members)
			}
			if moves > 3*replicas {
				rt.Fatalf("%d moves of %d replicas", moves, replicas)
			}
			members, _ := table.Members(r.shard)
			if !slices.Contains(members, r.from) || !table.takes(members, r.to, v.sights) || !v.sights[r.to].up || table.drained(r.to) || v.sights[r.to].gone > 0 {
				rt.Fatalf("%+v is no move from a member to a node that takes it", r)
			}
			before := table.sharing(r.shard)
			table.make(r)
			now := table.sharing(r.shard)
			if now > before {
				rt.Fatalf("%+v: %d pairs shared a zone, %d do", r, before, now)
			}
			if now == before && (r.shard == shard.Directory || table.loadOf(v, r.from.Node).Cmp(table.loadOf(v, r.to)) < 0) {
				rt.Fatalf("%+v has the giver hold less than the taker", r)
			}
			if now == before && last.to == r.from.Node && last.from.Node == r.to {
				rt.Fatalf("%+v after %+v", r, last)
			}
			last = relocation{}
			if now == before {
				last = r
			}
		}
		if why := table.better(v); why != "" {
			rt.Fatalf("it ends, though better would be: %s\n%s", why, table.state())
		}
	})
	t.Logf("at most %d moves", most)
}

// TestEvenInTheEnd ensures that nodes alike end up with numbers of replicas that differ by one at most where shards hold alike, whichever they had.
func TestEvenInTheEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table, v := anyScattered(rt, t)
		table.Draining = nil
		clear(v.bytes)
		for id, n := range table.Nodes {
			n.Zone, n.Capacity = "", 1<<30
			table.Nodes[id] = n
			v.sights[id] = sight{up: true}
		}
		for r, ok := table.improvement(v); ok; r, ok = table.improvement(v) {
			table.make(r)
		}
		counts := map[string]int{}
		for id := range table.Nodes {
			counts[id] = 0
		}
		for _, sh := range table.Shards {
			for _, m := range sh.Members {
				counts[m.Node]++
			}
		}
		values := slices.Sorted(maps.Values(counts))
		if values[len(values)-1]-values[0] > 1 {
			rt.Fatalf("replicas %v", counts)
		}
	})
}

// TestSizesSettle ensures that bytes which change by no more than a quarter count as before, and those that change by more as they are.
func TestSizesSettle(t *testing.T) {
	var s sizes
	for _, step := range []struct{ now, want uint64 }{{100, 100}, {125, 100}, {75, 100}, {126, 126}, {95, 126}, {94, 94}, {0, 0}, {1, 1}} {
		if got := s.settled(1, step.now); got != step.want {
			t.Errorf("%d counts as %d, want %d", step.now, got, step.want)
		}
	}
	if got := s.settled(2, 7); got != 7 {
		t.Errorf("another shard's counts as %d", got)
	}
}
