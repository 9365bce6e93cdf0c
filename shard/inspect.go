package shard

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// Inspection is what one replica's data on disk amounts to.
type Inspection struct {
	Shard   ID     `json:"shard"`
	Replica string `json:"replica"` // server id shard/node/r
	// SnapshotIndex is the end of the snapshot that the state was built from, 0 when from none.
	SnapshotIndex uint64 `json:"snapshotIndex"`
	// FirstIndex and LastIndex are those of the log, both 0 when it is empty or is not the
	// continuation of the newest snapshot (the replica would delete it at its start).
	FirstIndex uint64 `json:"firstIndex"`
	LastIndex  uint64 `json:"lastIndex"`
	// Term is the highest that the replica has seen.
	Term uint64 `json:"term"`
	// At is the index up to which the log was replayed.
	At uint64 `json:"at"`
	// Applied is the last index up to At that holds something for the state machine.
	Applied uint64 `json:"applied"`
	Entries uint64 `json:"entries"`
	Bytes   uint64 `json:"bytes"`
	// Checksum is that of the state at At, in hex; equal on all replicas of the shard at the same At.
	Checksum string `json:"checksum"`
	// Diverged says why the replica has stopped for good, "" if it has not.
	Diverged string `json:"diverged,omitempty"`
	// Error says what is damaged and where; the fields after Term are empty when no state could be
	// built in spite of it.
	Error string `json:"error,omitempty"`
}

