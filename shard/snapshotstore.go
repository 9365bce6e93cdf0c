package shard

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	// retainSnapshots leaves one to fall back on when the newest is damaged.
	retainSnapshots = 2
	// snapshotFolder is the name that raft.FileSnapshotStore gives the folder of snapshots.
	snapshotFolder = "snapshots"
	// unfinished ends the name of a snapshot that is being written, or removed.
	unfinished = ".tmp"
	// descriptionFile and stateFile are what raft.FileSnapshotStore makes a snapshot of.
	descriptionFile = "meta.json"
	stateFile       = "state.bin"
	// snapshotSync is how much of a snapshot is written until it is synced, bytes: a log on the same disk waits for that much.
	snapshotSync = 128 << 10
	// descriptionSum is a file beside them with the checksum of the description. Snapshots of earlier versions have none.
	descriptionSum = "description.sum"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapshotStore is a raft.SnapshotStore that a snapshot can be taken out of again.
type snapshotStore interface {
	raft.SnapshotStore
	// discard removes a snapshot, which may be open.
	discard(id string) error
}

// diskSnapshots keeps the newest two snapshots of a replica in files, by raft.FileSnapshotStore. That one checks what snapshots
// hold, and believes what describes them: here, what there is and in which order is said by the names of their folders, and a
// description counts where it is what its name and its checksum say. What is damaged is replaced by what is newer; where nothing
// is, List and Open fail with an error that wraps ErrDataLost.
type diskSnapshots struct {
	raft.SnapshotStore
	folder string

	mu         sync.Mutex      // guards unreadable; held to remove snapshots
	unreadable map[string]bool // snapshots that could not be opened
}

// foundSnapshot is a finished snapshot as its folder's name tells.
type foundSnapshot struct {
	name                string
	term, index, millis uint64
	meta                *raft.SnapshotMeta // nil if damaged
	damage              error              // wraps ErrDataLost
}

func (f foundSnapshot) compare(o foundSnapshot) int {
	return cmp.Or(f.comparePlace(o), cmp.Compare(f.millis, o.millis))
}

// comparePlace compares the places in the log that snapshots end at.
func (f foundSnapshot) comparePlace(o foundSnapshot) int {
	return cmp.Or(cmp.Compare(f.term, o.term), cmp.Compare(f.index, o.index))
}

// openSnapshots opens the snapshots in dir, the replica's folder, and clears away what a crash left:
// snapshots that were never finished and those that were half removed. When there is a damaged one that is newer
// than all others, the error wraps ErrDataLost.
func openSnapshots(dir string, logger hclog.Logger) (snapshotStore, error) {
	folder := filepath.Join(dir, snapshotFolder)
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening snapshots: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasSuffix(e.Name(), unfinished) {
			continue
		}
		if err := removeAll(filepath.Join(folder, e.Name())); err != nil {
			return nil, fmt.Errorf("removing an unfinished snapshot: %w", err)
		}
	}
	const all = 1 << 30 // reap removes them: the library would by what it believes
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, all, logger)
	if err != nil {
		return nil, fmt.Errorf("opening snapshots: %w", err)
	}
	d := &diskSnapshots{SnapshotStore: store, folder: folder, unreadable: map[string]bool{}}
	found, err := findSnapshots(folder)
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		if f.damage == nil {
			continue
		}
		if i == 0 {
			return nil, f.damage
		}
		if err := d.discard(f.name); err != nil {
			return nil, fmt.Errorf("removing a damaged snapshot that a newer one replaces: %w", err)
		}
	}
	return d, nil
}

// findSnapshots returns the finished snapshots in a folder, the newest first.
func findSnapshots(folder string) ([]foundSnapshot, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	var found []foundSnapshot
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), unfinished) {
			continue
		}
		f := foundSnapshot{name: e.Name()}
		if f.term, f.index, f.millis, err = parseSnapshotName(f.name); err != nil {
			return nil, err
		}
		if f.meta, err = readDescription(folder, f); errors.Is(err, ErrDataLost) {
			f.damage = err
		} else if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b foundSnapshot) int { return b.compare(a) })
	return found, nil
}

// parseSnapshotName takes the name of a snapshot's folder apart.
func parseSnapshotName(name string) (term, index, millis uint64, err error) {
	if _, err := fmt.Sscanf(name, "%d-%d-%d", &term, &index, &millis); err != nil {
		return 0, 0, 0, fmt.Errorf("folder %s is no snapshot: %w", name, err)
	}
	if name != fmt.Sprintf("%d-%d-%d", term, index, millis) {
		return 0, 0, 0, fmt.Errorf("folder %s is no snapshot", name)
	}
	return term, index, millis, nil
}

