package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func snapshotBytes(t testing.TB, m *Machine) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := m.Snapshot().WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo: %d, %v; wrote %d bytes", n, err, b.Len())
	}
	return b.Bytes()
}

// sample returns a machine in which no part of the state is zero.
func sample(t testing.TB) *driver {
	d := grantedAt(t, 2, 40*entryCost)
	d.at(1_700_000_000_000, Command{Kind: KindPut, Key: []byte("a"), Value: []byte("1"), ContentType: "t/x", TTL: 60_000})
	for i := range 48 {
		d.at(0, putTTL(fmt.Sprintf("%02d", i), uint64(i%3)*1000))
	}
	d.at(1_700_000_001_000, put("x"), Command{Kind: KindPut, Key: []byte("a"), Value: []byte("12"), ContentType: "t/x", TTL: 5},
		remove("47"), Command{Kind: KindTouches, Touches: AppendTouch(nil, d.TouchOf([]byte("44")))})
	d.limit = 1 << 20 // room for idempotency keys
	d.bound = d.limit
	d.at(1_700_000_001_000,
		Command{Kind: KindIncr, Key: []byte("n"), Delta: 5, Caller: "bob", IdempotencyKey: "opaque"},
		Command{Kind: KindIncr, Key: []byte("n"), Delta: 5, IdempotencyKey: "1700000000500-r"},
		Command{Kind: KindDelete, Key: []byte("42"), IdempotencyKey: "1700000000501-r"})
	d.horizon = 1_699_999_999_000
	if s := d.Stats(); s.Evictions == 0 || s.Expirations == 0 || s.Entries < 3 || s.Keys != 3 {
		t.Fatalf("sample is too simple: %+v", s)
	}
	return d
}

// TestGoldenSnapshots ensures that snapshots of each format version that a build ever wrote stay
// restorable, to the same state; and that this build still writes its own as it did, bit by bit.
func TestGoldenSnapshots(t *testing.T) {
	golden := func(name string) []byte {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	old, err := Restore(bytes.NewReader(golden("snapshot-1.bin")))
	if err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, old)
	want := Stats{
		Entries: 26, Bytes: 5541, Limit: 8520, Bound: 8520, TableVersion: 1, Evictions: 11, Expirations: 13, Clock: 1_700_000_001_000,
		Version: v1 + 52, Epoch: 1, Generation: 1, Range: Range{0, Slots}, Level: 1, Applied: 51,
	}
	if s := old.Stats(); s != want {
		t.Errorf("format 1: %+v, want %+v", s, want)
	}
	d := &driver{t: t, Machine: old, index: 51}
	if got := strings.Join(d.keys(), " "); got != "11 12 14 15 17 18 20 21 23 24 26 27 29 30 32 33 35 36 38 39 41 42 44 45 x a" {
		t.Errorf("format 1: order %s", got)
	}
	if l := d.Lookup([]byte("a")); string(l.Entry.Value) != "12" || l.Entry.ContentType != "t/x" || l.Entry.ExpireAt != 1_700_000_001_005 {
		t.Errorf("format 1: %+v", l)
	}
	// Raised, it goes on as one that was never restored.
	d.at(1_700_000_001_000, Command{Kind: KindLevel, Level: 2, Seed: 3})
	d.at(1_700_000_001_000, put("y"), Command{Kind: KindTouch, Key: []byte("11")})
	if got := d.keys(); got[0] != "12" && got[0] != "11" || got[len(got)-1] != "11" {
		t.Errorf("format 1, raised: order %q", got)
	}

	now := sample(t).Machine
	image := golden("snapshot-2.bin")
	if got := snapshotBytes(t, now); !bytes.Equal(got, image) {
		t.Errorf("format 2: got\n%x, want\n%x", got, image)
	}
	again, err := Restore(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if again.Checksum() != now.Checksum() || !slices.Equal(entriesOf(again), entriesOf(now)) {
		t.Error("format 2: another state")
	}

	moving := sampleMoving(t).Machine
	image = golden("snapshot-3.bin")
	if got := snapshotBytes(t, moving); !bytes.Equal(got, image) {
		t.Errorf("format 3: got\n%x, want\n%x", got, image)
	}
	if again, err = Restore(bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	if again.Checksum() != moving.Checksum() || again.Moving() != moving.Moving() {
		t.Error("format 3: another state")
	}
}

// TestRestoreContinues ensures that a restored machine is the same machine: same state, same reads, and
// the same future.
func TestRestoreContinues(t *testing.T) {
	d := sample(t)
	again, err := Restore(iotest.OneByteReader(bytes.NewReader(snapshotBytes(t, d.Machine))))
	if err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, again)
	if again.Stats() != d.Stats() || again.Checksum() != d.Checksum() {
		t.Fatalf("restored to %+v, want %+v", again.Stats(), d.Stats())
	}
	e := &driver{t: t, Machine: again, index: d.index}
	for i := range 30 {
		c := []Command{putTTL(fmt.Sprint("n", i), 3), remove(fmt.Sprintf("%02d", i)), put("a", Cond{Kind: CondPresent})}
		stamp := uint64(1_700_000_001_000 + i)
		if got, want := fmt.Sprint(e.at(stamp, c...)), fmt.Sprint(d.at(stamp, c...)); got != want {
			t.Fatalf("step %d: results %s, want %s", i, got, want)
		}
		if e.Checksum() != d.Checksum() {
			t.Fatalf("step %d: checksums differ", i)
		}
	}
}

// TestRestoreRefusesKeysAlike ensures that a snapshot whose keys were chosen to share a hash is refused from level 2 on, before it takes long,
// and that as many as chance can bring are not.
func TestRestoreRefusesKeysAlike(t *testing.T) {
	for _, level := range []uint8{1, 2} {
		m := New()
		var first []Command
		if level > 1 {
			first = append(first, Command{Kind: KindLevel, Level: level, Seed: 7})
		}
		first = append(first, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 1 << 20, TableVersion: 1}})
		if _, err := m.Apply(1, Batch{Commands: first}); err != nil {
			t.Fatal(err)
		}
		named := map[Touch]string{}
		for i := 0; ; i++ {
			key := "{a}" + fmt.Sprint(i)
			touch := m.TouchOf([]byte(key))
			if other, ok := named[touch]; ok {
				if _, err := m.Apply(2, Batch{Commands: []Command{put(key), put(other), put("b")}}); err != nil {
					t.Fatal(err)
				}
				break
			}
			named[touch] = key
		}
		for most, refused := range map[int]bool{1: level > 1, 2: false, maxAlike: false} {
			s := &snapshotReader{r: bufio.NewReaderSize(bytes.NewReader(snapshotBytes(t, m)), restoreBuffer), crc: crc32.New(castagnoli), alike: most}
			if _, err := s.machine(); errors.Is(err, ErrCorrupt) != refused || !refused && err != nil {
				t.Errorf("level %d, two keys with one hash where %d may have one: %v", level, most, err)
			}
		}
	}
}

