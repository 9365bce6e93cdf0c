package directory

import (
	"fmt"
	"slices"
	"strings"
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

// TestBusyLeadersAreSpread ensures that of two shards that are read much one gets another leader, though no node leads more shards than it must, and
// that it says so before; and that they stay then.
func TestBusyLeadersAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.balanced = true
		r.startAll("a", "b", "c")
		r.ready()
		for id, node := range []string{"a", "b", "b", "a", "c"} {
			r.lead(shard.ID(id), node)
		}
		busy := func() (nodes []string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return []string{r.leaders[1], r.leaders[2]}
		}
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for tick := time.NewTicker(time.Second); ; {
				select {
				case <-tick.C:
				case <-stop:
					return
				}
				r.mu.Lock()
				for id := shard.ID(1); id <= 2; id++ {
					r.hosts[r.leaders[id]].hits[id] += 1000
				}
				r.mu.Unlock()
			}
		}()
		<-time.After(rateWindow - time.Second)
		if b := busy(); b[0] != "b" || b[1] != "b" {
			t.Errorf("moved before anything is known: %v", b)
		}
		hold := func(step stepKind) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.holdStep = step
		}
		hold(stepTransfer)
		<-time.After(2 * time.Second)
		planned := r.services["a"].Planned()
		if len(planned) != 1 || !planned[0].Leader || planned[0].Shard != 1 || planned[0].From != "b" || planned[0].To != "a" ||
			!strings.Contains(planned[0].Reason, "requests per second, node a 0") {
			t.Errorf("planned %+v", planned)
		}
		hold("")
		r.until("they are apart", func() bool {
			b := busy()
			return b[0] != b[1]
		})
		<-time.After(2 * rateWindow)
		if led := r.ledBy(); led["a"]+led["b"]+led["c"] != 4 || max(led["a"], led["b"], led["c"]) != 2 {
			t.Errorf("nodes lead %v", led)
		}
		steps := r.asked()
		<-time.After(4 * rateWindow)
		if r.asked() != steps {
			t.Errorf("%d more steps", r.asked()-steps)
		}
		views := r.services["a"].Nodes()
		if i := slices.IndexFunc(views, func(v NodeView) bool { return v.Rate > 1100 }); i >= 0 {
			t.Errorf("%+v", views[i])
		}
	})
}

