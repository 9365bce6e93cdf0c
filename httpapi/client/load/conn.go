package load

import (
	"context"
	"errors"
)

// Conn carries the requests of one client, one at a time. Neither key nor value may be kept after a call.
type Conn interface {
	// Get reads the value of a key. ErrMissing: there is none. Other errors are a *Failure.
	Get(ctx context.Context, key []byte) error
	// Put stores a value. Its errors are a *Failure.
	Put(ctx context.Context, key, value []byte) error
	Close() error
}

// Op is an operation of a batch.
type Op struct {
	Read       bool
	Key, Value []byte // Value of writes
}

// BatchConn is a Conn that can carry many operations in one request.
type BatchConn interface {
	Conn
	// Batch performs ops, and sets the error of each in errs, which is as long: what Get or Put would have returned. Nothing of
	// ops may be kept after a call.
	Batch(ctx context.Context, ops []Op, errs []error)
}

// Dial makes the connection of a client; clients are numbered from 0.
type Dial func(ctx context.Context, client int) (Conn, error)

// ErrMissing is returned by Conn.Get where a key has no value.
var ErrMissing = errors.New("missing")

// Kind is what a failure means to whoever sent the request.
type Kind uint8

const (
	// Unavailable: certainly not applied, and may work later.
	Unavailable Kind = iota
	// Unknown: a write that may have been applied.
	Unknown
	// Denied: certainly not applied, for want of a right.
	Denied
	// Rejected: certainly not applied, and won't be: the request is wrong, or what answered isn't what was expected.
	Rejected
	kinds
)

// Failure is what became of a request that failed.
type Failure struct {
	Kind   Kind
	Reason string // short, one of a few, such as "503 no-leader"
}

func (f *Failure) Error() string { return f.Reason }
