package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/fsm"
)

// Entries of tests about eviction: all of one size.
func lruKey(n int) string { return fmt.Sprintf("key-%04d", n) }

const lruValue = "sixteen letters."

// fillLRU makes room for n entries and puts as many.
func (c *cluster) fillLRU(l *Host, n int) {
	c.t.Helper()
	limit := uint64(n) * fsm.Cost(len(lruKey(0)), len(lruValue), 0)
	if err := l.Cache(testShard).SetLimit(context.Background(), limit, 2); err != nil {
		c.t.Fatal(err)
	}
	for k := range n {
		c.mustPut(l, lruKey(k), lruValue)
	}
	if s := c.stats(l); s.Entries != n || s.Evictions != 0 {
		c.t.Fatalf("%d entries, %d evictions, want %d and none", s.Entries, s.Evictions, n)
	}
}

func touchStats(h *Host) TouchStats { return *h.Cache(testShard).Status().Touches }

// replicated waits until the leader has replicated so many touches.
func (c *cluster) replicated(l *Host, n uint64) {
	c.t.Helper()
	c.until(fmt.Sprintf("%d touches replicated", n), func() bool { return touchStats(l).Replicated >= n })
	if got := touchStats(l).Replicated; got != n {
		c.t.Fatalf("%d touches replicated, want %d", got, n)
	}
}

// wantThere looks, without touching, which of the first n keys are there.
func (c *cluster) wantThere(h *Host, n int, want func(k int) bool) {
	c.t.Helper()
	for k := range n {
		r, err := do(h, Request{Shard: testShard, Op: OpGet, Key: []byte(lruKey(k)), NoTouch: true})
		if err != nil {
			c.t.Fatal(err)
		}
		if r.Found != want(k) {
			c.t.Errorf("%s: found %v, want %v", lruKey(k), r.Found, want(k))
		}
	}
}

// TestReadsSurviveEviction ensures that what was read stays while what was not is evicted, wherever it was
// read and however fresh the read had to be, and that a read without touch saves nothing.
func TestReadsSurviveEviction(t *testing.T) {
	for name, tc := range map[string]struct {
		node string
		req  Request
	}{
		"leader":              {"a", Request{}},
		"follower":            {"b", Request{}},
		"any on leader":       {"a", Request{Consistency: Any}},
		"any on follower":     {"b", Request{Consistency: Any}},
		"bounded on follower": {"c", Request{Consistency: Bounded, MaxStaleness: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, nil, func(c *cluster) {
				l := c.followed("a")
				c.fillLRU(l, 64)
				c.wantGet(c.hosts["b"], lruKey(63), lruValue)
				c.wantGet(c.hosts["c"], lruKey(63), lruValue)
				before := touchStats(l).Replicated
				time.Sleep(time.Second)
				before += touchStats(l).Replicated - before // of the two reads above
				for k := range 16 {
					tc.req.Shard, tc.req.Op, tc.req.Key = testShard, OpGet, []byte(lruKey(k))
					tc.req.NoTouch = k%2 == 1
					r, err := do(c.hosts[tc.node], tc.req)
					if err != nil || !r.Found {
						t.Fatalf("read of %s: %+v, %v", lruKey(k), r, err)
					}
				}
				if tc.node != "a" { // a write of the leader's does not wait for touches of followers
					c.replicated(l, before+8)
				}
				for k := range 16 {
					c.mustPut(l, lruKey(64+k), lruValue)
				}
				// Room for 16 was made by the 8 odd ones and the first 8 that nobody read.
				c.wantThere(l, 80, func(k int) bool { return k >= 24 || k < 16 && k%2 == 0 })
				c.wantSameState()
			})
		})
	}
}

