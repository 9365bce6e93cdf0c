package fsm

import (
	"encoding/binary"
	"fmt"
)

// A snapshot of format 1, as builds wrote it that knew level 1 alone:
//
//	header  as in format 2, up to and with expirations; then entries, the oldest first
//	entry   | key length u16 | content type length u16 | value length u64 | version u64 | expiry u64 |
//	        | key | content type | value |
//	end     | 0 u16 | entries u64 | bytes u64 | CRC-32C u32 of everything before it |
//
// It has no stamps: there, versions rise from the oldest entry to the most recent, and stand for them.
const (
	headerSize1      = 94
	entryHeaderSize1 = 28
	trailerSize1     = 16
)

// machine1 reads format 1, from behind the format version.
func (s *snapshotReader) machine1() (*Machine, error) {
	b, err := s.read(headerSize1 - len(snapshotMagic) - 1)
	if err != nil {
		return nil, err
	}
	h := decodeHeader(b)
	if err := h.validate(); err != nil {
		return nil, err
	}
	if h.level != 1 {
		return nil, fmt.Errorf("%w: format 1 at level %d", ErrCorrupt, h.level)
	}
	m := newMachine(h)
	for newest := uint64(0); ; {
		e, last, err := s.entry1()
		if err != nil {
			return nil, err
		}
		if last {
			break
		}
		if err := m.admitStored(m.store, &e, newest); err != nil {
			return nil, err
		}
		newest = e.stamp
		slot, hash := Slot(e.key), m.store.hash(e.key)
		if m.store.find(slot, hash, e.key) != 0 {
			return nil, fmt.Errorf("%w: a key twice", ErrCorrupt)
		}
		m.store.set(0, slot, hash, e.key, e.contentType, e.value, nil, e.version, e.expireAt, e.stamp)
	}
	if b, err = s.read(trailerSize1); err != nil {
		return nil, err
	}
	if n, cost := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]); n != uint64(m.store.len()) || cost != m.bytes() {
		return nil, fmt.Errorf("%w: %d entries of %d bytes, the trailer says %d of %d", ErrCorrupt, m.store.len(), m.bytes(), n, cost)
	}
	if err := s.end(); err != nil {
		return nil, err
	}
	m.bound = max(m.limit, m.bytes())
	return m, nil
}

// entry1 reads the next entry, or tells that there is none.
func (s *snapshotReader) entry1() (e entry, last bool, err error) {
	b, err := s.read(2)
	if err != nil {
		return e, false, err
	}
	keyLen := int(binary.BigEndian.Uint16(b))
	if keyLen == 0 {
		return e, true, nil
	}
	if b, err = s.read(entryHeaderSize1 - 2); err != nil {
		return e, false, err
	}
	l := entryLens{keyLen, int(binary.BigEndian.Uint16(b)), binary.BigEndian.Uint64(b[2:])}
	e.version, e.expireAt = binary.BigEndian.Uint64(b[10:]), binary.BigEndian.Uint64(b[18:])
	e.stamp = e.version
	if err := l.validate(); err != nil {
		return e, false, err
	}
	return e, false, s.bytes(&e, l)
}
