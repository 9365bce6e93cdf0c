package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestProcess ensures that a process tells what it takes, that one that ends before it is ready is told apart from one that
// is slow, and that none is left.
func TestProcess(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := Start("sleep", log, "sleep", "3600")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if rss, err := p.RSS(); err != nil || rss == 0 {
		t.Errorf("memory: got %d, %v", rss, err)
	}
	awaitMapped(t, p)
	if cpu, err := p.CPU(); err != nil || cpu > time.Second {
		t.Errorf("processor time: got %v, %v", cpu, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Await(ctx, "ready", func() bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the wait was cancelled", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/self"); err == nil {
		if _, err := p.CPU(); err == nil {
			t.Error("the process is there after Close")
		}
	}
	talker, err := Start("sh", log, "sh", "-c", "echo last words; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := talker.Await(t.Context(), "ready", func() bool { return false }); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("got %v, want how it ended, and its output", err)
	}
	if _, err := Start("nothing", log, filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("what isn't there was started")
	}
}

// awaitMapped waits until the process has touched pages of its own program, which it may not have done yet when it has just
// been started.
func awaitMapped(t *testing.T, p *Process) {
	if own, err := Memory("self", "RssFile"); err != nil || own == 0 {
		t.Logf("this kernel doesn't tell mapped files apart: %d, %v", own, err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mapped uint64
	if err := p.Await(ctx, "pages of mapped files", func() bool {
		var err error
		mapped, err = p.MappedRSS()
		return err == nil && mapped != 0
	}); err != nil {
		t.Errorf("mapped files: got %d: %v", mapped, err)
	}
}

// TestMetric ensures that values of a metric are summed over labels, and those of metrics with longer names left out.
func TestMetric(t *testing.T) {
	const text = `# HELP x_total Help.
# TYPE x_total counter
x_total{shard="1",what="a } b"} 3
x_total{shard="2"} 4.5e+00
x_total_more 100
y 7
`
	for name, want := range map[string]float64{"x_total": 7.5, "y": 7, "x": 0} {
		got, found, err := Metric(text, name)
		if err != nil || got != want || found != (want != 0) {
			t.Errorf("%s: got %v, %v, %v, want %v", name, got, found, err, want)
		}
	}
	if _, _, err := Metric("x NaNny\n", "x"); err == nil {
		t.Error("a value that is no number was taken")
	}
}
