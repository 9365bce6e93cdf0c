package nemesis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// start returns a nemesis of a fake, whose clients have 100 successes a second.
func start(f System, k Knobs) *Nemesis {
	r := history.NewRecorder()
	return New(f, Config{
		Recorder: r, Knobs: k,
		Done: func() int64 { return int64(r.Now() / (10 * time.Millisecond)) },
		Writes: func(from, to time.Duration) time.Duration {
			if from == 0 {
				return 5 * time.Millisecond
			}
			return 200 * time.Millisecond
		},
		Queue: func(context.Context, string) Queue {
			q := fakeQueue{make(chan struct{})}
			go func() { <-q.closed }() // no test ends before
			return q
		},
	})
}

type fakeQueue struct{ closed chan struct{} }

func (fakeQueue) Send(context.Context, []uint64, time.Duration) (int, func()) { return 3, func() {} }
func (q fakeQueue) Close()                                                    { close(q.closed) }

var testKnobs = Knobs{Nodes: 5, Replicas: 3, Shards: 4, SnapshotThreshold: 64, TrailingLogs: 16}

// stepOf returns a step of the plan of a seed.
func stepOf(t *testing.T, fault string, seed uint64, k Knobs) Step {
	t.Helper()
	p, err := NewPlan(seed, Options{Faults: []string{fault}, Have: everything, Rounds: 1, Nodes: k.Nodes, Replicas: k.Replicas, Shards: k.Shards})
	if err != nil {
		t.Fatal(err)
	}
	return p.Rounds[0].Steps[0]
}

// TestUndoRestores ensures of each fault that it changes something, that this shows as an effect, and that afterwards
// all is as it was, for several seeds.
func TestUndoRestores(t *testing.T) {
	for _, f := range Faults() {
		for seed := range uint64(6) {
			t.Run(fmt.Sprintf("%s/%d", f.Name, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sys := newFake(testKnobs)
					time.Sleep(time.Second) // a leader for each shard
					if _, err := sys.Replicas(t.Context(), "a"); err != nil {
						t.Fatal(err)
					}
					before := sys.state()
					n := start(sys, testKnobs)
					s := stepOf(t, f.Name, seed, testKnobs)

					changed := false
					var watch sync.WaitGroup
					done := make(chan struct{})
					watch.Go(func() {
						for {
							select {
							case <-done:
								return
							case <-time.After(7 * time.Millisecond):
								changed = changed || sys.state() != before
							}
						}
					})
					rec := n.Do(t.Context(), s)
					close(done)
					watch.Wait()

					if rec.Err != "" {
						t.Errorf("%v: %s", s, rec.Err)
					}
					// Who hands leadership over, or asks for a change that another one gets, changes what is not state.
					if !changed && f.Class != Leaders {
						t.Errorf("%v changed nothing", s)
					}
					// A transfer may find the node in charge already; a fake syncs nothing slowly.
					if rec.Effect == "" {
						t.Errorf("%v: no effect was seen", s)
					}
					if len(rec.Targets) == 0 || rec.Healed <= rec.Start || rec.Class != string(f.Class) {
						t.Errorf("recorded as %+v", rec)
					}
					if after := sys.state(); after != before {
						t.Errorf("%v left\n%swant\n%s", s, after, before)
					}
					if gone := n.Deserters(); len(gone) > 0 || len(n.Violations()) > 0 {
						t.Errorf("deserters %v, violations %v", gone, n.Violations())
					}
				})
			})
		}
	}
}

// TestPairsRestore ensures that two faults at a time, as plans have them, leave nothing behind either.
func TestPairsRestore(t *testing.T) {
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			p, err := NewPlan(seed, Options{Have: everything, Rounds: 12})
			if err != nil {
				t.Fatal(err)
			}
			sys := newFake(p.Knobs)
			before := sys.state()
			n := start(sys, p.Knobs)
			for _, r := range p.Rounds {
				if len(r.Steps) < 2 {
					continue
				}
				var all sync.WaitGroup
				for _, s := range r.Steps {
					all.Go(func() {
						if rec := n.Do(t.Context(), s); strings.Contains(rec.Err, NotUndone) {
							t.Errorf("seed %d, %v: %s", seed, r, rec.Err)
						}
					})
				}
				all.Wait()
				if err := n.Mend(); err != nil {
					t.Error(err)
				}
				if after := sys.state(); after != before {
					t.Fatalf("seed %d, %v left\n%swant\n%s", seed, r, after, before)
				}
			}
		})
	}
}

