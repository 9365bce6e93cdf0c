package directory

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// diverge makes a node's replica of a shard one that has stopped, and returns it.
func (r *testRig) diverge(node string, id shard.ID, o shard.Outcome) shard.ReplicaID {
	r.t.Helper()
	replica, err := shard.ParseReplicaID(r.replicaOn(node, id))
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.diverged[replica] = &shard.Verdict{Outcome: o, Comparison: shard.Comparison{Shard: id, Index: 9}}
	return replica
}

// rebuilds returns the rebuilds that a node's table keeps.
func (r *testRig) rebuilds(at string) []Operation {
	return slices.DeleteFunc(slices.Clone(r.services[at].Table().Operations), func(o Operation) bool { return o.Kind != RebuildMember })
}

// TestRebuild ensures that a replica which has stopped as a minority, or whose data is lost, is replaced by a new one on
// the same node, in one recorded operation that says why, and that views show it meanwhile.
func TestRebuild(t *testing.T) {
	for outcome, reason := range map[shard.Outcome]string{shard.OutcomeMinority: reasonDiverged, shard.OutcomeLost: reasonLost} {
		t.Run(string(outcome), func(t *testing.T) { testRebuild(t, outcome, reason) })
	}
}

func testRebuild(t *testing.T, outcome shard.Outcome, reason string) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.lead(2, "a")
		r.ready()
		r.setHold(true)
		old := r.diverge("c", 2, outcome)
		r.until("a rebuild is recorded", func() bool { return len(r.rebuilds("b")) == 1 && r.asked() > 0 })
		v, _ := r.services["b"].ShardView(2)
		if i := slices.IndexFunc(v.Members, func(m MemberView) bool { return m.Node == "c" }); !v.Members[i].Diverged {
			t.Errorf("members %+v", v.Members)
		}
		var problems []string
		for _, c := range r.services["c"].Ready() {
			if !c.OK {
				problems = append(problems, c.Name)
			}
		}
		if !slices.Equal(problems, []string{"shard/2"}) {
			t.Errorf("c is not ready for %v", problems)
		}
		r.setHold(false)
		o := r.rebuilds("b")[0]
		r.over("b", o.ID, OperationDone)
		view, _ := r.services["b"].Operation(o.ID)
		if view.Kind != string(RebuildMember) || view.Reason != reason || view.Node != "c" || view.Replica == old.String() {
			t.Errorf("%+v", view)
		}
		if got := r.membersOf("b", 2); got != "a:voter b:voter c:voter" {
			t.Errorf("members: %s", got)
		}
		r.until("the old replica is destroyed and the new one runs", func() bool { return r.replicaOn("c", 2) == view.Replica })
		r.ready()
		<-time.After(10 * time.Second)
		if all := r.rebuilds("b"); len(all) != 1 {
			t.Errorf("rebuilt again: %+v", all)
		}
		r.namesTables()
	})
}

// TestLostAgain ensures that a rebuild whose new replica is lost too makes another one, whatever it was at, and that
// an operator who cancels it has the last word.
func TestLostAgain(t *testing.T) {
	for _, phase := range []Phase{PhaseAdding, PhaseCatchingUp, PhasePromoting} {
		for _, cancelled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s cancelled=%v", phase, cancelled), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testLostAgain(t, phase, cancelled) })
			})
		}
	}
}

