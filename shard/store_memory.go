package shard

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// memoryStore is a replicaStore in memory, for clusters in virtual time and for replicas that keep
// nothing. Whatever a method reported as done counts as durable: a store outlives the Raft instance
// on it as a disk does, and crashed models the loss of what was in flight.
type memoryStore struct {
	*store
	memory *memoryEngine

	mu   sync.Mutex // guards hook and term
	hook func([]*raft.Log) error
	term func()
}

// newMemoryStore returns an empty store.
func newMemoryStore() *memoryStore {
	return newMemoryStoreOn(newMemoryEngine())
}

func newMemoryStoreOn(e *memoryEngine) *memoryStore {
	s, err := newStore(e, defaultTail, func(error) {})
	if err != nil {
		panic(err) // a memoryEngine does not fail
	}
	return &memoryStore{store: s, memory: e}
}

// onStore makes hook run at the start of each StoreLogs, on its goroutine and without locks, so that
// it may sleep in virtual time. Its error becomes the answer, and nothing is stored. nil takes it
// away.
func (m *memoryStore) onStore(hook func([]*raft.Log) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

// onTerm is onStore for numbers, which are terms.
func (m *memoryStore) onTerm(hook func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = hook
}

// SetUint64 runs the hook and stores.
func (m *memoryStore) SetUint64(key []byte, value uint64) error {
	m.mu.Lock()
	hook := m.term
	m.mu.Unlock()
	defer m.busy()()
	if hook != nil {
		hook()
	}
	return m.store.SetUint64(key, value)
}

// StoreLogs runs the hook and stores.
func (m *memoryStore) StoreLogs(logs []*raft.Log) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	defer m.busy()()
	if hook != nil {
		if err := hook(logs); err != nil {
			return err
		}
	}
	return m.store.StoreLogs(logs)
}

// StoreLog is StoreLogs with one entry.
func (m *memoryStore) StoreLog(log *raft.Log) error { return m.StoreLogs([]*raft.Log{log}) }

// crashed returns what a restart finds when the process is killed now: all that was reported as
// done and nothing of what is under way. The Raft instance on m may go on, to no effect on it.
func (m *memoryStore) crashed() *memoryStore { return newMemoryStoreOn(m.memory.copy()) }

// memoryEngine is an engine in memory. After Close it still holds its contents. What it says to be durable it gives to copy, no more.
type memoryEngine struct {
	mu      sync.RWMutex // guards what follows
	logs    map[uint64]raft.Log
	values  map[string][]byte
	ahead   map[uint64]raft.Log  // appended and not synced
	lag     func() time.Duration // how long the sync of an append takes; nil: no time
	syncing chan struct{}        // closed with the end of the newest sync; nil: there was none
}

func newMemoryEngine() *memoryEngine {
	return &memoryEngine{logs: map[uint64]raft.Log{}, values: map[string][]byte{}, ahead: map[uint64]raft.Log{}}
}

func (e *memoryEngine) copy() *memoryEngine {
	e.mu.RLock()
	defer e.mu.RUnlock()
	c := newMemoryEngine()
	c.logs, c.values, c.lag = maps.Clone(e.logs), maps.Clone(e.values), e.lag
	return c
}

// damage is Memory.Damage.
func (e *memoryEngine) damage() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, index := range slices.Backward(slices.Sorted(maps.Keys(e.logs))) {
		entry := e.logs[index]
		b, err := fsm.DecodeBatch(entry.Data)
		if entry.Type != raft.LogCommand || err != nil {
			continue
		}
		for _, c := range b.Commands {
			if c.Kind != fsm.KindPut || len(c.Value) == 0 {
				continue
			}
			c.Value[0] ^= 1
			data, err := b.AppendBinary(nil)
			if err != nil {
				return false
			}
			entry.Data = data
			e.logs[index] = entry
			return true
		}
	}
	return false
}

// bounds walks over the log: they are asked for once, at opening.
func (e *memoryEngine) bounds() (first, last uint64) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for index := range e.logs {
		if first == 0 || index < first {
			first = index
		}
		last = max(last, index)
	}
	return first, last
}

func (e *memoryEngine) FirstIndex() (uint64, error) {
	first, _ := e.bounds()
	return first, nil
}

func (e *memoryEngine) LastIndex() (uint64, error) {
	_, last := e.bounds()
	return last, nil
}

func (e *memoryEngine) GetLog(index uint64, log *raft.Log) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	found, ok := e.ahead[index]
	if !ok {
		found, ok = e.logs[index]
	}
	if !ok {
		return raft.ErrLogNotFound
	}
	*log = found
	return nil
}

func (e *memoryEngine) StoreLogs(logs []*raft.Log) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, log := range logs {
		e.logs[log.Index] = *log
	}
	return nil
}

// beginLogs implements beginner. Syncs end in order.
func (e *memoryEngine) beginLogs(logs []*raft.Log) (wait func() error, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lag == nil {
		for _, log := range logs {
			e.logs[log.Index] = *log
		}
		return nil, nil
	}
	for _, log := range logs {
		e.ahead[log.Index] = *log
	}
	before, lag, done := e.syncing, e.lag(), make(chan struct{})
	e.syncing = done
	return func() error {
		if before != nil {
			<-before
		}
		time.Sleep(lag)
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, log := range logs {
			e.logs[log.Index] = *log
			delete(e.ahead, log.Index)
		}
		close(done)
		return nil
	}, nil
}

func (e *memoryEngine) DeleteRange(from, to uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for index := from; index <= to; index++ {
		delete(e.logs, index)
	}
	return nil
}

func (e *memoryEngine) Set(key, value []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.values[string(key)] = append([]byte{}, value...)
	return nil
}

func (e *memoryEngine) Get(key []byte) ([]byte, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	value, ok := e.values[string(key)]
	if !ok {
		return nil, errKeyNotFound
	}
	return append([]byte{}, value...), nil
}

func (e *memoryEngine) Close() error { return nil }