// TestOrderIsExact ensures that a client which does one thing after the other meets the evictions of an
// exact LRU, whichever replica it reads on.
func TestOrderIsExact(t *testing.T) {
	for _, node := range []string{"a", "b"} {
		t.Run(node, func(t *testing.T) {
			inBubble(t, 3, nil, func(c *cluster) {
				l := c.followed("a")
				const room = 64
				c.fillLRU(l, room)
				var order []int // oldest first
				for k := range room {
					order = append(order, k)
				}
				rnd := rand.New(rand.NewPCG(1, 1))
				next, reads := room, uint64(0)
				for range 100 {
					// What is near the recent end already is not touched again: read at the old end.
					for range 1 + rnd.IntN(5) {
						at := rnd.IntN(room / 4)
						k := order[at]
						c.wantGet(c.hosts[node], lruKey(k), lruValue)
						order = append(slices.Delete(order, at, at+1), k)
						reads++
					}
					if node != "a" {
						c.replicated(l, reads)
					}
					for range rnd.IntN(4) {
						c.mustPut(l, lruKey(next), lruValue)
						order = append(order[1:], next)
						next++
					}
				}
				c.wantThere(l, next, func(k int) bool { return slices.Contains(order, k) })
				// Out they go, oldest first.
				for n := range room {
					c.mustPut(l, lruKey(next+n), lruValue)
					left := order[n+1:]
					if n%8 == 7 {
						c.wantThere(l, next, func(k int) bool { return slices.Contains(left, k) })
					}
				}
				if s := touchStats(c.hosts[node]); s.Collected != reads || s.Dropped != 0 {
					t.Errorf("of %d reads %+v", reads, s)
				}
				c.wantSameState()
			})
		})
	}
}

// TestRecencySurvivesFailover ensures that a new leader evicts what the old one would have: what was read on
// the old leader and on a follower, before the log had it a moment later, is kept.
func TestRecencySurvivesFailover(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		for k := range 8 {
			c.wantGet(l, lruKey(k), lruValue)
			c.wantGet(c.hosts["b"], lruKey(8+k), lruValue)
		}
		c.replicated(l, 16)
		c.crash("a")
		next := c.leader()
		for k := range 32 {
			c.mustPut(next, lruKey(64+k), lruValue)
		}
		c.wantThere(next, 96, func(k int) bool { return k < 16 || k >= 48 })
		c.start("a")
		c.wantSameState()
	})
}

// TestFollowersTouchesFollowTheLeader ensures that touches which a follower gathered while the leader changed
// go to the new one, also where that is itself.
func TestFollowersTouchesFollowTheLeader(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		for _, n := range []string{"b", "c"} {
			c.wantGet(c.hosts[n], lruKey(63), lruValue)
			c.hosts[n].SetTouchInterval(5 * time.Second)
		}
		time.Sleep(time.Second)
		for k := range 8 {
			c.wantGet(c.hosts["b"], lruKey(k), lruValue)
			c.wantGet(c.hosts["c"], lruKey(8+k), lruValue)
		}
		before := touchStats(l)
		next := c.followed("b")
		c.until("the touches of both are in the log", func() bool { return touchStats(next).Replicated == 16 })
		if after := touchStats(l); after.Collected != before.Collected {
			t.Errorf("the old leader got %d touches", after.Collected-before.Collected)
		}
		for k := range 48 {
			c.mustPut(next, lruKey(64+k), lruValue)
		}
		c.wantThere(next, 64, func(k int) bool { return k < 16 })
	})
}

// noTrace reports, when its result is called, what changed in the shard's log or state since. It waits long
// enough for touches to get there.
func (c *cluster) noTrace(l *Host, what string) (check func()) {
	c.t.Helper()
	state := func() string {
		m := l.Group(testShard).instance().fsm.machine.(*cacheMachine)
		m.mu.RLock()
		defer m.mu.RUnlock()
		return fmt.Sprintf("last index %d, state %x", l.Group(testShard).Status().Last, m.m.Checksum())
	}
	before := state()
	return func() {
		c.t.Helper()
		time.Sleep(5 * time.Second)
		if after := state(); after != before {
			c.t.Errorf("%s left a trace: %s, then %s", what, before, after)
		}
	}
}