// TestRestoreWhileShrinking ensures that a machine restored on its way down to a lowered limit has the
// bound that the others have: with another one, its next put would evict other entries.
func TestRestoreWhileShrinking(t *testing.T) {
	d := granted(t, 1<<30)
	var commands []Command
	for i := range 2 * MaxShrink {
		commands = append(commands, put(fmt.Sprint(i)))
	}
	d.at(0, commands...)
	d.at(0, Command{Kind: KindLimit, Limit: 8 * entryCost, TableVersion: 2})
	again, err := Restore(bytes.NewReader(snapshotBytes(t, d.Machine)))
	if err != nil {
		t.Fatal(err)
	}
	if s := d.Stats(); s.Bound <= s.Limit || again.Stats() != s {
		t.Fatalf("restored to %+v, want %+v", again.Stats(), s)
	}
	e := &driver{t: t, Machine: again, index: d.index}
	d.at(0, put("x"))
	e.at(0, put("x"))
	if d.Checksum() != e.Checksum() {
		t.Errorf("after a put: %+v, want %+v", e.Stats(), d.Stats())
	}
}

// TestSnapshotIsImmutable ensures that a snapshot shows the state it was taken of, however much the
// machine changes before it is written.
func TestSnapshotIsImmutable(t *testing.T) {
	d := sample(t)
	before := snapshotBytes(t, d.Machine)
	s := d.Snapshot()
	d.at(1_700_000_009_000, put("new"), put("a"), remove("x"), Command{Kind: KindLimit, Limit: 0, TableVersion: 9})
	for range 2 {
		var after bytes.Buffer
		if _, err := s.WriteTo(&after); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(after.Bytes(), before) {
			t.Fatal("the snapshot changed with the machine")
		}
	}
}

