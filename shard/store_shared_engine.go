package shard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// sharedPrefix is what the keys of a replica begin with.
type sharedPrefix [16]byte

func prefixOf(shard ID, r uint64) (p sharedPrefix) {
	binary.BigEndian.PutUint64(p[:8], uint64(shard))
	binary.BigEndian.PutUint64(p[8:], r)
	return p
}

// Kinds of keys.
const (
	sharedRecord = iota
	sharedEntry
	sharedEnd // of no key: all of a replica's are below
)

func (p sharedPrefix) key(kind byte, rest ...byte) []byte {
	return append(append(append(make([]byte, 0, len(p)+1+len(rest)), p[:]...), kind), rest...)
}

func (p sharedPrefix) entry(index uint64) []byte {
	return binary.BigEndian.AppendUint64(p.key(sharedEntry), index)
}

// sharedEngine is one replica's part of a sharedLog.
type sharedEngine struct {
	log    *sharedLog
	prefix sharedPrefix
}

var _ engine = sharedEngine{}

// edge returns the key that move finds, of those at least from, nil for none.
func (e sharedEngine) edge(from []byte, move func(*pebble.Iterator) bool) ([]byte, error) {
	e.log.use.RLock()
	defer e.log.use.RUnlock()
	if e.log.closed {
		return nil, errStoreClosed
	}
	it, err := e.log.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: e.prefix.key(sharedEnd)})
	if err != nil {
		return nil, lost(err)
	}
	var key []byte
	if move(it) {
		key = bytes.Clone(it.Key())
	}
	return key, lost(it.Close())
}

// lost marks an error as the loss of data, unless it says nothing of them.
func lost(err error) error {
	if err == nil || passing(err) || errors.Is(err, ErrDataLost) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDataLost, err)
}

func (e sharedEngine) bound(move func(*pebble.Iterator) bool) (uint64, error) {
	key, err := e.edge(e.prefix.key(sharedEntry), move)
	switch {
	case err != nil || key == nil:
		return 0, err
	case len(key) != len(e.prefix)+9:
		return 0, fmt.Errorf("%w: %x is no key of an entry", ErrDataLost, key)
	}
	return binary.BigEndian.Uint64(key[len(e.prefix)+1:]), nil
}

// records names all that there are.
func (e sharedEngine) records() (names [][]byte, err error) {
	e.log.use.RLock()
	defer e.log.use.RUnlock()
	if e.log.closed {
		return nil, errStoreClosed
	}
	it, err := e.log.db.NewIter(&pebble.IterOptions{LowerBound: e.prefix.key(sharedRecord), UpperBound: e.prefix.key(sharedEntry)})
	if err != nil {
		return nil, lost(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		names = append(names, bytes.Clone(it.Key()[len(e.prefix)+1:]))
	}
	return names, lost(it.Close())
}

// FirstIndex implements engine.
func (e sharedEngine) FirstIndex() (uint64, error) { return e.bound((*pebble.Iterator).First) }

// LastIndex implements engine.
func (e sharedEngine) LastIndex() (uint64, error) { return e.bound((*pebble.Iterator).Last) }

// get returns a copy of a value, nil and no error when there is none.
func (e sharedEngine) get(key []byte) ([]byte, error) {
	e.log.use.RLock()
	defer e.log.use.RUnlock()
	if e.log.closed {
		return nil, errStoreClosed
	}
	value, closer, err := e.log.db.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	value = append([]byte{}, value...)
	return value, closer.Close()
}

const entryHeader = 8 + 1 + 4 // term, type, length of Data

// GetLog implements engine.
func (e sharedEngine) GetLog(index uint64, log *raft.Log) error {
	value, err := e.get(e.prefix.entry(index))
	switch {
	case err != nil:
		return err
	case value == nil:
		return raft.ErrLogNotFound
	case len(value) < entryHeader || uint64(len(value)-entryHeader) < uint64(binary.BigEndian.Uint32(value[9:])):
		return fmt.Errorf("it has %d bytes", len(value))
	}
	end := entryHeader + int(binary.BigEndian.Uint32(value[9:]))
	*log = raft.Log{Index: index, Term: binary.BigEndian.Uint64(value), Type: raft.LogType(value[8]),
		Data: value[entryHeader:end:end], Extensions: value[end:]}
	return nil
}

// StoreLogs implements engine.
func (e sharedEngine) StoreLogs(logs []*raft.Log) error {
	wait, err := e.beginLogs(logs)
	if err != nil {
		return err
	}
	return wait()
}

// beginLogs implements beginner.
func (e sharedEngine) beginLogs(logs []*raft.Log) (wait func() error, err error) {
	size := 0
	for _, log := range logs {
		size += len(e.prefix) + 9 + entryHeader + len(log.Data) + len(log.Extensions) + 16
	}
	return e.log.begin(size, func(b *pebble.Batch) error {
		for _, log := range logs {
			op := b.SetDeferred(len(e.prefix)+9, entryHeader+len(log.Data)+len(log.Extensions))
			copy(op.Key, e.prefix.entry(log.Index))
			binary.BigEndian.PutUint64(op.Value, log.Term)
			op.Value[8] = byte(log.Type)
			binary.BigEndian.PutUint32(op.Value[9:], uint32(len(log.Data)))
			copy(op.Value[entryHeader+copy(op.Value[entryHeader:], log.Data):], log.Extensions)
			if err := op.Finish(); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange implements engine. The room is given back by a later compaction.
func (e sharedEngine) DeleteRange(from, to uint64) error {
	return e.log.commit(0, func(b *pebble.Batch) error {
		return b.DeleteRange(e.prefix.entry(from), e.prefix.entry(to+1), nil)
	})
}

// Set implements engine.
func (e sharedEngine) Set(key, value []byte) error {
	return e.log.commit(len(key)+len(value), func(b *pebble.Batch) error {
		return b.Set(e.prefix.key(sharedRecord, key...), value, nil)
	})
}

// Get implements engine.
func (e sharedEngine) Get(key []byte) ([]byte, error) {
	value, err := e.get(e.prefix.key(sharedRecord, key...))
	if err == nil && value == nil {
		err = errKeyNotFound
	}
	return value, err
}

// Close implements engine. The log itself stays open.
func (e sharedEngine) Close() error {
	e.log.mu.Lock()
	defer e.log.mu.Unlock()
	delete(e.log.open, e.prefix)
	return nil
}
