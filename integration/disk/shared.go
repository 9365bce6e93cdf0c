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

// sharedReplicas returns where the last entries of each replica in a shared log lie, by its name as a folder has it: the last of all, and the last that
// Pebble has written to its other files, whose write-ahead log is not needed any more. Damage of the one costs the node, and of the other the replica.
func sharedReplicas(dir string) (map[string][]entry, error) {
	folder := filepath.Join(dir, sharedFolder)
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	db, err := pebble.Open(folder, &pebble.Options{ReadOnly: true, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{},
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}}) // it would end the process; the error tells, too
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", folder, err)
	}
	defer db.Close()
	content, err := contentOf(folder, db)
	if err != nil {
		return nil, err
	}
	all := map[string][]entry{}
	for _, o := range []*pebble.IterOptions{{}, {OnlyReadGuaranteedDurable: true}} {
		if err := addLast(all, content, db, o); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// addLast adds the last entries of each replica that an iterator meets, unless they are gone in fact.
func addLast(all map[string][]entry, content []file, db *pebble.DB, o *pebble.IterOptions) error {
	it, err := db.NewIter(o)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; {
		if len(it.Key()) <= prefixSize {
			return errors.Join(fmt.Errorf("a key of %d bytes", len(it.Key())), it.Close())
		}
		prefix := bytes.Clone(it.Key()[:prefixSize])
		name := fmt.Sprintf("%d-%d", binary.BigEndian.Uint64(prefix), binary.BigEndian.Uint64(prefix[8:]))
		entries, end := append(bytes.Clone(prefix), entryKind), append(bytes.Clone(prefix), entryKind+1)
		seen := 0
		for ok = it.SeekLT(end); ok && seen < lastFew && len(it.Key()) == keySize && bytes.HasPrefix(it.Key(), entries); ok = it.Prev() {
			seen++
			_, closer, err := db.Get(it.Key())
			if errors.Is(err, pebble.ErrNotFound) {
				continue
			} else if err = errors.Join(err, closer.Close()); err != nil {
				return errors.Join(err, it.Close())
			}
			e := entry{index: binary.BigEndian.Uint64(it.Key()[prefixSize+1:]), size: int64(len(it.Value()))}
			e.path, e.offset = find(content, it.Value())
			if e.path != "" && !slices.Contains(all[name], e) { // else it is divided between two blocks of the log
				all[name] = append(all[name], e)
			}
		}
		ok = it.SeekGE(end)
	}
	return it.Close()
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
			number := uint64(t.FileNum)
			if t.Virtual { // a part of a file
				number = uint64(t.BackingSSTNum)
			}
			if path := filepath.Join(folder, fmt.Sprintf("%06d.sst", number)); !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
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

// find returns the first of files that has a value, and where.
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
