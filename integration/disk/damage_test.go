package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"go.etcd.io/bbolt"
)

// data makes the data folder of a node with two replicas: entries 1 to 20 in each log, and two snapshots.
func data(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, replica := range []string{"0-1", "1-1"} {
		folder := filepath.Join(dir, "replicas", replica)
		for _, s := range []string{"2-9-1", "2-10-2", "2-11-3.tmp"} {
			snapshot := filepath.Join(folder, "snapshots", s)
			if err := os.MkdirAll(snapshot, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string]string{"state.bin": "the state of " + s, "meta.json": fmt.Sprintf(`{"ID":%q}`, s)} {
				if err := os.WriteFile(filepath.Join(snapshot, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		db, err := bbolt.Open(filepath.Join(folder, "raft.db"), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte(bucket))
			for i := uint64(1); i <= 20 && err == nil; i++ {
				err = b.Put(binary.BigEndian.AppendUint64(nil, i), value(replica, i))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openShared opens the shared log as a node does, which does not compress it.
func openShared(t *testing.T, dir string) *pebble.DB {
	t.Helper()
	o := &pebble.Options{Logger: quiet{}, FormatMajorVersion: pebble.FormatTableFormatV6}
	for i := range o.Levels {
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	db, err := pebble.Open(filepath.Join(dir, sharedFolder), o)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// sharedData is data with a shared log beside: entries 1 to 20 of two replicas of shard 2, the first ten of which are in a file and the rest
// in Pebble's own log.
func sharedData(t *testing.T) string {
	t.Helper()
	dir := data(t)
	db := openShared(t, dir)
	for i := uint64(1); i <= 20; i++ {
		for r := uint64(1); r <= 2; r++ {
			key := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 2), r)
			if err := errors.Join(
				db.Set(append(bytes.Clone(key), 0, 't'), []byte("term"), nil),
				db.Set(binary.BigEndian.AppendUint64(append(key, entryKind), i), value(fmt.Sprint("2-", r), i), pebble.Sync),
			); err != nil {
				t.Fatal(err)
			}
		}
		if i == 10 {
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSharedReplicas ensures that the last entries of each replica in a shared log are found, in the log and in the files that follow it.
func TestSharedReplicas(t *testing.T) {
	dir := sharedData(t)
	look := func(suffixes ...string) {
		t.Helper()
		all, err := sharedReplicas(dir)
		if err != nil || len(all) != 2 {
			t.Fatalf("%d replicas, %v", len(all), err)
		}
		for name, entries := range all {
			if len(entries) != lastFew*len(suffixes) {
				t.Fatalf("%s: %v", name, entries)
			}
			for i, e := range entries {
				index := uint64(20 - i)
				if i >= lastFew {
					index = uint64(10 - i + lastFew)
				}
				content, err := os.ReadFile(e.path)
				if err != nil {
					t.Fatal(err)
				}
				if want := value(name, index); e.index != index || !bytes.Equal(content[e.offset:e.offset+e.size], want) || !strings.HasSuffix(e.path, suffixes[i/lastFew]) {
					t.Errorf("%s, %v at %d of %s is not %q", name, e, e.offset, e.path, want)
				}
			}
		}
	}
	look(".log", ".sst")
	db := openShared(t, dir)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	look(".sst")
	if all, err := sharedReplicas(data(t)); err != nil || len(all) > 0 {
		t.Errorf("where there is none: %v, %v", all, err)
	}
}

// TestSharedDamage ensures that a node with a shared log is damaged there as well as elsewhere: the entries of the replica that is
// asked for, the last entries of any, and any file; and that a seed does the same again.
func TestSharedDamage(t *testing.T) {
	dir := sharedData(t)
	before := files(t, dir)
	for _, tt := range []struct {
		name   string
		damage func(string, uint64) (string, error)
		want   []string // parts of the names of files that are hit
		seeds  uint64
	}{
		{"log", DamageLog, []string{"replicas/0-1/raft.db", "replicas/1-1/raft.db", ".log", ".sst"}, 10},
		{"log of", func(dir string, seed uint64) (string, error) { return DamageLogOf(dir, 2, seed) }, []string{".sst"}, 2},
		{"truncated log", TruncateLog, []string{"raft.db", ".log", ".sst"}, 8},
		{"log file", DamageLogFile, []string{"raft.db", ".log", ".sst", "MANIFEST"}, 28},
		{"lost log", LoseLog, []string{"raft.db", ".log", ".sst", "MANIFEST", "log/marker"}, 20},
	} {
		hit := map[string]bool{}
		for seed := range tt.seeds {
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			said, err := tt.damage(copied, seed)
			if err != nil {
				t.Fatalf("%s, seed %d: %v", tt.name, seed, err)
			}
			after := files(t, copied)
			file, count := changed(t, before, after)
			_, there := after[file]
			if !strings.HasPrefix(said, file+",") && !strings.HasPrefix(said, file+":") || file == "" || there == (tt.name == "lost log") || strings.HasPrefix(tt.name, "log") && count != 1 {
				t.Errorf("%s changed %d bytes of %q and said %q", tt.name, count, file, said)
			}
			if at, _, _, err := parse(said); tt.name == "log of" && (err != nil || !strings.Contains(before[file][max(0, at-200):min(len(before[file]), at+200)], "of 2-")) {
				t.Errorf("%s, %v", said, err)
			}
			if seed < 1 {
				again := t.TempDir()
				if err := os.CopyFS(again, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				if repeated, err := tt.damage(again, seed); err != nil || repeated != said {
					t.Errorf("%s: the same seed did %q, %v, and before %q", tt.name, repeated, err, said)
				}
			}
			for _, part := range tt.want {
				hit[part] = hit[part] || strings.Contains(file, part)
			}
			if !slices.ContainsFunc(tt.want, func(part string) bool { return strings.Contains(file, part) }) {
				t.Errorf("%s hit %s", tt.name, file)
			}
		}
		for _, part := range tt.want {
			if !hit[part] {
				t.Errorf("%s never hit %s", tt.name, part)
			}
		}
	}
}

func value(replica string, i uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "entry %d of %s;", i, replica), 10)
}

// files reads all of a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir+"/")] = string(content)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// changed returns the one file that differs, and how many of its bytes do.
func changed(t *testing.T, before, after map[string]string) (file string, count int) {
	t.Helper()
	for name, content := range before {
		if now, there := after[name]; there && now == content {
			continue
		}
		if file != "" {
			t.Fatalf("%s and %s have changed", file, name)
		}
		file = name
		for i := range min(len(content), len(after[name])) {
			if content[i] != after[name][i] {
				count++
			}
		}
	}
	return file, count
}

// TestDamage ensures that each kind of damage changes one file, in a place that matters and no other, that it says so, and
// that a seed does the same again.
func TestDamage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(string, uint64) (string, error)
		check  func(before, after, said string, count int) error
	}{
		{"log", DamageLog, func(before, after, said string, count int) error {
			at, old, now, err := parse(said)
			if err != nil || count != 1 || before[at] != old || after[at] != now || len(before) != len(after) {
				return fmt.Errorf("%d bytes differ, %w", count, err)
			}
			// The entry's text surrounds it.
			if around := before[max(0, at-200):min(len(before), at+200)]; !strings.Contains(around, "entry 17 of") && !strings.Contains(around, "entry 18 of") &&
				!strings.Contains(around, "entry 19 of") && !strings.Contains(around, "entry 20 of") {
				return fmt.Errorf("it is not in the last entries: %q", around)
			}
			return nil
		}},
		{"truncated log", TruncateLog, func(before, after, _ string, count int) error {
			if count != 0 || len(after) >= len(before) || !strings.HasPrefix(before, after) {
				return fmt.Errorf("%d bytes became %d", len(before), len(after))
			}
			return nil
		}},
		{"torn log", TearLog, func(before, after, _ string, count int) error {
			if count == 0 || len(after) != len(before) {
				return fmt.Errorf("%d bytes differ", count)
			}
			return nil
		}},
		{"snapshot", DamageSnapshot, func(before, after, said string, count int) error {
			at, old, now, err := parse(said)
			if err != nil || count != 1 || before[at] != old || after[at] != now {
				return fmt.Errorf("%d bytes differ, %w", count, err)
			}
			var id string
			switch n, _ := fmt.Sscanf(after, `{"ID":%q}`, &id); {
			case before == "the state of 2-10-2":
			case before != `{"ID":"2-10-2"}` || n != 1 || old < '0' || old > '9' || now < '0' || now > '9':
				return fmt.Errorf("%q became %q", before, after)
			}
			return nil
		}},
		{"truncated snapshot", TruncateSnapshot, func(before, after, _ string, _ int) error {
			if before != "the state of 2-10-2" || len(after) >= len(before) || !strings.HasPrefix(before, after) {
				return fmt.Errorf("%q became %q", before, after)
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hit := map[string]bool{}
			for seed := range uint64(8) {
				dir := data(t)
				before := files(t, dir)
				said, err := tt.damage(dir, seed)
				if err != nil {
					t.Fatal(err)
				}
				after := files(t, dir)
				file, count := changed(t, before, after)
				if !strings.HasPrefix(said, file) || file == "" {
					t.Errorf("changed %q and said %q", file, said)
				}
				if err := tt.check(before[file], after[file], said, count); err != nil {
					t.Errorf("seed %d, %s: %v", seed, said, err)
				}
				again := data(t)
				if repeated, err := tt.damage(again, seed); err != nil || repeated != said {
					t.Errorf("the same seed did %q, %v, and before %q", repeated, err, said)
				}
				hit[file] = true
			}
			if len(hit) < 2 {
				t.Errorf("eight seeds hurt %v alone", hit)
			}
		})
	}
}

// parse takes apart what is said of a flipped bit.
func parse(said string) (at int, old, now byte, err error) {
	_, rest, _ := strings.Cut(said, ", offset ")
	if _, err := fmt.Sscanf(rest, "%d,", &at); err != nil {
		return 0, 0, 0, fmt.Errorf("%q: %w", said, err)
	}
	_, bytes, _ := strings.Cut(said, ": ")
	_, err = fmt.Sscanf(bytes, "0x%x became 0x%x", &old, &now)
	return at, old, now, err
}

// TestDamageNothing ensures that where there is nothing to damage, that is the error.
func TestDamageNothing(t *testing.T) {
	for i, damage := range []func(string, uint64) (string, error){DamageLog, TruncateLog, TearLog, DamageLogFile, LoseLog, DamageSnapshot, TruncateSnapshot} {
		if said, err := damage(t.TempDir(), 1); !errors.Is(err, ErrNothing) {
			t.Errorf("kind %d: %q, %v", i, said, err)
		}
	}
}
