package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"runtime"
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
	d := granted(t, 20*entryCost)
	d.at(1_700_000_000_000, Command{Kind: KindPut, Key: []byte("a"), Value: []byte("1"), ContentType: "t/x", TTL: 60_000})
	for i := range 24 {
		d.at(0, putTTL(fmt.Sprintf("%02d", i), uint64(i%3)*1000))
	}
	d.at(1_700_000_001_000, put("x"), Command{Kind: KindPut, Key: []byte("a"), Value: []byte("12"), ContentType: "t/x", TTL: 5})
	if s := d.Stats(); s.Evictions == 0 || s.Expirations == 0 || s.Entries < 3 {
		t.Fatalf("sample is too simple: %+v", s)
	}
	return d
}

// TestGoldenSnapshot ensures that format version 1 keeps its bytes: snapshots on disk hold them.
func TestGoldenSnapshot(t *testing.T) {
	d := &driver{t: t, Machine: New(), index: 8}
	d.at(1000, Command{Kind: KindGrant, Grant: Grant{Range: Range{0x1000, 0x4000}, Epoch: 7, Generation: 2, VersionBits: 3, Limit: 1 << 20, TableVersion: 9}},
		Command{Kind: KindPut, Key: []byte("foo"), Value: []byte("v"), ContentType: "t", TTL: 24})
	d.evictions, d.expirations = 4, 5
	want := unhex(t, "4c4152444552534d 01 01 00000001 0000000000000009 00000000000003e8"+
		"0000300000000001 0000000000000002 0000000000000007"+
		"00001000 00004000 0000000000000009 0000000000100000 0000000000000004 0000000000000005"+
		"0003 0001 0000000000000001 0000300000000001 0000000000000400 666f6f 74 76"+
		"0000 0000000000000001 00000000000000d8")
	want = binary.BigEndian.AppendUint32(want, crc32.Checksum(want, castagnoli))
	if got := snapshotBytes(t, d.Machine); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	if _, err := Restore(bytes.NewReader(want)); err != nil {
		t.Error(err)
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

// TestRestoreRefusesDamage ensures that each single changed bit, each missing end and each additional
// byte is noticed, and that no error is taken for a reader's own.
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
		for bit := range 8 {
			damaged := bytes.Clone(image)
			damaged[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d flipped", bit, i), damaged)
		}
		refused(fmt.Sprintf("cut to %d bytes", i), image[:i])
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
	item := func(s *Snapshot, i int) *item { // a copy that may be changed
		it := *s.items[i]
		s.items[i] = &it
		return &it
	}
	for _, c := range []struct {
		says   string
		change func(*Snapshot)
	}{
		{"state without an applied entry", func(s *Snapshot) { s.applied = 0 }},
		{"level 0", func(s *Snapshot) { s.level = 0 }},
		{"range [5, 5)", func(s *Snapshot) { s.owned = Range{5, 5} }},
		{"range [9, 5)", func(s *Snapshot) { s.owned = Range{9, 5} }},
		{"range [0, 16385)", func(s *Snapshot) { s.owned = Range{0, Slots + 1} }},
		{"contradict", func(s *Snapshot) { s.owned = Range{} }},
		{"contradict", func(s *Snapshot) { s.generation, s.epoch, s.version = 0, 0, 100 }},
		{"without a grant", func(s *Snapshot) { s.owned, s.generation, s.epoch, s.version = Range{}, 0, 0, 1 }},
		{"without a grant", func(s *Snapshot) { s.owned, s.generation, s.epoch, s.version = Range{}, 0, 0, 0 }},
		{"table version", func(s *Snapshot) { s.tableVersion = 0 }},
		{"outside", func(s *Snapshot) { s.owned = Range{0, 1} }},
		{"a key twice", func(s *Snapshot) { item(s, 0).key = s.items[1].key }},
		{"after one of", func(s *Snapshot) { s.items[0], s.items[1] = s.items[1], s.items[0] }},
		{"after one of", func(s *Snapshot) { item(s, 1).version = s.items[0].version }},
		{"after one of", func(s *Snapshot) { item(s, 0).version = 0 }},
		{"version 17592186044416", func(s *Snapshot) { item(s, 0).version = v1 }}, // counts begin at 1
		{"on a machine of version", func(s *Snapshot) { item(s, len(s.items)-1).version = s.version + 1 }},
		{"key of 1025", func(s *Snapshot) { item(s, 0).key = strings.Repeat("k", MaxKey+1) }},
		{"content type of 1025", func(s *Snapshot) { item(s, 0).contentType = strings.Repeat("t", MaxContentType+1) }},
		{"bytes, the trailer says", func(s *Snapshot) { s.bytes++ }},
		{"the trailer says", func(s *Snapshot) { item(s, 0).key = "" }},
	} {
		s := sample(t).Snapshot()
		c.change(s)
		var image bytes.Buffer
		if _, err := s.WriteTo(&image); err != nil {
			t.Fatal(err)
		}
		if m, err := Restore(&image); m != nil || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v; want ErrCorrupt that says %q", err, c.says)
		}
	}
	miscounted := snapshotBytes(t, sample(t).Machine)
	miscounted = miscounted[:len(miscounted)-crc32.Size]
	miscounted[len(miscounted)-trailerSize+7]++
	miscounted = binary.BigEndian.AppendUint32(miscounted, crc32.Checksum(miscounted, castagnoli))
	if _, err := Restore(bytes.NewReader(miscounted)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "entries, the trailer says") {
		t.Errorf("another number of entries: %v", err)
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
	for _, header := range []string{"LARDERSM\x00", "LARDERSM\x02"} {
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
	binary.BigEndian.PutUint64(image[headerSize+4:], 1<<62)
	for _, have := range []int{0, 1 << 20} {
		cut := image[:headerSize+entryHeaderSize+1+have]
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
}

// FuzzRestore ensures that Restore never panics, and that what it accepts is exactly the snapshot of the
// machine it returns. The CRC is supplied, so that the fuzzer gets past it.
func FuzzRestore(f *testing.F) {
	for _, m := range []*Machine{New(), granted(f, 1<<20).Machine, sample(f).Machine} {
		image := snapshotBytes(f, m)
		f.Add(image[:len(image)-crc32.Size])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		image := binary.BigEndian.AppendUint32(bytes.Clone(data), crc32.Checksum(data, castagnoli))
		m, err := Restore(bytes.NewReader(image))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
				t.Fatalf("error %v is neither", err)
			}
			return
		}
		checkInvariants(t, m)
		if again := snapshotBytes(t, m); !bytes.Equal(again, image) {
			t.Fatalf("%x was restored and written as %x", image, again)
		}
		if _, err := m.Apply(m.applied+1, Batch{Stamp: 1, Commands: []Command{put("a"), remove("b")}}); err != nil && m.applied != math.MaxUint64 {
			t.Fatalf("a restored machine does not go on: %v", err)
		}
	})
}
