package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"strings"
	"testing"
)

// snapshotBytes1 returns the snapshot of format 1 that a build wrote which knew no other.
func snapshotBytes1(t *testing.T, m *Machine) []byte {
	t.Helper()
	if m.level != 1 {
		t.Fatalf("format 1 of level %d", m.level)
	}
	b := append([]byte(snapshotMagic), 1)
	b = m.header.append(b)[:headerSize1]
	for r := m.store.oldest(); r != 0; r = m.store.newer(r) {
		e := m.store.at(r)
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.key)))
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.contentType)))
		b = binary.BigEndian.AppendUint64(b, uint64(len(e.value)))
		b = binary.BigEndian.AppendUint64(b, e.version)
		b = binary.BigEndian.AppendUint64(b, e.expireAt)
		b = append(append(append(b, e.key...), e.contentType...), e.value...)
	}
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(m.store.len()))
	b = binary.BigEndian.AppendUint64(b, m.bytes())
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// TestFormat1Continues ensures that a replica restored from a snapshot of format 1 and one that replayed the
// log are one machine: same checksum, same answers, before the level is raised and after.
func TestFormat1Continues(t *testing.T) {
	d := &driver{t: t, Machine: New()}
	d.at(1000, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 10_000, TableVersion: 1}})
	d.at(1000, put("a"), put("b"), putTTL("c", 5))
	token := d.Lookup([]byte("a")).Version
	d.at(1000, put("a"), remove("a"))
	d.at(1010)
	restored, err := Restore(bytes.NewReader(snapshotBytes1(t, d.Machine)))
	if err != nil {
		t.Fatal(err)
	}
	e := &driver{t: t, Machine: restored, index: d.index}
	compare := func(when string) {
		t.Helper()
		if d.Checksum() != e.Checksum() || !bytes.Equal(snapshotBytes(t, d.Machine), snapshotBytes(t, e.Machine)) {
			t.Errorf("%s: the replicas differ", when)
		}
	}
	compare("level 1")
	for _, c := range []Command{remove("b"), {Kind: KindLevel, Level: 2}} {
		d.at(1010, c)
		e.at(1010, c)
	}
	compare("level 2")
	stale := put("a", Cond{Kind: CondFill, Version: token})
	for _, m := range []*driver{d, e} {
		if got := m.at(1010, stale); got[0].Status != StatusCondition {
			t.Errorf("a fill with a token from before the key was removed: %+v", got[0])
		}
	}
	compare("after a fill")
}

// TestFormat1RefusesLengths ensures that a length which no store takes is damage, also where the sum of those of an entry wraps around.
func TestFormat1RefusesLengths(t *testing.T) {
	d := &driver{t: t, Machine: New()}
	d.at(1000, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 10_000, TableVersion: 1}})
	d.at(1000, put("a"))
	image := snapshotBytes1(t, d.Machine)
	for _, length := range []uint64{math.MaxUint32 - blockHeader, math.MaxUint32, math.MaxUint64} {
		binary.BigEndian.PutUint64(image[headerSize1+4:], length)
		if _, err := Restore(bytes.NewReader(image)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "value of") {
			t.Errorf("a value of %d bytes: %v", length, err)
		}
	}
}
