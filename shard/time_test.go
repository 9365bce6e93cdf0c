package shard

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// testClocks are wall clocks that a test sets, one per node.
type testClocks struct {
	mu     sync.Mutex
	offset map[string]time.Duration
	still  map[string]time.Time // clocks that stand still
	wrong  map[string]int       // how often one was read that is set so, or stands still
}

func newTestClocks() *testClocks {
	return &testClocks{offset: map[string]time.Duration{}, still: map[string]time.Time{}, wrong: map[string]int{}}
}

func (k *testClocks) tune(node string, c *Config) {
	c.Now = func() time.Time {
		k.mu.Lock()
		defer k.mu.Unlock()
		at, still := k.still[node]
		if still || k.offset[node] != 0 {
			k.wrong[node]++
		}
		if still {
			return at
		}
		return time.Now().Add(k.offset[node])
	}
}

func (k *testClocks) set(node string, offset time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.offset[node] = offset
	delete(k.still, node)
}

func (k *testClocks) stop(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.still[node] = time.Now().Add(k.offset[node])
}

// read is how often a node's clock was read while it was wrong.
func (k *testClocks) read(node string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wrong[node]
}

func (c *cluster) putTTL(h *Host, key string, ttl time.Duration) {
	c.t.Helper()
	if r, err := do(h, Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte("v"), TTL: ttl}); err != nil || r.Status != fsm.StatusOK {
		c.t.Fatalf("put with ttl: %+v, %v", r, err)
	}
}

// lives reads a key that was put with a TTL.
func (c *cluster) lives(h *Host, key string) (Response, bool) {
	c.t.Helper()
	r, err := get(h, key)
	if err != nil {
		c.t.Fatalf("get %s: %v", key, err)
	}
	return r, r.Found
}

// TestTickOnDueEntry ensures that reads of entries whose time has come see them expired, by one log
// entry or few for however many readers, and that reads of others add none.
func TestTickOnDueEntry(t *testing.T) {
	inBubble(t, 3, neverCheck, func(c *cluster) {
		l := c.leader()
		l.SetTouchInterval(0) // touches are entries too
		for i := range 20 {
			c.putTTL(l, fmt.Sprint("k", i), time.Second)
		}
		c.putTTL(l, "later", 2*time.Second)
		c.mustPut(l, "other", "v")
		last := func() uint64 { return l.Group(testShard).Status().Last }
		before := last()
		time.Sleep(500 * time.Millisecond)
		if r, ok := c.lives(l, "k0"); !ok || !r.HasTTL || r.TTL > 510*time.Millisecond || r.TTL < 400*time.Millisecond {
			t.Errorf("half way: found %v, ttl %v", ok, r.TTL)
		}
		if now := last(); now != before {
			t.Errorf("reading what is not due added %d entries", now-before)
		}
		time.Sleep(600 * time.Millisecond)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				if r, ok := c.lives(l, fmt.Sprint("k", i%20)); ok || r.Read != ReadLog && r.Read != ReadProbe {
					t.Errorf("k%d: %+v", i%20, r)
				}
			})
		}
		wg.Wait()
		if ticks := last() - before; ticks == 0 || ticks > 3 {
			t.Errorf("200 readers made %d log entries", ticks)
		}
		// Those who come while an entry is in flight that is stamped late enough wait for it.
		time.Sleep(time.Second)
		before = last()
		release := stall(l)
		for range 30 {
			wg.Go(func() {
				if r, ok := c.lives(l, "later"); ok || r.Read != ReadLog && r.Read != ReadProbe {
					t.Errorf("later: %+v", r)
				}
			})
			synctest.Wait()
		}
		release()
		wg.Wait()
		if ticks := last() - before; ticks != 1 {
			t.Errorf("30 readers, one after the other, made %d log entries", ticks)
		}
		before = last()
		c.wantGet(l, "other", "v")
		c.wantGet(l, "k3", "")
		if now := last(); now != before {
			t.Errorf("reading what is not due added %d entries", now-before)
		}
	})
}

// TestExpiryLeavesTheNext ensures that a read which finds an entry over does not remove what is being stored under its key
// meanwhile.
func TestExpiryLeavesTheNext(t *testing.T) {
	inBubble(t, 3, neverCheck, func(c *cluster) {
		l := c.leader()
		c.putTTL(l, "k", time.Second)
		time.Sleep(1100 * time.Millisecond)
		release := stall(l)
		var wg sync.WaitGroup
		wg.Go(func() { c.mustPut(l, "k", "next") })
		time.Sleep(100 * time.Millisecond) // until the put is in flight, then until the read has seen what is over
		wg.Go(func() { c.lives(l, "k") })
		time.Sleep(100 * time.Millisecond)
		release()
		wg.Wait()
		c.wantGet(l, "k", "next")
	})
}

