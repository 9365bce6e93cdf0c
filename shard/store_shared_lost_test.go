package shard

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// forgedPromise is a chunk of a log with that number that claims that no end of any log is sound.
func forgedPromise(number uint64) []byte {
	far := syncedFile{number, math.MaxInt64}
	batch := append(make([]byte, 12), 3, promiseSize)
	batch = append(batch, syncedPromise{log: far, manifest: far}.bytes()...)
	chunk := append(make([]byte, 19), batch...)
	binary.LittleEndian.PutUint16(chunk[4:], uint16(len(batch)))
	chunk[6] = 9 // a whole record
	binary.LittleEndian.PutUint32(chunk[7:], uint32(number))
	sum := crc32.Checksum(chunk[6:], castagnoli)
	binary.LittleEndian.PutUint32(chunk, (sum>>15|sum<<17)+0xa282ead8)
	return chunk
}

// Ensures that values which look like records of the log itself keep no node from starting: they lie behind the end of a log that is used again.
func TestSharedForgedPromises(t *testing.T) {
	var value []byte
	for number := range uint64(60) {
		value = append(value, forgedPromise(number)...)
	}
	seen := false
	chunk := forgedPromise(3)
	walkLog(append([]byte{0}, chunk...), 3, func(batch []byte) { _, seen = promiseIn(batch) })
	if !seen {
		t.Fatal("what is forged does not look like a promise")
	}
	disk := vfs.NewCrashableMem()
	l := openTestShared(t, disk)
	s := l.store(t, 1)
	for i := uint64(1); i <= 20; i++ {
		batch := logs(i, i, 1)
		if i <= 8 {
			batch[0].Extensions = value
		}
		must(t, storeSynced(s, batch))
		l.flush(t)
		again, err := reopenShared(t, disk.CrashClone(vfs.CrashCloneCfg{}))
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		must(t, again.Close())
	}
}

// Ensures that a file of a shared log that is gone, or ends anywhere too early, is found before anybody is answered, or was of no use: also the newest log, and
// the end of any file, once it was closed.
func TestSharedLostFiles(t *testing.T) {
	disk := vfs.NewCrashableMem()
	l := openTestShared(t, disk)
	s := l.store(t, 1)
	for i := uint64(1); i <= 3; i++ {
		must(t, storeSynced(s, logs(i, i, 1)))
		l.flush(t)
	}
	must(t, storeSynced(s, logs(4, 7, 1)))
	must(t, s.SetUint64([]byte(keyCurrentTerm), 7))
	must(t, s.SetUint64([]byte(keyVoteTerm), 7))
	must(t, s.Set([]byte(keyVoteCandidate), []byte("1/b/2")))
	want := contentsOf(t, s)
	killed := disk.CrashClone(vfs.CrashCloneCfg{})
	must(t, l.Close())

	lose := func(files *vfs.MemFS, name string, change func(files *vfs.MemFS)) (found bool) {
		t.Helper()
		left := files.CrashClone(vfs.CrashCloneCfg{})
		change(left)
		l, err := openSharedLog(left, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(err error) { t.Errorf("%s: %v", name, err) })
		if err != nil {
			if !errors.Is(err, ErrRejoin) {
				t.Errorf("%s: %v", name, err)
			}
			return true
		}
		defer l.Close()
		again, err := l.openStore(ReplicaID{1, "a", 1}, func(error) {})
		if err != nil {
			if !errors.Is(err, ErrDataLost) {
				t.Errorf("%s: %v", name, err)
			}
			return true
		}
		if first, last := again.bounds(); first != 1 || last != 7 || again.Term() != 7 || !reflect.DeepEqual(contentsOf(t, again), want) {
			t.Errorf("%s: the log goes from %d to %d, term %d", name, first, last, again.Term())
		}
		return false
	}
	names, found := namesOf(t, disk, ""), 0
	for _, name := range names {
		if lose(disk, name+" is gone", func(files *vfs.MemFS) { must(t, files.Remove(name)) }) {
			found++
		}
		data := readFile(t, disk, name)
		for n := range data {
			if n%17 != 0 && n < len(data)-40 {
				continue
			}
			lose(disk, path.Base(name)+" is cut", func(files *vfs.MemFS) { writeFile(t, files, name, data[:n]) })
		}
	}
	if found < len(names)/2 {
		t.Errorf("only %d of %v are missed", found, names)
	}
	logs := namesOf(t, killed, ".log")
	for _, name := range []string{logs[len(logs)-1], path.Join(testSharedDir, syncedNote)} {
		if !lose(killed, name, func(files *vfs.MemFS) { must(t, files.Remove(name)) }) {
			t.Errorf("a node that was killed does not miss %s", name)
		}
	}
}

