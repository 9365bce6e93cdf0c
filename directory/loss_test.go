package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// lossRig is a rig whose directory is on c, d and e alone, while its shards are on all five nodes.
type lossRig struct {
	*recoveryRig
	values map[string]string // acknowledged, by key
}

func newLossRig(t *testing.T, change ...func(*recoveryRig, *Settings)) *lossRig {
	r := &lossRig{recoveryRig: newRecoveryRig(t, change...), values: map[string]string{}}
	for _, name := range []string{"a", "b"} {
		r.change("c", MemberChange{Shard: shard.Directory, Node: name})
	}
	for i := range 60 {
		r.put("a", fmt.Sprint("all", i), "before")
	}
	return r
}

// change changes a member, and waits until that is done.
func (r *lossRig) change(at string, c MemberChange) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var o OperationView
	r.until("the change is taken", func() bool {
		var err error
		o, err = r.services[at].ChangeMember(ctx, c)
		var conflict *ConflictError
		if err != nil && !errors.As(err, &conflict) {
			r.t.Fatal(err)
		}
		return err == nil
	})
	why := ""
	r.untilSaid(&why, func() bool {
		v, _ := r.services[at].Operation(o.ID)
		why = fmt.Sprintf("%+v", v)
		return v.State == string(OperationDone)
	})
}

func (r *lossRig) put(at, key, value string) {
	r.t.Helper()
	r.until("the write is acknowledged", func() bool { // a leader that has just been moved may leave its outcome unknown
		_, err := r.do(at, shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(value)})
		if err != nil && !shard.Refused(err) && !errors.Is(err, shard.ErrOutcomeUnknown) {
			r.t.Fatal(err)
		}
		return err == nil
	})
	r.values[key] = value
}

// holds ensures that a node reads all that was acknowledged.
func (r *lossRig) holds(at string) {
	r.t.Helper()
	for key, value := range r.values {
		if resp, err := r.do(at, shard.Request{Op: shard.OpGet, Key: []byte(key)}); err != nil || string(resp.Value) != value {
			r.t.Errorf("%s at %s: %+v, %v, want %s", key, at, resp, err, value)
		}
	}
}

// rebuild rebuilds the directory at a node.
func (r *lossRig) rebuild(at string, force bool) (RebuildView, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	plan, err := r.services[at].RebuildDirectory(ctx, Rebuild{})
	if err != nil {
		return plan, err
	}
	return r.services[at].RebuildDirectory(ctx, Rebuild{Unsafe: true, Version: plan.Version, Force: force})
}

func (r *lossRig) mustRebuild(at string, force bool) RebuildView {
	r.t.Helper()
	v, err := r.rebuild(at, force)
	if err != nil || !v.Done {
		r.t.Fatalf("%+v, %v", v, err)
	}
	return v
}

// whole waits until all nodes have tables of one lineage, with all shards settled, no replica of the directory but of that lineage, and one leader of it;
// and ensures that the replicas which are there are those of the table.
func (r *lossRig) whole(version uint64) *Table {
	r.t.Helper()
	var t *Table
	why := ""
	r.untilSaid(&why, func() bool {
		t = nil
		for name, s := range r.services {
			own := s.Table()
			if t == nil {
				t = own
			}
			switch {
			case own.Rebuilt < version:
				why = fmt.Sprintf("%s has a table rebuilt at %d", name, own.Rebuilt)
				return false
			case own.Version != t.Version:
				why = fmt.Sprintf("%s has table %d, another one %d", name, own.Version, t.Version)
				return false
			}
			for _, id := range r.hosts[name].Replicas() {
				if m, member := own.member(id.Shard, name); !member || m.R != id.R {
					why = fmt.Sprintf("%s is there, and not listed", id)
					return false
				}
			}
		}
		for _, sh := range t.Shards {
			if sh.Unsettled {
				why = fmt.Sprintf("shard %d is not settled", sh.ID)
				return false
			}
		}
		return true
	})
	return t
}

