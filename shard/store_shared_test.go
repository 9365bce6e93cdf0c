package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// testShared is a shared log in a folder of its own.
type testShared struct{ *sharedLog }

const testSharedDir = "log"

// openTestShared opens a log that must not fail.
func openTestShared(t *testing.T, fs vfs.FS) testShared {
	t.Helper()
	l, err := openSharedLog(fs, testSharedDir, false, false, slog.New(slog.DiscardHandler), func(err error) { t.Errorf("failed: %v", err) })
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return testShared{l}
}

// store opens that of replica r of shard 1.
func (l testShared) store(t *testing.T, r uint64) *store {
	t.Helper()
	s, err := l.openStore(ReplicaID{1, "a", r}, func(err error) { t.Errorf("fatal: %v", err) })
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// flush writes what is in memory into a file.
func (l testShared) flush(t *testing.T) {
	t.Helper()
	must(t, l.db.Flush())
}

// readFile and writeFile are of files that nobody has open.
func readFile(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	data, err := readAll(fs, name)
	must(t, err)
	return data
}

func writeFile(t *testing.T, fs vfs.FS, name string, data []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(data)
	must(t, errors.Join(err, f.Sync(), f.Close()))
}

// namesOf lists the files of a log whose names have a part.
func namesOf(t *testing.T, fs vfs.FS, part string) []string {
	t.Helper()
	names, err := fs.List(testSharedDir)
	must(t, err)
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.Contains(n, part) })
	slices.Sort(names)
	for i := range names {
		names[i] = path.Join(testSharedDir, names[i])
	}
	return names
}

// Ensures that a bit that flipped anywhere in a shared log that was closed changes nothing, or is found before anybody is answered: it keeps the log from
// opening, or the replicas that it hits. The others have all that they had.
func TestSharedFlippedBits(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestShared(t, fs)
	const replicas = 3
	want := map[uint64]contents{}
	for round := range uint64(2) { // in files, and in the log
		for r := uint64(1); r <= replicas; r++ {
			s := l.store(t, r)
			if round == 0 {
				fillStore(t, s)
			} else {
				must(t, s.DeleteRange(1, 10))
				must(t, storeSynced(s, logs(61, 90, 8)))
			}
			want[r] = contentsOf(t, s)
		}
		if round == 0 {
			l.flush(t)
		}
	}
	must(t, l.Close())
	names := namesOf(t, fs, "")
	sizes := 0
	intact := map[string][]byte{}
	for _, name := range names {
		intact[name] = readFile(t, fs, name)
		sizes += len(intact[name])
	}
	flips := 1500
	if testing.Short() {
		flips = 200
	}
	unneeded := namesOf(t, fs, ".log")[0] // all of it is in another file
	rng := rand.New(rand.NewPCG(8, 1))
	refused, left, harmless := 0, 0, 0
	for n := range flips {
		var name string
		for name == "" || len(intact[name]) == 0 {
			name = names[n%len(names)]
			n++
		}
		bit := rng.IntN(8 * len(intact[name]))
		copied := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
		damaged := slices.Clone(intact[name])
		damaged[bit/8] ^= 1 << (bit % 8)
		writeFile(t, copied, name, damaged)
		l, err := openSharedLog(copied, testSharedDir, true, true, slog.New(slog.DiscardHandler), func(error) {})
		if err != nil {
			if refused++; !errors.Is(err, ErrRejoin) || name == unneeded {
				t.Errorf("%s, bit %d: %v", name, bit, err)
			}
			continue
		}
		hit := 0
		for r := uint64(1); r <= replicas; r++ {
			s, err := l.openStore(ReplicaID{1, "a", r}, func(error) {})
			if err != nil {
				if hit++; !errors.Is(err, ErrDataLost) {
					t.Errorf("%s, bit %d: %v", name, bit, err)
				}
				continue
			}
			if got := contentsOf(t, s); !reflect.DeepEqual(got, want[r]) {
				t.Errorf("%s, bit %d: replica %d became %+v", name, bit, r, got)
			}
		}
		if hit > 0 {
			left++
		} else {
			harmless++
		}
		must(t, l.Close())
	}
	t.Logf("of %d flips in %d bytes of %d files %d kept the log from opening, %d some replicas, %d changed nothing", flips, sizes, len(names), refused, left, harmless)
	if refused < flips/20 || left < flips/20 {
		t.Error("too few were found")
	}
}

