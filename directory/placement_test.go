package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/shard"
)

// drain begins or ends the draining of a node.
func (r *testRig) drain(at, node string, drain bool) (NodeView, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return r.services[at].DrainNode(ctx, node, drain)
}

// hosted is what a node hosts by the table of another one.
func (r *testRig) hosted(at, node string) []shard.ID { return r.services[at].Table().hosted(node) }

// operations returns the operations of one kind that a node's table keeps.
func (r *testRig) operations(at string, kind OperationKind) []Operation {
	return slices.DeleteFunc(slices.Clone(r.services[at].Table().Operations), func(o Operation) bool { return o.Kind != kind })
}

// TestDrain ensures that a drained node hands over what it leads and then its replicas, the directory's too, while no shard ever
// has less voters than before; that it can be removed then; and that one which is undrained takes replicas again.
func TestDrain(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
			r.lead(id, "c")
		}
		r.ready()
		r.setHold(true)
		n, err := r.drain("b", "c", true)
		if err != nil || !n.Draining || n.Replicas != 4 || !n.Directory {
			t.Fatalf("%+v, %v", n, err)
		}
		r.until("it is asked to hand over", func() bool { return r.asked() > 0 })
		r.setHold(false)
		most := 0
		r.until("it hosts nothing", func() bool {
			table := r.services["a"].Table()
			running := 0
			for _, o := range table.Operations {
				if o.State == OperationRunning {
					running++
				}
			}
			most = max(most, running)
			for id := range shard.ID(5) {
				if members, _ := table.Members(id); voters(members) < 3 || len(members) > 4 {
					t.Errorf("shard %d has the members %v", id, members)
				}
				r.mu.Lock()
				if n := len(r.confs[id].Voters); n < 3 {
					t.Errorf("shard %d has %d voters", id, n)
				}
				r.mu.Unlock()
			}
			return len(table.hosted("c")) == 0
		})
		if most != maxRelocations {
			t.Errorf("%d operations ran at once, want %d", most, maxRelocations)
		}
		all := r.operations("a", ReplaceMember)
		if len(all) != 5 || all[0].Shard != shard.Directory && all[1].Shard != shard.Directory {
			t.Errorf("%+v", all)
		}
		for _, o := range all {
			if o.State != OperationDone || o.Node != "d" || o.From != "c" || o.Reason != "node c is drained" || !o.Added {
				t.Errorf("%+v", o)
			}
			if got := r.membersOf("a", o.Shard); got != "a:voter b:voter d:voter" {
				t.Errorf("shard %d: %s", o.Shard, got)
			}
		}
		r.until("its replicas are destroyed", func() bool {
			return !slices.ContainsFunc([]shard.ID{0, 1, 2, 3, 4}, func(id shard.ID) bool { return r.replicaOn("c", id) != "" })
		})
		for id, leader := range r.leaders {
			if leader == "c" {
				t.Errorf("it leads shard %d", id)
			}
		}
		if _, err := r.change("a", MemberChange{Shard: 2, Node: "c", Add: true}); !errors.As(err, new(*ConflictError)) {
			t.Errorf("a replica came to a drained node: %v", err)
		}
		r.namesTables()
		if n, err := r.drain("a", "c", false); err != nil || n.Draining {
			t.Errorf("%+v, %v", n, err)
		}
		o, err := r.change("a", MemberChange{Shard: 2, Node: "c", Add: true})
		if err != nil {
			t.Fatal(err)
		}
		r.over("a", o.ID, OperationDone)
		<-time.After(20 * time.Second)
		if got := r.membersOf("a", 2); got != "a:voter b:voter c:voter d:voter" {
			t.Errorf("what was added by hand did not stay: %s", got)
		}
		if _, err := r.drain("a", "c", true); err != nil {
			t.Fatal(err)
		}
		r.until("the member beyond three is removed", func() bool { return len(r.hosted("a", "c")) == 0 })
		if got := r.membersOf("a", 2); got != "a:voter b:voter d:voter" {
			t.Errorf("members %s", got)
		}
		r.stop("c")
		<-time.After(2 * softLife)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := r.services["a"].RemoveNode(ctx, "c"); err != nil || len(r.services["a"].Table().Draining) != 0 {
			t.Errorf("%v, draining %v", err, r.services["a"].Table().Draining)
		}
	})
}

