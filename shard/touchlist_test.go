package shard

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/fsm"
)

func listOf(keys ...fsm.Touch) (l touchList) {
	for _, k := range keys {
		l.push(k)
	}
	return l
}

// collector returns touches with a monotonic clock that the test moves.
func collector() (t *touches, clock *time.Duration) {
	clock = new(time.Duration)
	interval := new(atomic.Int64)
	interval.Store(int64(time.Hour)) // longer than a test
	return newTouches(func() time.Duration { return *clock }, interval), clock
}

// TestTouchList ensures that a list holds each touch once, in the order of last use, however it grows,
// shrinks and is used again.
func TestTouchList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l touchList
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			var want []fsm.Touch
			n := rapid.SampledFrom([]int{0, 5, 300, 3000}).Draw(t, "uses")
			r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
			distinct := 1 + r.IntN(max(n, 1))
			last := map[fsm.Touch]int{}
			for i := range n {
				// Spread over all 40 bits, zero included.
				k := fsm.Touch(r.IntN(distinct)) * 0xD1B54A32D192ED03 & (1<<40 - 1)
				if _, there := last[k]; l.renew(k) != there {
					t.Fatalf("renew of %x: there %v", k, there)
				} else if !there {
					l.push(k)
				}
				last[k] = i
			}
			for k := range last {
				want = append(want, k)
			}
			slices.SortFunc(want, func(a, b fsm.Touch) int { return last[a] - last[b] })
			if got := slices.Collect(l.all()); !slices.Equal(got, want) || l.len() != len(want) {
				t.Fatalf("%d touches in another order than %d", l.len(), len(want))
			}
			l.clear()
			if l.len() != 0 || len(slices.Collect(l.all())) != 0 {
				t.Fatal("not empty after clear")
			}
		}
	})
}

// TestTouchListGivesRoomBack ensures that a list which was large once does not stay so.
func TestTouchListGivesRoomBack(t *testing.T) {
	var l touchList
	for k := range fsm.Touch(maxTouches) {
		l.push(k)
	}
	large := len(l.index)
	for range 20 {
		l.clear()
		l.push(1)
	}
	if large < 2*maxTouches || len(l.index) > minTouchIndex || cap(l.nodes) > minTouchIndex {
		t.Errorf("an index of %d places, and %d after little use", large, len(l.index))
	}
}

// TestTouchBudget ensures that touches take the share of the log that they may: a full buffer, then what
// clients' commands and time allow, and that time which was not used gives no more than a buffer.
func TestTouchBudget(t *testing.T) {
	c, clock := collector()
	next := fsm.Touch(0)
	// gather adds distinct touches until one is dropped, and takes them out.
	gather := func() (n int) {
		before := c.stats().Dropped
		for c.stats().Dropped == before {
			c.add(next)
			next++
		}
		list := c.take()
		n = list.len()
		c.reuse(list)
		return n
	}
	if n := gather(); n != maxTouches {
		t.Errorf("at first %d, not %d", n, maxTouches)
	}
	if n := gather(); n != 0 {
		t.Errorf("%d beyond the budget", n)
	}
	*clock += 10 * time.Millisecond
	if n, want := gather(), touchRate/100/touchBytes; n != want {
		t.Errorf("%d after 10 ms, want %d", n, want)
	}
	c.credit(4000)
	if n, want := gather(), 4000/touchShare/touchBytes; n != want {
		t.Errorf("%d with 4000 bytes of commands, want %d", n, want)
	}
	*clock += time.Hour
	if a, b := gather(), gather(); a != maxTouches || b != 0 {
		t.Errorf("%d and %d after an hour", a, b)
	}
	c.credit(1 << 30)
	if a, b := gather(), gather(); a != maxTouches || b != 0 {
		t.Errorf("%d and %d with a gigabyte of commands", a, b)
	}
	n := 0
	for range 1000 { // many a little make no less than one large
		*clock += 10 * time.Microsecond
		n += gather()
	}
	if want := touchRate / 100 / touchBytes; n < want-1 || n > want+1 {
		t.Errorf("%d after 1000 times 10 µs, want %d", n, want)
	}
}

