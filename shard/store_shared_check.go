package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// checkShared reads the logs of a Pebble instance, and the manifest that says which files it is made of, and returns an error where
// something is damaged that was synced. there: the instance exists, and note and mark say that of it.
//
// Pebble v2.1.7 looks at these itself when it opens, but where a record is damaged it takes that for the end, silently, if
//
//   - it is in the manifest, wherever it is there (version_set.go, load). Files that the rest names are then removed as superfluous.
//   - it is in the newest log, and no later block of 32 KiB has a record that names a point behind the damage as synced
//     (record.go, readAheadForCorruption). The rest of the same block is never looked at, and what records name falls behind
//     what is synced by what ever filled a block (log_writer.go, flushLoop counts only the last one of each write).
//   - the bit that flipped is in the log's number, and makes it one more.
//
// So each batch says in its own words how much was synced before it was made (syncedFiles), and so do a note and the mark: whatever lies before that
// must be whole. What lies behind may be torn: a crash does that, and nothing of it was reported as done. Only after a loss of power may the mark say too
// little: damage of what was written last, without a write after it, can't be told from that then.
//
// Bytes that clients had stored may lie behind the end of a log, where it is searched for promises at any offset: the secret tells them apart.
func checkShared(files vfs.FS, dir string) (there bool, note syncedPromise, err error) {
	if _, err := files.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, note, nil
	}
	desc, err := pebble.Peek(dir, files)
	if err != nil || !desc.Exists {
		return false, note, err
	}
	if note, err = readNote(files, dir); err != nil {
		return true, note, err
	}
	mark, err := readMark(files, dir)
	if err == nil {
		note = note.latest(mark)
		err = checkSynced(files, dir, desc.ManifestFilename, note)
	}
	return true, note, err
}

// checkSynced is checkShared for a log that there is.
func checkSynced(files vfs.FS, dir, manifestName string, note syncedPromise) error {
	names, err := files.List(dir)
	if err != nil {
		return err
	}
	manifest, _, ok := numberOf(manifestName)
	if !ok {
		return fmt.Errorf("%s is no manifest", manifestName)
	}
	whole := map[uint64]int64{}    // of each log, the bytes up to the first that are no record
	promised := map[uint64]int64{} // of each log, the bytes that were synced
	manifestPromised := int64(0)
	take := func(p syncedPromise) {
		promised[p.log.number] = max(promised[p.log.number], p.log.bytes)
		if p.manifest.number == manifest {
			manifestPromised = max(manifestPromised, p.manifest.bytes)
		}
	}
	take(note)
	for _, name := range names {
		number, isLog, ok := numberOf(name)
		if !isLog || !ok {
			continue
		}
		data, err := readAll(files, files.PathJoin(dir, name))
		if err != nil {
			return err
		}
		whole[number] = walkLog(data, number, func(batch []byte) {
			if p, ok := promiseIn(batch); ok && p.secret == note.secret {
				take(p)
			}
		})
	}
	data, err := readAll(files, files.PathJoin(dir, files.PathBase(manifestName)))
	if err != nil {
		return err
	}
	needed := uint64(0) // the first log that is not in other files yet
	switch end, more := walkManifest(data, func(edit []byte) {
		if n, ok := neededIn(edit); ok {
			needed = n
		}
	}); {
	case more:
		return fmt.Errorf("%s is damaged at byte %d, and goes on behind it", manifestName, end)
	case end < manifestPromised:
		return fmt.Errorf("%s is damaged at byte %d; it was synced up to %d", manifestName, end, manifestPromised)
	}
	for number, bytes := range promised {
		switch end, here := whole[number]; {
		case number < needed || bytes == 0:
		case !here:
			return fmt.Errorf("log %d is not there; it was synced up to %d", number, bytes)
		case end < bytes:
			return fmt.Errorf("log %d is damaged at byte %d; it was synced up to %d", number, end, bytes)
		}
	}
	return nil
}

func readAll(files vfs.FS, path string) ([]byte, error) {
	f, err := files.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	return data, errors.Join(err, f.Close())
}

// A file of records is a row of blocks, and a record one chunk of a block or several in consecutive blocks:
//
//	sum (4) | length of payload (2) | type (1) | payload                                  in manifests
//	sum (4) | length (2) | type (1) | number of the log (4) | payload                     in logs
//	sum (4) | length (2) | type (1) | number of the log (4) | synced (8) | payload        in logs
//
// The rest of a block that has no room for a header is zero. All numbers are little endian; the sum is a masked CRC-32C of all from the type on.
const (
	recordBlock = 32 << 10
	logEnd      = 11 // a header without sum and length, that names the next number, ends a log that was closed
)

// chunkPlace is that of a chunk in its record.
type chunkPlace int