func testLostAgain(t *testing.T, phase Phase, cancelled bool) {
	r := newTestRig(t, 3)
	r.startAll("a", "b", "c")
	for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
		r.lead(id, "a")
	}
	r.ready()
	r.setLagging("c", phase == PhaseCatchingUp)
	r.holdOne(map[Phase]stepKind{PhaseAdding: stepAddLearner, PhasePromoting: stepPromote}[phase])
	first := r.diverge("c", 2, shard.OutcomeLost)
	r.until(string(phase), func() bool {
		all := r.rebuilds("b")
		return len(all) == 1 && all[0].Phase == phase && r.replicaOn("c", 2) != first.String() && r.replicaOn("c", 2) != ""
	})
	if cancelled {
		r.setHold(true) // the steps back wait, so that the operator comes in time
	}
	second := r.diverge("c", 2, shard.OutcomeLost)
	r.until("it is taken back", func() bool { return r.rebuilds("b")[0].Again })
	want, state := "a:voter b:voter c:voter", OperationDone
	if cancelled {
		want, state = "a:voter b:voter", OperationCancelled
		if _, err := r.services["b"].CancelOperation(context.Background(), r.rebuilds("b")[0].ID); err != nil {
			t.Fatal(err)
		}
		r.setHold(false)
	}
	r.holdOne("")
	r.setLagging("c", false)
	r.over("b", r.rebuilds("b")[0].ID, state)
	if got := r.membersOf("b", 2); got != want {
		t.Errorf("members %s, want %s", got, want)
	}
	if all := r.rebuilds("b"); len(all) != 1 || all[0].Again || !cancelled && all[0].R == second.R {
		t.Errorf("%+v", all)
	}
}

// TestFoundAgain ensures that the rebuild of a replica that was lost, and runs again before it was removed, is taken back, and is no
// obstacle to that of another one.
func TestFoundAgain(t *testing.T) {
	for _, phase := range []Phase{PhaseHandingOver, PhaseRemoving} {
		t.Run(string(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTestRig(t, 3)
				r.startAll("a", "b", "c")
				for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
					r.lead(id, "a")
				}
				if phase == PhaseHandingOver {
					r.lead(2, "c")
				}
				r.ready()
				r.holdOne(map[Phase]stepKind{PhaseHandingOver: stepTransfer, PhaseRemoving: stepRemove}[phase])
				found := r.diverge("c", 2, shard.OutcomeLost)
				r.until(string(phase), func() bool {
					all := r.rebuilds("b")
					return len(all) == 1 && all[0].Phase == phase && r.asked() > 0
				})
				r.mu.Lock()
				delete(r.diverged, found)
				r.mu.Unlock()
				r.over("b", r.rebuilds("b")[0].ID, OperationCancelled)
				if got := r.replicaOn("c", 2); got != found.String() {
					t.Errorf("c has %s, not %s", got, found)
				}
				r.lead(2, "a")
				r.holdOne("")
				lost := r.diverge("b", 2, shard.OutcomeLost)
				r.until("the other one is rebuilt", func() bool {
					all := r.rebuilds("a")
					return len(all) == 2 && all[1].State == OperationDone
				})
				if got := r.membersOf("a", 2); got != "a:voter b:voter c:voter" || r.replicaOn("b", 2) == lost.String() {
					t.Errorf("members %s, b has %s", got, r.replicaOn("b", 2))
				}
			})
		})
	}
}

// TestCancelNamesReplica ensures that the cancel of an operation that has gone on to another replica is refused, and that one
// which is over is to begin nothing again.
func TestCancelNamesReplica(t *testing.T) {
	table := testTable(t, 3, smallSettings)
	m := table.Shards[1].Members[0]
	table, why := (&StartOperation{Kind: RebuildMember, Shard: 2, Node: m.Node, R: m.R, Conf: 1}).apply(table)
	if table == nil {
		t.Fatal(why)
	}
	o := table.Operations[len(table.Operations)-1]
	if next, _ := (&CancelOperation{ID: o.ID, R: m.R + 1}).apply(table); next != nil {
		t.Error("cancelled for another replica")
	}
	if next, why := (&CancelOperation{ID: o.ID, R: m.R}).apply(table); next == nil {
		t.Error(why)
	}
	for _, c := range []AdvanceOperation{
		{ID: o.ID, From: PhaseHandingOver, FromConf: 1, State: OperationRunning, Phase: PhaseRemoving, Conf: 1},
		{ID: o.ID, From: PhaseRemoving, FromConf: 1, State: OperationRunning, Phase: PhaseAdding, Conf: 2},
	} {
		next, why := c.apply(table)
		if next == nil {
			t.Fatal(why)
		}
		table = next
	}
	o, _ = table.Operation(o.ID)
	table, _ = (&CancelOperation{ID: o.ID, R: o.R, Again: true}).apply(table)
	if o, _ = table.Operation(o.ID); !o.Again {
		t.Fatalf("%+v", o)
	}
	table, _ = (&AdvanceOperation{ID: o.ID, From: PhaseBackingOut, FromConf: 2, State: OperationDone, Conf: 3}).apply(table)
	if o, _ = table.Operation(o.ID); o.State != OperationDone || o.Again {
		t.Errorf("%+v", o)
	}
}

