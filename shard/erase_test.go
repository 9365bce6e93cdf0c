package shard

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestShrink ensures that of a large file no more is left than is given back at once, and that a small one stays as it is until it is removed.
func TestShrink(t *testing.T) {
	for size, want := range map[int64]int64{0: 0, 100: 100, eraseStep: eraseStep, eraseStep + 1: 1, 3*eraseStep + 5: 5} {
		f, err := os.Create(filepath.Join(t.TempDir(), "state"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		shrink(f)
		if info, err := f.Stat(); err != nil || info.Size() != want {
			t.Errorf("%d of %d bytes are left, want %d, %v", info.Size(), size, want, err)
		}
		f.Close()
	}
}

// TestRemoveAll ensures that a folder goes with all that is in it, and that one that is not there is no error.
func TestRemoveAll(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "replica")
	if err := os.MkdirAll(filepath.Join(folder, "snapshots", "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"log", "snapshots/old/state", "snapshots/old/sealed"} {
		f, err := os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_RDWR, 0o400)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(2*eraseStep + 1); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	for range 2 {
		if err := removeAll(folder); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there still, %v", err)
	}
}
