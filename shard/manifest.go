package shard

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
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

// manifest notes every replica that this node ever created, so that none ever speaks without what it
// knew when it last spoke (R14). Each change is durable before the call returns.
//
// The life of replica (shard, r), and what a crash leaves:
//
//	step                                  crash before or within     next start
//	1 begin: note "creating"              not noted, no folder       begin, if still asked for
//	2 begin: clear its part of the        creating, no or old folder begin again: starts over
//	  shared log; clear, make the folder
//	3 open store, mark, bootstrap         creating, part of a store  begin again: starts over
//	4 created: note "created"             creating, whole store      begin again: starts over; it never spoke
//	  the replica speaks                  created, folder            check, open, checkMarker, repair
//	  diverged: note "diverged"           created, folder            as above, until it is found again
//	                                      diverged, folder           as above, but it serves nothing
//	5 destroyed: note "destroyed"         created, folder            as above: still a member
//	6 destroyed: remove its part of the   destroyed, some of both    openManifest and attach remove the rest
//	  shared log, and the folder
//	  done                                destroyed, no folder       check and begin refuse
//
// A replica is made in the log store that the node is set to, and keeps it: its note names it before anything of it exists. So the
// setting may change with each start. The directory's own is always in bbolt.
//
// A replica that keeps the state of a former one (Keep) goes through steps 1 to 4 beside it, and the former one through step 5 after that. Once the
// later one is created the former one never opens again.
//
// A volatile replica has a note and nothing else: steps 1 and 4 are the same, what is between them is made in memory, and
// from step 4 on a next start finds it lost (errVolatile), whatever else it finds.
//
// A note is one atomic replacement of the file: a crash within it leaves the state before it.
//
// Caveat: a data folder that is put back from an older copy, or a store from an older copy of the
// same replica, looks intact. No copy may ever be restored; a node that lost its disk rejoins as new.
type manifest struct {
	dir string
	// log is the shared log, nil where nothing needs one, and kind where new replicas go. Both are set by attach, before use.
	log  *sharedLog
	kind LogStore

	mu    sync.Mutex    // guards notes; held over the write of the file
	notes []replicaNote // sorted by shard and r
	// remains says which folders of destroyed replicas could not be removed at the start. They wait for the next one.
	remains error
	// shown are the notes as last written, for those who must not wait for a disk.
	shown atomic.Pointer[[]replicaNote]
}

type manifestRecord struct {
	Format   int           `json:"format"`
	Replicas []replicaNote `json:"replicas"`
}

// openManifest reads the manifest of the data folder dir, whose lock is held (OpenIdentity), and
// removes what is left of destroyed replicas, as far as it can. A manifest that is missing, damaged or does not know a
// replica whose folder is there is ErrDataLost.
func openManifest(dir string) (*manifest, error) {
	notes, err := loadNotes(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: data folder %s has no %s", ErrRejoin, dir, manifestName)
	} else if err != nil {
		return nil, err
	}
	m := &manifest{dir: dir, notes: notes}
	m.shown.Store(&notes)
	entries, err := os.ReadDir(filepath.Join(dir, replicasDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading data folder: %w", err)
	}
	for _, e := range entries {
		var shard ID
		var r uint64
		path := filepath.Join(dir, replicasDir, e.Name())
		if _, err := fmt.Sscanf(e.Name(), "%d-%d", &shard, &r); err != nil || m.folder(shard, r) != path {
			return nil, fmt.Errorf("%s is no replica's folder", path)
		}
		switch i, noted := m.find(shard, r); {
		case !noted:
			return nil, fmt.Errorf("%w: %s is not in %s", ErrRejoin, path, manifestName)
		case m.notes[i].State == replicaDestroyed:
			m.remains = errors.Join(m.remains, removeDir(path))
		}
	}
	return m, nil
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

// needsLog reports whether a replica may be in the shared log, and whether one must be.
func needsLog(notes []replicaNote) (may, must bool) {
	for _, n := range notes {
		if n.shared() && n.State != replicaDestroyed {
			may = true
			must = must || n.State != replicaCreating
		}
	}
	return may, must
}

// attach gives the manifest the shared log, nil for none, and where new replicas go. What is left of destroyed ones is removed from
// it. A replica in it that is not noted is ErrRejoin.
func (m *manifest) attach(log *sharedLog, kind LogStore) error {
	m.log, m.kind = log, kind
	if log == nil {
		return nil
	}
	found, err := log.replicas()
	if errors.Is(err, ErrDataLost) { // whose it is shows as soon as that replica opens
		return nil
	} else if err != nil {
		return err
	}
	for _, f := range found {
		switch i, noted := m.find(f.Shard, f.R); {
		case !noted:
			return fmt.Errorf("%w: shard %d, replica %d is in the shared log and not in %s", ErrRejoin, f.Shard, f.R, manifestName)
		case m.notes[i].State == replicaDestroyed, !m.notes[i].shared(): // or begun there once, and then elsewhere
			if err := log.remove(f.Shard, f.R); err != nil {
				return err
			}
		}
	}
	return nil
}

// inLog reports whether a replica is in the shared log.
func (m *manifest) inLog(shard ID, r uint64) bool {
	i, noted := m.find(shard, r)
	return noted && m.notes[i].shared()
}

func compareNotes(a, b replicaNote) int {
	return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.R, b.R))
}

