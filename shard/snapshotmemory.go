package shard

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// memorySnapshots is a raft.SnapshotStore in memory: the counterpart of memoryStore. A snapshot
// exists from the Close of its sink on, whole; raft.InmemSnapshotStore shows it from Create on and
// keeps it even when it is cancelled.
type memorySnapshots struct {
	retain int // how many are kept

	mu     sync.Mutex // guards what follows
	number uint64     // of the last sink
	kept   []memorySnapshot
}

// memorySnapshot never changes.
type memorySnapshot struct {
	meta raft.SnapshotMeta
	data pieces
	sum  uint32
}

// pieces are bytes in pieces: a slice that grows would take up to three times their memory.
type pieces [][]byte

// The smallest and the largest capacity of a piece.
const leastPiece, mostPiece = 4 << 10, 1 << 20

// append appends a copy of b.
func (p pieces) append(b []byte) pieces {
	for size := leastPiece; len(b) > 0; {
		if n := len(p); n > 0 {
			last := p[n-1]
			room := min(cap(last)-len(last), len(b))
			p[n-1], b = append(last, b[:room]...), b[room:]
			size = min(2*cap(last), mostPiece)
		}
		if len(b) > 0 {
			p = append(p, make([]byte, 0, size))
		}
	}
	return p
}

func (p pieces) reader() io.Reader {
	all := make([]io.Reader, len(p))
	for n := range p {
		all[n] = bytes.NewReader(p[n])
	}
	return io.MultiReader(all...)
}

func (p pieces) sum() (sum uint32) {
	for _, b := range p {
		sum = crc32.Update(sum, castagnoli, b)
	}
	return sum
}

// newMemorySnapshots returns an empty store that keeps as many as one on disk does.
func newMemorySnapshots() *memorySnapshots { return &memorySnapshots{retain: retainSnapshots} }

// newVolatileSnapshots returns one that keeps the newest alone: they take memory, and none of them gets damaged.
func newVolatileSnapshots() *memorySnapshots { return &memorySnapshots{retain: 1} }

// crashed returns what a restart finds when the process is killed now.
func (m *memorySnapshots) crashed() *memorySnapshots {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memorySnapshots{retain: m.retain, number: m.number, kept: slices.Clone(m.kept)}
}

// Create returns a sink for a new snapshot.
func (m *memorySnapshots) Create(version raft.SnapshotVersion, index, term uint64,
	configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("unsupported snapshot version %d", version)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number++
	return &memorySink{store: m, meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 fmt.Sprintf("%d-%d-%d", term, index, m.number),
		Index:              index,
		Term:               term,
		Configuration:      configuration.Clone(),
		ConfigurationIndex: configurationIndex,
	}}, nil
}

// List returns the finished snapshots, newest first.
func (m *memorySnapshots) List() ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var metas []*raft.SnapshotMeta
	for _, s := range m.kept {
		metas = append(metas, &s.meta)
	}
	return metas, nil
}

// Open verifies a snapshot and returns its content.
func (m *memorySnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.kept, func(s memorySnapshot) bool { return s.meta.ID == id })
	if i < 0 {
		return nil, nil, fmt.Errorf("no snapshot %s", id)
	}
	s := m.kept[i]
	if s.data.sum() != s.sum {
		return nil, nil, fmt.Errorf("snapshot %s: checksum mismatch", id)
	}
	return &s.meta, io.NopCloser(s.data.reader()), nil
}

func (m *memorySnapshots) discard(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = slices.DeleteFunc(slices.Clone(m.kept), func(s memorySnapshot) bool { return s.meta.ID == id })
	return nil
}

// publish adds a finished snapshot in the order of raft.FileSnapshotStore: by term, index and age.
func (m *memorySnapshots) publish(s memorySnapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = slices.Insert(m.kept, 0, s)
	slices.SortStableFunc(m.kept, func(a, b memorySnapshot) int {
		return cmp.Or(cmp.Compare(b.meta.Term, a.meta.Term), cmp.Compare(b.meta.Index, a.meta.Index))
	})
	m.kept = m.kept[:min(len(m.kept), m.retain)]
}

// memorySink collects one snapshot; one goroutine owns it.
type memorySink struct {
	store *memorySnapshots
	meta  raft.SnapshotMeta
	data  pieces
	done  bool
}

func (s *memorySink) ID() string { return s.meta.ID }

func (s *memorySink) Write(p []byte) (int, error) {
	if s.done {
		return 0, os.ErrClosed
	}
	s.data = s.data.append(p)
	s.meta.Size += int64(len(p))
	return len(p), nil
}

// Close publishes the snapshot.
func (s *memorySink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.store.publish(memorySnapshot{s.meta, s.data, s.data.sum()})
	return nil
}

// Cancel drops the snapshot.
func (s *memorySink) Cancel() error {
	s.done = true
	return nil
}