// TestNoTouchLeavesNoTrace ensures that reads with touch=false, forwarded ones too, and all reads while
// recency is not replicated, change neither log nor state nor any count.
func TestNoTouchLeavesNoTrace(t *testing.T) {
	inBubble(t, 3, neverCheck, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		time.Sleep(time.Second)
		readAll := func(noTouch bool) {
			for k := range 64 {
				for _, h := range c.hosts {
					for _, consistency := range []Consistency{Linearizable, Any} {
						req := Request{Shard: testShard, Op: OpGet, Key: []byte(lruKey(k)), NoTouch: noTouch, Consistency: consistency}
						for _, to := range []string{"a", h.Node()} {
							if r, err := h.Do(context.Background(), to, req); err != nil || !r.Found {
								t.Fatalf("%+v, %v", r, err)
							}
						}
					}
				}
			}
		}
		check := c.noTrace(l, "touch=false")
		readAll(true)
		check()
		for _, h := range c.hosts {
			h.SetTouchInterval(0)
		}
		check = c.noTrace(l, "a read while recency is not replicated")
		readAll(false)
		check()
		for n, h := range c.hosts {
			if s := touchStats(h); s != (TouchStats{}) {
				t.Errorf("%s counts %+v", n, s)
			}
			h.SetTouchInterval(10 * time.Millisecond)
		}
		c.wantGet(l, lruKey(0), lruValue)
		c.replicated(l, 1)
		// What is gathered when it is switched off does not get there.
		c.wantGet(l, lruKey(1), lruValue)
		l.SetTouchInterval(0)
		c.noTrace(l, "a touch that was gathered before")()
		if s := touchStats(l); s.Dropped != 1 {
			t.Errorf("it was not counted: %+v", s)
		}
	})
}

// TestIdleAfterTouches ensures that a shard which was read writes its touches once, and nothing more, and
// that the reader's timer rests then.
func TestIdleAfterTouches(t *testing.T) {
	inBubble(t, 3, neverCheck, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		time.Sleep(time.Second)
		last := func() uint64 { return l.Group(testShard).Status().Last }
		before := last()
		for k := range 32 {
			c.wantGet(l, lruKey(k), lruValue)
			c.wantGet(l, lruKey(k), lruValue)
		}
		time.Sleep(50 * time.Minute) // before the replicas are compared
		if wrote := last() - before; wrote != 1 {
			t.Errorf("the touches of 32 reads took %d entries", wrote)
		}
		if s := touchStats(l); s.Collected != 32 || s.Replicated != 32 || s.Deduplicated+s.Skipped != 32 {
			t.Errorf("%+v", s)
		}
		for n, h := range c.hosts {
			if h.Cache(testShard).touches.due.Stop() {
				t.Errorf("a timer runs on %s", n)
			}
		}
	})
}