// readDescription reads the description of a snapshot, and holds it against its checksum, the name of its folder and the length of
// what is in it: from a wrong index or term a replica would skip entries, or claim to have some that it does not; one sent
// with a wrong length is never complete. For what is damaged or gone the error wraps ErrDataLost.
func readDescription(folder string, f foundSnapshot) (*raft.SnapshotMeta, error) {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("%w: snapshot %s can't be read: %w", ErrDataLost, filepath.Join(folder, f.name), fmt.Errorf(format, args...))
	}
	text, err := os.ReadFile(filepath.Join(folder, f.name, descriptionFile))
	switch {
	case passing(err):
		return nil, fmt.Errorf("reading the description of a snapshot: %w", err)
	case err != nil:
		return nil, damaged("%w", err)
	}
	m := &raft.SnapshotMeta{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, damaged("its description is damaged: %w", err)
	}
	switch state, err := os.Stat(filepath.Join(folder, f.name, stateFile)); {
	case m.Version > raft.SnapshotVersionMax:
		return nil, fmt.Errorf("snapshot %s has version %d, this build knows %d", f.name, m.Version, raft.SnapshotVersionMax)
	case m.Version != raft.SnapshotVersionMax, m.ID != f.name, m.Term != f.term, m.Index != f.index:
		return nil, damaged("its description says version %d, %s, index %d of term %d", m.Version, m.ID, m.Index, m.Term)
	case passing(err):
		return nil, err
	case err != nil:
		return nil, damaged("%w", err)
	case state.Size() != m.Size:
		return nil, damaged("it has %d bytes, its description says %d", state.Size(), m.Size)
	}
	switch sum, err := os.ReadFile(filepath.Join(folder, f.name, descriptionSum)); {
	case errors.Is(err, os.ErrNotExist):
	case passing(err):
		return nil, err
	case err != nil:
		return nil, damaged("%w", err)
	case !bytes.Equal(sum, sumDescription(m)):
		return nil, damaged("its description has another checksum")
	}
	return m, nil
}

// sumDescription is the CRC-32C of what Raft goes by in a description. What the snapshot holds has a checksum of its own there.
func sumDescription(m *raft.SnapshotMeta) []byte {
	text := fmt.Appendf(nil, "%d %d %d", m.Index, m.Term, m.ConfigurationIndex)
	for _, s := range m.Configuration.Servers {
		text = fmt.Appendf(text, " %d %q %q", s.Suffrage, s.ID, s.Address)
	}
	return fmt.Appendf(nil, "%08x", crc32.Checksum(text, castagnoli))
}

// List returns the newest snapshots that are whole by their descriptions. It fails where a newer one is not.
func (d *diskSnapshots) List() ([]*raft.SnapshotMeta, error) {
	found, err := findSnapshots(d.folder)
	if err != nil {
		return nil, err
	}
	var all []*raft.SnapshotMeta
	for _, f := range found {
		switch {
		case f.damage == nil && len(all) < retainSnapshots:
			all = append(all, f.meta)
		case f.damage != nil && len(all) == 0:
			return nil, f.damage
		}
	}
	return all, nil
}

func (d *diskSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	f := foundSnapshot{name: id}
	var err error
	if f.term, f.index, f.millis, err = parseSnapshotName(id); err != nil {
		return nil, nil, err
	}
	if _, err := readDescription(d.folder, f); err != nil {
		return nil, nil, err
	}
	m, r, err := d.SnapshotStore.Open(id)
	if err != nil && !passing(err) {
		d.mu.Lock()
		d.unreadable[id] = true
		d.mu.Unlock()
	}
	return m, r, err
}

// Create returns a sink for a new snapshot, beside which its checksum is on the disk already.
func (d *diskSnapshots) Create(version raft.SnapshotVersion, index, term uint64,
	configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := d.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	sum := sumDescription(&raft.SnapshotMeta{Index: index, Term: term, Configuration: configuration, ConfigurationIndex: configurationIndex})
	if err := writeSynced(filepath.Join(d.folder, sink.ID()+unfinished, descriptionSum), sum); err != nil {
		_ = sink.Cancel()
		return nil, fmt.Errorf("writing the checksum of a snapshot's description: %w", err)
	}
	written, err := os.Open(filepath.Join(d.folder, sink.ID()+unfinished, stateFile))
	if err != nil {
		_ = sink.Cancel()
		return nil, fmt.Errorf("writing a snapshot: %w", err)
	}
	return &diskSink{SnapshotSink: sink, store: d, written: written}, nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// diskSink has what a new snapshot replaces removed, once it is there. What is written is synced by and by: all at once at the end
// would hold up the logs, which share the disk.
type diskSink struct {
	raft.SnapshotSink
	store    *diskSnapshots
	written  *os.File // the state, to sync it
	unsynced int
}

func (s *diskSink) Write(p []byte) (int, error) {
	n, err := s.SnapshotSink.Write(p)
	if s.unsynced += n; err == nil && s.unsynced >= snapshotSync {
		s.unsynced = 0
		err = s.written.Sync()
	}
	return n, err
}

func (s *diskSink) Cancel() error {
	s.written.Close()
	return s.SnapshotSink.Cancel()
}

func (s *diskSink) Close() error {
	s.written.Close()
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	return s.store.reap(s.ID())
}

// reap removes all but the newest two, and what is damaged and reaches no further than the one that was just written.
func (d *diskSnapshots) reap(written string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	found, err := findSnapshots(d.folder)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(f foundSnapshot) bool { return f.name == written })
	if i < 0 {
		return nil // cancelled, or closed twice
	}
	newest, kept := found[i], 0
	var gone []string
	for _, f := range found {
		damaged := f.damage != nil || d.unreadable[f.name]
		if !damaged {
			kept++
		}
		if damaged && f.comparePlace(newest) <= 0 || !damaged && kept > retainSnapshots {
			gone = append(gone, f.name)
		}
	}
	slices.Reverse(gone) // the oldest first
	for _, name := range gone {
		if err := d.removeLocked(name); err != nil {
			return err
		}
	}
	return nil
}

func (d *diskSnapshots) discard(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.removeLocked(id)
}

// removeLocked removes a snapshot, if it is there, under the name of an unfinished one: a crash leaves nothing that looks damaged.
func (d *diskSnapshots) removeLocked(id string) error {
	delete(d.unreadable, id)
	path := filepath.Join(d.folder, id)
	if err := os.Rename(path, path+unfinished); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := syncDir(d.folder); err != nil {
		return err
	}
	return removeAll(path + unfinished)
}