// untilSaid is until, of a condition that says what it lacks.
func (r *lossRig) untilSaid(why *string, holds func() bool) {
	r.t.Helper()
	for began := time.Now(); !holds(); <-time.After(10 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			r.t.Fatalf("after two minutes: %s", *why)
		}
	}
}

// grows ensures that the directory takes members and other changes.
func (r *lossRig) grows(at string) {
	r.t.Helper()
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if t := r.services[at].Table(); len(t.Directory) < 3 && t.Directory[0].Node != name {
			r.change(at, MemberChange{Shard: shard.Directory, Node: name, Add: true})
		}
	}
	if t := r.services[at].Table(); voters(t.Directory) != 3 {
		r.t.Errorf("the directory's members are %+v", t.Directory)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := r.services[at].DrainNode(ctx, at, true); err != nil {
		r.t.Error(err)
	}
	if _, err := r.services[at].DrainNode(ctx, at, false); err != nil {
		r.t.Error(err)
	}
}

// TestRebuildDirectory ensures that a directory which has lost its majority is rebuilt by a node that was no member of it: with what the shards hold, which
// serve all the time, and that its former members fall in line when they return. Before, while a majority is heard, it is refused.
func TestRebuildDirectory(t *testing.T) {
	for _, at := range []string{"a", "c"} { // who was no member, and who was
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newLossRig(t)
				defer r.close()
				var conflict *ConflictError
				if v, err := r.rebuild(at, false); !errors.As(err, &conflict) || v.Against == "" {
					t.Fatalf("%+v, %v, want a refusal while there is a leader", v, err)
				}
				r.crash("e")
				begun := r.beginToAdd("e")
				r.crash("d")
				<-time.After(2 * softLife)
				before := r.services[at].Table()
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				if _, err := r.services["a"].DrainNode(ctx, "a", true); err == nil {
					t.Fatal("the directory takes changes without its majority")
				}
				ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				plan, err := r.services[at].RebuildDirectory(ctx, Rebuild{})
				if err != nil || plan.Against != "" || plan.Done || plan.Version != before.Version || plan.Node != at {
					t.Fatalf("%+v, %v", plan, err)
				}
				for _, n := range plan.Nodes {
					gone := n.Node == "d" || n.Node == "e"
					if n.Answers == gone || n.Runs != (n.Node == "c") || (n.Directory == "") != (n.Node < "c") {
						t.Errorf("%+v", n)
					}
				}
				led := 0
				for _, sh := range plan.Shards {
					if sh.Leader != "" {
						led++
					}
				}
				if led == 0 || led == len(plan.Shards) {
					t.Fatalf("%d shards have a leader, want some and not all: %+v", led, plan.Shards)
				}
				if _, err := r.services[at].RebuildDirectory(ctx, Rebuild{Unsafe: true, Version: plan.Version - 1}); !errors.As(err, &conflict) {
					t.Fatalf("%v, want a refusal of another version", err)
				}
				for _, h := range []shard.Holding{{Replica: shard.ReplicaID{Shard: shard.Directory, Node: "c", R: 1 << 52}}, {Cache: &fsm.Stats{Epoch: 1 << 52}}, {Cache: &fsm.Stats{TableVersion: 1 << 52}}} {
					if v, err := r.services[at].lineage(before, []found{{"c", []shard.Holding{h}}}); err != nil || v <= 1<<52 {
						t.Errorf("a lineage begins at %d, %v, though a node has %+v", v, err, h)
					}
				}
				later := uint64(time.Now().Unix()+1000) << lineageBits // of an attempt that was cut short, by a clock that was ahead
				if err := r.hosts[at].Destroy(shard.Directory, later); err != nil {
					t.Fatal(err)
				}
				done := r.mustRebuild(at, false)
				if done.Became <= later {
					t.Errorf("version %d after replica %d", done.Became, later)
				}
				if done.Became <= before.Version || done.Became >= 1<<53 {
					t.Errorf("version %d after %d", done.Became, before.Version)
				}
				if _, err := r.services[at].RebuildDirectory(ctx, Rebuild{Unsafe: true, Version: plan.Version}); !errors.As(err, &conflict) {
					t.Fatalf("%v, want a refusal of a repeat", err)
				}
				r.until("shards that have a leader are settled", func() bool {
					for _, sh := range plan.Shards {
						own, _ := r.services["b"].Table().Shard(sh.ID)
						if sh.Leader != "" && own.Unsettled {
							return false
						}
					}
					return r.services["b"].Table().Rebuilt == done.Became
				})
				step, err := json.Marshal(memberStep{Shard: begun.Shard, Step: stepFence, Prev: 1, Table: before.Version})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.services["b"].handleStep(ctx, "c", step); !errors.Is(err, shard.ErrConfChanged) || !strings.Contains(err.Error(), "rebuilt") {
					t.Errorf("%v, want a refusal of a step of the former directory", err)
				}
				table := r.services["b"].Table()
				tag := fmt.Sprintf("%d-", done.Became)
				if d, _ := r.services["b"].ShardView(shard.Directory); !strings.HasPrefix(d.Conf, tag) {
					t.Errorf("the directory is shown with configuration %q, want one of a life of its own", d.Conf)
				}
				if m, err := r.services["b"].Members(ctx, shard.Directory); err != nil || !strings.HasPrefix(m.Conf, tag) {
					t.Errorf("%+v, %v, want a configuration of a life of its own", m, err)
				}
				if o, ok := table.Operation(before.NextOperation + operationMargin); !ok || o.Kind != RebuildDirectory || o.Node != at {
					t.Errorf("%+v, want what tells of it", o)
				}
				if o, ok := table.Operation(begun.ID); !ok || o.State != OperationFailed || !strings.Contains(o.Error, "lost") || o.Phase != "" {
					t.Errorf("%+v, want that it failed", o)
				}
				if sh, _ := table.Shard(begun.Shard); len(sh.Members) != 3 || voters(sh.Members) != 3 {
					t.Errorf("%+v, want it without the learner that was on its way", sh)
				}
				for _, sh := range table.Shards {
					was, _ := before.Shard(sh.ID)
					if sh.Epoch != was.Epoch || sh.Generation != was.Generation || sh.VersionBits != was.VersionBits || !slices.Equal(sh.Bootstrap, was.Bootstrap) {
						t.Errorf("%+v, was %+v", sh, was)
					}
				}
				for _, name := range []string{"d", "e"} {
					r.restart(name)
				}
				for _, name := range []string{"d", "e"} { // a majority of the former directory
					for _, h := range r.hosts[name].Holdings() {
						if h.Replica.Shard == shard.Directory && h.Runs && h.Replica.R < done.Became {
							t.Errorf("%+v takes part in a directory that is lost", h)
						}
					}
				}
				r.whole(done.Became)
				r.ready()
				for name := range r.services {
					r.holds(name)
				}
				r.grows("b")
				r.put("b", "later", "after")
				r.whole(done.Became)
			})
		})
	}
}

