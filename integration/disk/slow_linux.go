package disk

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// slow freezes a file system again and again: run does, until stop.
type slow struct {
	frozen      chan struct{} // closed when it is for the first time, or never will be
	stop, ended chan struct{}
	err         error // set before ended is closed
}

// Slow makes a disk stand still for d, again and again, from now on, so that a sync takes about that; 0 ends it.
func (l *Loop) Slow(d time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.slow; s != nil {
		close(s.stop)
		<-s.ended
		l.slow = nil
		if s.err != nil {
			return fmt.Errorf("slowing %s down: %w", l.Dir, s.err)
		}
	}
	if d == 0 {
		return nil
	}
	s := &slow{frozen: make(chan struct{}), stop: make(chan struct{}), ended: make(chan struct{})}
	l.slow = s
	go func() {
		defer close(s.ended)
		s.err = s.run(l.Dir, d)
	}()
	<-s.frozen
	return nil
}

func (s *slow) run(dir string, d time.Duration) error {
	// One that lost power can't be frozen, and is not used.
	gone := func(err error) bool { return errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) }
	var first sync.Once
	known := func() { first.Do(func() { close(s.frozen) }) }
	defer known()
	for {
		// Freezing takes the kernel some milliseconds, in which those who waited get on.
		if err := ask(dir, freeze, 0); gone(err) {
			return nil
		} else if err != nil {
			return err
		}
		known()
		stopped := s.sleep(d)
		if err := ask(dir, thaw, 0); err != nil && !gone(err) {
			return err
		}
		if stopped {
			return nil
		}
	}
}

// sleep waits for d, and reports whether stop was closed before.
func (s *slow) sleep(d time.Duration) bool {
	select {
	case <-s.stop:
		return true
	case <-time.After(d):
		return false
	}
}
