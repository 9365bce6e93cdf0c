package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// backend opens an empty store and simulates kill -9: crash returns what a restart finds.
type backend struct {
	name  string
	open  func(t *testing.T) replicaStore
	crash func(t *testing.T, s replicaStore) replicaStore
}

var backends = []backend{
	{
		name:  "memory",
		open:  func(t *testing.T) replicaStore { return newMemoryStore() },
		crash: func(t *testing.T, s replicaStore) replicaStore { return s.(*memoryStore).crashed() },
	},
	{
		name: "disk",
		open: func(t *testing.T) replicaStore { return openTestDisk(t, t.TempDir()) },
		crash: func(t *testing.T, s replicaStore) replicaStore {
			// What other processes see of the file is what outlives this one.
			path := s.(*diskStore).path
			dir := t.TempDir()
			copyFile(t, path, filepath.Join(dir, storeFile))
			return openTestDisk(t, dir)
		},
	},
	{
		name: "shared",
		open: func(t *testing.T) replicaStore { return openTestShared(t, vfs.NewCrashableMem()).store(t, 1) },
		crash: func(t *testing.T, s replicaStore) replicaStore {
			must(t, s.await(t.Context(), math.MaxUint64))
			l := s.(*store).engine.(summed).engine.(sharedEngine).log
			return openTestShared(t, l.files.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})).store(t, 1)
		},
	},
}

func openTestDisk(t *testing.T, dir string) *diskStore {
	t.Helper()
	s, err := openDiskStore(dir, func(err error) { t.Errorf("fatal: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

func eachBackend(t *testing.T, f func(t *testing.T, b backend)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { f(t, b) })
	}
}

// logs makes the entries from to to of a term.
func logs(from, to, term uint64) []*raft.Log {
	var out []*raft.Log
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%d@%d", i, term)})
	}
	return out
}

// storeSynced appends, and returns once that is durable.
func storeSynced(s replicaStore, logs []*raft.Log) error {
	if err := s.StoreLogs(logs); err != nil {
		return err
	}
	return s.await(context.Background(), math.MaxUint64)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// describe lists the log as "index@term", read entry by entry.
func describe(t *testing.T, s replicaStore) string {
	t.Helper()
	first, err := s.FirstIndex()
	must(t, err)
	last, err := s.LastIndex()
	must(t, err)
	var words []string
	for i := first; i <= last && i > 0; i++ {
		var log raft.Log
		must(t, s.GetLog(i, &log))
		if log.Index != i || string(log.Data) != fmt.Sprintf("%d@%d", i, log.Term) {
			t.Fatalf("entry %d reads as %+v", i, log)
		}
		words = append(words, string(log.Data))
	}
	for _, outside := range []uint64{first - 1, last + 1} {
		if _, ok := s.Kind(outside); ok {
			t.Fatalf("entry %d outside the log has a type", outside)
		}
	}
	return strings.Join(words, " ")
}

// Ensures that appends and deletions have exactly their documented effect, in memory and after a crash.
func TestStoreLog(t *testing.T) {
	type step func(s replicaStore) error
	store := func(from, to, term uint64) step {
		return func(s replicaStore) error { return s.StoreLogs(logs(from, to, term)) }
	}
	del := func(from, to uint64) step { return func(s replicaStore) error { return s.DeleteRange(from, to) } }
	tests := []struct {
		name  string
		steps []step
		want  string
	}{
		{"empty", nil, ""},
		{"append", []step{store(1, 2, 1), store(3, 3, 2)}, "1@1 2@1 3@2"},
		{"append nothing", []step{store(1, 1, 1), store(2, 1, 1)}, "1@1"},
		{"begin behind a snapshot", []step{store(101, 102, 3)}, "101@3 102@3"},
		{"compaction keeps the boundary", []step{store(1, 5, 1), del(1, 3)}, "3@1 4@1 5@1"},
		{"compaction of the boundary alone", []step{store(1, 5, 1), del(1, 3), del(3, 3)}, "3@1 4@1 5@1"},
		{"next compaction takes the old boundary", []step{store(1, 5, 1), del(1, 3), del(3, 4)}, "4@1 5@1"},
		{"compaction that lies behind", []step{store(1, 5, 1), del(1, 4), del(1, 3)}, "4@1 5@1"},
		{"suffix", []step{store(1, 5, 1), del(4, 5)}, "1@1 2@1 3@1"},
		{"suffix beyond the end", []step{store(1, 5, 1), del(4, 9)}, "1@1 2@1 3@1"},
		{"conflict", []step{store(1, 5, 1), del(4, 5), store(4, 6, 2)}, "1@1 2@1 3@1 4@2 5@2 6@2"},
		{"conflict at the first entry", []step{store(3, 5, 1), del(3, 5), store(3, 3, 2)}, "3@2"},
		{"all", []step{store(1, 5, 1), del(1, 5)}, ""},
		{"all, then rebase", []step{store(1, 5, 1), del(1, 5), store(9, 9, 2)}, "9@2"},
		{"of an empty log", []step{del(1, 5)}, ""},
		{"reversed", []step{store(1, 5, 1), del(4, 2)}, "1@1 2@1 3@1 4@1 5@1"},
		{"append over the end", []step{store(1, 5, 1), store(4, 4, 2)}, "1@1 2@1 3@1 4@2"},
		{"append below the begin", []step{store(4, 5, 1), store(2, 3, 2)}, "2@2 3@2"},
		{"append beyond the end replaces", []step{store(1, 5, 1), store(7, 8, 2)}, "7@2 8@2"},
		{"late compaction after a reset", []step{store(1, 5, 1), store(7, 8, 2), del(1, 4)}, "7@2 8@2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, b backend) {
				s := b.open(t)
				for _, step := range test.steps {
					must(t, step(s))
				}
				if got := describe(t, s); got != test.want {
					t.Errorf("running: got %q, want %q", got, test.want)
				}
				if got := describe(t, b.crash(t, s)); got != test.want {
					t.Errorf("after a crash: got %q, want %q", got, test.want)
				}
			})
		})
	}
}

