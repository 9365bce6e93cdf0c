package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// replicaStore is where one replica keeps its log, term and vote. What a write reported as done
// survives a crash, but for appended entries behind durable; a write that fails ends the process (R13).
//
// Beyond hashicorp/raft's contracts it promises:
//
//   - The log has no holes. An append beyond its end replaces it (see StoreLogs).
//   - Term and candidate of a vote are one record.
//   - The entry at the end of a compacted prefix stays (see DeleteRange).
//   - Entries are kept as they were handed in: Data and Extensions must never be written to again,
//     neither by who stored them nor by who got them.
//
// All methods may be called concurrently. Raft appends and truncates on its main goroutine, compacts
// on its snapshot goroutine, and reads on one goroutine per follower.
type replicaStore interface {
	raft.LogStore
	raft.StableStore
	// Term is the highest term that is durable, 0 before the first. It takes no lock: peers'
	// probes are answered from it (R12).
	Term() uint64
	// Kind is the type of the entry at index; false when the log does not hold it.
	Kind(index uint64) (raft.LogType, bool)
	// base is the lowest index of which the store knows the term: that of its first entry, or of the snapshot that
	// ends right before it. false: it knows of none.
	base() (index, term uint64, ok bool)
	// durable is the index up to which the log is known to be synced, the highest number where all of it is (store_ahead.go).
	durable() uint64
	// await returns once the log is synced up to index; the error is that of a sync that failed, or ErrDeadline where ctx ended first.
	await(ctx context.Context, index uint64) error
	// syncing is how long the oldest append that is not synced yet has been under way, 0 where there is none.
	syncing() time.Duration
	// storing is for how long the disk has not ended what the library's main goroutine waits for, an append, term or vote, or another append
	// before that; 0 where it waits for none.
	storing() time.Duration
	// age is called now and then. What of the log came before the last call need not stay in memory.
	age()
	// setBoundary tells the store which entry its snapshot ends with (see repair).
	setBoundary(index, term uint64)
	// Close ends the store, after the Raft instance on it has. It is idempotent.
	Close() error
}

// engine is what a store is built on: an ordered log and a key-value table whose writes are durable
// when they return. *raftboltdb.BoltStore is one.
type engine interface {
	FirstIndex() (uint64, error)
	LastIndex() (uint64, error)
	GetLog(index uint64, log *raft.Log) error
	StoreLogs(logs []*raft.Log) error
	DeleteRange(min, max uint64) error
	Set(key, value []byte) error
	Get(key []byte) ([]byte, error)
	Close() error
}

// Keys that hashicorp/raft uses (raft.go).
const (
	keyCurrentTerm   = "CurrentTerm"
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
)

var (
	// errKeyNotFound answers a key never set. hashicorp/raft compares the text.
	errKeyNotFound = errors.New("not found")
	errStoreClosed = errors.New("store is closed")
)

// store gives an engine the promises of replicaStore. What the engine returns is what it was given, or an error: on a
// disk that lies, summed sees to that.
//
// Locks: writing is taken first and is held over the engine's sync, unless an append goes ahead of it (store_ahead.go); mu only to touch
// memory, so that replication reads what is there while the next batch is being synced.
type store struct {
	engine engine
	fatal  func(error)
	term   atomic.Uint64

	waits atomic.Pointer[time.Time] // since when the library's main goroutine waits for a write, nil where it does not

	writing idleMutex // serialises writes; guards closed
	closed  bool

	mu          sync.RWMutex // guards what follows
	failed      error        // the first failed write, or unreadable entry; nothing is written after it
	ahead       []*aheadWrite
	first, last uint64 // bounds of the log, 0 and 0 when empty
	tail        tail   // the newest entries, a suffix of the log
	termStored  bool
	vote        []byte // the durable vote: term (8 bytes, big endian), candidate; nil when none
	staged      *uint64
	boundary    raft.Log // the entry that the snapshot ends with, for want of the entry itself
}

// idleMutex is a mutex that is held while its owner waits for a disk: whoever waits for it is idle, in virtual time too (testing/synctest).
type idleMutex chan struct{}

// Lock takes it.
func (m idleMutex) Lock() { m <- struct{}{} }

// Unlock gives it back.
func (m idleMutex) Unlock() { <-m }

// boundaryType marks an entry of which index and term are known but not what it says. hashicorp/raft
// panics rather than apply it.
const boundaryType raft.LogType = 0xff