// folder is where a replica's data is: store and snapshots.
func (m *manifest) folder(shard ID, r uint64) string { return replicaFolder(m.dir, shard, r) }

func replicaFolder(dir string, shard ID, r uint64) string {
	return filepath.Join(dir, replicasDir, fmt.Sprintf("%d-%d", shard, r))
}

// find returns the place of a replica in notes; with mu.
func (m *manifest) find(shard ID, r uint64) (int, bool) {
	return slices.BinarySearchFunc(m.notes, replicaNote{Shard: shard, R: r}, compareNotes)
}

// note records state durably; with mu.
func (m *manifest) note(shard ID, r uint64, state replicaState) error {
	i, noted := m.find(shard, r)
	n := replicaNote{Shard: shard, R: r, State: state}
	if noted {
		n.Volatile, n.Log = m.notes[i].Volatile, m.notes[i].Log
	}
	return m.record(n)
}

// record writes a note durably in the place of the replica's last; with mu.
func (m *manifest) record(note replicaNote) error {
	notes := slices.Clone(m.notes)
	if i, noted := m.find(note.Shard, note.R); noted {
		notes[i] = note
	} else {
		notes = slices.Insert(notes, i, note)
	}
	if err := saveNotes(m.dir, notes); err != nil {
		return fmt.Errorf("noting shard %d, replica %d as %s: %w", note.Shard, note.R, note.State, err)
	}
	m.notes = notes
	m.shown.Store(&notes)
	return nil
}

// check says what is to be done about a replica that this node is asked to host:
//
//	"" or replicaCreating   nothing that ever spoke: begin
//	replicaCreated          its folder and store are here: open them, then checkMarker
//	replicaDiverged         likewise; it must not serve
//	ErrRetired              it was destroyed, or a later replica of the shard was here: refuse
//	ErrDataLost             it has spoken and its folder or store is gone: refuse
func (m *manifest) check(shard ID, r uint64) (replicaState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, noted := m.find(shard, r)
	if !noted {
		if latest, ok := m.latest(shard); ok && latest.R > r {
			return "", fmt.Errorf("shard %d, replica %d: %w: replica %d followed", shard, r, ErrRetired, latest.R)
		}
		return "", nil
	}
	if latest, _ := m.latest(shard); latest.R > r && latest.State != replicaCreating {
		return "", fmt.Errorf("shard %d, replica %d: %w: replica %d keeps what it had", shard, r, ErrRetired, latest.R)
	}
	switch m.notes[i].State {
	case replicaDestroyed:
		return "", fmt.Errorf("shard %d, replica %d: %w", shard, r, ErrRetired)
	case replicaCreating:
		return replicaCreating, nil
	}
	if bugReturnsWiped.on() && shard != 0 {
		return replicaCreating, m.note(shard, r, replicaCreating)
	}
	if m.notes[i].Volatile {
		return m.notes[i].State, fmt.Errorf("shard %d, replica %d: %w", shard, r, errVolatile)
	}
	return m.notes[i].State, m.intact(shard, r)
}

