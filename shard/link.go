package shard

import (
	"context"
	"io"
)

// Network makes links between nodes: TCP in production, memory with faults in tests. Everything
// that a node says to another goes through one of them, so that a test can hold, lose, repeat and
// reorder it.
type Network interface {
	// Listen accepts links at addr.
	Listen(addr string) (Listener, error)
	// Dial opens a link to the listener at addr. syscall.ECONNREFUSED says that the machine answers, and no process listens there.
	Dial(ctx context.Context, addr string) (Link, error)
}

// Listener accepts links. Close ends Accept with net.ErrClosed.
type Listener interface {
	Accept() (Link, error)
	Addr() string
	Close() error
}

// Link carries frames both ways between two nodes. Send and Recv may run concurrently, each from
// one goroutine at a time. Close ends both; it may be called from anywhere, more than once.
type Link interface {
	// Send hands frames to the network, in order; it may block until the network takes them, for
	// a bounded time. Frames are not touched after Send returned. An error means that the link is
	// broken: any of the frames may have arrived.
	Send(frames [][]byte) error
	// Recv returns the next frame, which is the caller's to keep; io.EOF after the other side
	// closed.
	Recv() ([]byte, error)
	io.Closer
}

// maxFrame bounds what a peer can make us allocate. The largest legitimate frames are log entries
// (a packed batch, see maxBatchBytes, plus one value) and snapshot chunks.
const maxFrame = 16 << 20
