//go:build faults

package shard

import (
	"sync"

	"github.com/hashicorp/raft"
)

// lazyEntries is how many entries of the log wait in memory.
const lazyEntries = 200

// lazyEngine writes the log behind: what was said to be stored is in this process's memory at first.
type lazyEngine struct {
	engine
	mu   sync.Mutex // guards held
	held []*raft.Log
}

// misstore puts between a store and its engine what loses entries.
func misstore(e engine) engine {
	if bugVolatileLog.on() {
		return &lazyEngine{engine: e}
	}
	return e
}

func (l *lazyEngine) StoreLogs(logs []*raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held = append(l.held, logs...); len(l.held) < lazyEntries {
		return nil
	}
	return l.flushLocked()
}

func (l *lazyEngine) flushLocked() error {
	held := l.held
	l.held = nil
	if len(held) == 0 {
		return nil
	}
	return l.engine.StoreLogs(held)
}

func (l *lazyEngine) GetLog(index uint64, log *raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held {
		if h.Index == index {
			*log = *h
			return nil
		}
	}
	return l.engine.GetLog(index, log)
}

func (l *lazyEngine) DeleteRange(from, to uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.flushLocked(); err != nil {
		return err
	}
	return l.engine.DeleteRange(from, to)
}
