package directory

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }

// joiner prepares and starts a node that joins, with a data folder of its own.
func (r *testRig) joiner(id, incarnation string) error {
	r.t.Helper()
	r.identities[id] = &fakeIdentity{incarnation: incarnation}
	before := r.configure
	r.configure = func(c *Config) {
		if before != nil {
			before(c)
		}
		c.Join, c.Memory = true, 1<<30
	}
	s := r.prepare(id)
	r.configure = before
	ctx, cancel := context.WithTimeout(r.t.Context(), rigPatience)
	defer cancel()
	return s.Start(ctx)
}

// change begins a change of members at a node.
func (r *testRig) change(at string, c MemberChange) (OperationView, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	return r.services[at].ChangeMember(ctx, c)
}

// over waits until an operation is over, as a node sees it, and checks how it ended.
func (r *testRig) over(at string, id uint64, want OperationState) {
	r.t.Helper()
	r.until(fmt.Sprintf("operation %d is over", id), func() bool {
		o, ok := r.services[at].Table().Operation(id)
		return ok && o.State != OperationRunning
	})
	if o, _ := r.services[at].Table().Operation(id); o.State != want {
		r.t.Errorf("operation %d: %+v, want %s", id, o, want)
	}
}

// membersOf returns nodes and roles of a shard's members by a node's table.
func (r *testRig) membersOf(at string, id shard.ID) string {
	members, _ := r.services[at].Table().Members(id)
	var text []string
	for _, m := range members {
		text = append(text, m.Node+":"+string(m.Role))
	}
	slices.Sort(text)
	return strings.Join(text, " ")
}

func fourNodes(t *testing.T, f func(t *testing.T, r *testRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		if err := r.joiner("d", fmt.Sprintf("%032x", 4)); err != nil {
			t.Fatal(err)
		}
		r.ready()
		f(t, r)
	})
}

// TestMemberAddedAndRemoved ensures that a node that joined becomes a voter of a shard and of the
// directory, and that a member leaves, having handed over what it led; its replica is destroyed, and
// the same node added again is another replica.
func TestMemberAddedAndRemoved(t *testing.T) {
	for _, id := range []shard.ID{shard.Directory, 2} {
		t.Run(fmt.Sprint("shard ", id), func(t *testing.T) {
			fourNodes(t, func(t *testing.T, r *testRig) {
				o, err := r.change("d", MemberChange{Shard: id, Node: "d", Add: true, Conf: fmt.Sprintf("1-%d", rigConf)})
				if err != nil {
					t.Fatal(err)
				}
				r.over("d", o.ID, OperationDone)
				if got := r.membersOf("b", id); got != "a:voter b:voter c:voter d:voter" {
					t.Errorf("members: %s", got)
				}
				r.ready()
				leader := r.leaders[id]
				o, err = r.change("d", MemberChange{Shard: id, Node: leader})
				if err != nil {
					t.Fatal(err)
				}
				r.over("d", o.ID, OperationDone)
				gone := r.replicaOn(leader, id)
				r.until("the replica is destroyed", func() bool { return r.replicaOn(leader, id) == "" })
				r.ready()
				o, err = r.change("b", MemberChange{Shard: id, Node: leader, Add: true})
				if err != nil {
					t.Fatal(err)
				}
				r.over("b", o.ID, OperationDone)
				if again := r.replicaOn(leader, id); again == gone || again == "" || again != o.Replica {
					t.Errorf("replica %q, before %q, of the operation %q", again, gone, o.Replica)
				}
				r.ready()
				r.namesTables()
			})
		})
	}
}