// Ensures that long logs, over many pages of the file, are deleted exactly.
func TestStoreLongLog(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		const n = 6000
		must(t, s.StoreLogs(logs(1, n, 1)))
		must(t, s.DeleteRange(1, 2500))
		must(t, s.DeleteRange(5001, n))
		var want []string
		for _, log := range logs(2500, 5000, 1) {
			want = append(want, string(log.Data))
		}
		if got := describe(t, b.crash(t, s)); got != strings.Join(want, " ") {
			t.Errorf("the log is not exactly 2500 to 5000")
		}
	})
}

// Ensures that entries outside the log are raft.ErrLogNotFound itself, which raft compares, and that
// only the snapshot's last one is answered for: when the log lacks it, and for its term alone.
func TestStoreMissingEntry(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		var log raft.Log
		missing := func(indexes ...uint64) {
			t.Helper()
			for _, index := range indexes {
				if err := s.GetLog(index, &log); err != raft.ErrLogNotFound {
					t.Errorf("entry %d: got %v, want raft.ErrLogNotFound", index, err)
				}
			}
		}
		missing(0, 1)
		s.setBoundary(0, 0)
		s.setBoundary(1, 1)
		missing(0, 1)
		must(t, s.StoreLogs(logs(5, 6, 2)))
		missing(0, 4, 7)
		s.setBoundary(4, 1)
		missing(0, 3, 7)
		must(t, s.GetLog(4, &log))
		if log.Index != 4 || log.Term != 1 || log.Type != boundaryType || len(log.Data) != 0 {
			t.Errorf("got %+v", log)
		}
		if first, _ := s.FirstIndex(); first != 5 {
			t.Errorf("the log begins at %d", first)
		}
		s.setBoundary(5, 2)
		must(t, s.GetLog(5, &log))
		if log.Type != raft.LogCommand || string(log.Data) != "5@2" {
			t.Errorf("the entry itself is hidden: got %+v", log)
		}
	})
}

