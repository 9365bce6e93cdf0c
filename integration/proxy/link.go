package proxy

import (
	"math/rand/v2"
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
	first  time.Duration // the delay of the start
	jitter time.Duration // the delay is more or less by at most this

	mu      sync.Mutex // guards what follows
	delay   time.Duration
	rate    int       // bytes a second, 0 for no bound
	free    time.Time // when all that was sent is through a thin link
	mode    mode
	changed chan struct{} // closed, and replaced, when mode changes
	passed  uint64        // pieces of streams
	lost    uint64        // those that a cut swallowed
}

func newLink(delay, jitter time.Duration) *link {
	return &link{first: delay, jitter: jitter, delay: delay, changed: make(chan struct{})}
}

// setDelay sets the delay; 0 gives back that of the start.
func (l *link) setDelay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.delay = d; d == 0 {
		l.delay = l.first
	}
}

func (l *link) setRate(bytesPerSecond int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate, l.free = bytesPerSecond, time.Time{}
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

// through returns when size bytes that were sent at a time have passed what the link is too thin for.
func (l *link) through(sent time.Time, size int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		return sent
	}
	if l.free.Before(sent) {
		l.free = sent
	}
	l.free = l.free.Add(time.Duration(size) * time.Second / time.Duration(l.rate))
	return l.free
}

// count counts a piece of a stream.
func (l *link) count(arrived bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if arrived {
		l.passed++
	} else {
		l.lost++
	}
}

// counts returns what was counted.
func (l *link) counts() (passed, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.passed, l.lost
}

// carry waits until so many bytes that were sent at the given time arrive, and reports whether they do. It
// gives up when done is closed.
func (l *link) carry(sent time.Time, size int, done <-chan struct{}) bool {
	sent = l.through(sent, size)
	if l.jitter > 0 {
		sent = sent.Add(time.Duration((2*rand.Float64() - 1) * float64(l.jitter)))
	}
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