// TestRebuildSurvivesLeader ensures that a rebuild goes on when the directory's leader dies in any phase
// of it, whether or not the step of that phase was made.
func TestRebuildSurvivesLeader(t *testing.T) {
	for _, made := range []bool{false, true} {
		for phase, step := range map[Phase]stepKind{PhaseRemoving: stepRemove, PhaseAdding: stepAddLearner, PhaseCatchingUp: "", PhasePromoting: stepPromote} {
			t.Run(fmt.Sprintf("%s made=%v", phase, made), func(t *testing.T) {
				fourNodes(t, func(t *testing.T, r *testRig) {
					for id, leader := range map[shard.ID]string{shard.Directory: "a", 1: "b", 2: "b", 3: "b", 4: "b"} {
						r.lead(id, leader)
					}
					r.ready()
					r.holdOne(step)
					r.setLagging("c", phase == PhaseCatchingUp)
					r.diverge("c", 2, shard.OutcomeMinority)
					r.until(string(phase), func() bool {
						all := r.rebuilds("b")
						return len(all) == 1 && all[0].Phase == phase && (step == "" || r.lastAsked() == step)
					})
					o := r.rebuilds("b")[0]
					r.stop("a")
					if made && step != "" {
						if err := r.makeLast(); err != nil {
							t.Fatal(err)
						}
					}
					r.holdOne("")
					r.setLagging("c", false)
					r.lead(shard.Directory, "b")
					r.startAll("a")
					r.over("b", o.ID, OperationDone)
					if got := r.membersOf("b", 2); got != "a:voter b:voter c:voter" {
						t.Errorf("members %s", got)
					}
					if all := r.rebuilds("b"); len(all) != 1 {
						t.Errorf("rebuilt more than once: %+v", all)
					}
				})
			})
		}
	}
}

// TestNoRebuild ensures that nothing is rebuilt where no majority agreed, where it would cost the quorum,
// where another operation runs, below the level, and upon a report of another replica.
func TestNoRebuild(t *testing.T) {
	for name, prepare := range map[string]func(r *testRig){
		"no majority":       func(r *testRig) { r.diverge("c", 2, shard.OutcomeSplit) },
		"in doubt":          func(r *testRig) { r.diverge("c", 2, shard.OutcomeDoubt) },
		"another is silent": func(r *testRig) { r.stop("b"); r.diverge("c", 2, shard.OutcomeMinority) },
		"an operation runs": func(r *testRig) { r.mustRun(); r.diverge("c", 2, shard.OutcomeMinority) },
		"of an older replica": func(r *testRig) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.diverged[shard.ReplicaID{Shard: 2, Node: "c", R: 7}] = &shard.Verdict{Outcome: shard.OutcomeMinority}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTestRig(t, 3)
				r.startAll("a", "b", "c")
				for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
					r.lead(id, "a")
				}
				r.ready()
				prepare(r)
				<-time.After(20 * time.Second)
				if all := r.rebuilds("a"); len(all) != 0 {
					t.Errorf("%+v", all)
				}
			})
		})
	}
	table := testTable(t, 3, smallSettings)
	m := table.Shards[1].Members[0]
	c := &StartOperation{Kind: RebuildMember, Shard: 2, Node: m.Node, R: m.R, Conf: 1}
	if next, why := c.apply(table); next == nil {
		t.Fatalf("refused: %s", why)
	}
	older := table.clone()
	older.Level = rebuildLevel - 1
	if next, _ := c.apply(older); next != nil {
		t.Error("a rebuild below its level")
	}
	c.R++
	if next, _ := c.apply(table); next != nil {
		t.Error("a rebuild of a replica that is not there")
	}
}

