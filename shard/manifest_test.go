package shard

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

func newFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, openIdentity(t, dir, "a").Close())
	return dir
}

// restart opens the manifest as the next start does.
func restart(t *testing.T, dir string) *manifest {
	t.Helper()
	m, err := openManifest(dir)
	must(t, err)
	return m
}

// fill makes the store of a replica as its creation does: mark, then bootstrap.
func fill(t *testing.T, folder string, id ReplicaID) {
	t.Helper()
	fillIn(t, openTestDisk(t, folder), id)
}

func fillIn(t *testing.T, s replicaStore, id ReplicaID) {
	t.Helper()
	must(t, mark(s, id))
	must(t, s.SetUint64([]byte(keyCurrentTerm), 1))
	must(t, s.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration}}))
	must(t, s.Close())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Ensures, for each row of the crash table, what the next start finds when the process stops there.
func TestManifestCrash(t *testing.T) {
	for _, kind := range []LogStore{LogBolt, LogShared} {
		t.Run(string(kind), func(t *testing.T) { testManifestCrash(t, kind) })
	}
}

// logFolder is a data folder, with its shared log where there is one.
type logFolder struct {
	dir  string
	kind LogStore
	log  *sharedLog
}

// openLog opens the shared log as the next start does.
func (f *logFolder) openLog(t *testing.T, notes []replicaNote) {
	t.Helper()
	if f.kind != LogShared {
		return
	}
	if f.log != nil {
		must(t, f.log.Close())
	}
	var err error
	_, must1 := needsLog(notes)
	f.log, err = openSharedLog(vfs.Default, filepath.Join(f.dir, sharedDir), must1, false, slog.New(slog.DiscardHandler), func(err error) { t.Error(err) })
	must(t, err)
}

// restart opens the manifest as the next start does.
func (f *logFolder) restart(t *testing.T) *manifest {
	t.Helper()
	m := restart(t, f.dir)
	f.openLog(t, m.notes)
	must(t, m.attach(f.log, f.kind))
	return m
}

// resume is resume, with the shared log.
func (f *logFolder) resume(t *testing.T) *manifest {
	t.Helper()
	m := resume(t, f.dir)
	if f.log == nil {
		f.openLog(t, m.notes)
	}
	m.log, m.kind = f.log, f.kind
	return m
}

// open opens the store of a replica.
func (f *logFolder) open(t *testing.T, id ReplicaID) replicaStore {
	t.Helper()
	if f.kind == LogShared {
		s, err := f.log.openStore(id, func(err error) { t.Errorf("fatal: %v", err) })
		must(t, err)
		return s
	}
	return openTestDisk(t, replicaFolder(f.dir, id.Shard, id.R))
}

// has reports whether there is anything of a store.
func (f *logFolder) has(t *testing.T, id ReplicaID) bool {
	t.Helper()
	if f.kind == LogShared {
		there, err := f.log.has(id.Shard, id.R)
		must(t, err)
		return there
	}
	return exists(filepath.Join(replicaFolder(f.dir, id.Shard, id.R), storeFile))
}

