package shard

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

// changingFiles calls before ahead of each operation that changes something, one at a time, and fails it with what that returns.
func changingFiles(fs vfs.FS, before func(errorfs.Op) error) vfs.FS {
	var mu sync.Mutex
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpMkdirAll,
			errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			mu.Lock()
			defer mu.Unlock()
			return before(op)
		}
		return nil
	}))
}

// sharedScript is one run of a shared log with all that happens to it, step by step.
type sharedScript struct {
	t      *testing.T
	fs     vfs.FS
	l      *sharedLog
	stores map[uint64]*store
}

func (s *sharedScript) open() {
	var err error
	s.l, err = openSharedLog(s.fs, testSharedDir, false, false, slog.New(slog.DiscardHandler), func(err error) { s.t.Errorf("failed: %v", err) })
	must(s.t, err)
	s.stores = map[uint64]*store{}
}

func (s *sharedScript) store(r uint64) *store {
	if s.stores[r] == nil {
		var err error
		s.stores[r], err = s.l.openStore(ReplicaID{1, "a", r}, func(err error) { s.t.Errorf("fatal: %v", err) })
		must(s.t, err)
	}
	return s.stores[r]
}

func (s *sharedScript) close() {
	for _, store := range s.stores {
		must(s.t, store.Close())
	}
	must(s.t, s.l.Close())
}

// sharedReplicas is how many replicas a script has.
const sharedReplicas = 4

// steps change one replica each, or none.
func (s *sharedScript) steps() (steps []func()) {
	step := func(f func()) { steps = append(steps, f) }
	add := func(r, from, to, term uint64, size int) {
		step(func() {
			batch := logs(from, to, term)
			for _, log := range batch {
				log.Extensions = make([]byte, size)
			}
			must(s.t, storeSynced(s.store(r), batch))
		})
	}
	cut := func(r, from, to uint64) { step(func() { must(s.t, s.store(r).DeleteRange(from, to)) }) }
	term := func(r, term uint64) {
		step(func() { must(s.t, s.store(r).SetUint64([]byte(keyCurrentTerm), term)) })
		step(func() {
			must(s.t, s.store(r).SetUint64([]byte(keyVoteTerm), term))
			must(s.t, s.store(r).Set([]byte(keyVoteCandidate), fmt.Append(nil, "1/b/", term)))
		})
	}
	flush := func() { step(func() { must(s.t, s.l.db.Flush()) }) }
	step(s.open)
	for r := uint64(1); r < sharedReplicas; r++ {
		step(func() { must(s.t, mark(s.store(r), ReplicaID{1, "a", r})) })
		add(r, 1, 6, 1, 100)
		term(r, 2)
	}
	flush()
	add(1, 7, 9, 2, 9000)
	cut(1, 1, 5)
	cut(2, 4, 6) // and another leader's instead
	add(2, 4, 5, 3, 50)
	step(func() {
		must(s.t, s.store(3).Close())
		must(s.t, s.l.remove(1, 3))
	})
	step(func() { must(s.t, mark(s.store(4), ReplicaID{1, "a", 4})) })
	add(4, 1, 40, 4, 1000)
	step(func() { must(s.t, compactAll(s.t.Context(), s.l)) })
	step(s.close)
	step(s.open)
	for i := range uint64(3) { // logs are used again
		add(1, 10+i, 10+i, 3, 3000)
		flush()
		term(2, 4+i)
	}
	cut(4, 1, 30)
	add(4, 41, 41, 4, sharedMemtable/2) // what is that large goes past the memory
	add(4, 42, 42, 4, 10)
	step(s.close)
	return steps
}

// state is what a replica has, "" for none.
func stateIn(t *testing.T, l *sharedLog, r uint64) string {
	t.Helper()
	s, err := l.openStore(ReplicaID{1, "a", r}, func(err error) { t.Errorf("fatal: %v", err) })
	must(t, err)
	defer s.Close()
	var b strings.Builder
	for _, key := range []string{keyReplica, keyVoteCandidate} {
		value, _, err := getKey(s, key)
		must(t, err)
		fmt.Fprintf(&b, "%q ", value)
	}
	first, last := s.bounds()
	for i := first; i != 0 && i <= last; i++ {
		var log raft.Log
		must(t, s.GetLog(i, &log))
		fmt.Fprintf(&b, "%s/%d ", log.Data, len(log.Extensions))
	}
	return fmt.Sprint(b.String(), s.Term())
}

