package fsm

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// churn drives a store through more entries than a model could follow.
type churn struct {
	store *store
	rng   *rand.Rand
	clock uint64
	value []byte
	tag   string // in front of all keys, if any
}

func newChurn(seed uint64) *churn {
	c := &churn{store: newStore(Slot), rng: rand.New(rand.NewPCG(seed, 0)), value: make([]byte, 64<<10)}
	c.store.own(Range{0, Slots})
	return c
}

func (c *churn) key(i uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(c.tag), i*0x9E3779B97F4A7C15)
}

func (c *churn) set(i uint64, size int, expireAt uint64) {
	key := c.key(i)
	slot, hash := Slot(key), c.store.hash(key)
	c.clock++
	c.store.set(c.store.find(slot, hash, key), slot, hash, key, nil, c.value[:size], nil, c.clock, expireAt, c.clock)
}

// cost is what the store may hold by its promise, a constant apart.
func (c *churn) cost() uint64 { return c.store.payload() + Overhead*uint64(c.store.len()) }

// evict removes the oldest until the cost is at most limit.
func (c *churn) evict(limit uint64) {
	for c.cost() > limit {
		c.store.foresee()
		c.store.remove(c.store.oldest())
	}
}

// check ensures that memory is within 1.3 of the cost and a constant.
func (c *churn) check(t *testing.T, phase string) {
	t.Helper()
	const tables = Slots * 104
	m := c.store.memory()
	if rs := &c.store.records; rs.sparse() {
		t.Fatalf("%s: %d of %d records used", phase, rs.used, len(rs.pages)*pageLen)
	}
	if limit := c.cost()*13/10 + tables + 1<<20; m.total() > limit {
		t.Fatalf("%s: %d bytes for %d entries of %d, limit %d: %+v", phase, m.total(), c.store.len(), c.store.payload(), limit, m)
	}
}

// mixed draws a size as caches see them: most are small, most bytes are in large ones.
func (c *churn) mixed() int {
	return 1 << c.rng.IntN(13) * (64 + c.rng.IntN(64)) / 64
}

// TestStoreChurn ensures that memory follows what is stored, whichever way sizes change and entries come
// and go, and that the parts agree after it.
func TestStoreChurn(t *testing.T) {
	scale := 1
	if testing.Short() {
		scale = 4
	}
	limit, recent := uint64(24<<20/scale), uint64(100_000/scale)
	for _, tag := range []string{"", "{one slot}"} {
		t.Run("tag "+tag, func(t *testing.T) {
			c := newChurn(1)
			c.tag = tag
			next := uint64(0)
			phase := func(name string, bytes int, step func()) {
				done := 0
				for n := 0; done < bytes/scale; n++ {
					before := c.clock
					step()
					c.evict(limit)
					done += int(c.clock-before) * 128
					if n%1000 == 0 {
						c.check(t, name)
					}
				}
				c.check(t, name)
				checkStore(t, c.store)
				m := c.store.memory()
				t.Logf("%-22s %7d entries, %9d bytes, %.3f of cost: %+v", name, c.store.len(), c.store.payload(),
					float64(m.total())/float64(c.cost()), m)
			}
			fresh := func(size func() int) func() {
				return func() { next++; c.set(next, size(), 0) }
			}
			fixed := func(n int) func() int { return func() int { return n } }
			phase("tiny, new", 32<<20, fresh(fixed(8)))
			phase("4 KiB, new", 2<<20, fresh(fixed(4096)))
			phase("mixed, new", 8<<20, fresh(c.mixed))
			phase("mixed, replaced", 8<<20, func() { c.set(next-c.rng.Uint64N(uint64(c.store.len())), c.mixed(), 0) })
			phase("small, touched", 32<<20, func() {
				next++
				c.set(next, 100+c.rng.IntN(50), 0)
				for range 2 {
					key := c.key(next - c.rng.Uint64N(recent))
					if r := c.store.find(Slot(key), c.store.hash(key), key); r != 0 {
						c.clock++
						c.store.touch(r, c.store.slotOf(r), c.clock)
					}
				}
			})
			phase("removed at random", 16<<20, func() {
				c.clock++
				key := c.key(next - c.rng.Uint64N(recent+recent/2))
				if r := c.store.find(Slot(key), c.store.hash(key), key); r != 0 {
					c.store.remove(r)
				}
			})
			phase("expiring", 16<<20, func() {
				next++
				c.set(next, 30, 1+c.rng.Uint64N(1000))
				if r := c.store.firstToExpire(); c.rng.IntN(3) == 0 {
					c.store.remove(r)
				}
			})
			phase("lone, new", 1<<20, fresh(func() int { return 20_000 + c.rng.IntN(40_000) }))
			phase("tiny again", 32<<20, fresh(fixed(0)))
			for c.store.len() > 100 { // all but the newest 100
				c.store.remove(c.store.oldest())
			}
			c.check(t, "few left")
			checkStore(t, c.store)
			for c.store.len() > 0 {
				c.store.remove(c.store.oldest())
			}
			c.check(t, "none left")
			checkStore(t, c.store)
			if m := c.store.memory(); m.live != 0 || m.records > 3*9<<10 || m.due > 40<<10 {
				t.Errorf("an empty store holds %+v", m)
			}
		})
	}
}