// beginToAdd begins to add a replica on a node that is down to a shard, and waits until that is a learner.
func (r *lossRig) beginToAdd(node string) OperationView {
	r.t.Helper()
	t := r.services["c"].Table()
	i := slices.IndexFunc(t.Shards, func(s Shard) bool { _, member := s.Member(node); return !member })
	id := t.Shards[i].ID
	var result Result
	r.until("the operation begins", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conf, _, err := r.services["c"].configuration(ctx, id)
		if err == nil {
			result, err = r.services["c"].Propose(ctx, Command{Start: &StartOperation{Kind: AddMember, Shard: id, Node: node, Conf: conf.Index}})
		}
		return err == nil && result.Outcome == OutcomeApplied
	})
	r.until("the replica is a learner", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conf, _, err := r.services["c"].configuration(ctx, id)
		return err == nil && len(conf.Learners) == 1
	})
	o, _ := r.services["c"].Operation(result.Operation)
	return o
}

// dyingHost fails at a step of the rebuilding as a process that dies there does, and all after it.
type dyingHost struct {
	host
	at   *string
	died *bool
}

var errDied = errors.New("died")

func (h dyingHost) step(name string, do func() error) error {
	if *h.died || *h.at == "before "+name {
		*h.died = true
		return errDied
	}
	if err := do(); err != nil {
		return err
	}
	if *h.at == "after "+name {
		*h.died = true
		return errDied
	}
	return nil
}