// mustRun begins an operation on shard 2 that does not end.
func (r *testRig) mustRun() {
	r.t.Helper()
	r.setHold(true)
	if _, err := r.change("a", MemberChange{Shard: 2, Node: "b"}); err != nil {
		r.t.Fatal(err)
	}
}

// TestDivergedLearnerIsNotPromoted ensures that the addition of a replica which diverges while it catches
// up is taken back.
func TestDivergedLearnerIsNotPromoted(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		r.setLagging("d", true)
		o, err := r.change("a", MemberChange{Shard: 2, Node: "d", Add: true})
		if err != nil {
			t.Fatal(err)
		}
		r.until("it catches up", func() bool { now, _ := r.services["a"].Table().Operation(o.ID); return now.Phase == PhaseCatchingUp })
		r.until("it is there", func() bool { return r.replicaOn("d", 2) != "" })
		r.diverge("d", 2, shard.OutcomeMinority)
		r.over("a", o.ID, OperationCancelled)
		if got := r.membersOf("a", 2); got != "a:voter b:voter c:voter" {
			t.Errorf("members %s", got)
		}
	})
}

// raise brings a shard's machine to the level at which its replicas are judged, by an entry of its log.
func (r *realRig) raise(id shard.ID) {
	r.t.Helper()
	data, err := (&fsm.Batch{Level: 1, Commands: []fsm.Command{{Kind: fsm.KindLevel, Level: 2}}}).AppendBinary(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.until(fmt.Sprintf("shard %d has its level", id), func() bool {
		for _, h := range r.hosts {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, _, err := h.Group(id).Propose(ctx, data)
			cancel()
			if err == nil {
				return true
			}
		}
		return false
	})
}

func (r *realRig) until(what string, f func() bool) {
	r.t.Helper()
	for limit := time.Now().Add(2 * time.Minute); !f(); <-time.After(50 * time.Millisecond) {
		if time.Now().After(limit) {
			r.t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// TestRebuildOnRealHosts ensures, on real Raft groups, that a replica whose disk changed what it had
// written is found and stops, that all others serve all along, that the directory replaces it by a new
// one on the same node, and that all replicas are equal then; the same for the one that leads.
func TestRebuildOnRealHosts(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("leads=%v", leads), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rebuildOnRealHosts(t, leads) })
		})
	}
}

