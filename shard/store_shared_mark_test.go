package shard

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// killed is what a process that was killed just now leaves in fs.
func killed(fs *vfs.MemFS) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
}

// Ensures that after kill -9 no write that was acknowledged is dropped as torn, be it the last one: wherever the newest log is damaged, cut off or empty, and
// where it is gone, the shared log does not open.
func TestSharedDamageAfterKill(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestShared(t, fs)
	s := l.store(t, 1)
	must(t, storeSynced(s, logs(1, 10, 1)))
	l.flush(t) // what follows is in another log
	for i := uint64(11); i <= 20; i++ {
		must(t, storeSynced(s, logs(i, i, 1)))
	}
	names := namesOf(t, fs, ".log")
	name := names[len(names)-1]
	data := readFile(t, fs, name)
	if !strings.Contains(string(data), "20@1") || strings.Contains(string(data), "10@1") {
		t.Fatalf("not all of 11 to 20 is in %s", name)
	}
	try := func(what string, damage func(fs vfs.FS)) {
		t.Helper()
		fs := killed(fs)
		damage(fs)
		l, err := openSharedLog(fs, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(error) {})
		if err == nil {
			must(t, l.Close())
		}
		if !errors.Is(err, ErrRejoin) {
			t.Errorf("%s: got %v, want %v", what, err, ErrRejoin)
		}
	}
	try("gone", func(fs vfs.FS) { must(t, fs.Remove(name)) })
	for _, size := range []int{0, 1, len(data) / 2, len(data) - 1} {
		try("cut off", func(fs vfs.FS) { writeFile(t, fs, name, data[:size]) })
		try("zero", func(fs vfs.FS) {
			writeFile(t, fs, name, append(slices.Clone(data[:size]), make([]byte, len(data)-size)...))
		})
	}
	for i := range data {
		if i%7 == 0 || i > len(data)-100 {
			try("a bit", func(fs vfs.FS) {
				damaged := slices.Clone(data)
				damaged[i] ^= 1 << (i % 8)
				writeFile(t, fs, name, damaged)
			})
		}
	}
	// So it is where the next process was killed while it opened the log, until all is in another file.
	refused, done := 0, false
	for n := int64(1); !done; n++ {
		opened := killed(fs)
		dying := &dyingFiles{FS: opened, crash: func() *vfs.MemFS { return killed(opened) }}
		dying.after.Store(n)
		l, err := openSharedLog(dying, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(error) {})
		must(t, err)
		left := dying.left.Load()
		must(t, l.Close())
		if done = left == nil; done {
			break
		}
		if _, err := left.Stat(name); err == nil {
			writeFile(t, left, name, data[:len(data)/2])
		}
		l, err = openSharedLog(left, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(error) {})
		if err != nil {
			if refused++; !errors.Is(err, ErrRejoin) {
				t.Errorf("killed at step %d of the opening: %v", n, err)
			}
			continue
		}
		if _, last := (testShared{l}).store(t, 1).bounds(); last != 20 {
			t.Errorf("killed at step %d of the opening, then cut off: the log ends at %d", n, last)
		}
		must(t, l.Close())
	}
	if refused < 5 {
		t.Errorf("only %d kills left the log in use", refused)
	}
	again, err := reopenShared(t, killed(fs))
	must(t, err)
	if first, last := (testShared{again}).store(t, 1).bounds(); first != 1 || last != 20 {
		t.Errorf("undamaged, there are entries %d to %d", first, last)
	}
}

