package shard

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

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
	memory.kept[0].data[0][0] ^= 1
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
		"size":                  {`"Size":5`, `"Size":7`},
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

// TestUnreadableSnapshotIsReplaced ensures that a member which needs a snapshot that its leader can't read any more gets
// another one, though nothing is written.
func TestUnreadableSnapshotIsReplaced(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.lead("a")
		c.net.Isolate("c", "a", "b")
		c.fill(l, 60, "v")
		l = c.leader("a", "b")
		snaps := c.memory[l.Node()].stores[c.replicaOn(l.Node())].snaps
		snaps.mu.Lock()
		for n := range snaps.kept {
			snaps.kept[n].sum++
		}
		snaps.mu.Unlock()
		c.net.Heal()
		c.wantSameState()
		c.until("no snapshot is damaged", func() bool {
			metas, err := snaps.List()
			must(t, err)
			return !slices.ContainsFunc(metas, func(m *raft.SnapshotMeta) bool { return verifySnapshot(snaps, m.ID) != nil })
		})
		before := snapshotList(t, snaps)
		time.Sleep(time.Minute)
		if after := snapshotList(t, snaps); !equal(before, after) {
			t.Errorf("more are taken for ever: %v, then %v", before, after)
		}
	})
}

// TestUnrestorableSnapshot ensures that a replica whose newest snapshot is whole as a file, and holds no state, has lost its data,
// whether or not there is an older one; and that one which only a newer build can read has not.
func TestUnrestorableSnapshot(t *testing.T) {
	const versionAt = len("LARDERSM")
	for name, test := range map[string]struct {
		edit func(data []byte)
		lost bool
	}{
		"damaged":          {func(data []byte) { data[len(data)/2] ^= 1 }, true},
		"of a newer build": {func(data []byte) { data[versionAt] = 99 }, false},
	} {
		for _, all := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s all=%v", name, all), func(t *testing.T) {
				inBubble(t, 1, compacting, func(c *cluster) {
					l := c.leader()
					c.fill(l, 60, "v")
					c.fill(l, 60, "w")
					c.crash("a")
					id := c.replicaOn("a")
					snaps := c.memory["a"].stores[id].snaps
					if len(snaps.kept) != retainSnapshots {
						t.Fatalf("%d snapshots", len(snaps.kept))
					}
					for n := range snaps.kept {
						if s := &snaps.kept[n]; n == 0 || all {
							data := slices.Concat(s.data...)
							test.edit(data)
							s.data, s.sum = pieces{data}, crc32.Checksum(data, castagnoli)
						}
					}
					h, err := NewHost(Config{Node: "a", Memory: c.memory["a"], Network: c.net.From("a"), Addr: addrOf("a"), Fatal: func(err error) { t.Error(err) }})
					must(t, err)
					for range lossTries {
						if err := h.OpenCache(Spec{Shard: testShard, R: id.R, Members: c.members()}); err == nil || errors.Is(err, ErrDataLost) != test.lost {
							t.Errorf("%v", err)
						}
					}
					if v := h.lost(id); (v != nil) != test.lost {
						t.Errorf("believed lost: %v", v)
					}
					must(t, h.Close())
				})
			})
		}
	}
}

// editFile replaces a part of a snapshot's file.
func editFile(t *testing.T, dir, id, file, from, to string) {
	t.Helper()
	path := filepath.Join(dir, snapshotFolder, id, file)
	data, err := os.ReadFile(path)
	must(t, err)
	changed := strings.Replace(string(data), from, to, 1)
	if changed == string(data) {
		t.Fatalf("nothing to change in %s", data)
	}
	must(t, os.WriteFile(path, []byte(changed), 0o600))
}

// snapshotDamages are ways to damage a snapshot at index 10 of term 2 that holds "state"; inside: only what reads it tells.
var snapshotDamages = map[string]struct {
	file, from, to string
	inside         bool
}{
	"index up":   {descriptionFile, `"Index":10`, `"Index":90`, false},
	"index down": {descriptionFile, `"Index":10`, `"Index":8`, false},
	"term up":    {descriptionFile, `"Term":2`, `"Term":6`, false},
	"id":         {descriptionFile, `"ID":"2-10-1`, `"ID":"2-10-2`, false},
	"version":    {descriptionFile, `"Version":1`, `"Version":0`, false},
	"no JSON":    {descriptionFile, `{"Version"`, `["Version"`, false},
	"sum":        {descriptionSum, "", "0", false},
	"length":     {stateFile, "state", "stat", false},
	"state":      {stateFile, "state", "stale", true},
}