// TestDestroyedWhileItOpens ensures that a node whose replica of the directory was destroyed at the very moment at which it
// had opened can have another one.
func TestDestroyedWhileItOpens(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		opened, goOn := make(chan struct{}), make(chan struct{})
		r.hosts["d"].afterOpen = func(shard.Spec) {
			close(opened)
			<-goOn
		}
		defer func() { r.hosts["d"].afterOpen = nil }()
		first, err := r.change("a", MemberChange{Shard: shard.Directory, Node: "d", Add: true})
		if err != nil {
			t.Fatal(err)
		}
		<-opened
		r.hosts["d"].afterOpen = nil
		r.over("a", first.ID, OperationDone)
		o, err := r.change("a", MemberChange{Shard: shard.Directory, Node: "d"})
		if err != nil {
			t.Fatal(err)
		}
		r.over("a", o.ID, OperationDone)
		r.until("the replica is destroyed", func() bool { return r.replicaOn("d", shard.Directory) == "" })
		close(goOn)
		synctest.Wait()
		if o, err = r.change("a", MemberChange{Shard: shard.Directory, Node: "d", Add: true}); err != nil {
			t.Fatal(err)
		}
		r.over("a", o.ID, OperationDone)
		r.until("the next replica is open", func() bool { return r.replicaOn("d", shard.Directory) == o.Replica })
		r.ready()
	})
}

// replicaOn names a node's replica of a shard that is not destroyed, "" for none.
func (r *testRig) replicaOn(node string, id shard.ID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for replica, alive := range r.disks[node] {
		if alive && replica.Shard == id {
			return replica.String()
		}
	}
	return ""
}

// TestOperationSurvivesLeader ensures that an operation goes on when the directory's leader dies in any
// phase of it, whether or not the step of that phase was made.
func TestOperationSurvivesLeader(t *testing.T) {
	for _, made := range []bool{false, true} {
		for _, phase := range []Phase{PhaseAdding, PhaseCatchingUp, PhasePromoting, PhaseHandingOver, PhaseRemoving} {
			t.Run(fmt.Sprintf("%s made=%v", phase, made), func(t *testing.T) {
				fourNodes(t, func(t *testing.T, r *testRig) {
					r.lead(shard.Directory, "a")
					r.lead(2, "b")
					r.ready()
					c := MemberChange{Shard: 2, Node: "d", Add: true}
					if phase == PhaseHandingOver || phase == PhaseRemoving {
						c = MemberChange{Shard: 2, Node: "b"}
					}
					if phase == PhaseCatchingUp {
						r.lagging["d"] = true
					}
					if phase == PhaseAdding || phase == PhaseHandingOver {
						r.setHold(true)
					}
					o, err := r.change("c", c)
					if err != nil {
						t.Fatal(err)
					}
					// Let it come to its phase, and the step be asked for but not answered.
					r.until(string(phase), func() bool {
						now, _ := r.services["c"].Table().Operation(o.ID)
						if now.Phase == PhaseCatchingUp && phase == PhasePromoting || now.Phase == PhaseHandingOver && phase == PhaseRemoving && r.leaderOf(2) != "b" {
							r.setHold(true)
						}
						return now.Phase == phase
					})
					r.until("asked for", func() bool { return phase == PhaseCatchingUp || r.asked() > 0 })
					r.stop("a")
					if made && phase != PhaseCatchingUp {
						r.makeLast()
					}
					r.setHold(false)
					r.mu.Lock()
					r.lagging = map[string]bool{}
					r.mu.Unlock()
					for id, leader := range map[shard.ID]string{shard.Directory: "c", 1: "c", 3: "c", 4: "c"} {
						if r.leaderOf(id) == "" {
							r.lead(id, leader)
						}
					}
					if r.leaderOf(2) == "" {
						r.lead(2, "c")
					}
					r.startAll("a") // without it a removal would cost the quorum
					r.over("c", o.ID, OperationDone)
					want := "a:voter b:voter c:voter d:voter"
					if !c.Add {
						want = "a:voter c:voter"
					}
					if got := r.membersOf("c", 2); got != want {
						t.Errorf("members %s, want %s", got, want)
					}
				})
			})
		}
	}
}

func (r *testRig) setHold(hold bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holdSteps = hold
	r.steps = nil
}

func (r *testRig) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.steps)
}

func (r *testRig) leaderOf(id shard.ID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaders[id]
}

