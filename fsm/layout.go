package fsm

import "math/bits"

// What follows keeps the store's list, chains and pages together.

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
	rec := s.records.read(r)
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
	}
}

// A slot has up to four buckets for three entries, so that most chains are of one record.
func crowded(entries, buckets uint32) bool  { return 4*entries > 3*buckets && buckets < maxBuckets }
func deserted(entries, buckets uint32) bool { return buckets > 3*entries }

// chain puts r, which the sums count already, into the index, which grows with it. It goes to the end of
// its chain, which the search for its key has just been at; so the oldest are in front when they are
// evicted.
func (s *store) chain(r ref) {
	rec := s.records.read(r)
	i := uint32(rec.slot) - s.owned.Start
	b := &s.index[i]
	if n := s.summed[i].entries; crowded(n, b.n) {
		before := b.bytes()
		for crowded(n, b.n) {
			s.split(b)
		}
		s.indexBytes += b.bytes() - before
	}
	head := b.head(b.addr(rec.hash))
	if *head == 0 {
		*head = r
		return
	}
	s.records.write(s.chainEnd(*head)).chain = r
}

// chainEnd returns the last record of the chain from r on.
func (s *store) chainEnd(r ref) ref {
	for next := s.records.read(r).chain; next != 0; next = s.records.read(r).chain {
		r = next
	}
	return r
}

// split adds a bucket and moves to it what belongs there, in order. A record is written, and its page
// perhaps copied, only where its successor changes.
func (s *store) split(b *buckets) {
	added := b.n
	b.push()
	if added == 0 {
		return
	}
	mask := uint32(1)<<bits.Len32(added) - 1
	var stay, move struct{ first, last ref }
	for r := *b.head(buddy(added)); r != 0; r = s.records.read(r).chain {
		to := &stay
		if s.records.read(r).hash&mask == added {
			to = &move
		}
		if to.last == 0 {
			to.first = r
		} else {
			s.setChain(to.last, r)
		}
		to.last = r
	}
	for _, last := range [...]ref{stay.last, move.last} {
		if last != 0 {
			s.setChain(last, 0)
		}
	}
	*b.head(buddy(added)), *b.head(added) = stay.first, move.first
}

func (s *store) setChain(r, next ref) {
	if s.records.read(r).chain != next {
		s.records.write(r).chain = next
	}
}

// unchain takes r, which the sums don't count any more, out of the index, which shrinks with it.
func (s *store) unchain(r ref) {
	rec := s.records.read(r)
	i := uint32(rec.slot) - s.owned.Start
	b := &s.index[i]
	s.pointTo(b, r, rec.chain)
	if n := s.summed[i].entries; deserted(n, b.n) {
		before := b.bytes()
		for deserted(n, b.n) {
			s.merge(b)
		}
		s.indexBytes += b.bytes() - before
	}
}

// pointTo makes what points to r in its chain point to another one.
func (s *store) pointTo(b *buckets, r, to ref) {
	head := b.head(b.addr(s.records.read(r).hash))
	if *head == r {
		*head = to
		return
	}
	for p := *head; ; {
		next := s.records.read(p).chain
		if next == r {
			s.records.write(p).chain = to
			return
		}
		p = next
	}
}

// merge takes the last bucket away and moves what is in it.
func (s *store) merge(b *buckets) {
	last := b.head(b.n - 1)
	if first := *last; first != 0 {
		*last = 0
		if head := b.head(buddy(b.n - 1)); *head == 0 {
			*head = first
		} else {
			s.records.write(s.chainEnd(*head)).chain = first
		}
	}
	b.pop()
}

// compact moves up to two records off the last page when many are free, and drops it when none is left, so
// that memory follows when entries become fewer and larger.
func (s *store) compact() {
	for range 2 {
		if !s.records.sparse() {
			return
		}
		if !s.records.dropLast() {
			s.moveRecord(s.records.lastUsed(), s.records.takeBefore())
			s.records.dropLast()
		}
	}
}

// moveRecord moves an entry to a record that was just taken.
func (s *store) moveRecord(from, to ref) {
	rec := *s.records.read(from)
	s.pointTo(&s.index[uint32(rec.slot)-s.owned.Start], from, to)
	*s.records.write(to) = *s.records.read(from) // its own chain may have changed
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
	if rec.expireAt != 0 {
		s.setDue(*s.records.place(from), due{rec.expireAt, to})
	}
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
		block, segment, offset := a.nextBlock()
		work += len(block) + cleanBlock
		a.credit -= min(a.credit, uint64(len(block)))
		if r := s.findBlock(block, segment, offset); r != 0 {
			rec := s.records.write(r)
			rec.segment, rec.offset = a.copy(block)
			a.free(segment, len(block))
		}
	}
}

// findBlock returns the entry whose block lies at a place, 0 if none does any more.
func (s *store) findBlock(block []byte, segment, offset uint32) ref {
	n, _, _ := blockLens(block)
	key := block[blockHeader : blockHeader+n]
	b := s.bucketsOf(s.keySlot(key))
	if b == nil {
		return 0
	}
	for r := *b.head(b.addr(keyHash(key))); r != 0; {
		rec := s.records.read(r)
		if rec.segment == segment && rec.offset == offset {
			return r
		}
		r = rec.chain
	}
	return 0
}

// storeMemory is the memory that a store holds, in bytes.
type storeMemory struct {
	records uint64 // pages and what is known of them
	index   uint64
	live    uint64 // blocks of stored entries
	slack   uint64 // the rest of the arena
	due     uint64 // expiry heap
}

func (m storeMemory) total() uint64 { return m.records + m.index + m.live + m.slack + m.due }

// memory returns the memory held, views not counted.
func (s *store) memory() storeMemory {
	const pageBytes, infoBytes, placesBytes, bucketsBytes, sumsBytes, dueBytes = 8 << 10, 24, 640, 40, 56, 16
	m := storeMemory{
		records: uint64(len(s.records.pages))*pageBytes + uint64(cap(s.records.pages))*(infoBytes+16),
		index:   uint64(len(s.index))*(bucketsBytes+sumsBytes) + uint64(s.indexBytes),
		live:    s.arena.live,
		slack:   s.arena.shared + s.arena.lone - s.arena.live + s.arena.tables(),
		due:     uint64(len(s.due.chunks)) * dueChunk * dueBytes,
	}
	m.due += uint64(s.records.placed) * placesBytes
	return m
}