// Ensures that a batch with a gap is refused and leaves the log as it was.
func TestStoreRefusesGaps(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		must(t, s.StoreLogs(logs(1, 2, 1)))
		if err := s.StoreLogs([]*raft.Log{{Index: 3}, {Index: 5}}); err == nil {
			t.Error("a batch with a gap was stored")
		}
		if err := s.StoreLog(&raft.Log{}); err == nil {
			t.Error("an entry without index was stored")
		}
		if got := describe(t, s); got != "1@1 2@1" {
			t.Errorf("got %q", got)
		}
	})
}

func wantVote(t *testing.T, s replicaStore, term uint64, candidate string) {
	t.Helper()
	gotTerm, err := s.GetUint64([]byte(keyVoteTerm))
	must(t, err)
	got, err := s.Get([]byte(keyVoteCandidate))
	must(t, err)
	if gotTerm != term || string(got) != candidate || got == nil {
		t.Errorf("vote: got %q in term %d, want %q in term %d", got, gotTerm, candidate, term)
	}
}

// Ensures that a vote is stored whole or not at all, wherever a crash falls.
func TestStoreVote(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		for _, err := range []error{
			second(s.GetUint64([]byte(keyVoteTerm))),
			second(s.Get([]byte(keyVoteCandidate))),
			second(s.GetUint64([]byte(keyCurrentTerm))),
			second(s.Get([]byte("anything"))),
		} {
			if err == nil || err.Error() != "not found" {
				t.Errorf("missing key: got %v, want the text that raft compares", err)
			}
		}
		if err := s.Set([]byte(keyVoteCandidate), []byte("a")); err == nil {
			t.Error("a candidate without a term was stored")
		}
		must(t, s.SetUint64([]byte(keyVoteTerm), 4))
		must(t, s.Set([]byte(keyVoteCandidate), []byte("a")))
		wantVote(t, s, 4, "a")

		must(t, s.SetUint64([]byte(keyVoteTerm), 7))
		wantVote(t, s, 4, "a")
		wantVote(t, b.crash(t, s), 4, "a")
		must(t, s.Set([]byte(keyVoteCandidate), nil))
		wantVote(t, s, 7, "")
		wantVote(t, b.crash(t, s), 7, "")
	})
}

func second[T any](_ T, err error) error { return err }

// Ensures that Term is the term that a restart finds, never goes back, and other records are kept apart.
func TestStoreTerm(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		must(t, s.SetUint64([]byte(keyCurrentTerm), 0))
		must(t, s.SetUint64([]byte(keyCurrentTerm), 3))
		must(t, s.SetUint64([]byte(keyCurrentTerm), 3))
		must(t, s.Set([]byte(keyReplica), []byte("value")))
		if err := s.SetUint64([]byte(keyCurrentTerm), 2); err == nil {
			t.Error("the term went back")
		}
		for _, s := range []replicaStore{s, b.crash(t, s)} {
			term, err := s.GetUint64([]byte(keyCurrentTerm))
			must(t, err)
			text, err := s.Get([]byte(keyReplica))
			must(t, err)
			if s.Term() != 3 || term != 3 || string(text) != "value" {
				t.Errorf("got Term %d, term %d, text %q", s.Term(), term, text)
			}
		}
	})
}

// Ensures that the first write of a term counts as a write, even of term 0.
func TestStoreFirstTerm(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		must(t, s.SetUint64([]byte(keyCurrentTerm), 0))
		if _, err := b.crash(t, s).GetUint64([]byte(keyCurrentTerm)); err != nil {
			t.Error(err)
		}
	})
}

