package shard

import (
	"errors"
	"fmt"
)

// The question a caller asks is: did it happen? Every error of this package is either a refusal
// (certainly not applied) or ErrOutcomeUnknown (may be applied). Applied is a Response, never an
// error; a failed condition is a Response too, since it went through the log.
var (
	// ErrOutcomeUnknown wraps the cause when a write was handed to Raft, or to another node, and
	// its fate is not known: leadership lost, shutdown, deadline, connection lost.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrNoLeader: refused; nobody is known to lead the shard now, or the leader is not ready yet.
	ErrNoLeader = errors.New("no leader")
	// ErrOverloaded: refused; a bounded queue is full.
	ErrOverloaded = errors.New("overloaded")
	// ErrUnknownShard: refused; this node hosts no replica of the shard.
	ErrUnknownShard = errors.New("unknown shard")
	// ErrStopped: refused; the replica or the node is shutting down.
	ErrStopped = errors.New("stopped")
	// ErrDeadline: refused; the request's deadline passed before anything was proposed.
	ErrDeadline = errors.New("deadline passed before anything was proposed")
	// ErrUnreachable: refused; the request never left this node, no link to the peer.
	ErrUnreachable = errors.New("peer unreachable")
	// ErrDataLost: what was acknowledged is not there, or not as it was written.
	ErrDataLost = errors.New("data lost")
	// ErrRejoin is an ErrDataLost: the node's data folder is not the one that its id promises (R14).
	ErrRejoin = fmt.Errorf("%w, rejoin as new", ErrDataLost)
	// ErrRetired: the replica, or a later one of its shard, was on this node before and is never
	// created again (R14).
	ErrRetired = errors.New("replica was here before and is never created again")
	// ErrConfChanged: refused; the shard's configuration is not the one that a change was planned from.
	ErrConfChanged = errors.New("the shard's configuration has changed")
	// ErrDiverged: refused; the replica's state differs from that of others, or may (verdict.go).
	ErrDiverged = errors.New("diverged")
	// ErrAnswerTooLarge: refused; a read of a batch whose values together are more than one answer may have.
	ErrAnswerTooLarge = errors.New("the values of the batch are too large for one answer")
	// ErrWrongCluster: the peer belongs to another cluster, or speaks no protocol of ours.
	ErrWrongCluster = errors.New("peer belongs to another cluster")
)

// NotLeaderError refuses a request because this replica does not lead. Leader is the node that it
// believes does, "" when it does not know.
type NotLeaderError struct{ Leader string }

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "not the leader, leader unknown"
	}
	return fmt.Sprintf("not the leader, leader is %s", e.Leader)
}

// NotOwnerError refuses a request because the shard does not own the key's slot at Epoch.
type NotOwnerError struct{ Epoch uint64 }

func (e *NotOwnerError) Error() string {
	return fmt.Sprintf("slot not owned at epoch %d", e.Epoch)
}

// Refused reports whether err says for certain that nothing was applied.
func Refused(err error) bool { return err != nil && !errors.Is(err, ErrOutcomeUnknown) }
