package shard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

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
// A note is one atomic replacement of the file: a crash within it leaves the state before it. Changes that wait at the same time are written
// together (change): each replica is then at one of its own steps, before or after, whatever the others are at. Nothing of a replica is done
// ahead of its own note, so it is the same to it who else's went along. The folders are made durable before step 4, that of all of them once for all
// that are noted together: where that fails, none is created any more until the next start (syncFolders). TestManifestTogether and TestManifestFoldersNotSynced show it.
//
// Those who call about the same replica do so one after the other (Host.opening), but for diverged and who only asks.
//
// Caveat: a data folder that is put back from an older copy, or a store from an older copy of the
// same replica, looks intact. No copy may ever be restored; a node that lost its disk rejoins as new.
type manifest struct {
	dir string
	// log is the shared log, nil where nothing needs one, and kind where new replicas go. Both are set by attach, before use.
	log  *sharedLog
	kind LogStore

	saving   sync.Mutex // held over the write of the file, taken before mu
	unsynced error      // why the folders' names may not be durable; guarded by saving

	mu      sync.Mutex    // guards notes and waiting
	notes   []replicaNote // as the file has them, sorted by shard and r
	waiting []*noteChange // changes that nobody writes yet
	// remains says which folders of destroyed replicas could not be removed at the start. They wait for the next one.
	remains error
	// shown are the notes as last written, for those who must not wait for a disk.
	shown atomic.Pointer[[]replicaNote]
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
			m.remains = errors.Join(m.remains, m.removeFolder(path))
		}
	}
	return m, nil
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
	m.mu.Lock()
	defer m.mu.Unlock()
	i, noted := m.find(shard, r)
	return noted && m.notes[i].shared()
}

// folder is where a replica's data is: store and snapshots.
func (m *manifest) folder(shard ID, r uint64) string { return replicaFolder(m.dir, shard, r) }

func replicaFolder(dir string, shard ID, r uint64) string {
	return filepath.Join(dir, replicasDir, fmt.Sprintf("%d-%d", shard, r))
}

// find returns the place of a replica in notes; with mu.
func (m *manifest) find(shard ID, r uint64) (int, bool) { return findNote(m.notes, shard, r) }

// check says what is to be done about a replica that this node is asked to host:
//
//	"" or replicaCreating   nothing that ever spoke: begin
//	replicaCreated          its folder and store are here: open them, then checkMarker
//	replicaDiverged         likewise; it must not serve
//	ErrRetired              it was destroyed, or a later replica of the shard was here: refuse
//	ErrDataLost             it has spoken and its folder or store is gone: refuse
func (m *manifest) check(shard ID, r uint64) (replicaState, error) {
	note, err := m.last(shard, r)
	switch {
	case err != nil || note.State == "" || note.State == replicaCreating:
		return note.State, err
	case bugReturnsWiped.on() && shard != 0:
		return replicaCreating, m.note(shard, r, replicaCreating)
	case note.Volatile:
		return note.State, fmt.Errorf("shard %d, replica %d: %w", shard, r, errVolatile)
	}
	return note.State, m.intact(shard, r)
}

