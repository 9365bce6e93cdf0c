package directory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/larder-cache/larder/shard"
)

// balanceAfter is how long all nodes must have been up or down, and the leaders of all shards have stayed where they are, before one is
// moved though nothing presses: after a failure, or a move, things settle first.
const balanceAfter = 5 * time.Second

// rest is who led the data shards and which nodes were up at the last look, and since when. The service's loop owns it.
type rest struct {
	by    map[shard.ID]string
	up    map[string]bool
	since time.Time
}

// calm reports whether things have settled, as far as v shows.
func (s *Service) calm(v outlook) bool {
	up := make(map[string]bool, len(v.sights))
	for id, sight := range v.sights {
		up[id] = sight.up
	}
	by := maps.Clone(v.by)
	delete(by, shard.Directory)
	if !maps.Equal(by, s.rest.by) || !maps.Equal(up, s.rest.up) {
		s.rest = rest{by, up, time.Now()}
	}
	return time.Since(s.rest.since) >= s.balanceAfter
}

// balance has another member lead a shard, where the nodes' numbers of led shards differ by more than the members make
// necessary. Only the directory's leader does, for one shard at a time, and when things are calm.
func (s *Service) balance(t *Table, v outlook, calm bool) {
	if t.Level < placementLevel || !t.Settings.Balanced() || !calm {
		return
	}
	by := v.by
	id, to := t.nextLeader(by, func(node string, id shard.ID) bool {
		state, _ := s.soft.state(node)
		r, known := s.soft.replica(node, id)
		return state == NodeUp && known && !r.diverged
	})
	if to == "" {
		return
	}
	s.duties.try("balance the leaders", func(ctx context.Context) error {
		conf, leader, err := s.configuration(ctx, id)
		if err != nil || leader != by[id] {
			return err
		}
		for _, v := range conf.Voters {
			if v.Replica.Node == to && v.Recent && !v.Stopped && v.Match+maxLag >= conf.Commit {
				s.log.Info("a shard's leadership moves, to balance the nodes", "shard", id, "from", leader, "to", to)
				return s.stepAt(ctx, leader, memberStep{Shard: id, Step: stepTransfer, Node: to})
			}
		}
		return fmt.Errorf("the replica of shard %d on %s is not ready to lead", id, to)
	})
}

// nextLeader returns the shard whose leadership is to move next, and the node that it moves to, "" for none: until the numbers of shards
// that nodes lead are as even as the members allow (see spreadLeaders). by is who leads, "" where nobody is known to: such
// shards, and those that an operation changes, stay. able tells whether a node's replica may lead. It is pure.
func (t *Table) nextLeader(by map[shard.ID]string, able func(node string, id shard.ID) bool) (id shard.ID, to string) {
	nodes := slices.DeleteFunc(t.NodeIDs(), t.drained)
	led := make([]int, len(nodes))
	var ids []shard.ID
	var members [][]int
	for _, sh := range t.Shards {
		leader := slices.Index(nodes, by[sh.ID])
		if leader < 0 {
			continue
		}
		led[leader]++
		if _, runs := t.runningOn(sh.ID); runs {
			continue
		}
		may := []int{leader}
		for _, m := range sh.Members {
			if n := slices.Index(nodes, m.Node); n >= 0 && n != leader && m.Role == RoleVoter && able(m.Node, sh.ID) {
				may = append(may, n)
			}
		}
		ids, members = append(ids, sh.ID), append(members, may)
	}
	for from := range nodes {
		if path := reducingPath(members, led, from); path != nil {
			last := path[len(path)-1]
			return ids[last.shard], nodes[last.to]
		}
	}
	return 0, ""
}
