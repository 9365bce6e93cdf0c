package cluster

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// New is Open for a test. Everything is gone when the test ends; the ends of the logs are shown when it fails.
func New(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	if cfg.Dir == "" {
		dir, err := os.MkdirTemp("", "larder-"+strings.ReplaceAll(t.Name(), "/", "-")+"-")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Dir = dir
		t.Cleanup(func() {
			if os.Getenv("LARDER_KEEP") != "" {
				t.Logf("kept: %s", dir)
				return
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
	}
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("end of the log of %s:\n%s", n.ID, logTail(n.LogFile))
			}
		}
	})
	return c
}

// Start is New, and starts all nodes and waits until they are ready.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	c := New(t, cfg)
	if err := c.StartAll(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	return c
}

// Join is Add for a test.
func (c *Cluster) Join(t testing.TB, via *Node) *Node {
	t.Helper()
	n, err := c.Add(via)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// WaitReady is Ready for a test, which it fails after limit.
func (c *Cluster) WaitReady(t testing.TB, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatalf("after %v: %v", limit, err)
	}
}

// WaitKnown is Known for a test, which it fails after limit.
func (c *Cluster) WaitKnown(t testing.TB, id string, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := c.Known(ctx, id); err != nil {
		t.Fatalf("after %v: %v", limit, err)
	}
}

// Binary is Build for a test.
func (b *Builder) Binary(t testing.TB, tags ...string) string {
	t.Helper()
	path, err := b.Build(tags...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