// last returns the note of a replica, the zero one where there is none, unless it was destroyed or a later one was here.
func (m *manifest) last(shard ID, r uint64) (replicaNote, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, noted := m.find(shard, r)
	latest, _ := m.latest(shard)
	switch {
	case !noted && latest.R > r:
		return replicaNote{}, fmt.Errorf("shard %d, replica %d: %w: replica %d followed", shard, r, ErrRetired, latest.R)
	case !noted:
		return replicaNote{}, nil
	case latest.R > r && latest.State != replicaCreating:
		return replicaNote{}, fmt.Errorf("shard %d, replica %d: %w: replica %d keeps what it had", shard, r, ErrRetired, latest.R)
	case m.notes[i].State == replicaDestroyed:
		return replicaNote{}, fmt.Errorf("shard %d, replica %d: %w", shard, r, ErrRetired)
	}
	return m.notes[i], nil
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

// intact reports a created replica whose folder, store or snapshot folder is missing or empty.
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
// folder, which it returns; created makes the folder's name durable. It refuses a replica that may have spoken, one that a later one of the
// shard has followed, and one whose predecessor on this node was not destroyed; but keep may be there, 0 is none (the r of a founder of the directory, which
// nobody keeps).
func (m *manifest) begin(shard ID, r, keep uint64) (folder string, err error) {
	note := replicaNote{Shard: shard, R: r, State: replicaCreating}
	if m.kind == LogShared && shard != Directory {
		note.Log = LogShared
	}
	if err := m.noteBegun(note, keep); err != nil {
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
	if err := os.MkdirAll(filepath.Join(folder, snapshotFolder), 0o700); err != nil {
		return "", fmt.Errorf("making the folder of shard %d, replica %d: %w", shard, r, err)
	}
	return folder, nil
}

// noteBegun notes a replica as being created, unless begin is to refuse it.
func (m *manifest) noteBegun(note replicaNote, keep uint64) error {
	return m.change(func(notes []replicaNote) (replicaNote, bool, error) {
		return note, true, mayBegin(notes, note.Shard, note.R, keep)
	})
}

// mayBegin refuses what begin refuses.
func mayBegin(notes []replicaNote, shard ID, r, keep uint64) error {
	if i, noted := findNote(notes, shard, r); noted && notes[i].State != replicaCreating {
		return fmt.Errorf("shard %d, replica %d: %w", shard, r, ErrRetired)
	}
	from, _ := findNote(notes, shard, 0)
	for _, n := range notes[from:] {
		if n.Shard != shard {
			break
		}
		switch {
		case n.R == r:
		case n.R > r:
			return fmt.Errorf("shard %d, replica %d: %w: replica %d followed", shard, r, ErrRetired, n.R)
		case n.State != replicaDestroyed && (keep == 0 || n.R != keep):
			return fmt.Errorf("shard %d, replica %d: replica %d must be destroyed first", shard, r, n.R)
		}
	}
	return nil
}

// beginVolatile is begin for a replica that has no folder.
func (m *manifest) beginVolatile(shard ID, r, keep uint64) error {
	return m.noteBegun(replicaNote{Shard: shard, R: r, State: replicaCreating, Volatile: true}, keep)
}

// created notes that the replica's marker and bootstrap are durable. The replica may speak once it
// has returned nil. Repeating it is allowed.
func (m *manifest) created(shard ID, r uint64) error {
	m.mu.Lock()
	i, begun := m.find(shard, r)
	var note replicaNote
	if begun {
		note = m.notes[i]
	}
	m.mu.Unlock()
	switch {
	case !begun:
		return fmt.Errorf("shard %d, replica %d was not begun", shard, r)
	case note.State == replicaDestroyed:
		return fmt.Errorf("shard %d, replica %d: %w", shard, r, ErrRetired)
	case note.State == replicaCreated, note.State == replicaDiverged:
		return nil
	}
	if !note.Volatile {
		if err := m.intact(shard, r); err != nil {
			return err
		}
		if err := syncDir(m.folder(shard, r)); err != nil { // save makes that folder's own name durable
			return err
		}
	}
	return m.note(shard, r, replicaCreated)
}

// destroyed notes that the replica never speaks again, and removes its data; its store is closed. A
// replica that was never here, or whose data is lost, can be destroyed too. Repeating it is allowed.
func (m *manifest) destroyed(shard ID, r uint64) error {
	m.mu.Lock()
	i, noted := m.find(shard, r)
	noted = noted && m.notes[i].State == replicaDestroyed
	m.mu.Unlock()
	if !noted {
		if err := m.note(shard, r, replicaDestroyed); err != nil {
			return err
		}
	}
	if m.log != nil && m.inLog(shard, r) {
		if err := m.log.remove(shard, r); err != nil {
			return fmt.Errorf("removing shard %d, replica %d: %w", shard, r, err)
		}
	}
	if err := m.removeFolder(m.folder(shard, r)); err != nil {
		return fmt.Errorf("removing shard %d, replica %d: %w", shard, r, err)
	}
	return nil
}

// diverged notes that a created replica has stopped for good, and why. Repeating it is allowed.
func (m *manifest) diverged(shard ID, r uint64, why *Verdict) error {
	return m.change(func(notes []replicaNote) (replicaNote, bool, error) {
		i, noted := findNote(notes, shard, r)
		if !noted || notes[i].State != replicaCreated {
			return replicaNote{}, false, nil // destroyed meanwhile, or noted already
		}
		n := notes[i]
		n.State, n.Verdict = replicaDiverged, why
		return n, true, nil
	})
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

// removeFolder removes a replica's folder, durably when it was there.
func (m *manifest) removeFolder(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := removeAll(dir); err != nil {
		return err
	}
	m.saving.Lock()
	defer m.saving.Unlock()
	return m.syncFolders()
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
