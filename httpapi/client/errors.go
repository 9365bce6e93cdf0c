package client

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// What a call can come to, but success. Each error of a call is an *Error that wraps exactly one of these,
// to be told apart by errors.Is. All but ErrOutcomeUnknown are certain: nothing was changed, nor will be.
var (
	// ErrNotFound: Get, Expire, Touch; the key has no entry.
	ErrNotFound = errors.New("not found")
	// ErrPrecondition: all writes but Touch; the condition did not hold. Error.Version is the present one.
	ErrPrecondition = errors.New("precondition failed")
	// ErrNotInteger: Incr; the value is no decimal integer of 64 bits, or the sum would be none.
	ErrNotInteger = errors.New("not an integer")
	// ErrAborted: operations of an atomic batch; another one of them was refused.
	ErrAborted = errors.New("another operation of the batch was refused")
	// ErrTooLarge: Put, Create, Swap, Append; the value is longer than the cluster takes. Get: longer than Config.MaxValueBytes.
	ErrTooLarge = errors.New("too large")
	// ErrBadRequest: all; the request is wrong, or the server is too old for it. Nothing but a change of it helps.
	ErrBadRequest = errors.New("bad request")
	// ErrUnavailable: all; nobody could serve it in time. The same call may succeed later.
	ErrUnavailable = errors.New("unavailable")
	// ErrClosed: all; the client was closed before anything was sent.
	ErrClosed = errors.New("client is closed")
	// ErrOutcomeUnknown: all writes; it may have happened, or may still happen. Read the key to
	// learn it, or write again with a condition.
	ErrOutcomeUnknown = errors.New("outcome unknown")
)

// Applied says whether a request that failed had an effect.
type Applied string

const (
	AppliedNo      Applied = "no"
	AppliedYes     Applied = "yes" // it happened, although the answer was an error; with ErrOutcomeUnknown
	AppliedUnknown Applied = "unknown"
)

// Error is every error that a call returns.
type Error struct {
	Op      string // the method, in lower case
	Kind    error  // one of the errors above
	Applied Applied
	Node    string  // address of the node that was asked last; "" if none was
	Status  int     // of its answer; 0 without one
	Type    string  // of the problem that it answered, such as /problems/no-leader; "" without one
	Detail  string  // for people
	Version Version // ErrPrecondition: the present one; "" where the key is absent
	Err     error   // the cause, such as the context's error or the connection's; may be nil

	again      bool          // another try can help, and may be made
	broken     bool          // the node gave no answer of Larder's: ask another one
	retryAfter time.Duration // how long the server wants to be left alone
	leader     string        // of a 421: the node that leads
	epoch      uint64        // of a 421: that the refusing node knows of
}

// Error tells all but the key.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("larder: " + e.Op + ": " + e.Kind.Error())
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Node != "" {
		b.WriteString(" (" + e.Node)
		if e.Status != 0 {
			b.WriteString(", status " + strconv.Itoa(e.Status))
		}
		b.WriteString(")")
	}
	return b.String()
}

// Unwrap lets errors.Is and errors.As find the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
