package directory

import (
	"context"
	"sync"
	"time"
)

// limited is a context that ends with another one, and at a deadline, as context.WithDeadline makes it. It does so only once
// somebody waits for its end: most reads are answered without waiting, and a timer for each of them would cost more than the read.
type limited struct {
	parent   context.Context
	deadline time.Time // at or before the parent's

	mu      sync.Mutex // guards what follows
	waited  context.Context
	release context.CancelFunc // of waited
	ended   bool
}

// limit returns a context that ends with ctx, and after d. end is to be called when it is needed no longer.
func limit(ctx context.Context, d time.Duration) *limited {
	deadline := time.Now().Add(d)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	return &limited{parent: ctx, deadline: deadline}
}

// end ends the context, unless it has ended.
func (l *limited) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.waited != nil {
		l.release()
	}
}

// real is the context that can be waited for.
func (l *limited) real() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waited == nil {
		l.waited, l.release = context.WithDeadline(l.parent, l.deadline)
		if l.ended {
			l.release()
		}
	}
	return l.waited
}

func (l *limited) Deadline() (time.Time, bool) { return l.deadline, true }

func (l *limited) Done() <-chan struct{} { return l.real().Done() }

func (l *limited) Err() error {
	l.mu.Lock()
	waited, ended := l.waited, l.ended
	l.mu.Unlock()
	switch {
	case waited != nil:
		return waited.Err()
	case l.parent.Err() != nil:
		return l.parent.Err()
	case ended:
		return context.Canceled
	case !time.Now().Before(l.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value is the parent's, and package context's own, by which the contexts below this one end with it.
func (l *limited) Value(key any) any { return l.real().Value(key) }
