package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The items of a chunk, one behind the other. Numbers are big-endian and of fixed width.
//
//	entry, record   | 0x10 + store | key length u16 | content type length u16 | value length u32 | version u64 | expiry u64 | stamp u64 | key | content type | value |
//	left            | 0x20 + store | key length u16 | payload u32 | content 16 bytes | order 16 bytes | stamp u64 | key |
//	used            | 0x30         | as left | version u64 | new expiry u64 | new stamp u64 | new content 16 bytes | key |
//	gone            | 0x40         | slot u16 | version u64 |
//
// An entry or record takes its place by its stamp, which is above those of its store's before it in the attempt. What left is no more as it was
// at that stamp. What was used has another stamp or expiry, and the value that it had. Of a slot gone is the highest version.
const (
	itemStored = 0x10
	itemLeft   = 0x20
	itemUsed   = 0x30
	itemGone   = 0x40

	leftSize = 2 + 4 + 16 + 16 + 8
	usedSize = leftSize + 8 + 8 + 8 + 16
)

// item is a decoded one.
type item struct {
	what  byte
	store storeKind
	entry entry // stored; of used key, version, expiry and stamp as they are now
	left  Sum   // left, used
	was   uint64
	now   [2]uint64 // used: content
	slot  uint16    // gone
	gone  uint64
}

// maxStamp is above all stamps: see Machine.stamp, which could count up for centuries from the highest one.
const maxStamp = 1<<63 + 1<<62

var errItem = errors.New("malformed item")

// validateItems returns what keeps b from being items.
func validateItems(b []byte) error {
	for n := 0; len(b) > 0; n++ {
		var err error
		if _, b, err = nextItem(b); err != nil {
			return fmt.Errorf("item %d: %w", n, err)
		}
	}
	return nil
}

// nextItem decodes the item that b begins with, and returns the rest.
func nextItem(b []byte) (it item, rest []byte, err error) {
	it.what, it.store = b[0]&0xf0, storeKind(b[0]&0x0f)
	b = b[1:]
	if it.store >= storeKinds || it.store != kindEntry && it.what >= itemUsed {
		return it, nil, errItem
	}
	switch it.what {
	case itemStored:
		if len(b) < entryHeaderSize {
			return it, nil, errItem
		}
		e, lens, err := decodeEntry(b)
		b = b[entryHeaderSize:]
		if err != nil || lens.total() > uint64(len(b)) || e.version == 0 || e.stamp == 0 || e.stamp >= maxStamp || it.store == kindEntry && lens.key > MaxKey {
			return it, nil, errItem
		}
		lens.cut(&e, b)
		it.entry = e
		if it.store != kindEntry && admitRecord(it.store == kindTimed, &e) != nil {
			return it, nil, errItem
		}
		return it, b[lens.total():], nil
	case itemLeft, itemUsed:
		size := leftSize
		if it.what == itemUsed {
			size = usedSize
		}
		if len(b) < size {
			return it, nil, errItem
		}
		u64 := binary.BigEndian.Uint64
		keyLen := int(binary.BigEndian.Uint16(b))
		it.left = Sum{1, uint64(binary.BigEndian.Uint32(b[2:])), [2]uint64{u64(b[6:]), u64(b[14:])}, [2]uint64{u64(b[22:]), u64(b[30:])}}
		it.was = u64(b[38:])
		if it.what == itemUsed {
			it.entry.version, it.entry.expireAt, it.entry.stamp = u64(b[46:]), u64(b[54:]), u64(b[62:])
			it.now = [2]uint64{u64(b[70:]), u64(b[78:])}
			if it.entry.stamp >= maxStamp {
				return it, nil, errItem
			}
		}
		const front = 3 // of a record's key: slot and length of the caller
		if keyLen == 0 || keyLen > len(b)-size || it.store != kindEntry && keyLen <= front {
			return it, nil, errItem
		}
		it.entry.key = b[size : size+keyLen]
		return it, b[size+keyLen:], nil
	case itemGone:
		if len(b) < 10 {
			return it, nil, errItem
		}
		it.slot, it.gone = binary.BigEndian.Uint16(b), binary.BigEndian.Uint64(b[2:])
		return it, b[10:], nil
	}
	return it, nil, errItem
}

func appendStored(b []byte, k storeKind, e *entry) []byte {
	b = append(b, itemStored+byte(k))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.key)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.contentType)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.value)))
	b = binary.BigEndian.AppendUint64(b, e.version)
	b = binary.BigEndian.AppendUint64(b, e.expireAt)
	b = binary.BigEndian.AppendUint64(b, e.stamp)
	return append(append(append(b, e.key...), e.contentType...), e.value...)
}

// appendLeft appends what was at that stamp and is not any more. Of a used one now is what it became.
func appendLeft(b []byte, k storeKind, key []byte, sum Sum, stamp uint64, now *entry, content [2]uint64) []byte {
	what := byte(itemLeft)
	if now != nil {
		what = itemUsed
	}
	b = append(b, what+byte(k))
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	b = binary.BigEndian.AppendUint32(b, uint32(sum.Payload))
	for _, n := range [...]uint64{sum.Content[0], sum.Content[1], sum.Order[0], sum.Order[1], stamp} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	if now != nil {
		for _, n := range [...]uint64{now.version, now.expireAt, now.stamp, content[0], content[1]} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
	}
	return append(b, key...)
}

func appendGone(b []byte, slot uint16, gone uint64) []byte {
	b = append(b, itemGone)
	b = binary.BigEndian.AppendUint16(b, slot)
	return binary.BigEndian.AppendUint64(b, gone)
}

