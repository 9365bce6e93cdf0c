package shard

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"

	"github.com/larder-cache/larder/fsm"
)

// A mark is a log entry at which each replica of a data shard sums up its state. It has no commands, so
// the state machine takes it for a tick, and an older build takes it for nothing else; that it is a mark
// stands in the entry's extensions, since ticks are too many to be summed up.
//
// The sum is kept beside the state, and is no part of it: a replica may have none for a mark. It has
// none where its machine was restored from a later snapshot, or replaced, and for marks that it applied
// while it was far behind, as after a start.
var markExtension = []byte("mark")

const (
	// maxMarks is how many marks a replica remembers, the newest.
	maxMarks = 8
	// maxMarkLag is how many entries the log may go on behind a mark for the state to be summed up: a
	// log that is replayed holds many marks, and nobody will ask for them.
	maxMarkLag = 256
	// sumFormat names what a sum is made of. Sums of different formats are never compared: a build that
	// sums up more, or otherwise, needs another number.
	sumFormat = 1
)

// marked is what a replica's state was at a mark.
type marked struct {
	index      uint64
	generation uint64
	level      uint8
	sum        [sha256.Size]byte
}

func (m marked) hex() string { return hex.EncodeToString(m.sum[:]) }

// marks are the last marks of one machine.
type marks struct {
	mu   sync.Mutex // guards kept; a leaf
	kept []marked   // the newest last
}

func (m *marks) add(k marked) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.kept) == maxMarks {
		m.kept = slices.Delete(m.kept, 0, 1)
	}
	m.kept = append(m.kept, k)
}

// at returns the mark at index; false: there was none, or it is forgotten.
func (m *marks) at(index uint64) (marked, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := slices.IndexFunc(m.kept, func(k marked) bool { return k.index == index })
	if n < 0 {
		return marked{}, false
	}
	return m.kept[n], true
}

// newest returns the index of the last mark, 0 for none.
func (m *marks) newest() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.kept) == 0 {
		return 0
	}
	return m.kept[len(m.kept)-1].index
}

// forget drops all: the state is another one now, and must not be judged by what the old one was.
func (m *marks) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = nil
}

// marker is a state machine that can be summed up at marks. Mark is called after Apply of the mark's
// entry, on the same goroutine.
type marker interface{ Mark(index uint64) }

// Mark sums the state up. Readers go on meanwhile.
func (c *cacheMachine) Mark(index uint64) {
	c.mu.RLock()
	stats := c.m.Stats()
	k := marked{index: index, generation: stats.Generation, level: stats.Level, sum: c.m.Checksum()}
	c.mu.RUnlock()
	c.marks.add(k)
}

// markEntry is the data of a mark.
func markEntry(stamp uint64) ([]byte, error) {
	return (&fsm.Batch{Stamp: stamp, Level: 1}).AppendBinary(nil)
}
