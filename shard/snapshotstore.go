package shard

import (
	"bytes"
	"cmp"
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
	// unfinished ends the name of a snapshot that is being written.
	unfinished = ".tmp"
)

// openSnapshots opens the snapshots in dir, the replica's folder, and clears away what a crash left:
// snapshots that were never finished and those that were half removed. When a snapshot newer than
// all readable ones can't be read, or one's description is not what its name says, the error wraps ErrDataLost.
func openSnapshots(dir string, logger hclog.Logger) (raft.SnapshotStore, error) {
	folder := filepath.Join(dir, snapshotFolder)
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening snapshots: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() })
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), unfinished) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
			return nil, fmt.Errorf("removing an unfinished snapshot: %w", err)
		}
	}
	all, err := listSnapshots(dir, logger)
	if err != nil {
		return nil, err
	}
	for i, m := range all {
		if err := checkDescription(folder, m); err != nil {
			return nil, err
		}
		same := func(o *raft.SnapshotMeta) bool { return o.ID == m.ID }
		if slices.ContainsFunc(all[:i], same) || !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == m.ID }) {
			return nil, fmt.Errorf("%w: one of the snapshots in %s calls itself %s and is another", ErrDataLost, folder, m.ID)
		}
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, unfinished) || slices.ContainsFunc(all, func(m *raft.SnapshotMeta) bool { return m.ID == name }) {
			continue
		}
		term, index, err := parseSnapshotName(name)
		if err != nil {
			return nil, err
		}
		// Snapshots are removed oldest first and not at once: what is older than a readable one is
		// the rest of that.
		if len(all) == 0 || cmp.Or(cmp.Compare(term, all[0].Term), cmp.Compare(index, all[0].Index)) > 0 {
			_, why := os.ReadFile(filepath.Join(folder, name, "meta.json")) // the library does not say
			if why == nil {
				why = errors.New("its description says nothing")
			}
			return nil, fmt.Errorf("%w: snapshot %s can't be read: %w", ErrDataLost, filepath.Join(folder, name), why)
		}
		if err := os.RemoveAll(filepath.Join(folder, name)); err != nil {
			return nil, fmt.Errorf("removing an old snapshot: %w", err)
		}
	}
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, retainSnapshots, logger)
	if err != nil {
		return nil, err
	}
	return diskSnapshots{store, folder}, nil
}

// diskSnapshots shows no snapshot whose description is damaged: its List and Open then fail with an error that wraps
// ErrDataLost.
type diskSnapshots struct {
	raft.SnapshotStore // a raft.FileSnapshotStore, which checks what snapshots hold, and believes what describes them
	folder             string
}

// descriptionSum is a file in a snapshot's folder with the checksum of its description. Snapshots of earlier versions have none.
const descriptionSum = "description.sum"

// Create returns a sink for a new snapshot, beside which its checksum is on the disk already.
func (d diskSnapshots) Create(version raft.SnapshotVersion, index, term uint64,
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
	return sink, nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func (d diskSnapshots) List() ([]*raft.SnapshotMeta, error) {
	all, err := d.SnapshotStore.List()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if err := checkDescription(d.folder, m); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (d diskSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, r, err := d.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	if err := checkDescription(d.folder, m); err != nil {
		_ = r.Close()
		return nil, nil, err
	}
	return m, r, nil
}

// listSnapshots returns all finished snapshots in dir whose description can be read, newest first.
func listSnapshots(dir string, logger hclog.Logger) ([]*raft.SnapshotMeta, error) {
	const all = 1 << 30
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, all, logger)
	if err != nil {
		return nil, fmt.Errorf("opening snapshots: %w", err)
	}
	metas, err := store.List()
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	return metas, nil
}

// parseSnapshotName takes the name of a snapshot's folder apart: term-index-milliseconds.
func parseSnapshotName(name string) (term, index uint64, err error) {
	var millis int64
	if _, err := fmt.Sscanf(name, "%d-%d-%d", &term, &index, &millis); err != nil {
		return 0, 0, fmt.Errorf("folder %s is no snapshot: %w", name, err)
	}
	return term, index, nil
}

// checkDescription holds a snapshot's description against its checksum and the name of its folder: from a wrong index or term a
// replica would skip entries, or claim to have some that it does not. The error wraps ErrDataLost.
func checkDescription(folder string, m *raft.SnapshotMeta) error {
	term, index, err := parseSnapshotName(m.ID)
	if err != nil || term != m.Term || index != m.Index {
		return fmt.Errorf("%w: the description of snapshot %s is damaged: index %d of term %d", ErrDataLost, m.ID, m.Index, m.Term)
	}
	switch sum, err := os.ReadFile(filepath.Join(folder, m.ID, descriptionSum)); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("reading the checksum of a snapshot's description: %w", err)
	case !bytes.Equal(sum, sumDescription(m)):
		return fmt.Errorf("%w: the description of snapshot %s is damaged", ErrDataLost, m.ID)
	}
	return nil
}

