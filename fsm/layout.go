package fsm

// What follows keeps the store's list, index and pages together.

// link puts r at the recent end of the list.
func (s *store) link(r ref) {
	rec := s.records.write(r)
	rec.prev, rec.next = s.newestRef, 0
	if s.newestRef != 0 {
		s.records.write(s.newestRef).next = r
	} else {
		s.oldestRef = r
	}
	s.newestRef = r
}

// unlink takes r out of the list.
func (s *store) unlink(r ref) {
	s.foreseen.left(&s.records, r)
	rec := s.records.read(r)
	s.leaveMarks(r, rec.prev)
	s.join(rec.prev, rec.next)
}

// join makes two entries neighbours; 0 stands for the ends of the list.
func (s *store) join(prev, next ref) {
	if prev != 0 {
		s.records.write(prev).next = next
	} else {
		s.oldestRef = next
	}
	if next != 0 {
		s.records.write(next).prev = prev
	} else {
		s.newestRef = prev
	}
}

func (s *store) moveToEnd(r ref) {
	if r != s.newestRef {
		s.unlink(r)
		s.link(r)
		return
	}
	s.leaveMarks(r, s.records.read(r).prev) // it gets another stamp where it is
}

// linkAfter puts r behind prev towards the recent end, at the old end if prev is 0.
func (s *store) linkAfter(r, prev ref) {
	next := s.after(prev)
	rec := s.records.write(r)
	rec.prev, rec.next = prev, next
	s.join(prev, r)
	s.join(r, next)
	s.foreseen = foreseen{} // which counts what is older
}

// after returns the entry behind r towards the recent end, the oldest if r is 0; 0 when there is none.
func (s *store) after(r ref) ref {
	if r == 0 {
		return s.oldestRef
	}
	return s.records.read(r).next
}

// A mark is a place in the order: behind an entry, or at the old end where it is 0.
const (
	markStaged  = iota // where what is staged comes next
	markDropped        // up to where what is not owned any more is dropped
	markCount
)

// leaveMarks has marks behind r go back to prev.
func (s *store) leaveMarks(r, prev ref) {
	for i := range s.marks {
		if s.marks[i] == r {
			s.marks[i] = prev
		}
	}
}

// tidy has memory follow when entries become fewer, or larger, step by step: one call takes a fraction of a
// millisecond at most, and those after it do the rest.
func (s *store) tidy() {
	s.compact()
	s.clean()
}

// compactMost is how many records are moved at once.
const compactMost = pageLen

// compact moves records off the last page when many are free, and drops it when none is left.
func (s *store) compact() {
	for range compactMost {
		if !s.records.sparse() {
			return
		}
		if !s.records.dropLast() {
			from := s.records.lastUsed()
			to, _ := s.records.takeBefore()
			s.moveRecord(from, to)
			s.records.dropLast()
		}
	}
}

// moveRecord moves an entry to a record that was just taken.
func (s *store) moveRecord(from, to ref) {
	rec := *s.records.read(from)
	slot := s.records.slot(from)
	s.indexOf(slot).cell(rec.hash(), from).ref = to
	*s.records.write(to) = rec
	s.records.setSlot(to, slot)
	expireAt := s.records.expiry(from)
	s.records.setExpiry(to, expireAt)
	if rec.prev != 0 {
		s.records.write(rec.prev).next = to
	} else {
		s.oldestRef = to
	}
	if rec.next != 0 {
		s.records.write(rec.next).prev = to
	} else {
		s.newestRef = to
	}
	if expireAt != 0 {
		s.setDue(*s.records.place(from), due{expireAt, to})
	}
	if s.foreseen.next == from {
		s.foreseen.next = to
	}
	s.leaveMarks(from, to)
	s.records.release(from)
}

// clean moves blocks out of segments that hold little, see arena.
func (s *store) clean() {
	a := &s.arena
	for work := 0; work < cleanMost; {
		if !a.untidy() {
			a.credit = 0
			return
		}
		if a.credit == 0 || !a.cleaning && !a.nextVictim() {
			return
		}
		work += s.cleanGroup()
	}
}

