package shard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// Checksums of replicas that run, at one and the same place of the log: each replica is told to watch for
// marks; then the leader logs one, an entry without commands; then each is asked for the checksum of the
// state that it had right after that entry. Where a replica was not told, or its instance was replaced in
// between, it has none for the mark, and says so.

const (
	// markTime is how long a replica watches for marks.
	markTime = 10 * time.Second
	// maxMarks bounds the states that it keeps meanwhile, the newest: ticks are entries without commands too.
	maxMarks = 8
)

// marks keeps states for their checksums. A state is a snapshot, which costs little to take and shares its
// entries with the machine; it is summed up outside of the machine's lock.
type marks struct {
	mu     sync.Mutex // guards following; taken with the machine's lock held, never the other way
	end    *time.Timer
	turn   uint64                   // counts the calls of watch
	states map[uint64]*fsm.Snapshot // by index; nil while nobody watches
}

// watch begins to keep states, or goes on to.
func (m *marks) watch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end != nil {
		m.end.Stop()
	}
	if m.states == nil {
		m.states = map[uint64]*fsm.Snapshot{}
	}
	m.turn++
	turn := m.turn
	m.end = time.AfterFunc(markTime, func() { m.over(turn) })
}

// over ends a watch, unless somebody went on with it while its end waited for the lock.
func (m *marks) over(turn uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turn == turn {
		m.states = nil
	}
}

// note keeps the state after an entry without commands; the machine's lock is held.
func (m *marks) note(index uint64, machine *fsm.Machine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.states == nil {
		return
	}
	if len(m.states) == maxMarks {
		delete(m.states, slices.Min(slices.Collect(maps.Keys(m.states))))
	}
	m.states[index] = machine.Snapshot()
}

func (m *marks) take(index uint64) *fsm.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.states[index]
	delete(m.states, index)
	return s
}

// errNoMark refuses: the replica did not watch when it applied the mark.
var errNoMark = errors.New("the replica did not watch for this mark")

// WatchMarks makes the replica of a data shard here keep the states at the marks of the next seconds.
func (h *Host) WatchMarks(id ID) error {
	i, err := h.cacheInstance(id)
	if err != nil {
		return err
	}
	i.fsm.machine.(*cacheMachine).marks.watch()
	return nil
}

// Mark logs a mark and returns its index. This replica must lead.
func (h *Host) Mark(ctx context.Context, id ID) (index uint64, err error) {
	i, err := h.cacheInstance(id)
	if err != nil {
		return 0, err
	}
	stamps := i.stamps.Load()
	if i.ready.Load() == 0 || stamps == nil {
		return 0, i.notLeader()
	}
	entry := fsm.Batch{Stamp: stamps.next(), Level: commandLevel}
	data, err := entry.AppendBinary(nil)
	if err != nil {
		return 0, err
	}
	index, _, err = i.group.Propose(ctx, data)
	return index, err
}

// MarkChecksum returns the checksum of the state at a mark, in hex, once it was applied here: the one that
// Inspect finds at the same index.
func (h *Host) MarkChecksum(ctx context.Context, id ID, index uint64) (string, error) {
	i, err := h.cacheInstance(id)
	if err != nil {
		return "", err
	}
	if err := i.fsm.applied.wait(ctx, i.trans.ctx.Done(), index); err != nil {
		return "", err
	}
	state := i.fsm.machine.(*cacheMachine).marks.take(index)
	if state == nil {
		return "", fmt.Errorf("shard %d: %w", id, errNoMark)
	}
	sum := sha256.New()
	if _, err := state.WriteTo(whileAsked{ctx, sum}); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// whileAsked writes until ctx ends: a large state takes long, and is not summed up for nobody.
type whileAsked struct {
	ctx context.Context
	w   io.Writer
}

func (w whileAsked) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

func (h *Host) cacheInstance(id ID) (*instance, error) {
	c := h.Cache(id)
	if c == nil {
		return nil, ErrUnknownShard
	}
	i := c.group.instance()
	if i == nil {
		return nil, ErrStopped
	}
	return i, nil
}
