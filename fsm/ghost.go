package fsm

import "math/bits"

// Ghosts remembers, for a bounded number of keys that are gone, why. It stands beside a machine and is
// told of entries as an [Observer] is; what it answers is a hint, never a promise: it may have forgotten,
// and two keys may share a Touch.
//
// The memory is pages, which come as ghosts do and are never more than Fit allows. A page is sets of ways,
// newest first, so that a look costs one cache line and the oldest of a full set goes first:
//
//	touch --mix--> 38 bits:  [ tag, 30 bits: its low bits choose the page ][ set, 8 bits ]
//	a way, 4 bytes:          [ tag, 30 bits                      ][ reason, 2 ]   0: empty
//
// Pages are added one at a time by linear hashing: page n splits page n - 2^k, which is small, constant
// work, so that no log entry has to wait for a table to double.
//
// Not safe for concurrent use, but any number of calls of Why may run beside each other: the lock of the
// machine is enough.
type Ghosts struct {
	pages []*ghostPage
	count int // ways in use
	limit int // pages
}

const (
	ghostSetBits = 8
	ghostTagBits = 30
	ghostWays    = 16
	// ghostPageBytes is what a page takes.
	ghostPageBytes = ghostWays * 4 << ghostSetBits
	// ghostFill is how many ghosts the pages are to hold each before another is added. A page that waits
	// for its split holds up to twice as many, and few of its sets are full then.
	ghostFill = ghostWays << ghostSetBits * 3 / 8
	// ghostShare is the part of the machine's limit that ghosts may take.
	ghostShare = 32
)

type (
	ghostSet  [ghostWays]uint32
	ghostPage [1 << ghostSetBits]ghostSet
)

// Fit bounds the memory to a part of the limit of the machine. A page is always allowed. Ghosts that don't
// fit a lowered limit are forgotten, all of them.
func (g *Ghosts) Fit(limit uint64) {
	pages := max(1, min(limit/ghostShare/ghostPageBytes, 1<<(ghostTagBits-1)))
	g.limit = 1 << (bits.Len64(pages) - 1) // at a power of two all sets remember equally long
	if len(g.pages) > g.limit {
		g.Clear()
	}
}

// Clear forgets all.
func (g *Ghosts) Clear() { g.pages, g.count = nil, 0 }

// Stored forgets why key was gone.
func (g *Ghosts) Stored(key Touch) {
	if len(g.pages) == 0 {
		return
	}
	set, tag := g.find(key)
	if i := set.find(tag); i >= 0 {
		copy(set[i:], set[i+1:])
		set[ghostWays-1] = 0
		g.count--
	}
}

// Removed remembers why key is gone.
func (g *Ghosts) Removed(key Touch, why Reason) {
	if len(g.pages) == 0 {
		g.pages = append(g.pages, new(ghostPage))
	}
	set, tag := g.find(key)
	i := set.find(tag)
	if i < 0 {
		if i = ghostWays - 1; set[i] == 0 {
			g.count++
		}
	}
	copy(set[1:i+1], set[:i])
	set[0] = tag<<2 | uint32(why)
	if g.count > len(g.pages)*ghostFill && len(g.pages) < g.limit {
		g.split()
	}
}

// Why returns why there is no entry of key; 0: it never was there, or that is forgotten.
func (g *Ghosts) Why(key Touch) Reason {
	if len(g.pages) == 0 {
		return 0
	}
	set, tag := g.find(key)
	if i := set.find(tag); i >= 0 {
		return Reason(set[i] & 3)
	}
	return 0
}

// Bytes is the memory that the ghosts take.
func (g *Ghosts) Bytes() uint64 { return uint64(len(g.pages)) * ghostPageBytes }

// find returns the way that holds tag, -1 for none.
func (s *ghostSet) find(tag uint32) int {
	for i, way := range s {
		if way>>2 == tag && way != 0 {
			return i
		}
		if way == 0 {
			break
		}
	}
	return -1
}

// find returns where key belongs.
func (g *Ghosts) find(key Touch) (set *ghostSet, tag uint32) {
	h := key.mix() >> (64 - ghostSetBits - ghostTagBits)
	tag = uint32(h >> ghostSetBits)
	return &g.pages[g.page(tag)][h&(1<<ghostSetBits-1)], tag
}

// page returns the number of the page that tag belongs to: its low bits, one fewer where the page that
// they name is not there yet.
func (g *Ghosts) page(tag uint32) int {
	size := 1 << bits.Len(uint(len(g.pages)-1)) // the lowest power of two that is not below the number of pages
	if p := int(tag) & (size - 1); p < len(g.pages) {
		return p
	}
	return int(tag) & (size/2 - 1)
}

// split adds a page and moves there what belongs there.
func (g *Ghosts) split() {
	added := len(g.pages)
	half := 1 << (bits.Len(uint(added)) - 1) // the highest power of two that is not above added
	g.pages = append(g.pages, new(ghostPage))
	from, to := g.pages[added-half], g.pages[added]
	for s := range from {
		old := from[s]
		from[s] = ghostSet{}
		var stay, move int
		for _, way := range old {
			switch {
			case way == 0:
			case int(way>>2)&half != 0:
				to[s][move] = way
				move++
			default:
				from[s][stay] = way
				stay++
			}
		}
	}
}

// mix spreads the bits of t over 64, the high ones best.
func (t Touch) mix() uint64 {
	x := uint64(t) * 0x9e3779b97f4a7c15
	x ^= x >> 32
	return x * 0xd6e8feb86659fd93
}