// moving is a block that may be copied away.
type moving struct {
	name  hashed
	block []byte
	at    address
	cell  *cell // nil of a block that no entry has any more
}

// cleanGroup moves the next blocks of the victim, and returns the work that it was. What it needs of each block lies
// somewhere else in memory, so it is fetched ahead for all of them, as in warm.
func (s *store) cleanGroup() (work int) {
	a := &s.arena
	var group [cleanBlocks]moving
	n := 0
	for n == 0 || n < cleanBlocks && work < cleanGroup && int(a.cleanedTo) < len(a.segments[a.victim]) {
		m := &group[n]
		m.block, m.at = a.nextBlock()
		keyLen, _, _ := blockLens(m.block)
		key := m.block[blockHeader : blockHeader+keyLen]
		m.name = hashed{s.keySlot(key), s.hash(key)}
		work += len(m.block) + cleanBlock
		a.credit -= min(a.credit, uint64(len(m.block)))
		n++
	}
	for i := range group[:n] {
		s.warmCell(group[i].name)
	}
	for i := range group[:n] {
		group[i].cell = s.findBlock(group[i].name, group[i].at)
	}
	for i := range group[:n] {
		if c := group[i].cell; c != nil {
			s.records.warm(c.ref)
		}
	}
	oldest, span := s.span()
	for i := range group[:n] {
		m := &group[i]
		if m.cell == nil {
			continue
		}
		rec := s.records.write(m.cell.ref)
		moved := a.copy(m.block, 1+int(min((rec.stamp-oldest)/span, ages-1)))
		*m.cell = newCell(m.name.hash, moved, m.cell.ref)
		rec.named = nameOf(m.name.hash, moved)
		a.free(m.at, len(m.block))
	}
	return work
}

// span returns the stamp of the oldest entry, and how much one age of blocks spans from there to the newest.
func (s *store) span() (oldest, span uint64) {
	if s.oldestRef == 0 {
		return 0, 1
	}
	oldest = s.records.read(s.oldestRef).stamp
	return oldest, (s.records.read(s.newestRef).stamp-oldest)/ages + 1
}

// findBlock returns the cell of the entry of that name whose block is at that address, nil if there is none any more.
func (s *store) findBlock(name hashed, at address) *cell {
	t := s.tableOf(name.slot, name.hash)
	if t == nil {
		return nil
	}
	for i := t.home(name.hash); t.cells[i].ref != 0; i = t.after(i) {
		if c := &t.cells[i]; c.block() == at {
			return c
		}
	}
	return nil
}

// storeMemory is the memory that a store holds, in bytes.
type storeMemory struct {
	records uint64 // pages and what is known of them
	index   uint64
	live    uint64 // blocks of stored entries
	slack   uint64 // the rest of the arena
	due     uint64 // expiry heap, and when entries expire
}

func (m storeMemory) total() uint64 { return m.records + m.index + m.live + m.slack + m.due }

// memory returns the memory held, views not counted.
func (s *store) memory() storeMemory {
	const pageBytes, infoBytes, pointers, expiringBytes, slotBytes, dueBytes = 8 << 10, 24, 3 * 8, 960 + 2048, 40 + 64, 16
	m := storeMemory{
		records: uint64(len(s.records.pages))*pageBytes + uint64(cap(s.records.pages))*(infoBytes+pointers),
		index:   uint64(len(s.index)) * slotBytes,
		live:    s.arena.live,
		slack:   s.arena.shared + s.arena.lone - s.arena.live + s.arena.tables(),
		due:     uint64(len(s.due.chunks)) * dueChunk * dueBytes,
	}
	for i := range s.index {
		m.index += s.index[i].bytes()
	}
	m.due += uint64(s.records.placed) * expiringBytes
	return m
}