// newStore reads what e holds. fatal is called once, with the error of the first write that failed.
func newStore(e engine, limits tailLimits, fatal func(error)) (*store, error) {
	e = misstore(e)
	s := &store{engine: e, fatal: fatal, writing: make(idleMutex, 1), tail: tail{limits: limits}}
	var err error
	if s.first, err = e.FirstIndex(); err != nil {
		return nil, fmt.Errorf("reading the first index: %w", err)
	}
	if s.last, err = e.LastIndex(); err != nil {
		return nil, fmt.Errorf("reading the last index: %w", err)
	}
	term, ok, err := getKey(e, keyCurrentTerm)
	if err != nil {
		return nil, err
	}
	if ok {
		if len(term) != 8 {
			return nil, fmt.Errorf("%w: record %s is damaged: %d bytes", ErrDataLost, keyCurrentTerm, len(term))
		}
		s.term.Store(binary.BigEndian.Uint64(term))
		s.termStored = true
	}
	vote, ok, err := getKey(e, keyVoteCandidate)
	if err != nil {
		return nil, err
	}
	if ok {
		if len(vote) < 8 {
			return nil, fmt.Errorf("%w: record %s is damaged: %d bytes", ErrDataLost, keyVoteCandidate, len(vote))
		}
		s.vote = vote
	}
	return s, nil
}

// getKey reads a key, telling a key never set from a failure.
func getKey(e interface{ Get([]byte) ([]byte, error) }, key string) (value []byte, ok bool, err error) {
	value, err = e.Get([]byte(key))
	switch {
	case err == nil:
		return value, true, nil
	case err.Error() == errKeyNotFound.Error():
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("reading record %s: %w", key, err)
	}
}

// write runs one change of the engine after all before it are synced, and then publishes it. A failed change is never retried: after
// a failed sync a second one may falsely succeed, since the kernel has dropped the dirty pages.
func (s *store) write(what string, change func() error, publish func()) error {
	return s.writeUnsettled(what, func() error {
		if err := s.settle(); err != nil {
			return err
		}
		return change()
	}, publish)
}

// writeUnsettled is write beside appends that are under way.
func (s *store) writeUnsettled(what string, change func() error, publish func()) error {
	s.writing.Lock()
	report, err := s.writeLocked(what, change, publish)
	s.writing.Unlock()
	if report {
		s.fatal(err) // without locks: it may well close the store
	}
	return err
}

// writeLocked says too whether the failure is the first.
func (s *store) writeLocked(what string, change func() error, publish func()) (report bool, err error) {
	if s.closed {
		return false, errStoreClosed
	}
	s.mu.RLock()
	failed := s.failed
	s.mu.RUnlock()
	if failed != nil {
		return false, fmt.Errorf("%s: an earlier write failed: %w", what, failed)
	}
	err = change()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		return !errors.Is(err, errStoreClosed) && s.failLocked(err), err
	}
	publish()
	return false, nil
}

// failLocked notes a failure, with mu, and reports whether it is the first.
func (s *store) failLocked(err error) bool {
	if s.failed != nil {
		return false
	}
	s.failed = err
	return true
}

func (s *store) bounds() (first, last uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.first, s.last
}

// FirstIndex returns the first index in the log, 0 when it is empty.
func (s *store) FirstIndex() (uint64, error) {
	first, _ := s.bounds()
	return first, nil
}

// LastIndex returns the last index in the log, 0 when it is empty.
func (s *store) LastIndex() (uint64, error) {
	_, last := s.bounds()
	return last, nil
}

// GetLog copies the entry at index into log, or returns raft.ErrLogNotFound. Of the entry that the
// snapshot ends with it gives index and term also when the log begins behind it (see setBoundary).
func (s *store) GetLog(index uint64, log *raft.Log) error {
	s.mu.RLock()
	known := s.first != 0 && s.first <= index && index <= s.last
	recent := known && s.tail.get(index, log)
	boundary := s.boundary
	s.mu.RUnlock()
	switch {
	case recent:
		return nil
	case !known && index == boundary.Index && index != 0:
		*log = boundary
		return nil
	case !known:
		return raft.ErrLogNotFound
	}
	// Compaction may remove the entry right now; the engine then answers ErrLogNotFound.
	err := s.engine.GetLog(index, log)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		s.unreadable(err)
	}
	return err
}

// unreadable ends the process upon an entry that can't be read any more: the library would try again for ever, or
// panic. The next start finds the damage, and leaves out this replica alone (see Host.lose).
func (s *store) unreadable(err error) {
	s.writing.Lock()
	s.mu.Lock()
	first := !s.closed && s.failLocked(err)
	s.mu.Unlock()
	s.writing.Unlock()
	if first {
		s.fatal(err) // without locks: it may well close the store
	}
}

// Kind implements replicaStore.
func (s *store) Kind(index uint64) (raft.LogType, bool) {
	var log raft.Log
	if s.GetLog(index, &log) != nil || log.Type == boundaryType {
		return 0, false
	}
	return log.Type, true
}