// Ensures that Kind finds the type of entries in memory and on disk, and of no others.
func TestStoreKind(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		must(t, s.StoreLogs([]*raft.Log{{Index: 7, Type: raft.LogBarrier}, {Index: 8, Type: raft.LogNoop}}))
		for _, s := range []replicaStore{s, b.crash(t, s)} {
			for index, want := range map[uint64]raft.LogType{7: raft.LogBarrier, 8: raft.LogNoop} {
				if got, ok := s.Kind(index); !ok || got != want {
					t.Errorf("entry %d: got %v %v, want %v", index, got, ok, want)
				}
			}
			for _, index := range []uint64{0, 6, 9} {
				if _, ok := s.Kind(index); ok {
					t.Errorf("entry %d has a type", index)
				}
			}
		}
	})
}

// Ensures that a closed store refuses writes without calling the process lost, and closes twice.
func TestStoreClose(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t) // its fatal fails the test
		must(t, s.StoreLogs(logs(1, 1, 1)))
		must(t, s.Close())
		must(t, s.Close())
		if err := s.StoreLogs(logs(2, 2, 1)); !errors.Is(err, errStoreClosed) {
			t.Errorf("got %v, want %v", err, errStoreClosed)
		}
		if err := s.Set([]byte("k"), nil); !errors.Is(err, errStoreClosed) {
			t.Errorf("got %v, want %v", err, errStoreClosed)
		}
	})
}

// Ensures, with -race, that appending, compacting, voting and reading may happen at the same time,
// and that no reader sees an entry that is not its own.
func TestStoreConcurrency(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		const batches, size = 30, 8
		must(t, s.StoreLogs(logs(1, size, 1)))
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // Raft's main goroutine
			defer close(done)
			for i := uint64(1); i < batches; i++ {
				if err := s.StoreLogs(logs(i*size+1, (i+1)*size, 1)); err != nil {
					t.Error(err)
				}
				if err := s.SetUint64([]byte(keyCurrentTerm), i); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() { // its snapshot goroutine
			for running(done) {
				first, _ := s.FirstIndex()
				last, _ := s.LastIndex()
				if last > size {
					if err := s.DeleteRange(first, last-size); err != nil {
						t.Error(err)
					}
				}
			}
		})
		wg.Go(func() { // a follower's
			for running(done) {
				s.Term()
				first, _ := s.FirstIndex()
				last, _ := s.LastIndex()
				for i := first; i <= last; i++ {
					var log raft.Log
					if err := s.GetLog(i, &log); err == raft.ErrLogNotFound {
						continue // compacted since
					} else if err != nil || log.Index != i {
						t.Errorf("entry %d: got %d, %v", i, log.Index, err)
					}
				}
			}
		})
		wg.Wait()
		first, _ := s.FirstIndex()
		last, _ := s.LastIndex()
		must(t, s.DeleteRange(first, last-size))
		if got := strings.Fields(describe(t, b.crash(t, s))); len(got) != size+1 || got[size] != fmt.Sprintf("%d@1", batches*size) {
			t.Errorf("the log ends as %v", got)
		}
	})
}