// TestDrainRefused ensures that a node is not drained where no other one takes a replica of it, and that draining waits, and says so,
// where that comes later.
func TestDrainRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		var conflict *ConflictError
		if _, err := r.drain("a", "c", true); !errors.As(err, &conflict) {
			t.Errorf("with nowhere to go: %v", err)
		}
		if _, err := r.drain("a", "z", true); !errors.As(err, new(*UnknownError)) {
			t.Errorf("one that there is not: %v", err)
		}
		if n, err := r.drain("a", "c", false); err != nil || n.Draining {
			t.Errorf("%+v, %v", n, err)
		}
	})
	fourNodes(t, func(t *testing.T, r *testRig) {
		for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
			r.lead(id, "a")
		}
		r.ready()
		r.setLagging("d", true)
		if _, err := r.drain("a", "c", true); err != nil {
			t.Fatal(err)
		}
		r.until("two wait for d", func() bool { return len(r.operations("a", ReplaceMember)) == maxRelocations })
		r.stop("d")
		r.until("it says what it waits for", func() bool {
			n, _ := r.services["b"].Node("c")
			return len(n.Waits) == 3 // of five: two have begun
		})
		r.setLagging("d", false)
		r.startAll("d")
		r.until("it hosts nothing", func() bool { return len(r.hosted("a", "c")) == 0 })
	})
}

// TestRepair ensures that the replicas of a node that stays away are replaced by others, after the setting and not before; that
// one which comes back in time keeps its own, and one which comes back late destroys them.
func TestRepair(t *testing.T) {
	for _, after := range []string{"", "10s", "0s"} {
		t.Run("repair-after="+after, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTestRig(t, 3)
				r.configure = func(c *Config) { c.Settings.RepairAfter = after }
				r.startAll("a", "b", "c")
				r.ready()
				if err := r.joiner("d", fmt.Sprintf("%032x", 4)); err != nil {
					t.Fatal(err)
				}
				for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
					r.lead(id, "a")
				}
				r.ready()
				wait := r.services["a"].Table().Settings.Repair()
				if after == "0s" {
					r.stop("c")
					<-time.After(10 * time.Minute)
					if got := len(r.services["a"].Table().Operations); got != 0 {
						t.Errorf("%d operations", got)
					}
					return
				}
				<-time.After(2 * wait)
				r.stop("c")
				<-time.After(wait - 2*time.Second)
				r.startAll("c")
				r.ready()
				<-time.After(wait - 2*time.Second)
				r.stop("c")
				stopped := time.Now()
				<-time.After(wait - 2*time.Second)
				if got := len(r.services["a"].Table().Operations); got != 0 {
					t.Errorf("%d operations before it was due", got)
				}
				r.until("it hosts nothing", func() bool { return len(r.hosted("a", "c")) == 0 })
				if took := time.Since(stopped); took > wait+20*time.Second {
					t.Errorf("repaired after %v", took)
				}
				for id := range shard.ID(5) {
					if got := r.membersOf("a", id); got != "a:voter b:voter d:voter" {
						t.Errorf("shard %d: %s", id, got)
					}
				}
				for _, o := range r.operations("a", ReplaceMember) {
					if o.Reason != "node c is gone" {
						t.Errorf("%+v", o)
					}
				}
				r.startAll("c")
				r.until("what it had is destroyed", func() bool {
					return !slices.ContainsFunc([]shard.ID{0, 1, 2, 3, 4}, func(id shard.ID) bool { return r.replicaOn("c", id) != "" })
				})
			})
		})
	}
}

// TestNoRepair ensures that nothing is replaced while more than a third of the nodes look gone, nor by a leader that has not been
// there for long enough to know.
func TestNoRepair(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
			r.lead(id, "a")
		}
		r.ready()
		r.stop("c")
		r.stop("d")
		<-time.After(3 * time.Minute)
		if got := len(r.services["a"].Table().Operations); got != 0 {
			t.Errorf("%d operations with half of the nodes gone", got)
		}
		if n, _ := r.services["b"].Node("c"); len(n.Waits) != 5 {
			t.Errorf("waits: %q", n.Waits)
		}
		r.stop("a") // what it knew is gone
		r.startAll("a", "d")
		for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
			r.lead(id, "a")
		}
		<-time.After(50 * time.Second)
		if got := len(r.services["a"].Table().Operations); got != 0 {
			t.Errorf("%d operations within %v of a start", got, DefaultRepairAfter)
		}
		r.until("it hosts nothing", func() bool { return len(r.hosted("a", "c")) == 0 })
	})
}

