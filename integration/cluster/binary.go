package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Builder builds the server from the module above, once for each set of build tags.
type Builder struct {
	dir string

	mu    sync.Mutex // guards what follows; held while a build runs
	built map[string]string
}

// NewBuilder returns a builder that puts binaries into a new temporary folder. Close removes it.
func NewBuilder() (*Builder, error) {
	dir, err := os.MkdirTemp("", "larder-build-")
	if err != nil {
		return nil, err
	}
	return &Builder{dir: dir, built: map[string]string{}}, nil
}

// Close removes the binaries.
func (b *Builder) Close() error { return os.RemoveAll(b.dir) }

// Binary returns the path of larder built with tags, and fails the test when it does not build.
func (b *Builder) Binary(t testing.TB, tags ...string) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	name := strings.Join(append([]string{"larder"}, tags...), "-")
	if path := b.built[name]; path != "" {
		return path
	}
	path := filepath.Join(b.dir, name)
	args := []string{"build", "-C", "..", "-o", path, "-tags", strings.Join(tags, ","), "./cmd/larder"}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	b.built[name] = path
	return path
}

// logTail returns the end of a log file.
func logTail(path string) string {
	const size = 6 << 10
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(data) > size {
		return fmt.Sprintf("... (%d bytes before)\n%s", len(data)-size, data[len(data)-size:])
	}
	return string(data)
}