func (h dyingHost) Destroy(id shard.ID, r uint64) error {
	if id != shard.Directory {
		return h.host.Destroy(id, r)
	}
	return h.step("destroy", func() error { return h.host.Destroy(id, r) })
}

func (h dyingHost) OpenGroup(spec shard.Spec, newMachine func() shard.StateMachine) (g group, err error) {
	if len(spec.First) == 0 {
		return h.host.OpenGroup(spec, newMachine)
	}
	err = h.step("open", func() error { g, err = h.host.OpenGroup(spec, newMachine); return err })
	return g, err
}

// TestRebuildAcrossCrashes ensures that the directory is lost as it was, or rebuilt, wherever the coordinator dies in the middle: another try, there or elsewhere, makes
// it whole, and where that was elsewhere it wins over what the first one left.
func TestRebuildAcrossCrashes(t *testing.T) {
	for _, step := range []string{"before destroy", "after destroy", "before open", "after open", "after all"} {
		for _, again := range []string{"c", "a"} {
			t.Run(step+", then "+again, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					at, died := "", false
					r := newLossRig(t)
					defer r.close()
					r.crash("c")
					r.wrap = func(h host) host {
						if h.Node() != "c" {
							return h
						}
						return dyingHost{h, &at, &died}
					}
					r.restart("c")
					r.ready()
					for _, name := range []string{"d", "e"} {
						r.crash(name)
					}
					<-time.After(2 * softLife)
					at = step
					file := r.services["c"].cfg.TableFile
					if err := os.Remove(file); err != nil {
						t.Fatal(err)
					}
					v, err := r.rebuild("c", false)
					if _, gone := os.Stat(file); gone != nil {
						t.Errorf("it was begun without a copy of the table: %v", gone)
					}
					if whole := step == "after all"; whole != (err == nil) {
						t.Fatalf("%+v, %v", v, err)
					}
					if step == "after open" && !errors.Is(err, shard.ErrOutcomeUnknown) {
						t.Errorf("%v, want an unknown outcome", err)
					}
					r.crash("c")
					at, died = "", false
					if again == "c" {
						r.restart("c")
					}
					<-time.After(2 * time.Second)
					lasts := step == "after all" || step == "after open" && again == "c" // the new lineage is there, or will be
					v, err = r.rebuild(again, false)
					var conflict *ConflictError
					if refused := errors.As(err, &conflict); err != nil && !refused || refused && !lasts || !refused && again == "c" && lasts {
						t.Fatalf("%+v, %v", v, err)
					}
					if again == "a" {
						r.restart("c")
					}
					least := max(v.Became, r.services[again].Table().Rebuilt)
					if least == 0 {
						t.Fatalf("%+v", v)
					}
					for _, name := range []string{"d", "e"} {
						r.restart(name)
					}
					table := r.whole(least)
					if again == "a" && v.Done && table.Rebuilt != v.Became {
						t.Errorf("rebuilt at %d, want the later one, %d", table.Rebuilt, v.Became)
					}
					r.ready()
					for name := range r.services {
						r.holds(name)
					}
					r.grows("a")
				})
			})
		}
	}
}

