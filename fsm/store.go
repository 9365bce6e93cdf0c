package fsm

import "bytes"

// store holds entries by slot and key, in order of recency, with an index of those that expire. It decides
// nothing: what is stored, evicted and when is the machine's choice. Few of its objects hold pointers, and
// none of them grows by being copied as a whole, so that neither the garbage collector nor an operation
// stops for long, however much is stored:
//
//	records   what there is to an entry beside its bytes, in pages; the order is a list through them
//	index     of each slot, a hash table of refs to records
//	arena     the bytes of entries, in segments
//	due       a heap of those that expire
//
// None of this layout is state: two stores that went different ways to the same entries, order and gone
// versions answer alike. Those methods that change a store need it alone. The others may run beside each
// other and beside one call of view.
type store struct {
	keySlot func(key []byte) uint16
	seed    uint64 // of hash
	owned   Range
	index   []index    // of the owned slots, in order; nil until the first entry or gone version
	summed  []slotSums // likewise; apart, as a search needs none of it
	records records
	arena   arena
	due     dueHeap

	foreseen foreseen
	marks    [markCount]ref
	watch    *watch // nil: nobody wants to know

	oldestRef, newestRef ref
	size                 uint64 // sum of the records' sizes
}

// entry is a view of a stored entry. The slices are never written again: they stay valid for ever, also
// after removal.
type entry struct {
	key, value  []byte
	contentType []byte
	version     uint64
	expireAt    uint64 // log clock, milliseconds; 0 = lives until removed
	stamp       uint64 // of recency
}

// newStore returns a store that owns no slots. keySlot is the slot of a stored key.
func newStore(keySlot func(key []byte) uint16) *store {
	return &store{keySlot: keySlot}
}

// hash returns the hash of a key.
func (s *store) hash(key []byte) uint32 { return keyHash(key, s.seed) }

// reseed sets the seed of the hashes, and makes the index anew.
func (s *store) reseed(seed uint64) {
	s.seed = seed
	if s.index == nil {
		return
	}
	clear(s.index)
	for r := s.oldestRef; r != 0; r = s.newer(r) {
		rec := s.records.write(r)
		block := rec.block()
		hash := s.hash(s.arena.key(block))
		rec.named = nameOf(hash, block)
		slot := s.records.slot(r)
		s.indexOf(slot).add(newCell(hash, block, r))
	}
}

// own sets the range of slots. Entries outside are dropped, and what was known of their slots forgotten.
func (s *store) own(r Range) {
	old := s.owned
	if s.index == nil || r == old {
		s.owned = r
		return
	}
	for slot := old.Start; slot < old.End; slot++ {
		if slot < r.Start || slot >= r.End {
			s.dropSlot(slot - old.Start)
		}
	}
	index, summed := s.index, s.summed
	s.owned, s.index, s.summed = r, nil, nil
	s.build()
	if start, end := max(old.Start, r.Start), min(old.End, r.End); start < end {
		copy(s.index[start-r.Start:], index[start-old.Start:end-old.Start])
		copy(s.summed[start-r.Start:], summed[start-old.Start:end-old.Start])
	}
}

// build makes the tables of the owned slots if there are none.
func (s *store) build() {
	if s.index == nil {
		n := s.owned.End - s.owned.Start
		s.index, s.summed = make([]index, n), make([]slotSums, n)
	}
}

// dropSlot drops the entries of the i-th owned slot.
func (s *store) dropSlot(i uint32) {
	x := &s.index[i]
	for s.summed[i].entries > 0 { // again where tables were put together
		parts := x.parts
		x.eachTable(func(t *table, _ uint32, _ uint8) bool {
			// From the end on, as a removal fills its cell with one from behind.
			for at, length := 0, -1; t.n > 0 && x.parts == parts; {
				if length != len(t.cells) {
					length = len(t.cells)
					at = length - 1
				}
				if r := t.cells[at].ref; r != 0 {
					s.drop(r)
					s.tidy()
				} else {
					at--
				}
			}
			return x.parts == parts
		})
	}
}

// len returns the number of entries.
func (s *store) len() int { return s.records.used }

// payload returns the bytes of all keys, values and content types.
func (s *store) payload() uint64 { return s.size }

// sumsOf returns the sums of slot to be changed, nil if it is not owned.
func (s *store) sumsOf(slot uint16) *slotSums {
	if !s.owned.Contains(slot) {
		return nil
	}
	s.build()
	return &s.summed[uint32(slot)-s.owned.Start]
}

// find returns the entry of key, 0 when there is none or the slot is not owned. hash is that of key. The record, which
// whoever asks needs next, comes from memory while the key is compared.
func (s *store) find(slot uint16, hash uint32, key []byte) ref {
	t := s.tableOf(slot, hash)
	if t == nil {
		return 0
	}
	for i := t.home(hash); ; i = t.after(i) {
		switch c := &t.cells[i]; {
		case c.ref == 0:
			return 0
		case c.hash() == hash:
			s.records.warm(c.ref)
			if bytes.Equal(s.arena.key(c.block()), key) {
				return c.ref
			}
		}
	}
}

