package shard

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// inspected is a data folder with one replica of shard 3, and what its state is at each index.
type inspected struct {
	dir     string
	folder  string
	sums    map[uint64]string
	entries map[uint64]uint64
}

// newInspected makes a folder whose log holds a configuration (1), a grant (2) and puts (3 to 10),
// with a barrier at 6 and the rest commands.
func newInspected(t *testing.T) *inspected {
	t.Helper()
	dir := newFolder(t)
	in := &inspected{dir: dir, sums: map[uint64]string{}, entries: map[uint64]uint64{}}
	in.folder = createReplica(t, restart(t, dir), 3, 17)
	s := openTestDisk(t, in.folder)
	machine := fsm.New()
	in.note(1, machine)
	must(t, s.SetUint64([]byte(keyCurrentTerm), 7))
	for index := uint64(2); index <= 10; index++ {
		entry := &raft.Log{Index: index, Term: 2, Type: raft.LogCommand}
		batch := fsm.Batch{Stamp: 1000 * index, Level: 1, Commands: []fsm.Command{{
			Kind: fsm.KindPut, Key: fmt.Appendf(nil, "key%d", index), Value: []byte("value")}}}
		switch index {
		case 2:
			batch.Commands = []fsm.Command{{Kind: fsm.KindGrant, Grant: fsm.Grant{
				Range: fsm.Range{Start: 0, End: 16384}, Epoch: 1, Generation: 1, VersionBits: 1, Limit: 1 << 20, TableVersion: 1}}}
		case 6:
			entry.Type = raft.LogBarrier
		}
		if entry.Type == raft.LogCommand {
			var err error
			entry.Data, err = batch.AppendBinary(nil)
			must(t, err)
			_, err = machine.Apply(index, batch)
			must(t, err)
		}
		must(t, s.StoreLog(entry))
		in.note(index, machine)
		if index == 5 || index == 8 {
			in.snapshot(t, index, 2, machine)
		}
	}
	must(t, s.Close())
	return in
}

func (in *inspected) note(index uint64, machine *fsm.Machine) {
	sum := machine.Checksum()
	in.sums[index] = hex.EncodeToString(sum[:])
	in.entries[index] = uint64(machine.Stats().Entries)
}

func (in *inspected) snapshot(t *testing.T, index, term uint64, machine *fsm.Machine) {
	t.Helper()
	snaps, err := openSnapshots(in.folder, hclog.NewNullLogger())
	must(t, err)
	_, trans := raft.NewInmemTransport("3/a/17")
	sink, err := snaps.Create(1, index, term, raft.Configuration{}, 1, trans)
	must(t, err)
	_, err = machine.Snapshot().WriteTo(sink)
	must(t, err)
	must(t, sink.Close())
}

// edit changes the replica's store.
func (in *inspected) edit(t *testing.T, f func(s *diskStore) error) {
	t.Helper()
	s := openTestDisk(t, in.folder)
	must(t, f(s))
	must(t, s.Close())
}

// spoil overwrites the content of the snapshot that ends at index.
func (in *inspected) spoil(t *testing.T, index uint64, file string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(in.folder, snapshotFolder, fmt.Sprintf("*-%d-*", index), file))
	if err != nil || len(names) != 1 {
		t.Fatalf("snapshot %d: %v, %v", index, names, err)
	}
	must(t, os.WriteFile(names[0], []byte("damage"), 0o600))
}