// setBoundary implements replicaStore: GetLog is to answer for the entry at index, which is committed
// with term, when the log begins behind it.
//
// After InstallSnapshot a log begins with the entry that follows the snapshot. If that one turns out
// to be a leftover of an old term, the next leader asks for the one before, and hashicorp/raft looks
// it up in the log alone: without an answer it refuses each request, and the leader, unless it has
// compacted its own log, repeats itself for ever.
//
// The answer is used to compare terms, on a follower and to build a leader's request. It can't be
// replicated: that takes the entry before it, which the log lacks, or index 1, which is left out.
func (s *store) setBoundary(index, term uint64) {
	if index <= 1 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boundary = raft.Log{Index: index, Term: term, Type: boundaryType}
}

// base implements replicaStore.
func (s *store) base() (index, term uint64, ok bool) {
	s.mu.RLock()
	first, boundary := s.first, s.boundary
	s.mu.RUnlock()
	if boundary.Index != 0 && (first == 0 || first == boundary.Index+1) {
		return boundary.Index, boundary.Term, true
	}
	var log raft.Log
	if first == 0 || s.GetLog(first, &log) != nil {
		return 0, 0, false
	}
	return log.Index, log.Term, true
}

// age implements replicaStore.
func (s *store) age() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail.age()
}

// StoreLog stores one entry.
func (s *store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs appends entries whose indexes follow each other.
//
// When the first of them is not the one after the end of the log, the log is first brought in line:
//
//   - It lies within the log: the entries from there on are truncated, as Raft itself does on a
//     conflict. hashicorp/raft truncates before, so this is only a defence.
//   - It lies beyond: the whole log goes. Raft appends beyond the end only when a snapshot up to the
//     entry before is durable, so it covers all that is removed. Keeping the old entries would leave
//     a hole below which they were never compared with the snapshot: a later leader could replicate
//     an uncommitted leftover of an old term from there.
//
// A crash between this and the append leaves a shorter log, which is no different from a crash
// before the append: nothing of it was reported as done.
//
// Commands that follow the end of the log may be durable only later, see store_ahead.go.
func (s *store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	defer s.busy()()
	start := logs[0].Index
	for i, log := range logs {
		if log.Index != start+uint64(i) || log.Index == 0 {
			return fmt.Errorf("appending to the log: entry %d where %d was due", log.Index, start+uint64(i))
		}
	}
	write, store := s.write, func(logs []*raft.Log) (func() error, error) { return nil, s.engine.StoreLogs(logs) }
	if e, ok := s.engine.(beginner); ok && !slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type != raft.LogCommand }) {
		write, store = s.writeUnsettled, e.beginLogs
	}
	var wait func() error // for the sync; nil: it is over
	change := func() (err error) {
		first, last := s.bounds()
		if last != 0 && start != last+1 {
			if err := s.settle(); err != nil {
				return err
			}
			from := first
			if start <= last {
				from = max(first, start)
			}
			if err := s.engine.DeleteRange(from, last); err != nil {
				return err
			}
			s.mu.Lock()
			s.cut(from, last)
			s.mu.Unlock()
		}
		wait, err = store(logs)
		return err
	}
	return write("appending to the log", change, func() {
		if s.first == 0 {
			s.first = start
		}
		s.last = logs[len(logs)-1].Index
		s.tail.append(logs)
		if wait != nil {
			s.goAhead(start, wait)
		}
	})
}

// busy notes that the library's main goroutine waits for a write, until end is called.
func (s *store) busy() (end func()) {
	now := time.Now()
	if !s.waits.CompareAndSwap(nil, &now) {
		return func() {}
	}
	return func() { s.waits.Store(nil) }
}

// storing implements replicaStore.
func (s *store) storing() time.Duration {
	if began := s.waits.Load(); began != nil {
		return max(time.Since(*began), s.syncing())
	}
	return 0
}

