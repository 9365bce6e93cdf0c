package fsm

import (
	"math/rand/v2"
	"testing"
)

// TestIndexOfLikeHashes ensures that an index finds all that is in it, and nothing else, while entries come and go, also where
// their hashes have so much in common that to part tables does not help: they grow then, and at last are parted no more.
func TestIndexOfLikeHashes(t *testing.T) {
	const few = partCells + partCells/4
	spread := func(n uint32) uint32 { return n * 0x9E3779B1 >> (32 - hashBits) }
	for name, tt := range map[string]struct {
		most  int // entries
		hash  func(n uint32) uint32
		depth uint8 // of the deepest table
	}{
		"all differ":           {few, spread, 1},
		"one bit in common":    {few, func(n uint32) uint32 { return spread(n) &^ 1 }, 2},
		"half like each other": {4 * few, func(n uint32) uint32 { return spread(n) &^ (n & 1 * 7) }, 4},
		"a tenth is alike":     {few, func(n uint32) uint32 { return spread(n) * min(n%10, 1) }, 1},
		"more than tells them": {150_000, func(n uint32) uint32 { return spread(n)&^(1<<maxDepth-1) | 0xbeef }, maxDepth},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && tt.most > few {
				t.Skip("long under the race detector")
			}
			most := tt.most
			var x index
			var refs []ref
			deepest := uint8(0)
			at := func(r ref) address { return address(r) * 0x9E3779B1 & (1<<addressBits - 1) }
			check := func() {
				t.Helper()
				found := 0
				x.eachTable(func(tb *table, common uint32, depth uint8) bool {
					deepest = max(deepest, depth)
					n := uint32(0)
					for i, c := range tb.cells {
						if c.ref == 0 {
							continue
						}
						n++
						if hash := tt.hash(uint32(c.ref)); c != newCell(hash, at(c.ref), c.ref) || hash&(1<<depth-1) != common || x.tableOf(hash) != tb {
							t.Fatalf("%x at %x of %d in the table of %x, depth %d", c.hash(), c.block(), c.ref, common, depth)
						}
						for j := tb.home(c.hash()); j != uint32(i); j = tb.after(j) {
							if tb.cells[j].ref == 0 {
								t.Fatalf("%d can't be reached", c.ref)
							}
						}
					}
					if n != tb.n || int(n) >= max(1, len(tb.cells)) {
						t.Fatalf("%d entries, counted as %d, in %d cells", n, tb.n, len(tb.cells))
					}
					found += int(n)
					return true
				})
				parts := 0
				for part := range uint32(8) {
					x.each(3, part, func(c cell) bool {
						if c.hash()&7 != part {
							t.Fatalf("hash %x in part %d of 8", c.hash(), part)
						}
						parts++
						return true
					})
				}
				if found != len(refs) || parts != len(refs) {
					t.Fatalf("%d entries, %d by parts, want %d", found, parts, len(refs))
				}
			}
			rng := rand.New(rand.NewPCG(1, 2))
			next := ref(0)
			for _, want := range []int{most, most / 2, most, joinBelow + 1, joinBelow - 1, most / 8, 1, 0, 100} {
				for len(refs) < want {
					next++
					x.add(newCell(tt.hash(uint32(next)), at(next), next))
					refs = append(refs, next)
				}
				if want == most {
					check()
				}
				for len(refs) > want {
					i, last := rng.IntN(len(refs)), len(refs)-1
					r := refs[i]
					refs[i], refs = refs[last], refs[:last]
					x.drop(tt.hash(uint32(r)), r, uint32(last))
				}
				check()
			}
			if deepest < tt.depth || deepest > maxDepth {
				t.Errorf("tables were parted to depth %d at most, want %d", deepest, tt.depth)
			}
			if x.parts != nil {
				t.Error("a few entries lie in several tables")
			}
		})
	}
}