// Ensures that the state is right at any index, from whichever snapshot and log.
func TestInspect(t *testing.T) {
	tests := []struct {
		name     string
		prepare  func(t *testing.T, in *inspected)
		at       map[ID]uint64
		snapshot uint64
		reached  uint64
		applied  uint64
		first    uint64
		last     uint64
	}{
		{name: "end", snapshot: 8, reached: 10, applied: 10, first: 1, last: 10},
		{name: "of another shard", at: map[ID]uint64{4: 2}, snapshot: 8, reached: 10, applied: 10, first: 1, last: 10},
		{name: "newest snapshot", at: map[ID]uint64{3: 8}, snapshot: 8, reached: 8, applied: 8, first: 1, last: 10},
		{name: "before the newest snapshot", at: map[ID]uint64{3: 7}, snapshot: 5, reached: 7, applied: 7, first: 1, last: 10},
		{name: "at an entry that is no command", at: map[ID]uint64{3: 6}, snapshot: 5, reached: 6, applied: 5, first: 1, last: 10},
		{name: "before all snapshots", at: map[ID]uint64{3: 4}, reached: 4, applied: 4, first: 1, last: 10},
		{name: "before the first command", at: map[ID]uint64{3: 1}, reached: 1, first: 1, last: 10},
		{
			name:     "compacted",
			prepare:  func(t *testing.T, in *inspected) { in.edit(t, func(s *diskStore) error { return s.DeleteRange(1, 8) }) },
			snapshot: 8, reached: 10, applied: 10, first: 8, last: 10,
		},
		{
			name: "no log behind the snapshot",
			prepare: func(t *testing.T, in *inspected) {
				in.edit(t, func(s *diskStore) error { return s.DeleteRange(1, 10) })
			},
			snapshot: 8, reached: 8, applied: 8,
		},
		{
			name: "stale log",
			prepare: func(t *testing.T, in *inspected) {
				in.edit(t, func(s *diskStore) error { return s.DeleteRange(4, 10) })
			},
			snapshot: 8, reached: 8, applied: 8,
		},
		{
			name: "divergent log",
			prepare: func(t *testing.T, in *inspected) {
				in.edit(t, func(s *diskStore) error {
					return errors.Join(s.DeleteRange(7, 10), s.StoreLogs(logs(7, 12, 1)))
				})
			},
			snapshot: 8, reached: 8, applied: 8,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := newInspected(t)
			if test.prepare != nil {
				test.prepare(t, in)
			}
			found, err := Inspect(in.dir, test.at)
			must(t, err)
			want := Inspection{Shard: 3, Replica: "3/a/17", SnapshotIndex: test.snapshot, FirstIndex: test.first, LastIndex: test.last,
				Term: 7, At: test.reached, Applied: test.applied, Entries: in.entries[test.reached], Checksum: in.sums[test.reached]}
			if len(found) == 1 {
				want.Bytes = found[0].Bytes
			}
			if !equal(found, []Inspection{want}) || (want.Entries > 0) != (want.Bytes > 0) {
				t.Errorf("got %+v\nwant %+v", found, want)
			}
		})
	}
}

// Ensures that damage is reported with its place, together with whatever could be found in spite of
// it, and does not hide other replicas.
func TestInspectDamage(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, in *inspected)
		at      map[ID]uint64
		want    string
		reached uint64 // 0 when no state can be built
	}{
		{"snapshot content", func(t *testing.T, in *inspected) { in.spoil(t, 8, "state.bin") }, nil, "-8-", 10},
		{"snapshot description", func(t *testing.T, in *inspected) { in.spoil(t, 8, "meta.json") }, nil, "-8-", 10},
		{"snapshot and log", func(t *testing.T, in *inspected) {
			in.edit(t, func(s *diskStore) error { return s.DeleteRange(1, 8) })
			in.spoil(t, 8, "state.bin")
		}, nil, "no entry 6", 0},
		{"beyond the end", func(t *testing.T, in *inspected) {}, map[ID]uint64{3: 11}, "the data ends at 10, before 11", 0},
		{"entry", func(t *testing.T, in *inspected) {
			in.edit(t, func(s *diskStore) error {
				return s.StoreLog(&raft.Log{Index: 10, Term: 2, Data: []byte("no batch")})
			})
		}, nil, "entry 10: ", 0},
		{"store missing", func(t *testing.T, in *inspected) { must(t, os.Remove(filepath.Join(in.folder, storeFile))) }, nil, storeFile, 0},
		{"store empty", func(t *testing.T, in *inspected) { must(t, os.Truncate(filepath.Join(in.folder, storeFile), 0)) }, nil, storeFile, 0},
		{"store cut", func(t *testing.T, in *inspected) { must(t, os.Truncate(filepath.Join(in.folder, storeFile), 3*4096)) }, nil, "damaged", 0},
		{"foreign store", func(t *testing.T, in *inspected) {
			in.edit(t, func(s *diskStore) error { return mark(s, ReplicaID{3, "b", 17}) })
		}, nil, "the store is that of 3/b/17", 0},
		{"snapshots missing", func(t *testing.T, in *inspected) { must(t, os.RemoveAll(filepath.Join(in.folder, snapshotFolder))) }, nil, snapshotFolder, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := newInspected(t)
			createReplica(t, restart(t, in.dir), 5, 1)
			test.prepare(t, in)
			found, err := Inspect(in.dir, test.at)
			if !contains(err, test.want) || !contains(err, in.folder) || !contains(err, "shard 3, replica 17") {
				t.Errorf("got %v, want the replica, its folder and %q", err, test.want)
			}
			if len(found) != 2 || found[0].Error != err.Error() || found[0].At != test.reached || found[0].Checksum != in.sums[test.reached] {
				t.Errorf("damaged replica: got %+v, want the state at %d", found, test.reached)
			}
			if len(found) == 2 && (found[1].Shard != 5 || found[1].Error != "" || found[1].Checksum == "") {
				t.Errorf("intact replica: got %+v", found[1])
			}
		})
	}
}

