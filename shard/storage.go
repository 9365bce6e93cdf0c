package shard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// storage is a node's data folder, on disk or in memory: who the node is and what its replicas know.
type storage interface {
	Identity() Identity
	Form(cluster string, initial []Founder) error
	// open opens a replica's stores. Those of a replica that never spoke are made first: bootstrap
	// fills them, and all of it is durable before open returns; then keep, a former replica of the shard, may be there still, 0 is none. A volatile one keeps its stores in memory: all that is durable is
	// that it was created, so it is lost (errVolatile) once the process has ended.
	open(id ReplicaID, volatile bool, keep uint64, log hclog.Logger, fatal func(error), bootstrap func(replicaStore, raft.SnapshotStore) error) (replicaStore, snapshotStore, error)
	// replicas names those that were created here, or begun, and not destroyed.
	replicas() []ReplicaID
	// retired reports whether a replica was here and was destroyed, or followed by another: it never speaks again.
	retired(id ReplicaID) bool
	// destroy notes durably that a replica never speaks again, and removes its data. Its stores are
	// closed. It is idempotent, and allowed for a replica that was never here.
	destroy(id ReplicaID) error
	// diverged notes durably that a replica has stopped for good, and why.
	diverged(id ReplicaID, v *Verdict) error
	// verdict returns what diverged noted, nil for nothing.
	verdict(id ReplicaID) *Verdict
	// spoolDir is where a snapshot that comes in for the replica is gathered; "" = in memory.
	spoolDir(id ReplicaID) string
	Close() error
}

// disk is the storage of production.
type disk struct {
	*IdentityFile
	manifest *manifest
	log      *sharedLog // nil where there is none
	// boltWrites counts what replicas made durable in files of their own.
	boltWrites atomic.Uint64
}

