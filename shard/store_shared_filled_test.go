package shard

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Ensures that a node's shared log begins in a file that is filled, that nothing of former ones is left behind, and that what was acknowledged there is there at the next start.
func TestFilledLogs(t *testing.T) {
	disk := vfs.NewCrashableMem()
	for life := range uint64(3) {
		files := newFilledLogs(disk, testSharedDir)
		l, err := openSharedLog(files, testSharedDir, life > 0, false, slog.New(slog.DiscardHandler), func(err error) { t.Errorf("failed: %v", err) })
		must(t, err)
		names := namesOf(t, disk, logSuffix)
		if size := len(readFile(t, disk, slices.Max(names))); size < sharedMemtable {
			t.Errorf("life %d: the newest of %v has %d bytes", life, names, size)
		}
		if left := namesOf(t, disk, "filled"); len(left) != filledLogCount-1 {
			t.Errorf("life %d: left are %v", life, left)
		}
		s := testShared{l}.store(t, 1)
		if last, err := s.LastIndex(); err != nil || last != life {
			t.Errorf("life %d: the last index is %d, %v", life, last, err)
		}
		must(t, storeSynced(s, logs(life+1, life+1, 1)))
		disk = disk.CrashClone(vfs.CrashCloneCfg{})
		must(t, l.Close())
	}
}

// Ensures that a disk which has no room for filled files, or can't sync them, has a log nevertheless, and keeps no part of one.
func TestFilledLogsFail(t *testing.T) {
	for _, fails := range []errorfs.OpKind{errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileSync} {
		disk := vfs.NewMem()
		second := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == fails && strings.HasSuffix(op.Path, "filled-1") { // the one before it is whole
				return errorfs.ErrInjected
			}
			return nil
		}))
		l := openTestShared(t, newFilledLogs(second, testSharedDir))
		must(t, storeSynced(l.store(t, 1), logs(1, 1, 1)))
		if left := namesOf(t, disk, "filled"); len(left) != 0 {
			t.Errorf("%v fails: left are %v", fails, left)
		}
	}
}

// Ensures that what a former process left filled is removed before the log is opened: what that writes may need the room. And that a log is made where a filled file has gone.
func TestFilledLogsLeft(t *testing.T) {
	disk := vfs.NewMem()
	must(t, disk.MkdirAll(testSharedDir, 0o700))
	writeFile(t, disk, disk.PathJoin(testSharedDir, "filled-1"), make([]byte, 10))
	files := newFilledLogs(disk, testSharedDir)
	if left := namesOf(t, disk, "filled"); len(left) != 0 {
		t.Errorf("before the log is opened there are %v", left)
	}
	l := openTestShared(t, files)
	s := l.store(t, 1)
	must(t, storeSynced(s, logs(1, 1, 1)))
	for _, name := range namesOf(t, disk, "filled") {
		must(t, disk.Remove(name))
	}
	for i := uint64(2); i <= 4; i++ {
		l.flush(t)
		must(t, storeSynced(s, logs(i, i, 1)))
	}
}
