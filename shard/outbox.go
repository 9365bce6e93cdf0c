package shard

import (
	"sync"
	"time"
)

// outboxBytes bounds what waits for a peer; beyond it senders are refused.
const outboxBytes = 64 << 20

// outbox gathers the frames for one link. Any goroutine puts; run, one per link, sends. Frames
// that come while a send is under way go out together with the next.
//
// Lazy frames, heartbeats in the main, leave when the wall clock shows a multiple of grid, or earlier
// with a frame that may not wait. So they share writes, and all links of all nodes send, receive and
// answer them at the same moments: what an idle node costs is the number of times that it wakes up,
// far more than what it does then. Where clocks differ that is lost, and nothing else.
type outbox struct {
	grid time.Duration

	mu     sync.Mutex
	frames [][]byte
	bytes  int
	timed  bool // departure is set
	closed bool

	wake      chan struct{} // one token: there is something to send now
	departure *time.Timer   // of lazy frames
}

// The grid of lazy frames: 50 ms where HeartbeatTimeout is the default of 1 s. The library sends a heartbeat
// 1/8 to 1/4 of HeartbeatTimeout after the answer to the one before. Both then wait for the grid, so a
// leader hears from a follower after 3/10 of it at the latest where links are fast, and steps down after 5/8.
const (
	lazyGrid = 50 * time.Millisecond
	lazyPart = 20 // of HeartbeatTimeout, where that is less
)

func newOutbox(cfg Config) *outbox {
	o := &outbox{grid: min(lazyGrid, cfg.HeartbeatTimeout/lazyPart), wake: make(chan struct{}, 1), departure: time.NewTimer(time.Hour)}
	o.departure.Stop()
	return o
}

// put queues a frame. ErrOverloaded and ErrUnreachable mean that it will never be sent.
func (o *outbox) put(frame []byte, lazy bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return ErrUnreachable
	case o.bytes > outboxBytes:
		return ErrOverloaded
	}
	o.frames = append(o.frames, frame)
	o.bytes += len(frame)
	if !lazy {
		notify(o.wake)
	} else if !o.timed {
		o.timed = true
		o.departure.Reset(untilNext(o.grid))
	}
	return nil
}

// waiting is how many bytes are queued.
func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes
}

// flush sends what waits for its departure now.
func (o *outbox) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timed {
		notify(o.wake)
	}
}

// take returns what is to be sent.
func (o *outbox) take() [][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	frames := o.frames
	o.frames, o.bytes = nil, 0
	if o.timed {
		o.timed = false
		o.departure.Stop()
	}
	return frames
}

// close refuses all further frames.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.frames, o.bytes = nil, 0
	o.departure.Stop()
}

// run sends until the link breaks or stop is closed.
func (o *outbox) run(link Link, stop <-chan struct{}) error {
	defer o.close()
	for {
		select {
		case <-o.wake:
		case <-o.departure.C:
		case <-stop:
			return nil
		}
		if frames := o.take(); len(frames) > 0 {
			if err := link.Send(frames); err != nil {
				return err
			}
		}
	}
}

// untilNext is the time until the wall clock shows a multiple of d. What waits for it, in whatever
// goroutine or process, happens at once.
func untilNext(d time.Duration) time.Duration {
	return d - time.Duration(time.Now().UnixNano()%int64(d))
}

// notify leaves a token in a channel of capacity one.
func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
