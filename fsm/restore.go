package fsm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Restore reads a snapshot to the end of r and returns a machine in that state. It needs memory in
// proportion to what r holds, whatever the lengths in it claim.
//
// It fails with ErrUnknownVersion for a format version or level that this build does not know, with
// ErrCorrupt for everything else that WriteTo never writes (damage, truncation, bytes after the end,
// entries out of order, a state that no log leads to), and with r's own error.
func Restore(r io.Reader) (*Machine, error) {
	const chunk = 64 << 10
	s := &snapshotReader{r: bufio.NewReaderSize(r, chunk), crc: crc32.New(castagnoli)}
	m, err := s.machine()
	if err != nil {
		return nil, fmt.Errorf("snapshot: byte %d: %w", s.n, err)
	}
	return m, nil
}

type snapshotReader struct {
	r   *bufio.Reader
	n   int64       // bytes read
	crc hash.Hash32 // of them
}

func (s *snapshotReader) machine() (*Machine, error) {
	h, err := s.header()
	if err != nil {
		return nil, err
	}
	m := &Machine{header: h, lru: newLRU()}
	newest := uint64(0)
	for {
		it, err := s.item()
		if err != nil {
			return nil, err
		}
		if it == nil {
			break
		}
		if err := m.admitItem(it, newest); err != nil {
			return nil, err
		}
		newest = it.version
		m.lru.put(it)
	}
	if err := s.trailer(m); err != nil {
		return nil, err
	}
	m.bound = max(m.limit, m.lru.bytes)
	return m, nil
}

// admitItem returns why it can't be the next entry of m, newest being the version of the one before.
// Every change that moves an entry to the recent end gives it the next version, so versions rise
// from the oldest entry to the most recent.
func (m *Machine) admitItem(it *item, newest uint64) error {
	switch {
	case it.version <= newest || it.version&maxCounter == 0:
		return fmt.Errorf("%w: entry of version %d after one of %d", ErrCorrupt, it.version, newest)
	case it.version > m.version:
		return fmt.Errorf("%w: entry of version %d on a machine of version %d", ErrCorrupt, it.version, m.version)
	case !m.owned.Contains(Slot([]byte(it.key))):
		return fmt.Errorf("%w: entry of a slot outside [%d, %d)", ErrCorrupt, m.owned.Start, m.owned.End)
	case m.lru.get([]byte(it.key)) != nil:
		return fmt.Errorf("%w: a key twice", ErrCorrupt)
	}
	return nil
}

func (s *snapshotReader) header() (header, error) {
	b, err := s.read(headerSize)
	if err != nil {
		return header{}, err
	}
	if string(b[:8]) != snapshotMagic {
		return header{}, fmt.Errorf("%w: not a snapshot", ErrCorrupt)
	}
	if b[8] != snapshotVersion {
		return header{}, fmt.Errorf("%w: snapshot format %d, this build knows %d", ErrUnknownVersion, b[8], snapshotVersion)
	}
	u64 := func(offset int) uint64 { return binary.BigEndian.Uint64(b[offset:]) }
	u32 := func(offset int) uint32 { return binary.BigEndian.Uint32(b[offset:]) }
	h := header{
		level:        b[9],
		position:     u32(10),
		applied:      u64(14),
		clock:        u64(22),
		version:      u64(30),
		generation:   u64(38),
		epoch:        u64(46),
		owned:        Range{Start: u32(54), End: u32(58)},
		tableVersion: u64(62),
		limit:        u64(70),
		evictions:    u64(78),
		expirations:  u64(86),
	}
	if h.level > MaxLevel {
		return header{}, fmt.Errorf("%w: snapshot of level %d, this build knows %d", ErrUnknownVersion, h.level, MaxLevel)
	}
	return h, h.validate()
}