// alike returns how many entries have that slot and hash.
func (s *store) alike(name hashed) (n int) {
	t := s.tableOf(name.slot, name.hash)
	if t == nil {
		return 0
	}
	for i := t.home(name.hash); t.cells[i].ref != 0; i = t.after(i) {
		if t.cells[i].hash() == name.hash {
			n++
		}
	}
	return n
}

// findTouch returns the entry that t names, 0 when there is none or the slot is not owned. Where it names
// more than one, it is the one of the highest stamp: the order of cells is not the log's.
func (s *store) findTouch(t Touch) ref {
	table := s.tableOf(t.slot(), t.hash())
	if table == nil {
		return 0
	}
	var found ref
	var stamp uint64
	for i := table.home(t.hash()); table.cells[i].ref != 0; i = table.after(i) {
		c := &table.cells[i]
		if c.hash() != t.hash() {
			continue
		}
		if of := s.records.read(c.ref).stamp; found == 0 || of > stamp {
			found, stamp = c.ref, of
		}
	}
	return found
}

// at returns the entry of r.
func (s *store) at(r ref) entry {
	return s.records.read(r).entry(s.arena.segments, s.records.expiry(r))
}

// entry makes an entry of a record and the segments that it refers to.
func (rec *record) entry(segments [][]byte, expireAt uint64) entry {
	block := blockAt(segments, rec.block())
	key, contentType, _ := blockLens(block)
	contentType += blockHeader + key
	key += blockHeader
	return entry{
		key:         block[blockHeader:key:key],
		contentType: block[key:contentType:contentType],
		value:       block[contentType:],
		version:     rec.version,
		expireAt:    expireAt,
		stamp:       rec.stamp,
	}
}

// meta returns what at does beside the bytes, and is cheaper.
func (s *store) meta(r ref) (version, expireAt, stamp uint64) {
	rec := s.records.read(r)
	return rec.version, s.records.expiry(r), rec.stamp
}

// slotOf returns the slot of r.
func (s *store) slotOf(r ref) uint16 { return s.records.slot(r) }

// touchOf returns the touch of r's key.
func (s *store) touchOf(r ref) Touch {
	return touchOf(s.records.slot(r), s.records.read(r).hash())
}

// sizeOf returns the bytes of r's key, value and content type.
func (s *store) sizeOf(r ref) int { return len(s.arena.block(s.records.read(r).block())) - blockHeader }

// set stores an entry at the recent end, in place of r, which has that key, or as a new one when r is 0.
// The slot must be owned, hash be that of key and stamp higher than all before. The value is v1 and v2
// together. All bytes are copied, and may be those of a stored entry.
func (s *store) set(r ref, slot uint16, hash uint32, key, contentType, v1, v2 []byte, version, expireAt, stamp uint64) ref {
	l := s.lay(key, contentType, v1, v2, version, expireAt)
	return s.setLaid(r, slot, hash, &l, stamp)
}

// laid is an entry's block that is in the arena already, while the entry isn't stored yet. The next change of
// the store must be to set or discard it.
type laid struct {
	at                address
	block             []byte
	content           [2]uint64 // its contentHash
	version, expireAt uint64
}

// lay is the part of set that doesn't depend on what is stored.
func (s *store) lay(key, contentType, v1, v2 []byte, version, expireAt uint64) laid {
	block, at := s.arena.put(key, contentType, v1, v2)
	s.arena.grant(len(block))
	return laid{at, block, contentHash(block, version, expireAt), version, expireAt}
}

// discard undoes lay.
func (s *store) discard(l *laid) { s.arena.free(l.at, len(l.block)) }

// setLaid is the rest of set.
func (s *store) setLaid(r ref, slot uint16, hash uint32, l *laid, stamp uint64) ref {
	sums := s.sumsOf(slot)
	sums.addHashed(l.block, l.content, l.version, stamp)

	var before uint64 // expiry
	if r == 0 {
		var rec *record
		r, rec = s.records.take()
		*rec = record{version: l.version, stamp: stamp, named: nameOf(hash, l.at)}
		s.records.setSlot(r, slot)
		s.link(r)
		s.indexOf(slot).add(newCell(hash, l.at, r))
	} else {
		rec := s.records.read(r)
		before = s.records.expiry(r)
		s.giveUp(rec, slot, before, sums)
		s.moveToEnd(r)
		*s.indexOf(slot).cell(hash, r) = newCell(hash, l.at, r)
		rec = s.records.write(r)
		rec.version, rec.stamp, rec.named = l.version, stamp, nameOf(hash, l.at)
	}
	if before != l.expireAt {
		s.records.setExpiry(r, l.expireAt)
	}
	s.size += uint64(len(l.block) - blockHeader)
	s.expiryChanged(r, before, l.expireAt)
	s.clean()
	return r
}