// sumDescription is the CRC-32C of what Raft goes by in a description. What the snapshot holds has a checksum of its own there.
func sumDescription(m *raft.SnapshotMeta) []byte {
	text := fmt.Appendf(nil, "%d %d %d", m.Index, m.Term, m.ConfigurationIndex)
	for _, s := range m.Configuration.Servers {
		text = fmt.Appendf(text, " %d %q %q", s.Suffrage, s.ID, s.Address)
	}
	return fmt.Appendf(nil, "%08x", crc32.Checksum(text, castagnoli))
}

// memorySnapshots is a raft.SnapshotStore in memory: the counterpart of memoryStore. A snapshot
// exists from the Close of its sink on, whole; raft.InmemSnapshotStore shows it from Create on and
// keeps it even when it is cancelled.
type memorySnapshots struct {
	mu     sync.Mutex // guards what follows
	number uint64     // of the last sink
	kept   []memorySnapshot
}

// memorySnapshot never changes.
type memorySnapshot struct {
	meta raft.SnapshotMeta
	data []byte
	sum  uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newMemorySnapshots() *memorySnapshots { return &memorySnapshots{} }

// crashed returns what a restart finds when the process is killed now.
func (m *memorySnapshots) crashed() *memorySnapshots {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memorySnapshots{number: m.number, kept: slices.Clone(m.kept)}
}

// Create returns a sink for a new snapshot.
func (m *memorySnapshots) Create(version raft.SnapshotVersion, index, term uint64,
	configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("unsupported snapshot version %d", version)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number++
	return &memorySink{store: m, meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 fmt.Sprintf("%d-%d-%d", term, index, m.number),
		Index:              index,
		Term:               term,
		Configuration:      configuration.Clone(),
		ConfigurationIndex: configurationIndex,
	}}, nil
}

// List returns the finished snapshots, newest first.
func (m *memorySnapshots) List() ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var metas []*raft.SnapshotMeta
	for _, s := range m.kept {
		metas = append(metas, &s.meta)
	}
	return metas, nil
}

// Open verifies a snapshot and returns its content.
func (m *memorySnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.kept, func(s memorySnapshot) bool { return s.meta.ID == id })
	if i < 0 {
		return nil, nil, fmt.Errorf("no snapshot %s", id)
	}
	s := m.kept[i]
	if crc32.Checksum(s.data, castagnoli) != s.sum {
		return nil, nil, fmt.Errorf("snapshot %s: checksum mismatch", id)
	}
	return &s.meta, io.NopCloser(bytes.NewReader(s.data)), nil
}

// publish adds a finished snapshot in the order of raft.FileSnapshotStore: by term, index and age.
func (m *memorySnapshots) publish(s memorySnapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = slices.Insert(m.kept, 0, s)
	slices.SortStableFunc(m.kept, func(a, b memorySnapshot) int {
		return cmp.Or(cmp.Compare(b.meta.Term, a.meta.Term), cmp.Compare(b.meta.Index, a.meta.Index))
	})
	m.kept = m.kept[:min(len(m.kept), retainSnapshots)]
}

// memorySink collects one snapshot; one goroutine owns it.
type memorySink struct {
	store *memorySnapshots
	meta  raft.SnapshotMeta
	data  bytes.Buffer
	done  bool
}

func (s *memorySink) ID() string { return s.meta.ID }

func (s *memorySink) Write(p []byte) (int, error) {
	if s.done {
		return 0, os.ErrClosed
	}
	return s.data.Write(p)
}

// Close publishes the snapshot.
func (s *memorySink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.meta.Size = int64(s.data.Len())
	s.store.publish(memorySnapshot{s.meta, s.data.Bytes(), crc32.Checksum(s.data.Bytes(), castagnoli)})
	return nil
}

// Cancel drops the snapshot.
func (s *memorySink) Cancel() error {
	s.done = true
	return nil
}
