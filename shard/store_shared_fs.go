package shard

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// syncedFiles is a file system that knows how much of Pebble's newest log and manifest is synced. Each batch carries that as a promise,
// in a record which Pebble keeps in its log alone, so that the next start can tell a write that a crash tore from damage of what was
// acknowledged (checkShared). And a note beside the logs has it as of when the newest log was begun, and of an orderly end: a log that is gone, or ends
// too early, can't tell by itself. What neither knows, as the process was killed, the mark does (markName).
//
// It also hears of each change of the disk that fails before Pebble does, and makes Pebble's markers, which say which manifest holds, as durable
// as Pebble takes them for: a marker is not written before the manifest is there whatever happens, and the former one not removed before it is.
type syncedFiles struct {
	vfs.FS
	dir      string
	secret   uint64      // in each promise, so that nobody who has values stored can forge one
	failed   func(error) // hears of each change that fails, before Pebble does
	syncs    atomic.Uint64
	promises atomic.Uint64

	mu       sync.Mutex // guards following
	log      syncedFile
	manifest syncedFile
	mark     vfs.File // nil: none
}

// syncedFile is how many bytes of which file are synced.
type syncedFile struct {
	number uint64
	bytes  int64
}

func newSyncedFiles(fs vfs.FS, dir string) *syncedFiles { return &syncedFiles{FS: fs, dir: dir} }

// syncedPromise is what was synced.
type syncedPromise struct {
	secret        uint64
	log, manifest syncedFile
}

// promiseSize is that of: 1 (a version), the secret, number and bytes of the log, number and bytes of the manifest (8 each, big endian).
const (
	promiseSize    = 1 + 5*8
	promiseVersion = 1
)

func (p syncedPromise) bytes() []byte {
	b := append(make([]byte, 0, promiseSize), promiseVersion)
	for _, n := range []uint64{p.secret, p.log.number, uint64(p.log.bytes), p.manifest.number, uint64(p.manifest.bytes)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// parsePromise reads a promise.
func parsePromise(b []byte) (p syncedPromise, ok bool) {
	if len(b) != promiseSize || b[0] != promiseVersion {
		return p, false
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return syncedPromise{at(0), syncedFile{at(1), int64(at(2))}, syncedFile{at(3), int64(at(4))}}, true
}

func (s *syncedFiles) synced() syncedPromise {
	s.mu.Lock()
	defer s.mu.Unlock()
	return syncedPromise{s.secret, s.log, s.manifest}
}

// promise returns what is synced, for a batch.
func (s *syncedFiles) promise() []byte {
	s.promises.Add(1)
	return s.synced().bytes()
}

// syncedNote is the name of the note: a promise, and its CRC-32C (4, big endian).
const syncedNote = "SYNCED"

// note replaces the note by what is synced. A crash leaves the one or the other.
func (s *syncedFiles) note() error {
	name := s.PathJoin(s.dir, syncedNote)
	data := s.synced().sealed()
	f, err := s.Create(name+unfinished, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.Rename(name+unfinished, name); err != nil {
		return err
	}
	return s.syncDir()
}

// readNote reads the note in dir.
func readNote(files vfs.FS, dir string) (p syncedPromise, err error) {
	data, err := readAll(files, files.PathJoin(dir, syncedNote))
	if err != nil {
		return p, err
	}
	p, ok := unsealed(data)
	if !ok {
		return p, fmt.Errorf("%s is damaged", syncedNote)
	}
	return p, nil
}

// begin makes the folder and the first note of a log.
func (s *syncedFiles) begin() error {
	var secret [8]byte
	rand.Read(secret[:]) // never fails (crypto/rand)
	s.secret = binary.BigEndian.Uint64(secret[:])
	if err := s.MkdirAll(s.dir, 0); err != nil {
		return err
	}
	return s.note()
}

func (s *syncedFiles) syncDir() error {
	d, err := s.OpenDir(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const (
	logSuffix      = ".log"
	manifestPrefix = "MANIFEST-"
	markerPrefix   = "marker."
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

// tell has a failure heard of.
func (s *syncedFiles) tell(err error) error {
	if err != nil {
		s.failed(err)
	}
	return err
}

func (s *syncedFiles) watch(name string, f vfs.File, err error) (vfs.File, error) {
	if s.tell(err) != nil {
		return nil, err
	}
	number, isLog, known := numberOf(name)
	return &watchedFile{File: f, files: s, number: number, known: known, log: isLog}, nil
}

// Create implements vfs.FS.
func (s *syncedFiles) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	marks := strings.HasPrefix(s.PathBase(name), markerPrefix)
	if marks {
		if err := s.syncDir(); err != nil {
			return nil, err
		}
	}
	f, err := s.FS.Create(name, category)
	if err == nil && marks {
		if err := s.syncDir(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return s.watch(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (s *syncedFiles) ReuseForWrite(before, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(before, name, category)
	return s.watch(name, f, err)
}

// Rename implements vfs.FS.
func (s *syncedFiles) Rename(before, name string) error { return s.tell(s.FS.Rename(before, name)) }

// MkdirAll implements vfs.FS. What the log has is nobody else's to read.
func (s *syncedFiles) MkdirAll(dir string, _ os.FileMode) error {
	return s.tell(s.FS.MkdirAll(dir, 0o700))
}

// OpenDir implements vfs.FS.
func (s *syncedFiles) OpenDir(name string) (vfs.File, error) {
	f, err := s.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &watchedFile{File: f, files: s}, nil
}

// Unwrap implements vfs.FS.
func (s *syncedFiles) Unwrap() vfs.FS { return s.FS }

// watchedFile is written from the beginning to the end, by one goroutine at a time; or it is a folder.
type watchedFile struct {
	vfs.File
	files   *syncedFiles
	number  uint64
	known   bool // it is a log or a manifest
	log     bool
	written int64
}

// Write implements vfs.File.
func (f *watchedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written += int64(n)
	return n, f.files.tell(err)
}

// Sync implements vfs.File.
func (f *watchedFile) Sync() error { return f.synced(f.File.Sync()) }

// SyncData implements vfs.File.
func (f *watchedFile) SyncData() error { return f.synced(f.File.SyncData()) }

func (f *watchedFile) synced(err error) error {
	if f.log {
		f.files.syncs.Add(1)
	}
	if f.files.tell(err) != nil || !f.known {
		return err
	}
	first, err := f.files.progress(f.log, syncedFile{f.number, f.written})
	if f.files.tell(err) == nil && first && f.log {
		err = f.files.note() // before anything in this log is reported as done
	}
	return err
}

// progress takes down what was synced, also in the mark, and reports whether it is the first of its file.
func (s *syncedFiles) progress(log bool, file syncedFile) (first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := &s.manifest
	if log {
		newest = &s.log
	}
	if file.number < newest.number {
		return false, nil
	}
	first = file.number > newest.number
	*newest = file
	return first, s.writeMarkLocked()
}