// giveUp takes the block of rec out of the arena and out of the sums of its slot.
func (s *store) giveUp(rec *record, slot uint16, expireAt uint64, sums *slotSums) {
	block := s.arena.block(rec.block())
	if s.watch != nil {
		s.watch.left(slot, block, rec.version, expireAt, rec.stamp)
	}
	sums.sub(block, rec.version, expireAt, rec.stamp)
	s.size -= uint64(len(block) - blockHeader)
	s.arena.grant(len(block))
	s.arena.free(rec.block(), len(block))
}

// expiryChanged tells the heap of r's new expiry, or of its new stamp.
func (s *store) expiryChanged(r ref, before, now uint64) {
	switch {
	case before == 0 && now != 0:
		s.addDue(r)
	case before != 0 && now == 0:
		s.removeDue(r)
	case now != 0:
		s.fixDue(r)
	}
}

// remove removes r, raises gone of its slot to its version, and tidies up.
func (s *store) remove(r ref) {
	s.raiseGone(s.records.slot(r), s.records.read(r).version)
	s.drop(r)
	s.tidy()
}

// drop removes r without a trace. What it leaves behind is for tidy, once however many were dropped.
func (s *store) drop(r ref) {
	rec, slot := s.records.read(r), s.records.slot(r)
	i := uint32(slot) - s.owned.Start
	hash, expireAt := rec.hash(), s.records.expiry(r)
	s.giveUp(rec, slot, expireAt, &s.summed[i])
	if expireAt != 0 {
		s.removeDue(r)
	}
	s.unlink(r)
	s.index[i].drop(hash, r, s.summed[i].entries)
	s.records.release(r)
}

// touch moves r, which is of slot, to the recent end and gives it that stamp, higher than all before.
func (s *store) touch(r ref, slot uint16, stamp uint64) {
	s.expire(r, slot, s.records.expiry(r), stamp)
}

// expire is touch with a new expiry.
func (s *store) expire(r ref, slot uint16, expireAt, stamp uint64) {
	s.moveToEnd(r)
	rec := s.records.write(r)
	sums := s.sumsOf(slot)
	sums.order = sub128(sums.order, orderHash(rec.version, rec.stamp))
	sums.order = add128(sums.order, orderHash(rec.version, stamp))
	before := s.records.expiry(r)
	if s.watch != nil {
		s.watch.left(slot, s.arena.block(rec.block()), rec.version, before, rec.stamp)
	}
	if before != expireAt {
		block := s.arena.block(rec.block())
		sums.content = sub128(sums.content, contentHash(block, rec.version, before))
		sums.content = add128(sums.content, contentHash(block, rec.version, expireAt))
	}
	rec.stamp = stamp
	if before != expireAt {
		s.records.setExpiry(r, expireAt)
	}
	s.expiryChanged(r, before, expireAt)
}

// oldest returns the entry at the old end, 0 when there is none.
func (s *store) oldest() ref { return s.oldestRef }

// newer returns the entry next to r towards the recent end, 0 when r stands there.
func (s *store) newer(r ref) ref { return s.records.read(r).next }

// firstToExpire returns the entry that comes first by (expiry, stamp), 0 when none expires.
func (s *store) firstToExpire() ref {
	if s.due.n == 0 {
		return 0
	}
	return s.due.at(0).ref
}

// gone returns the highest version of what was removed from slot.
func (s *store) gone(slot uint16) uint64 { return s.sums(slot).gone }

// raiseGone raises gone of slot, if it is owned.
func (s *store) raiseGone(slot uint16, version uint64) {
	if sums := s.sumsOf(slot); sums != nil {
		sums.gone = max(sums.gone, version)
	}
}

// clear drops all entries, in time proportional to the slots, and raises gone of every owned slot.
func (s *store) clear(version uint64) {
	cleared := store{keySlot: s.keySlot, seed: s.seed, owned: s.owned, watch: s.watch}
	if s.watch != nil {
		s.watch.broken = true
	}
	cleared.build()
	for i := range cleared.summed {
		cleared.summed[i].gone = version
		if s.summed != nil {
			cleared.summed[i].gone = max(version, s.summed[i].gone)
		}
	}
	*s = cleared
}

// slotStats returns how many entries slot has, and the bytes of their keys, values and content types.
func (s *store) slotStats(slot uint16) (entries int, payload uint64) {
	sums := s.sums(slot)
	return int(sums.entries), sums.payload
}

// inSlot calls f for each entry of slot whose hash ends in the partBits bits of part, until f returns false.
// The order is not the log's. f must not change the store.
func (s *store) inSlot(slot uint16, partBits uint8, part uint32, f func(ref) bool) {
	if x := s.indexOf(slot); x != nil {
		x.each(partBits, part, func(c cell) bool { return f(c.ref) })
	}
}

// slots returns the sums of the owned slots, in order; nil if nothing was ever stored or removed.
func (s *store) slots() []slotSums { return s.summed }

func (s *store) covers() Range { return s.owned }

// sums returns the sums of slot, zero if it is not owned.
func (s *store) sums(slot uint16) slotSums {
	if i := uint32(slot) - s.owned.Start; i < uint32(len(s.summed)) {
		return s.summed[i]
	}
	return slotSums{}
}