// TestReplaceSurvivesLeader ensures that a replacement goes on when the directory's leader dies in any phase of it, whether or not
// the step of that phase was made.
func TestReplaceSurvivesLeader(t *testing.T) {
	for _, made := range []bool{false, true} {
		for phase, step := range map[Phase]stepKind{PhaseAdding: stepAddLearner, PhaseCatchingUp: "", PhasePromoting: stepPromote, PhaseHandingOver: stepTransfer, PhaseRemoving: stepRemove} {
			t.Run(fmt.Sprintf("%s made=%v", phase, made), func(t *testing.T) {
				fourNodes(t, func(t *testing.T, r *testRig) {
					for id, leader := range map[shard.ID]string{shard.Directory: "a", 1: "b", 2: "b", 3: "b", 4: "b"} {
						r.lead(id, leader)
					}
					if phase == PhaseHandingOver {
						r.lead(2, "c")
					}
					r.ready()
					r.holdOne(step)
					r.setLagging("d", phase == PhaseCatchingUp)
					member, _ := r.services["a"].Table().member(2, "c")
					if _, err := r.services["a"].change(context.Background(), Command{Start: &StartOperation{Kind: ReplaceMember, Shard: 2,
						Node: "d", From: "c", R: member.R, Conf: rigConf}}); err != nil {
						t.Fatal(err)
					}
					r.until(string(phase), func() bool {
						all := r.operations("b", ReplaceMember)
						return len(all) == 1 && all[0].Phase == phase && (step == "" || r.lastAsked() == step)
					})
					r.stop("a")
					if made && step != "" {
						if err := r.makeLast(); err != nil {
							t.Fatal(err)
						}
					}
					r.holdOne("")
					r.setLagging("d", false)
					r.lead(shard.Directory, "b")
					r.startAll("a")
					r.over("b", r.operations("b", ReplaceMember)[0].ID, OperationDone)
					if got := r.membersOf("b", 2); got != "a:voter b:voter d:voter" {
						t.Errorf("members %s", got)
					}
				})
			})
		}
	}
}

// TestReplaceCancelled ensures that a replacement which is cancelled before the new replica votes leaves the old members, and one
// that is cancelled later leaves both; and that one whose target takes no replica any more is cancelled by the directory.
func TestReplaceCancelled(t *testing.T) {
	for phase, step := range map[Phase]stepKind{PhaseAdding: stepAddLearner, PhaseCatchingUp: "", PhasePromoting: stepPromote, PhaseHandingOver: stepTransfer, PhaseRemoving: stepRemove} {
		for _, drained := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s drained=%v", phase, drained), func(t *testing.T) {
				fourNodes(t, func(t *testing.T, r *testRig) {
					for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
						r.lead(id, "a")
					}
					if phase == PhaseHandingOver {
						r.lead(2, "c")
					}
					r.ready()
					r.holdOne(step)
					r.setLagging("d", phase == PhaseCatchingUp)
					member, _ := r.services["a"].Table().member(2, "c")
					if _, err := r.services["a"].change(context.Background(), Command{Start: &StartOperation{Kind: ReplaceMember, Shard: 2,
						Node: "d", From: "c", R: member.R, Conf: rigConf}}); err != nil {
						t.Fatal(err)
					}
					one := func() Operation { return r.operations("a", ReplaceMember)[0] }
					r.until(string(phase), func() bool {
						return one().Phase == phase && (step == "" || r.lastAsked() == step)
					})
					added := phase == PhaseHandingOver || phase == PhaseRemoving
					want, state := "a:voter b:voter c:voter", OperationCancelled
					switch {
					case added && drained:
						want, state = "a:voter b:voter d:voter", OperationDone // it goes on
					case added:
						want = "a:voter b:voter c:voter d:voter"
					}
					var err error
					if drained {
						_, err = r.services["a"].change(context.Background(), Command{DrainNode: &DrainNode{ID: "d", Drain: true}})
					} else {
						_, err = r.services["a"].CancelOperation(context.Background(), one().ID)
					}
					if err != nil {
						t.Fatal(err)
					}
					if added && drained {
						r.holdOne("")
						// d leaves again, to c.
						r.until("it is over", func() bool { return one().State != OperationRunning })
						if one().State != state {
							t.Errorf("%+v", one())
						}
						return
					}
					r.over("a", one().ID, state)
					if got := r.membersOf("a", 2); got != want {
						t.Errorf("members %s, want %s", got, want)
					}
				})
			})
		}
	}
}

