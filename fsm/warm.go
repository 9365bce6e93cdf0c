package fsm

import "unsafe"

// warming is what a batch is about to look for.
type warming struct {
	names   []hashed // of the commands on one key, in order; then of what may have to go
	next    int      // of names: that of the command on one key that is applied next
	touches []hashed
	refs    []ref // of what is touched
}

// hashed is a key as the index knows it.
type hashed struct {
	slot uint16
	hash uint32
}

// warm fetches ahead what the commands of a batch need: of each key the index and sums of its slot, and the
// same of the entries that may have to make room; then warmCells the cells. A state of gigabytes lies outside of all
// caches. One after the other a put would wait for memory six times; here the processor has many reads under way at
// once, since none depends on the one before, and the batch is checked meanwhile. Nothing follows from what is fetched.
func (m *Machine) warm(commands []Command) {
	w := &m.warming
	w.names, w.next = w.names[:0], 0
	for i := range commands {
		if c := &commands[i]; c.keyed() {
			w.names = append(w.names, hashed{Slot(c.Key), m.store.hash(c.Key)})
		}
	}
	if m.bytes() >= m.bound/8*7 {
		r := m.store.oldest()
		for range len(w.names) {
			if r == 0 {
				break
			}
			rec := m.store.records.read(r)
			w.names = append(w.names, hashed{rec.slot, rec.hash})
			m.store.arena.warm(rec.block)
			r = rec.next
		}
		if r != 0 {
			m.store.records.warm(r) // the first one that the batch after this may evict
		}
	}
	m.store.warmSlots(w.names)
}

// warmTouches is warm for touches, which change the records too, and those next to them.
func (m *Machine) warmTouches(touches []byte) {
	w := &m.warming
	w.touches = w.touches[:0]
	for ; len(touches) > 0; touches = touches[touchSize:] {
		t := touchAt(touches)
		w.touches = append(w.touches, hashed{t.slot(), t.hash()})
	}
	s := m.store
	s.warmSlots(w.touches)
	s.warmCells(w.touches)
	w.refs = w.refs[:0]
	for _, n := range w.touches {
		if t := s.tableOf(n.slot, n.hash); t != nil {
			if r := t.cells[t.home(n.hash)].ref; r != 0 { // most often the one
				w.refs = append(w.refs, r)
			}
		}
	}
	for _, r := range w.refs {
		s.records.warm(r)
	}
	for _, r := range w.refs {
		for _, near := range [...]ref{s.records.read(r).prev, s.records.read(r).next} {
			if near != 0 {
				s.records.warm(near)
			}
		}
	}
}

// warmSlots fetches what a search for the names begins with, and the sums of their slots.
func (s *store) warmSlots(names []hashed) {
	for _, n := range names {
		if i := uint32(n.slot) - s.owned.Start; i < uint32(len(s.index)) {
			prefetch(unsafe.Pointer(&s.summed[i]))
			prefetch(unsafe.Pointer(&s.index[i]))
		}
	}
}

// warmCells fetches the first cells that searches for the names read.
func (s *store) warmCells(names []hashed) {
	for _, n := range names {
		s.warmCell(n)
	}
}

func (s *store) warmCell(n hashed) {
	if t := s.tableOf(n.slot, n.hash); t != nil {
		prefetch(unsafe.Pointer(&t.cells[t.home(n.hash)]))
	}
}

// warm fetches the record of r.
func (rs *records) warm(r ref) { prefetch(unsafe.Pointer(rs.read(r))) }

// warm fetches the beginning of the block at an address.
func (a *arena) warm(at address) { prefetch(unsafe.Pointer(&a.segments[at.segment()][at.offset()])) }
