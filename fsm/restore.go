package fsm

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
)

// restoreBuffer is how much of a snapshot is read at once. The parts that are read whole fit in it.
const restoreBuffer = 256 << 10

// Restore reads a snapshot to the end of r and returns a machine in that state. It needs memory in
// proportion to what r holds, whatever the lengths in it claim, and from level 2 on time too.
//
// It fails with ErrUnknownVersion for a format version or level that this build does not know, with
// ErrCorrupt for everything else that WriteTo never writes (damage, truncation, bytes after the end,
// entries out of order, a state that no log leads to), and with r's own error.
func Restore(r io.Reader) (*Machine, error) {
	s := &snapshotReader{r: bufio.NewReaderSize(r, restoreBuffer), crc: crc32.New(castagnoli), alike: maxAlike}
	m, err := s.machine()
	if err != nil {
		return nil, fmt.Errorf("snapshot: byte %d: %w", s.n, err)
	}
	return m, nil
}

// maxAlike is how many keys of a slot may share a hash in a snapshot of level 2 or above, where the seed of the hashes is at random: of all
// that fits into a machine, not half as many do by chance. A search compares them one by one, so that a snapshot of
// chosen keys would take time by the square of their number. Level 1 has no seed: there clients may have chosen them.
const maxAlike = 256

type snapshotReader struct {
	r       *bufio.Reader
	n       int64       // bytes read
	crc     hash.Hash32 // of them
	scratch []byte
	ahead   []entry
	names   []hashed
	alike   int  // how many keys of a slot may share a hash
	anySum  bool // take any checksum of the state: for tests that make up snapshots
}

func (s *snapshotReader) machine() (*Machine, error) {
	b, err := s.read(len(snapshotMagic) + 1)
	if err != nil {
		return nil, err
	}
	if string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%w: not a snapshot", ErrCorrupt)
	}
	switch format := b[len(snapshotMagic)]; format {
	case 1:
		return s.machine1()
	case 2, snapshotVersion:
		return s.machine2(format)
	default:
		return nil, fmt.Errorf("%w: snapshot format %d, this build knows %d", ErrUnknownVersion, format, snapshotVersion)
	}
}

// movesSize is the length of encoded moves.
var movesSize = binary.Size(moves{})

// machine2 reads format 2 and those after it, from behind the format version.
func (s *snapshotReader) machine2(format byte) (*Machine, error) {
	b, err := s.read(headerSize - len(snapshotMagic) - 1)
	if err != nil {
		return nil, err
	}
	h := decodeHeader(b)
	h.recency, h.horizon = binary.BigEndian.Uint64(b[85:]), binary.BigEndian.Uint64(b[93:])
	h.seed = binary.BigEndian.Uint64(b[101:])
	if h.level <= MaxLevel && format != snapshotVersionAt(h.level) {
		return nil, fmt.Errorf("%w: format %d of level %d", ErrCorrupt, format, h.level)
	}
	if format > 2 {
		if b, err = s.read(movesSize); err != nil {
			return nil, err
		}
		binary.Decode(b, binary.BigEndian, &h.moves) // can't fail: as much is there
	}
	if b, err = s.read(countsSize); err != nil {
		return nil, err
	}
	slots, timed := binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:])
	opaque, entries := binary.BigEndian.Uint64(b[12:]), binary.BigEndian.Uint64(b[20:])
	if err := h.validate(); err != nil {
		return nil, err
	}
	m := newMachine(h)
	if err := s.gone(m, slots); err != nil {
		return nil, err
	}
	if err := s.entries(m, m.keys.timed, timed); err != nil {
		return nil, fmt.Errorf("idempotency record: %w", err)
	}
	if err := s.entries(m, m.keys.opaque, opaque); err != nil {
		return nil, fmt.Errorf("idempotency record: %w", err)
	}
	if err := s.entries(m, m.store, entries); err != nil {
		return nil, err
	}
	if b, err = s.read(sha256.Size); err != nil {
		return nil, err
	}
	if sum := m.Checksum(); string(b) != string(sum[:]) && !s.anySum {
		return nil, fmt.Errorf("%w: the state's checksum is %x, the snapshot says %x", ErrCorrupt, sum, b)
	}
	if err := s.end(); err != nil {
		return nil, err
	}
	m.bound = max(m.limit, m.bytes())
	return m, nil
}

