package shard

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/hashicorp/raft"
)

// A replica that lost what it acknowledged (ErrDataLost: its log, term, vote or snapshot is damaged or gone) never speaks:
// it would vote for a log that lacks what it helped to commit. The node goes on with its other replicas, and reports this one
// as stopped. Where the others have a quorum the directory replaces it by a new replica on the same node (an operation,
// rebuild-member), as one whose state diverged; where they have none, that is left to an operator.
//
// A volatile replica is lost whenever its process ends, which is known for certain at the next start. Of any other
// it is believed after a few tries in a row, and never while files or rights are short. Nothing is noted on disk: after a
// restart, whenever the process died, the damage is found again by reading everything. Log records that are found damaged while
// the replica runs end the process (store.unreadable), and the next start leaves the replica out; a snapshot is replaced
// (instance.unreadable). Where a later start finds the data readable, the directory takes back a rebuild that has not removed the
// replica yet.

// errVolatile tells of a replica that was kept in memory by a process that has ended.
var errVolatile = fmt.Errorf("%w: it was kept in memory, and its process has ended", ErrDataLost)

// lossTries is how many times in a row opening a replica must find its data lost before that is believed: what can't be
// read for a moment is not gone.
const lossTries = 3

// lose remembers a replica that can't be opened since its data is lost, once that is believed, and returns err.
func (h *Host) lose(id ReplicaID, err error) error {
	if !errors.Is(err, ErrDataLost) || passing(err) {
		return err
	}
	h.mu.Lock()
	h.suspects[id]++
	believed := h.suspects[id] >= lossTries || errors.Is(err, errVolatile)
	if believed {
		h.losses[id.Shard] = loss{id, &Verdict{Outcome: OutcomeLost, Reason: err.Error()}, errors.Is(err, errVolatile)}
		delete(h.suspects, id)
	}
	h.mu.Unlock()
	if believed {
		h.log.Error("replica does not run, its data is lost", "shard", id.Shard, "replica", id.String(), "err", err)
		h.changed()
	}
	return err
}

// passing reports whether an error comes from a shortage, or from rights, and so says nothing of the data.
func passing(err error) bool {
	return slices.ContainsFunc([]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN, syscall.EACCES, syscall.EPERM},
		func(e syscall.Errno) bool { return errors.Is(err, e) })
}

// loss is a replica whose data is lost.
type loss struct {
	id ReplicaID
	v  *Verdict
	// certain: no later start finds the data after all.
	certain bool
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

// Fate is what a node knows of a replica of its own.
type Fate struct {
	// Gone: it never speaks again. Its data is lost for certain, as it was in the memory of a process that has ended, or it was destroyed.
	Gone bool
	// Leads: it leads its group, or takes itself for the leader.
	Leads bool
	// Voters are those of the latest configuration in its log; empty where it does not run or has none: it can't stand then.
	Voters []ReplicaID
	// Last and LastTerm are of the last entry of its log that is synced, where it runs: what it keeps, whatever happens to its process.
	Last, LastTerm uint64
}

// Fate tells what became of a replica of this node. ErrStopped: it can't be told just now, as its Raft is being replaced.
func (h *Host) Fate(id ReplicaID) (Fate, error) {
	if g := h.Group(id.Shard); g != nil && g.id == id {
		i := g.instance()
		if i == nil {
			return Fate{}, ErrStopped
		}
		voters, _ := i.voters()
		f := Fate{Leads: i.raft.State() == raft.Leader, Voters: slices.Clone(voters)}
		var err error
		f.Last = i.last()
		f.LastTerm, err = termAt(f.Last, g.store, g.snaps)
		return f, err
	}
	if h.storage.retired(id) {
		return Fate{Gone: true}, nil
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	l := h.losses[id.Shard]
	return Fate{Gone: l.id == id && l.certain}, nil
}

// termAt returns the term of the last entry that a log has, or the snapshot where the log is empty.
func termAt(index uint64, store replicaStore, snaps snapshotStore) (uint64, error) {
	if index == 0 {
		return 0, nil
	}
	var entry raft.Log
	err := store.GetLog(index, &entry)
	if !errors.Is(err, raft.ErrLogNotFound) {
		return entry.Term, err
	}
	metas, err := snaps.List()
	if err != nil {
		return 0, err
	}
	if at := slices.IndexFunc(metas, func(m *raft.SnapshotMeta) bool { return m.Index == index }); at >= 0 {
		return metas[at].Term, nil
	}
	return 0, fmt.Errorf("%w: the log moves on", ErrStopped)
}

// found forgets the loss of a replica that opened, or is destroyed.
func (h *Host) found(id ReplicaID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.suspects, id)
	if h.losses[id.Shard].id == id {
		delete(h.losses, id.Shard)
	}
}
