package shard

import (
	"errors"
)

// A replica that lost what it acknowledged (ErrDataLost: its log, term, vote or snapshot is damaged or gone) never speaks:
// it would vote for a log that lacks what it helped to commit. The node goes on with its other replicas, and reports this one
// as stopped. Where the others have a quorum the directory replaces it by a new replica on the same node (an operation,
// rebuild-member), as one whose state diverged; where they have none, that is left to an operator.
//
// Nothing is noted on disk: after a restart, whenever the process died, the damage is found again by reading everything. What is
// found damaged while the replica runs ends the process (store.unreadable), and the next start leaves the replica out. Where
// the directory has recorded the rebuild before a later start finds the data readable, it is rebuilt all the same.

// lose remembers a replica that can't be opened since its data is lost, and returns err.
func (h *Host) lose(id ReplicaID, err error) error {
	if !errors.Is(err, ErrDataLost) {
		return err
	}
	h.log.Error("replica does not run, its data is lost", "shard", id.Shard, "replica", id.String(), "err", err)
	h.mu.Lock()
	h.losses[id.Shard] = loss{id, &Verdict{Outcome: OutcomeLost, Reason: err.Error()}}
	h.mu.Unlock()
	h.changed()
	return err
}

// loss is a replica whose data is lost.
type loss struct {
	id ReplicaID
	v  *Verdict
}

// status is what the node says of it.
func (l loss) status() Status {
	return Status{Shard: l.id.Shard, Replica: l.id.String(), Role: RoleStopped, Stopped: true, Differ: 1, Diverged: l.v.String()}
}

// lost returns why a replica can't be opened, nil where nothing of it is lost.
func (h *Host) lost(id ReplicaID) *Verdict {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if l := h.losses[id.Shard]; l.id == id {
		return l.v
	}
	return nil
}

// found forgets the loss of a replica that is destroyed.
func (h *Host) found(id ReplicaID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.losses[id.Shard].id == id {
		delete(h.losses, id.Shard)
	}
}