// TestDamagedSnapshotIsReplaced ensures that a damaged snapshot is found, is never passed over for an older one, and is gone
// once another was taken, at the same place of the log or later, whatever it says of itself and the clocks say.
func TestDamagedSnapshotIsReplaced(t *testing.T) {
	for name, damage := range snapshotDamages {
		for index := uint64(10); index <= 11; index++ {
			for _, ahead := range []bool{false, true} { // of the clock
				t.Run(fmt.Sprintf("%s, then %d, ahead %v", name, index, ahead), func(t *testing.T) {
					dir := t.TempDir()
					snaps, err := openSnapshots(dir, hclog.NewNullLogger())
					must(t, err)
					writeSnapshot(t, snaps, 5, 2, "old")
					id := writeSnapshot(t, snaps, 10, 2, "state")
					if ahead {
						later := "2-10-1999999999999"
						editFile(t, dir, id, descriptionFile, id, later)
						folder := filepath.Join(dir, snapshotFolder)
						must(t, os.Rename(filepath.Join(folder, id), filepath.Join(folder, later)))
						id = later
					}
					editFile(t, dir, id, damage.file, damage.from, damage.to)
					newest := func() error {
						metas, err := snaps.List()
						if err != nil {
							return err
						}
						return verifySnapshot(snaps, metas[0].ID)
					}
					if err := newest(); err == nil || errors.Is(err, ErrDataLost) == damage.inside {
						t.Errorf("while it is the newest: %v", err)
					}
					s := openTestDisk(t, t.TempDir())
					if _, _, err := recoveryPoint(s, snaps); !errors.Is(err, ErrDataLost) {
						t.Errorf("begun from: %v", err)
					}
					for at := time.Now().UnixMilli(); time.Now().UnixMilli() == at; { // names tell milliseconds
						runtime.Gosched()
					}
					writeSnapshot(t, snaps, index, 2, "new")
					must(t, newest())
					if _, err := os.Stat(filepath.Join(dir, snapshotFolder, id)); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("it is still there: %v", err)
					}
					snaps, err = openSnapshots(dir, hclog.NewNullLogger())
					must(t, err)
					must(t, newest())
				})
			}
		}
	}
}

// TestOlderDamagedSnapshot ensures that damage to a snapshot that a newer one has replaced does no harm.
func TestOlderDamagedSnapshot(t *testing.T) {
	for name, damage := range snapshotDamages {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			snaps, err := openSnapshots(dir, hclog.NewNullLogger())
			must(t, err)
			old := writeSnapshot(t, snaps, 10, 2, "state")
			newer := writeSnapshot(t, snaps, 12, 2, "newer")
			editFile(t, dir, old, damage.file, damage.from, damage.to)
			for range 2 { // while it runs, and after a restart
				metas, err := snaps.List()
				must(t, err)
				if metas[0].ID != newer || !damage.inside && len(metas) != 1 {
					t.Errorf("%d are listed, %s first", len(metas), metas[0].ID)
				}
				snaps, err = openSnapshots(dir, hclog.NewNullLogger())
				must(t, err)
			}
		})
	}
}

// TestReapingCrash ensures that a snapshot which is being removed when the process ends is no damaged one.
func TestReapingCrash(t *testing.T) {
	dir := t.TempDir()
	snaps, err := openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	id := writeSnapshot(t, snaps, 10, 2, "ten")
	folder := filepath.Join(dir, snapshotFolder)
	must(t, os.Rename(filepath.Join(folder, id), filepath.Join(folder, id+unfinished)))
	must(t, os.Remove(filepath.Join(folder, id+unfinished, descriptionFile)))
	writeSnapshot(t, snaps, 9, 2, "nine")
	snaps, err = openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	if got := snapshotList(t, snaps); !equal(got, []uint64{9}) {
		t.Errorf("got %v", got)
	}
}

// TestRefusedSnapshotIsDiscarded ensures that a follower which is sent a snapshot that holds no state goes on with what it has, also after
// a restart.
func TestRefusedSnapshotIsDiscarded(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.lead("a")
		c.mustPut(l, "k", "v")
		id := c.replicaOn("c")
		c.until("c has it", func() bool {
			return c.hosts["c"].Group(testShard).Status().Applied == l.Group(testShard).Status().Applied
		})
		c.net.Isolate("c", "a", "b")
		c.fill(l, 60, "v")
		l = c.leader("a", "b")
		snaps := c.memory[l.Node()].stores[c.replicaOn(l.Node())].snaps
		snaps.mu.Lock()
		for n := range snaps.kept {
			s := &snaps.kept[n]
			data := slices.Concat(s.data...)
			data[len(data)/2] ^= 1
			s.data, s.sum = pieces{data}, crc32.Checksum(data, castagnoli)
		}
		snaps.mu.Unlock()
		store := c.hosts["c"].Group(testShard).store
		last, err := store.LastIndex()
		must(t, err)
		c.net.Heal()
		inst := c.hosts["c"].Group(testShard).instance()
		c.until("c refuses it", func() bool { return inst.fsm.failed.Load() != nil })
		c.net.Isolate("c", "a", "b")
		c.until("it is thrown away", func() bool { return len(snapshotList(t, c.memory["c"].stores[id].snaps)) == 0 })
		c.crash("c")
		c.start("c")
		now, err := c.hosts["c"].Group(testShard).store.LastIndex()
		must(t, err)
		if now != last {
			t.Errorf("the log ends at %d, before at %d", now, last)
		}
		c.net.Heal()
		c.fill(c.leader(), 60, "w") // and with it comes a snapshot that holds a state
		c.wantSameState()
	})
}