func running(done chan struct{}) bool {
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// faultyEngine fails what fail names, and counts reads of entries.
type faultyEngine struct {
	*memoryEngine
	fail  string
	tries int
	reads int
}

var errDisk = errors.New("input/output error")

func (e *faultyEngine) try(what string) error {
	e.tries++
	if e.fail == what {
		return errDisk
	}
	return nil
}

func (e *faultyEngine) StoreLogs(logs []*raft.Log) error {
	return errors.Join(e.try("append"), e.memoryEngine.StoreLogs(logs))
}
func (e *faultyEngine) beginLogs(logs []*raft.Log) (func() error, error) {
	return nil, e.StoreLogs(logs)
}
func (e *faultyEngine) DeleteRange(from, to uint64) error {
	return errors.Join(e.try("delete"), e.memoryEngine.DeleteRange(from, to))
}
func (e *faultyEngine) Set(k, v []byte) error {
	return errors.Join(e.try("set"), e.memoryEngine.Set(k, v))
}
func (e *faultyEngine) GetLog(index uint64, log *raft.Log) error {
	e.reads++
	return e.memoryEngine.GetLog(index, log)
}

// Ensures that any failed write is reported as fatal once, is never tried again, and moves neither
// the term nor the log.
func TestStoreFailedWrite(t *testing.T) {
	for what, write := range map[string]func(s *store) error{
		"append": func(s *store) error { return s.StoreLogs(logs(6, 7, 1)) },
		"delete": func(s *store) error { return s.DeleteRange(1, 3) },
		"set":    func(s *store) error { return s.SetUint64([]byte(keyCurrentTerm), 5) },
	} {
		t.Run(what, func(t *testing.T) {
			e := &faultyEngine{memoryEngine: newMemoryStore().memory}
			var fatal []error
			var s *store
			s, err := newStore(e, defaultTail, func(err error) {
				fatal = append(fatal, err)
				s.Close() // as a process that ends in an orderly way would
			})
			must(t, err)
			must(t, s.StoreLogs(logs(1, 5, 1)))
			must(t, s.SetUint64([]byte(keyCurrentTerm), 4))
			e.fail, e.tries = what, 0
			if err := write(s); !errors.Is(err, errDisk) {
				t.Errorf("got %v, want %v", err, errDisk)
			}
			e.fail = ""
			for range 2 {
				if err := write(s); err == nil {
					t.Error("the write was tried again")
				}
			}
			if len(fatal) != 1 || !errors.Is(fatal[0], errDisk) {
				t.Errorf("fatal was called with %v, want once with %v", fatal, errDisk)
			}
			if last, _ := s.LastIndex(); s.Term() != 4 || last != 5 || e.tries != 1 {
				t.Errorf("got term %d, last index %d after %d tries, want 4, 5, 1", s.Term(), last, e.tries)
			}
		})
	}
}

// Ensures that without a close in between, a failed store still never writes again.
func TestStorePoisoned(t *testing.T) {
	e := &faultyEngine{memoryEngine: newMemoryStore().memory, fail: "append"}
	calls := 0
	s, err := newStore(e, defaultTail, func(error) { calls++ })
	must(t, err)
	first := s.StoreLogs(logs(1, 1, 1))
	e.fail = ""
	if err := s.Set([]byte("k"), nil); !errors.Is(err, errDisk) || !errors.Is(first, errDisk) || calls != 1 || e.tries != 1 {
		t.Errorf("got %v, then %v, %d calls of fatal, %d tries", first, err, calls, e.tries)
	}
}

// Ensures that recent entries are read from memory, also after a compaction, within both bounds, and
// never after they were truncated or replaced.
func TestStoreTail(t *testing.T) {
	e := &faultyEngine{memoryEngine: newMemoryStore().memory}
	s, err := newStore(e, tailLimits{entries: 4, bytes: 1 << 20}, nil)
	must(t, err)
	read := func(index uint64) (term uint64, fromEngine bool) {
		t.Helper()
		before := e.reads
		var log raft.Log
		must(t, s.GetLog(index, &log))
		return log.Term, e.reads > before
	}
	must(t, s.StoreLogs(logs(1, 10, 1)))
	for index, want := range map[uint64]bool{6: true, 7: false, 10: false} {
		if _, got := read(index); got != want {
			t.Errorf("entry %d read from disk: %v, want %v", index, got, want)
		}
	}
	must(t, s.DeleteRange(1, 8))
	for index := uint64(8); index <= 10; index++ {
		if _, disk := read(index); disk {
			t.Errorf("compaction drove entry %d out of memory", index)
		}
	}
	if got := len(s.tail.logs); got != 3 {
		t.Errorf("%d entries are in memory, want the 3 that are left", got)
	}
	must(t, s.DeleteRange(9, 10))
	must(t, s.StoreLogs(logs(9, 9, 2)))
	if term, disk := read(9); term != 2 || disk {
		t.Errorf("entry 9 after truncation: term %d, from disk %v", term, disk)
	}
	var log raft.Log
	if err := s.GetLog(10, &log); err != raft.ErrLogNotFound {
		t.Errorf("truncated entry: got %+v, %v", log, err)
	}
	must(t, s.StoreLogs(logs(20, 21, 3))) // a reset
	if term, disk := read(20); term != 3 || disk {
		t.Errorf("entry 20 after a reset: term %d, from disk %v", term, disk)
	}
	if err := s.GetLog(9, &log); err != raft.ErrLogNotFound {
		t.Errorf("entry before a reset: got %+v, %v", log, err)
	}
}

// Ensures that the tail's account of bytes is right after any mix of changes, and bounds it.
func TestTailBytes(t *testing.T) {
	limits := tailLimits{entries: 100, bytes: 5 * (entryOverhead + 10)}
	tl := tail{limits: limits}
	check := func(what string, first, last uint64) {
		t.Helper()
		bytes := 0
		for i := range tl.logs {
			bytes += cost(&tl.logs[i])
		}
		if bytes != tl.bytes || (bytes > limits.bytes && len(tl.logs) > 1) {
			t.Errorf("%s: %d bytes, counted %d", what, bytes, tl.bytes)
		}
		if len(tl.logs) == 0 && first == 0 {
			return
		}
		if len(tl.logs) == 0 || tl.logs[0].Index != first || tl.logs[len(tl.logs)-1].Index != last {
			t.Errorf("%s: want entries %d to %d, got %d of them", what, first, last, len(tl.logs))
		}
	}
	entry := func(index uint64, size int) []*raft.Log {
		return []*raft.Log{{Index: index, Data: make([]byte, size-5), Extensions: make([]byte, 5)}}
	}
	for i := uint64(1); i <= 8; i++ {
		tl.append(entry(i, 10))
	}
	check("filled", 4, 8)
	tl.dropBelow(2)
	check("dropped below the begin", 4, 8)
	tl.dropBelow(5)
	check("dropped below", 5, 8)
	tl.dropAbove(7)
	check("dropped above", 5, 7)
	tl.append(entry(8, limits.bytes*2))
	check("one entry over the limit", 8, 8)
	tl.append(entry(9, 10))
	check("the big one left", 9, 9)
	tl.dropAbove(3)
	check("dropped all from above", 0, 0)
	tl.append(entry(30, 10))
	tl.dropBelow(40)
	check("dropped all from below", 0, 0)
}

// Ensures that entries are in memory until they are old, the newest for ever, and all that is left is still read.
func TestStoreTailAges(t *testing.T) {
	e := &faultyEngine{memoryEngine: newMemoryStore().memory}
	s, err := newStore(e, tailLimits{entries: 1000, bytes: 1 << 20}, nil)
	must(t, err)
	s.age() // of an empty log
	steps := []struct {
		what     string
		do       func() error
		inMemory []uint64 // the first, and how many
	}{
		{"stored", func() error { return s.StoreLogs(logs(1, 500, 1)) }, []uint64{1, 500}},
		{"new", func() error { s.age(); return nil }, []uint64{1, 500}},
		{"more stored", func() error { return s.StoreLogs(logs(501, 510, 1)) }, []uint64{1, 510}},
		{"some old", func() error { s.age(); return nil }, []uint64{501, 10}},
		{"all old", func() error { s.age(); return nil }, []uint64{510, 1}},
		{"older", func() error { s.age(); return nil }, []uint64{510, 1}},
		{"truncated", func() error { return errors.Join(s.DeleteRange(506, 510), s.StoreLogs(logs(506, 508, 2))) }, []uint64{506, 3}},
		{"replaced", func() error { s.age(); return nil }, []uint64{506, 3}},
		{"reset", func() error { return s.StoreLogs(logs(600, 602, 3)) }, []uint64{600, 3}},
		{"old no more", func() error { s.age(); return nil }, []uint64{600, 3}},
	}
	for _, step := range steps {
		must(t, step.do())
		if got := []uint64{s.tail.logs[0].Index, uint64(len(s.tail.logs))}; !slices.Equal(got, step.inMemory) {
			t.Errorf("%s: from %d on %d entries are in memory, want %v", step.what, got[0], got[1], step.inMemory)
		}
		if room := cap(s.tail.logs); step.what == "all old" && room > 8 {
			t.Errorf("%s: there is room for %d", step.what, room)
		}
		bytes := 0
		for i := range s.tail.logs {
			bytes += cost(&s.tail.logs[i])
		}
		if bytes != s.tail.bytes {
			t.Errorf("%s: %d bytes, counted %d", step.what, bytes, s.tail.bytes)
		}
		first, last := s.bounds()
		for index := first; index <= last; index++ {
			var log raft.Log
			if err := s.GetLog(index, &log); err != nil || log.Index != index {
				t.Fatalf("%s: entry %d: got %+v, %v", step.what, index, log, err)
			}
		}
	}
}

// Ensures that a damaged, truncated or foreign file is an error that names it, not a store.
func TestOpenDamagedStore(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"garbage":   func(data []byte) []byte { return slices.Repeat([]byte("garbage!"), len(data)/8) },
		"truncated": func(data []byte) []byte { return data[:100] },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openTestDisk(t, dir)
			must(t, s.StoreLogs(logs(1, 100, 1)))
			must(t, s.Close())
			path := filepath.Join(dir, storeFile)
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, damage(data), 0o600))
			for range 2 { // the first leaves no lock behind
				if _, err := openDiskStore(dir, func(error) {}); !errors.Is(err, ErrDataLost) || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v, want data lost in %s", err, path)
				}
			}
		})
	}
}