// reopenShared opens a log that may be damaged.
func reopenShared(t *testing.T, fs vfs.FS) (*sharedLog, error) {
	t.Helper()
	l, err := openSharedLog(fs, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(err error) { t.Errorf("failed: %v", err) })
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return l, err
}

// flipAt flips a bit of the nth byte of what begins with a text in a file.
func flipAt(t *testing.T, fs vfs.FS, name, text string) {
	t.Helper()
	data := readFile(t, fs, name)
	at := strings.Index(string(data), text)
	if at < 0 {
		t.Fatalf("%s is not in %s", text, name)
	}
	data[at] ^= 1
	writeFile(t, fs, name, data)
}

// Ensures that damage of an append, in the log or in what became of it, is found whenever anything was written behind it, in the same block as well: nothing
// that was acknowledged is cut off. The last append is what a crash may have torn: it goes, and those before it stay.
func TestSharedDamageInTheMiddle(t *testing.T) {
	for _, filled := range []int{0, 2} {
		fs := vfs.NewCrashableMem()
		s := openTestShared(t, &filledLogs{FS: fs, count: filled, bytes: 1 << 20}).store(t, 1)
		for i := uint64(1); i <= 3; i++ {
			must(t, storeSynced(s, logs(i, i, 1)))
		}
		for i := uint64(1); i <= 3; i++ {
			crashed := fs.CrashClone(vfs.CrashCloneCfg{})
			flipAt(t, crashed, namesOf(t, crashed, ".log")[0], fmt.Sprintf("%d@1", i))
			l, err := reopenShared(t, crashed)
			if i < 3 {
				if !errors.Is(err, ErrRejoin) {
					t.Errorf("append %d of 3 is damaged: got %v, want %v", i, err, ErrRejoin)
				}
				continue
			}
			must(t, err)
			if got := describe(t, testShared{l}.store(t, 1)); got != "1@1 2@1" {
				t.Errorf("the last append is damaged: got %q", got)
			}
		}
	}
}

// Ensures that a manifest whose last records are damaged is found: Pebble would go on with an older list of files, and remove what is not in it.
func TestSharedDamagedManifest(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestShared(t, fs)
	s := l.store(t, 1)
	for i := uint64(1); i <= 6; i++ {
		must(t, storeSynced(s, logs(i, i, 1)))
		l.flush(t)
	}
	must(t, storeSynced(s, logs(7, 7, 1)))
	name := namesOf(t, fs, manifestPrefix)[0]
	data := readFile(t, fs, name)
	for _, damage := range []struct {
		name string
		do   func([]byte) []byte
		more bool // by itself it does not look torn
	}{
		{"the end is cut off", func(d []byte) []byte { return d[:len(d)-20] }, false},
		{"the last record", func(d []byte) []byte { d[len(d)-1] ^= 1; return d }, false},
		{"the first", func(d []byte) []byte { d[9] ^= 1; return d }, true},
		{"one in the middle", func(d []byte) []byte { d[len(d)/2] ^= 1; return d }, true},
	} {
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		writeFile(t, crashed, name, damage.do(slices.Clone(data)))
		if _, more := walkManifest(damage.do(slices.Clone(data)), func([]byte) {}); more != damage.more {
			t.Errorf("%s: goes on behind it: %v", damage.name, more)
		}
		if _, err := reopenShared(t, crashed); !errors.Is(err, ErrRejoin) {
			t.Errorf("%s: got %v, want %v", damage.name, err, ErrRejoin)
		}
	}
}