// Inspect checks the data folder dir of a node that is not running: it builds the state of each data
// shard's replica from its newest valid snapshot and its log, up to at[shard], or to the end of the
// log where at names none. It changes nothing and holds the folder's lock meanwhile.
//
// Whether an entry is committed is not known offline. States are to be compared at an index that is
// known to be committed; the end of a log may hold entries that never will be.
//
// Of the directory's replica, shard 0, nothing but its damage is reported. All others are reported, also damaged ones: the
// error joins what Inspection.Error says of each.
func Inspect(dir string, at map[ID]uint64) ([]Inspection, error) {
	if _, err := os.Stat(filepath.Join(dir, identityFile)); err != nil {
		return nil, fmt.Errorf("%s is no data folder: %w", dir, err)
	}
	lock, err := lockDataFolder(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	identity, err := loadIdentity(dir)
	if err != nil {
		return nil, err
	}
	notes, err := loadNotes(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: data folder %s has no %s", ErrDataLost, dir, manifestName)
	}
	if err != nil {
		return nil, err
	}
	var shared *sharedLog
	var unread error // why there is no shared log
	if _, must := needsLog(notes); must {
		if shared, unread = openSharedLog(vfs.Default, filepath.Join(dir, sharedDir), true, true, slog.New(slog.DiscardHandler), func(error) {}); unread == nil {
			defer shared.Close()
		}
	}
	var found []Inspection
	var damage []error
	for _, note := range notes {
		if note.State != replicaCreated && note.State != replicaDiverged || note.Volatile { // which nobody expects here
			continue
		}
		id := ReplicaID{Shard: note.Shard, Node: identity.Node, R: note.R}
		in := inspector{
			id:     id,
			dir:    replicaFolder(dir, note.Shard, note.R),
			report: Inspection{Shard: note.Shard, Replica: id.String()},
		}
		if note.shared() {
			in.shared, in.unread = shared, unread
		}
		if note.Verdict != nil {
			in.report.Diverged = note.Verdict.String()
		}
		target, limited := at[note.Shard]
		err := guard(func() error {
			if note.Shard == Directory {
				return in.look()
			}
			return in.run(target, limited)
		})
		if err != nil {
			err = fmt.Errorf("shard %d, replica %d in %s: %w", note.Shard, note.R, in.dir, err)
			in.report.Error = err.Error()
			damage = append(damage, err)
		}
		if note.Shard != Directory || err != nil {
			found = append(found, in.report)
		}
	}
	return found, errors.Join(damage...)
}

// inspector builds the state of one replica.
type inspector struct {
	id     ReplicaID
	dir    string
	report Inspection
	// The log is in shared where that is not nil, and can't be had if unread is not.
	shared *sharedLog
	unread error

	log    engine
	damage []error // what could be passed over
}

// open opens the log, which is the replica's own.
func (in *inspector) open() error {
	switch {
	case in.unread != nil:
		return in.unread
	case in.shared != nil:
		e := sharedEngine{in.shared, prefixOf(in.id.Shard, in.id.R)}
		if err := checkReplica(e); err != nil {
			return err
		}
		in.log = summed{e}
		return checkMarker(in.log, in.id)
	}
	path := filepath.Join(in.dir, storeFile)
	if info, err := os.Stat(path); err != nil {
		return fmt.Errorf("%w: %w", ErrDataLost, err)
	} else if info.Size() == 0 {
		return fmt.Errorf("%w: %s is empty", ErrDataLost, path)
	}
	if err := withBolt(path, true, func(e engine) error {
		in.log = e
		return nil
	}); err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	if err := checkMarker(in.log, in.id); err != nil {
		return errors.Join(err, in.log.Close())
	}
	return nil
}

// look checks log and snapshots, and builds no state.
func (in *inspector) look() error {
	if err := in.open(); err != nil {
		return err
	}
	defer in.log.Close()
	snapshots, err := in.openSnapshots()
	if err != nil {
		return err
	}
	in.choose(snapshots, 0, false)
	return errors.Join(in.damage...)
}

// run builds the state.
func (in *inspector) run(target uint64, limited bool) error {
	if err := in.open(); err != nil {
		return err
	}
	defer in.log.Close()
	if err := in.readBounds(); err != nil {
		return err
	}
	snapshots, err := in.openSnapshots()
	if err != nil {
		return err
	}
	newest, base := in.choose(snapshots, target, limited)
	if err := in.trimStaleLog(newest); err != nil {
		return err
	}
	end := max(in.report.LastIndex, newest.Index)
	if limited && target > end {
		return errors.Join(append(in.damage, fmt.Errorf("the data ends at %d, before %d", end, target))...)
	}
	in.report.At = end
	if limited {
		in.report.At = target
	}
	if err := in.replay(snapshots, base); err != nil {
		in.report.At = 0
		return errors.Join(append(in.damage, err)...)
	}
	return errors.Join(in.damage...)
}

// readBounds reads term and bounds of the log.
func (in *inspector) readBounds() error {
	term, ok, err := getKey(in.log, keyCurrentTerm)
	if err != nil {
		return err
	}
	if ok && len(term) == 8 {
		in.report.Term = binary.BigEndian.Uint64(term)
	}
	if in.report.FirstIndex, err = in.log.FirstIndex(); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if in.report.LastIndex, err = in.log.LastIndex(); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// openSnapshots opens the snapshots and notes those whose description can't be read.
func (in *inspector) openSnapshots() (raft.SnapshotStore, error) {
	folder := filepath.Join(in.dir, snapshotFolder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDataLost, err)
	}
	store, err := raft.NewFileSnapshotStoreWithLogger(in.dir, max(1, len(entries)), hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	found, err := findSnapshots(folder)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		if f.damage != nil {
			in.damage = append(in.damage, f.damage)
		}
	}
	return store, nil
}

// choose returns the newest valid snapshot, and the newest valid one that is not beyond the target;
// both without index when there is none. Damaged ones are noted.
func (in *inspector) choose(snapshots raft.SnapshotStore, target uint64, limited bool) (newest, base raft.SnapshotMeta) {
	metas, err := snapshots.List()
	if err != nil {
		in.damage = append(in.damage, err)
	}
	for _, meta := range metas {
		if err := verifySnapshot(snapshots, meta.ID); err != nil {
			in.damage = append(in.damage, fmt.Errorf("snapshot %s: %w", meta.ID, err))
			continue
		}
		if newest.Index == 0 {
			newest = *meta
		}
		if base.Index == 0 && (!limited || meta.Index <= target) {
			base = *meta
		}
	}
	return newest, base
}

// trimStaleLog leaves out a log that repair would delete at the replica's next start.
func (in *inspector) trimStaleLog(newest raft.SnapshotMeta) error {
	r := &in.report
	stale := r.LastIndex < newest.Index
	if !stale && newest.Index != 0 && r.FirstIndex <= newest.Index {
		var entry raft.Log
		if err := in.log.GetLog(newest.Index, &entry); err != nil {
			return fmt.Errorf("reading entry %d: %w", newest.Index, err)
		}
		stale = entry.Term != newest.Term
	}
	if stale {
		r.FirstIndex, r.LastIndex = 0, 0
	}
	return nil
}

// replay builds the state at report.At from the snapshot base and the log behind it.
func (in *inspector) replay(snapshots raft.SnapshotStore, base raft.SnapshotMeta) error {
	r := &in.report
	machine := fsm.New()
	if base.Index != 0 {
		_, content, err := snapshots.Open(base.ID)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", base.ID, err)
		}
		defer content.Close()
		if machine, err = fsm.Restore(content); err != nil {
			return fmt.Errorf("snapshot %s: %w", base.ID, err)
		}
	}
	if r.At > base.Index && (r.FirstIndex == 0 || r.FirstIndex > base.Index+1) {
		return fmt.Errorf("%w: no entry %d follows the snapshot that ends at %d", ErrDataLost, base.Index+1, base.Index)
	}
	if err := replay(machine, in.log, base.Index+1, r.At); err != nil {
		return err
	}
	stats := machine.Stats()
	sum := machine.Checksum()
	r.SnapshotIndex = base.Index
	r.Applied, _ = machine.Applied()
	r.Entries, r.Bytes = uint64(stats.Entries), uint64(stats.Bytes)
	r.Checksum = hex.EncodeToString(sum[:])
	return nil
}
