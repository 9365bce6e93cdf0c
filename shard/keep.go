package shard

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// Keep is what a new generation of a shard begins with where it is not to begin empty: what one replica of the former one has.
type Keep struct {
	// R is that of the former replica, on the node of the new one; 0: the new generation begins empty.
	R uint64
	// Grant is the new generation's. It is in the state before anybody sees it: nothing is ever answered or written by the former grant.
	Grant fsm.Grant
}

// A replica that keeps the state of a former one is the only member of its group. It begins with a snapshot of all that the former
// one's log has, acknowledged or not: what was acknowledged may be on this replica only, not known here to be committed. What is behind the
// snapshot is the new group's log, from term 1 on like that of any new group.
//
//	a death                                  leaves                                          shown by
//	before the former one is stopped         the former one; nothing was done                TestKeepAcrossCrashes
//	while it is read, and the snapshot and   the former one, and a part of the new one that  TestKeepAcrossCrashes
//	the store are written (creating)         never spoke and is begun again
//	once the new one is created              both, and the former one never opens again      TestKeepAcrossCrashes,
//	                                         (ErrRetired); it is destroyed                   TestManifestKeep
//	once the former one is destroyed         the new one

// kept stops the former replica and returns what it has; nil where the new one was made already.
func (h *Host) kept(spec Spec) (*fsm.Machine, error) {
	former := ReplicaID{spec.Shard, h.cfg.Node, spec.Keep.R}
	if h.storage.retired(former) {
		return nil, nil
	}
	if v := h.storage.verdict(former); v != nil {
		return nil, fmt.Errorf("%w: replica %s, which was to be kept, has stopped: %s", ErrDataLost, former, v)
	}
	if g := h.Group(spec.Shard); g != nil && g.id == former {
		g.cancel()
		<-g.done
		return wholeState(g.store, g.snaps)
	}
	if !slices.Contains(h.storage.replicas(), former) {
		return nil, nil
	}
	never := func(replicaStore, raft.SnapshotStore) error {
		return fmt.Errorf("%w: replica %s, which was to be kept, has never spoken", ErrDataLost, former)
	}
	store, snaps, err := h.storage.open(former, spec.Volatile, 0, newRaftLogger(h.log, spec.Shard), h.fatal, never)
	if err != nil {
		return nil, err
	}
	m, err := wholeState(store, snaps)
	return m, errors.Join(err, store.Close())
}

// wholeState is stateOf for a state that is to be kept: there must be one. Where it can't be had, but for want of files or rights, it is lost: a later try reads
// the same, and nobody hears of an error that is only tried again.
func wholeState(store replicaStore, snaps raft.SnapshotStore) (m *fsm.Machine, err error) {
	err = guard(func() (err error) {
		m, err = stateOf(store, snaps)
		return err
	})
	switch {
	case err == nil && m.Stats().Generation == 0: // a learner that got nothing yet
		return nil, fmt.Errorf("%w: it was never granted a range", ErrDataLost)
	case err == nil || errors.Is(err, ErrDataLost) || passing(err):
		return m, err
	}
	return nil, fmt.Errorf("%w: %w", ErrDataLost, err)
}

// stateOf builds the state of a replica that does not run, at the end of its log.
func stateOf(store replicaStore, snaps raft.SnapshotStore) (*fsm.Machine, error) {
	index, term, err := recoveryPoint(store, snaps)
	if err != nil {
		return nil, err
	}
	if _, err := repair(store, index, term); err != nil {
		return nil, err
	}
	m := fsm.New()
	if index > 0 {
		metas, err := snaps.List()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(metas, func(meta *raft.SnapshotMeta) bool { return meta.Index == index && meta.Term == term })
		if i < 0 {
			return nil, fmt.Errorf("%w: the snapshot at %d is gone", ErrDataLost, index)
		}
		_, content, err := snaps.Open(metas[i].ID)
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", metas[i].ID, err)
		}
		defer content.Close()
		if m, err = fsm.Restore(content); errors.Is(err, fsm.ErrCorrupt) {
			return nil, fmt.Errorf("snapshot %s: %w: %w", metas[i].ID, ErrDataLost, err)
		} else if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", metas[i].ID, err)
		}
	}
	last, err := store.LastIndex()
	if err != nil {
		return nil, err
	}
	return m, replay(m, store, index+1, last)
}

// replay applies the entries from first to last of a log.
func replay(m *fsm.Machine, log interface {
	GetLog(index uint64, entry *raft.Log) error
}, first, last uint64) error {
	for index := first; index <= last; index++ {
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			return fmt.Errorf("reading entry %d: %w", index, err)
		}
		if entry.Index != index {
			return fmt.Errorf("entry %d says that it is entry %d", index, entry.Index)
		}
		if entry.Type != raft.LogCommand {
			continue
		}
		batch, err := fsm.DecodeBatch(entry.Data)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if _, err := m.Apply(index, batch); err != nil {
			return fmt.Errorf("applying entry %d: %w", index, err)
		}
	}
	return nil
}

// seed makes the stores of a replica that begins with m, which becomes its state with the new generation's grant.
func (g *Group) seed(m *fsm.Machine, store replicaStore, snaps raft.SnapshotStore) error {
	if m == nil {
		return fmt.Errorf("%w: of replica %d, which was to be kept, nothing is here", ErrDataLost, g.spec.Keep.R)
	}
	applied, _ := m.Applied()
	index := applied + 1
	results, err := m.Apply(index, fsm.Batch{Stamp: m.Stats().Clock, Level: 1, Commands: []fsm.Command{{Kind: fsm.KindGrant, Grant: g.spec.Keep.Grant}}})
	if err != nil {
		return err
	}
	if results[0].Status != fsm.StatusOK {
		return fmt.Errorf("%w: the grant of generation %d is no newer than that of the state that is kept", ErrDataLost, g.spec.Keep.Grant.Generation)
	}
	if dir := g.host.cfg.Dir; dir != "" && !g.spec.Volatile { // the logs of other shards share the disk, and a failed write of theirs ends the process
		if free, err := freeSpace(dir); err == nil && free < m.Stats().Bytes+spoolReserve {
			return fmt.Errorf("no room for a snapshot of %d bytes: %d are free, %d more are wanted", m.Stats().Bytes, free, spoolReserve)
		}
	}
	if err := store.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
		return err
	}
	self := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(g.id.String()), Address: raft.ServerAddress(g.id.String())}}}
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, 1, self, index, newTransport(g))
	if err != nil {
		return err
	}
	if _, err := m.Snapshot().WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	return verifySnapshot(snaps, sink.ID()) // the former one is destroyed by its word
}