// TestNextLeaders ensures that leaderships end up as even as spreadLeaders makes them, by moves each of which goes to a member that may
// lead, whichever members there are and whatever they serve; that what is drained leads nothing more; and that in the end no two shards can
// be exchanged that relieve the node that serves more.
func TestNextLeaders(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table, sights := anyPlaced(rt, t)
		able := func(node string, _ shard.ID) bool { return sights[node].up }
		v := outlook{by: map[shard.ID]string{}, rates: map[shard.ID]uint64{}}
		allKnown := true
		for _, sh := range table.Shards {
			v.by[sh.ID] = sh.Members[rapid.IntRange(0, len(sh.Members)-1).Draw(rt, "leader")].Node
			if !sights[v.by[sh.ID]].up { // who leads is not known then; what leaves such a node could not come back, which spreadLeaders does not know
				v.by[sh.ID] = ""
			}
			if rapid.IntRange(0, 20).Draw(rt, "known") > 0 {
				v.rates[sh.ID] = rapid.SampledFrom([]uint64{0, 1, 99, 100, 500, 1000, 5000}).Draw(rt, "rate")
			}
		}
		nodes := slices.DeleteFunc(table.NodeIDs(), table.drained)
		count := func() []int {
			led := make([]int, len(nodes))
			for _, node := range v.by {
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
			leader := slices.Index(nodes, v.by[sh.ID])
			if leader < 0 {
				continue
			}
			if _, known := v.rates[sh.ID]; !known {
				allKnown = false
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
		for round := 0; ; round++ {
			moves := table.nextLeaders(v, able)
			if len(moves) == 0 {
				break
			}
			before := count()
			for _, m := range moves {
				sh, _ := table.Shard(m.shard)
				if _, member := sh.Member(m.to); !member || !able(m.to, m.shard) || table.drained(m.to) || v.by[m.shard] != m.from || m.from == m.to {
					rt.Fatalf("%+v, shard %d is led by %s", m, m.shard, v.by[m.shard])
				}
				v.by[m.shard] = m.to
			}
			if even := slices.Equal(before, best); even && !slices.Equal(count(), best) {
				rt.Fatalf("%+v: led %v, were %v", moves, count(), before)
			}
			if round > 200 {
				rt.Fatal("it never ends")
			}
		}
		if got := count(); !slices.Equal(got, best) {
			rt.Fatal(fmt.Sprintf("led %v, could be %v", got, best))
		}
		load, sum := map[string]uint64{}, uint64(0)
		for _, sh := range table.Shards {
			if slices.Contains(nodes, v.by[sh.ID]) {
				load[v.by[sh.ID]] += v.rates[sh.ID]
				sum += v.rates[sh.ID]
			}
		}
		least := max(100, sum/uint64(max(1, len(nodes)))/4)
		for _, x := range table.Shards {
			for _, y := range table.Shards {
				a, b := v.by[x.ID], v.by[y.ID]
				_, bHasX := x.Member(b)
				_, aHasY := y.Member(a)
				if !allKnown || a == "" || b == "" || a == b || !bHasX || !aHasY || table.drained(a) || table.drained(b) || v.rates[x.ID] <= v.rates[y.ID] {
					continue
				}
				d := v.rates[x.ID] - v.rates[y.ID]
				if after := max(load[a]-d, load[b]+d); after+least <= load[a] {
					rt.Fatalf("shards %d and %d should be exchanged: %v, %v, %v", x.ID, y.ID, v.by, v.rates, load)
				}
			}
		}
	})
}

// TestRelief ensures that what nodes serve is made even where the numbers of led shards are: by an exchange, or by one that leads one more;
// and that a little is not worth it, nor is anything before all rates are known.
func TestRelief(t *testing.T) {
	for _, tc := range []struct {
		name  string
		by    string // leaders of shards 1, 2, ...
		rates []uint64
		want  string
	}{
		{"two busy ones on a node", "aabb", []uint64{1000, 900, 10, 20}, "1 from a to b, 4 from b to a"},
		{"one busy one with company", "aabb", []uint64{1000, 300, 10, 20}, "1 from a to b, 4 from b to a"},
		{"even", "aabb", []uint64{500, 500, 500, 500}, ""},
		{"a little", "aabb", []uint64{60, 60, 10, 10}, ""},
		{"one more, of the busy ones", "aab", []uint64{600, 500, 100}, "2 from a to b"},
		{"not all known", "aabb", []uint64{1000, 900, 10}, ""},
		{"a single busy one", "ab", []uint64{5000, 10}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := testTable(t, 2, Settings{InitialShards: len(tc.by), Replicas: 2, CacheMemory: "60%"})
			v := outlook{by: map[shard.ID]string{}, rates: map[shard.ID]uint64{}}
			for i, node := range tc.by {
				v.by[shard.ID(i+1)] = string(node)
			}
			for i, rate := range tc.rates {
				v.rates[shard.ID(i+1)] = rate
			}
			var got []string
			for _, m := range table.nextLeaders(v, func(string, shard.ID) bool { return true }) {
				got = append(got, fmt.Sprintf("%d from %s to %s", m.shard, m.from, m.to))
			}
			if moves := strings.Join(got, ", "); moves != tc.want {
				t.Errorf("%q, want %q", moves, tc.want)
			}
		})
	}
}

// TestRates ensures that a leader's requests are counted over a window of its own, and that what changes little, or begins anew, leaves the rate
// as it was.
func TestRates(t *testing.T) {
	var r rates
	now := time.Unix(1000, 0)
	for _, step := range []struct {
		after  time.Duration
		leader string
		done   uint64
		want   uint64
		known  bool
	}{
		{0, "a", 1000, 0, false},
		{29 * time.Second, "a", 90_000, 0, false},
		{time.Second, "a", 4000, 100, true},
		{15 * time.Second, "b", 7, 100, true}, // it may have led long ago
		{29 * time.Second, "b", 60_000, 100, true},
		{time.Second, "b", 3607, 100, true}, // 120
		{30 * time.Second, "b", 7507, 130, true},
		{30 * time.Second, "b", 3, 130, true}, // it started again
		{60 * time.Second, "b", 3, 0, true},
	} {
		now = now.Add(step.after)
		r.count(1, step.leader, step.done, now)
		if rate, known := r.rate(1); rate != step.want || known != step.known {
			t.Errorf("%+v: %d, %v", step, rate, known)
		}
	}
}
