package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The mark is a file beside the logs that says what the next batch's promise would say. It is written when a sync has ended, before anybody hears
// of that, and not synced itself: that takes microseconds. So after the end of a process, by kill -9 too, it says exactly what was acknowledged,
// and a newest log that is cut off or damaged since is told from a torn one. After a loss of power it says what it said at some time
// before, which was true and is less, or nothing: then the note (syncedNote) is what there is.
//
// No number of a log that it names is used again, since the names of files are synced before. What it says of a manifest ends with the next opening,
// when Pebble makes a new one. A mark that is missing, damaged or of another log, by its secret, says nothing.
const markName = "SYNCED.now"

// sealed is a promise with its CRC-32C (4, big endian).
func (p syncedPromise) sealed() []byte {
	b := p.bytes()
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// unsealed is the inverse of sealed.
func unsealed(data []byte) (p syncedPromise, ok bool) {
	if len(data) != promiseSize+crc32.Size || binary.BigEndian.Uint32(data[promiseSize:]) != crc32.Checksum(data[:promiseSize], castagnoli) {
		return p, false
	}
	return parsePromise(data[:promiseSize])
}

// latest is what p and a later look at the same log say together.
func (p syncedPromise) latest(q syncedPromise) syncedPromise {
	if p.secret == q.secret {
		p.log, p.manifest = p.log.latest(q.log), p.manifest.latest(q.manifest)
	}
	return p
}

// latest is the one of two that more was synced of.
func (f syncedFile) latest(g syncedFile) syncedFile {
	if g.number > f.number || g.number == f.number && g.bytes > f.bytes {
		return g
	}
	return f
}

// readMark returns what the mark in dir says, the zero promise for nothing.
func readMark(files vfs.FS, dir string) (p syncedPromise, err error) {
	data, err := readAll(files, files.PathJoin(dir, markName))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	p, _ = unsealed(data)
	return p, nil
}

// openMark makes the mark, or goes on with the one that is there, which is part of what is known.
func (s *syncedFiles) openMark() error {
	wrap := func(err error) error {
		return fmt.Errorf("noting how far the shared log %s is synced: %w", s.dir, err)
	}
	f, err := s.FS.OpenReadWrite(s.PathJoin(s.dir, markName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark = f
	if err := s.writeMarkLocked(); err != nil {
		s.mark = nil
		return wrap(errors.Join(err, f.Close()))
	}
	return nil
}

func (s *syncedFiles) writeMarkLocked() error {
	if s.mark == nil {
		return nil
	}
	_, err := s.mark.WriteAt(syncedPromise{s.secret, s.log, s.manifest}.sealed(), 0)
	return err
}

func (s *syncedFiles) closeMark() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mark == nil {
		return nil
	}
	f := s.mark
	s.mark = nil
	return f.Close()
}