// maxWalk is how many entries a chunk may pass on its way to the places of what it holds, before it leaves its rest for a repetition.
const maxWalk = 16 << 10

// stage is KindChunk.
func (m *Machine) stage(t *Transfer, items []byte) Result {
	in := &m.moves.In
	switch {
	case t.ID != in.ID:
		return Result{Status: StatusStale}
	case in.State != OutcomeStaging:
		return Result{Status: in.State.status()}
	case t.Attempt != in.Attempt || in.Spoiled != 0 || t.Seq > in.Seq+1:
		return Result{Status: StatusStale}
	case t.Seq <= in.Seq:
		return Result{Status: StatusOK}
	case m.moves.Dropping != Range{}:
		return Result{Status: StatusBusy}
	}
	left := steps.walked
	for n := uint64(0); len(items) > 0; n++ {
		var it item
		it, items, _ = nextItem(items) // validated
		if n < in.Part {
			continue
		}
		if !m.admitItem(&it) {
			m.spoil()
			return Result{Status: StatusStale}
		}
		if !m.stageItem(&it, &left) {
			return Result{Status: StatusBusy}
		}
		in.Part++
		m.makeRoom()
	}
	in.Seq, in.Part = in.Seq+1, 0
	for k := range storeKinds {
		m.storeOf(k).tidy()
	}
	return Result{Status: StatusOK}
}

// spoil says that what is staged is not what was received any more.
func (m *Machine) spoil() {
	if m.moves.In.State == OutcomeStaging {
		m.moves.In.Spoiled = 1
	}
}

// admitItem reports whether it can be staged: a driver that does what it should sends no other.
func (m *Machine) admitItem(it *item) bool {
	in := &m.moves.In
	if it.what == itemGone {
		return in.Range.Contains(it.slot) && it.gone>>counterBits < in.VersionBits
	}
	if !in.Range.Contains(m.slotIn(m.storeOf(it.store), it.entry.key)) {
		return false
	}
	e := &it.entry
	return it.what == itemLeft || e.stamp >= in.Reach[it.store] && e.version>>counterBits < in.VersionBits && e.version&maxCounter != 0
}

// stageItem does what an item says; false if it is too far to its place.
func (m *Machine) stageItem(it *item, steps *int) bool {
	in := &m.moves.In
	if it.what == itemGone {
		sums := m.store.sumsOf(it.slot)
		sums.gone = max(sums.gone, it.gone)
		return true
	}
	s, e := m.storeOf(it.store), &it.entry
	lost := &in.Lost[it.store]
	if it.what != itemLeft && !m.walk(it.store, e.stamp, steps) {
		return false
	}
	slot, hash := m.slotIn(s, e.key), s.hash(e.key)
	r := s.find(slot, hash, e.key)
	if it.what != itemStored {
		if r == 0 || s.records.read(r).stamp != it.was {
			*lost = lost.minus(it.left) // it was evicted here, or had expired
			if it.what == itemUsed {
				*lost = lost.plus(Sum{1, it.left.Payload, it.now, orderHash(e.version, e.stamp)})
				m.recency = max(m.recency, e.stamp)
			}
			return true
		}
		if it.what == itemUsed {
			was := s.at(r) // its bytes stay as they are
			e.contentType, e.value = was.contentType, was.value
		}
	}
	if r != 0 {
		s.drop(r)
	}
	if it.what == itemLeft {
		return true
	}
	m.recency = max(m.recency, e.stamp)
	l := s.lay(e.key, e.contentType, e.value, nil, e.version, e.expireAt)
	if it.store == kindEntry && m.tooLarge(len(l.block)-blockHeader) {
		*lost = lost.plus(sumOf(l.block, e.version, e.expireAt, e.stamp))
		sums := s.sumsOf(slot)
		sums.lost = max(sums.lost, e.version)
		s.discard(&l)
		return true
	}
	s.marks[markStaged] = s.insert(slot, hash, &l, e.stamp, s.marks[markStaged])
	in.Reach[it.store] = e.stamp
	return true
}

// walk brings a store's mark to the place of that stamp; false where it has not come so far.
func (m *Machine) walk(k storeKind, stamp uint64, steps *int) bool {
	s, reach := m.storeOf(k), &m.moves.In.Reach[k]
	for {
		next := s.after(s.marks[markStaged])
		if next == 0 {
			return true
		}
		switch at := s.records.read(next).stamp; {
		case at > stamp:
			return true
		case *steps <= 0 && at != *reach: // those of one stamp together, as that is all that a snapshot says
			return false
		default:
			*steps--
			s.marks[markStaged], *reach = next, at
		}
	}
}

// insert is setLaid of a new entry that stands behind another one.
func (s *store) insert(slot uint16, hash uint32, l *laid, stamp uint64, behind ref) ref {
	s.sumsOf(slot).addHashed(l.block, l.content, l.version, stamp)
	r, rec := s.records.take()
	*rec = record{version: l.version, stamp: stamp, named: nameOf(hash, l.at)}
	s.records.setSlot(r, slot)
	s.linkAfter(r, behind)
	s.indexOf(slot).add(newCell(hash, l.at, r))
	if l.expireAt != 0 {
		s.records.setExpiry(r, l.expireAt)
	}
	s.size += uint64(len(l.block) - blockHeader)
	s.expiryChanged(r, 0, l.expireAt)
	s.clean()
	return r
}
