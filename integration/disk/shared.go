package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// sharedFolder is where the data shards of a node have one log, if they have: an instance of Pebble.
const sharedFolder = "log"

// A key of the shared log is shard (8, big endian), r (8), what it is (1; 1: an entry), and for an entry its index (8).
const (
	prefixSize = 8 + 8
	entryKind  = 1
	keySize    = prefixSize + 1 + 8
)

// sharedReplicas returns where the last entries of each replica in a shared log lie, by its name as a folder has it. An entry that was written to a file
// of Pebble's is searched there, as what its write-ahead log has of it is not needed any more.
func sharedReplicas(dir string) (map[string][]entry, error) {
	folder := filepath.Join(dir, sharedFolder)
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	db, err := pebble.Open(folder, &pebble.Options{ReadOnly: true, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", folder, err)
	}
	defer db.Close()
	content, err := contentOf(folder, db)
	if err != nil {
		return nil, err
	}
	it, err := db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	all := map[string][]entry{}
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) <= prefixSize {
			return nil, errors.Join(fmt.Errorf("a key of %d bytes", len(key)), it.Close())
		}
		prefix := bytes.Clone(key[:prefixSize])
		name := fmt.Sprintf("%d-%d", binary.BigEndian.Uint64(prefix), binary.BigEndian.Uint64(prefix[8:]))
		end := append(bytes.Clone(prefix), entryKind+1)
		for ok = it.SeekLT(end); ok && len(all[name]) < lastFew && len(it.Key()) == keySize && bytes.HasPrefix(it.Key(), append(bytes.Clone(prefix), entryKind)); ok = it.Prev() {
			e := entry{index: binary.BigEndian.Uint64(it.Key()[prefixSize+1:]), size: int64(len(it.Value()))}
			if e.path, e.offset = find(content, it.Value()); e.path != "" { // else it is divided between two blocks of the log
				all[name] = append(all[name], e)
			}
		}
		ok = it.SeekGE(end)
	}
	return all, it.Close()
}

// file is one of the shared log's.
type file struct {
	path    string
	content []byte
}

// contentOf reads the files that a shared log has: those that Pebble knows, and its logs, the newest first.
func contentOf(folder string, db *pebble.DB) (all []file, err error) {
	levels, err := db.SSTables()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, level := range levels {
		for _, t := range level {
			paths = append(paths, filepath.Join(folder, fmt.Sprintf("%06d.sst", uint64(t.FileNum))))
		}
	}
	logs, err := filepath.Glob(filepath.Join(folder, "*.log"))
	if err != nil {
		return nil, err
	}
	slices.Sort(logs)
	slices.Reverse(logs)
	for _, path := range append(paths, logs...) {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		all = append(all, file{path, content})
	}
	return all, nil
}

func find(all []file, value []byte) (path string, offset int64) {
	for _, f := range all {
		if at := bytes.LastIndex(f.content, value); at >= 0 {
			return f.path, int64(at)
		}
	}
	return "", math.MinInt64
}

// quiet is a logger. A damaged log that can't be opened is told by the error alone.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// sharedFiles are the files of the shared log of which each says something, as long as it is needed.
func sharedFiles(dir string) (all []string, err error) {
	for _, pattern := range []string{"*.log", "*.sst", "MANIFEST-*", "marker.*"} {
		found, err := filepath.Glob(filepath.Join(dir, sharedFolder, pattern))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}
