package fsm

import (
	"bufio"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
)

// A snapshot, version 2 or, from level 4 on, 3. All numbers are big-endian and of fixed width.
//
//	offset  bytes
//	     0      8  magic "LARDERSM"
//	     8      1  format version
//	     9      1  level
//	    10      4  position
//	    14      8  applied
//	    22      8  clock
//	    30      8  version
//	    38      8  generation
//	    46      8  epoch
//	    54      4  range start
//	    58      4  range end
//	    62      8  table version
//	    70      8  limit
//	    78      8  evictions
//	    86      8  expirations
//	    94      8  recency
//	   102      8  horizon
//	   110      8  seed
//	          1192  moves, field by field; version 3
//	   118      4  slots that entries are gone from
//	   122      8  idempotency records of keys with a time
//	   130      8  idempotency records of other keys
//	   138      8  entries
//	   146         slots | records | records | entries, the oldest first | end
//
//	slot    | slot u16 | gone u64 | lost u64, version 3 |    in ascending order
//
//	entry, record
//	        | key length u16 | content type length u16 | value length u32 | version u64 | expiry u64 | stamp u64 |
//	        | key | content type | value |
//
//	end     | checksum of the state, 32 bytes | CRC-32C u32 of everything before it |
//
// Equal states have equal snapshots. Version 1, which level 1 has had, is in restore1.go.
const (
	snapshotMagic   = "LARDERSM"
	snapshotVersion = 3

	headerSize      = 118 // magic included, without moves
	countsSize      = 28
	goneSize        = 10
	lostSize        = 8
	entryHeaderSize = 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot is an immutable view of a machine's state.
type Snapshot struct {
	header
	entries, timed, opaque *view
}

// Snapshot returns a view of the state as it is now. It copies a pointer for each page of entries and the
// sums of each slot; pages are copied when the machine first writes to them afterwards.
func (m *Machine) Snapshot() *Snapshot {
	return &Snapshot{header: m.header, entries: m.store.view(), timed: m.keys.timed.view(), opaque: m.keys.opaque.view()}
}

// WriteTo writes the snapshot to w, which Restore reads. It may run beside any use of the machine,
// and more than once. The count is of bytes that w took.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	const chunk = 256 << 10
	sum := &summingWriter{w: w, crc: crc32.New(castagnoli)}
	buf := bufio.NewWriterSize(sum, chunk)
	// bufio.Writer keeps its first error, which Flush returns.
	buf.Write(s.appendHeader(make([]byte, 0, headerSize)))
	s.eachGone(func(slot uint16, gone, lost uint64) {
		b := binary.BigEndian.AppendUint16(buf.AvailableBuffer(), slot)
		b = binary.BigEndian.AppendUint64(b, gone)
		if s.level >= 4 {
			b = binary.BigEndian.AppendUint64(b, lost)
		}
		buf.Write(b)
	})
	for _, v := range []*view{s.timed, s.opaque, s.entries} {
		if err := v.each(func(e entry) error { return writeEntry(buf, e) }); err != nil {
			return sum.n, err
		}
	}
	checksum := s.Checksum()
	buf.Write(checksum[:])
	if err := buf.Flush(); err != nil {
		return sum.n, err
	}
	n, err := w.Write(sum.crc.Sum(nil))
	return sum.n + int64(n), err
}

// eachGone calls f for the slots that entries are gone from, in ascending order.
func (s *Snapshot) eachGone(f func(slot uint16, gone, lost uint64)) {
	for slot, end := s.stored().Start, s.stored().End; slot < end; slot++ {
		if sums := s.entries.sums(uint16(slot)); sums.gone|sums.lost != 0 {
			f(uint16(slot), sums.gone, sums.lost)
		}
	}
}

func writeEntry(w *bufio.Writer, e entry) error {
	if w.Available() < entryHeaderSize {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	b := binary.BigEndian.AppendUint16(w.AvailableBuffer(), uint16(len(e.key)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.contentType)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.value)))
	b = binary.BigEndian.AppendUint64(b, e.version)
	b = binary.BigEndian.AppendUint64(b, e.expireAt)
	b = binary.BigEndian.AppendUint64(b, e.stamp)
	w.Write(b)
	w.Write(e.key)
	w.Write(e.contentType)
	_, err := w.Write(e.value)
	return err
}

func (s *Snapshot) appendHeader(b []byte) []byte {
	b = append(b, snapshotMagic...)
	b = append(b, snapshotVersionAt(s.level))
	b = s.header.append(b)
	gone := uint32(0)
	s.eachGone(func(uint16, uint64, uint64) { gone++ })
	b = binary.BigEndian.AppendUint32(b, gone)
	b = binary.BigEndian.AppendUint64(b, uint64(s.timed.len()))
	b = binary.BigEndian.AppendUint64(b, uint64(s.opaque.len()))
	return binary.BigEndian.AppendUint64(b, uint64(s.entries.len()))
}

// snapshotVersionAt is the format version of a level. Earlier builds read what they know.
func snapshotVersionAt(level uint8) byte {
	if level >= 4 {
		return snapshotVersion
	}
	return 2
}

func (h *header) append(b []byte) []byte {
	b = append(b, h.level)
	b = binary.BigEndian.AppendUint32(b, h.position)
	b = binary.BigEndian.AppendUint64(b, h.applied)
	b = binary.BigEndian.AppendUint64(b, h.clock)
	b = binary.BigEndian.AppendUint64(b, h.version)
	b = binary.BigEndian.AppendUint64(b, h.generation)
	b = binary.BigEndian.AppendUint64(b, h.epoch)
	b = binary.BigEndian.AppendUint32(b, h.owned.Start)
	b = binary.BigEndian.AppendUint32(b, h.owned.End)
	b = binary.BigEndian.AppendUint64(b, h.tableVersion)
	b = binary.BigEndian.AppendUint64(b, h.limit)
	b = binary.BigEndian.AppendUint64(b, h.evictions)
	b = binary.BigEndian.AppendUint64(b, h.expirations)
	b = binary.BigEndian.AppendUint64(b, h.recency)
	b = binary.BigEndian.AppendUint64(b, h.horizon)
	b = binary.BigEndian.AppendUint64(b, h.seed)
	if h.level >= 4 {
		b, _ = binary.Append(b, binary.BigEndian, &h.moves) // of fixed size
	}
	return b
}

// summingWriter counts and sums up what w took.
type summingWriter struct {
	w   io.Writer
	n   int64
	crc hash.Hash32
}

func (s *summingWriter) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	s.crc.Write(p[:n])
	return n, err
}
