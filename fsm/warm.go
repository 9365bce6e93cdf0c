package fsm

// warming is what a batch is about to look for, and what reading it ahead came to.
type warming struct {
	names   []hashed // of the commands on one key, in order; then of what may have to go
	next    int      // of names: that of the command on one key that is applied next
	touches []hashed
	refs    []ref  // of what is touched
	sum     uint32 // or the compiler would leave the reads out
}

// hashed is a key as the index knows it.
type hashed struct {
	slot uint16
	hash uint32
}

// warm reads ahead what the commands of a batch need: of each key the tables and sums of its slot, and the
// same of the entries that may have to make room. A state of gigabytes lies outside of all caches. One after
// the other a put would wait for memory six times; here the processor has many reads under way at once,
// since none depends on the one before. Nothing follows from what is read.
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
			w.sum += uint32(m.store.arena.segments[rec.block.segment()][rec.block.offset()])
			r = rec.next
		}
		if r != 0 {
			w.sum += m.store.records.read(r).hash // the first one that the batch after this may evict
		}
	}
	w.sum += m.store.warm(w.names)
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
	w.sum = s.warm(w.touches)
	w.refs = w.refs[:0]
	for _, n := range w.touches {
		if t := s.tableOf(n.slot, n.hash); t != nil {
			if r := t.cells[t.home(n.hash)].ref; r != 0 { // most often the one
				w.refs = append(w.refs, r)
			}
		}
	}
	for _, r := range w.refs {
		w.sum += s.records.read(r).hash
	}
	for _, r := range w.refs {
		for _, near := range [...]ref{s.records.read(r).prev, s.records.read(r).next} {
			if near != 0 {
				w.sum += s.records.read(near).hash
			}
		}
	}
}

// warm reads what a search for the names reads first, and the sums of their slots.
func (s *store) warm(names []hashed) (sum uint32) {
	for _, n := range names {
		if i := uint32(n.slot) - s.owned.Start; i < uint32(len(s.index)) {
			sum += s.summed[i].entries + s.index[i].n
		}
	}
	for _, n := range names {
		sum += s.warmCell(n)
	}
	return sum
}

// warmCell reads the first cell that a search for n reads.
func (s *store) warmCell(n hashed) uint32 {
	if t := s.tableOf(n.slot, n.hash); t != nil {
		return uint32(t.cells[t.home(n.hash)].ref)
	}
	return 0
}
