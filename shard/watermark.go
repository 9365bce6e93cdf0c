package shard

import (
	"context"
	"sync"
)

// watermark is an index that only grows, and that one can wait for.
type watermark struct {
	mu      sync.Mutex
	index   uint64
	waiters map[chan struct{}]uint64
}

func (w *watermark) at() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.index
}

// reach raises the index; a lower one changes nothing.
func (w *watermark) reach(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if index <= w.index {
		return
	}
	w.index = index
	for ch, need := range w.waiters {
		if need <= index {
			delete(w.waiters, ch)
			close(ch)
		}
	}
}

// wait returns nil once the index is at least need, ErrDeadline or ErrStopped before.
func (w *watermark) wait(ctx context.Context, stop <-chan struct{}, need uint64) error {
	w.mu.Lock()
	if w.index >= need {
		w.mu.Unlock()
		return nil
	}
	if w.waiters == nil {
		w.waiters = map[chan struct{}]uint64{}
	}
	ch := make(chan struct{})
	w.waiters[ch] = need
	w.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
	case <-stop:
	}
	w.mu.Lock()
	delete(w.waiters, ch)
	done := w.index >= need
	w.mu.Unlock()
	switch {
	case done:
		return nil
	case ctx.Err() != nil:
		return ErrDeadline
	}
	return ErrStopped
}
