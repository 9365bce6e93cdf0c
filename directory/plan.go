package directory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// initialVersion is the table version that founding the cluster makes.
const initialVersion = 1

// PlanInitial divides the slots among Settings.InitialShards shards of Settings.Replicas members
// each, for a table of version 1. It is pure, and depends on the nodes only as a set.
//
// Ranges differ by one slot at most. The members of a shard are in distinct zones as far as there
// are enough zones, and then on the nodes that host the least. Members[0] is the node meant to lead
// first; no other choice of first leaders among the members would spread them more evenly over the
// nodes. Without zones, neither the replicas nor the leaders of two nodes differ by more than one.
//
// It fails when the settings are out of bounds, when there are fewer nodes than replicas, and when
// the nodes' capacity leaves a shard without a byte.
func PlanInitial(nodes []Node, settings Settings) ([]Shard, error) {
	if err := settings.Validate(); err != nil {
		return nil, err
	}
	if settings.Replicas > len(nodes) {
		return nil, fmt.Errorf("replicas is %d, but there are only %d nodes", settings.Replicas, len(nodes))
	}
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	shards := make([]Shard, settings.InitialShards)
	hosted := make([]int, len(nodes))
	members := make([][]int, len(shards)) // indices of nodes
	for i := range shards {
		members[i] = place(nodes, hosted, settings.Replicas)
		for _, n := range members[i] {
			hosted[n]++
		}
	}
	spreadLeaders(members, len(nodes))
	for i := range shards {
		s := Shard{
			ID:           shard.ID(i + 1),
			Start:        uint32(i * fsm.Slots / len(shards)),
			End:          uint32((i + 1) * fsm.Slots / len(shards)),
			Epoch:        initialVersion,
			Generation:   1,
			VersionBits:  uint32(i + 1),
			LimitVersion: initialVersion,
		}
		for _, n := range members[i] {
			s.Members = append(s.Members, Member{Node: nodes[n].ID, R: initialVersion, Role: RoleVoter})
		}
		s.Bootstrap = slices.Clone(s.Members)
		shards[i] = s
	}
	byID := make(map[string]Node, len(nodes))
	for _, n := range nodes {
		byID[n.ID] = n
	}
	limits, err := planLimits(shards, byID, settings)
	if err != nil {
		return nil, err
	}
	for i := range shards {
		shards[i].Limit = limits[i]
	}
	return shards, nil
}

// place chooses count distinct nodes for the members of one shard: each from the zone that this
// shard uses least, in it the node that hosts the least, in it the first. Picking the least loaded
// keeps the numbers of replicas within one of each other where zones don't interfere.
func place(nodes []Node, hosted []int, count int) []int {
	zones := make(map[string]int)
	chosen := make([]int, 0, count)
	for range count {
		best := -1
		for i, n := range nodes {
			if slices.Contains(chosen, i) {
				continue
			}
			if best < 0 || cmp.Or(
				cmp.Compare(zones[n.Zone], zones[nodes[best].Zone]),
				cmp.Compare(hosted[i], hosted[best])) < 0 {
				best = i
			}
		}
		chosen = append(chosen, best)
		zones[nodes[best].Zone]++
	}
	return chosen
}

// spreadLeaders reorders the members of each shard so that the first of them, the leaders, are spread
// over the nodes as evenly as the members allow. Starting from any choice, it hands leaderships along
// the shortest path from a node to one that leads at least two shards less, until there is none: the
// loads are then as even as can be (Harvey, Ladner, Lovász, Tamir: Semi-matchings for bipartite graphs
// and load balancing, J. Algorithms 2006, theorem 3.1: cost-reducing paths).
func spreadLeaders(members [][]int, nodes int) {
	led := make([]int, nodes)
	for _, m := range members {
		led[m[0]]++
	}
	for from := 0; from < nodes; {
		path := reducingPath(members, led, from)
		if path == nil {
			from++
			continue
		}
		led[from]--
		for _, step := range path {
			m := members[step.shard]
			i := slices.Index(m, step.to)
			m[0], m[i] = m[i], m[0]
		}
		led[path[len(path)-1].to]++
		from = 0
	}
}

// handover gives the leadership of a shard to another of its members.
type handover struct{ shard, to int }

// reducingPath returns handovers that take a leadership from a node and end at one that leads at
// least two less, every node between them passing on what it gets; nil when there is none.
func reducingPath(members [][]int, led []int, from int) []handover {
	paths := map[int][]handover{from: nil}
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for s, m := range members {
			if m[0] != at {
				continue
			}
			for _, to := range m[1:] {
				if _, seen := paths[to]; seen {
					continue
				}
				paths[to] = append(slices.Clone(paths[at]), handover{s, to})
				if led[to] <= led[from]-2 {
					return paths[to]
				}
				queue = append(queue, to)
			}
		}
	}
	return nil
}

// planLimits returns the byte limit of each shard (R4): Settings.ShardBytes, or the least that its
// hosts can give. A node divides its capacity by the replicas that it hosts, one spare replica and
// half a staged shard: capacity / (hosted + 1 + 1/2). No shard gets more than its machine takes.
func planLimits(shards []Shard, nodes map[string]Node, settings Settings) ([]uint64, error) {
	limits := make([]uint64, len(shards))
	hosted := make(map[string]uint64, len(nodes))
	for _, s := range shards {
		for _, m := range s.Members {
			hosted[m.Node]++
		}
	}
	for i, s := range shards {
		if settings.ShardBytes > 0 {
			limits[i] = settings.ShardBytes
			continue
		}
		least := uint64(fsm.MaxLimit)
		for _, m := range s.Members {
			least = min(least, share(nodes[m.Node].Capacity, hosted[m.Node]))
		}
		if least == 0 {
			return nil, fmt.Errorf("shard %d: %w", s.ID, errNoCapacity)
		}
		limits[i] = least
	}
	return limits, nil
}

var errNoCapacity = errors.New("a host has no memory to give")

// share returns capacity * 2 / (2*hosted + 3) without overflow.
func share(capacity, hosted uint64) uint64 {
	parts := 2*hosted + 3
	return capacity/parts*2 + capacity%parts*2/parts
}

// limitChanges returns the limits that the table should have and does not, nil when none.
func limitChanges(t *Table) ([]ShardLimit, error) {
	limits, err := planLimits(t.Shards, t.Nodes, t.Settings)
	if err != nil {
		return nil, err
	}
	var changes []ShardLimit
	for i, s := range t.Shards {
		if s.Limit != limits[i] {
			changes = append(changes, ShardLimit{Shard: s.ID, Limit: limits[i]})
		}
	}
	return changes, nil
}
