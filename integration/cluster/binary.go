package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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

// Build returns the path of larder built with tags.
func (b *Builder) Build(tags ...string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := strings.Join(append([]string{"larder"}, tags...), "-")
	if path := b.built[name]; path != "" {
		return path, nil
	}
	root, err := run("go", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.dir, name)
	// Without cgo, as it is shipped: with it there are C libraries in its memory.
	if _, err := run("env", "CGO_ENABLED=0", "go", "build", "-C", strings.TrimSpace(root), "-o", path, "-tags", strings.Join(tags, ","), "./cmd/larder"); err != nil {
		return "", err
	}
	b.built[name] = path
	return path, nil
}

// module is the server's, which this one finds beside itself.
const module = "github.com/larder-cache/larder"

// run runs a command and returns what it printed.
func run(name string, args ...string) (string, error) {
	var complaints strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, &complaints)
	}
	return string(out), nil
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