// TestInterrupted ensures that a fault which is interrupted is undone at once, and all of it.
func TestInterrupted(t *testing.T) {
	for _, f := range Faults() {
		synctest.Test(t, func(t *testing.T) {
			sys := newFake(testKnobs)
			before := sys.state()
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			defer cancel()
			rec := start(sys, testKnobs).Do(ctx, stepOf(t, f.Name, 3, testKnobs))
			if strings.Contains(rec.Err, NotUndone) {
				t.Errorf("%s: %s", f.Name, rec.Err)
			}
			if after := sys.state(); after != before {
				t.Errorf("%s left\n%swant\n%s", f.Name, after, before)
			}
		})
	}
}

// deaf is a cluster on which cuts and pauses have no effect.
type deaf struct{ *fake }

func (deaf) Cut(string, string) error { return nil }
func (deaf) Pause(string) error       { return nil }

// TestNoEffect ensures that a fault which was done but had no effect is recorded as such.
func TestNoEffect(t *testing.T) {
	for _, name := range []string{"partition-leader", "bridge", "pause-follower", "flap", "force-snapshot"} {
		synctest.Test(t, func(t *testing.T) {
			sys := deaf{newFake(testKnobs)}
			if rec := start(sys, testKnobs).Do(t.Context(), stepOf(t, name, 1, testKnobs)); rec.Effect != "" {
				t.Errorf("%s had no effect, but %q", name, rec.Effect)
			}
		})
	}
}

// proxies is a cluster whose disks can't run full.
type proxies struct{ *fake }

func (proxies) FillDisk(string) error { return fmt.Errorf("filling a disk: %w", errors.ErrUnsupported) }

// TestUnsupported ensures that what a cluster can't do is recorded as an error and without effect.
func TestUnsupported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := start(proxies{newFake(testKnobs)}, testKnobs).Do(t.Context(), stepOf(t, "disk-full", 1, testKnobs))
		if rec.Effect != "" || !strings.Contains(rec.Err, "unsupported") {
			t.Errorf("recorded as %+v", rec)
		}
	})
}

// TestDeserters ensures that a node which ended by itself is told from one that was killed.
func TestDeserters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newFake(testKnobs)
		n := start(sys, testKnobs)
		s := stepOf(t, "kill-all", 1, testKnobs)
		s.Hold = time.Second
		var all sync.WaitGroup
		all.Go(func() { n.Do(t.Context(), s) })
		time.Sleep(500 * time.Millisecond)
		if gone := n.Deserters(); len(gone) > 0 || sys.Running("a") {
			t.Errorf("deserters %v while all are killed", gone)
		}
		all.Wait()
		if err := sys.Kill("b"); err != nil {
			t.Fatal(err)
		}
		if gone := n.Deserters(); len(gone) != 1 || gone[0] != "b" {
			t.Errorf("deserters %v, want b", gone)
		}
	})
}

// obliging is a cluster that accepts every change of members.
type obliging struct{ *fake }

func (obliging) ChangeMember(context.Context, string, uint64, string, bool, string) (cluster.Answer, cluster.Operation, error) {
	return cluster.Answer{Status: 202}, cluster.Operation{}, nil
}

// TestTwoOperatorsViolated ensures that a cluster which accepts both of two changes on one condition is found out.
func TestTwoOperatorsViolated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(obliging{newFake(testKnobs)}, testKnobs)
		n.Do(t.Context(), stepOf(t, "two-operators", 1, testKnobs))
		if v := n.Violations(); len(v) != 1 {
			t.Errorf("violations %q, want one", v)
		}
	})
}

