package fsm

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
)

// A snapshot, version 1. All numbers are big-endian and of fixed width.
//
//	offset  bytes
//	     0      8  magic "LARDERSM"
//	     8      1  format version, 1
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
//	    94         entries, oldest first
//
//	entry   | key length u16 | content type length u16 | value length u64 | version u64 | expiry u64 |
//	        | key | content type | value |
//
//	end     | 0 u16 | entries u64 | bytes u64 | CRC-32C u32 of everything before it |
//
// No key is empty, so a key length of 0 tells the end from an entry. Equal states have equal
// snapshots.
const (
	snapshotMagic   = "LARDERSM"
	snapshotVersion = 1

	headerSize      = 94 // magic included
	entryHeaderSize = 28
	trailerSize     = 16 // without the leading 0 and the CRC
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot is an immutable view of a machine's state.
type Snapshot struct {
	header
	items []*item // oldest first
	bytes uint64
}

// Snapshot returns a view of the state as it is now. It copies one pointer per entry; entries
// themselves are shared, as they never change.
func (m *Machine) Snapshot() *Snapshot {
	return &Snapshot{header: m.header, items: m.lru.items(), bytes: m.lru.bytes}
}

// WriteTo writes the snapshot to w, which Restore reads. It may run beside any use of the machine,
// and more than once. The count is of bytes that w took.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	const chunk = 64 << 10
	sum := &summingWriter{w: w, crc: crc32.New(castagnoli)}
	buf := bufio.NewWriterSize(sum, chunk)
	// bufio.Writer keeps its first error, which Flush returns.
	buf.Write(s.header.append(make([]byte, 0, headerSize)))
	var scratch [entryHeaderSize]byte
	for _, it := range s.items {
		b := binary.BigEndian.AppendUint16(scratch[:0], uint16(len(it.key)))
		b = binary.BigEndian.AppendUint16(b, uint16(len(it.contentType)))
		b = binary.BigEndian.AppendUint64(b, uint64(len(it.value)))
		b = binary.BigEndian.AppendUint64(b, it.version)
		b = binary.BigEndian.AppendUint64(b, it.expireAt)
		buf.Write(b)
		buf.WriteString(it.key)
		buf.WriteString(it.contentType)
		if _, err := buf.Write(it.value); err != nil {
			return sum.n, err
		}
	}
	b := binary.BigEndian.AppendUint16(scratch[:0], 0)
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.items)))
	b = binary.BigEndian.AppendUint64(b, s.bytes)
	buf.Write(b)
	if err := buf.Flush(); err != nil {
		return sum.n, err
	}
	n, err := w.Write(sum.crc.Sum(scratch[:0]))
	return sum.n + int64(n), err
}

// Checksum returns the SHA-256 of the state's snapshot: equal on all replicas of a shard that have
// applied the same index. It walks over all entries.
func (m *Machine) Checksum() (sum [sha256.Size]byte) {
	h := sha256.New()
	m.Snapshot().WriteTo(h) // a hash.Hash never fails
	h.Sum(sum[:0])
	return sum
}

func (h *header) append(b []byte) []byte {
	b = append(b, snapshotMagic...)
	b = append(b, snapshotVersion, h.level)
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
	return binary.BigEndian.AppendUint64(b, h.expirations)
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
