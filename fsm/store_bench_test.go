package fsm

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// benchStore returns a store of n entries with keys of 16 bytes and values of 128, keyed 0 to n-1.
func benchStore(n int) *store {
	s := newStore(Slot)
	s.own(Range{0, Slots})
	for i := range n {
		benchSet(s, uint64(i), uint64(i+1))
	}
	return s
}

var benchValue = make([]byte, 128)

func benchKey(key *[16]byte, i uint64) (slot uint16, hash uint32) {
	binary.BigEndian.PutUint64(key[:], i)
	binary.BigEndian.PutUint64(key[8:], i*0x9E3779B97F4A7C15)
	return Slot(key[:]), keyHash(key[:], 0)
}

func benchSet(s *store, i, stamp uint64) {
	var key [16]byte
	slot, hash := benchKey(&key, i)
	r := s.find(slot, hash, key[:])
	s.set(r, slot, hash, key[:], nil, benchValue, nil, stamp, 0, stamp)
}

// BenchmarkStore measures a store's operations. Keys are drawn at random from all that are stored, so that
// at 5M entries hardly anything is in the processor's caches.
func BenchmarkStore(b *testing.B) {
	for _, n := range []int{1_000_000, 5_000_000} {
		before := heapAfter()
		s := benchStore(n)
		name := fmt.Sprintf("%dM", n/1_000_000)
		next, stamp := uint64(n), uint64(n)
		rng := rand.New(rand.NewPCG(1, 2))
		stored := func() uint64 { return next - 1 - rng.Uint64N(uint64(n)) }
		b.Run("Heap"+name, func(b *testing.B) {
			for b.Loop() {
			}
			b.ReportMetric(float64(heapAfter()-before-int64(s.payload()))/float64(n), "overhead-B/entry")
			m := s.memory()
			b.ReportMetric(float64(m.total()-s.payload())/float64(n), "reported-B/entry")
		})
		b.Run("Find"+name, func(b *testing.B) {
			var sum int
			var key [16]byte
			for b.Loop() {
				slot, hash := benchKey(&key, stored())
				r := s.find(slot, hash, key[:])
				if r == 0 {
					b.Fatal("not found")
				}
				sum += int(s.at(r).value[100])
			}
		})
		b.Run("Touch"+name, func(b *testing.B) {
			var key [16]byte
			for b.Loop() {
				slot, hash := benchKey(&key, stored())
				stamp++
				s.touch(s.findTouch(touchOf(slot, hash)), slot, stamp)
			}
		})
		// The touches above have left the order at random, so that what is evicted leaves holes everywhere,
		// as long as there are entries of before.
		evict := func(b *testing.B) {
			for b.Loop() {
				benchSet(s, next, stamp+1)
				next++
				stamp++
				s.remove(s.oldest())
			}
		}
		b.Run("SetEvictScattered"+name, evict)
		b.Run("Memory"+name, func(b *testing.B) {
			for b.Loop() {
			}
			m := s.memory()
			b.ReportMetric(float64(m.total()-s.payload())/float64(n), "scattered-B/entry")
		})
		b.Run("SetOver"+name, func(b *testing.B) {
			for b.Loop() {
				i := next - 1 - rng.Uint64N(uint64(min(n, 1000)))
				stamp++
				benchSet(s, i, stamp)
			}
		})
		for range n { // in order again
			benchSet(s, next, stamp+1)
			next++
			stamp++
			s.remove(s.oldest())
		}
		b.Run("SetEvict"+name, evict)
		b.Run("View"+name, func(b *testing.B) {
			for b.Loop() {
				s.view()
			}
		})
		b.Run("SetEvictViewed"+name, func(b *testing.B) {
			v := s.view()
			evict(b)
			runtime.KeepAlive(v)
		})
		runtime.KeepAlive(s)
		s = nil
	}
}

// BenchmarkStoreStall measures how long single operations take on 5M entries, in a mix of everything that
// moves entries about.
func BenchmarkStoreStall(b *testing.B) {
	const n = 5_000_000
	for _, gc := range []string{"off", "on"} {
		b.Run("gc="+gc, func(b *testing.B) {
			s := benchStore(n)
			runtime.GC()
			if gc == "off" {
				defer debug.SetGCPercent(debug.SetGCPercent(-1))
			}
			rng := rand.New(rand.NewPCG(1, 2))
			next, stamp := uint64(n), uint64(n)
			var took []time.Duration
			timed := func(f func()) {
				start := time.Now()
				f()
				took = append(took, time.Since(start))
			}
			i := 0
			for b.Loop() {
				if i++; i%200_000 == 0 {
					timed(func() { s.view() })
				}
				stamp++
				switch next++; i % 3 {
				case 0:
					var key [16]byte
					slot, hash := benchKey(&key, next-rng.Uint64N(n))
					if r := s.find(slot, hash, key[:]); r != 0 {
						timed(func() { s.remove(r) })
					}
				default:
					timed(func() { benchSet(s, next, stamp) })
				}
				if s.len() > n {
					timed(func() { s.remove(s.oldest()) })
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*9999/10000].Nanoseconds()), "p99.99-ns")
			b.ReportMetric(float64(took[len(took)-1].Nanoseconds()), "max-ns")
		})
	}
}