// decodeHeader decodes the fields that both formats have, from behind the format version.
func decodeHeader(b []byte) header {
	u64 := func(offset int) uint64 { return binary.BigEndian.Uint64(b[offset:]) }
	u32 := func(offset int) uint32 { return binary.BigEndian.Uint32(b[offset:]) }
	return header{
		level:        b[0],
		position:     u32(1),
		applied:      u64(5),
		clock:        u64(13),
		version:      u64(21),
		generation:   u64(29),
		epoch:        u64(37),
		owned:        Range{Start: u32(45), End: u32(49)},
		tableVersion: u64(53),
		limit:        u64(61),
		evictions:    u64(69),
		expirations:  u64(77),
	}
}

// validate returns why no log leads to h, nil if one may.
func (h *header) validate() error {
	if h.level > MaxLevel {
		return fmt.Errorf("%w: snapshot of level %d, this build knows %d", ErrUnknownVersion, h.level, MaxLevel)
	}
	ranged, granted := h.owned != Range{}, h.generation != 0 || h.epoch != 0 || h.version>>counterBits != 0
	if h.level >= 4 {
		if err := h.moves.validate(h); err != nil {
			return err
		}
	}
	switch {
	case h.applied == 0 && *h != New().header:
		return fmt.Errorf("%w: state without an applied entry", ErrCorrupt)
	case h.level < baseLevel:
		return fmt.Errorf("%w: level %d", ErrCorrupt, h.level)
	case ranged && (h.owned.Start >= h.owned.End || h.owned.End > Slots):
		return fmt.Errorf("%w: range [%d, %d)", ErrCorrupt, h.owned.Start, h.owned.End)
	case ranged && !granted, granted && !ranged && h.level < 4:
		return fmt.Errorf("%w: range and grant contradict each other", ErrCorrupt)
	case !granted && (h.version != 0 || h.evictions != 0 || h.expirations != 0), !granted && h.level < 4 && (h.recency != 0 || h.horizon != 0):
		return fmt.Errorf("%w: changes without a grant", ErrCorrupt)
	case h.tableVersion == 0 && (granted || h.limit != 0):
		return fmt.Errorf("%w: grant or limit without a table version", ErrCorrupt)
	case h.level >= 2 && h.limit > MaxLimit:
		return fmt.Errorf("%w: a limit of %d bytes", ErrCorrupt, h.limit)
	case h.level < 2 && (h.recency != 0 || h.horizon != 0 || h.seed != 0):
		return fmt.Errorf("%w: recency, horizon or seed at level %d", ErrCorrupt, h.level)
	}
	return nil
}

// gone reads the slots that entries are gone from.
func (s *snapshotReader) gone(m *Machine, slots uint32) error {
	last := -1
	for range slots {
		size := goneSize
		if m.level >= 4 {
			size += lostSize
		}
		b, err := s.read(size)
		if err != nil {
			return err
		}
		slot, gone, lost := binary.BigEndian.Uint16(b), binary.BigEndian.Uint64(b[2:]), uint64(0)
		if m.level >= 4 {
			lost = binary.BigEndian.Uint64(b[goneSize:])
		}
		if int(slot) <= last || !m.stored().Contains(slot) || gone|lost == 0 || max(gone, lost) > m.latest(slot) || lost != 0 && m.owned.Contains(slot) {
			return fmt.Errorf("%w: versions %d and %d gone from slot %d, after slot %d", ErrCorrupt, gone, lost, slot, last)
		}
		last = int(slot)
		sums := m.store.sumsOf(slot)
		sums.gone, sums.lost = gone, lost
	}
	return nil
}

