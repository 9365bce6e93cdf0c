package directory

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/fsm"
)

// spread returns the least and the most of what the nodes have.
func spread(nodes []Node, counts map[string]int) (least, most int) {
	least = len(nodes) * fsm.Slots
	for _, n := range nodes {
		least, most = min(least, counts[n.ID]), max(most, counts[n.ID])
	}
	return least, most
}

// TestPlanInitial ensures what PlanInitial promises, for any nodes and settings: valid tables, even
// ranges, even replicas and leaders, zones apart, limits that fit each host.
func TestPlanInitial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := testNodes(rapid.IntRange(1, 12).Draw(t, "nodes"))
		settings := Settings{
			InitialShards: rapid.IntRange(1, 64).Draw(t, "shards"),
			Replicas:      rapid.IntRange(1, min(5, len(nodes))).Draw(t, "replicas"),
			CacheMemory:   "60%",
		}
		zones := rapid.IntRange(1, 4).Draw(t, "zones")
		zoneNames := make(map[string]bool)
		for i := range nodes {
			nodes[i].Capacity = rapid.Uint64Range(1<<20, 1<<40).Draw(t, "capacity")
			if zones > 1 {
				nodes[i].Zone = fmt.Sprintf("z%d", rapid.IntRange(1, zones).Draw(t, "zone"))
			}
			zoneNames[nodes[i].Zone] = true
		}
		shards, err := PlanInitial(nodes, settings)
		if err != nil {
			t.Fatal(err)
		}
		c := Command{Init: &Init{Cluster: testCluster, Level: 1, Settings: settings, Nodes: nodes, Shards: shards,
			Directory: []Member{{Node: nodes[0].ID, Role: RoleVoter}}}}
		c.Kind = KindInit
		table, result := c.apply(&Table{})
		if result.Outcome != OutcomeApplied {
			t.Fatalf("not a table: %s", result.Reason)
		}
		hosted, led, used := map[string]int{}, map[string]int{}, map[string]uint64{}
		for _, s := range table.Shards {
			if n := int(s.End - s.Start); n != fsm.Slots/len(shards) && n != fsm.Slots/len(shards)+1 {
				t.Errorf("shard %d has %d of %d slots", s.ID, n, fsm.Slots)
			}
			if len(s.Members) != settings.Replicas {
				t.Errorf("shard %d has %d members", s.ID, len(s.Members))
			}
			inZones := map[string]bool{}
			for _, m := range s.Members {
				hosted[m.Node]++
				used[m.Node] += s.Limit
				inZones[table.Nodes[m.Node].Zone] = true
			}
			if want := min(len(zoneNames), settings.Replicas); len(inZones) != want {
				t.Errorf("shard %d is in %d zones, want %d", s.ID, len(inZones), want)
			}
			led[s.Members[0].Node]++
		}
		for _, n := range nodes {
			// All hosted shards at their limit, one spare replica and half a staged shard of the same size.
			if hosted[n.ID] == 0 {
				continue
			}
			largest := uint64(0)
			for _, s := range table.Shards {
				if _, member := s.Member(n.ID); member {
					largest = max(largest, s.Limit)
				}
			}
			if used[n.ID]+largest+largest/2 > n.Capacity {
				t.Errorf("node %s: %d hosted and %d of headroom exceed %d", n.ID, used[n.ID], largest+largest/2, n.Capacity)
			}
		}
		if len(zoneNames) == 1 {
			if least, most := spread(nodes, hosted); most-least > 1 {
				t.Errorf("replicas: %v", hosted)
			}
			if least, most := spread(nodes, led); most-least > 1 {
				t.Errorf("leaders: %v", led)
			}
		}
		slices.SortFunc(nodes, func(Node, Node) int { return rand.N(3) - 1 })
		if again, _ := PlanInitial(nodes, settings); !reflect.DeepEqual(again, shards) {
			t.Errorf("another order of the nodes gives another plan")
		}
	})
}

// TestSpreadLeaders ensures that the first leaders are as even as their members allow, by comparison
// with all possible choices.
func TestSpreadLeaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(1, 5).Draw(t, "nodes")
		members := make([][]int, rapid.IntRange(1, 6).Draw(t, "shards"))
		for i := range members {
			members[i] = rapid.SliceOfNDistinct(rapid.IntRange(0, nodes-1), 1, min(3, nodes), rapid.ID[int]).Draw(t, "members")
		}
		cost := func(first func(i int) int) int { // least sum of squares: the most even loads
			led, sum := make([]int, nodes), 0
			for i := range members {
				led[first(i)]++
			}
			for _, n := range led {
				sum += n * n
			}
			return sum
		}
		best := nodes * 100
		choice := make([]int, len(members))
		var choose func(i int)
		choose = func(i int) {
			if i == len(members) {
				best = min(best, cost(func(i int) int { return choice[i] }))
				return
			}
			for _, m := range members[i] {
				choice[i] = m
				choose(i + 1)
			}
		}
		choose(0)
		before := make([][]int, len(members))
		for i := range members {
			before[i] = slices.Sorted(slices.Values(members[i]))
		}
		spreadLeaders(members, nodes)
		if got := cost(func(i int) int { return members[i][0] }); got != best {
			t.Errorf("leaders of %v cost %d, want %d", members, got, best)
		}
		for i := range members {
			if after := slices.Sorted(slices.Values(members[i])); !slices.Equal(after, before[i]) {
				t.Errorf("members %v became %v", before[i], after)
			}
		}
	})
}

// TestPlanInitialRefuses ensures that impossible plans are refused with what to change.
func TestPlanInitialRefuses(t *testing.T) {
	poor := testNodes(3)
	poor[1].Capacity = 0
	for want, plan := range map[string]func() ([]Shard, error){
		"replicas is 3, but there are only 2 nodes": func() ([]Shard, error) { return PlanInitial(testNodes(2), smallSettings) },
		"initial-shards is 0":                       func() ([]Shard, error) { return PlanInitial(testNodes(3), Settings{Replicas: 1, CacheMemory: "1%"}) },
		"no memory to give":                         func() ([]Shard, error) { return PlanInitial(poor, smallSettings) },
	} {
		if shards, err := plan(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, %v, want an error with %q", shards, err, want)
		}
	}
}

// TestShardBytes ensures that the setting overrides what the capacity would give.
func TestShardBytes(t *testing.T) {
	settings := smallSettings
	settings.ShardBytes = 12345
	for _, s := range testTable(t, 3, settings).Shards {
		if s.Limit != 12345 {
			t.Errorf("shard %d has limit %d", s.ID, s.Limit)
		}
	}
}

// TestPlanLimits ensures that a shard gets what the poorest of its hosts has for it, and never more than a machine
// takes.
func TestPlanLimits(t *testing.T) {
	nodes := map[string]Node{"a": {Capacity: 90 << 30}, "b": {Capacity: 10 << 30}, "c": {Capacity: 900 << 30}}
	shards := []Shard{
		{ID: 1, Members: []Member{{Node: "a"}, {Node: "b"}}},
		{ID: 2, Members: []Member{{Node: "a"}, {Node: "c"}}},
		{ID: 3, Members: []Member{{Node: "c"}}},
	}
	got, err := planLimits(shards, nodes, Settings{})
	if want := []uint64{4 << 30, share(90<<30, 2), fsm.MaxLimit}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %d, %v, want %d", got, err, want)
	}
}