// TestTouchOverflow ensures that a full buffer drops and counts new touches, still renews those that it
// holds, and that the counts add up, with many who add at once.
func TestTouchOverflow(t *testing.T) {
	c, _ := collector()
	const each, workers = 10_000, 8
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for k := range each {
				c.add(fsm.Touch(w*each/2 + k)) // half of them are the next one's too
			}
		})
	}
	wg.Wait()
	s := c.stats()
	if s.Collected != maxTouches || s.Dropped == 0 || s.Collected+s.Deduplicated+s.Dropped != each*workers {
		t.Errorf("%+v", s)
	}
	list := c.take()
	oldest := slices.Collect(list.all())[0]
	c.list = list
	c.add(oldest)
	if after := c.stats(); after.Deduplicated != s.Deduplicated+1 {
		t.Errorf("a touch that is there was not renewed: %+v", after)
	}
	keys := slices.Collect(c.list.all())
	if keys[len(keys)-1] != oldest {
		t.Error("a renewed touch is not the last")
	}
	c.discard()
	if after := c.stats(); after.Dropped != s.Dropped+maxTouches {
		t.Errorf("what was discarded was not counted: %+v", after)
	}
}

// TestTouchTimer ensures that the timer runs while something is gathered, and at no other time.
func TestTouchTimer(t *testing.T) {
	c, _ := collector()
	runs := func() bool {
		was := c.due.Stop()
		if was {
			c.due.Reset(time.Hour)
		}
		return was
	}
	if runs() {
		t.Error("it runs before anything is gathered")
	}
	for range 3 {
		c.add(1)
		c.add(2)
		if !runs() {
			t.Error("it does not run although something is gathered")
		}
		list := c.take()
		if runs() {
			t.Error("it runs after all was taken")
		}
		c.reuse(list)
	}
	c.add(1)
	c.discard()
	if runs() {
		t.Error("it runs after all was discarded")
	}
}

// TestTouchAllocatesNothing ensures that in the steady state adding touches, and giving them out, allocates
// nothing.
func TestTouchAllocatesNothing(t *testing.T) {
	c, clock := collector()
	cycle := func() {
		for k := range fsm.Touch(3000) {
			c.add(k % 2000 * 0x9E3779B9)
		}
		*clock += time.Second
		list := c.take()
		if list.len() != 2000 {
			t.Fatalf("%d touches", list.len())
		}
		c.reuse(list)
	}
	cycle()
	cycle() // both lists have their room now
	if n := testing.AllocsPerRun(20, cycle); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkTouch measures what a read pays for its touch: Zipf-like keys, taken out after each thousand.
func BenchmarkTouch(b *testing.B) {
	keys := make([]fsm.Touch, 1<<16)
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.01, 1, 1<<20)
	for i := range keys {
		keys[i] = fsm.New().TouchOf([]byte{byte(zipf.Uint64() >> 8), byte(zipf.Uint64())})
	}
	began := time.Now()
	interval := new(atomic.Int64)
	interval.Store(int64(100 * time.Millisecond))
	fresh := func() *touches { return newTouches(func() time.Duration { return time.Since(began) }, interval) }
	step := func(c *touches, i int) {
		c.add(keys[i&(len(keys)-1)])
		if i%1000 == 999 {
			c.credit(maxTouches * touchBytes * touchShare)
			c.reuse(c.take())
		}
	}
	b.Run("sequential", func(b *testing.B) {
		c := fresh()
		b.ReportAllocs()
		for i := range b.N {
			step(c, i)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		c := fresh()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := rand.IntN(len(keys)); pb.Next(); i++ {
				c.add(keys[i&(len(keys)-1)])
			}
		})
	})
}