// cut cuts two sides off from each other.
func (r *lossRig) cut(side ...string) {
	for name := range r.services {
		if !slices.Contains(side, name) {
			r.net.Isolate(name, side...)
		}
	}
}

// TestRebuildTwice ensures that of two directories which were rebuilt on nodes that did not hear each other one is left, once they do, whole.
func TestRebuildTwice(t *testing.T) {
	for _, pause := range []time.Duration{0, 5 * time.Second} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newLossRig(t)
				defer r.close()
				for _, name := range []string{"d", "e"} {
					r.crash(name)
				}
				r.cut("a")
				<-time.After(2 * softLife)
				first := r.mustRebuild("a", false)
				<-time.After(pause)
				second := r.mustRebuild("b", false)
				if pause > 0 && second.Became < first.Became {
					t.Errorf("the later one has %d, the earlier %d", second.Became, first.Became)
				}
				<-time.After(3 * time.Second)
				r.net.Heal()
				for _, name := range []string{"d", "e"} {
					r.restart(name)
				}
				table := r.whole(max(first.Became, second.Became))
				if table.Rebuilt != max(first.Became, second.Became) {
					t.Errorf("rebuilt at %d, want the higher of %d and %d", table.Rebuilt, first.Became, second.Became)
				}
				r.ready()
				for name := range r.services {
					r.holds(name)
				}
				r.grows("b")
			})
		})
	}
}

// TestRebuildBesideMajority ensures that a rebuilding is refused while the former majority is heard, and that one which is forced, or made where that can't be heard, wins
// once all hear of it, with nothing lost of what shards acknowledged, though the former directory went on and moved replicas meanwhile.
func TestRebuildBesideMajority(t *testing.T) {
	for _, heard := range []bool{true, false} {
		t.Run(fmt.Sprint("heard=", heard), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newLossRig(t)
				defer r.close()
				if heard {
					if _, err := r.rebuild("a", false); err == nil || !strings.Contains(err.Error(), "directory") {
						t.Fatalf("%v, want a refusal", err)
					}
				} else {
					r.cut("a")
					<-time.After(2 * softLife)
				}
				done := r.mustRebuild("a", heard)
				if !heard {
					for _, sh := range r.services["c"].Table().Shards { // where it has all members, one of these goes elsewhere
						if _, member := sh.Member("a"); !member {
							to := r.without(sh, "a")
							r.change("c", MemberChange{Shard: sh.ID, Node: to, Add: true})
							r.change("c", MemberChange{Shard: sh.ID, Node: sh.Members[0].Node})
						}
					}
					for i := range 60 {
						key := fmt.Sprint("all", i)
						if l, err := r.services["c"].Router().Locate([]byte(key)); err != nil {
							t.Fatal(err)
						} else if sh, _ := r.services["c"].Table().Shard(l.Shard); len(l.Members) == 3 && !slices.Contains(l.Members, "a") && sh.ID > 0 {
							r.put("c", key, "moved")
						}
					}
					r.net.Heal()
				}
				table := r.whole(done.Became)
				if table.Rebuilt != done.Became {
					t.Errorf("rebuilt at %d, not %d", table.Rebuilt, done.Became)
				}
				r.ready()
				for name := range r.services {
					r.holds(name)
				}
				r.grows("b")
			})
		})
	}
}

// without returns a node without a replica of a shard, another one than but.
func (r *lossRig) without(sh Shard, but string) string {
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if _, member := sh.Member(name); !member && name != but {
			return name
		}
	}
	return ""
}