// openDisk opens the data folder dir. New replicas keep their logs in kind. fatal hears of failures that no write returns.
func openDisk(dir, node string, kind LogStore, log *slog.Logger, fatal func(error)) (*disk, error) {
	f, err := OpenIdentity(dir, node)
	if err != nil {
		return nil, err
	}
	m, err := openManifest(dir)
	if err != nil {
		f.Close()
		return nil, err
	}
	if m.remains != nil {
		log.Warn("what is left of destroyed replicas can't be removed", "err", m.remains)
	}
	d := &disk{IdentityFile: f, manifest: m}
	if may, must := needsLog(m.notes); may || kind == LogShared {
		logDir := filepath.Join(dir, sharedDir)
		d.log, err = openSharedLog(newFilledLogs(vfs.Default, logDir), logDir, must, false, log, fatal)
	}
	if err == nil {
		err = m.attach(d.log, kind)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close lets go of the data folder, after all stores in it. It is idempotent.
func (d *disk) Close() error {
	var err error
	if d.log != nil {
		err = d.log.Close()
	}
	return errors.Join(err, d.IdentityFile.Close())
}

// openStore opens the store of a replica that was begun.
func (d *disk) openStore(id ReplicaID, folder string, fatal func(error)) (replicaStore, error) {
	if d.manifest.inLog(id.Shard, id.R) {
		s, err := d.log.openStore(id, fatal)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := openDiskStore(folder, fatal)
	if err != nil {
		return nil, err
	}
	s.engine = counted{s.engine, &d.boltWrites}
	return s, nil
}

func (d *disk) replicas() []ReplicaID { return d.manifest.alive(d.Identity().Node) }

func (d *disk) retired(id ReplicaID) bool { return d.manifest.retired(id.Shard, id.R) }

func (d *disk) destroy(id ReplicaID) error { return d.manifest.destroyed(id.Shard, id.R) }

func (d *disk) diverged(id ReplicaID, v *Verdict) error {
	return d.manifest.diverged(id.Shard, id.R, v)
}

func (d *disk) verdict(id ReplicaID) *Verdict { return d.manifest.verdict(id.Shard, id.R) }

func (d *disk) spoolDir(id ReplicaID) string { return d.manifest.folder(id.Shard, id.R) }

// open follows the table of manifest: the replica speaks only after created returned.
func (d *disk) open(id ReplicaID, volatile bool, keep uint64, log hclog.Logger, fatal func(error), bootstrap func(replicaStore, raft.SnapshotStore) error) (replicaStore, snapshotStore, error) {
	state, err := d.manifest.check(id.Shard, id.R)
	if err != nil {
		return nil, nil, err
	}
	if volatile {
		return d.openVolatile(id, keep, bootstrap)
	}
	folder := d.manifest.folder(id.Shard, id.R)
	if state != replicaCreated && state != replicaDiverged {
		if folder, err = d.manifest.begin(id.Shard, id.R, keep); err != nil {
			return nil, nil, err
		}
	}
	store, err := d.openStore(id, folder, fatal)
	if err != nil {
		return nil, nil, err
	}
	snaps, err := openSnapshots(folder, log)
	switch {
	case err != nil:
	case state == replicaCreated, state == replicaDiverged:
		err = checkMarker(store, id)
	default:
		if err = mark(store, id); err == nil {
			err = bootstrap(store, snaps)
		}
		if err == nil {
			err = store.await(context.Background(), math.MaxUint64)
		}
		if err == nil {
			err = d.manifest.created(id.Shard, id.R)
		}
	}
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	return store, snaps, nil
}

// openVolatile makes the stores of a replica that never spoke, in memory.
func (d *disk) openVolatile(id ReplicaID, keep uint64, bootstrap func(replicaStore, raft.SnapshotStore) error) (replicaStore, snapshotStore, error) {
	if err := d.manifest.beginVolatile(id.Shard, id.R, keep); err != nil {
		return nil, nil, err
	}
	store, snaps := newMemoryStore(), newVolatileSnapshots()
	if err := bootstrap(store, snaps); err != nil {
		return nil, nil, err
	}
	return store, snaps, d.manifest.created(id.Shard, id.R)
}

// Memory is a data folder in memory. It outlives the Host that uses it, as a disk outlives a
// process.
type Memory struct {
	mu       sync.Mutex // guards following
	identity Identity
	stores   map[ReplicaID]memoryReplica
	gone     map[ReplicaID]bool // destroyed
	volatile map[ReplicaID]bool // true: of an earlier Host, and lost with it
	verdicts map[ReplicaID]*Verdict
	spools   string // a folder for what comes in of snapshots, as on a disk; "" = in memory
	syncs    func() time.Duration
	inUse    bool
}

type memoryReplica struct {
	store *memoryStore
	snaps *memorySnapshots
}

// NewMemory returns an empty data folder: the node gets a new incarnation.
func NewMemory(node string) *Memory {
	raw := make([]byte, 16)
	rand.Read(raw) // never fails (crypto/rand)
	return &Memory{identity: Identity{Node: node, Incarnation: hex.EncodeToString(raw)},
		stores: map[ReplicaID]memoryReplica{}, gone: map[ReplicaID]bool{}, volatile: map[ReplicaID]bool{}, verdicts: map[ReplicaID]*Verdict{}}
}

// Crash returns what a restart finds when the process is killed now. The Host that uses m may then
// be closed at leisure, to no effect on it. What it answers until then, nobody would hear.
func (m *Memory) Crash() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := &Memory{identity: m.identity, stores: map[ReplicaID]memoryReplica{}, gone: maps.Clone(m.gone), volatile: maps.Clone(m.volatile), verdicts: maps.Clone(m.verdicts), spools: m.spools, syncs: m.syncs}
	for id, r := range m.stores {
		if r.store != nil {
			r = memoryReplica{r.store.crashed(), r.snaps.crashed()}
		}
		left.stores[id] = r
	}
	return left
}

// Damage flips a bit of the newest value in the log of a shard's replica, as a disk that lies would, and
// reports whether there was one. No Host may use m meanwhile. For tests.
func (m *Memory) Damage(id ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for replica, r := range m.stores {
		if replica.Shard == id && r.store != nil {
			return r.store.memory.damage()
		}
	}
	return false
}

// SyncIn has the sync of each append take as long as lag says, in replicas that are opened from now on; a Crash before its end loses
// the append. lag must not block. For tests.
func (m *Memory) SyncIn(lag func() time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs = lag
}

func (m *Memory) claim(node string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.identity.Node != node:
		return fmt.Errorf("data belongs to node %q, not %q", m.identity.Node, node)
	case m.inUse:
		return errors.New("data is in use")
	}
	m.inUse = true
	for id := range m.volatile {
		m.volatile[id] = true
		m.stores[id] = memoryReplica{} // what is left is that it was here
	}
	return nil
}

// Identity implements storage.
func (m *Memory) Identity() Identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.identity
}