func testManifestCrash(t *testing.T, kind LogStore) {
	id := ReplicaID{Shard: 3, Node: "a", R: 17}
	// Each step goes on where the one before stopped.
	steps := []struct {
		name      string
		do        func(t *testing.T, f *logFolder, m *manifest)
		state     replicaState
		err       error
		restarted bool // whether begin may start the replica over
		folder    bool // whether its folder is there after the restart
	}{
		{"nothing", func(t *testing.T, f *logFolder, m *manifest) {}, "", nil, true, false},
		{"within the first note", func(t *testing.T, f *logFolder, m *manifest) {
			must(t, os.WriteFile(filepath.Join(f.dir, manifestName+unfinished), []byte(`{"for`), 0o600))
		}, "", nil, true, false},
		{"noted as creating", func(t *testing.T, f *logFolder, m *manifest) {
			must(t, m.noteBegun(replicaNote{Shard: 3, R: 17, State: replicaCreating, Log: map[LogStore]LogStore{LogShared: LogShared}[kind]}, 0))
		}, replicaCreating, nil, true, false},
		{"begun", func(t *testing.T, f *logFolder, m *manifest) {
			_, err := m.begin(3, 17, 0)
			must(t, err)
		}, replicaCreating, nil, true, true},
		{"part of a store", func(t *testing.T, f *logFolder, m *manifest) {
			s := f.open(t, id)
			must(t, mark(s, id))
			must(t, s.Close())
		}, replicaCreating, nil, true, true},
		{"bootstrapped", func(t *testing.T, f *logFolder, m *manifest) {
			fillIn(t, f.open(t, id), id)
		}, replicaCreating, nil, true, true},
		{"within the second note", func(t *testing.T, f *logFolder, m *manifest) {
			must(t, os.WriteFile(filepath.Join(f.dir, manifestName+unfinished), []byte(`{"for`), 0o600))
		}, replicaCreating, nil, true, true},
		{"created", func(t *testing.T, f *logFolder, m *manifest) {
			must(t, m.created(3, 17))
			must(t, m.created(3, 17))
		}, replicaCreated, nil, false, true},
		{"diverged", func(t *testing.T, f *logFolder, m *manifest) {
			must(t, m.diverged(3, 17, &Verdict{Outcome: OutcomeMinority}))
			must(t, m.diverged(3, 17, &Verdict{Outcome: OutcomeSplit})) // the first holds
			must(t, m.created(3, 17))
			if v := f.restart(t).verdict(3, 17); v == nil || v.Outcome != OutcomeMinority {
				t.Errorf("the verdict after a restart: %+v", v)
			}
		}, replicaDiverged, nil, false, true},
		{"noted as destroyed", func(t *testing.T, f *logFolder, m *manifest) {
			must(t, m.note(3, 17, replicaDestroyed))
		}, "", ErrRetired, false, false},
		{"destroyed", func(t *testing.T, f *logFolder, m *manifest) {
			must(t, m.destroyed(3, 17))
			must(t, m.destroyed(3, 17))
		}, "", ErrRetired, false, false},
	}
	for n, stop := range steps {
		t.Run(stop.name, func(t *testing.T) {
			f := &logFolder{dir: newFolder(t), kind: kind}
			defer func() {
				if f.log != nil {
					f.log.Close()
				}
			}()
			for _, step := range steps[:n+1] {
				step.do(t, f, f.resume(t))
			}
			m := f.restart(t)
			state, err := m.check(3, 17)
			if state != stop.state || !errors.Is(err, stop.err) {
				t.Errorf("check: got %q, %v; want %q, %v", state, err, stop.state, stop.err)
			}
			if got := exists(m.folder(3, 17)); got != stop.folder {
				t.Errorf("folder is there: %v, want %v", got, stop.folder)
			}
			if !stop.folder && f.has(t, id) {
				t.Error("the store is there")
			}
			if state == replicaCreated {
				s := f.open(t, id)
				must(t, checkMarker(s, id))
				if s.Term() != 1 {
					t.Errorf("term %d, want the bootstrap's", s.Term())
				}
				must(t, s.Close())
			}
			folder, err := m.begin(3, 17, 0)
			if !stop.restarted {
				if !errors.Is(err, ErrRetired) {
					t.Errorf("begin: got %v, want %v", err, ErrRetired)
				}
				return
			}
			must(t, err)
			if f.has(t, id) || !exists(filepath.Join(folder, snapshotFolder)) {
				t.Error("begin did not start over in an empty folder")
			}
			fillIn(t, f.open(t, id), id)
			must(t, m.created(3, 17))
			if state, err := f.restart(t).check(3, 17); state != replicaCreated || err != nil {
				t.Errorf("after starting over: got %q, %v", state, err)
			}
		})
	}
}

// resume reads the notes without the clearing that a start does, so that steps follow one another
// within one process.
func resume(t *testing.T, dir string) *manifest {
	t.Helper()
	notes, err := loadNotes(dir)
	must(t, err)
	return &manifest{dir: dir, notes: notes}
}

func contains(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text)
}

func createReplica(t *testing.T, m *manifest, shard ID, r uint64) string {
	t.Helper()
	folder, err := m.begin(shard, r, 0)
	must(t, err)
	fill(t, folder, ReplicaID{Shard: shard, Node: "a", R: r})
	must(t, m.created(shard, r))
	return folder
}

// Ensures that a replica that may have spoken is lost, and named, when any part of its data is gone,
// and that it can still be destroyed to make room for a new one.
func TestManifestLoss(t *testing.T) {
	for name, lose := range map[string]func(folder string) error{
		"folder":          os.RemoveAll,
		"store":           func(folder string) error { return os.Remove(filepath.Join(folder, storeFile)) },
		"store is empty":  func(folder string) error { return os.Truncate(filepath.Join(folder, storeFile), 0) },
		"snapshot folder": func(folder string) error { return os.RemoveAll(filepath.Join(folder, snapshotFolder)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := newFolder(t)
			must(t, lose(createReplica(t, restart(t, dir), 3, 17)))
			m := restart(t, dir)
			_, err := m.check(3, 17)
			if !errors.Is(err, ErrDataLost) || !contains(err, "shard 3, replica 17") {
				t.Errorf("check: got %v, want ErrDataLost that names the replica", err)
			}
			if _, err := m.begin(3, 17, 0); !errors.Is(err, ErrRetired) {
				t.Errorf("begin: got %v, want %v", err, ErrRetired)
			}
			if _, err := m.begin(3, 18, 0); err == nil {
				t.Error("a successor was begun while its predecessor is a member")
			}
			must(t, m.destroyed(3, 17))
			createReplica(t, m, 3, 18)
		})
	}
}