// TestStoreCleansOnce ensures that entries which leave in an order of their own are copied less than once each on
// the way: cleaning puts those together that will leave together.
func TestStoreCleansOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("long under the race detector")
	}
	const n, size, every = 100_000, 100, 50
	c := newChurn(1)
	for i := range uint64(n) {
		c.set(i, size, 0)
	}
	where := map[ref]address{} // every 50th entry; no record moves while there are as many
	for i, key := range c.rng.Perm(n) {
		k := c.key(uint64(key))
		r := c.store.find(Slot(k), c.store.hash(k), k)
		c.clock++
		c.store.touch(r, c.store.slotOf(r), c.clock)
		if i%every == 0 {
			where[r] = c.store.records.read(r).block()
		}
	}
	copied := 0
	for i := range uint64(n) {
		c.store.foresee()
		oldest := c.store.oldest()
		delete(where, oldest)
		c.store.remove(oldest)
		c.set(n+i, size, 0)
		if i%500 == 0 {
			c.check(t, "mixed")
			for r, before := range where {
				if now := c.store.records.read(r).block(); now != before {
					copied++
					where[r] = now
				}
			}
		}
	}
	checkStore(t, c.store)
	t.Logf("%.2f copies of each", float64(copied)/(n/every))
	if copied >= n/every {
		t.Errorf("%d entries were copied %d times", n/every, copied)
	}
}

// TestStoreCleaningEnds ensures that cleaning comes to an end, after which an operation does nothing for it: beside large values
// that have segments of their own, which it never touches, and where most of what there was is gone.
func TestStoreCleaningEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("long under the race detector")
	}
	for name, tt := range map[string]struct{ lone, most, left int }{
		"large values":  {lone: 2400, most: 20_000, left: 20_000},
		"few are left":  {most: 10_000, left: 500},
		"some are left": {most: 10_000, left: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChurn(1)
			c.value = make([]byte, 130<<10)
			for i := range tt.lone {
				c.set(1<<40+uint64(i), len(c.value), 0)
			}
			var keys []uint64
			next := uint64(0)
			add := func() uint64 {
				next++
				c.set(next, 100, 0)
				return next
			}
			remove := func(i int) {
				key := c.key(keys[i])
				c.store.remove(c.store.find(Slot(key), c.store.hash(key), key))
			}
			replace := func() {
				i := c.rng.IntN(len(keys))
				remove(i)
				keys[i] = add()
			}
			for len(keys) < tt.most {
				keys = append(keys, add())
			}
			for range 3 * tt.most {
				replace()
			}
			for len(keys) > tt.left {
				i, last := c.rng.IntN(len(keys)), len(keys)-1
				remove(i)
				keys[i], keys = keys[last], keys[:last]
			}
			const steps = 20_000
			untidy := 0
			for range steps {
				replace()
				if c.store.arena.untidy() {
					untidy++
				}
			}
			checkStore(t, c.store)
			t.Logf("untidy after %d of %d", untidy, steps)
			if untidy > steps/2 {
				t.Errorf("untidy after %d of %d operations", untidy, steps)
			}
		})
	}
}

// TestStoreSegmentsGrow ensures that segments become as large as what lives asks for, also where a few small values came first
// and then none that fits into what those began: with a segment each, values would use up the numbers for them.
func TestStoreSegmentsGrow(t *testing.T) {
	for _, size := range []int{300, 5000} {
		c := newChurn(1)
		for i := range uint64(size / 10) {
			c.set(1<<40+i, 1, 0)
		}
		for i := range uint64(12<<20) / uint64(size) {
			c.set(i, size, 0)
		}
		checkStore(t, c.store)
		c.check(t, fmt.Sprint(size))
		// Half of a segment for new blocks is the least that was made lately; what came before that is little.
		a := &c.store.arena
		if most := int(2*a.live)/a.segmentSize(0) + 2*loneShare*newShare; len(a.segments) > most {
			t.Errorf("%d values of %d bytes lie in %d segments, want %d at most: %d bytes of %d are alone", c.store.len(), size, len(a.segments), most, a.lone, a.live)
		}
	}
}