// entries reads n entries, or records, into a store, some at a time, so that waits for memory overlap.
func (s *snapshotReader) entries(m *Machine, into *store, n uint64) error {
	newest := uint64(0)
	for n > 0 {
		batch, held, err := s.batch(n)
		if err != nil {
			return err
		}
		n -= uint64(len(batch))
		names := s.names[:0]
		for i := range batch {
			if err := m.admitStored(into, &batch[i], newest); err != nil {
				return err
			}
			newest = batch[i].stamp
			names = append(names, hashed{m.slotIn(into, batch[i].key), into.hash(batch[i].key)})
		}
		s.names = names
		into.warmSlots(names)
		into.warmCells(names)
		for i := range batch {
			e, name := &batch[i], names[i]
			if into.find(name.slot, name.hash, e.key) != 0 {
				return fmt.Errorf("%w: a key twice", ErrCorrupt)
			}
			if m.level >= 2 && into.alike(name) >= s.alike {
				return fmt.Errorf("%w: more than %d keys with one hash", ErrCorrupt, s.alike)
			}
			at := into.set(0, name.slot, name.hash, e.key, e.contentType, e.value, nil, e.version, e.expireAt, e.stamp)
			m.restoreMarks(into, at, e.stamp)
			if into == m.store {
				m.recent.moved(e.stamp, into.len())
			}
		}
		s.r.Discard(held) // can't fail: as much is buffered
	}
	return nil
}

// restoreBatch is how many entries are read before they are stored.
const restoreBatch = 64

// batch returns the next entries, n at most: those that are in the buffer whole, or one. They are valid until
// the next read, which must come after held bytes were discarded.
func (s *snapshotReader) batch(n uint64) (batch []entry, held int, err error) {
	s.ahead = s.ahead[:0]
	s.r.Peek(1) // fills the buffer when it is empty; an error comes again
	window, _ := s.r.Peek(s.r.Buffered())
	for uint64(len(s.ahead)) < min(n, restoreBatch) && len(window)-held >= entryHeaderSize {
		e, l, err := decodeEntry(window[held:])
		if err != nil {
			return nil, 0, err
		}
		if l.total() > uint64(len(window)-held-entryHeaderSize) {
			break
		}
		held += entryHeaderSize
		l.cut(&e, window[held:])
		held += int(l.total())
		s.ahead = append(s.ahead, e)
	}
	if held == 0 {
		e, err := s.entry()
		return append(s.ahead, e), 0, err
	}
	s.crc.Write(window[:held])
	s.n += int64(held)
	return s.ahead, held, nil
}

// entryLens are the lengths of the parts of an entry.
type entryLens struct {
	key, contentType int
	value            uint64
}

func (l entryLens) total() uint64 { return uint64(l.key) + uint64(l.contentType) + l.value }

// validate returns why no store takes an entry of such lengths, nil if it may.
func (l entryLens) validate() error {
	if l.key == 0 || l.contentType > MaxContentType || l.value > math.MaxUint32-blockHeader-uint64(l.key+l.contentType) {
		return fmt.Errorf("%w: key of %d bytes, content type of %d, value of %d", ErrCorrupt, l.key, l.contentType, l.value)
	}
	return nil
}

// cut makes the parts of e out of the bytes that begin with them.
func (l entryLens) cut(e *entry, b []byte) {
	b = b[:l.total()]
	e.key, e.contentType, e.value = b[:l.key], b[l.key:l.key+l.contentType], b[l.key+l.contentType:]
}

// decodeEntry decodes what stands before the parts of an entry.
func decodeEntry(b []byte) (e entry, l entryLens, err error) {
	l = entryLens{int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:])), uint64(binary.BigEndian.Uint32(b[4:]))}
	e.version, e.expireAt, e.stamp = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	return e, l, l.validate()
}