// TestSeenExpiredStaysExpired ensures that an entry which a reader was told is gone never comes back,
// although the next leader and the voters' median are hours behind, and that time does not stand still
// there.
func TestSeenExpiredStaysExpired(t *testing.T) {
	k := newTestClocks()
	inBubble(t, 3, k.tune, func(c *cluster) {
		l := c.lead("a")
		c.putTTL(l, "k", time.Second)
		c.putTTL(l, "long", time.Minute)
		time.Sleep(1100 * time.Millisecond)
		if _, ok := c.lives(l, "k"); ok {
			t.Fatal("not expired")
		}
		for _, n := range c.names {
			k.set(n, -5*time.Hour)
		}
		time.Sleep(2 * pingInterval)
		next := c.lead("b")
		if _, ok := c.lives(next, "k"); ok {
			t.Error("what was seen expired came back")
		}
		clock := c.stats(next).Clock
		c.mustPut(next, "x", "y")
		if now := c.stats(next).Clock; now < clock {
			t.Errorf("the log clock went from %d to %d", clock, now)
		}
		// "long" has 58.9 s left: at half speed it is gone in twice that.
		time.Sleep(110 * time.Second)
		if _, ok := c.lives(next, "long"); !ok {
			t.Error("expired before its time")
		}
		time.Sleep(12 * time.Second)
		if _, ok := c.lives(next, "long"); ok {
			t.Error("time stands still: a TTL more than doubled")
		}
	})
}

// TestBadClockMovesNothing ensures that a leader whose clock is years ahead neither expires anything
// nor moves the log clock, from its first stamp on, and that one behind does not keep anything alive.
func TestBadClockMovesNothing(t *testing.T) {
	for _, offset := range []time.Duration{10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		k := newTestClocks()
		k.set("a", offset)
		inBubble(t, 3, k.tune, func(c *cluster) {
			l := c.lead("a")
			near := func(when string) {
				t.Helper()
				if off := time.Duration(int64(c.stats(l).Clock)-time.Now().UnixMilli()) * time.Millisecond; off.Abs() > 2*time.Second {
					t.Errorf("%s the log clock is off by %v", when, off)
				}
			}
			c.putTTL(l, "k", 3*time.Second)
			near("at first")
			time.Sleep(2500 * time.Millisecond)
			if _, ok := c.lives(l, "k"); !ok {
				t.Errorf("expired early by a leader whose clock is off by %v", offset)
			}
			time.Sleep(time.Second)
			if _, ok := c.lives(l, "k"); ok {
				t.Errorf("kept alive by a leader whose clock is off by %v", offset)
			}
			c.mustPut(l, "x", "y")
			near("later")
		})
	}
}

// TestLonelyClockIsNotUsed ensures that a leader which has not heard a majority of the voters' clocks
// lately uses none: its own might be the bad one.
func TestLonelyClockIsNotUsed(t *testing.T) {
	k := newTestClocks()
	k.set("a", 10*365*24*time.Hour)
	inBubble(t, 3, k.tune, func(c *cluster) {
		l := c.lead("a")
		c.mustPut(l, "k", "v")
		// The answers to pings are lost, all else arrives. Links end by it and come again.
		var lost atomic.Int32
		pings := map[uint64]bool{}
		c.net.DropWhen(func(from, to string, frame []byte) bool {
			r := reader{b: frame}
			kind, id := r.byte(), r.uint()
			switch {
			case from == "a" && kind == framePing:
				pings[id] = true
			case to == "a" && kind == frameReply && pings[id] && len(frame) < 16:
				lost.Add(1)
				return true
			}
			return false
		})
		until := time.Now().Add(30 * time.Second)
		for time.Now().Before(until) {
			_, _ = put(c.leader(), "k", "v") // may meet a link that ends
			if off := time.Duration(int64(c.stats(c.leader()).Clock)-time.Now().UnixMilli()) * time.Millisecond; off > time.Minute {
				t.Fatalf("the log clock jumped by %v", off)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if lost.Load() < 5 {
			t.Errorf("only %d answers were lost", lost.Load())
		}
	})
}

// TestStillClock ensures that time goes on, at half speed, where all clocks stand still.
func TestStillClock(t *testing.T) {
	k := newTestClocks()
	inBubble(t, 3, k.tune, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "k", "v")
		for _, n := range c.names {
			k.stop(n)
		}
		time.Sleep(2 * pingInterval)
		c.putTTL(l, "k", 10*time.Second)
		time.Sleep(18 * time.Second)
		if _, ok := c.lives(l, "k"); !ok {
			t.Error("expired after less than twice its time, with clocks that stand still")
		}
		time.Sleep(5 * time.Second)
		if _, ok := c.lives(l, "k"); ok {
			t.Error("time stands still")
		}
	})
}