// Ensures that a disk that is full or fails as a shared log is opened or made, at each change of a file, is told as that, and not as a loss of data, which an operator
// would take the node apart for; and that the next start, with a disk that works, has all.
func TestSharedOpensOnBadDisk(t *testing.T) {
	disk := vfs.NewCrashableMem()
	l := openTestShared(t, disk)
	s := l.store(t, 1)
	must(t, storeSynced(s, logs(1, 9, 1)))
	l.flush(t)
	must(t, storeSynced(s, logs(10, 12, 1)))
	for name, full := range map[string]*vfs.MemFS{"made": vfs.NewCrashableMem(), "opened": disk} {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
			for at, more := 0, new(atomic.Bool); at == 0 || more.Load(); at++ {
				more.Store(false)
				left := full.CrashClone(vfs.CrashCloneCfg{})
				told := make(chan error, 1)
				ended := make(chan struct{}) // never closed: nothing of a process that has ended goes on
				var over atomic.Bool
				n := 0
				files := changingFiles(left, func(op errorfs.Op) error {
					if over.Load() {
						<-ended
					}
					if n++; n <= at || op.Kind == errorfs.OpRemove {
						return nil
					}
					more.Store(true)
					return &fs.PathError{Op: "write", Path: op.Path, Err: errno}
				})
				go func() {
					l, err := openSharedLog(files, testSharedDir, name == "opened", false, slog.New(slog.DiscardHandler), func(err error) {
						over.Store(true)
						told <- err
						<-ended
					})
					if err == nil {
						err = l.Close()
					}
					over.Store(true)
					told <- err
				}()
				err := <-told
				switch {
				case err == nil && more.Load():
					t.Errorf("%s, change %d, %v: nobody was told", name, at, errno)
				case errors.Is(err, ErrDataLost):
					t.Errorf("%s, change %d, %v: %v", name, at, errno, err)
				case err != nil && !errors.Is(err, errno):
					t.Errorf("%s, change %d, %v: it does not say why: %v", name, at, errno, err)
				}
				again, err := reopenShared(t, left.CrashClone(vfs.CrashCloneCfg{}))
				if name == "made" {
					if err != nil && !strings.Contains(err.Error(), "not there") {
						t.Errorf("%s, change %d, %v: then %v", name, at, errno, err)
					}
					continue
				}
				must(t, err)
				if first, last := (testShared{again}).store(t, 1).bounds(); first != 1 || last != 12 {
					t.Errorf("%s, change %d, %v: the log goes from %d to %d", name, at, errno, first, last)
				}
			}
		}
	}
}

// Ensures that a start that fails as something can't be written says so, whether or not the report of it has ended the process by then.
func TestSharedOpensWithoutRoom(t *testing.T) {
	disk := vfs.NewCrashableMem()
	l := openTestShared(t, disk)
	must(t, storeSynced(l.store(t, 1), logs(1, 9, 1)))
	must(t, l.Close())
	for _, kind := range []errorfs.OpKind{errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpRename} {
		files := changingFiles(disk.CrashClone(vfs.CrashCloneCfg{}), func(op errorfs.Op) error {
			if op.Kind == kind && strings.HasSuffix(op.Path, ".dbtmp") { // its own settings, which become OPTIONS
				return syscall.ENOSPC
			}
			return nil
		})
		reports := 0
		_, err := openSharedLog(files, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(error) { reports++ })
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrDataLost) || reports != 1 {
			t.Errorf("operation %v: got %v after %d reports", kind, err, reports)
		}
	}
}

// Ensures that a log which is compacted just as others' damage is judged is not taken for damaged, which would end the process.
func TestSharedJudgesWhileCompacted(t *testing.T) {
	l := openTestShared(t, vfs.NewCrashableMem())
	must(t, storeSynced(l.store(t, 1), logs(1, 9, 1)))
	e := sharedEngine{l.sharedLog, prefixOf(1, 1)}
	must(t, e.DeleteRange(4, 5)) // as reading one entry after another sees it
	l.judge(pebble.DataCorruptionInfo{Path: "some.sst"})
	must(t, l.failure())
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sound) > 0 {
		t.Error("what was not read whole is taken for sound")
	}
}

// Ensures that a damaged block costs a replica and not the node also where it has the first that the replica has: a start lists who is in the log.
func TestDamagedFirstBlock(t *testing.T) {
	k := &keepHost{t: t, dir: t.TempDir(), kind: LogShared}
	defer func() { k.Close() }()
	k.restart()
	startReplica(k, 1)
	log := k.storage.(*disk).log
	must(t, log.db.Flush())
	must(t, k.Close())
	names, err := filepath.Glob(filepath.Join(k.dir, sharedDir, "*.sst"))
	must(t, err)
	damaged := false
	for _, name := range names {
		data, err := os.ReadFile(name)
		must(t, err)
		if at := strings.Index(string(data), "7/a/1"); at >= 0 {
			data[at] ^= 1
			must(t, os.WriteFile(name, data, 0o600))
			damaged = true
		}
	}
	if !damaged {
		t.Fatal("nothing to damage")
	}
	k.restart()
	if err := k.OpenCache(Spec{Shard: 7, R: 1}); !errors.Is(err, ErrDataLost) || errors.Is(err, ErrRejoin) {
		t.Errorf("got %v, want %v", err, ErrDataLost)
	}
}

// Ensures that nobody else on the machine can read what the log has.
func TestSharedRights(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, err := openSharedLog(vfs.Default, dir, false, false, slog.New(slog.DiscardHandler), func(error) {})
	must(t, err)
	defer l.Close()
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has %v", info.Mode())
	}
}