// TestSnapshotBesideApply ensures, under the race detector, that a snapshot may be written and a value
// read while the machine applies entries.
func TestSnapshotBesideApply(t *testing.T) {
	d := sample(t)
	s, want := d.Snapshot(), d.Checksum()
	held := d.Lookup([]byte("a")).Entry.Value
	done := make(chan error)
	go func() {
		var image bytes.Buffer
		if _, err := s.WriteTo(&image); err != nil {
			done <- err
			return
		}
		m, err := Restore(&image)
		if err == nil && m.Checksum() != want {
			err = errors.New("checksum of the snapshot differs")
		}
		if string(held) != "12" {
			err = fmt.Errorf("held value became %q", held)
		}
		done <- err
	}()
	for i := range 200 {
		d.at(1_700_000_002_000, put("a"), put("x"), remove("a"), put(fmt.Sprint(i)))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWriteToReportsErrors ensures that a snapshot which could not be written whole says so, wherever
// the writer failed, and counts what was taken.
func TestWriteToReportsErrors(t *testing.T) {
	d := granted(t, 1<<30)
	for i := range 40 {
		d.at(0, Command{Kind: KindPut, Key: fmt.Append(nil, i), Value: make([]byte, 5000)})
	}
	whole := len(snapshotBytes(t, d.Machine))
	for room := 0; room < whole; room += 1 + whole/50 {
		w := &fullWriter{room: room}
		if n, err := d.Snapshot().WriteTo(w); !errors.Is(err, errFull) || n != int64(room) {
			t.Errorf("with room for %d of %d bytes: %d, %v", room, whole, n, err)
		}
	}
	if n, err := d.Snapshot().WriteTo(&fullWriter{room: whole - 1}); !errors.Is(err, errFull) || n != int64(whole-1) {
		t.Errorf("without room for the last byte: %d, %v", n, err)
	}
}

var errFull = errors.New("full")

// fullWriter takes room bytes and no more.
type fullWriter struct{ room int }

func (w *fullWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.room)
	w.room -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

// TestRestoreRefusesDamage ensures that a changed bit in any byte, a missing end and each additional byte
// is noticed, and that no error is taken for a reader's own.
func TestRestoreRefusesDamage(t *testing.T) {
	image := snapshotBytes(t, sample(t).Machine)
	refused := func(what string, data []byte) {
		t.Helper()
		m, err := Restore(bytes.NewReader(data))
		if m != nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
			t.Errorf("%s: got %v, %v", what, m, err)
		}
		// Only a damaged version or level may look like one of a newer build.
		if errors.Is(err, ErrUnknownVersion) && !strings.Contains(what, "of byte 8 ") && !strings.Contains(what, "of byte 9 ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range image {
		if testing.Short() && i >= headerSize && i%7 != 0 {
			continue
		}
		bit := i % 8
		damaged := bytes.Clone(image)
		damaged[i] ^= 1 << bit
		refused(fmt.Sprintf("bit %d of byte %d flipped", bit, i), damaged)
		if i%7 == 0 || i < headerSize || i > len(image)-60 {
			refused(fmt.Sprintf("cut to %d bytes", i), image[:i])
		}
	}
	refused("a byte too many", append(bytes.Clone(image), 0))
	refused("twice", append(bytes.Clone(image), image...))

	broken := errors.New("disk on fire")
	for _, n := range []int{0, 50, 100, len(image) - 1, len(image)} {
		_, err := Restore(io.MultiReader(bytes.NewReader(image[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
			t.Errorf("reader broken after %d bytes: %v", n, err)
		}
	}
}

// TestRestoreRefusesImpossibleStates ensures that a snapshot with a right CRC over a state that no log
// leads to is refused: software can write those, disks can't.
func TestRestoreRefusesImpossibleStates(t *testing.T) {
	type state = struct {
		*Snapshot
		*driver
	}
	head := func(f func(h *header)) func(*state) { return func(s *state) { f(&s.Snapshot.header) } }
	// add stores an entry that is wrong, and takes the snapshot again.
	add := func(f func(e *entry)) func(*state) {
		return func(s *state) {
			e := entry{key: []byte("new"), version: s.driver.version, stamp: s.driver.recency}
			f(&e)
			s.store.set(0, Slot(e.key), s.store.hash(e.key), e.key, e.contentType, e.value, nil, e.version, e.expireAt, e.stamp)
			s.Snapshot = s.driver.Snapshot()
		}
	}
	record := func(timed bool, f func(e *entry)) func(*state) {
		return func(s *state) {
			e := entry{key: []byte("\x00\x00\x03bobopaque"), version: s.driver.version, expireAt: 5, stamp: s.driver.recency, value: make([]byte, recordHeader)}
			into := s.Machine.keys.opaque
			if timed {
				e.key, e.expireAt, into = []byte("\x00\x00\x001700000000000-r"), 1_700_000_030_000, s.Machine.keys.timed
			}
			f(&e)
			into.set(0, slotOfRecord(e.key), into.hash(e.key), e.key, e.contentType, e.value, nil, e.version, e.expireAt, e.stamp)
			s.Snapshot = s.driver.Snapshot()
		}
	}
	for _, c := range []struct {
		says   string
		change func(*state)
	}{
		{"", add(func(*entry) {})},
		{"", record(false, func(*entry) {})},
		{"", record(true, func(*entry) {})},
		{"state without an applied entry", head(func(h *header) { h.applied = 0 })},
		{"level 0", head(func(h *header) { h.level = 0 })},
		{"range [5, 5)", head(func(h *header) { h.owned = Range{5, 5} })},
		{"range [9, 5)", head(func(h *header) { h.owned = Range{9, 5} })},
		{"range [0, 16385)", head(func(h *header) { h.owned = Range{0, Slots + 1} })},
		{"contradict", head(func(h *header) { h.owned = Range{} })},
		{"contradict", head(func(h *header) { h.generation, h.epoch, h.version = 0, 0, 100 })},
		{"without a grant", head(func(h *header) { h.owned, h.generation, h.epoch, h.version = Range{}, 0, 0, 1 })},
		{"without a grant", head(func(h *header) { h.owned, h.generation, h.epoch, h.version = Range{}, 0, 0, 0 })},
		{"table version", head(func(h *header) { h.tableVersion = 0 })},
		{"recency, horizon or seed at level 1", head(func(h *header) { h.level = 1 })},
		{"outside", head(func(h *header) { h.owned = Range{0, 1} })},
		{"a key twice", add(func(e *entry) { e.key = []byte("x") })},
		{"after one of", add(func(e *entry) { e.stamp = 1 })},
		{"the last is", add(func(e *entry) { e.stamp++ })},
		{"version 17592186044416", add(func(e *entry) { e.version = v1 })}, // counts begin at 1
		{"on a machine of version", add(func(e *entry) { e.version++ })},
		{"key of 1025", add(func(e *entry) { e.key = bytes.Repeat([]byte("k"), MaxKey+1) })},
		{"content type of 1025", add(func(e *entry) { e.contentType = make([]byte, MaxContentType+1) })},
		{"key of a record", record(false, func(e *entry) { e.key = e.key[:3] })},
		{"key of a record", record(false, func(e *entry) { e.key[2] = 200 })},
		{"key of a record", record(false, func(e *entry) { e.contentType = []byte("t") })},
		{"malformed idempotency record", record(false, func(e *entry) { e.value = e.value[1:] })},
		{"malformed idempotency record", record(false, func(e *entry) { e.value[16] = 4 })},
		{"malformed idempotency record", record(false, func(e *entry) { e.value = append(e.value, 1) })},
		{"wrong time", record(false, func(e *entry) { e.expireAt = 0 })},
		{"wrong time", record(false, func(e *entry) { e.key = []byte("\x00\x00\x001700000000000-r") })},
		{"wrong time", record(true, func(e *entry) { e.expireAt++ })},
		{"wrong time", record(true, func(e *entry) { e.key = []byte("\x00\x00\x00opaque") })},
	} {
		d := sample(t)
		d.recency += 5
		s := &state{d.Snapshot(), d}
		c.change(s)
		var image bytes.Buffer
		if _, err := s.WriteTo(&image); err != nil {
			t.Fatal(err)
		}
		m, err := Restore(&image)
		if c.says == "" {
			if err != nil {
				t.Errorf("an addition that is right: %v", err)
			}
			continue
		}
		if m != nil || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v; want ErrCorrupt that says %q", err, c.says)
		}
	}

	// Another value with the right CRC: the state's checksum tells.
	other := snapshotBytes(t, sample(t).Machine)
	other = bytes.Replace(other, []byte("t/x12"), []byte("t/x13"), 1)
	other = other[:len(other)-crc32.Size]
	other = binary.BigEndian.AppendUint32(other, crc32.Checksum(other, castagnoli))
	if _, err := Restore(bytes.NewReader(other)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "the state's checksum") {
		t.Errorf("another value: %v", err)
	}

	s := sample(t).Snapshot()
	s.level = MaxLevel + 1
	var image bytes.Buffer
	if _, err := s.WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(&image); !errors.Is(err, ErrUnknownVersion) {
		t.Errorf("level of a newer build: %v", err)
	}
	for _, header := range []string{"LARDERSM\x00", "LARDERSM\x04"} {
		if _, err := Restore(strings.NewReader(header + strings.Repeat("\x01", 200))); !errors.Is(err, ErrUnknownVersion) {
			t.Errorf("format of a newer build: %v", err)
		}
	}
}

// TestRestoreBelievesBytesNotLengths ensures that a length field alone makes Restore allocate no more
// than a step.
func TestRestoreBelievesBytesNotLengths(t *testing.T) {
	d := granted(t, math.MaxUint64)
	d.at(0, Command{Kind: KindPut, Key: []byte("k"), Value: make([]byte, 3<<20)})
	image := snapshotBytes(t, d.Machine)
	if m, err := Restore(bytes.NewReader(image)); err != nil || m.Checksum() != d.Checksum() {
		t.Fatalf("a value of several steps: %v", err)
	}
	at := bytes.Index(image, binary.BigEndian.AppendUint32(nil, 3<<20))
	const most = math.MaxUint32 - blockHeader - 1 // of a value, with that key
	binary.BigEndian.PutUint32(image[at:], most)
	for _, have := range []int{0, 1 << 20} {
		cut := image[:at-4+entryHeaderSize+1+have]
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Restore(bytes.NewReader(cut))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v", err)
		}
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+2*have); got > most {
			t.Errorf("allocated %d bytes for %d, want at most %d", got, have, most)
		}
	}
	binary.BigEndian.PutUint32(image[at:], most+1)
	if _, err := Restore(bytes.NewReader(image)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "value of 4294967287") {
		t.Errorf("a value that no segment holds: %v", err)
	}
}

// FuzzRestore ensures that Restore never panics, and that what it accepts is exactly the snapshot of the
// machine it returns. CRC and checksum are supplied, so that the fuzzer gets past them.
func FuzzRestore(f *testing.F) {
	for _, m := range []*Machine{New(), granted(f, 1<<20).Machine, sample(f).Machine} {
		image := snapshotBytes(f, m)
		f.Add(image[:len(image)-sha256.Size-crc32.Size])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		image := append(bytes.Clone(data), make([]byte, sha256.Size)...)
		image = binary.BigEndian.AppendUint32(image, crc32.Checksum(image, castagnoli))
		s := &snapshotReader{r: bufio.NewReaderSize(bytes.NewReader(image), restoreBuffer), crc: crc32.New(castagnoli), alike: maxAlike, anySum: true}
		m, err := s.machine()
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
				t.Fatalf("error %v is neither", err)
			}
			return
		}
		checkInvariants(t, m)
		if m.level == 1 {
			return // a format of old, which is not written any more
		}
		again := snapshotBytes(t, m)
		if !bytes.Equal(again[:len(again)-sha256.Size-crc32.Size], data) {
			t.Fatalf("%x was restored and written as %x", data, again)
		}
		if _, err := Restore(bytes.NewReader(again)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Apply(m.applied+1, Batch{Stamp: 1, Commands: []Command{put("a"), remove("b")}}); err != nil && m.applied != math.MaxUint64 {
			t.Fatalf("a restored machine does not go on: %v", err)
		}
	})
}