// Ensures that only created replicas of data shards are looked at, that the folder is left as it was,
// and that the report is JSON with the documented names.
func TestInspectScope(t *testing.T) {
	in := newInspected(t)
	m := restart(t, in.dir)
	createReplica(t, m, Directory, 1)
	createReplica(t, m, 4, 1)
	must(t, m.destroyed(4, 1))
	_, err := m.begin(6, 1, 0)
	must(t, err)
	before := fileList(t, in.dir)
	found, err := Inspect(in.dir, nil)
	must(t, err)
	if len(found) != 1 || found[0].Shard != 3 {
		t.Errorf("got %+v, want shard 3 alone", found)
	}
	if after := fileList(t, in.dir); after != before {
		t.Errorf("the folder changed from\n%s to\n%s", before, after)
	}
	data, err := json.Marshal(found[0])
	must(t, err)
	for _, name := range []string{"shard", "replica", "snapshotIndex", "firstIndex", "lastIndex", "term", "at", "applied", "entries", "bytes", "checksum"} {
		if !strings.Contains(string(data), `"`+name+`":`) {
			t.Errorf("%s lacks %s", data, name)
		}
	}
}

func fileList(t *testing.T, dir string) string {
	t.Helper()
	var list strings.Builder
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			fmt.Fprintf(&list, "%s %d\n", path, info.Size())
		}
		return err
	}))
	return list.String()
}

// Ensures that a folder in use, or one that is no data folder, is refused and not touched.
func TestInspectRefuses(t *testing.T) {
	empty := t.TempDir()
	if _, err := Inspect(empty, nil); err == nil || fileList(t, empty) != "" {
		t.Errorf("empty folder: got %v, files %q", err, fileList(t, empty))
	}
	dir := newFolder(t)
	f := openIdentity(t, dir, "a")
	if _, err := Inspect(dir, nil); !contains(err, "in use") {
		t.Errorf("folder in use: got %v", err)
	}
	must(t, f.Close())
	must(t, os.Remove(filepath.Join(dir, manifestName)))
	if _, err := Inspect(dir, nil); !errors.Is(err, ErrDataLost) {
		t.Errorf("without manifest: got %v, want %v", err, ErrDataLost)
	}
}

// TestInspectTellsDiverged ensures that the replica which has stopped is inspected like any other, and
// that the report says so.
func TestInspectTellsDiverged(t *testing.T) {
	in := newInspected(t)
	m := restart(t, in.dir)
	must(t, m.diverged(3, 17, &Verdict{Outcome: OutcomeMinority, Comparison: Comparison{Shard: 3, Index: 9}}))
	found, err := Inspect(in.dir, nil)
	must(t, err)
	if len(found) != 1 || found[0].Checksum != in.sums[10] || !strings.Contains(found[0].Diverged, "majority at index 9") {
		t.Errorf("got %+v", found)
	}
}
