package directory

import (
	"cmp"
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

// balance has other members lead shards, where the nodes' numbers of led shards differ by more than the members make
// necessary, or what they serve does (nextLeaders). Only the directory's leader does, and when things are calm.
func (s *Service) balance(t *Table, v outlook, calm bool) {
	moves := s.leaderMoves(t, v)
	if len(moves) == 0 || !calm {
		return
	}
	s.duties.try("balance the leaders", func(ctx context.Context) error {
		for _, m := range moves { // an exchange that stops half way would leave one node with two more
			if err := s.readyToLead(ctx, m); err != nil {
				return err
			}
		}
		for _, m := range moves {
			s.log.Info("a shard's leadership moves, to balance the nodes", "shard", m.shard, "from", m.from, "to", m.to, "why", m.reason)
			if err := s.stepAt(ctx, m.from, memberStep{Shard: m.shard, Step: stepTransfer, Node: m.to}); err != nil {
				return err
			}
		}
		return nil
	})
}

// leaderMoves returns the leaderships that the directory wants to move next.
func (s *Service) leaderMoves(t *Table, v outlook) []leaderMove {
	if t.Level < placementLevel || !t.Settings.Balanced() {
		return nil
	}
	return t.nextLeaders(v, s.mayLead)
}

// mayLead reports whether a node's replica of a shard could lead it, as far as this node knows.
func (s *Service) mayLead(node string, id shard.ID) bool {
	state, _ := s.soft.state(node)
	r, known := s.soft.replica(node, id)
	return state == NodeUp && known && !r.diverged
}

// readyToLead asks a shard's leader whether the replica that is to lead is close behind; nil where it is.
func (s *Service) readyToLead(ctx context.Context, m leaderMove) error {
	conf, leader, err := s.configuration(ctx, m.shard)
	if err != nil {
		return err
	}
	if leader != m.from {
		return fmt.Errorf("shard %d is led by %s, not %s", m.shard, leader, m.from)
	}
	for _, v := range conf.Voters {
		if v.Replica.Node == m.to && v.Recent && !v.Stopped && v.Match+maxLag >= conf.Commit {
			return nil
		}
	}
	return fmt.Errorf("the replica of shard %d on %s is not ready to lead", m.shard, m.to)
}

// leaderMove is a leadership that is to move.
type leaderMove struct {
	shard    shard.ID
	from, to string // nodes
	reason   string
}

// leaderships are what nextLeaders chooses from. Nodes are numbered as in nodes, shards as in ids.
type leaderships struct {
	nodes   []string
	led     []int // shards that each node leads
	ids     []shard.ID
	members [][]int // of each shard that may move: who leads, then who else may
	load    []uint64
	rates   []uint64
	known   bool // load and rates are
}

// nextLeaders returns the leaderships that are to move next, none where all is well: until the numbers of shards that nodes lead are as even as the
// members allow (see spreadLeaders), one that makes them so; then, where a node serves much more than another, those that make what they serve
// more even and leave the numbers so. Shards that nobody is known to lead, and those that an operation changes, stay. able tells whether a node's
// replica may lead. It is pure.
//
// It comes to an end, as long as the rates stay: a move for the numbers makes these more even, and after one for the rates both nodes serve less
// than the first did, so what nodes serve, the most first, falls in the order of the dictionary.
func (t *Table) nextLeaders(v outlook, able func(node string, id shard.ID) bool) []leaderMove {
	l := t.leaderships(v, able)
	for from := range l.nodes {
		if path := reducingPath(l.members, l.led, from); path != nil {
			last := path[len(path)-1]
			at := l.members[last.shard][0]
			return []leaderMove{l.move(last, fmt.Sprintf("node %s leads %d shards, node %s %d", l.nodes[at], l.led[at], l.nodes[last.to], l.led[last.to]))}
		}
	}
	return l.relief()
}

func (t *Table) leaderships(v outlook, able func(node string, id shard.ID) bool) leaderships {
	l := leaderships{nodes: slices.DeleteFunc(t.NodeIDs(), t.drained), known: true}
	l.led, l.load = make([]int, len(l.nodes)), make([]uint64, len(l.nodes))
	for _, sh := range t.Shards {
		leader := slices.Index(l.nodes, v.by[sh.ID])
		if leader < 0 {
			continue
		}
		rate, known := v.rates[sh.ID]
		l.known = l.known && known
		l.led[leader]++
		l.load[leader] += rate
		if _, runs := t.runningOn(sh.ID); runs {
			continue
		}
		may := []int{leader}
		for _, m := range sh.Members {
			if n := slices.Index(l.nodes, m.Node); n >= 0 && n != leader && m.Role == RoleVoter && able(m.Node, sh.ID) {
				may = append(may, n)
			}
		}
		l.ids, l.members, l.rates = append(l.ids, sh.ID), append(l.members, may), append(l.rates, rate)
	}
	return l
}

func (l *leaderships) move(h handover, reason string) leaderMove {
	return leaderMove{shard: l.ids[h.shard], from: l.nodes[l.members[h.shard][0]], to: l.nodes[h.to], reason: reason}
}

// leastRelief is what a node must be relieved of, requests per second, for a leadership to move: each costs those that are under way some time. It
// is also a quarter of what nodes serve on average.
const leastRelief = 100

// relief finds the leadership that a node gives to one that leads one shard less, or the two that they exchange, after which the one of them that
// serves more serves least. The node is the one that serves most of those for which there is any.
func (l *leaderships) relief() []leaderMove {
	if !l.known {
		return nil
	}
	var sum uint64
	for _, load := range l.load {
		sum += load
	}
	least := max(leastRelief, sum/uint64(max(1, len(l.nodes)))/4)
	nodes := make([]int, len(l.nodes))
	for n := range nodes {
		nodes[n] = n
	}
	slices.SortStableFunc(nodes, func(a, b int) int { return cmp.Compare(l.load[b], l.load[a]) })
	for _, from := range nodes {
		if l.load[from] < least {
			break
		}
		best, found := l.load[from]-least, []handover(nil) // what the busier of the two serves afterwards, and how
		try := func(moved uint64, to int, moves ...handover) {
			if after := max(l.load[from]-moved, l.load[to]+moved); moved > 0 && (after < best || after == best && (found == nil || len(moves) < len(found))) {
				best, found = after, moves
			}
		}
		for s, m := range l.members {
			if m[0] != from {
				continue
			}
			for _, to := range m[1:] {
				if l.led[from] == l.led[to]+1 {
					try(l.rates[s], to, handover{s, to})
				}
				for other, o := range l.members {
					if o[0] == to && slices.Contains(o[1:], from) && l.rates[other] < l.rates[s] {
						try(l.rates[s]-l.rates[other], to, handover{s, to}, handover{other, from})
					}
				}
			}
		}
		if found != nil {
			to := found[0].to
			var moves []leaderMove
			for _, h := range found {
				moves = append(moves, l.move(h, fmt.Sprintf("node %s serves %d requests per second, node %s %d", l.nodes[from], l.load[from], l.nodes[to], l.load[to])))
			}
			return moves
		}
	}
	return nil
}