// admitStored returns why e can't be the next of a store of m, newest being the stamp of the one before.
func (m *Machine) admitStored(into *store, e *entry, newest uint64) error {
	limit := m.recency
	if m.level < 2 {
		limit = m.version
	}
	switch {
	case e.stamp < newest || e.stamp == newest && (m.level < 4 || newest == 0) || e.stamp > limit:
		return fmt.Errorf("%w: entry of stamp %d after one of %d, the last is %d", ErrCorrupt, e.stamp, newest, limit)
	case e.version > m.latest(m.slotIn(into, e.key)) || e.version&maxCounter == 0:
		return fmt.Errorf("%w: entry of version %d on a machine of version %d", ErrCorrupt, e.version, m.version)
	case into == m.store && len(e.key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes", ErrCorrupt, len(e.key))
	case into != m.store:
		if err := admitRecord(into == m.keys.timed, e); err != nil {
			return err
		}
	}
	if slot := m.slotIn(into, e.key); !m.stored().Contains(slot) {
		return fmt.Errorf("%w: entry of slot %d outside [%d, %d)", ErrCorrupt, slot, m.stored().Start, m.stored().End)
	}
	return nil
}

// latest is above the versions that may stand in slot.
func (m *Machine) latest(slot uint16) uint64 {
	if m.owned.Contains(slot) {
		return m.version
	}
	return math.MaxUint64 // another machine's, whose grants are not known here
}

// restoreMarks has the marks of a store stand where the header says, r being the last one of it.
func (m *Machine) restoreMarks(s *store, r ref, stamp uint64) {
	for k := range storeKinds {
		if m.storeOf(k) != s {
			continue
		}
		if m.moves.In.State == OutcomeStaging && stamp <= m.moves.In.Reach[k] {
			s.marks[markStaged] = r
		}
		if m.moves.Dropping != (Range{}) && m.moves.DropStore == uint64(k) && stamp <= m.moves.Dropped {
			s.marks[markDropped] = r
		}
	}
}

// slotIn returns the slot of a key of a store of m.
func (m *Machine) slotIn(into *store, key []byte) uint16 {
	if into == m.store {
		return Slot(key)
	}
	return slotOfRecord(key)
}

// admitRecord is admitStored for what an idempotency record has of its own.
func admitRecord(timed bool, e *entry) error {
	const front = 3 // slot and length of the caller
	if len(e.key) < front+1 || len(e.key) > front+MaxCaller+MaxIdempotencyKey || len(e.contentType) > 0 ||
		front+int(e.key[2]) >= len(e.key) {
		return fmt.Errorf("%w: key of a record of %d bytes", ErrCorrupt, len(e.key))
	}
	if _, _, err := decodeRecord(e.value); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	ms, isTimed := keyTime(string(e.key[front+int(e.key[2]):]))
	if isTimed != timed || timed && e.expireAt != ms+IdempotencyWindow || e.expireAt == 0 {
		return fmt.Errorf("%w: a record with the wrong time", ErrCorrupt)
	}
	return nil
}

// entry reads the next entry. Its bytes are valid until the next read.
func (s *snapshotReader) entry() (entry, error) {
	b, err := s.read(entryHeaderSize)
	if err != nil {
		return entry{}, err
	}
	e, l, err := decodeEntry(b)
	if err != nil {
		return e, err
	}
	return e, s.bytes(&e, l)
}

// bytes reads the parts of an entry.
func (s *snapshotReader) bytes(e *entry, l entryLens) (err error) {
	var b []byte
	if l.total() <= restoreBuffer {
		b, err = s.read(int(l.total()))
	} else {
		b, err = s.large(l.total())
	}
	if err == nil {
		l.cut(e, b)
	}
	return err
}

// end reads the CRC, and that nothing follows.
func (s *snapshotReader) end() error {
	want := s.crc.Sum32()
	b, err := s.read(crc32.Size)
	if err != nil {
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

// large reads n bytes into scratch. It believes n only as far as bytes arrive: what it allocates is at most
// one step ahead of them.
func (s *snapshotReader) large(n uint64) ([]byte, error) {
	const step = 1 << 20
	for have := uint64(0); have < n; {
		next := min(n, max(step, 2*have))
		if next > uint64(cap(s.scratch)) {
			grown := make([]byte, next)
			copy(grown, s.scratch[:have])
			s.scratch = grown
		}
		s.scratch = s.scratch[:next]
		read, err := io.ReadFull(s.r, s.scratch[have:])
		s.crc.Write(s.scratch[have : have+uint64(read)])
		s.n += int64(read)
		if err != nil {
			return nil, cutShort(err)
		}
		have = next
	}
	return s.scratch[:n], nil
}

// cutShort turns the end of a stream in the middle of a snapshot into ErrCorrupt.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: cut short", ErrCorrupt)
	}
	return err
}