// anyPlaced is a table of some nodes, in zones, and what is believed of them.
func anyPlaced(t *rapid.T, tb testing.TB) (*Table, map[string]sight) {
	n := rapid.IntRange(3, 9).Draw(t, "nodes")
	table := testTable(tb, n, Settings{InitialShards: rapid.IntRange(1, 6).Draw(t, "shards"), Replicas: 3, CacheMemory: "60%"}).clone()
	zones := rapid.IntRange(1, 4).Draw(t, "zones")
	sights := map[string]sight{}
	for _, id := range table.NodeIDs() {
		node := table.Nodes[id]
		node.Zone = fmt.Sprint(rapid.IntRange(1, zones).Draw(t, "zone"))
		node.Capacity = rapid.SampledFrom([]uint64{1 << 20, 1 << 30, math.MaxUint64}).Draw(t, "capacity")
		table.Nodes[id] = node
		v := sight{up: rapid.IntRange(0, 5).Draw(t, "up") > 0}
		if !v.up && rapid.Bool().Draw(t, "gone") {
			v.gone = time.Hour
		}
		sights[id] = v
		if rapid.IntRange(0, 4).Draw(t, "drained") == 0 {
			table.Draining = append(table.Draining, id)
		}
	}
	return table, sights
}

// TestRelocations ensures what the plan never does: move two replicas of a shard at once, move one to a node that is down, drained or
// has one, move one that may stay, or crowd a zone more than it must; and that all that it may move is moved in the end, and no more.
func TestRelocations(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table, sights := anyPlaced(rt, t)
		gone := 0
		for _, v := range sights {
			if v.gone > 0 {
				gone++
			}
		}
		tooMany := gone*maxGone > len(table.Nodes)
		leaves := func(node string) bool { return sights[node].gone > 0 && !tooMany || table.drained(node) }
		for round := 0; ; round++ {
			if round > 100 {
				rt.Fatal("it never ends")
			}
			moved := map[shard.ID]bool{}
			all := table.relocations(outlook{sights: sights})
			if again := table.relocations(outlook{sights: maps.Clone(sights)}); !slices.Equal(all, again) {
				rt.Fatal("the same look gave another plan")
			}
			for _, r := range all {
				if r.waits != "" {
					continue
				}
				members, _ := table.Members(r.shard)
				switch {
				case moved[r.shard]:
					rt.Fatalf("two replicas of shard %d move", r.shard)
				case !leaves(r.from.Node):
					rt.Fatalf("%+v moves a replica that may stay", r)
				case r.to == "" && len(members) <= table.wants(r.shard) && !table.hasMore(Shard{ID: r.shard, Members: members}):
					rt.Fatalf("%+v takes one of %d away", r, len(members))
				case r.to == "":
					moved[r.shard] = true
					continue
				case !sights[r.to].up || table.drained(r.to) || slices.ContainsFunc(members, func(m Member) bool { return m.Node == r.to }):
					rt.Fatalf("%+v moves a replica to where it must not be", r)
				}
				crowd := func(node string) (n int) {
					for _, m := range members {
						if m != r.from && table.Nodes[m.Node].Zone == table.Nodes[node].Zone {
							n++
						}
					}
					return n
				}
				for id := range table.Nodes {
					free := sights[id].up && !table.drained(id) && !slices.ContainsFunc(members, func(m Member) bool { return m.Node == id })
					if free && crowd(id) < crowd(r.to) {
						rt.Fatalf("%+v: zone of %s has less of the shard", r, id)
					}
				}
				moved[r.shard] = true
			}
			if len(moved) == 0 {
				break
			}
			for _, r := range all {
				if r.waits == "" {
					members, _ := table.Members(r.shard)
					members = slices.Clone(members)
					at := slices.Index(members, r.from)
					if r.to == "" {
						table.setMembers(r.shard, slices.Delete(members, at, at+1))
						continue
					}
					members[at] = Member{Node: r.to, R: r.from.R, Role: RoleVoter}
					table.setMembers(r.shard, members)
				}
			}
		}
		for _, r := range table.relocations(outlook{sights: sights}) {
			members, _ := table.Members(r.shard)
			for id := range table.Nodes {
				if leaves(r.from.Node) && sights[id].up && !table.drained(id) && !slices.ContainsFunc(members, func(m Member) bool { return m.Node == id }) {
					rt.Fatalf("%+v waits though %s takes it", r, id)
				}
			}
		}
	})
}