// Ensures that records of impossible length are found at opening.
func TestOpenDamagedRecords(t *testing.T) {
	for _, key := range []string{keyCurrentTerm, keyVoteCandidate} {
		e := newMemoryStore().memory
		must(t, e.Set([]byte(key), []byte("short")))
		if _, err := newStore(e, defaultTail, nil); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("got %v, want an error that names %s", err, key)
		}
	}
}

// Ensures that the hook of a memory store sees each append first and can refuse it.
func TestMemoryStoreHook(t *testing.T) {
	s := newMemoryStore()
	var seen []uint64
	s.onStore(func(logs []*raft.Log) error {
		seen = append(seen, logs[0].Index)
		if logs[0].Index == 2 {
			return errDisk
		}
		return nil
	})
	must(t, s.StoreLog(logs(1, 1, 1)[0]))
	if err := s.StoreLogs(logs(2, 3, 1)); !errors.Is(err, errDisk) {
		t.Errorf("got %v, want %v", err, errDisk)
	}
	s.onStore(nil)
	must(t, s.StoreLogs(logs(2, 2, 5)))
	if got := describe(t, s); got != "1@1 2@5" || !slices.Equal(seen, []uint64{1, 2}) {
		t.Errorf("got %q, hook saw %v", got, seen)
	}
}

// Ensures that what a store does after a crash does not reach the restarted one.
func TestMemoryStoreCrash(t *testing.T) {
	s := newMemoryStore()
	must(t, s.StoreLogs(logs(1, 2, 1)))
	restarted := s.crashed()
	must(t, s.StoreLogs(logs(3, 3, 1)))
	must(t, s.SetUint64([]byte(keyCurrentTerm), 8))
	if got := describe(t, restarted); got != "1@1 2@1" || restarted.Term() != 0 {
		t.Errorf("got %q, term %d", got, restarted.Term())
	}
}