// DeleteRange deletes the entries from and to and those between, with one exception: of a prefix
// it keeps the last entry.
//
// hashicorp/raft compacts with DeleteRange(FirstIndex, max) where max is at most the index of the
// snapshot. A follower whose log goes beyond its snapshot looks the previous entry of a request up
// in the log, even when that is the very entry that the snapshot ends with (raft.go, appendEntries:
// only the last entry is known from memory). Without it the request is refused for ever and the
// leader sends snapshot after snapshot (hashicorp/raft #697 and its kin). The kept entry also lets
// repair see whether the log continues the snapshot.
//
// That nothing in hashicorp/raft v1.7.3 minds one entry more than it asked to keep: compactLogs
// takes FirstIndex anew each time and never looks back at what it deleted, so the kept entry goes at
// the next compaction, and one that asks for it alone is a no-op. Replication reads downwards until
// ErrLogNotFound and then sends a snapshot; the kept entry is committed or, after InstallSnapshot
// over a divergent log, one of several that the library keeps anyway until repair runs. The scans at
// start begin behind the snapshot. removeOldLogs runs for monotonic stores only, which this is not:
// it would delete, at a late duplicate of InstallSnapshot, entries above the snapshot that this
// replica has acknowledged.
//
// A suffix is a conflict and the whole log a reset: both are exact. A compaction is never the whole
// log as long as raft.Config.TrailingLogs is at least 1. A range that would leave a hole is a failed
// write: nothing in Raft asks for one.
func (s *store) DeleteRange(from, to uint64) error {
	var lo, hi uint64 // what goes; nothing when lo > hi
	change := func() error {
		first, last := s.bounds()
		lo, hi = max(from, first), min(to, last)
		switch {
		case last == 0 || lo > hi:
			lo, hi = 1, 0
			return nil
		case lo > first && hi < last:
			return fmt.Errorf("entries %d to %d would leave a hole in the log %d to %d", lo, hi, first, last)
		case lo == first && hi < last:
			hi-- // the boundary stays
		}
		if lo > hi {
			return nil
		}
		return s.engine.DeleteRange(lo, hi)
	}
	return s.write("deleting from the log", change, func() {
		if lo <= hi {
			s.cut(lo, hi)
		}
	})
}

// cut takes the deleted entries lo to hi, a prefix or a suffix of the log, out of memory; with mu.
func (s *store) cut(lo, hi uint64) {
	switch {
	case lo == s.first && hi == s.last:
		s.first, s.last = 0, 0
		s.tail.reset()
	case lo == s.first:
		s.first = hi + 1
		s.tail.dropBelow(s.first)
	default:
		s.last = lo - 1
		s.tail.dropAbove(s.last)
	}
}

// Set stores a value. The candidate of a vote is stored together with the term that was set before.
//
// hashicorp/raft sets LastVoteTerm and then LastVoteCand (raft.go, persistVote). A crash between two
// records would pair the new term with the old candidate, whose repeated request is then granted
// without a look at its log. So the term waits in memory for the candidate.
func (s *store) Set(key, value []byte) error {
	defer s.busy()()
	if string(key) != keyVoteCandidate {
		return s.write("storing record "+string(key), func() error { return s.engine.Set(key, value) }, func() {})
	}
	s.mu.RLock()
	staged := s.staged
	s.mu.RUnlock()
	if staged == nil {
		return errors.New("storing a vote: the candidate came without its term")
	}
	record := append(binary.BigEndian.AppendUint64(nil, *staged), value...)
	return s.write("storing a vote", func() error { return s.engine.Set(key, record) }, func() {
		s.vote, s.staged = record, nil
	})
}

// Get returns the value of key, or an error that says "not found".
func (s *store) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteCandidate {
		return s.engine.Get(key)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.vote == nil {
		return nil, errKeyNotFound
	}
	// Never nil: for raft a nil candidate means that no vote was cast.
	return append([]byte{}, s.vote[8:]...), nil
}

// SetUint64 stores a number. Terms never go back: raft stops the process when this refuses one.
func (s *store) SetUint64(key []byte, value uint64) error {
	defer s.busy()()
	switch string(key) {
	case keyVoteTerm:
		s.mu.Lock()
		s.staged = &value
		s.mu.Unlock()
		return nil
	case keyCurrentTerm:
		s.mu.RLock()
		stored := s.termStored
		s.mu.RUnlock()
		if term := s.term.Load(); value < term {
			return fmt.Errorf("storing term %d after term %d", value, term)
		} else if stored && value == term {
			return nil // raft stores the same term again at each start and step down
		}
	}
	record := binary.BigEndian.AppendUint64(nil, value)
	return s.write("storing record "+string(key), func() error { return s.engine.Set(key, record) }, func() {
		if string(key) == keyCurrentTerm {
			s.termStored = true
			s.term.Store(value)
		}
	})
}

// GetUint64 returns the number at key, or an error that says "not found".
func (s *store) GetUint64(key []byte) (uint64, error) {
	if string(key) == keyVoteTerm {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.vote == nil {
			return 0, errKeyNotFound
		}
		return binary.BigEndian.Uint64(s.vote), nil
	}
	value, err := s.engine.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("record %s is damaged: %d bytes", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// Term implements replicaStore.
func (s *store) Term() uint64 { return s.term.Load() }

// Close implements replicaStore. A write after it is refused and does not count as failed.
func (s *store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	_ = s.settle() // what failed was reported
	return s.engine.Close()
}
