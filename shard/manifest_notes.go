package shard

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// replicaState is how far the life of a replica on this node has come.
type replicaState string

const (
	// replicaCreating: noted before anything of it exists. It has never spoken.
	replicaCreating replicaState = "creating"
	// replicaCreated: its store and bootstrap are durable. It may have spoken: its data must be here.
	replicaCreated replicaState = "created"
	// replicaDiverged: it was created, and has stopped for good since its state is not that of the others.
	// It still takes part in its group, and serves nobody.
	replicaDiverged replicaState = "diverged"
	// replicaDestroyed: its data is gone or going, and it never comes back.
	replicaDestroyed replicaState = "destroyed"
)

// replicaNote is a line of the manifest.
type replicaNote struct {
	Shard ID           `json:"shard"`
	R     uint64       `json:"r"`
	State replicaState `json:"state"`
	// Volatile: nothing but this note outlives the process.
	Volatile bool `json:"volatile,omitempty"`
	// Log is where the replica's log, term and vote are, for as long as it lives; "" is LogBolt. A volatile one has none.
	Log LogStore `json:"log,omitempty"`
	// Verdict says why the replica is diverged.
	Verdict *Verdict `json:"verdict,omitempty"`
}

// shared reports whether the replica is in the shared log.
func (n replicaNote) shared() bool { return n.Log == LogShared }

type manifestRecord struct {
	Format   int           `json:"format"`
	Replicas []replicaNote `json:"replicas"`
}

// loadNotes reads replicas.json; fs.ErrNotExist when there is none.
func loadNotes(dir string) ([]replicaNote, error) {
	path := filepath.Join(dir, manifestName)
	var record manifestRecord
	if err := readJSON(path, &record); errors.Is(err, fs.ErrNotExist) || passing(err) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRejoin, err)
	}
	if record.Format != folderFormat && record.Format != sharedFormat {
		return nil, fmt.Errorf("%s has format %d, this version reads formats %d and %d", path, record.Format, folderFormat, sharedFormat)
	}
	for i, note := range record.Replicas {
		if note.Log != "" && !note.shared() {
			return nil, fmt.Errorf("%w: %s: shard %d, replica %d has its log in %q", ErrRejoin, path, note.Shard, note.R, note.Log)
		}
		switch note.State {
		case replicaCreating, replicaCreated, replicaDiverged, replicaDestroyed:
		default:
			return nil, fmt.Errorf("%w: %s: shard %d, replica %d has state %q", ErrRejoin, path, note.Shard, note.R, note.State)
		}
		if i > 0 && compareNotes(record.Replicas[i-1], note) >= 0 {
			return nil, fmt.Errorf("%w: %s: shard %d, replica %d is out of order", ErrRejoin, path, note.Shard, note.R)
		}
	}
	return record.Replicas, nil
}

func saveNotes(dir string, notes []replicaNote) error {
	format := folderFormat
	if slices.ContainsFunc(notes, replicaNote.shared) {
		format = sharedFormat // a version that knows of no shared log would take these replicas for lost
	}
	return writeJSON(filepath.Join(dir, manifestName), manifestRecord{format, notes})
}

func compareNotes(a, b replicaNote) int {
	return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.R, b.R))
}

func findNote(notes []replicaNote, shard ID, r uint64) (int, bool) {
	return slices.BinarySearchFunc(notes, replicaNote{Shard: shard, R: r}, compareNotes)
}

// noteChange is a change of a replica's note that somebody waits for.
type noteChange struct {
	// next says what the note is to be, by all notes as they are then; false: as it is.
	next func(notes []replicaNote) (note replicaNote, change bool, err error)
	done bool // guarded by saving, as is err
	err  error
}

// change makes a change durable, and all that wait with it.
func (m *manifest) change(next func(notes []replicaNote) (replicaNote, bool, error)) error {
	c := &noteChange{next: next}
	m.mu.Lock()
	m.waiting = append(m.waiting, c)
	m.mu.Unlock()
	m.saving.Lock()
	defer m.saving.Unlock()
	if c.done { // somebody wrote it with his own
		return c.err
	}
	m.mu.Lock()
	batch, notes := m.waiting, slices.Clone(m.notes)
	m.waiting = nil
	m.mu.Unlock()
	m.save(batch, notes)
	return c.err
}

// save writes the notes with all changes of batch; with saving. A write that fails has changed none of them.
func (m *manifest) save(batch []*noteChange, notes []replicaNote) {
	written, folders := false, false
	for _, c := range batch {
		note, changed, err := c.next(notes)
		c.done, c.err = true, err
		if err != nil || !changed {
			continue
		}
		if i, noted := findNote(notes, note.Shard, note.R); noted {
			notes[i] = note
		} else {
			notes = slices.Insert(notes, i, note)
		}
		written, folders = true, folders || note.State == replicaCreated && !note.Volatile
	}
	if !written {
		return
	}
	var err error
	if folders {
		err = m.syncFolders()
	}
	if err == nil {
		err = saveNotes(m.dir, notes)
	}
	if err != nil {
		for _, c := range batch { // also who needed no change, as another made it
			c.err = cmp.Or(c.err, err)
		}
		return
	}
	m.mu.Lock()
	m.notes = notes
	m.mu.Unlock()
	m.shown.Store(&notes)
}

// syncFolders makes the names of all replicas' folders durable; with saving. A failure lasts until the next start, which begins again what was not created: the
// next sync may succeed though names that this one was to write are lost (R13), and they may be those of replicas that did not wait for it.
func (m *manifest) syncFolders() error {
	if m.unsynced != nil {
		return m.unsynced
	}
	err := errors.Join(syncDir(filepath.Join(m.dir, replicasDir)), syncDir(m.dir))
	if err != nil && !passing(err) {
		m.unsynced = fmt.Errorf("no replica is created until the next start: %w", err)
	}
	return err
}

// note records state durably.
func (m *manifest) note(shard ID, r uint64, state replicaState) error {
	return m.change(func(notes []replicaNote) (replicaNote, bool, error) {
		n := replicaNote{Shard: shard, R: r, State: state}
		if i, noted := findNote(notes, shard, r); noted {
			n.Volatile, n.Log = notes[i].Volatile, notes[i].Log
		}
		return n, true, nil
	})
}
