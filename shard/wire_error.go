package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// RemoteError is an error of a peer that has no type of its own here. It refuses: the peer says
// "outcome unknown" by ErrOutcomeUnknown alone.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// The codes of errors on the wire: append, never renumber.
var wireErrors = []struct {
	code byte
	err  error
}{
	{1, ErrOutcomeUnknown}, // first: it wraps the others
	{2, ErrNoLeader},
	{3, ErrOverloaded},
	{4, ErrUnknownShard},
	{5, ErrStopped},
	{6, ErrDeadline},
	{7, ErrUnreachable},
	{8, ErrDataLost},
	{9, ErrWrongCluster},
	{10, ErrConfChanged},
	{11, ErrDiverged},
	{12, ErrAnswerTooLarge},
}

const (
	wireNotLeader byte = 100
	wireNotOwner  byte = 101
	wireOther     byte = 102
)

func appendError(b []byte, err error) []byte {
	var leader *NotLeaderError
	var owner *NotOwnerError
	if !errors.Is(err, ErrOutcomeUnknown) {
		switch {
		case errors.As(err, &leader):
			return appendString(append(b, wireNotLeader), leader.Leader)
		case errors.As(err, &owner):
			return binary.AppendUvarint(append(b, wireNotOwner), owner.Epoch)
		}
	}
	for _, w := range wireErrors {
		if errors.Is(err, w.err) {
			return appendString(append(b, w.code), err.Error())
		}
	}
	return appendString(append(b, wireOther), err.Error())
}

// decodeError turns what a peer said into the same kind of error. What it can't read is unknown: a
// refusal must be certain.
func decodeError(b []byte, peer string) error {
	r := reader{b: b}
	switch code := r.byte(); code {
	case wireNotLeader:
		if leader := r.string(); r.err == nil {
			return &NotLeaderError{Leader: leader}
		}
	case wireNotOwner:
		if epoch := r.uint(); r.err == nil {
			return &NotOwnerError{Epoch: epoch}
		}
	case wireOther:
		if text := r.string(); r.err == nil {
			return &RemoteError{Text: fmt.Sprintf("node %s says: %s", peer, text)}
		}
	default:
		text := r.string()
		for _, w := range wireErrors {
			if w.code == code && r.err == nil {
				return remote{w.err, fmt.Sprintf("node %s says: %s", peer, text)}
			}
		}
	}
	return fmt.Errorf("%w: unreadable error from %s", ErrOutcomeUnknown, peer)
}

// remote is a peer's error: its words, and its kind for errors.Is.
type remote struct {
	kind error
	text string
}

func (e remote) Error() string { return e.text }
func (e remote) Unwrap() error { return e.kind }