// validate returns why no log leads to h, nil if one may.
func (h *header) validate() error {
	granted := h.owned != Range{}
	switch {
	case h.applied == 0 && *h != New().header:
		return fmt.Errorf("%w: state without an applied entry", ErrCorrupt)
	case h.level < baseLevel:
		return fmt.Errorf("%w: level %d", ErrCorrupt, h.level)
	case granted && (h.owned.Start >= h.owned.End || h.owned.End > Slots):
		return fmt.Errorf("%w: range [%d, %d)", ErrCorrupt, h.owned.Start, h.owned.End)
	case granted == (h.generation == 0 && h.epoch == 0 && h.version>>counterBits == 0):
		return fmt.Errorf("%w: range and grant contradict each other", ErrCorrupt)
	case !granted && (h.version != 0 || h.evictions != 0 || h.expirations != 0):
		return fmt.Errorf("%w: changes without a grant", ErrCorrupt)
	case h.tableVersion == 0 && (granted || h.limit != 0):
		return fmt.Errorf("%w: grant or limit without a table version", ErrCorrupt)
	}
	return nil
}

// item reads the next entry; nil at the end of the entries.
func (s *snapshotReader) item() (*item, error) {
	b, err := s.read(2)
	if err != nil {
		return nil, err
	}
	keyLen := int(binary.BigEndian.Uint16(b))
	if keyLen == 0 {
		return nil, nil
	}
	if keyLen > MaxKey {
		return nil, fmt.Errorf("%w: key of %d bytes", ErrCorrupt, keyLen)
	}
	if b, err = s.read(entryHeaderSize - 2); err != nil {
		return nil, err
	}
	typeLen := int(binary.BigEndian.Uint16(b))
	if typeLen > MaxContentType {
		return nil, fmt.Errorf("%w: content type of %d bytes", ErrCorrupt, typeLen)
	}
	valueLen := binary.BigEndian.Uint64(b[2:])
	it := &item{version: binary.BigEndian.Uint64(b[10:]), expireAt: binary.BigEndian.Uint64(b[18:])}
	if b, err = s.read(keyLen); err != nil {
		return nil, err
	}
	it.key = string(b)
	if b, err = s.read(typeLen); err != nil {
		return nil, err
	}
	it.contentType = string(b)
	it.value, err = s.value(valueLen)
	return it, err
}

// trailer reads what follows the entries, up to the end of the stream.
func (s *snapshotReader) trailer(m *Machine) error {
	b, err := s.read(trailerSize)
	if err != nil {
		return err
	}
	if n := binary.BigEndian.Uint64(b); n != uint64(m.lru.len()) {
		return fmt.Errorf("%w: %d entries, the trailer says %d", ErrCorrupt, m.lru.len(), n)
	}
	if n := binary.BigEndian.Uint64(b[8:]); n != m.lru.bytes {
		return fmt.Errorf("%w: entries cost %d bytes, the trailer says %d", ErrCorrupt, m.lru.bytes, n)
	}
	want := s.crc.Sum32()
	if b, err = s.read(crc32.Size); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint32(b); got != want {
		return fmt.Errorf("%w: CRC %08x, want %08x", ErrCorrupt, got, want)
	}
	switch _, err := s.r.ReadByte(); {
	case err == nil:
		return fmt.Errorf("%w: bytes after the end", ErrCorrupt)
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// read returns the next n bytes, which must fit in the buffer. They are valid until the next read.
func (s *snapshotReader) read(n int) ([]byte, error) {
	b, err := s.r.Peek(n)
	if err != nil {
		return nil, cutShort(err)
	}
	s.crc.Write(b)
	s.n += int64(n)
	s.r.Discard(n) // can't fail: Peek has buffered as much
	return b, nil
}

// value reads n bytes into a slice of their own. It believes n only as far as bytes arrive: what it
// allocates is at most one step ahead of them.
func (s *snapshotReader) value(n uint64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	const step = 1 << 20
	var value []byte
	for have := uint64(0); have < n; have = uint64(len(value)) {
		grown := make([]byte, min(n, max(step, 2*have)))
		copy(grown, value)
		read, err := io.ReadFull(s.r, grown[have:])
		s.crc.Write(grown[have : have+uint64(read)])
		s.n += int64(read)
		if err != nil {
			return nil, cutShort(err)
		}
		value = grown
	}
	return value, nil
}

// cutShort turns the end of a stream in the middle of a snapshot into ErrCorrupt.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: cut short", ErrCorrupt)
	}
	return err
}