// makeLast makes the step that was asked for last and held back.
func (r *testRig) makeLast() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.makeLocked(r.steps[len(r.steps)-1])
}

// TestCancelIsFenced ensures that an addition which was cancelled leaves nothing behind, also where the
// step that would add the learner is made long after.
func TestCancelIsFenced(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		r.setHold(true)
		o, err := r.change("a", MemberChange{Shard: 2, Node: "d", Add: true})
		if err != nil {
			t.Fatal(err)
		}
		r.until("asked for", func() bool { return r.asked() > 0 })
		r.mu.Lock()
		late := r.steps[0]
		r.mu.Unlock()
		r.setHold(false)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		// Held steps were lost; the cancellation comes before the next try.
		if _, err := r.services["b"].CancelOperation(ctx, o.ID); err != nil {
			t.Fatal(err)
		}
		r.over("a", o.ID, OperationCancelled)
		r.mu.Lock()
		err = r.makeLocked(late)
		members := len(r.confs[2].Learners) + len(r.confs[2].Voters)
		r.mu.Unlock()
		if !errors.Is(err, shard.ErrConfChanged) || members != 3 {
			t.Errorf("the late step: %v, %d members", err, members)
		}
		if got := r.membersOf("a", 2); got != "a:voter b:voter c:voter" {
			t.Errorf("members: %s", got)
		}
		r.until("the replica is destroyed", func() bool { return r.replicaOn("d", 2) == "" })
		if _, err := r.services["b"].CancelOperation(ctx, o.ID); !errors.As(err, new(*ConflictError)) {
			t.Errorf("cancelled twice: %v", err)
		}
	})
}

// TestCancelWhileItWaits ensures that an operation whose last step is recorded and waits for a node that
// never comes back can be cancelled, and that whichever is made of the step and its undoing, the other
// takes no effect.
func TestCancelWhileItWaits(t *testing.T) {
	for _, made := range []bool{false, true} {
		for _, phase := range []Phase{PhasePromoting, PhaseRemoving} {
			t.Run(fmt.Sprintf("%s made=%v", phase, made), func(t *testing.T) {
				fourNodes(t, func(t *testing.T, r *testRig) {
					for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
						r.lead(id, "a")
					}
					r.ready()
					c, gone := MemberChange{Shard: 2, Node: "d", Add: true}, "d"
					before, after := "a:voter b:voter c:voter", "a:voter b:voter c:voter d:voter"
					if phase == PhaseRemoving {
						c, gone, after = MemberChange{Shard: 2, Node: "c"}, "b", "a:voter b:voter"
						r.setHold(true)
					}
					r.setLagging("d", true)
					o, err := r.change("a", c)
					if err != nil {
						t.Fatal(err)
					}
					phased := func(p Phase) func() bool {
						return func() bool { now, _ := r.services["a"].Table().Operation(o.ID); return now.Phase == p }
					}
					if phase == PhasePromoting {
						r.until("it catches up", phased(PhaseCatchingUp))
						r.setHold(true)
						r.setLagging("d", false)
					}
					r.until("the last step is asked for", func() bool { return phased(phase)() && r.asked() > 0 })
					r.stop(gone)
					r.until("it waits", func() bool { now, _ := r.services["a"].Table().Operation(o.ID); return now.Detail != "" })
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					if _, err := r.services["a"].CancelOperation(ctx, o.ID); err != nil {
						t.Fatal(err)
					}
					r.mu.Lock()
					late := r.steps[0]
					r.mu.Unlock()
					want, members := OperationCancelled, before
					if made {
						want, members = OperationDone, after
						r.mu.Lock()
						if err := r.makeLocked(late); err != nil {
							t.Error(err)
						}
						r.mu.Unlock()
					}
					r.setHold(false)
					r.over("a", o.ID, want)
					if got := r.membersOf("a", 2); got != members {
						t.Errorf("members: %s, want %s", got, members)
					}
					r.mu.Lock()
					defer r.mu.Unlock()
					if err := r.makeLocked(late); !errors.Is(err, shard.ErrConfChanged) {
						t.Errorf("the late step: %v", err)
					}
				})
			})
		}
	}
}

