package shard

import (
	"sync"
	"time"
)

const (
	// outboxBytes bounds what waits for a peer; beyond it senders are refused.
	outboxBytes = 64 << 20
	// lazyDelay is how long heartbeats wait for company: the heartbeats of all groups of a node
	// pair then share a write. It must be far below a heartbeat interval (100 ms).
	lazyDelay = 5 * time.Millisecond
)

// outbox gathers the frames for one link. Any goroutine puts; run, one per link, sends. Frames
// that come while a send is under way go out together with the next.
type outbox struct {
	mu     sync.Mutex
	frames [][]byte
	bytes  int
	urgent bool // a frame waits that may not be delayed
	closed bool

	wake chan struct{} // one token: there is something to send
	rush chan struct{} // one token: something urgent
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), rush: make(chan struct{}, 1)}
}

// put queues a frame. ErrOverloaded and ErrUnreachable mean that it will never be sent.
func (o *outbox) put(frame []byte, lazy bool) error {
	o.mu.Lock()
	switch {
	case o.closed:
		o.mu.Unlock()
		return ErrUnreachable
	case o.bytes > outboxBytes:
		o.mu.Unlock()
		return ErrOverloaded
	}
	o.frames = append(o.frames, frame)
	o.bytes += len(frame)
	if !lazy {
		o.urgent = true
	}
	o.mu.Unlock()
	notify(o.wake)
	if !lazy {
		notify(o.rush)
	}
	return nil
}

func (o *outbox) take() [][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	frames := o.frames
	o.frames, o.bytes, o.urgent = nil, 0, false
	return frames
}

func (o *outbox) hasUrgent() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.urgent
}

// close refuses all further frames.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.frames, o.bytes = nil, 0
}

// run sends until the link breaks or stop is closed.
func (o *outbox) run(link Link, stop <-chan struct{}) error {
	defer o.close()
	for {
		select {
		case <-o.wake:
		case <-stop:
			return nil
		}
		if !o.hasUrgent() {
			t := time.NewTimer(lazyDelay)
			select {
			case <-t.C:
			case <-o.rush:
			case <-stop:
			}
			t.Stop()
		}
		select { // what rush announced is about to be taken
		case <-o.rush:
		default:
		}
		if frames := o.take(); len(frames) > 0 {
			if err := link.Send(frames); err != nil {
				return err
			}
		}
	}
}

// notify leaves a token in a channel of capacity one.
func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