// TestTouchMetrics ensures that the metrics tell of each replica what became of its touches.
func TestTouchMetrics(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		for k := range 5 {
			c.wantGet(l, lruKey(k), lruValue)
		}
		c.wantGet(l, lruKey(0), lruValue)
		c.replicated(l, 5)
		c.wantGet(l, lruKey(0), lruValue) // the newest of all: skipped
		reg := prometheus.NewPedanticRegistry()
		if err := reg.Register(l.Collector()); err != nil {
			t.Fatal(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "larder_touches_total" {
					labels := map[string]string{}
					for _, p := range m.GetLabel() {
						labels[p.GetName()] = p.GetValue()
					}
					if labels["shard"] != "1" || len(labels) != 2 {
						t.Errorf("labels %v", labels)
					}
					got[labels["outcome"]] = m.GetCounter().GetValue()
				}
			}
		}
		want := map[string]float64{"collected": 5, "deduplicated": 1, "skipped": 1, "replicated": 5, "dropped": 0}
		if !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// TestLowLevel ensures that a shard below the feature level of touches gets none, and that a command above
// its level is refused before the log, and spoils nothing that is packed with it.
func TestLowLevel(t *testing.T) {
	inBubbleAtLevel1(t, 3, neverCheck, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		check := c.noTrace(l, "a read at level 1")
		for _, h := range c.hosts {
			c.wantGet(h, "k", "v")
		}
		check()
		check = c.noTrace(l, "a command above the level")
		cache := l.Cache(testShard)
		for _, cmd := range []fsm.Command{
			{Kind: fsm.KindIncr, Key: []byte("n"), Delta: 1},
			{Kind: fsm.KindPut, Key: []byte("k"), IdempotencyKey: "x"},
			{Kind: fsm.KindFlush},
		} {
			if _, err := cache.batches.submit(context.Background(), &cmd); !errors.Is(err, ErrNoLeader) || !Refused(err) {
				t.Errorf("kind %d: %v", cmd.Kind, err)
			}
		}
		check()
		release := stall(l)
		var wg sync.WaitGroup
		for range maxInFlight + 2 {
			wg.Go(func() { _, _ = put(l, "filler", "v") })
			synctest.Wait()
		}
		for i := range 20 {
			wg.Go(func() {
				if i%2 == 0 {
					c.mustPut(l, fmt.Sprint("k", i), fmt.Sprint("v", i))
				} else if _, err := cache.batches.submit(context.Background(), &fsm.Command{Kind: fsm.KindFlush}); !Refused(err) {
					t.Errorf("flush: %v", err)
				}
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		for i := 0; i < 20; i += 2 {
			c.wantGet(l, fmt.Sprint("k", i), fmt.Sprint("v", i))
		}
		for n, h := range c.hosts {
			if s := touchStats(h); s.Collected != 0 || s.Dropped == 0 {
				t.Errorf("%s: %+v", n, s)
			}
		}
		c.wantSameState()
	})
}

// TestLostTouches ensures that touches which were proposed and lost are counted as dropped and not proposed
// again, whether the leadership was lost, also before they could be proposed, or the library did not take
// them in time, and that meanwhile reads which may be old go on at once.
func TestLostTouches(t *testing.T) {
	for _, how := range []string{"deposed", "deposed in a jam", "not taken"} {
		t.Run(how, func(t *testing.T) {
			tune := func(_ string, c *Config) {
				if how == "not taken" {
					c.HeartbeatTimeout, c.ElectionTimeout = 30*time.Second, 30*time.Second
				}
			}
			inBubble(t, 3, tune, func(c *cluster) {
				l := c.followed("a")
				c.fillLRU(l, 64)
				c.wantGet(l, lruKey(63), lruValue)
				time.Sleep(time.Second)
				before := touchStats(l)
				var wg sync.WaitGroup
				release := func() {}
				if how != "not taken" {
					c.net.Isolate("a", "b", "c")
				}
				switch how {
				case "deposed in a jam":
					for range maxInFlight {
						wg.Go(func() { _, _ = put(l, lruKey(63), lruValue) })
						synctest.Wait()
					}
				case "not taken":
					release = stall(l)
					wg.Go(func() { _, _ = put(l, "filler", "v") })
				}
				synctest.Wait()
				began := time.Now()
				for k := range 16 {
					if r, err := old(l, lruKey(k), Any, 0); err != nil || !r.Found {
						t.Fatalf("%+v, %v", r, err)
					}
				}
				if took := time.Since(began); took > 0 {
					t.Errorf("16 reads took %v", took)
				}
				c.until("the touches are given up", func() bool { return touchStats(l).Dropped == before.Dropped+16 })
				if how != "not taken" { // before it can win again, with the touches in its log
					c.leader("b", "c")
				}
				c.net.Heal()
				release()
				wg.Wait()
				l = c.leader()
				for k := range 16 {
					c.mustPut(l, lruKey(64+k), lruValue)
				}
				c.wantThere(l, 16, func(int) bool { return false })
				if s := touchStats(c.hosts["a"]); s.Replicated != before.Replicated || s.Collected != before.Collected+16 {
					t.Errorf("%+v, before %+v", s, before)
				}
				c.wantSameState()
			})
		})
	}
}

// TestTouchesOfAJam ensures that while the log takes nothing touches beyond the buffer are dropped, reads go
// on, and after writes were refused for want of room none are written.
func TestTouchesOfAJam(t *testing.T) {
	slow := func(_ string, c *Config) { c.HeartbeatTimeout, c.ElectionTimeout = 30*time.Second, 30*time.Second }
	inBubble(t, 3, slow, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		c.wantGet(l, lruKey(63), lruValue)
		time.Sleep(time.Second)
		before := touchStats(l)
		release := stall(l)
		var wg sync.WaitGroup
		for range maxInFlight + 2 {
			wg.Go(func() { _, _ = put(l, "filler", "v") })
			synctest.Wait()
		}
		refused := 0
		var mu sync.Mutex
		for i := range queueLength + maxInFlight*maxBatchCommands + 10 {
			wg.Go(func() {
				if _, err := put(l, lruKey(i%64), lruValue); errors.Is(err, ErrOverloaded) {
					mu.Lock()
					defer mu.Unlock()
					refused++
				}
			})
		}
		synctest.Wait()
		touches := l.Cache(testShard).touches
		for k := range 2 * maxTouches { // as if so many keys had been read
			touches.add(fsm.New().TouchOf(binary.BigEndian.AppendUint64(nil, uint64(k))))
		}
		if r, err := old(l, lruKey(0), Any, 0); err != nil || !r.Found {
			t.Errorf("a read meanwhile: %+v, %v", r, err)
		}
		release()
		wg.Wait()
		c.until("the jam is over", func() bool { return len(l.Cache(testShard).batches.queue) == 0 })
		time.Sleep(time.Second)
		s := touchStats(l)
		if refused == 0 || s.Replicated != before.Replicated || s.Dropped < before.Dropped+2*maxTouches {
			t.Errorf("%d writes were refused, %+v", refused, s)
		}
		c.wantSameState()
	})
}

// TestManyTouchesTakeSeveralEntries ensures that no entry carries so many touches that its Apply takes long, and that all
// of what was gathered follows soon, with a write or without.
func TestManyTouchesTakeSeveralEntries(t *testing.T) {
	const entries = 4
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		time.Sleep(time.Second)
		for _, writes := range []int{0, 1} {
			before, index := touchStats(l), l.Cache(testShard).Status().Applied
			for k := range entries * entryTouches {
				l.Cache(testShard).touches.add(fsm.New().TouchOf(binary.BigEndian.AppendUint64(nil, uint64(k))))
			}
			for range writes {
				c.mustPut(l, lruKey(1), lruValue)
			}
			time.Sleep(2 * l.cfg.TouchInterval)
			s := touchStats(l)
			if n := s.Replicated - before.Replicated; n != entries*entryTouches || s.Dropped != before.Dropped {
				t.Errorf("%d of %d touches were replicated within two intervals: %+v after %+v", n, entries*entryTouches, s, before)
			}
			if n := l.Cache(testShard).Status().Applied - index; n != entries {
				t.Errorf("they took %d entries, want %d", n, entries)
			}
			time.Sleep(time.Second) // for the budget
		}
		c.wantSameState()
	})
}