// TestMajorityAheadForAMinute ensures that a majority of clocks which are hours ahead for a minute does what the
// rule says and no more: entries end early by as much, what is over stays over, and once the clocks are right
// again a time to live lasts between once and twice its length.
func TestMajorityAheadForAMinute(t *testing.T) {
	const ahead = 5 * time.Hour
	k := newTestClocks()
	inBubble(t, 3, k.tune, func(c *cluster) {
		l := c.lead("a")
		c.putTTL(l, "short", 4*time.Hour)
		c.putTTL(l, "long", 6*time.Hour)
		k.set("b", ahead)
		k.set("c", ahead)
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Second) {
			c.mustPut(l, "other", "v")
		}
		lives := func(key string) bool {
			_, ok := c.lives(l, key)
			return ok
		}
		if lives("short") || !lives("long") {
			t.Errorf("5 hours ahead: an entry of 4 hours lives: %v, one of 6: %v", lives("short"), lives("long"))
		}
		k.set("b", 0)
		k.set("c", 0)
		time.Sleep(2 * pingInterval)
		for _, ttl := range []time.Duration{10 * time.Second, 10 * time.Minute} {
			c.putTTL(l, "new", ttl)
			time.Sleep(ttl - time.Second)
			if lives("short") || !lives("long") || !lives("new") {
				t.Errorf("before %v are over: short %v, long %v, new %v", ttl, lives("short"), lives("long"), lives("new"))
			}
			time.Sleep(ttl + 2*time.Second)
			if lives("new") {
				t.Errorf("%v last more than twice as long", ttl)
			}
		}
	})
}

// TestOwnClockSteps ensures that a step of the leader's own clock moves nothing, also for the entries
// that it stamps before its next ping: the others' clocks are not known relative to its own.
func TestOwnClockSteps(t *testing.T) {
	k := newTestClocks()
	inBubble(t, 3, k.tune, func(c *cluster) {
		l := c.lead("a")
		c.putTTL(l, "k", 30*time.Minute)
		time.Sleep(3*time.Second + pingInterval/2)
		for _, step := range []time.Duration{time.Hour, -time.Hour} {
			k.set("a", step)
			c.mustPut(l, "other", "v")
			off := time.Duration(int64(c.stats(l).Clock)-time.Now().UnixMilli()) * time.Millisecond
			if off.Abs() > time.Second {
				t.Errorf("a step of %v moved the log clock by %v", step, off)
			}
		}
		if _, ok := c.lives(l, "k"); !ok {
			t.Error("an entry of half an hour is gone after seconds")
		}
	})
}

// TestMedian ensures that the median is taken over those clocks only that were measured lately, and is
// not known without a majority of them.
func TestMedian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wall := time.UnixMilli(1_000_000)
		k := newClocks()
		want := func(when string, millis int64, known bool, voters ...string) {
			t.Helper()
			if got, ok := k.median(wall, "a", voters); got != millis && known || ok != known {
				t.Errorf("%s: %d, %v, want %d, %v", when, got, ok, millis, known)
			}
		}
		want("alone", 1_000_000, true, "a")
		want("nobody heard", 0, false, "a", "b", "c")
		k.observe("b", 1_000_500, time.Now())
		want("one of two others heard", 1_000_000, true, "a", "b", "c")
		want("one of four others heard", 0, false, "a", "b", "c", "d", "e")
		k.observe("c", 999_300, time.Now())
		want("all heard", 1_000_000, true, "a", "b", "c")
		k.observe("z", 910_000, time.Now())
		want("a stranger does not count", 1_000_000, true, "a", "b", "c")
		k.observe("b", 999_100, time.Now())
		want("the lower of the middle two", 999_300, true, "a", "b", "c")
		time.Sleep(clockWindow + time.Second)
		k.observe("c", 1_000_800, time.Now())
		want("what was measured long ago does not count", 1_000_000, true, "a", "b", "c")
	})
}

// TestTransitAge ensures that the age of a frame is what it took beyond the usual, over drifting clocks,
// changes of the window and a stop of either side.
func TestTransitAge(t *testing.T) {
	const way = 3 * time.Millisecond
	var tr transit
	sent := 17 * time.Hour // the other clock
	received := time.Duration(0)
	step := func(apart, late time.Duration) time.Duration {
		sent += apart
		received += apart
		return tr.age(sent, received+way+late)
	}
	step(0, 0)
	for i := range 400 {
		sent += 5 * time.Microsecond // it runs faster
		if age := step(500*time.Millisecond, 0); age > 10*time.Millisecond {
			t.Fatalf("frame %d is taken to be %v old", i, age)
		}
	}
	if age := step(100*time.Millisecond, 40*time.Millisecond); age < 39*time.Millisecond || age > 50*time.Millisecond {
		t.Errorf("a frame that took 40 ms more is taken to be %v old", age)
	}
	// The receiver is stopped for 20 s, over the end of a window: all that came in meanwhile is late.
	for i := range 40 {
		late := 20*time.Second - time.Duration(i)*500*time.Millisecond
		sent += 500 * time.Millisecond
		received += 500 * time.Millisecond
		if age := tr.age(sent, received+late+way); age < late-10*time.Millisecond || age > late+20*time.Millisecond {
			t.Fatalf("frame %d of the stop waited %v and is taken to be %v old", i, late, age)
		}
	}
}
