package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// summed is an engine that finds out when what it reads is not what it wrote: neither raft-boltdb nor bbolt
// keeps a checksum of entries and records. A replica that applies a damaged entry differs from the others; one that
// reads a damaged vote may vote twice.
//
// Each entry carries a CRC-32C of index, term, type, Data and Extensions behind its Extensions, each record one of key
// and value behind its value. All errors but raft.ErrLogNotFound and errKeyNotFound wrap ErrDataLost.
// What bbolt itself needs to find them, checkPages looks at.
type summed struct{ engine }

const sumSize = crc32.Size

// entrySum is the sum of an entry as it was handed in.
func entrySum(log *raft.Log) uint32 {
	b := make([]byte, 0, 32)
	b = binary.BigEndian.AppendUint64(b, log.Index)
	b = binary.BigEndian.AppendUint64(b, log.Term)
	b = append(b, byte(log.Type))
	b = binary.BigEndian.AppendUint64(b, uint64(len(log.Data))) // or bytes of the one could pass for the other's
	sum := crc32.Checksum(b, castagnoli)
	sum = crc32.Update(sum, castagnoli, log.Data)
	return crc32.Update(sum, castagnoli, log.Extensions)
}

// StoreLogs implements engine.
func (s summed) StoreLogs(logs []*raft.Log) error { return s.engine.StoreLogs(withSums(logs)) }

// beginLogs implements beginner, as far as the engine below does.
func (s summed) beginLogs(logs []*raft.Log) (wait func() error, err error) {
	if b, ok := s.engine.(beginner); ok {
		return b.beginLogs(withSums(logs))
	}
	return nil, s.StoreLogs(logs)
}

// withSums returns the entries as they are stored. AppendedAt is left out: it only feeds the library's metrics.
func withSums(logs []*raft.Log) []*raft.Log {
	with := make([]raft.Log, len(logs))
	pointers := make([]*raft.Log, len(logs))
	for i, log := range logs {
		ext := make([]byte, 0, len(log.Extensions)+sumSize)
		ext = binary.BigEndian.AppendUint32(append(ext, log.Extensions...), entrySum(log))
		with[i] = raft.Log{Index: log.Index, Term: log.Term, Type: log.Type, Data: log.Data, Extensions: ext}
		pointers[i] = &with[i]
	}
	return pointers
}

// GetLog implements engine.
func (s summed) GetLog(index uint64, log *raft.Log) error {
	var found raft.Log
	switch err := s.engine.GetLog(index, &found); {
	case errors.Is(err, raft.ErrLogNotFound):
		return err
	case err != nil:
		return fmt.Errorf("%w: entry %d is damaged: %w", ErrDataLost, index, err)
	case len(found.Extensions) < sumSize:
		return fmt.Errorf("%w: entry %d is damaged: it has no checksum", ErrDataLost, index)
	case found.Index != index:
		return fmt.Errorf("%w: entry %d is damaged: it says that it is entry %d", ErrDataLost, index, found.Index)
	}
	end := len(found.Extensions) - sumSize
	sum := binary.BigEndian.Uint32(found.Extensions[end:])
	if found.Extensions = found.Extensions[:end:end]; end == 0 {
		found.Extensions = nil
	}
	if entrySum(&found) != sum {
		return fmt.Errorf("%w: entry %d is damaged: its checksum does not fit", ErrDataLost, index)
	}
	*log = found
	return nil
}

// recordSum is the sum of a record of the key-value table.
func recordSum(key, value []byte) uint32 {
	sum := crc32.Checksum(binary.BigEndian.AppendUint64(nil, uint64(len(key))), castagnoli)
	return crc32.Update(crc32.Update(sum, castagnoli, key), castagnoli, value)
}

// storedKey reports whether a replica's store has a record of that name.
func storedKey(key []byte) bool {
	switch string(key) {
	case keyCurrentTerm, keyVoteCandidate, keyReplica:
		return true
	}
	return false
}

// Set implements engine.
func (s summed) Set(key, value []byte) error {
	if !storedKey(key) {
		return fmt.Errorf("no store has a record %q", key)
	}
	with := make([]byte, 0, len(value)+sumSize)
	return s.engine.Set(key, binary.BigEndian.AppendUint32(append(with, value...), recordSum(key, value)))
}

// Get implements engine.
func (s summed) Get(key []byte) ([]byte, error) {
	with, err := s.engine.Get(key)
	switch {
	case err != nil && err.Error() == errKeyNotFound.Error():
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: record %s is damaged: %w", ErrDataLost, key, err)
	case len(with) < sumSize:
		return nil, fmt.Errorf("%w: record %s is damaged: it has no checksum", ErrDataLost, key)
	}
	end := len(with) - sumSize
	if recordSum(key, with[:end]) != binary.BigEndian.Uint32(with[end:]) {
		return nil, fmt.Errorf("%w: record %s is damaged: its checksum does not fit", ErrDataLost, key)
	}
	return with[:end:end], nil
}

// errHole is an entry that lacks within a log; also one that was deleted while it was looked for.
var errHole = fmt.Errorf("%w: the log lacks an entry", ErrDataLost)

// checkLog reads the whole log of an engine, which has no holes.
func checkLog(e engine) error {
	first, err := e.FirstIndex()
	if err != nil {
		return fmt.Errorf("reading the first index: %w", err)
	}
	last, err := e.LastIndex()
	if err != nil {
		return fmt.Errorf("reading the last index: %w", err)
	}
	for index := first; index != 0 && index <= last; index++ {
		var log raft.Log
		if err := e.GetLog(index, &log); errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("%w: %d, of %d to %d", errHole, index, first, last)
		} else if err != nil {
			return err
		}
	}
	return nil
}
