package shard

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// filledLogs is a file system in which the first logs that Pebble makes are full of zeros already, as those are full that it uses again later: a sync of what lies
// in blocks that are written anew costs the disk less than one of blocks that the file did not have before, as that changes the file system's own records
// (ext4: 180 us beside 235).
//
// A log that ends in zeros is one that was not written further, to Pebble as to checkShared.
//
//	the process dies             what is left                       the next start
//	while one is filled          a part of it, under its own name   fills it from the beginning
//	before it is taken           all of it, under its own name      the same; it is removed first, as what Pebble does before it makes a log may need the room
//	as it becomes a log          the one name or the other          the same, or an empty log
type filledLogs struct {
	vfs.FS
	count, bytes int

	mu     sync.Mutex // guards following
	filled bool
	left   []string // names of those that are not in use yet
}

// Pebble fills its first log, and another one or two while it writes what is in the first one to a file, as one that is not needed any more takes the next number.
const filledLogCount = 3

// newFilledLogs removes what a former process left in the log's folder.
func newFilledLogs(files vfs.FS, dir string) *filledLogs {
	f := &filledLogs{FS: files, count: filledLogCount, bytes: sharedMemtable}
	f.removeAll(dir)
	return f
}

func (f *filledLogs) name(dir string, n int) string {
	return f.PathJoin(dir, fmt.Sprintf("filled-%d", n))
}

// removeAll gives the room back of all that are not in use.
func (f *filledLogs) removeAll(dir string) {
	for n := range f.count {
		_ = f.Remove(f.name(dir, n)) // most are not there
	}
}

// Create implements vfs.FS.
func (f *filledLogs) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if _, isLog, ok := numberOf(name); !isLog || !ok {
		return f.FS.Create(name, category)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.filled {
		f.filled = true
		f.fillLocked(f.PathDir(name))
	}
	if len(f.left) == 0 {
		return f.FS.Create(name, category)
	}
	filled := f.left[0]
	f.left = f.left[1:]
	file, err := f.ReuseForWrite(filled, name, category)
	if errors.Is(err, fs.ErrNotExist) { // somebody took it for rubbish
		return f.FS.Create(name, category)
	}
	return file, err
}

// Unwrap implements vfs.FS.
func (f *filledLogs) Unwrap() vfs.FS { return f.FS }

// fillLocked makes what it can: whatever keeps it from that is met again by who needs the disk.
func (f *filledLogs) fillLocked(dir string) {
	for n := range f.count {
		name := f.name(dir, n)
		if err := f.fill(name); err != nil {
			f.removeAll(dir) // their room is needed
			f.left = nil
			return
		}
		f.left = append(f.left, name)
	}
}

func (f *filledLogs) fill(name string) error {
	file, err := f.FS.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	zeros := make([]byte, min(f.bytes, 256<<10))
	for written := 0; written < f.bytes && err == nil; written += len(zeros) {
		_, err = file.Write(zeros)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}
