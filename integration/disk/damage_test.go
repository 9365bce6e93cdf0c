package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		if after[name] == content {
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
	for i, damage := range []func(string, uint64) (string, error){DamageLog, TruncateLog, TearLog, DamageSnapshot, TruncateSnapshot} {
		if said, err := damage(t.TempDir(), 1); !errors.Is(err, ErrNothing) {
			t.Errorf("kind %d: %q, %v", i, said, err)
		}
	}
}