// Form implements storage.
func (m *Memory) Form(cluster string, initial []Founder) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.identity.Cluster != "" && m.identity.Cluster != cluster {
		return fmt.Errorf("%w: in cluster %s already", ErrWrongCluster, m.identity.Cluster)
	}
	m.identity.Cluster, m.identity.Initial = cluster, slices.Clone(initial)
	return nil
}

func (m *Memory) open(id ReplicaID, volatile bool, keep uint64, _ hclog.Logger, _ func(error), bootstrap func(replicaStore, raft.SnapshotStore) error) (replicaStore, snapshotStore, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone[id] {
		return nil, nil, fmt.Errorf("replica %s: %w", id, ErrRetired)
	}
	for other := range m.gone {
		if other.Shard == id.Shard && other.R > id.R {
			return nil, nil, fmt.Errorf("replica %s: %w: replica %d followed", id, ErrRetired, other.R)
		}
	}
	for other := range m.stores {
		if other.Shard == id.Shard && other.R > id.R {
			return nil, nil, fmt.Errorf("replica %s: %w: replica %d followed", id, ErrRetired, other.R)
		}
		if other.Shard == id.Shard && other.R < id.R && (keep == 0 || other.R != keep) {
			return nil, nil, fmt.Errorf("replica %s: replica %d must be destroyed first", id, other.R)
		}
	}
	if m.volatile[id] && !bugReturnsWiped.on() {
		return nil, nil, fmt.Errorf("shard %d, replica %d: %w", id.Shard, id.R, errVolatile)
	}
	r, ok := m.stores[id]
	if ok && !bugReturnsWiped.on() { // what an earlier Host closed is opened again
		r.store = r.store.crashed()
		r.store.memory.lag = m.syncs
	} else {
		r = memoryReplica{newMemoryStore(), newMemorySnapshots()}
		r.store.memory.lag = m.syncs
		if err := bootstrap(r.store, r.snaps); err != nil {
			return nil, nil, err
		}
	}
	m.stores[id] = r
	if volatile {
		m.volatile[id] = false
	}
	return r.store, r.snaps, nil
}

func (m *Memory) replicas() []ReplicaID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.stores), compareReplicas)
}

func (m *Memory) retired(id ReplicaID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for other := range m.stores {
		if other.Shard == id.Shard && other.R > id.R {
			return true
		}
	}
	for other := range m.gone {
		if other.Shard == id.Shard && other.R > id.R {
			return true
		}
	}
	return m.gone[id]
}

func (m *Memory) destroy(id ReplicaID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone[id] = true
	delete(m.stores, id)
	delete(m.volatile, id)
	delete(m.verdicts, id)
	return nil
}

func (m *Memory) diverged(id ReplicaID, v *Verdict) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.gone[id] {
		m.verdicts[id] = v
	}
	return nil
}

func (m *Memory) verdict(id ReplicaID) *Verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.verdicts[id]
}

func (m *Memory) spoolDir(ReplicaID) string { return m.spools }

// Close implements storage.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inUse = false
	return nil
}