// Ensures that a mark that is gone, damaged, empty or of before keeps nothing from opening.
func TestSharedMarkSaysLess(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openTestShared(t, fs).store(t, 1)
	mark := path.Join(testSharedDir, markName)
	must(t, storeSynced(s, logs(1, 5, 1)))
	before := readFile(t, fs, mark)
	must(t, storeSynced(s, logs(6, 10, 1)))
	now := readFile(t, fs, mark)
	if slices.Equal(before, now) {
		t.Fatal("the mark does not move")
	}
	flipped := slices.Clone(now)
	flipped[11] ^= 1 // of how much was synced
	for what, content := range map[string][]byte{"gone": nil, "empty": {}, "cut off": now[:20], "damaged": flipped, "of before": before, "of now": now} {
		fs := killed(fs)
		if content == nil {
			must(t, fs.Remove(mark))
		} else {
			writeFile(t, fs, mark, content)
		}
		for range 2 { // once it is there again
			l, err := openSharedLog(fs, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(error) {})
			if err != nil {
				t.Errorf("%s: %v", what, err)
				break
			}
			if _, last := (testShared{l}).store(t, 1).bounds(); last != 10 {
				t.Errorf("%s: the log ends at %d", what, last)
			}
			must(t, l.Close())
		}
	}
}

// Ensures that in a row of lives, each of which ends by a kill or a loss of power at any moment, also while the log opens, a log is always opened again, with all that was acknowledged.
func TestSharedMarkOverLives(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 9))
		fs, last := vfs.NewCrashableMem(), uint64(0)
		for life := range 12 {
			here := fs
			crash := func() *vfs.MemFS { // on any goroutine
				rng := rand.New(rand.NewPCG(seed, uint64(100+life)))
				return here.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[rng.IntN(3)], RNG: rng})
			}
			dying := &dyingFiles{FS: fs, crash: crash}
			if life > 0 && rng.IntN(2) == 0 {
				dying.after.Store(1 + rng.Int64N(12)) // most in the opening
			}
			l, err := openSharedLog(dying, testSharedDir, life > 0, false, slog.New(slog.DiscardHandler), func(error) {})
			if err != nil {
				t.Fatalf("seed %d, life %d: %v", seed, life, err)
			}
			s, err := l.openStore(ReplicaID{1, "a", 1}, func(error) {})
			must(t, err)
			if _, got := s.bounds(); got < last {
				t.Fatalf("seed %d, life %d: the log ends at %d, %d were acknowledged", seed, life, got, last)
			}
			_, last = s.bounds()
			left := dying.left.Load()
			for n := rng.IntN(6); n > 0 && left == nil; n-- {
				if rng.IntN(4) == 0 {
					must(t, l.db.Flush())
				}
				must(t, storeSynced(s, logs(last+1, last+1+rng.Uint64N(3), 1)))
				if left = dying.left.Load(); left == nil { // else it died before that was acknowledged
					_, last = s.bounds()
				}
			}
			if left == nil {
				left = crash()
			}
			must(t, s.Close())
			must(t, l.Close())
			fs = left
		}
	}
}

// dyingFiles keeps what a crash leaves at the beginning of some write, sync or change of names.
type dyingFiles struct {
	vfs.FS
	crash func() *vfs.MemFS
	after atomic.Int64 // 1: at the next one; 0 and less: never
	left  atomic.Pointer[vfs.MemFS]
}

func (d *dyingFiles) count() {
	if d.after.Add(-1) == 0 {
		d.left.Store(d.crash())
	}
}

func (d *dyingFiles) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return f, err
	}
	return dyingFile{f, d}, nil
}

func (d *dyingFiles) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	d.count()
	return d.wrap(d.FS.Create(name, category))
}

func (d *dyingFiles) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	d.count()
	return d.wrap(d.FS.OpenReadWrite(name, category, opts...))
}

func (d *dyingFiles) OpenDir(name string) (vfs.File, error) { return d.wrap(d.FS.OpenDir(name)) }

func (d *dyingFiles) Remove(name string) error {
	d.count()
	return d.FS.Remove(name)
}

type dyingFile struct {
	vfs.File
	files *dyingFiles
}

func (f dyingFile) Write(p []byte) (int, error) {
	f.files.count()
	return f.File.Write(p)
}

func (f dyingFile) WriteAt(p []byte, at int64) (int, error) {
	f.files.count()
	return f.File.WriteAt(p, at)
}

func (f dyingFile) Sync() error {
	f.files.count()
	return f.File.Sync()
}

func (f dyingFile) SyncData() error {
	f.files.count()
	return f.File.SyncData()
}