func (r *testRig) setLagging(node string, lags bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lagging[node] = lags
}

// TestChangesRefused ensures that a change which can't be is refused with its reason and leaves no trace.
func TestChangesRefused(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		before := r.services["a"].Table()
		for _, tc := range []struct {
			name string
			c    MemberChange
			want string
		}{
			{"no shard", MemberChange{Shard: 99, Node: "d", Add: true}, "there is no shard 99"},
			{"no node", MemberChange{Shard: 2, Node: "z", Add: true}, "there is no node z"},
			{"another conf", MemberChange{Shard: 2, Node: "d", Add: true, Conf: "1-6"}, "conf version is 1-7"},
			{"another generation", MemberChange{Shard: 2, Node: "d", Add: true, Conf: "2-7"}, "conf version is 1-7"},
			{"a second replica", MemberChange{Shard: 2, Node: "a", Add: true}, "has a replica of shard 2 already"},
			{"no member", MemberChange{Shard: 2, Node: "d"}, "has no replica of shard 2"},
		} {
			if _, err := r.change("b", tc.c); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
			}
		}
		r.lead(2, "a")
		r.lead(shard.Directory, "a")
		for _, id := range []shard.ID{1, 3, 4} {
			r.lead(id, "a")
		}
		r.ready()
		r.stop("c")
		r.until("c is down", func() bool { state, _ := r.services["a"].soft.state("c"); return state == NodeDown })
		if _, err := r.change("a", MemberChange{Shard: 2, Node: "b"}); err == nil || !strings.Contains(err.Error(), "no quorum") {
			t.Errorf("removing one of two that live: %v", err)
		}
		if _, err := r.change("a", MemberChange{Shard: 2, Node: "c", Add: true}); err == nil {
			t.Error("added a second replica on a node that is down")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := r.services["a"].RemoveNode(ctx, "c"); err == nil || !strings.Contains(err.Error(), "hosts replicas") {
			t.Errorf("removing a node with replicas: %v", err)
		}
		if err := r.services["a"].RemoveNode(ctx, "d"); err == nil || !strings.Contains(err.Error(), "is up") {
			t.Errorf("removing a node that is up: %v", err)
		}
		if err := r.services["a"].TransferLeader(ctx, 2, "c"); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("handing over to one that is down: %v", err)
		}
		if err := r.services["a"].TransferLeader(ctx, 2, "d"); err == nil || !strings.Contains(err.Error(), "no voter") {
			t.Errorf("handing over to no member: %v", err)
		}
		if after := r.services["a"].Table(); after.Version != before.Version {
			t.Errorf("the table went from version %d to %d", before.Version, after.Version)
		}
		// The dead one may go.
		o, err := r.change("a", MemberChange{Shard: 2, Node: "c"})
		if err != nil {
			t.Fatal(err)
		}
		r.over("a", o.ID, OperationDone)
		if err := r.services["d"].TransferLeader(ctx, 2, "b"); err != nil {
			t.Errorf("handing over: %v", err)
		}
		if got := r.leaderOf(2); got != "b" {
			t.Errorf("%s leads", got)
		}
	})
}

// TestTwoOperators ensures that of two changes of one shard which come at once, through two nodes, one
// begins and the other is refused: while the first runs, or since it changed the conf version already.
func TestTwoOperators(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		type answer struct {
			o   OperationView
			err error
		}
		answers := make(chan answer)
		for at, c := range map[string]MemberChange{"a": {Shard: 2, Node: "d", Add: true, Conf: "1-7"}, "d": {Shard: 2, Node: "c", Conf: "1-7"}} {
			go func() {
				o, err := r.change(at, c)
				answers <- answer{o, err}
			}()
		}
		var begun []OperationView
		for range 2 {
			a := <-answers
			if a.err == nil {
				begun = append(begun, a.o)
			} else if !errors.As(a.err, new(*ConflictError)) && !errors.As(a.err, new(*ConfError)) {
				t.Errorf("refused with %v", a.err)
			}
		}
		if len(begun) != 1 {
			t.Fatalf("begun: %+v", begun)
		}
		r.over("b", begun[0].ID, OperationDone)
	})
}

