package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// Logs are the log stores of some replicas as a node has them, without replicas. For benchmarks.
type Logs struct {
	stores []replicaStore
	shared *sharedLog
}

// OpenLogs makes stores of a kind in an empty folder.
func OpenLogs(dir string, kind LogStore, replicas int) (*Logs, error) {
	l := &Logs{}
	fatal := func(err error) { panic(err) }
	var err error
	if kind == LogShared {
		if l.shared, err = openSharedLog(vfs.Default, filepath.Join(dir, sharedDir), false, false, slog.New(slog.DiscardHandler), fatal); err != nil {
			return nil, err
		}
	}
	for n := range replicas {
		var s replicaStore
		if l.shared != nil {
			s, err = l.shared.openStore(ReplicaID{ID(n + 1), "a", 1}, fatal)
		} else {
			folder := filepath.Join(dir, fmt.Sprint(n))
			if err = makeDir(folder); err == nil {
				s, err = openDiskStore(folder, fatal)
			}
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.stores = append(l.stores, s)
	}
	return l, nil
}

// Replica returns the nth store.
func (l *Logs) Replica(n int) raft.LogStore { return l.stores[n] }

// Close ends all of them.
func (l *Logs) Close() error {
	var err error
	for _, s := range l.stores {
		err = errors.Join(err, s.Close())
	}
	if l.shared != nil {
		err = errors.Join(err, l.shared.Close())
	}
	return err
}