const (
	fullChunk chunkPlace = iota
	firstChunk
	middleChunk
	lastChunk
)

// chunkAt reads the chunk at the beginning of rest, the rest of a block; of a log if number is given.
func chunkAt(rest []byte, number *uint64) (p chunkPlace, payload []byte, size int, ok bool) {
	if len(rest) < 7 || rest[6] < 1 || rest[6] > 12 {
		return 0, nil, 0, false
	}
	kind := int(rest[6] - 1)
	header := [...]int{7, 11, 19}[kind/4]
	size = header + int(binary.LittleEndian.Uint16(rest[4:]))
	if (header == 7) != (number == nil) || size > len(rest) {
		return 0, nil, 0, false
	}
	if number != nil && binary.LittleEndian.Uint32(rest[7:]) != uint32(*number) {
		return 0, nil, 0, false
	}
	sum := crc32.Checksum(rest[6:size], castagnoli)
	if binary.LittleEndian.Uint32(rest) != (sum>>15|sum<<17)+0xa282ead8 {
		return 0, nil, 0, false
	}
	return chunkPlace(kind % 4), rest[header:size], size, true
}

// restOf is the rest of the block at pos.
func restOf(data []byte, pos int) []byte {
	return data[pos:min(len(data), pos-pos%recordBlock+recordBlock)]
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// walkLog hands each batch in a log to batch, and returns how many bytes from the beginning on are as they were written. Behind damage it
// goes on with whatever is whole.
func walkLog(data []byte, number uint64, batch func([]byte)) (whole int64) {
	whole = -1
	var record []byte
	within := false
	for pos := 0; pos < len(data); {
		rest := restOf(data, pos)
		p, payload, size, ok := chunkAt(rest, &number)
		switch {
		case ok:
			if p == fullChunk || p == firstChunk {
				record = record[:0]
			}
			record = append(record, payload...)
			if p == fullChunk || p == lastChunk && within {
				batch(record)
			}
			within = p == firstChunk || p == middleChunk && within
			pos += size
		case whole < 0 && len(rest) < 19 && (pos+len(rest))%recordBlock == 0 && zero(rest):
			pos += len(rest)
		case whole < 0:
			whole = int64(pos)
			if len(rest) >= logEnd && zero(rest[:6]) && rest[6] == 5 && binary.LittleEndian.Uint32(rest[7:]) == uint32(number)+1 {
				whole += logEnd
			}
			within = false
			pos++
		default:
			within = false
			pos++
		}
	}
	if whole < 0 {
		return int64(len(data))
	}
	return whole
}

// walkManifest hands the records of a manifest to edit, up to the first that is not as it was written, and returns how many bytes come
// before that, and whether a record begins behind it. Each is synced before the next one is written.
func walkManifest(data []byte, edit func([]byte)) (whole int64, more bool) {
	var record []byte
	pos := 0
	for pos < len(data) {
		rest := restOf(data, pos)
		if p, payload, size, ok := chunkAt(rest, nil); ok {
			if p == fullChunk || p == firstChunk {
				record = record[:0]
			}
			record = append(record, payload...)
			if p == fullChunk || p == lastChunk {
				edit(record)
			}
			pos += size
		} else if len(rest) < 7 && (pos+len(rest))%recordBlock == 0 && zero(rest) {
			pos += len(rest)
		} else {
			break
		}
	}
	whole = int64(pos)
	for pos++; pos < len(data); pos++ {
		if p, _, _, ok := chunkAt(restOf(data, pos), nil); ok && (p == fullChunk || p == firstChunk) {
			return whole, true
		}
	}
	return whole, false
}

// neededIn returns the first log that is needed from a record of a manifest on, if it says so. Such a record is a row of tags and values, of which
// the name of the order of keys (1, a string) and that number (2) come first.
func neededIn(edit []byte) (number uint64, ok bool) {
	tag, n := binary.Uvarint(edit)
	if n > 0 && tag == 1 {
		length, m := binary.Uvarint(edit[n:])
		if m <= 0 || length > uint64(len(edit)-n-m) {
			return 0, false
		}
		edit = edit[n+m+int(length):]
		tag, n = binary.Uvarint(edit)
	}
	if n <= 0 || tag != 2 {
		return 0, false
	}
	number, n = binary.Uvarint(edit[n:])
	return number, n > 0
}

// promiseIn returns the promise that a batch begins with: sequence number (8) and count (4), then of each record its kind and, of one for
// the log alone (3), length and bytes.
func promiseIn(batch []byte) (p syncedPromise, ok bool) {
	const header = 8 + 4
	if len(batch) < header+2+promiseSize || batch[header] != 3 || batch[header+1] != promiseSize {
		return p, false
	}
	return parsePromise(batch[header+2 : header+2+promiseSize])
}
