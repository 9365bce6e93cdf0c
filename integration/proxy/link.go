package proxy

import (
	"sync"
	"time"
)

// mode is what a link does with bytes.
type mode int

const (
	pass mode = iota
	hold      // keep them until the mode changes
	cut       // lose them
)

// link is one direction between two nodes; many connections share it.
type link struct {
	mu      sync.Mutex // guards what follows
	delay   time.Duration
	mode    mode
	changed chan struct{} // closed, and replaced, when mode changes
}

func newLink(delay time.Duration) *link {
	return &link{delay: delay, changed: make(chan struct{})}
}

func (l *link) setDelay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

func (l *link) setMode(m mode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mode == m {
		return
	}
	l.mode = m
	close(l.changed)
	l.changed = make(chan struct{})
}

// now returns the delay, the mode, and a channel that is closed when the mode changes.
func (l *link) now() (time.Duration, mode, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delay, l.mode, l.changed
}

// carry waits until bytes that were sent at the given time arrive, and reports whether they do. It
// gives up when done is closed.
func (l *link) carry(sent time.Time, done <-chan struct{}) bool {
	for {
		delay, m, changed := l.now()
		var due <-chan time.Time // never, while the link holds
		switch m {
		case cut:
			return false
		case pass:
			wait := time.Until(sent.Add(delay))
			if wait <= 0 {
				return true
			}
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-changed:
		case <-done:
			return false
		}
	}
}
