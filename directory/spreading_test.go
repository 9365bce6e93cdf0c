package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// joined runs f on nodes that balance, of which those named founded the cluster and d joined.
func joined(t *testing.T, founders []string, configure func(*Config), f func(r *testRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, len(founders))
		r.balanced = true
		r.configure = func(c *Config) {
			c.Memory = 1 << 30
			if configure != nil {
				configure(c)
			}
		}
		r.startAll(founders...)
		r.ready()
		f(r)
	})
}

// enter has a node join.
func (r *testRig) enter(id string) {
	r.t.Helper()
	if err := r.joiner(id, fmt.Sprintf("%032x", id[0]-'a'+1)); err != nil {
		r.t.Fatal(err)
	}
}

// replicas counts the replicas of data shards on each node, by the table of one.
func (r *testRig) replicas(at string) map[string]int {
	t := r.services[at].Table()
	all := map[string]int{}
	for _, id := range t.NodeIDs() {
		all[id] = 0
	}
	for _, sh := range t.Shards {
		for _, m := range sh.Members {
			all[m.Node]++
		}
	}
	return all
}

// even reports whether no number is above another one by more than 1.
func even(numbers map[string]int) bool {
	values := slices.Sorted(maps.Values(numbers))
	return values[len(values)-1]-values[0] <= 1
}

// spread reports whether nodes have equally many replicas and leaders, and nothing is to follow, by the table of one.
func (r *testRig) spread(at string) bool {
	runs := func(o Operation) bool { return o.State == OperationRunning }
	return even(r.replicas(at)) && even(r.allLed()) && len(r.services[at].Planned()) == 0 && !slices.ContainsFunc(r.services[at].Table().Operations, runs)
}

// allLed counts the shards that each node leads, also those that lead none.
func (r *testRig) allLed() map[string]int {
	led := r.ledBy()
	for id := range r.services {
		led[id] += 0
	}
	return led
}