// TestRebuildFarBehind ensures that a directory which is rebuilt from an old table, by a node whose replicas have all been replaced since, costs no shard a value: those
// who have them keep them though that table does not list them, tell, and are listed.
func TestRebuildFarBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLossRig(t)
		defer r.close()
		hosted := r.services["c"].Table().hosted("b")
		r.crash("b")
		for _, id := range hosted { // two of three members are others then
			if id == shard.Directory {
				continue
			}
			sh, _ := r.services["c"].Table().Shard(id)
			for _, from := range []string{"b", sh.Members[slices.IndexFunc(sh.Members, func(m Member) bool { return m.Node != "b" })].Node} {
				now, _ := r.services["c"].Table().Shard(id)
				r.change("c", MemberChange{Shard: id, Node: r.without(now, "b"), Add: true})
				r.change("c", MemberChange{Shard: id, Node: from})
			}
		}
		moved := r.services["c"].Table()
		for key := range r.values {
			r.put("a", key, "moved")
		}
		for _, name := range []string{"a", "c", "d", "e"} {
			r.crash(name)
		}
		r.restart("b")
		<-time.After(2 * softLife)
		done := r.mustRebuild("b", false)
		for _, sh := range r.services["b"].Table().Shards {
			if !sh.Unsettled {
				t.Errorf("shard %d is settled without anybody's word", sh.ID)
			}
		}
		for _, name := range []string{"a", "c", "d", "e"} {
			r.restart(name)
		}
		table := r.whole(done.Became)
		for _, sh := range table.Shards {
			was, _ := moved.Shard(sh.ID)
			for _, m := range was.Members {
				if now, _ := sh.Member(m.Node); now != m {
					t.Errorf("shard %d has %+v, had %+v", sh.ID, sh.Members, was.Members)
				}
			}
		}
		r.ready()
		for name := range r.services {
			r.holds(name)
		}
		r.grows("b")
	})
}

// TestRebuildInMemory ensures, where shards are in memory alone, that after the directory was rebuilt those that have a majority go on, that none of the others is reset by
// what a guess at its members says, and that an operator recovers it.
func TestRebuildInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLossRig(t, func(_ *recoveryRig, s *Settings) { s.MemoryOnly = true })
		defer r.close()
		for _, name := range []string{"d", "e"} {
			r.crash(name)
		}
		<-time.After(2 * softLife)
		done := r.mustRebuild("a", false)
		lost := func(sh Shard) bool {
			_, d := sh.Member("d")
			_, e := sh.Member("e")
			return d && e
		}
		for _, name := range []string{"d", "e"} {
			r.restart(name)
		}
		<-time.After(3 * resetPatience)
		table := r.services["b"].Table()
		n := 0
		for _, sh := range table.Shards {
			if sh.Unsettled != lost(sh) || sh.Generation != 1 {
				t.Errorf("%+v", sh)
			}
			if !lost(sh) {
				continue
			}
			n++
			r.lost = sh
			r.recover(func() string { return "b" }, Recovery{Shard: sh.ID, Unsafe: true, Generation: 1})
		}
		if n == 0 {
			t.Fatal("no shard lost its majority")
		}
		for key := range r.values {
			if l, err := r.services["b"].Router().Locate([]byte(key)); err != nil {
				t.Fatal(err)
			} else if sh, _ := table.Shard(l.Shard); sh.Unsettled {
				delete(r.values, key)
			}
		}
		r.whole(done.Became)
		r.ready()
		for name := range r.services {
			r.holds(name)
		}
	})
}

// TestFormerLeaderHasHeard ensures that who leads a directory which is lost takes no change any more once he has heard of the one that was rebuilt.
func TestFormerLeaderHasHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		r.lead(shard.Directory, "a")
		<-time.After(time.Second)
		change, err := Command{SetLevel: &SetLevel{Level: MaxLevel, ShardLevel: fsm.MaxLevel}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		s := r.services["a"]
		if result, err := s.proposeHere(context.Background(), change); err != nil || result.Outcome != OutcomeUnchanged {
			t.Fatalf("%+v, %v", result, err)
		}
		next, err := s.Table().rebuilt("b", 1<<40, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.latest.Publish(next)
		if result, err := s.proposeHere(context.Background(), change); !errors.Is(err, shard.ErrUnknownShard) {
			t.Errorf("%+v, %v", result, err)
		}
	})
}
