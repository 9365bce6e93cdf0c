package fsm

import (
	"encoding/binary"
	"io"
	"testing"
)

// filled returns a machine with n entries of 100 bytes that fill its limit exactly, and its next index.
func filled(b *testing.B, n int) (*Machine, uint64) {
	b.Helper()
	m := New()
	begin := []Command{{Kind: KindLevel, Level: MaxLevel, Seed: 0x5eed}, {Kind: KindGrant, Grant: Grant{
		Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: uint64(n) * Cost(8, 100, 0), TableVersion: 1,
	}}}
	if _, err := m.Apply(1, Batch{Level: 1, Commands: begin}); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		applyPut(b, m, uint64(i+2), uint64(i))
	}
	return m, uint64(n + 2)
}

func applyPut(b *testing.B, m *Machine, index, key uint64) {
	var k [8]byte
	var value [100]byte
	binary.BigEndian.PutUint64(k[:], key)
	put := [1]Command{{Kind: KindPut, Key: k[:], Value: value[:], TTL: 1 << 40}}
	if r, err := m.Apply(index, Batch{Stamp: 1, Level: 1, Commands: put[:]}); err != nil || r[0].Status != StatusOK {
		b.Fatal(r, err)
	}
}

// BenchmarkPutEvict puts new keys into a full machine: each evicts the oldest entry.
func BenchmarkPutEvict(b *testing.B) {
	m, index := filled(b, 100_000)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		applyPut(b, m, index+i, index+i)
	}
	if m.Stats().Entries != 100_000 || m.Stats().Evictions == 0 {
		b.Fatalf("%+v", m.Stats())
	}
}

// BenchmarkPutOver puts over stored keys.
func BenchmarkPutOver(b *testing.B) {
	m, index := filled(b, 100_000)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		applyPut(b, m, index+i, i*7919%100_000)
	}
}

func BenchmarkLookup(b *testing.B) {
	m, _ := filled(b, 100_000)
	b.ReportAllocs()
	var key [8]byte
	for i := uint64(0); b.Loop(); i++ {
		binary.BigEndian.PutUint64(key[:], i*7919%100_000)
		if !m.Lookup(key[:]).Found {
			b.Fatal("missing")
		}
	}
}

func BenchmarkDecodeBatch(b *testing.B) {
	var batch Batch
	for i := range 64 {
		batch.Commands = append(batch.Commands, Command{Kind: KindPut, Key: []byte{byte(i), 1, 2, 3, 4, 5, 6, 7}, Value: make([]byte, 100)})
	}
	data, err := batch.AppendBinary(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBatch(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshot1M is the time for which taking a snapshot of a million entries holds Apply up.
func BenchmarkSnapshot1M(b *testing.B) {
	m, _ := filled(b, 1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		m.Snapshot()
	}
}

func BenchmarkSnapshotWrite1M(b *testing.B) {
	m, _ := filled(b, 1_000_000)
	s := m.Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		n, err := s.WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

func BenchmarkRestore1M(b *testing.B) {
	m, _ := filled(b, 1_000_000)
	s := m.Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		r, w := io.Pipe()
		go func() {
			_, err := s.WriteTo(w)
			w.CloseWithError(err)
		}()
		if _, err := Restore(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChecksum1M(b *testing.B) {
	m, _ := filled(b, 1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		m.Checksum()
	}
}
