package shard

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// together makes changes of the manifest wait for one another, and returns what each came to once all were let go. after is called by each
// as soon as its change returned.
func together(t *testing.T, m *manifest, changes []func() error, after func(n int)) []error {
	t.Helper()
	errs := make([]error, len(changes))
	var wg sync.WaitGroup
	m.saving.Lock()
	for n, change := range changes {
		wg.Go(func() {
			errs[n] = change()
			after(n)
		})
		for waiting := 0; waiting <= n; runtime.Gosched() { // in their order
			m.mu.Lock()
			waiting = len(m.waiting)
			m.mu.Unlock()
		}
	}
	m.saving.Unlock()
	wg.Wait()
	return errs
}

// Ensures that notes which wait for the disk together are written together, that each is durable when its call returns, and that one that
// is refused keeps none of the others back.
func TestManifestTogether(t *testing.T) {
	dir := newFolder(t)
	m := restart(t, dir)
	const replicas = 50
	var begins, creates []func() error
	for id := ID(1); id <= replicas; id++ {
		begins = append(begins, func() error { _, err := m.begin(id, 1, 0); return err })
		creates = append(creates, func() error { return m.note(id, 1, replicaCreated) })
	}
	begins = append(begins, func() error { _, err := m.begin(7, 2, 0); return err }) // 7/1 is there by then
	states := func(n int, state replicaState) {
		notes, err := loadNotes(dir)
		must(t, err)
		if i, noted := findNote(notes, ID(n+1), 1); n < replicas && (!noted || notes[i].State != state) {
			t.Errorf("shard %d is not noted as %s on the disk", n+1, state)
		}
		if len(notes) != replicas {
			t.Errorf("%d notes are on the disk, want %d at once", len(notes), replicas)
		}
	}
	errs := together(t, m, begins, func(n int) { states(n, replicaCreating) })
	for n, err := range errs {
		if refused := n == replicas; (err != nil) != refused {
			t.Errorf("begin %d: %v", n, err)
		}
	}
	for _, err := range together(t, m, creates, func(n int) { states(n, replicaCreated) }) {
		must(t, err)
	}
	if !slices.EqualFunc(restart(t, dir).notes, m.notes, func(a, b replicaNote) bool { return a == b }) {
		t.Error("the next start finds other notes")
	}
}

// Ensures that a write which fails has noted nothing for any of those that waited for it, and that they may try again.
func TestManifestTogetherFails(t *testing.T) {
	dir := newFolder(t)
	m := restart(t, dir)
	_, err := m.begin(1, 1, 0)
	must(t, err)
	must(t, m.note(1, 1, replicaCreated))
	obstacle := filepath.Join(dir, manifestName+unfinished)
	must(t, os.Mkdir(obstacle, 0o700))
	changes := []func() error{
		func() error { return m.noteBegun(replicaNote{Shard: 2, R: 1, State: replicaCreating}, 0) },
		func() error { return m.diverged(1, 1, &Verdict{Outcome: OutcomeMinority}) },
		func() error { return m.diverged(1, 1, &Verdict{Outcome: OutcomeSplit}) }, // the other one's is not on the disk either
		func() error { return m.destroyed(3, 1) },
	}
	for n, err := range together(t, m, changes, func(int) {}) {
		if err == nil {
			t.Errorf("change %d is said to be durable", n)
		}
	}
	if len(m.notes) != 1 || m.notes[0].State != replicaCreated || len(*m.shown.Load()) != 1 {
		t.Errorf("notes: %+v", m.notes)
	}
	must(t, os.Remove(obstacle))
	for _, err := range together(t, m, changes, func(int) {}) {
		must(t, err)
	}
	if v := restart(t, dir).verdict(1, 1); v == nil || v.Outcome != OutcomeMinority {
		t.Errorf("verdict: %+v", v)
	}
}

// Ensures that a verdict which waits beside the end of a replica does not bring it back, whichever is first.
func TestManifestDivergedBesideDestroyed(t *testing.T) {
	for _, first := range []int{0, 1} {
		m := restart(t, newFolder(t))
		_, err := m.begin(1, 1, 0)
		must(t, err)
		must(t, m.note(1, 1, replicaCreated))
		changes := []func() error{
			func() error { return m.diverged(1, 1, &Verdict{Outcome: OutcomeMinority}) },
			func() error { return m.destroyed(1, 1) },
		}
		for _, err := range together(t, m, []func() error{changes[first], changes[1-first]}, func(int) {}) {
			must(t, err)
		}
		if got := m.notes[0].State; got != replicaDestroyed {
			t.Errorf("%s, want destroyed", got)
		}
	}
}

// Ensures that once the folders' names could not be made durable, for whomever, no replica is created whose folder was there by then, whatever a later sync says, and
// that the next start begins again.
func TestManifestFoldersNotSynced(t *testing.T) {
	for _, l := range []struct {
		fails func(m *manifest) error
		syncs func(m *manifest) bool // it is about to
	}{
		{func(m *manifest) error { return m.created(1, 1) }, func(m *manifest) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.waiting) > 0
		}},
		{func(m *manifest) error { return m.removeFolder(m.folder(1, 1)) }, func(m *manifest) bool { return !exists(m.folder(1, 1)) }},
	} {
		dir := newFolder(t)
		m := restart(t, dir)
		begin := func(id ID) {
			t.Helper()
			folder, err := m.begin(id, 1, 0)
			must(t, err)
			fill(t, folder, ReplicaID{id, "a", 1})
		}
		begin(1)
		begin(2)
		folders := filepath.Join(dir, replicasDir)
		m.saving.Lock()
		failed := make(chan error, 1)
		go func() { failed <- l.fails(m) }()
		for !l.syncs(m) {
			runtime.Gosched()
		}
		must(t, os.Rename(folders, folders+".aside"))
		must(t, os.Symlink(os.DevNull, folders)) // which can't be synced
		m.saving.Unlock()
		if err := <-failed; err == nil {
			t.Fatal("durable, without a sync")
		}
		must(t, os.Remove(folders))
		must(t, os.Rename(folders+".aside", folders))
		if m.created(2, 1) == nil {
			t.Error("created, by a sync after one that failed")
		}
		m = restart(t, dir)
		for id := ID(1); id <= 2; id++ {
			if state, err := m.check(id, 1); state != replicaCreating || err != nil {
				t.Fatalf("%s, %v", state, err)
			}
			begin(id)
			must(t, m.created(id, 1))
		}
	}
}