// TestManyTouchesPrecedeWrite ensures that a write evicts nothing that was read before it, however many reads came before that one, also where
// some of their touches are on their way.
func TestManyTouchesPrecedeWrite(t *testing.T) {
	for _, under := range []bool{false, true} {
		inBubble(t, 3, nil, func(c *cluster) {
			l := c.followed("a")
			c.fillLRU(l, 64)
			time.Sleep(time.Second)
			before := touchStats(l).Replicated
			for k := range entryTouches + entryTouches/2 {
				l.Cache(testShard).touches.add(fsm.New().TouchOf(binary.BigEndian.AppendUint64(nil, uint64(k))))
			}
			if under {
				c.replicated(l, before+entryTouches)
			}
			c.wantGet(l, lruKey(0), lruValue)
			c.mustPut(l, "new", lruValue)
			c.wantThere(l, 3, func(k int) bool { return k != 1 })
			c.wantSameState()
		})
	}
}

// TestPlacesBesideTouches ensures that each write names its own place in an entry which touches head, so
// that places and versions are in the same order, and that later reads name no earlier place.
func TestPlacesBesideTouches(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		c.wantGet(l, lruKey(0), lruValue)
		if r := c.mustPut(l, lruKey(63), lruValue); r.Position != 1 {
			t.Errorf("a write behind touches is at %d.%d", r.Index, r.Position)
		}
		if s := touchStats(l); s.Replicated != 1 {
			t.Errorf("the touch was not written with it: %+v", s)
		}
		r, err := get(l, lruKey(63))
		if w := c.mustPut(l, lruKey(63), lruValue); err != nil || r.Version+1 != w.Version || r.Index >= w.Index {
			t.Errorf("read %+v, %v, then write %+v", r, err, w)
		}
		var mu sync.Mutex
		var wrote []Response
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for k := range 64 {
					r, err := get(l, lruKey(k))
					if err != nil {
						t.Error(err)
						return
					}
					w, err := put(l, lruKey(k), lruValue)
					if err != nil || w.Status != fsm.StatusOK || w.Version == 0 {
						t.Errorf("%+v, %v", w, err)
						return
					}
					if w.Index < r.Index || w.Index == r.Index && w.Position <= r.Position {
						t.Errorf("read at %d.%d, then write at %d.%d", r.Index, r.Position, w.Index, w.Position)
					}
					mu.Lock()
					wrote = append(wrote, w)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		slices.SortFunc(wrote, func(a, b Response) int { return int(int64(a.Version) - int64(b.Version)) })
		for i := 1; i < len(wrote); i++ {
			a, b := wrote[i-1], wrote[i]
			if a.Index > b.Index || a.Index == b.Index && a.Position >= b.Position {
				t.Fatalf("version %d at %d.%d, %d at %d.%d", a.Version, a.Index, a.Position, b.Version, b.Index, b.Position)
			}
		}
		if s := touchStats(l); s.Replicated < 10 {
			t.Errorf("too few touches to prove anything: %+v", s)
		}
		c.wantSameState()
	})
}