// busy is a cluster that says of two changes of a shard that they are under way.
type busy struct {
	*fake
	shard uint64
}

func (b busy) Operations(context.Context, string) ([]cluster.Operation, error) {
	return []cluster.Operation{{ID: 2, Shard: b.shard, State: "running"}, {ID: 1, Shard: b.shard, State: "running"}}, nil
}

// forgiving is a cluster that takes a node without its data for who it was.
type forgiving struct{ *fake }

func (f forgiving) Start(node string) error {
	return f.do(node, func(n *fakeNode) error { n.Running, n.Wiped = true, false; return nil })
}

// Rejoin takes the node that it took before.
func (f forgiving) Rejoin(node, via string) error {
	_ = f.Wipe(node)
	return f.fake.Rejoin(node, via)
}

// dependent is a cluster whose shards serve nothing without the directory's leader.
type dependent struct{ *fake }

func (d dependent) Probe(ctx context.Context, node string, shard uint64) error {
	if err := d.fake.Probe(ctx, node, 0); err != nil {
		return err
	}
	return d.fake.Probe(ctx, node, shard)
}

// TestViolationsAreFound ensures that a cluster which does what no cluster may, when operators work at it, is found out.
func TestViolationsAreFound(t *testing.T) {
	for _, tt := range []struct {
		fault, says string
		sys         func(*fake, Step) System
	}{
		{"two-operators", "are under way at once", func(f *fake, s Step) System { return busy{f, s.Shard} }},
		{"wipe-and-replace", "as if it had not", func(f *fake, _ Step) System { return forgiving{f} }},
		{"directory-loss", "which have a majority", func(f *fake, _ Step) System { return dependent{f} }},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := stepOf(t, tt.fault, 1, testKnobs)
			n := start(tt.sys(newFake(testKnobs), s), testKnobs)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			n.Do(ctx, s)
			if v := n.Violations(); len(v) == 0 || !strings.Contains(v[0], tt.says) {
				t.Errorf("%s: violations %q, want one that says %q", tt.fault, v, tt.says)
			}
		})
	}
}

// careful is a cluster of which no two nodes may be asked to end at once.
type careful struct {
	*fake
	t *testing.T
}

func (c careful) Terminate(ctx context.Context, node string) error {
	for _, other := range c.Nodes() {
		if other != node && !c.Ready(ctx, other) {
			c.t.Errorf("%s was asked to end while %s was not whole", node, other)
		}
	}
	return c.fake.Terminate(ctx, node)
}

// Ready takes a while after a start.
func (c careful) Ready(ctx context.Context, node string) bool {
	c.mu.Lock()
	since := time.Since(c.nodes[node].started)
	c.mu.Unlock()
	const catchUp = 700 * time.Millisecond
	return since > catchUp && c.fake.Running(node)
}

// TestOneAfterTheOther ensures that a planned restart takes one node at a time, and all of them.
func TestOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := careful{newFake(testKnobs), t}
		time.Sleep(time.Second)
		rec := start(sys, testKnobs).Do(t.Context(), stepOf(t, "rolling-restart", 1, testKnobs))
		if len(rec.Targets) != testKnobs.Nodes || !strings.HasPrefix(rec.Effect, "5 of 5 nodes") {
			t.Errorf("recorded as %+v", rec)
		}
	})
}

// idle is a cluster that replaces nothing by itself.
type idle struct{ *fake }

func (i idle) Set(ctx context.Context, via, name, value string) (cluster.Answer, error) {
	return i.fake.Set(ctx, via, "not "+name, value)
}

// mute is a cluster whose nodes say nothing.
type mute struct{ *fake }

func (mute) Logged(string, string) (int, error) { return 0, nil }

