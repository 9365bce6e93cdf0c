package fsm

// dueChunk is how many places of the expiry heap lie together, 16 KiB.
const dueChunk = 1024

// due is an entry that expires.
type due struct {
	expireAt uint64
	ref      ref
}

// dueHeap is a heap of four children per node, the first to expire in front. It lies in chunks, so that it
// grows without being copied.
type dueHeap struct {
	chunks []*[dueChunk]due
	n      uint32
}

func (h *dueHeap) at(i uint32) *due { return &h.chunks[i/dueChunk][i%dueChunk] }

// push adds a place at the end.
func (h *dueHeap) push() {
	if int(h.n) == len(h.chunks)*dueChunk {
		h.chunks = append(h.chunks, new([dueChunk]due))
	}
	h.n++
}

// pop takes the last place away. One empty chunk stays, for the next push.
func (h *dueHeap) pop() {
	h.n--
	if last := len(h.chunks) - 1; int(h.n)+dueChunk <= last*dueChunk {
		h.chunks[last] = nil
		h.chunks = shorten(h.chunks, last)
	}
}

// dueBefore reports whether a expires before b. No two entries share stamp and version, so replicas whose heaps are
// laid out differently, one having been restored from a snapshot, agree on who is first.
func (s *store) dueBefore(a, b *due) bool {
	if a.expireAt != b.expireAt {
		return a.expireAt < b.expireAt
	}
	of, than := s.records.read(a.ref), s.records.read(b.ref)
	if of.stamp != than.stamp {
		return of.stamp < than.stamp
	}
	return of.version < than.version // one of them came from another shard
}

// setDue puts d at place i.
func (s *store) setDue(i uint32, d due) {
	*s.due.at(i) = d
	*s.records.place(d.ref) = i
}

// addDue adds r, whose record is complete, to the heap.
func (s *store) addDue(r ref) {
	s.due.push()
	s.siftUp(s.due.n-1, due{s.records.expiry(r), r})
}

// fixDue finds r's place anew after its expiry or stamp changed.
func (s *store) fixDue(r ref) {
	s.siftUp(*s.records.place(r), due{s.records.expiry(r), r})
	i := *s.records.place(r)
	s.siftDown(i, *s.due.at(i))
}

// removeDue takes r off the heap.
func (s *store) removeDue(r ref) {
	i := *s.records.place(r)
	last := *s.due.at(s.due.n - 1)
	s.due.pop()
	if last.ref == r {
		return
	}
	s.siftUp(i, last)
	i = *s.records.place(last.ref)
	s.siftDown(i, *s.due.at(i))
}

// siftUp puts d at place i, whose content it overwrites, or above.
func (s *store) siftUp(i uint32, d due) {
	for i > 0 {
		parent := (i - 1) / 4
		p := s.due.at(parent)
		if !s.dueBefore(&d, p) {
			break
		}
		s.setDue(i, *p)
		i = parent
	}
	s.setDue(i, d)
}

// siftDown puts d at place i, whose content it overwrites, or below.
func (s *store) siftDown(i uint32, d due) {
	for {
		least, child := &d, i
		for c := 4*i + 1; c <= 4*i+4 && c < s.due.n; c++ {
			if e := s.due.at(c); s.dueBefore(e, least) {
				least, child = e, c
			}
		}
		if child == i {
			s.setDue(i, d)
			return
		}
		s.setDue(i, *least)
		i = child
	}
}
