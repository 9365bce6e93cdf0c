package fsm

// Sizing tells which reads that missed would have hit, had the machine more memory.
//
// With a LRU order, a machine with more memory holds all that this one holds, and beyond that what this one
// evicted last, newest first, as far as the memory goes: one stack serves all sizes (Mattson et al., 1970).
// The machine is the upper part of the stack, exactly; Sizing keeps the part below, from evictions, divided
// at the sizes of Extra. As evictions are replicated, so is this, and a new leader knows as much as the one
// before it.
//
// It keeps a sample of the keys, chosen by hash (SHARDS, Waldspurger et al., FAST 2015): 1 in 2^shift. When the
// sample outgrows its bound, the shift rises and half of it is dropped; when it is far below, the shift falls.
// A read of a key in the sample stands for 2^shift reads. How often the machine hits is known from all reads
// and not estimated, so the hottest keys, on which a sample is at its worst, don't matter here.
//
// Not safe for concurrent use, but any number of calls of Look may run beside each other: the lock of the
// machine is enough.
type Sizing struct {
	shift uint            // a key is in the sample by 1 in 2^shift
	index map[Touch]int32 // places in nodes
	nodes []sizingNode    // 0 is none, then the heads of the layers, then entries
	free  int32           // unused nodes, a list by next
	layer [Extras]uint64  // bytes of the sampled entries that one size holds beyond the size before it

	limit, bytes uint64 // of the machine, and of the entries in it
}

// Extras is how many larger sizes a Sizing looks at.
const Extras = 3

// extraQuarters is the additional memory of each size, in quarters of the limit.
var extraQuarters = [Extras]uint64{1, 2, 4}

const (
	maxSample = 8192
	minSample = 1024
	// sampleShare bounds the sample of a small machine: an entry for so many bytes of its limit.
	sampleShare = 4096
	// maxShift leaves some keys in a sample of any size.
	maxShift = 32
)

// sizingNode is an evicted entry, or the head of a layer, which is a ring.
type sizingNode struct {
	key        Touch
	cost       uint64
	expireAt   uint64 // log clock; 0: never
	prev, next int32  // towards the newest, towards the oldest
	layer      int8
}

// Fit tells the machine's limit and what its entries cost, in bytes. To be called after each log entry.
func (s *Sizing) Fit(limit, bytes uint64) {
	s.limit, s.bytes = limit, bytes
	if len(s.index) > 0 {
		s.trim()
	}
}

// Clear forgets all.
func (s *Sizing) Clear() { *s = Sizing{limit: s.limit, bytes: s.bytes} }

// bound is how many entries the sample may have.
func (s *Sizing) bound() int { return int(max(minSample, min(s.limit/sampleShare, maxSample))) }

// sampled reports whether key is in the sample. It looks at other bits than the place of a ghost depends on.
func (s *Sizing) sampled(key Touch) bool { return key.mix()<<(64-s.shift)>>(64-s.shift) == 0 }

// Stored hears that the machine holds key, as all sizes do then.
func (s *Sizing) Stored(key Touch) {
	if s.sampled(key) {
		s.drop(s.index[key])
	}
}

// Removed hears why the machine holds key no more. expireAt is when the entry expires, 0 for never.
func (s *Sizing) Removed(key Touch, cost uint64, why Reason, expireAt uint64) {
	if !s.sampled(key) {
		return
	}
	s.drop(s.index[key])
	if why != ReasonEvicted {
		return
	}
	if s.index == nil {
		s.index = make(map[Touch]int32)
		s.nodes = make([]sizingNode, 1+Extras)
		for i := range s.layer {
			s.nodes[head(i)] = sizingNode{prev: head(i), next: head(i)}
		}
	}
	n := s.free
	if n != 0 {
		s.free = s.nodes[n].next
	} else {
		n = int32(len(s.nodes))
		s.nodes = append(s.nodes, sizingNode{})
	}
	s.nodes[n] = sizingNode{key: key, cost: cost, expireAt: expireAt}
	s.index[key] = n
	s.link(n, 0)
	if len(s.index) > s.bound() {
		s.halve()
	}
}

// Look returns the smallest of the larger sizes whose machine would hold key, which this one doesn't at
// the time now, and how many reads the read of it stands for. weight 0: the key is not in the sample, the
// read counts for nothing; size = Extras: no size looked at would hold it.
func (s *Sizing) Look(key Touch, now uint64) (size int, weight uint64) {
	if weight = s.Weight(key); weight == 0 {
		return Extras, 0
	}
	n := s.index[key]
	if n == 0 || s.nodes[n].expireAt != 0 && s.nodes[n].expireAt <= now {
		return Extras, weight
	}
	return int(s.nodes[n].layer), weight
}

// Weight returns how many reads a read of key stands for; 0: key is not in the sample.
func (s *Sizing) Weight(key Touch) uint64 {
	if !s.sampled(key) {
		return 0
	}
	return 1 << s.shift
}

// Samples is how many evicted entries are known.
func (s *Sizing) Samples() int { return len(s.index) }

// head is the node that the ring of a layer begins and ends at.
func head(layer int) int32 { return int32(1 + layer) }

// link makes node n the newest of a layer.
func (s *Sizing) link(n int32, layer int) {
	h := head(layer)
	node := &s.nodes[n]
	node.layer = int8(layer)
	node.prev, node.next = h, s.nodes[h].next
	s.nodes[node.next].prev, s.nodes[h].next = n, n
	s.layer[layer] += node.cost
}

func (s *Sizing) unlink(n int32) {
	node := &s.nodes[n]
	s.nodes[node.prev].next, s.nodes[node.next].prev = node.next, node.prev
	s.layer[node.layer] -= node.cost
}

// drop forgets node n; 0 is none.
func (s *Sizing) drop(n int32) {
	if n == 0 {
		return
	}
	s.unlink(n)
	delete(s.index, s.nodes[n].key)
	s.nodes[n] = sizingNode{next: s.free}
	s.free = n
}

// trim moves the oldest entries of each size on to the next, as far as they don't fit.
func (s *Sizing) trim() {
	sum := uint64(0)
	fell := false
	for i := range s.layer {
		room := s.room(i)
		for sum+s.layer[i] > room {
			oldest := s.nodes[head(i)].prev
			if oldest == head(i) {
				break
			}
			if i == Extras-1 {
				s.drop(oldest)
				fell = true
				continue
			}
			s.unlink(oldest)
			s.link(oldest, i+1)
		}
		sum += s.layer[i]
	}
	// Entries leave at the old end, so the sample is as large as it gets at this rate.
	if fell && s.shift > 0 && len(s.index) < s.bound()/8 {
		s.shift--
	}
}

// room is what size i holds beyond the machine's entries, in bytes of the sample.
func (s *Sizing) room(i int) uint64 {
	hi := s.limit + s.limit/4*extraQuarters[i]
	if hi < s.bytes {
		return 0
	}
	return (hi - s.bytes) >> s.shift
}

// halve drops what is not in a sample of half the rate.
func (s *Sizing) halve() {
	if s.shift == maxShift {
		return
	}
	s.shift++
	for i := head(Extras); i < int32(len(s.nodes)); i++ {
		if n := &s.nodes[i]; n.cost != 0 && !s.sampled(n.key) {
			s.drop(i)
		}
	}
}