// TestDamageIsTold ensures that a node whose damaged disk keeps it from running must say so, and is replaced in any case.
func TestDamageIsTold(t *testing.T) {
	for _, name := range []string{"damage-log-tail", "damage-log", "lose-log"} {
		synctest.Test(t, func(t *testing.T) {
			told, silent := newFake(testKnobs), newFake(testKnobs)
			n, m := start(told, testKnobs), start(mute{silent}, testKnobs)
			s := stepOf(t, name, 1, testKnobs)
			if rec := n.Do(t.Context(), s); !strings.Contains(rec.Effect, "it refused to run; it was replaced") || len(n.Violations()) > 0 {
				t.Errorf("recorded as %+v, violations %v", rec, n.Violations())
			}
			if rec := m.Do(t.Context(), s); !strings.Contains(rec.Effect, "replaced") || len(m.Violations()) != 1 || !strings.Contains(m.Violations()[0], "did not say") {
				t.Errorf("recorded as %+v, violations %v", rec, m.Violations())
			}
		})
	}
}

// TestReplacedByForce ensures that a node which the cluster does not replace is removed by force, which is no effect of the fault.
func TestReplacedByForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newFake(testKnobs)
		before := sys.state()
		if rec := start(idle{sys}, testKnobs).Do(t.Context(), stepOf(t, "replace", 1, testKnobs)); rec.Effect != "" || rec.Err != "" {
			t.Errorf("recorded as %+v", rec)
		}
		if after := sys.state(); after != before {
			t.Errorf("left\n%swant\n%s", after, before)
		}
	})
}

// TestLast ensures that the end of a plan breaks everything, that a majority then has a leader for each shard while
// the others are away, and that nothing is left of it.
func TestLast(t *testing.T) {
	hows := map[string]bool{}
	for seed := range uint64(24) {
		synctest.Test(t, func(t *testing.T) {
			p, err := NewPlan(seed, Options{Rounds: 1})
			if err != nil {
				t.Fatal(err)
			}
			hows[p.Last.How] = true
			sys := newFake(p.Knobs)
			before := sys.state()
			n := start(sys, p.Knobs)
			served := func() (shards int) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				there := (&Act{n: n}).others(p.Last.Away...)[0]
				for shard := range uint64(p.Knobs.Shards) {
					if sys.Probe(ctx, there, shard+1) == nil {
						shards++
					}
				}
				return shards
			}
			for i, stage := range []func(Last) error{n.Break, n.MendMost, n.MendRest} {
				if err := stage(p.Last); err != nil {
					t.Fatal(err)
				}
				want := p.Knobs.Shards
				if i == 0 {
					want = 0
				}
				if got := served(); got != want {
					t.Errorf("seed %d, %v: stage %d: %d shards served, want %d", seed, p.Last, i, got, want)
				}
			}
			if after := sys.state(); after != before || len(n.Deserters()) > 0 {
				t.Errorf("%v left\n%swant\n%s", p.Last, after, before)
			}
		})
	}
	if len(hows) != 3 {
		t.Errorf("ways to be away: %v, want three", hows)
	}
}

// TestRebuildInMemory ensures that the directory is rebuilt, but not where shards are in memory alone and one of them has forgotten what it held: nobody would settle it.
func TestRebuildInMemory(t *testing.T) {
	knobs := testKnobs
	knobs.Shards = 10 // any two nodes have two of three members of one of them
	for _, memoryOnly := range []bool{false, true} {
		rebuilt, not := 0, 0
		for seed := range uint64(12) {
			synctest.Test(t, func(t *testing.T) {
				n := start(newFake(knobs), knobs)
				n.cfg.MemoryOnly = memoryOnly
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				rec := n.Do(ctx, stepOf(t, "directory-rebuild", seed, knobs))
				switch all := strings.Contains(rec.Effect, fmt.Sprintf("of %d shards %[1]d had a majority", knobs.Shards)); {
				case rec.Effect == "":
				case strings.Contains(rec.Effect, "rebuilt on"):
					if rebuilt++; memoryOnly && !all {
						t.Errorf("seed %d: %s", seed, rec.Effect)
					}
				default:
					not++
				}
			})
		}
		if memoryOnly && not == 0 || !memoryOnly && rebuilt == 0 {
			t.Errorf("memory only %v: rebuilt %d times, %d times not", memoryOnly, rebuilt, not)
		}
	}
}