// heapAfter returns the bytes of live heap.
func heapAfter() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestStoreMemory ensures that what a store says of its memory is what the heap says.
func TestStoreMemory(t *testing.T) {
	before := heapAfter()
	c := newChurn(2)
	for i := range uint64(200_000) {
		c.set(i, c.rng.IntN(300), i%3*c.rng.Uint64N(1000))
		if i%4 == 0 {
			c.set(i-c.rng.Uint64N(i+1), c.rng.IntN(300), 0)
		}
	}
	got, want := heapAfter()-before, int64(c.store.memory().total())
	if diff := got - want; diff < -want/50 || diff > want/50 {
		t.Errorf("heap grew by %d bytes, the store says %d: %+v", got, want, c.store.memory())
	}
	runtime.KeepAlive(c)
}

// TestStoreViewBeside ensures that a view can be walked over while the store goes on changing, and shows
// the same each time.
func TestStoreViewBeside(t *testing.T) {
	c := newChurn(3)
	for i := range uint64(20_000) {
		c.set(i, c.rng.IntN(200), i%2)
	}
	var wait sync.WaitGroup
	for round := range 5 {
		v := c.store.view()
		var summed slotSums
		for slot := range Slots {
			sums := v.sums(uint16(slot))
			summed.entries += sums.entries
			summed.payload += sums.payload
			summed.content = add128(summed.content, sums.content)
			summed.order = add128(summed.order, sums.order)
		}
		for range 2 {
			wait.Go(func() {
				for range 3 {
					var got slotSums
					if err := v.each(func(e entry) error {
						got.add(blockOf(e.key, e.contentType, e.value, nil), e.version, e.expireAt, e.stamp)
						return nil
					}); err != nil || got != summed {
						t.Errorf("round %d: %v, %+v, want %+v", round, err, got, summed)
					}
				}
			})
		}
		for i := range uint64(20_000) {
			switch i % 4 {
			case 0:
				c.set(uint64(round+1)*100_000+i, c.rng.IntN(200), i%3)
			case 1:
				c.store.remove(c.store.oldest())
			case 2:
				c.clock++
				c.store.touch(c.store.oldest(), c.store.slotOf(c.store.oldest()), c.clock)
			case 3:
				c.set(c.rng.Uint64N(20_000), 100, 0)
			}
		}
		if round == 3 {
			c.store.clear(c.clock)
			for i := range uint64(10_000) {
				c.set(i, 10, 1)
			}
		}
	}
	wait.Wait()
	checkStore(t, c.store)
}

// TestStoreReseedBesideView ensures, under the race detector, that hashes are made anew without a write to what a view sees.
func TestStoreReseedBesideView(t *testing.T) {
	c := newChurn(4)
	for i := range uint64(1000) {
		c.set(i, c.rng.IntN(200), i%2)
	}
	v := c.store.view()
	done := make(chan int)
	go func() {
		n := 0
		v.each(func(entry) error { n++; return nil })
		done <- n
	}()
	c.store.reseed(7)
	if n := <-done; n != 1000 {
		t.Errorf("the view shows %d entries", n)
	}
	checkStore(t, c.store)
}

// TestStoreTouchOfTwo ensures that a touch which names two keys finds the same one in stores that went
// different ways to the same entries.
func TestStoreTouchOfTwo(t *testing.T) {
	named := make(map[Touch]string)
	var one, two string
	for i := 0; two == ""; i++ {
		key := "{a}" + fmt.Sprint(i)
		if other, ok := named[unseeded([]byte(key))]; ok {
			one, two = other, key
		}
		named[unseeded([]byte(key))] = key
	}
	slot, touch := Slot([]byte(one)), unseeded([]byte(one))
	set := func(s *store, key string, stamp uint64) {
		k := []byte(key)
		s.set(s.find(slot, s.hash(k), k), slot, s.hash(k), k, nil, nil, nil, stamp, 0, stamp)
	}
	for _, order := range [][]string{{one, two}, {two, one}} {
		grown := newStore(Slot)
		grown.own(Range{0, Slots})
		for i, key := range []string{two, one, "{a}", two, one, "{a}x", order[0], order[1]} {
			set(grown, key, uint64(i+1))
		}
		restored := newStore(Slot)
		restored.own(Range{0, Slots})
		if err := grown.view().each(func(e entry) error { set(restored, string(e.key), e.stamp); return nil }); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*store{grown, restored} {
			if r := s.findTouch(touch); r == 0 || string(s.at(r).key) != order[1] {
				t.Errorf("a touch of %q and %q finds %d, want the latter", order[0], order[1], r)
			}
		}
	}
}