// Ensures that a store that is new, or another replica's, under the right name is found out.
func TestMarker(t *testing.T) {
	id := ReplicaID{Shard: 3, Node: "a", R: 17}
	eachBackend(t, func(t *testing.T, b backend) {
		s := b.open(t)
		if err := checkMarker(s, id); !errors.Is(err, ErrDataLost) {
			t.Errorf("empty store: got %v, want %v", err, ErrDataLost)
		}
		must(t, mark(s, id))
		must(t, checkMarker(b.crash(t, s), id))
		other := id
		other.R = 18
		if err := checkMarker(s, other); !errors.Is(err, ErrDataLost) || !contains(err, "3/a/17") {
			t.Errorf("foreign store: got %v, want ErrDataLost that names 3/a/17", err)
		}
	})
}

// Ensures that within a shard only a higher r follows, and that shards do not meddle with each other.
func TestManifestOrder(t *testing.T) {
	dir := newFolder(t)
	m := restart(t, dir)
	createReplica(t, m, 3, 17)
	createReplica(t, m, 2, 5)
	createReplica(t, m, 4, 90)
	must(t, m.destroyed(3, 17))
	createReplica(t, m, 3, 20)
	for _, r := range []uint64{1, 17, 19} {
		if _, err := m.check(3, r); !errors.Is(err, ErrRetired) {
			t.Errorf("check of replica %d: got %v, want %v", r, err, ErrRetired)
		}
		if _, err := m.begin(3, r, 0); !errors.Is(err, ErrRetired) {
			t.Errorf("begin of replica %d: got %v, want %v", r, err, ErrRetired)
		}
	}
	if state, err := m.check(3, 21); state != "" || err != nil {
		t.Errorf("check of a new replica: got %q, %v", state, err)
	}
	if err := m.created(3, 21); err == nil {
		t.Error("a replica that was not begun was created")
	}
	if err := m.created(3, 17); !errors.Is(err, ErrRetired) {
		t.Errorf("created after destroyed: got %v", err)
	}
	must(t, m.destroyed(8, 1)) // never here, and now never to come
	if _, err := m.begin(8, 1, 0); !errors.Is(err, ErrRetired) {
		t.Errorf("begin after destroyed: got %v", err)
	}
	want := []replicaNote{{Shard: 2, R: 5, State: replicaCreated}, {Shard: 3, R: 17, State: replicaDestroyed}, {Shard: 3, R: 20, State: replicaCreated},
		{Shard: 4, R: 90, State: replicaCreated}, {Shard: 8, R: 1, State: replicaDestroyed}}
	if got := restart(t, dir).notes; !equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Ensures that created does not note a replica whose store never came to be.
func TestManifestCreatedNeedsStore(t *testing.T) {
	m := restart(t, newFolder(t))
	_, err := m.begin(3, 17, 0)
	must(t, err)
	if err := m.created(3, 17); !errors.Is(err, ErrDataLost) {
		t.Errorf("got %v, want %v", err, ErrDataLost)
	}
}

// Ensures that a manifest that is missing, damaged, or older than the folders is not believed.
func TestManifestDamage(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"missing":   func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) },
		"no JSON":   func(dir string) error { return os.WriteFile(filepath.Join(dir, manifestName), []byte("{"), 0o600) },
		"older":     func(dir string) error { return saveNotes(dir, nil) },
		"odd state": func(dir string) error { return saveNotes(dir, []replicaNote{{Shard: 3, R: 17, State: "gone"}}) },
		"out of order": func(dir string) error {
			return saveNotes(dir, []replicaNote{{Shard: 3, R: 17, State: replicaCreated}, {Shard: 2, R: 1, State: replicaCreated}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newFolder(t)
			createReplica(t, restart(t, dir), 3, 17)
			must(t, damage(dir))
			if _, err := openManifest(dir); !errors.Is(err, ErrDataLost) {
				t.Errorf("got %v, want %v", err, ErrDataLost)
			}
		})
	}
	t.Run("foreign folder", func(t *testing.T) {
		dir := newFolder(t)
		must(t, os.MkdirAll(filepath.Join(dir, replicasDir, "3-17-old"), 0o700))
		if _, err := openManifest(dir); err == nil {
			t.Error("a foreign folder was accepted")
		}
	})
}

// Ensures that whoever only asks which replicas are here is not held up by one that is being written or
// removed.
func TestManifestAskedDuringWrite(t *testing.T) {
	m := restart(t, newFolder(t))
	createReplica(t, m, 3, 17)
	m.mu.Lock() // as held over the write
	defer m.mu.Unlock()
	answer := make(chan []ReplicaID, 1)
	go func() { answer <- m.alive("a") }()
	select {
	case got := <-answer:
		if len(got) != 1 || got[0] != (ReplicaID{3, "a", 17}) {
			t.Errorf("replicas: %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the disk")
	}
}
