package fsm

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// ghostKey is the n-th of many keys.
// unseeded returns the touch of key in a machine without a seed.
func unseeded(key []byte) Touch { return touchOf(Slot(key), keyHash(key, 0)) }

func ghostKey(n int) Touch { return unseeded(binary.BigEndian.AppendUint64(nil, uint64(n))) }

// TestGhostsModel ensures that as long as there is room, Ghosts answers what a map would, across growth.
func TestGhostsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g Ghosts
		g.Fit(1 << 30)
		want := map[Touch]Reason{}
		keys := rapid.SampledFrom([]int{10, 300, 5000}).Draw(t, "keys")
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			key := ghostKey(rapid.IntRange(0, keys).Draw(t, "key"))
			if rapid.IntRange(0, 2).Draw(t, "op") == 0 {
				g.Stored(key)
				delete(want, key)
			} else {
				want[key] = Reason(rapid.IntRange(1, 3).Draw(t, "why"))
				g.Removed(key, want[key])
			}
			if rapid.IntRange(0, 20).Draw(t, "grow") == 0 && len(g.pages) > 0 && len(g.pages) < 20 {
				g.split()
			}
		}
		for n := range keys + 1 {
			if key := ghostKey(n); g.Why(key) != want[key] {
				t.Fatalf("key %d: gone for %d, want %d", n, g.Why(key), want[key])
			}
		}
		if g.count != len(want) {
			t.Errorf("counts %d, has %d", g.count, len(want))
		}
	})
}

// TestGhostsGrow ensures that memory comes with use, that growth loses hardly anything, and that all is given
// back.
func TestGhostsGrow(t *testing.T) {
	var g Ghosts
	g.Fit(1 << 30)
	if g.Why(1) != 0 || g.Bytes() != 0 {
		t.Fatalf("new: key gone for %d, %d bytes", g.Why(1), g.Bytes())
	}
	const n = 300_000
	for i := range n {
		g.Removed(ghostKey(i), Reason(1+i%3))
		if most := uint64(16<<10 + 16*i); g.Bytes() > most {
			t.Fatalf("%d bytes for %d ghosts", g.Bytes(), i+1)
		}
	}
	forgotten := 0
	for i := range n {
		switch g.Why(ghostKey(i)) {
		case Reason(1 + i%3):
		case 0:
			forgotten++
		default:
			t.Fatalf("key %d: gone for %d", i, g.Why(ghostKey(i)))
		}
	}
	if forgotten > n/100 {
		t.Errorf("%d of %d forgotten", forgotten, n)
	}
	wrong := 0
	for i := range n {
		if g.Why(ghostKey(n+i)) != 0 {
			wrong++
		}
	}
	if wrong > 10 {
		t.Errorf("%d of %d keys taken for others", wrong, n)
	}
	g.Fit(1 << 20)
	if g.Bytes() != 0 || g.Why(ghostKey(n-1)) != 0 {
		t.Errorf("after the limit fell: %d bytes", g.Bytes())
	}
	g.Removed(ghostKey(0), ReasonExpired)
	if g.Why(ghostKey(0)) != ReasonExpired {
		t.Error("forgets all after the limit fell")
	}
}

// TestGhostsFull ensures that the memory stays within its share of the limit, and that the oldest ghosts go
// first.
func TestGhostsFull(t *testing.T) {
	for _, limit := range []uint64{0, 1 << 20, 3 << 20, 10 << 20} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			var g Ghosts
			g.Fit(limit)
			most := max(limit/32, ghostPageBytes)
			const n = 500_000
			for i := range n {
				g.Removed(ghostKey(i), ReasonEvicted)
				if g.Bytes() > most {
					t.Fatalf("%d bytes, %d are allowed", g.Bytes(), most)
				}
			}
			if g.Bytes() <= most/2 {
				t.Errorf("%d bytes used of %d", g.Bytes(), most)
			}
			known := func(from, to int) (part float64) {
				for i := from; i < to; i++ {
					if g.Why(ghostKey(n-1-i)) != 0 {
						part++
					}
				}
				return part / float64(to-from)
			}
			ways := int(g.Bytes() / 4)
			if p := known(0, ways/2); p < .97 {
				t.Errorf("knows %.3f of the newest half of what it has room for", p)
			}
			if p := known(3*ways, 6*ways); p > .01 {
				t.Errorf("knows %.3f of what is three times as old as it has room for", p)
			}
		})
	}
}

// TestLookupExpired ensures that an entry that is over and still takes room is told apart from none, until it
// is removed.
func TestLookupExpired(t *testing.T) {
	d := granted(t, 1<<20)
	for i := range MaxReclaim + 1 {
		d.at(1000, putTTL(fmt.Sprint(i), 1000))
	}
	last := fmt.Append(nil, MaxReclaim)
	for i, want := range []struct{ found, expired bool }{{true, false}, {false, true}, {false, false}} {
		d.at([]uint64{1999, 2000, 2000}[i])
		if l := d.Lookup(last); l.Found != want.found || l.Expired != want.expired {
			t.Errorf("look %d: found %t, expired %t, want %+v", i, l.Found, l.Expired, want)
		}
	}
	if l := d.Lookup([]byte("x")); l.Found || l.Expired {
		t.Errorf("never there: %+v", l)
	}
}

// BenchmarkGhosts shows what a look and a change cost, in a memory that fits the processor's caches and in
// one that doesn't.
func BenchmarkGhosts(b *testing.B) {
	for _, n := range []int{1 << 12, 1 << 20} {
		keys, absent := make([]Touch, n), make([]Touch, n)
		var g Ghosts
		g.Fit(1 << 30)
		for i, at := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
			keys[i], absent[i] = ghostKey(at), ghostKey(n+at)
			g.Removed(ghostKey(i), ReasonEvicted)
		}
		b.Run(fmt.Sprintf("Why/%d", n), func(b *testing.B) {
			for i := range b.N {
				g.Why(keys[i%n])
			}
		})
		b.Run(fmt.Sprintf("StoredAbsent/%d", n), func(b *testing.B) {
			for i := range b.N {
				g.Stored(absent[i%n])
			}
		})
		b.Run(fmt.Sprintf("StoredRemoved/%d", n), func(b *testing.B) {
			for i := range b.N {
				g.Stored(keys[i%n])
				g.Removed(keys[i%n], ReasonEvicted)
			}
		})
	}
}