func rebuildOnRealHosts(t *testing.T, leads bool) {
	names := []string{"a", "b", "c"}
	r := newRealRig(t, names...)
	defer func() {
		for name := range r.services {
			r.stop(name)
		}
	}()
	for _, name := range names {
		r.start(name)
	}
	r.form(names...)
	r.ready()
	const id = shard.ID(1)
	r.raise(id)
	// Two keys of that shard: writing the one that was damaged again would mend it.
	var keys [][]byte
	for n := 0; len(keys) < 2; n++ {
		k := fmt.Appendf(nil, "key%d", n)
		if s, _ := r.services["a"].Table().Lookup(fsm.Slot(k)); s.ID == id {
			keys = append(keys, k)
		}
	}
	key, other := keys[0], keys[1]
	if _, err := r.do("a", shard.Request{Op: shard.OpPut, Key: key, Value: []byte("value")}); err != nil {
		t.Fatal(err)
	}
	old := ""
	for _, st := range r.hosts["c"].Status() {
		if st.Shard == id {
			old = st.Replica
		}
	}
	r.until("c has it", func() bool {
		resp, err := r.hosts["c"].Do(context.Background(), "c", shard.Request{Shard: id, Op: shard.OpGet, Key: key})
		return err == nil && resp.Found
	})
	r.stop("c")
	if !r.memory["c"].Damage(id) {
		t.Fatal("nothing was damaged")
	}
	r.start("c")
	r.form("c")
	r.until("c is back", func() bool {
		resp, err := r.hosts["c"].Do(context.Background(), "c", shard.Request{Shard: id, Op: shard.OpGet, Consistency: shard.Any, Key: key})
		return err == nil && resp.Found && string(resp.Value) != "value"
	})
	if leads {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.services["a"].TransferLeader(ctx, id, "c"); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	var found time.Duration
	var o OperationView
	for o.State != string(OperationDone) {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("not rebuilt: %+v", r.services["a"].Operations())
		}
		// Written by whoever serves: what was found wrong may be answered as unknown once.
		_, err := r.do("a", shard.Request{Op: shard.OpPut, Key: other, Value: []byte("value")})
		if err != nil && !errors.Is(err, shard.ErrOutcomeUnknown) {
			t.Errorf("a write while a replica differs: %v", err)
		}
		_, v, err := r.hosts["c"].Diverged(id)
		if err == nil && v != nil && found == 0 {
			found = time.Since(began)
		}
		if found != 0 {
			for _, node := range []string{"a", "b", "c"} { // c forwards
				if resp, err := r.do(node, shard.Request{Op: shard.OpGet, Key: key}); err != nil || string(resp.Value) != "value" {
					t.Errorf("a read by %s while a replica is rebuilt: %+v, %v", node, resp, err)
				}
			}
		}
		for _, op := range r.services["a"].Operations() {
			if op.Kind == string(RebuildMember) {
				o = op
			}
		}
		<-time.After(20 * time.Millisecond)
	}
	if found == 0 {
		t.Error("it was never seen stopped")
	}
	t.Logf("found after %v, rebuilt after %v", found, time.Since(began))
	if o.Node != "c" || o.Reason != reasonDiverged || o.Replica == old {
		t.Errorf("%+v", o)
	}
	r.ready()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := r.services["b"].Checksum(ctx, id)
	if err != nil || !v.Equal || len(v.Replicas) != 3 {
		t.Fatalf("checksums afterwards: %+v, %v", v, err)
	}
	if sum, err := hex.DecodeString(v.Replicas[0].Checksum); err != nil || len(sum) != 32 {
		t.Errorf("checksum %q", v.Replicas[0].Checksum)
	}
}

// TestChecksumShowsDivergence ensures that a comparison of replicas tells which one has diverged while it
// has not been rebuilt, and, where no majority agrees and nobody leads, upon what all stopped.
func TestChecksumShowsDivergence(t *testing.T) {
	c := shard.Comparison{Shard: 1, Index: 9, Level: 2, Replicas: []shard.ReplicaSum{
		{Replica: "1/a/1", Voter: true, Checksum: "x"}, {Replica: "1/b/1", Voter: true, Checksum: "x"},
		{Replica: "1/c/1", Voter: true, Checksum: "y"}}}
	if v := checksumView(c); v.Equal || v.Replicas[0].Diverged || !v.Replicas[2].Diverged || v.Replicas[2].Node != "c" {
		t.Errorf("%+v", v)
	}
	c.Replicas[2] = shard.ReplicaSum{Replica: "1/c/1", Voter: true, Stopped: shard.OutcomeMinority, Error: "stopped"}
	if v := checksumView(c); v.Equal || v.Replicas[0].Diverged || !v.Replicas[2].Diverged || v.Replicas[2].Error != "stopped" {
		t.Errorf("%+v", v)
	}
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		id := r.diverge("c", 2, shard.OutcomeSplit)
		r.mu.Lock()
		r.diverged[id].Comparison = shard.Comparison{Shard: 2, Index: 9, Level: 2, Replicas: []shard.ReplicaSum{
			{Replica: "2/a/1", Voter: true, Checksum: "x"}, {Replica: "2/c/1", Voter: true, Checksum: "y"}}}
		delete(r.leaders, 2)
		r.mu.Unlock()
		r.until("it shows", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			v, err := r.services["a"].Checksum(ctx, 2)
			return err == nil && v.Index == 9 && len(v.Replicas) == 2 && v.Replicas[0].Diverged && v.Replicas[1].Diverged
		})
	})
}

// holdOne holds back one kind of steps; "" none.
func (r *testRig) holdOne(step stepKind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holdStep = step
}

// lastAsked is the kind of the step that was asked for last.
func (r *testRig) lastAsked() stepKind {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.steps) == 0 {
		return ""
	}
	return r.steps[len(r.steps)-1].Step
}