// TestRelocationsMeetOperations ensures that a replica counts as on its way only where the operation that runs removes it, and that the
// internal cancel of a replacement comes too late once the new replica votes.
func TestRelocationsMeetOperations(t *testing.T) {
	table := testTable(t, 5, smallSettings).clone()
	m, other := table.Shards[1].Members[0], table.Shards[1].Members[1]
	sights := map[string]sight{}
	free := ""
	for _, id := range table.NodeIDs() {
		sights[id] = sight{up: true}
		if _, member := table.Shards[1].Member(id); !member {
			free = id
		}
	}
	sights[m.Node] = sight{gone: time.Hour}
	of := func(o Operation) string {
		o.State, o.Shard = OperationRunning, 2
		with := table.clone()
		with.Operations = []Operation{o}
		for _, r := range with.relocations(outlook{sights: sights}) {
			if r.shard == 2 && r.from == m {
				return r.waits
			}
		}
		return "on its way"
	}
	const runs = "operation 0 runs on shard 2"
	for name, c := range map[string]struct {
		o    Operation
		want string
	}{
		"its removal":                   {Operation{Kind: RemoveMember, Node: m.Node, R: m.R}, "on its way"},
		"another's removal":             {Operation{Kind: RemoveMember, Node: other.Node, R: other.R}, runs},
		"its replacement":               {Operation{Kind: ReplaceMember, Node: free, R: 9, From: m.Node, FromR: m.R}, "on its way"},
		"its replacement, added":        {Operation{Kind: ReplaceMember, Node: free, R: 9, From: m.Node, FromR: m.R, Added: true}, "on its way"},
		"its rebuild":                   {Operation{Kind: RebuildMember, Node: m.Node, R: m.R}, "on its way"},
		"its rebuild, the old one gone": {Operation{Kind: RebuildMember, Node: m.Node, R: m.R, Removed: true}, runs},
		"its addition":                  {Operation{Kind: AddMember, Node: m.Node, R: m.R}, runs},
	} {
		if got := of(c.o); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	added := table.clone()
	added.Operations = []Operation{{ID: 1, Kind: ReplaceMember, Shard: 2, Node: free, R: 9, State: OperationRunning, Phase: PhaseHandingOver, From: m.Node, FromR: m.R, Added: true}}
	if next, _ := (&CancelOperation{ID: 1, R: 9}).apply(added); next != nil {
		t.Error("the directory cancelled a replacement that had added its replica")
	}
	if next, why := (&CancelOperation{ID: 1}).apply(added); next == nil {
		t.Errorf("an operator can't: %s", why)
	}
	four := testTable(t, 4, smallSettings).clone()
	four.Draining = []string{"d"}
	for id := range four.Nodes {
		sights[id] = sight{up: true}
	}
	if all := four.relocations(outlook{sights: sights}); len(all) == 0 || all[0].shard != shard.Directory || all[0].to != "" || all[0].waits != "" {
		t.Errorf("a directory of four members goes down to three: %+v", all)
	}
}

// TestStoodStill ensures that a node which stood still does not take for gone whom it could not hear meanwhile.
func TestStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestRig(t, 3).prepare("a") // which looks when it is told to
		table := testTable(t, 3, smallSettings)
		now := s.looked
		for range 100 {
			now = now.Add(tick)
			s.look(now)
		}
		<-time.After(DefaultRepairAfter)
		if s.sights(table)["b"].gone == 0 {
			t.Error("b is not gone")
		}
		s.look(time.Now())
		if s.sights(table)["b"].gone != 0 {
			t.Error("b is gone, though nobody listened")
		}
	})
}