// TestRejoin ensures that a node which lost its data folder is refused under its id while it is known,
// and taken under the same id once it was removed.
func TestRejoin(t *testing.T) {
	fourNodes(t, func(t *testing.T, r *testRig) {
		r.stop("d")
		if err := r.joiner("d", fmt.Sprintf("%032x", 44)); err == nil || !strings.Contains(err.Error(), "another data folder") {
			t.Errorf("joined with another data folder: %v", err)
		}
		r.stop("d")
		r.until("d is down", func() bool { state, _ := r.services["a"].soft.state("d"); return state == NodeDown })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := r.services["b"].RemoveNode(ctx, "d"); err != nil {
			t.Fatal(err)
		}
		if err := r.services["b"].RemoveNode(ctx, "d"); !errors.As(err, new(*UnknownError)) {
			t.Errorf("removed twice: %v", err)
		}
		if err := r.joiner("d", fmt.Sprintf("%032x", 45)); err != nil {
			t.Fatal(err)
		}
		r.ready()
		if n := r.services["a"].Table().Nodes["d"]; n.Incarnation != fmt.Sprintf("%032x", 45) {
			t.Errorf("the table has %+v", n)
		}
	})
}

// TestEarlierFolderOpensNothing ensures that a node whose id was given to another data folder, and which
// comes back with the earlier one, opens none of the replicas that are the other's: each would speak
// twice, once with nothing.
func TestEarlierFolderOpensNothing(t *testing.T) {
	for _, id := range []shard.ID{shard.Directory, 2} {
		t.Run(fmt.Sprint("shard ", id), func(t *testing.T) {
			fourNodes(t, func(t *testing.T, r *testRig) {
				earlier := r.identities["d"]
				r.stop("d")
				r.until("d is down", func() bool { state, _ := r.services["a"].soft.state("d"); return state == NodeDown })
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if err := r.services["b"].RemoveNode(ctx, "d"); err != nil {
					t.Fatal(err)
				}
				if err := r.joiner("d", fmt.Sprintf("%032x", 45)); err != nil {
					t.Fatal(err)
				}
				r.ready()
				o, err := r.change("a", MemberChange{Shard: id, Node: "d", Add: true})
				if err != nil {
					t.Fatal(err)
				}
				r.over("a", o.ID, OperationDone)
				r.stop("d")
				r.mu.Lock()
				delete(r.disks, "d")
				r.mu.Unlock()
				r.identities["d"] = earlier
				r.startAll("d")
				version := r.services["a"].Table().Version
				r.until("it knows the table", func() bool { return r.services["d"].Table().Version == version })
				<-time.After(5 * time.Second)
				if got := r.replicaOn("d", id); got != "" {
					t.Errorf("the earlier folder has %s", got)
				}
				if checks := r.services["d"].Ready(); checks[0].OK {
					t.Errorf("ready: %+v", checks)
				}
			})
		})
	}
}

// TestTableIsKept ensures that a node finds the table again that it knew when it stopped, and that a
// damaged copy, or one of another cluster, is ignored.
func TestTableIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		dir := t.TempDir()
		r.configure = func(c *Config) { c.TableFile = filepath.Join(dir, c.Self.ID) }
		r.startAll("a", "b", "c")
		r.ready()
		want := r.services["c"].Table().Version
		r.until("the copy is written", func() bool { return r.services["c"].kept.Load() == want })
		r.stop("c")
		r.cut[[2]string{"a", "c"}], r.cut[[2]string{"b", "c"}] = true, true
		r.startAll("c")
		if got := r.services["c"].Table().Version; got != want {
			t.Errorf("alone, it knows version %d, want %d", got, want)
		}
	})
}
