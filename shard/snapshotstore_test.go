package shard

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

type snapshotBackend struct {
	name  string
	open  func(t *testing.T) raft.SnapshotStore
	crash func(t *testing.T, s raft.SnapshotStore) raft.SnapshotStore
}

func snapshotBackends(t *testing.T) []snapshotBackend {
	dir := t.TempDir()
	openFiles := func(t *testing.T) raft.SnapshotStore {
		s, err := openSnapshots(dir, hclog.NewNullLogger())
		must(t, err)
		return s
	}
	return []snapshotBackend{
		{
			name:  "memory",
			open:  func(t *testing.T) raft.SnapshotStore { return newMemorySnapshots() },
			crash: func(t *testing.T, s raft.SnapshotStore) raft.SnapshotStore { return s.(*memorySnapshots).crashed() },
		},
		{
			name:  "files",
			open:  openFiles,
			crash: func(t *testing.T, s raft.SnapshotStore) raft.SnapshotStore { return openFiles(t) },
		},
	}
}

func snapshotList(t *testing.T, s raft.SnapshotStore) (ends []uint64) {
	t.Helper()
	metas, err := s.List()
	must(t, err)
	for _, meta := range metas {
		ends = append(ends, meta.Index)
	}
	return ends
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Ensures that a snapshot is there from its Close on, whole and in order, and not before; also after
// a crash; and that two are kept.
func TestSnapshotStore(t *testing.T) {
	for _, b := range snapshotBackends(t) {
		t.Run(b.name, func(t *testing.T) {
			s := b.open(t)
			_, trans := raft.NewInmemTransport("1/a/1")
			unfinishedSink, err := s.Create(1, 90, 9, raft.Configuration{}, 1, trans)
			must(t, err)
			_, err = unfinishedSink.Write([]byte("half"))
			must(t, err)
			cancelled, err := s.Create(1, 80, 9, raft.Configuration{}, 1, trans)
			must(t, err)
			must(t, cancelled.Cancel())
			if got := snapshotList(t, s); len(got) != 0 {
				t.Fatalf("unfinished snapshots are listed: %v", got)
			}
			for _, id := range []string{unfinishedSink.ID(), cancelled.ID(), "1-2-3"} {
				if _, _, err := s.Open(id); err == nil && b.name == "memory" {
					t.Errorf("unfinished snapshot %s opens", id)
				}
			}
			if _, err := s.Create(0, 1, 1, raft.Configuration{}, 1, trans); err == nil {
				t.Error("a snapshot of unknown version was begun")
			}
			writeSnapshot(t, s, 10, 2, "ten")
			writeSnapshot(t, s, 30, 2, "thirty")
			twenty := writeSnapshot(t, s, 20, 3, "twenty")
			for _, s := range []raft.SnapshotStore{s, b.crash(t, s)} {
				if got := snapshotList(t, s); !equal(got, []uint64{20, 30}) {
					t.Errorf("got snapshots %v, want the newest two by term and index: 20, 30", got)
				}
				meta, content, err := s.Open(twenty)
				must(t, err)
				data, err := io.ReadAll(content)
				must(t, err)
				must(t, content.Close())
				if string(data) != "twenty" || meta.Size != 6 || meta.Index != 20 || meta.Term != 3 ||
					meta.ConfigurationIndex != 1 || len(meta.Configuration.Servers) != 1 {
					t.Errorf("got %q, %+v", data, meta)
				}
			}
		})
	}
}

// Ensures that damage to a snapshot's content is found when it is opened.
func TestSnapshotChecksum(t *testing.T) {
	dir := t.TempDir()
	files, err := openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	id := writeSnapshot(t, files, 10, 2, "state")
	must(t, os.WriteFile(filepath.Join(dir, snapshotFolder, id, "state.bin"), []byte("stale"), 0o600))
	if _, _, err := files.Open(id); err == nil {
		t.Error("a damaged file opens")
	}
	memory := newMemorySnapshots()
	id = writeSnapshot(t, memory, 10, 2, "state")
	memory.kept[0].data[0] ^= 1
	if _, _, err := memory.Open(id); err == nil {
		t.Error("a damaged snapshot in memory opens")
	}
}

// Ensures that opening clears what a crash left, and only that, and refuses to pass over a newer
// snapshot that can't be read.
func TestOpenSnapshotsAfterCrash(t *testing.T) {
	dir := t.TempDir()
	s, err := openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	id := writeSnapshot(t, s, 10, 2, "ten")
	folder := filepath.Join(dir, snapshotFolder)
	must(t, os.MkdirAll(filepath.Join(folder, "2-11-1"+unfinished), 0o700)) // being written
	must(t, os.MkdirAll(filepath.Join(folder, "2-9-1"), 0o700))             // being removed
	_, err = openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	entries, err := os.ReadDir(folder)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != id {
		t.Errorf("got %v, want %s alone", entries, id)
	}
	for _, newer := range []string{"2-11-1", "3-1-1"} {
		path := filepath.Join(folder, newer)
		must(t, os.Mkdir(path, 0o700))
		if _, err := openSnapshots(dir, hclog.NewNullLogger()); !errors.Is(err, ErrDataLost) || !strings.Contains(err.Error(), newer) {
			t.Errorf("got %v, want ErrDataLost that names %s", err, newer)
		}
		must(t, os.Remove(path))
	}
	must(t, os.Mkdir(filepath.Join(folder, "what"), 0o700))
	if _, err := openSnapshots(dir, hclog.NewNullLogger()); err == nil {
		t.Error("a foreign folder was accepted")
	}
}

// TestDamagedDescription ensures that a snapshot whose description is not what its name says is neither started from nor
// thrown away, when a replica opens and later.
func TestDamagedDescription(t *testing.T) {
	for name, change := range map[string][2]string{
		"index beyond the log":  {`"Index":10`, `"Index":90`},
		"index within the log":  {`"Index":10`, `"Index":11`},
		"index below":           {`"Index":10`, `"Index":8`},
		"term above":            {`"Term":2`, `"Term":6`},
		"term below":            {`"Term":2`, `"Term":1`},
		"voter":                 {`"1/a/1"`, `"1/a/9"`},
		"suffrage":              {`"Suffrage":0`, `"Suffrage":1`},
		"configuration's index": {`"ConfigurationIndex":1`, `"ConfigurationIndex":3`},
		"id of another":         {`"ID":"2-10-`, `"ID":"2-10-1`},
		"id of another in term": {`"ID":"2-10-`, `"ID":"3-10-`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openTestDisk(t, dir)
			must(t, s.StoreLogs(logs(1, 20, 2)))
			snaps, err := openSnapshots(dir, hclog.NewNullLogger())
			must(t, err)
			id := writeSnapshot(t, snaps, 10, 2, "state")
			must(t, s.DeleteRange(1, 5))
			path := filepath.Join(dir, snapshotFolder, id, "meta.json")
			data, err := os.ReadFile(path)
			must(t, err)
			changed := strings.Replace(string(data), change[0], change[1], 1)
			if changed == string(data) {
				t.Fatalf("nothing to change in %s", data)
			}
			must(t, os.WriteFile(path, []byte(changed), 0o600))
			if _, err := openSnapshots(dir, hclog.NewNullLogger()); !errors.Is(err, ErrDataLost) {
				t.Errorf("opened: %v", err)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("the snapshot is gone: %v", err)
			}
			if strings.HasPrefix(change[0], `"ID"`) {
				return // found by its name no more
			}
			if _, _, err := recoveryPoint(s, snaps); !errors.Is(err, ErrDataLost) {
				t.Errorf("started from: %v", err)
			}
			if _, _, err := snaps.Open(id); !errors.Is(err, ErrDataLost) {
				t.Errorf("read: %v", err)
			}
		})
	}
}