// Ensures that whatever part of the unsynced writes a loss of power leaves, at any moment of concurrent appends, which go ahead of their syncs, truncations,
// compactions, votes and flushes, and of other replicas that are made and removed, the log opens, and each replica has all that was said to be durable or
// reported as done, and nothing that was never asked for.
func TestSharedTornWrites(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 2
	}
	ahead := 0 // appends whose sync was under way at a crash
	for seed := range uint64(rounds) {
		rng := rand.New(rand.NewPCG(seed, 3))
		fs := vfs.NewCrashableMem()
		l := openTestShared(t, fs)
		const replicas = 4
		var done, asked [replicas]atomic.Uint64 // last index
		var stores [replicas]*store
		var voted [replicas]atomic.Uint64 // term
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for n := range replicas {
			s := l.store(t, uint64(n+1))
			stores[n] = s
			rng := rand.New(rand.NewPCG(seed, uint64(n)+10))
			wg.Go(func() {
				for last := uint64(0); running(stop); {
					switch first, _ := s.bounds(); rng.IntN(12) {
					case 0:
						term := s.Term() + 1
						if err := errors.Join(s.SetUint64([]byte(keyCurrentTerm), term), s.SetUint64([]byte(keyVoteTerm), term), s.Set([]byte(keyVoteCandidate), fmt.Append(nil, term))); err != nil {
							t.Error(err)
						}
						voted[n].Store(term)
					case 1:
						if last > first+20 {
							if err := s.DeleteRange(first, last-10); err != nil {
								t.Error(err)
							}
						}
					default:
						next := last + 1 + rng.Uint64N(30)
						asked[n].Store(next)
						batch := logs(last+1, next, 1)
						for _, log := range batch {
							log.Extensions = make([]byte, rng.IntN(1<<rng.IntN(13)))
						}
						if err := s.StoreLogs(batch); err != nil {
							t.Error(err)
						}
						last = next
						done[n].Store(last)
					}
				}
			})
		}
		wg.Go(func() {
			for r := uint64(replicas + 1); running(stop); r++ {
				s, err := l.openStore(ReplicaID{1, "a", r}, func(err error) { t.Error(err) })
				if err == nil {
					err = errors.Join(storeSynced(s, logs(1, 20, r)), s.Close(), l.remove(1, r))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		for range 8 {
			for before, n := l.files.promises.Load(), rng.Uint64N(120); l.files.promises.Load() < before+n; {
				runtime.Gosched()
			}
			if rng.IntN(3) == 0 {
				if _, err := l.db.AsyncFlush(); err != nil {
					t.Error(err)
				}
			}
			var least, term [replicas]uint64
			for n := range replicas {
				last := done[n].Load()
				least[n], term[n] = min(last, stores[n].durable()), voted[n].Load()
				if least[n] < last {
					ahead++
				}
			}
			crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			again, err := reopenShared(t, crashed)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for n := range replicas {
				s, err := again.openStore(ReplicaID{1, "a", uint64(n + 1)}, func(err error) { t.Error(err) })
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				first, last := s.bounds()
				if last < least[n] || last > asked[n].Load() || s.Term() < term[n] {
					t.Errorf("seed %d: replica %d has entries up to %d and term %d; %d and %d were done, %d asked for", seed, n, last, s.Term(), least[n], term[n], asked[n].Load())
				}
				for i := first; i != 0 && i <= last; i++ {
					var log raft.Log
					must(t, s.GetLog(i, &log))
					if string(log.Data) != fmt.Sprintf("%d@1", i) {
						t.Errorf("seed %d: entry %d is %q", seed, i, log.Data)
					}
				}
				if term[n] > 0 {
					vote, err := s.GetUint64([]byte(keyVoteTerm))
					must(t, err)
					candidate, err := s.Get([]byte(keyVoteCandidate))
					must(t, err)
					if string(candidate) != fmt.Sprint(vote) || vote < term[n] {
						t.Errorf("seed %d: a vote of term %d for %s", seed, vote, candidate)
					}
				}
			}
			found, err := again.replicas()
			must(t, err)
			if len(found) > replicas+1 {
				t.Errorf("seed %d: %v are there", seed, found)
			}
			for _, f := range found {
				s, err := again.openStore(ReplicaID{f.Shard, "a", f.R}, func(err error) { t.Error(err) })
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if _, last := s.bounds(); f.R > replicas && last != 20 {
					t.Errorf("seed %d: of replica %d there are %d entries", seed, f.R, last)
				}
			}
			must(t, again.Close())
		}
		close(stop)
		wg.Wait()
		must(t, l.Close())
	}
	if ahead == 0 {
		t.Error("no append was ahead of its sync at any crash")
	}
}

// failingFiles fails the writes of files whose names end in suffix.
type failingFiles struct {
	vfs.FS
	suffix string
	armed  atomic.Bool
	tries  atomic.Int64
}

func (f *failingFiles) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	if err == nil && strings.HasSuffix(name, f.suffix) {
		file = failingFile{file, f}
	}
	return file, err
}

type failingFile struct {
	vfs.File
	files *failingFiles
}

func (f failingFile) fail(otherwise func() error) error {
	if f.files.armed.Load() {
		f.files.tries.Add(1)
		return errDisk
	}
	return otherwise()
}

func (f failingFile) Sync() error     { return f.fail(f.File.Sync) }
func (f failingFile) SyncData() error { return f.fail(f.File.SyncData) }

// Ensures that a failed sync of the log makes every write fail from then on, of all replicas, that each of them has fatal called, that it is never tried again, and that
// nothing is said to be stored though Pebble says so (its Apply returns nil when its logger does).
func TestSharedFailedSync(t *testing.T) {
	fs := &failingFiles{FS: vfs.NewCrashableMem(), suffix: ".log"}
	reported := make(chan error, 10)
	l, err := openSharedLog(fs, testSharedDir, false, false, slog.New(slog.DiscardHandler), func(err error) { reported <- err })
	must(t, err)
	defer l.Close()
	var stores []*store
	var fatal atomic.Int64
	for r := range uint64(3) {
		s, err := l.openStore(ReplicaID{1, "a", r}, func(error) { fatal.Add(1) })
		must(t, err)
		must(t, storeSynced(s, logs(1, 1, 1)))
		stores = append(stores, s)
	}
	fs.armed.Store(true)
	l.files.failed = func(err error) { // what Pebble hears of was reported before
		l.failedFile(err)
		if len(reported) != 1 {
			t.Errorf("%d failures were reported", len(reported))
		}
	}
	for _, s := range stores {
		if err := storeSynced(s, logs(2, 2, 1)); err == nil {
			t.Error("an append whose sync failed was stored")
		}
	}
	fs.armed.Store(false)
	for _, s := range stores {
		for _, err := range []error{storeSynced(s, logs(2, 2, 1)), s.SetUint64([]byte(keyCurrentTerm), 3), s.DeleteRange(1, 1)} {
			if err == nil {
				t.Error("a write was done after a sync had failed")
			}
		}
		_, last := s.bounds()
		if last = min(last, s.durable()); last != 1 || s.Term() != 0 {
			t.Errorf("the log is said to be durable up to %d, term %d", last, s.Term())
		}
	}
	if fatal.Load() != 3 || fs.tries.Load() != 1 {
		t.Errorf("fatal was called %d times, after %d failed syncs", fatal.Load(), fs.tries.Load())
	}
	if err := <-reported; !strings.Contains(err.Error(), errDisk.Error()) {
		t.Errorf("reported %v", err)
	}
}

// Ensures that a write that fails in the background is reported, though no replica waits for it.
func TestSharedFailedFlush(t *testing.T) {
	fs := &failingFiles{FS: vfs.NewCrashableMem(), suffix: ".sst"}
	reported := make(chan error, 10)
	l, err := openSharedLog(fs, testSharedDir, false, false, slog.New(slog.DiscardHandler), func(err error) { reported <- err })
	must(t, err)
	s, err := l.openStore(ReplicaID{1, "a", 1}, func(error) {})
	must(t, err)
	must(t, storeSynced(s, logs(1, 1, 1)))
	fs.armed.Store(true)
	_, err = l.db.AsyncFlush()
	must(t, err)
	if err := <-reported; !errors.Is(err, errDisk) {
		t.Errorf("reported %v", err)
	}
	if err := storeSynced(s, logs(2, 2, 1)); err == nil {
		t.Error("a write was done afterwards")
	}
	fs.armed.Store(false)
	_ = l.Close()
}

// gate holds up syncs of logs.
type gatedFiles struct {
	vfs.FS
	entered chan struct{} // a token for each that waits
	pass    chan struct{} // closed: all pass
}

func (g *gatedFiles) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := g.FS.Create(name, category)
	if err == nil && strings.HasSuffix(name, ".log") {
		file = gatedFile{file, g}
	}
	return file, err
}

type gatedFile struct {
	vfs.File
	files *gatedFiles
}

func (g gatedFile) SyncData() error {
	g.files.entered <- struct{}{}
	<-g.files.pass
	return g.File.SyncData()
}

func (g gatedFile) Sync() error { return g.SyncData() }

// Ensures that what different replicas write while a sync is under way shares the next one.
func TestSharedSyncs(t *testing.T) {
	fs := &gatedFiles{FS: vfs.NewCrashableMem(), entered: make(chan struct{}, 1000), pass: make(chan struct{})}
	l := openTestShared(t, fs)
	const replicas = 64
	var wg sync.WaitGroup
	append1 := func(r uint64) {
		s := l.store(t, r)
		wg.Go(func() {
			if err := storeSynced(s, logs(1, 1, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	append1(1)
	<-fs.entered
	for r := uint64(2); r <= replicas; r++ {
		append1(r)
	}
	for r := uint64(2); r <= replicas; r++ { // they are in the log, unsynced
		for last := uint64(0); last == 0; {
			var err error
			last, err = sharedEngine{l.sharedLog, prefixOf(1, r)}.LastIndex()
			must(t, err)
			runtime.Gosched()
		}
	}
	close(fs.pass)
	wg.Wait()
	if got := l.files.syncs.Load(); got > 3 {
		t.Errorf("%d appends took %d syncs", replicas, got)
	}
}

// Ensures that a damaged block costs the replica whose it is and no other, that a background job which meets it ends the process while that replica runs,
// and not otherwise, and that it is gone with the replica.
func TestSharedDamagedBlock(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestShared(t, fs)
	for r := uint64(1); r <= 3; r++ {
		s := l.store(t, r)
		for i := range uint64(100) {
			must(t, s.StoreLog(&raft.Log{Index: i + 1, Term: r, Data: fmt.Appendf(make([]byte, 3000), "here is %d of %d", i, r)}))
		}
	}
	l.flush(t)
	must(t, l.Close())
	flipAt(t, fs, namesOf(t, fs, ".sst")[0], "here is 50 of 2")

	reported := make(chan error, 10)
	again, err := openSharedLog(fs, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(err error) { reported <- err })
	must(t, err)
	defer again.Close()
	for r := uint64(1); r <= 3; r++ {
		s, err := again.openStore(ReplicaID{1, "a", r}, func(err error) { t.Error(err) })
		if r == 2 {
			if !errors.Is(err, ErrDataLost) || errors.Is(err, ErrRejoin) {
				t.Fatalf("the damaged replica: %v", err)
			}
			continue
		}
		must(t, err)
		must(t, storeSynced(s, logs(101, 101, r)))
	}
	compacted := make(chan error, 1) // Pebble tries until it can
	go func() { compacted <- compactAll(t.Context(), again) }()
	for judged := false; !judged; runtime.Gosched() {
		again.mu.Lock()
		judged = len(again.sound) > 0
		again.mu.Unlock()
	}
	must(t, again.remove(1, 2))
	must(t, <-compacted)
	if there, err := again.has(1, 2); there || err != nil {
		t.Errorf("the damaged replica is there: %v, %v", there, err)
	}
	must(t, again.Close()) // whatever was to be reported is
	select {
	case err := <-reported:
		t.Errorf("reported: %v", err)
	default:
	}
}

func compactAll(ctx context.Context, l *sharedLog) error {
	return l.db.Compact(ctx, []byte{0}, []byte{0xff}, false)
}

// Ensures that a running replica whose data turn out to be damaged ends the process.
func TestSharedDamagedBlockOfRunning(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestShared(t, fs)
	s := l.store(t, 1)
	must(t, storeSynced(s, logs(1, 100, 1)))
	l.flush(t)
	must(t, l.Close())
	flipAt(t, fs, namesOf(t, fs, ".sst")[0], "50@1")
	reported := make(chan error, 10)
	again, err := openSharedLog(fs, testSharedDir, true, false, slog.New(slog.DiscardHandler), func(err error) { reported <- err })
	must(t, err)
	defer again.Close()
	again.open[prefixOf(1, 1)] = sharedEngine{again, prefixOf(1, 1)} // it was whole when it opened
	s, err = again.openStore(ReplicaID{1, "a", 2}, func(error) {})
	must(t, err)
	must(t, storeSynced(s, logs(1, 1, 1)))
	ctx, cancel := context.WithCancel(t.Context())
	compacted := make(chan error, 1)
	go func() { compacted <- compactAll(ctx, again) }()
	if err := <-reported; !errors.Is(err, ErrDataLost) {
		t.Errorf("reported %v", err)
	}
	cancel()
	<-compacted
	if err := storeSynced(s, logs(2, 2, 1)); !errors.Is(err, ErrDataLost) {
		t.Errorf("a write afterwards: %v", err)
	}
}

// Ensures that the room of compacted logs, and of removed replicas, is given back, at the latest as the others go on writing: what the
// engine has in its newest files is no load to it before there are others of the same replicas.
func TestSharedSpace(t *testing.T) {
	if testing.Short() {
		t.Skip("long under the race detector")
	}
	l := openTestShared(t, vfs.NewCrashableMem())
	const replicas, entries, size = 4, 16 * 32, 64 << 10 // 128 MiB
	var left []*store
	for r := range uint64(replicas) {
		s := l.store(t, r+1)
		for i := uint64(1); i <= entries; i += 16 {
			batch := logs(i, i+15, 1)
			for _, log := range batch {
				log.Extensions = make([]byte, size)
			}
			must(t, storeSynced(s, batch))
		}
		if r == 0 {
			must(t, s.Close())
			must(t, l.remove(1, r+1))
			continue
		}
		left = append(left, s)
		must(t, s.DeleteRange(1, entries-1))
		if got, _ := s.bounds(); got != entries-1 {
			t.Errorf("the log begins at %d", got)
		}
	}
	const most = (sharedMemtables+1)*sharedMemtable + 3*sharedMemtable // logs in use, or kept to be used again, and files that are no load yet
	began := time.Now()
	for i := uint64(entries + 1); l.stats().Disk > most; i++ {
		batch := logs(i, i, 1)
		batch[0].Extensions = make([]byte, size)
		for _, s := range left {
			must(t, storeSynced(s, batch))
			must(t, s.DeleteRange(1, i-1))
		}
		if time.Sleep(20 * time.Millisecond); time.Since(began) > 60*time.Second {
			t.Fatalf("%d bytes are in use still\n%s", l.stats().Disk, l.db.Metrics())
		}
	}
}

// Ensures that a shared log that was written to keeps little of it in memory.
func TestSharedMemory(t *testing.T) {
	l := openTestShared(t, vfs.NewCrashableMem())
	s := l.store(t, 1)
	for i := uint64(1); i <= 40; i++ { // 40 MiB
		batch := logs(i, i, 1)
		batch[0].Extensions = make([]byte, 1<<20)
		must(t, storeSynced(s, batch))
	}
	const most = 8<<20 + sharedCache // what is being filled, and what is filled next
	for began := time.Now(); l.stats().Memory > most; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%d bytes are in memory, want %d at most", l.stats().Memory, most)
		}
	}
}

// Ensures that a thousand replicas take no file, no goroutine and little memory each.
func TestSharedThousand(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openTestShared(t, fs)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	open := func(from, to uint64) {
		for r := from; r <= to; r++ {
			s := l.store(t, r)
			must(t, storeSynced(s, logs(1, 1, 1)))
			must(t, s.SetUint64([]byte(keyCurrentTerm), 1))
		}
	}
	open(1, 1)
	files, goroutines, before := len(namesOf(t, fs, "")), runtime.NumGoroutine(), heap()
	open(2, 1000)
	if more := len(namesOf(t, fs, "")) - files; more > 3 {
		t.Errorf("%d more files", more)
	}
	if more := runtime.NumGoroutine() - goroutines; more > 3 {
		t.Errorf("%d more goroutines", more)
	}
	if each := (int64(heap()) - int64(before)) / 1000; each > 4<<10 {
		t.Errorf("%d bytes for each", each)
	}
	if s := l.stats(); s.Memory > sharedMemtable*sharedMemtables+sharedCache {
		t.Errorf("%d bytes of memory", s.Memory)
	}
}
