package directory

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/shard"
)

// ledBy counts the data shards that each node leads.
func (r *testRig) ledBy() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	led := map[string]int{}
	for id, node := range r.leaders {
		if id != shard.Directory {
			led[node]++
		}
	}
	return led
}

// TestLeadersAreBalanced ensures that leaders which a failure brought together are spread again, once things have settled, and then
// stay; not by a directory that is told not to.
func TestLeadersAreBalanced(t *testing.T) {
	for _, setting := range []string{"", off} {
		t.Run("balance="+setting, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTestRig(t, 3)
				r.balanced = true
				r.configure = func(c *Config) { c.Settings.Balance = setting }
				r.startAll("a", "b", "c")
				r.ready()
				for id := range shard.ID(5) {
					r.lead(id, "b")
				}
				<-time.After(balanceAfter - time.Second)
				if led := r.ledBy(); led["b"] != 4 {
					t.Errorf("moved before things settled: %v", led)
				}
				if setting == off {
					<-time.After(time.Minute)
					if led := r.ledBy(); led["b"] != 4 {
						t.Errorf("moved: %v", led)
					}
					return
				}
				even := func() bool {
					led := r.ledBy()
					return max(led["a"], led["b"], led["c"]) == 2 && min(led["a"], led["b"], led["c"]) == 1
				}
				r.until("they are spread", even)
				steps := r.asked()
				<-time.After(time.Minute)
				if !even() || r.asked() != steps {
					t.Errorf("%v, after %d more steps", r.ledBy(), r.asked()-steps)
				}
			})
		})
	}
}

// TestNextLeader ensures that leaderships end up as even as spreadLeaders makes them, by moves each of which goes to a member that may
// lead, whichever members there are; and that what is drained leads nothing more.
func TestNextLeader(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table, sights := anyPlaced(rt, t)
		able := func(node string, _ shard.ID) bool { return sights[node].up }
		by := map[shard.ID]string{}
		for _, sh := range table.Shards {
			by[sh.ID] = sh.Members[rapid.IntRange(0, len(sh.Members)-1).Draw(rt, "leader")].Node
			if !sights[by[sh.ID]].up { // who leads is not known then; what leaves such a node could not come back, which spreadLeaders does not know
				by[sh.ID] = ""
			}
		}
		nodes := slices.DeleteFunc(table.NodeIDs(), table.drained)
		count := func() []int {
			led := make([]int, len(nodes))
			for _, node := range by {
				if i := slices.Index(nodes, node); i >= 0 {
					led[i]++
				}
			}
			slices.Sort(led)
			return led
		}
		// The best that there is, from the same choices.
		var members [][]int
		for _, sh := range table.Shards {
			leader := slices.Index(nodes, by[sh.ID])
			if leader < 0 {
				continue
			}
			m := []int{leader}
			for _, o := range sh.Members {
				if i := slices.Index(nodes, o.Node); i >= 0 && i != leader && able(o.Node, sh.ID) {
					m = append(m, i)
				}
			}
			members = append(members, m)
		}
		spreadLeaders(members, len(nodes))
		best := make([]int, len(nodes))
		for _, m := range members {
			best[m[0]]++
		}
		slices.Sort(best)
		for moves := 0; ; moves++ {
			id, to := table.nextLeader(by, able)
			if to == "" {
				break
			}
			sh, _ := table.Shard(id)
			if _, member := sh.Member(to); !member || !able(to, id) || table.drained(to) || by[id] == to {
				rt.Fatalf("shard %d, led by %s, moves to %s", id, by[id], to)
			}
			if by[id] = to; moves > 200 {
				rt.Fatal("it never ends")
			}
		}
		if got := count(); !slices.Equal(got, best) {
			rt.Fatal(fmt.Sprintf("led %v, could be %v", got, best))
		}
	})
}