// TestTouchesOfMembersOnly ensures that a leader takes touches only of replicas of its configuration, only
// those meant for it, and each frame once.
func TestTouchesOfMembersOnly(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		link := c.dial("b", "a")
		id := uint64(100)
		send := func(id uint64, source, target string, keys ...fsm.Touch) {
			body := binary.AppendUvarint(nil, uint64(testShard))
			body = appendString(appendString(body, source), target)
			body = binary.AppendUvarint(body, uint64(len(keys)))
			for _, k := range keys {
				body = binary.AppendUvarint(body, uint64(k))
			}
			if err := link.link.Send([][]byte{requestFrame(frameTouch, id, 0, body)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for _, tc := range []struct {
			name, source, target string
			takes                bool
		}{
			{"a member", "1/b/1", "1/a/1", true},
			{"another life of it", "1/b/2", "1/a/1", false},
			{"in another node's name", "1/c/1", "1/a/1", false},
			{"of another shard", "2/b/1", "1/a/1", false},
			{"to another life of the leader", "1/b/1", "1/a/2", false},
			{"to a follower", "1/b/1", "1/c/1", false},
		} {
			before := touchStats(l).Collected
			id++
			send(id, tc.source, tc.target, fsm.Touch(id))
			if took := touchStats(l).Collected > before; took != tc.takes {
				t.Errorf("%s: taken %v", tc.name, took)
			}
		}
		before := touchStats(l)
		send(id, "1/b/1", "1/a/1", 1, 2, 3) // the network repeats it
		if after := touchStats(l); after != before {
			t.Errorf("taken twice: %+v, before %+v", after, before)
		}
		// d is no member; one that does not lead takes nothing and says so to nobody.
		other := c.dial("d", "b")
		body := appendTouches(nil, ReplicaID{testShard, "d", 1}, ReplicaID{testShard, "b", 1}, listOf(7))
		if err := other.link.Send([][]byte{requestFrame(frameTouch, 1, 0, body)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := touchStats(c.hosts["b"]); s.Collected != 0 || s.Dropped != 1 {
			t.Errorf("a follower: %+v", s)
		}
		c.wantGet(l, lruKey(0), lruValue) // it goes on
	})
}

// TestTouchesWithoutLeader ensures that a follower which knows no leader, or has no link to it, drops what it
// gathers, counts it, and serves old reads at once.
func TestTouchesWithoutLeader(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		b := c.hosts["b"]
		if r, err := old(b, lruKey(63), Any, 0); err != nil || !r.Found {
			t.Fatalf("%+v, %v", r, err)
		}
		time.Sleep(time.Second)
		before := touchStats(b)
		c.net.Isolate("b", "a", "c")
		c.until("b knows no leader", func() bool { return b.Group(testShard).Status().Leader == "" })
		for k := range 16 {
			if r, err := old(b, lruKey(k), Any, 0); err != nil || !r.Found {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		c.until("the touches are dropped", func() bool { return touchStats(b).Dropped == before.Dropped+16 })
		c.net.Heal()
		c.wantSameState()
	})
	calm := func(_ string, c *Config) { c.HeartbeatTimeout, c.ElectionTimeout = time.Minute, time.Minute }
	inBubble(t, 3, calm, func(c *cluster) {
		l := c.followed("a")
		c.fillLRU(l, 64)
		b := c.hosts["b"]
		c.wantGet(b, lruKey(63), lruValue)
		time.Sleep(time.Second)
		before := touchStats(b)
		c.net.Isolate("b", "a", "c")
		c.net.BreakLinks("b", "a")
		synctest.Wait()
		if r, err := old(b, lruKey(0), Any, 0); err != nil || !r.Found {
			t.Fatalf("%+v, %v", r, err)
		}
		c.until("the touch is dropped", func() bool { return touchStats(b).Dropped == before.Dropped+1 })
		if s := b.Group(testShard).Status(); s.Leader != "a" {
			t.Errorf("b takes %q for the leader: this proves nothing", s.Leader)
		}
	})
}

// touchShareOf runs n requests, 95 reads to 5 writes, over keys of 16 bytes and values of 128, and returns
// the bytes of touches in the leader's log and of keys and values in all requests.
func touchShareOf(c *cluster, n, keys int, next func() int) (touches, requests uint64) {
	l := c.followed("a")
	key := func(k int) string { return fmt.Sprintf("key-%012d", k) }
	value := string(make([]byte, 128))
	limit := uint64(keys) * fsm.Cost(16, 128, 0)
	if err := l.Cache(testShard).SetLimit(context.Background(), limit, 2); err != nil {
		c.t.Fatal(err)
	}
	for k := range keys {
		c.mustPut(l, key(k), value)
	}
	time.Sleep(time.Second)
	l.Group(testShard).store.(*memoryStore).onStore(func(logs []*raft.Log) error {
		for _, log := range logs {
			if log.Type != raft.LogCommand {
				continue
			}
			b, err := fsm.DecodeBatch(log.Data)
			if err != nil {
				return err
			}
			if len(b.Commands) == 0 || b.Commands[0].Kind != fsm.KindTouches {
				continue
			}
			with, err := fsm.AppendCommand(nil, &b.Commands[0])
			if err != nil {
				return err
			}
			if touches += uint64(len(with)); len(b.Commands) == 1 { // an entry of their own
				touches += uint64(len(log.Data) - len(with))
			}
		}
		return nil
	})
	for i := range n {
		if k := key(next()); i%20 == 19 {
			c.mustPut(l, k, value)
		} else {
			c.wantGet(l, k, value)
		}
		requests += 16 + 128
		time.Sleep(20 * time.Microsecond) // 50,000 requests a second
	}
	time.Sleep(time.Second)
	l.Group(testShard).store.(*memoryStore).onStore(nil)
	if s := touchStats(l); s.Dropped > s.Collected/100 {
		c.t.Errorf("the share is small because touches were dropped: %+v", s)
	}
	c.t.Logf("touches %d B of requests' %d B: %.2f %%; %+v", touches, requests, 100*float64(touches)/float64(requests), touchStats(l))
	return touches, requests
}

// TestTouchShare ensures that touches take at most 5 % of the bytes of keys and values of all requests, for
// Zipf and for uniform reads, through the log of three replicas.
func TestTouchShare(t *testing.T) {
	if testing.Short() {
		t.Skip("long under the race detector")
	}
	const keys, n = 10_000, 40_000
	rnd := rand.New(rand.NewPCG(1, 1))
	for name, next := range map[string]func() int{
		"uniform":   func() int { return rnd.IntN(keys) },
		"zipf 0.99": zipf(rnd, keys, 0.99),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, nil, func(c *cluster) {
				touches, requests := touchShareOf(c, n, keys, next)
				if 20*touches > requests {
					t.Errorf("touches of %d bytes for requests of %d: %.2f %%", touches, requests, 100*float64(touches)/float64(requests))
				}
				if touches == 0 {
					t.Error("no touches at all")
				}
			})
		})
	}
}

// zipf draws from [0, n) with probability in proportion to 1/(k+1)^s. The standard library's needs s > 1.
func zipf(rnd *rand.Rand, n int, s float64) func() int {
	sums := make([]float64, n)
	sum := 0.0
	for k := range sums {
		sum += math.Pow(float64(k+1), -s)
		sums[k] = sum
	}
	return func() int {
		k, _ := slices.BinarySearch(sums, rnd.Float64()*sum)
		return k
	}
}
