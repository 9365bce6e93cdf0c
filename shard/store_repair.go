package shard

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// recoveryPoint returns the index and term of the snapshot that Raft will start from: the newest
// whose checksum holds, 0 and 0 when there is none. It reads every byte of it.
//
// A damaged snapshot may be passed over only while the log reaches as far as it did: otherwise the
// replica would come back with an older state than it has answered for, and the error wraps
// ErrDataLost. Whether the log also reaches back to the older snapshot is for repair to check.
func recoveryPoint(s replicaStore, snapshots raft.SnapshotStore) (index, term uint64, err error) {
	metas, err := snapshots.List()
	if err != nil {
		return 0, 0, fmt.Errorf("listing snapshots: %w", err)
	}
	last, err := s.LastIndex()
	if err != nil {
		return 0, 0, err
	}
	var all error
	for _, meta := range metas {
		damage := verifySnapshot(snapshots, meta.ID)
		if damage == nil {
			return meta.Index, meta.Term, nil
		}
		if passing(damage) {
			return 0, 0, fmt.Errorf("opening snapshot %s: %w", meta.ID, damage)
		}
		all = errors.Join(all, damage)
		if meta.Index > last {
			return 0, 0, fmt.Errorf("%w: snapshot %s is damaged and the log ends at %d: %w", ErrDataLost, meta.ID, last, damage)
		}
	}
	if len(metas) > 0 {
		return 0, 0, fmt.Errorf("%w: all snapshots are damaged: %w", ErrDataLost, all)
	}
	return 0, 0, nil
}

// verifySnapshot opens a snapshot, which checks it.
func verifySnapshot(snapshots raft.SnapshotStore, id string) error {
	_, content, err := snapshots.Open(id)
	if err != nil {
		return err
	}
	return content.Close()
}

// repair brings the log in line with the snapshot (index and term, 0 and 0 when there is none) that
// Raft will start from. It runs while no Raft instance does: when a replica opens, and after each
// InstallSnapshot, when the instance is recycled. wiped reports that the whole log was deleted.
//
//   - The log holds another term at the snapshot's index: it is the leftover of a leader that did not
//     get its entries committed. What the snapshot covers is committed, so by Log Matching (Ongaro
//     and Ousterhout 2014, 5.3) this entry is not, and an entry is committed only if all before it
//     are: nothing from there on was ever acknowledged by a quorum that counted this replica, and
//     what lies before is in the snapshot. hashicorp/raft keeps such a log and never gets out of it
//     (its issue #697). The log goes.
//   - The log ends before the snapshot: all of it is covered. What was never compared with the
//     snapshot must not be replicated to others, and appending behind it would leave a hole. The log
//     goes.
//   - The log begins after the entry that follows the snapshot: entries that this replica
//     acknowledged are missing. The error wraps ErrDataLost.
//   - The log holds the snapshot's index and term, or begins right behind it: it continues the
//     snapshot and stays, also above it, where entries may be committed with this replica's vote.
//
// In each case the store then knows the snapshot's last entry by its term, whether or not the log
// holds it (setBoundary).
func repair(s replicaStore, index, term uint64) (wiped bool, err error) {
	if wiped, err = alignLog(s, index, term); err == nil {
		s.setBoundary(index, term)
	}
	return wiped, err
}

func alignLog(s replicaStore, index, term uint64) (wiped bool, err error) {
	first, err := s.FirstIndex()
	if err != nil {
		return false, err
	}
	last, err := s.LastIndex()
	if err != nil {
		return false, err
	}
	switch {
	case last == 0:
		return false, nil
	case last < index:
		return true, s.DeleteRange(first, last)
	case first > index+1:
		return false, fmt.Errorf("%w: the log begins at %d, the snapshot ends at %d", ErrDataLost, first, index)
	case first == index+1:
		return false, nil
	}
	var entry raft.Log
	switch err := s.GetLog(index, &entry); {
	case errors.Is(err, raft.ErrLogNotFound):
		return false, fmt.Errorf("%w: the log from %d to %d lacks entry %d", ErrDataLost, first, last, index)
	case err != nil:
		return false, fmt.Errorf("reading entry %d: %w", index, err)
	case entry.Term != term:
		return true, s.DeleteRange(first, last)
	}
	return false, nil
}