// retired reports whether a replica never opens here, as it was destroyed, or followed by a later one: check refuses it. It waits for no disk.
func (m *manifest) retired(shard ID, r uint64) bool {
	here := false
	for _, n := range *m.shown.Load() {
		if n.Shard != shard || n.R < r {
			continue
		}
		here = here || n.R == r
		if n.R == r && n.State == replicaDestroyed || n.R > r && !(here && n.State == replicaCreating) { // that one may only keep its state
			return true
		}
	}
	return false
}

// alive names the replicas on node that were begun and not destroyed. It waits for no disk.
func (m *manifest) alive(node string) []ReplicaID {
	var ids []ReplicaID
	for _, n := range *m.shown.Load() {
		if n.State != replicaDestroyed {
			ids = append(ids, ReplicaID{n.Shard, node, n.R})
		}
	}
	return ids
}

// intact reports a created replica whose folder, store or snapshot folder is missing or empty; with mu.
func (m *manifest) intact(shard ID, r uint64) error {
	store := filepath.Join(m.folder(shard, r), storeFile)
	var err error
	if m.inLog(shard, r) {
		store = "shared log"
		var there bool
		if there, err = m.log.has(shard, r); err == nil && !there {
			err = errors.New("it has nothing of it")
		}
	} else {
		var info fs.FileInfo
		if info, err = os.Stat(store); err == nil && info.Size() == 0 {
			err = errors.New("empty")
		}
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(m.folder(shard, r), snapshotFolder))
	}
	if err != nil {
		return fmt.Errorf("%w: shard %d, replica %d: %s: %w", ErrDataLost, shard, r, store, err)
	}
	return nil
}

// latest returns the last note of a shard; with mu.
func (m *manifest) latest(shard ID) (replicaNote, bool) {
	i, _ := m.find(shard+1, 0)
	if i == 0 || m.notes[i-1].Shard != shard {
		return replicaNote{}, false
	}
	return m.notes[i-1], true
}

// begin notes that a replica is being created, clears what an earlier attempt left, and makes its
// folder, which it returns. It refuses a replica that may have spoken, one that a later one of the
// shard has followed, and one whose predecessor on this node was not destroyed; but keep may be there, 0 is none (the r of a founder of the directory, which
// nobody keeps).
func (m *manifest) begin(shard ID, r, keep uint64) (folder string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mayBegin(shard, r, keep); err != nil {
		return "", err
	}
	note := replicaNote{Shard: shard, R: r, State: replicaCreating}
	if m.kind == LogShared && shard != Directory {
		note.Log = LogShared
	}
	if err := m.record(note); err != nil {
		return "", err
	}
	if m.log != nil { // also where an earlier attempt was made with it, and this one is not
		if err := m.log.remove(shard, r); err != nil {
			return "", fmt.Errorf("starting shard %d, replica %d over: %w", shard, r, err)
		}
	}
	folder = m.folder(shard, r)
	if err := removeAll(folder); err != nil {
		return "", fmt.Errorf("starting shard %d, replica %d over: %w", shard, r, err)
	}
	if err := makeDir(filepath.Join(folder, snapshotFolder)); err != nil {
		return "", fmt.Errorf("making the folder of shard %d, replica %d: %w", shard, r, err)
	}
	return folder, nil
}

// mayBegin refuses what begin refuses; with mu.
func (m *manifest) mayBegin(shard ID, r, keep uint64) error {
	if i, noted := m.find(shard, r); noted && m.notes[i].State != replicaCreating {
		return fmt.Errorf("shard %d, replica %d: %w", shard, r, ErrRetired)
	}
	for _, n := range m.notes {
		if n.Shard != shard || n.R == r {
			continue
		}
		if n.R > r {
			return fmt.Errorf("shard %d, replica %d: %w: replica %d followed", shard, r, ErrRetired, n.R)
		}
		if n.State != replicaDestroyed && (keep == 0 || n.R != keep) {
			return fmt.Errorf("shard %d, replica %d: replica %d must be destroyed first", shard, r, n.R)
		}
	}
	return nil
}