// sampleMoving returns a machine that is staging a range, and has taken half of a chunk.
func sampleMoving(t testing.TB) *driver {
	source, target := transferPair(t, 1<<20)
	high, low := Range{Slots / 2, Slots}, Range{0, Slots / 2}
	move(t, source, target, 2, high, nil)
	for i := range 40 {
		for _, d := range []*driver{source, target} {
			d.at(epoch+uint64(i), putTTL(fmt.Sprint(i), uint64(i%3)*500), Command{Kind: KindIncr, Key: fmt.Append(nil, "n", i), Delta: 1, IdempotencyKey: fmt.Sprint(epoch+i, "-r")})
		}
	}
	target.at(epoch+500, Command{Kind: KindBegin, Transfer: &Transfer{ID: 3, Attempt: 4, Range: low, Generation: 1, VersionBits: 3}})
	c := source.StartCopy(low)
	defer func(before int) { steps.walked = before }(steps.walked)
	steps.walked = 30
	for seq := uint64(1); target.moves.In.Part == 0 || target.moves.In.Lost[kindEntry].Count == 0; seq++ {
		target.at(epoch+540, Command{Kind: KindChunk, Value: c.Next(2500), Transfer: &Transfer{ID: 3, Attempt: 4, Seq: seq}})
		steps.walked /= 2
	}
	if in := target.moves.In; in.Part == 0 || in.Lost[kindEntry].Count == 0 || in.Reach[kindEntry] == 0 {
		t.Fatalf("sample is too simple: %+v", in)
	}
	return target
}
