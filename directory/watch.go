package directory

import (
	"context"
	"sync"
	"sync/atomic"
)

// Latest holds the newest table that this node has seen, whoever brought it: the local replica of
// the directory, its successor after a restart of the Raft instance, or another node. It never goes
// back to an older one. All methods are safe for concurrent use.
type Latest struct {
	mu      sync.Mutex // orders publishers
	current atomic.Pointer[edition]
}

// edition is a table with the channel that closes when a newer one follows.
type edition struct {
	table    *Table
	replaced chan struct{}
}

// NewLatest returns a Latest that holds the empty table.
func NewLatest() *Latest {
	l := &Latest{}
	l.current.Store(&edition{table: &Table{}, replaced: make(chan struct{})})
	return l
}

// Table returns the newest table; the caller must not change it.
func (l *Latest) Table() *Table { return l.current.Load().table }

// Publish makes t the newest table, unless one at least as new is held.
func (l *Latest) Publish(t *Table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.current.Load()
	if t.Version <= old.table.Version {
		return
	}
	l.current.Store(&edition{table: t, replaced: make(chan struct{})})
	close(old.replaced)
}

// Changed returns the newest table, and a channel that closes when a newer one follows.
func (l *Latest) Changed() (*Table, <-chan struct{}) {
	e := l.current.Load()
	return e.table, e.replaced
}

// Newer returns the newest table once its version is above version, or the cause for which ctx ended.
func (l *Latest) Newer(ctx context.Context, version uint64) (*Table, error) {
	for {
		t, replaced := l.Changed()
		if t.Version > version {
			return t, nil
		}
		select {
		case <-replaced:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