// reusing is a vfs.MemFS of which no clone is made while a file is reused: it would wait for the lock that ReuseForWrite holds, and
// that for the one which waits, as it takes its own a second time.
type reusing struct {
	vfs.FS
	mu *sync.Mutex
}

func (f reusing) ReuseForWrite(before, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.FS.ReuseForWrite(before, name, category)
}

// Ensures that wherever a loss of power hits a shared log, at each single change of a file as it is made, opened, written, compacted, closed and opened again,
// and at each one of the start that follows, each replica has exactly what its steps left that were done, or with the one that was under way.
func TestSharedEachCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("long under the race detector")
	}
	var states [][sharedReplicas]string // after each step
	script := &sharedScript{t: t, fs: vfs.NewMem()}
	for _, step := range script.steps() {
		step()
		var state [sharedReplicas]string
		for r := range state {
			if script.l != nil && !script.l.closed {
				state[r] = stateIn(t, script.l, uint64(r)+1)
			} else {
				state[r] = states[len(states)-1][r]
			}
		}
		states = append(states, state)
	}

	var at atomic.Int64 // the step under way
	// verify opens what a crash between the steps from and to left.
	verify := func(crashed vfs.FS, from, to int, what string) {
		l, err := openSharedLog(crashed, testSharedDir, from > 0, false, slog.New(slog.DiscardHandler), func(err error) { t.Errorf("failed: %v", err) })
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		for r := range sharedReplicas {
			allowed := []string{stateIn(t, l, 99)} // that of one that was never here
			if from > 0 {
				allowed = nil
			}
			for _, state := range states[max(from, 1)-1 : to+1] {
				allowed = append(allowed, state[r])
			}
			if got := stateIn(t, l, uint64(r)+1); !slices.Contains(allowed, got) {
				t.Errorf("%s: replica %d has\n%.300s\nwant one of\n%.1000q", what, r+1, got, allowed)
			}
		}
		must(t, l.Close())
	}
	rng := rand.New(rand.NewPCG(1, 4))
	crashes, nested := 0, 0
	var reuse sync.Mutex
	// crash has the power fail before op.
	crash := func(disk *vfs.MemFS, op errorfs.Op, then func(left *vfs.MemFS, from, to int, what string)) {
		crashes++
		percent := []int{0, 50, 100}[rng.IntN(3)]
		from := int(at.Load())
		reuse.Lock()
		left := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		reuse.Unlock()
		then(left, from, int(at.Load()), fmt.Sprintf("step %d, operation %v of %s, %d %% of what is not synced", from, op.Kind, op.Path, percent))
	}
	disk := vfs.NewCrashableMem()
	before := func(op errorfs.Op) error {
		crash(disk, op, func(left *vfs.MemFS, from, to int, what string) {
			if crashes%97 != 0 {
				verify(left, from, to, what)
				return
			}
			done := false
			verify(changingFiles(reusing{left, &reuse}, func(op errorfs.Op) error {
				if !done {
					nested++
					crash(left, op, func(again *vfs.MemFS, _, _ int, then string) { verify(again, from, to, what+", then "+then) })
				}
				return nil
			}), from, to, what)
			done = true
		})
		return nil
	}
	filled := &filledLogs{FS: changingFiles(reusing{disk, &reuse}, before), count: 2, bytes: 3 << 10}
	script = &sharedScript{t: t, fs: filled}
	for i, step := range script.steps() {
		at.Store(int64(i))
		step()
	}
	if !filled.filled || len(filled.left) > 0 {
		t.Error("no filled log was used")
	}
	t.Logf("%d steps, %d crashes, %d within starts", len(states), crashes, nested)
}
