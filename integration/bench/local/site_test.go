package local

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestSite ensures that a benchmark leaves nothing in the folder that it was given, and that a binary which is named is not built.
func TestSite(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSite("x", dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := filepath.Dir(s.Dir); got != dir {
		t.Errorf("works in %s, want a folder in %s", s.Dir, dir)
	}
	if binary, err := s.Larder("/named", io.Discard); binary != "/named" || err != nil {
		t.Errorf("got %q, %v", binary, err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
