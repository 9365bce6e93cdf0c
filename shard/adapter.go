package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// adapter is the raft.FSM of one Raft instance: a thin bridge to one StateMachine. It is a
// BatchingFSM so that the library shows it configuration entries too, which keeps the index of a
// snapshot right after a membership change.
type adapter struct {
	shard   ID
	machine StateMachine
	applied watermark // last index the machine has seen

	conf       atomic.Pointer[configuration] // the committed one; nil: none yet
	restored   atomic.Uint64                 // index of the last snapshot restored
	holds      string                        // the snapshot whose state the machine has, "" once anything was applied to it
	persisting atomic.Int32                  // snapshots being written now
	failed     atomic.Pointer[error]         // of a Restore
	renewals   atomic.Int32                  // snapshots to be taken soon, as one there can't be read
	// sealed: the replica has stopped for good. The machine stays empty, and no snapshot is taken.
	sealed bool
	// log is what the applied entries are from. Nothing is applied that is not durable there (store_ahead.go).
	log       appliedLog
	undurable error           // why the log can't be made durable; of the goroutine that applies
	started   atomic.Bool     // the instance runs, so a Restore comes from the leader
	onRestore func()          // called after such a Restore; must not block
	discard   func(id string) // called after such a Restore that found the snapshot damaged
	written   atomic.Uint64   // bytes of commands applied since the last snapshot began
	entries   atomic.Uint64   // entries likewise
	due       atomic.Uint64   // a snapshot is to be taken at once when written comes to it; 0: it has time
	grown     chan struct{}   // one token: it has
}

// appliedLog is what an adapter needs of a replicaStore.
type appliedLog interface {
	LastIndex() (uint64, error)
	await(ctx context.Context, index uint64) error
}

var _ raft.BatchingFSM = (*adapter)(nil)

func (a *adapter) ApplyBatch(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	if a.undurable == nil && !bugApplyUnsynced.on() {
		a.undurable = a.log.await(context.Background(), logs[len(logs)-1].Index)
	}
	if a.undurable != nil { // the process is about to end
		for i := range results {
			results[i] = a.undurable
		}
		return results
	}
	a.holds = ""
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			if !a.sealed {
				results[i] = a.machine.Apply(l.Index, l.Data)
				a.mark(l)
			}
			a.written.Add(uint64(len(l.Data)))
		}
		if l.Type == raft.LogConfiguration {
			a.conf.Store(newConfiguration(l.Index, raft.DecodeConfiguration(l.Data)))
		}
		a.entries.Add(1)
		a.applied.reach(l.Index)
	}
	if due := a.due.Load(); due > 0 && a.written.Load() >= due {
		notify(a.grown)
	}
	return results
}

func (a *adapter) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

// mark has the machine sum itself up, at a mark that somebody may still ask about.
func (a *adapter) mark(l *raft.Log) {
	m, ok := a.machine.(marker)
	if !ok || !bytes.Equal(l.Extensions, markExtension) {
		return
	}
	if last, err := a.log.LastIndex(); err == nil && last <= l.Index+maxMarkLag {
		m.Mark(l.Index)
	}
}

func (a *adapter) Snapshot() (raft.FSMSnapshot, error) {
	if a.sealed {
		return nil, errSealed
	}
	if a.undurable != nil { // the library takes it for applied
		return nil, a.undurable
	}
	a.persisting.Add(1)
	return &adapterSnapshot{adapter: a, state: a.machine.Snapshot(), written: a.written.Swap(0), entries: a.entries.Swap(0)}, nil
}

// inherit takes over the machine of an instance that has ended, with the state of a snapshot: the library restores that when it starts.
func (a *adapter) inherit(before *adapter) {
	if !a.sealed && !before.sealed && before.holds != "" {
		a.machine, a.holds = before.machine, before.holds
	}
}

// Restore replaces the state by a snapshot. One from the leader that reaches no further than the
// state does is refused: the library itself would take the state back, below what was acknowledged.
func (a *adapter) Restore(r io.ReadCloser) error {
	defer r.Close()
	meta, err := metaOf(r)
	if err != nil {
		return fmt.Errorf("shard %d: %w", a.shard, err)
	}
	index := meta.Index
	if a.undurable != nil {
		return a.undurable
	}
	if a.started.Load() && index <= a.applied.at() {
		return fmt.Errorf("shard %d: snapshot at index %d is older than the state", a.shard, index)
	}
	restore := a.machine.Restore
	if a.sealed {
		restore = func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		}
	}
	if meta.ID == a.holds { // by the instance before this one
		restore = func(io.Reader) error { return nil }
	}
	a.holds = ""
	if err := restore(r); err != nil {
		err = fmt.Errorf("shard %d: snapshot at index %d: %w", a.shard, index, err)
		a.failed.Store(&err)
		if a.started.Load() && errors.Is(err, ErrDataLost) {
			a.discard(meta.ID)
		}
		return err
	}
	a.holds = meta.ID
	a.applied.reach(index)
	a.restored.Store(index)
	a.conf.Store(newConfiguration(meta.ConfigurationIndex, meta.Configuration))
	if a.started.Load() {
		a.onRestore()
	}
	return nil
}

// describedSnapshots lets Restore know which snapshot it reads, and the instance that one can't be read: the library says neither.
type describedSnapshots struct {
	raft.SnapshotStore
	fsm *adapter
	// start is the index of the only snapshot that there is to the library while it starts. It would fall back to an older one
	// else, and panic where the log in between is gone.
	start      uint64
	unreadable func(error)
}

type describedReader struct {
	io.ReadCloser
	meta *raft.SnapshotMeta
}

func (d describedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	all, err := d.SnapshotStore.List()
	if err != nil {
		d.unreadable(err)
		return nil, err
	}
	if !d.fsm.started.Load() {
		all = slices.DeleteFunc(slices.Clone(all), func(m *raft.SnapshotMeta) bool { return m.Index != d.start })
	}
	return all, nil
}

func (d describedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := d.SnapshotStore.Open(id)
	if err != nil {
		d.unreadable(err)
		return nil, nil, err
	}
	return meta, describedReader{r, meta}, nil
}

// metaOf finds the describedReader below what the library wraps around it.
func metaOf(r io.ReadCloser) (*raft.SnapshotMeta, error) {
	for {
		if d, ok := r.(describedReader); ok {
			return d.meta, nil
		}
		w, ok := r.(raft.ReadCloserWrapper)
		if !ok {
			return nil, fmt.Errorf("snapshot without a description (%T)", r)
		}
		r = w.WrappedReadCloser()
	}
}

type adapterSnapshot struct {
	adapter          *adapter
	state            StateSnapshot
	written, entries uint64 // what it covers
	persisted        bool
}

func (s *adapterSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.state.WriteTo(sink); err != nil {
		_ = sink.Cancel()
		return err
	}
	err := sink.Close()
	s.persisted = err == nil
	return err
}

// Release is always called, also where Persist never was: the library may refuse a snapshot that it
// asked for.
func (s *adapterSnapshot) Release() {
	if !s.persisted { // what it was to cover still waits for one
		s.adapter.written.Add(s.written)
		s.adapter.entries.Add(s.entries)
	}
	s.adapter.persisting.Add(-1)
}
