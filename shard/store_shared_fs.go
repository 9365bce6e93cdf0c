package shard

import (
	"encoding/binary"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// syncedFiles is a file system that knows how much of Pebble's newest log and manifest is synced. Each batch carries that as a promise,
// in a record which Pebble keeps in its log alone, so that the next start can tell a write that a crash tore from damage of what was
// acknowledged (checkShared).
type syncedFiles struct {
	vfs.FS
	failed   func(error)   // hears of each write and sync that fails, before Pebble does
	syncs    atomic.Uint64 // of logs
	promises atomic.Uint64

	mu       sync.Mutex // guards following
	log      syncedFile
	manifest syncedFile
}

// syncedFile is how many bytes of which file are synced.
type syncedFile struct {
	number uint64
	bytes  int64
}

func newSyncedFiles(fs vfs.FS) *syncedFiles { return &syncedFiles{FS: fs} }

// promiseSize is that of: 1 (a version), number and bytes of the log, number and bytes of the manifest (8 each, big endian).
const (
	promiseSize    = 1 + 4*8
	promiseVersion = 1
)

// promise returns what is synced.
func (s *syncedFiles) promise() []byte {
	s.promises.Add(1)
	s.mu.Lock()
	log, manifest := s.log, s.manifest
	s.mu.Unlock()
	p := append(make([]byte, 0, promiseSize), promiseVersion)
	for _, n := range []uint64{log.number, uint64(log.bytes), manifest.number, uint64(manifest.bytes)} {
		p = binary.BigEndian.AppendUint64(p, n)
	}
	return p
}

// parsePromise reads a promise.
func parsePromise(p []byte) (log, manifest syncedFile, ok bool) {
	if len(p) != promiseSize || p[0] != promiseVersion {
		return log, manifest, false
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(p[1+8*i:]) }
	return syncedFile{at(0), int64(at(1))}, syncedFile{at(2), int64(at(3))}, true
}

// writes reports whether a log was synced.
func (s *syncedFiles) writes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.number > 0
}

const (
	logSuffix      = ".log"
	manifestPrefix = "MANIFEST-"
)

// numberOf returns the number in the name of a log or manifest of Pebble's.
func numberOf(name string) (number uint64, isLog, ok bool) {
	base := filepath.Base(name)
	digits, isLog := strings.CutSuffix(base, logSuffix)
	if !isLog {
		if digits, ok = strings.CutPrefix(base, manifestPrefix); !ok {
			return 0, false, false
		}
	}
	number, err := strconv.ParseUint(digits, 10, 64)
	return number, isLog, err == nil
}

func (s *syncedFiles) watch(name string, f vfs.File, err error) (vfs.File, error) {
	number, isLog, ok := numberOf(name)
	if err != nil && ok {
		s.failed(err)
	}
	if err != nil || !ok {
		return f, err
	}
	return &watchedFile{File: f, files: s, number: number, log: isLog}, nil
}

// Create implements vfs.FS.
func (s *syncedFiles) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, category)
	return s.watch(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (s *syncedFiles) ReuseForWrite(before, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(before, name, category)
	return s.watch(name, f, err)
}

// Unwrap implements vfs.FS.
func (s *syncedFiles) Unwrap() vfs.FS { return s.FS }

// watchedFile is written from the beginning to the end, by one goroutine at a time.
type watchedFile struct {
	vfs.File
	files   *syncedFiles
	number  uint64
	log     bool
	written int64
}

// Write implements vfs.File.
func (f *watchedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written += int64(n)
	if err != nil {
		f.files.failed(err)
	}
	return n, err
}

// Sync implements vfs.File.
func (f *watchedFile) Sync() error { return f.synced(f.File.Sync()) }

// SyncData implements vfs.File.
func (f *watchedFile) SyncData() error { return f.synced(f.File.SyncData()) }

func (f *watchedFile) synced(err error) error {
	if f.log {
		f.files.syncs.Add(1)
	}
	if err != nil {
		f.files.failed(err)
		return err
	}
	f.files.mu.Lock()
	defer f.files.mu.Unlock()
	newest := &f.files.manifest
	if f.log {
		newest = &f.files.log
	}
	if f.number >= newest.number {
		*newest = syncedFile{f.number, f.written}
	}
	return nil
}
