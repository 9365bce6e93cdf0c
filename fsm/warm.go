package fsm

import "unsafe"

// warming is what a batch is about to look for.
type warming struct {
	names   []hashed // of the commands on one key, in order
	next    int      // of names: that of the command on one key that is applied next
	touches []hashed
	refs    []ref // of what is touched
}

// hashed is a key as the index knows it.
type hashed struct {
	slot uint16
	hash uint32
}

// warm fetches ahead what the commands of a batch need: of each key the index and sums of its slot; then warmCells
// the cells. A state of gigabytes lies outside of all caches. One after the other a put would wait for memory six times;
// here the processor has many reads under way at once, since none depends on the one before, and the batch is checked
// meanwhile. What has to make room is fetched by foresee. Nothing follows from what is fetched.
func (m *Machine) warm(commands []Command) {
	w := &m.warming
	w.names, w.next = w.names[:0], 0
	for i := range commands {
		if c := &commands[i]; c.keyed() {
			w.names = append(w.names, hashed{Slot(c.Key), m.store.hash(c.Key)})
		}
	}
	m.store.warmSlots(w.names)
}

// foresight is how many entries foresee is ahead.
const foresight = 4

// foreseen is how far the oldest entries are fetched.
type foreseen struct {
	next   ref    // the first one that is not, its record being under way; 0: begin with the oldest
	last   uint64 // stamp of the one before it
	before int    // entries that are older
	names  [foresight / 2]hashed
	refs   [foresight / 2]ref // of names; there may be none of that ref any more
	turn   int                // of names: the one fetched longest ago
}

// foresee fetches what the removal of the oldest entries needs, one more of them each time that one goes: each
// names the next one only, which has to come from memory before that can be asked for the one after it.
func (s *store) foresee() {
	f := &s.foreseen
	for range 2 { // so that it gains ground
		if f.next == 0 {
			f.next, f.last, f.before = s.oldestRef, 0, 0
		}
		if f.next == 0 || f.before >= foresight {
			return
		}
		rec := s.records.read(f.next)
		s.arena.warm(rec.block())
		name := &f.names[f.turn]
		s.warmCell(*name) // its table is here by now
		s.warmDue(f.refs[f.turn])
		*name, f.refs[f.turn] = hashed{s.records.slot(f.next), rec.hash()}, f.next
		s.warmSlot(*name)
		s.records.warmExpiry(f.next)
		f.turn = (f.turn + 1) % len(f.names)
		f.last = rec.stamp
		if f.next = rec.next; f.next != 0 {
			s.records.warmBoth(f.next)
			f.before++
		}
	}
}

// left hears that r leaves its place in the order.
func (f *foreseen) left(rs *records, r ref) {
	switch {
	case f.next == 0:
	case f.next == r:
		f.next = rs.read(r).next
	case rs.read(r).stamp <= f.last: // which spares a wait for the record of next
		f.before--
	}
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
		s.records.warmExpiry(r)
	}
	for _, r := range w.refs {
		s.warmDue(r)
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
		s.warmSlot(n)
	}
}

func (s *store) warmSlot(n hashed) {
	if i := uint32(n.slot) - s.owned.Start; i < uint32(len(s.index)) {
		prefetchBoth(unsafe.Pointer(&s.summed[i]), unsafe.Pointer(&s.index[i]))
	}
}

// warmCells fetches the first cells that searches for the names read, two lines of the cache: of three searches, one
// comes to the end of the first.
func (s *store) warmCells(names []hashed) {
	for _, n := range names {
		s.warmCell(n)
	}
}

func (s *store) warmCell(n hashed) {
	if t := s.tableOf(n.slot, n.hash); t != nil {
		prefetchTwo(unsafe.Pointer(&t.cells[t.home(n.hash)]))
	}
}

// warm fetches the record of r.
func (rs *records) warm(r ref) { prefetch(unsafe.Pointer(rs.read(r))) }

// warmBoth fetches the record of r and its slot.
func (rs *records) warmBoth(r ref) {
	p, i := r.at()
	prefetchBoth(unsafe.Pointer(&rs.pages[p].records[i]), unsafe.Pointer(&rs.pages[p].slots[i]))
}

// warmExpiry fetches when r expires, and its place in the expiry heap.
func (rs *records) warmExpiry(r ref) {
	p, i := r.at()
	if e := rs.expiries[p]; e != nil && rs.places[p] != nil {
		prefetchBoth(unsafe.Pointer(&e[i]), unsafe.Pointer(&rs.places[p][i]))
	}
}

// warmDue fetches what the expiry heap moves when r leaves it: r's parent and children, and the place of one that will
// be the last soon and takes that of an entry which leaves. There need not be such an r.
func (s *store) warmDue(r ref) {
	if r == 0 {
		return
	}
	p, i := r.at()
	if int(p) >= len(s.records.places) || s.records.places[p] == nil {
		return
	}
	at := s.records.places[p][i]
	if n := s.due.n; at > 0 && at < n && n > foresight {
		prefetchBoth(unsafe.Pointer(s.due.at(at)), unsafe.Pointer(s.due.at((at-1)/4)))
		if child := 4*at + 1; child < n {
			prefetchBoth(unsafe.Pointer(s.due.at(child)), unsafe.Pointer(s.due.at(min(child+3, n-1))))
		}
		s.records.warmExpiry(s.due.at(n - foresight).ref)
	}
}

// warm fetches the beginning of the block at an address.
func (a *arena) warm(at address) {
	const line, lines = 64, 3
	b := a.segments[at.segment()][at.offset():]
	if len(b) > (lines-1)*line {
		prefetchThree(unsafe.Pointer(&b[0]))
	} else {
		prefetch(unsafe.Pointer(&b[0])) // at the end of a segment, where the rest follows anyway
	}
}