// beginVolatile is begin for a replica that has no folder.
func (m *manifest) beginVolatile(shard ID, r, keep uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mayBegin(shard, r, keep); err != nil {
		return err
	}
	return m.record(replicaNote{Shard: shard, R: r, State: replicaCreating, Volatile: true})
}

// created notes that the replica's marker and bootstrap are durable. The replica may speak once it
// has returned nil. Repeating it is allowed.
func (m *manifest) created(shard ID, r uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, noted := m.find(shard, r)
	switch {
	case !noted:
		return fmt.Errorf("shard %d, replica %d was not begun", shard, r)
	case m.notes[i].State == replicaDestroyed:
		return fmt.Errorf("shard %d, replica %d: %w", shard, r, ErrRetired)
	case m.notes[i].State == replicaCreated, m.notes[i].State == replicaDiverged:
		return nil
	}
	if !m.notes[i].Volatile {
		if err := m.intact(shard, r); err != nil {
			return err
		}
	}
	return m.note(shard, r, replicaCreated)
}

// destroyed notes that the replica never speaks again, and removes its data; its store is closed. A
// replica that was never here, or whose data is lost, can be destroyed too. Repeating it is allowed.
func (m *manifest) destroyed(shard ID, r uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, noted := m.find(shard, r); !noted || m.notes[i].State != replicaDestroyed {
		if err := m.note(shard, r, replicaDestroyed); err != nil {
			return err
		}
	}
	if m.log != nil && m.inLog(shard, r) {
		if err := m.log.remove(shard, r); err != nil {
			return fmt.Errorf("removing shard %d, replica %d: %w", shard, r, err)
		}
	}
	if err := removeDir(m.folder(shard, r)); err != nil {
		return fmt.Errorf("removing shard %d, replica %d: %w", shard, r, err)
	}
	return nil
}

// diverged notes that a created replica has stopped for good, and why. Repeating it is allowed.
func (m *manifest) diverged(shard ID, r uint64, why *Verdict) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, noted := m.find(shard, r)
	if !noted || m.notes[i].State != replicaCreated {
		return nil // destroyed meanwhile, or noted already
	}
	n := m.notes[i]
	n.State, n.Verdict = replicaDiverged, why
	return m.record(n)
}

// verdict returns why a replica is diverged, nil if it is not.
func (m *manifest) verdict(shard ID, r uint64) *Verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, noted := m.find(shard, r)
	if !noted || m.notes[i].State != replicaDiverged {
		return nil
	}
	if v := m.notes[i].Verdict; v != nil {
		return v
	}
	return &Verdict{Outcome: OutcomeSplit} // it is not said why: an operator's business
}

// removeDir removes a folder, durably when it was there.
func removeDir(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := removeAll(dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// keyReplica is where a store says whose it is, so that an empty or foreign store under the right
// name is found out.
const keyReplica = "larder/replica"

// mark writes into a new store whose it is, before its bootstrap.
func mark(s replicaStore, id ReplicaID) error {
	if err := s.Set([]byte(keyReplica), []byte(id.String())); err != nil {
		return fmt.Errorf("marking the store of replica %s: %w", id, err)
	}
	return nil
}

// checkMarker fails with ErrDataLost when the store of a created replica is not its own.
func checkMarker(s interface{ Get([]byte) ([]byte, error) }, id ReplicaID) error {
	found, ok, err := getKey(s, keyReplica)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%w: shard %d, replica %d: the store is empty", ErrDataLost, id.Shard, id.R)
	case string(found) != id.String():
		return fmt.Errorf("%w: shard %d, replica %d: the store is that of %s", ErrDataLost, id.Shard, id.R, found)
	}
	return nil
}