// watch checks at each call that no shard has fewer voters than least, or more members than that, and that no more than most operations run.
func (r *testRig) watch(at string, least, members, most int) {
	t := r.services[at].Table()
	running := 0
	for _, o := range t.Operations {
		if o.State == OperationRunning {
			running++
		}
	}
	if running > most {
		r.t.Errorf("%d operations run", running)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sh := range t.groups() {
		if n := len(r.confs[sh.ID].Voters); n < least {
			r.t.Errorf("shard %d has %d voters", sh.ID, n)
		}
		if len(sh.Members) > members {
			r.t.Errorf("shard %d has the members %v", sh.ID, sh.Members)
		}
	}
}

// quiet checks that nothing is asked of any shard for a minute.
func (r *testRig) quiet() {
	r.t.Helper()
	synctest.Wait()
	before := r.asked()
	<-time.After(time.Minute)
	synctest.Wait()
	if r.asked() != before {
		r.t.Errorf("%d more steps: %+v", r.asked()-before, r.steps[before:])
	}
}

// TestJoinedNodeTakesReplicas ensures that replicas, then leaders, move to a node that joins until the nodes have equally many, one at a time, the
// followers first, while no shard has less voters than before, and that they stay then; that nobody moves before things have settled, nor
// where the setting is off; and that an operation says why.
func TestJoinedNodeTakesReplicas(t *testing.T) {
	for _, setting := range []string{"", off} {
		t.Run("balance="+setting, func(t *testing.T) {
			joined(t, []string{"a", "b", "c"}, func(c *Config) { c.Settings.Balance = setting }, func(r *testRig) {
				<-time.After(2 * balanceAfter) // so that it is d that things have to settle after
				r.enter("d")
				r.ready()
				if setting == off {
					r.quiet()
					if planned := r.services["b"].Planned(); len(planned) > 0 {
						t.Errorf("planned, though it is off: %+v", planned)
					}
					return
				}
				r.until("all hear d", func() bool { return len(r.services["b"].Planned()) == 1 })
				if p := r.services["b"].Planned()[0]; p.To != "d" || p.Waits != "" || p.Reason != fmt.Sprintf("node %s holds more for its capacity than node d", p.From) {
					t.Errorf("planned: %+v", p)
				}
				<-time.After(balanceAfter - time.Second)
				if all := r.services["a"].Table().Operations; len(all) > 0 {
					t.Errorf("before things have settled: %+v", all)
				}
				r.until("one moves", func() bool { return len(r.operations("a", ReplaceMember)) > 0 })
				if o := r.operations("a", ReplaceMember)[0]; r.leaders[o.Shard] == o.From {
					t.Errorf("a leader moves first: %+v", o)
				}
				r.until("the replicas are spread", func() bool {
					r.watch("a", 3, 4, 1)
					return r.spread("a")
				})
				r.quiet()
				all := r.operations("a", ReplaceMember)
				if len(all) != 3 || len(r.services["a"].Table().Operations) != 3 {
					t.Errorf("%+v", r.services["a"].Table().Operations)
				}
				for _, o := range all {
					if o.State != OperationDone || o.Node != "d" || o.Reason != fmt.Sprintf("node %s holds more for its capacity than node d", o.From) {
						t.Errorf("%+v", o)
					}
				}
				if got := r.membersOf("a", shard.Directory); got != "a:voter b:voter c:voter" {
					t.Errorf("the directory: %s", got)
				}
			})
		})
	}
}

// TestZonesAreUsed ensures that a node which joins in a zone of its own gets a replica of each shard that shares a zone, the directory's too.
func TestZonesAreUsed(t *testing.T) {
	zones := func(c *Config) { c.Self.Zone = map[string]string{"a": "1", "b": "1", "c": "2", "d": "3"}[c.Self.ID] }
	joined(t, []string{"a", "b", "c"}, zones, func(r *testRig) {
		r.quiet()
		r.enter("d")
		r.until("each zone has one of each", func() bool {
			r.watch("a", 3, 4, 1)
			for _, sh := range r.services["a"].Table().groups() {
				if r.services["a"].Table().sharing(sh.ID) > 0 {
					return false
				}
			}
			return true
		})
		r.until("it is even within zones", func() bool {
			return maps.Equal(r.replicas("a"), map[string]int{"a": 2, "b": 2, "c": 4, "d": 4}) && len(r.services["a"].Planned()) == 0
		})
		r.until("leaders settle", func() bool { return even(r.allLed()) })
		r.quiet()
	})
}

// TestBytesCount ensures that a shard which holds most is alone sooner than its number makes it, and that what every node tells of it is what counts.
func TestBytesCount(t *testing.T) {
	joined(t, []string{"a", "b", "c"}, func(c *Config) { c.Settings.Replicas = 1 }, func(r *testRig) {
		r.mu.Lock()
		for id := range shard.ID(5) {
			st := r.caches[id]
			st.Bytes = map[shard.ID]uint64{1: 400 << 20, 2: 10 << 20, 3: 10 << 20, 4: 10 << 20}[id]
			r.caches[id] = st
		}
		r.mu.Unlock()
		// Four shards with one replica each: two are on one node, the heavy one among them, which is even by their number.
		r.until("the heavy one is alone", func() bool {
			table := r.services["a"].Table()
			sh, _ := table.Shard(1)
			return r.replicas("a")[sh.Members[0].Node] == 1 && r.spread("a")
		})
		r.quiet()
	})
}

// TestDirectoryGrows ensures that the directory gets three members as soon as there are three nodes, and no second one before.
func TestDirectoryGrows(t *testing.T) {
	joined(t, []string{"a"}, func(c *Config) { c.Settings.Replicas = 1 }, func(r *testRig) {
		r.enter("b")
		r.until("the shards are spread", func() bool { return r.spread("a") })
		r.quiet()
		if got := r.membersOf("a", shard.Directory); got != "a:voter" {
			t.Errorf("with two nodes: %s", got)
		}
		r.enter("c")
		r.until("it has three", func() bool { return r.membersOf("c", shard.Directory) == "a:voter b:voter c:voter" })
		for _, o := range r.operations("a", AddMember) {
			if o.State != OperationDone || o.Reason != "it has 1 of 3 members" && o.Reason != "it has 2 of 3 members" {
				t.Errorf("%+v", o)
			}
		}
		r.until("the shards are spread", func() bool { return r.spread("a") })
		r.quiet()
	})
}

// TestSpreadingSurvivesLeader ensures that the spreading goes on when the directory's leader dies in any phase of a move, whether or not the step of
// that phase was made.
func TestSpreadingSurvivesLeader(t *testing.T) {
	for _, made := range []bool{false, true} {
		for phase, step := range map[Phase]stepKind{PhaseAdding: stepAddLearner, PhaseCatchingUp: "", PhasePromoting: stepPromote, PhaseRemoving: stepRemove} {
			t.Run(fmt.Sprintf("%s made=%v", phase, made), func(t *testing.T) {
				joined(t, []string{"a", "b", "c"}, nil, func(r *testRig) {
					r.lead(shard.Directory, "a")
					r.holdOne(step)
					r.setLagging("d", phase == PhaseCatchingUp)
					r.enter("d")
					r.until(string(phase), func() bool {
						all := r.operations("b", ReplaceMember)
						return len(all) == 1 && all[0].Phase == phase && (step == "" || r.lastAsked() == step)
					})
					id := r.operations("b", ReplaceMember)[0].Shard
					led := map[shard.ID]bool{}
					for sh, leader := range r.leaders {
						led[sh] = leader == "a"
					}
					r.stop("a")
					for _, sh := range r.services["b"].Table().groups() {
						if led[sh.ID] {
							r.lead(sh.ID, "b")
						}
					}
					if made && step != "" {
						if err := r.makeLast(); err != nil {
							t.Fatal(err)
						}
					}
					r.holdOne("")
					r.setLagging("d", false)
					r.startAll("a")
					r.over("b", r.operations("b", ReplaceMember)[0].ID, OperationDone)
					if n := len(r.services["b"].Table().groups()[id].Members); n != 3 {
						t.Errorf("shard %d has %d members", id, n)
					}
					r.until("the replicas are spread", func() bool { return r.spread("b") })
					r.quiet()
				})
			})
		}
	}
}

// TestSpreadingMeetsDeath ensures that a move whose new node dies is taken back once that counts as gone, and that the spreading begins again when it
// is back; and that nothing moves while a node with replicas is down, though others would take them.
func TestSpreadingMeetsDeath(t *testing.T) {
	joined(t, []string{"a", "b", "c"}, func(c *Config) { c.Settings.RepairAfter = "10s" }, func(r *testRig) {
		r.lead(shard.Directory, "a")
		r.setLagging("d", true)
		r.enter("d")
		r.until("one catches up", func() bool {
			all := r.operations("a", ReplaceMember)
			return len(all) == 1 && all[0].Phase == PhaseCatchingUp
		})
		r.stop("d")
		r.over("a", 1, OperationCancelled)
		if got := len(r.hosted("a", "d")); got != 0 {
			t.Errorf("d has %d replicas", got)
		}
		r.quiet()
		r.setLagging("d", false)
		r.startAll("d")
		r.until("the replicas are spread", func() bool { return r.spread("a") })
	})
	joined(t, []string{"a"}, func(c *Config) { c.Settings.Replicas, c.Settings.RepairAfter = 1, "10s" }, func(r *testRig) {
		r.setLagging("c", true)
		r.enter("b")
		r.enter("c")
		var o Operation
		r.until("the directory grows to c", func() bool {
			for _, o = range r.operations("a", AddMember) {
				if o.Shard == shard.Directory && o.Node == "c" && o.Phase == PhaseCatchingUp {
					return true
				}
			}
			return false
		})
		r.stop("c")
		r.over("a", o.ID, OperationCancelled)
		r.setLagging("c", false)
		r.startAll("c")
		r.until("it has three", func() bool { return r.membersOf("a", shard.Directory) == "a:voter b:voter c:voter" })
	})
	joined(t, []string{"a", "b", "c"}, nil, func(r *testRig) {
		r.lead(shard.Directory, "a")
		r.enter("d")
		led := maps.Clone(r.leaders)
		r.stop("c")
		for id, leader := range led {
			if leader == "c" {
				r.lead(id, "a")
			}
		}
		r.until("it says why", func() bool {
			planned := r.services["a"].Planned()
			return len(planned) == 1 && planned[0].Waits == "node c is down"
		})
		<-time.After(30 * time.Second) // less than repair-after
		if all := r.services["a"].Table().Operations; len(all) > 0 {
			t.Errorf("%+v", all)
		}
		r.startAll("c")
		r.until("the replicas are spread", func() bool { return r.spread("a") })
	})
}

// TestReplicasChange ensures that members come and go when there are to be another number of them, one of a shard at a time and few in all, that no shard has
// less voters meanwhile than before and after, and that the directory grows with them and stays; that it waits for nodes that there are not; and that
// it goes on when the directory's leader dies.
func TestReplicasChange(t *testing.T) {
	joined(t, []string{"a", "b", "c"}, nil, func(r *testRig) {
		set := func(at, value string) {
			t.Helper()
			if _, err := r.services[at].ChangeSettings(context.Background(), SettingsChange{Values: map[string]*string{"replicas": &value}}); err != nil {
				t.Fatal(err)
			}
		}
		have := func(at string, n int) func() bool {
			return func() bool {
				r.watch(at, 3, 5, maxRelocations)
				return !slices.ContainsFunc(r.services[at].Table().Shards, func(sh Shard) bool { return voters(sh.Members) != n }) && r.spread(at)
			}
		}
		r.lead(shard.Directory, "a")
		r.enter("d")
		r.until("the replicas are spread", have("a", 3))
		set("b", "5")
		r.until("it waits", func() bool { return len(r.services["a"].Planned()) == 4 })
		for _, p := range r.services["a"].Planned() {
			if p.Reason != "it has 3 of 5 members" || !strings.Contains(p.Waits, "an even number") {
				t.Errorf("%+v", p)
			}
		}
		r.quiet()
		r.setLagging("e", true)
		r.enter("e")
		r.until("some grow", func() bool { return len(r.operations("a", AddMember)) >= maxRelocations })
		led := maps.Clone(r.leaders)
		r.stop("a")
		r.setLagging("e", false)
		for id, leader := range led {
			if leader == "a" {
				r.lead(id, "b")
			}
		}
		r.startAll("a")
		r.until("all have five", have("b", 5))
		if got := r.membersOf("b", shard.Directory); got != "a:voter b:voter c:voter d:voter e:voter" {
			t.Errorf("the directory: %s", got)
		}
		r.quiet()
		set("c", "3")
		r.until("all have three", have("b", 3))
		if got := r.membersOf("b", shard.Directory); got != "a:voter b:voter c:voter d:voter e:voter" {
			t.Errorf("the directory: %s", got)
		}
		r.quiet()
	})
}

// TestReplicasNeedRoom ensures that more replicas are refused where the nodes have no room for them, by what they would have then.
func TestReplicasNeedRoom(t *testing.T) {
	table := testTable(t, 5, Settings{InitialShards: 10, Replicas: 3, CacheMemory: "60%"}).clone()
	next := table.Settings
	next.Replicas = 5 // ten on each node
	memory := map[string]uint64{"e": 1 << 20}
	for name, c := range map[string]struct {
		memory, shardBytes uint64 // of node e
		refused            bool
	}{
		"room":              {memory: 1 << 20},
		"just enough":       {memory: LeastShard*115/6 + 10},
		"too little":        {memory: LeastShard * 115 / 6, refused: true},
		"shards that fit":   {memory: 1 << 20, shardBytes: 60 << 10},
		"shards that don't": {memory: 1 << 20, shardBytes: 65 << 10, refused: true},
	} {
		memory["e"], table.Settings.ShardBytes, next.ShardBytes = c.memory, c.shardBytes, c.shardBytes
		err := table.judge(next, memory)
		var refused *SettingError
		if errors.As(err, &refused) != c.refused || c.refused && refused.Name != "replicas" {
			t.Errorf("%s: %v", name, err)
		}
	}
	table.Settings.Replicas = 7
	if err := table.judge(next, memory); err != nil {
		t.Errorf("fewer: %v", err)
	}
}

// TestNumberIsKept ensures that a member which an operator adds beyond the number that there is to be goes again, and one that is removed comes again, as
// one whose rebuild ended half done; not where the setting is off.
func TestNumberIsKept(t *testing.T) {
	joined(t, []string{"a", "b", "c"}, nil, func(r *testRig) {
		r.until("leaders settle", func() bool { return even(r.ledBy()) })
		for range 2 {
			o, err := r.change("a", MemberChange{Shard: 2, Node: "b"})
			if err != nil {
				t.Fatal(err)
			}
			r.over("a", o.ID, OperationDone)
			r.until("it is back", func() bool { return r.membersOf("a", 2) == "a:voter b:voter c:voter" })
		}
		r.enter("d")
		r.until("the replicas are spread", func() bool { return r.spread("a") })
		var with, without Shard // d
		for _, sh := range r.services["a"].Table().Shards {
			if _, member := sh.Member("d"); member {
				with = sh
			} else {
				without = sh
			}
		}
		o, err := r.change("a", MemberChange{Shard: without.ID, Node: "d", Add: true})
		if err != nil {
			t.Fatal(err)
		}
		r.over("a", o.ID, OperationDone)
		r.until("one goes again", func() bool {
			sh, _ := r.services["a"].Table().Shard(without.ID)
			return len(sh.Members) == 3 && r.spread("a")
		})
		text := off
		if _, err := r.services["a"].ChangeSettings(context.Background(), SettingsChange{Values: map[string]*string{"balance": &text}}); err != nil {
			t.Fatal(err)
		}
		r.ready()
		o, err = r.change("a", MemberChange{Shard: with.ID, Node: "d"})
		if err != nil {
			t.Fatal(err)
		}
		r.over("a", o.ID, OperationDone)
		r.quiet()
		if sh, _ := r.services["a"].Table().Shard(with.ID); len(sh.Members) != 2 {
			t.Errorf("members %v though it is off", sh.Members)
		}
	})
}
