package shard

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// The data folder of a node:
//
//	LOCK                       held (flock) by the process that uses the folder
//	identity.json              who the node is: Identity
//	table                      a copy of the directory's table, written by package directory
//	replicas.json              every replica that it ever created: manifest
//	replicas/<shard>-<r>/      one replica
//	    raft.db                log, term, vote and the replica's server id, unless these are in log/
//	    snapshots/             raft.FileSnapshotStore
//	log/                       the shared log, where any replica is in it: sharedLog
//
// identity.json is written once replicas.json is there, so the one without the other is damage, not
// a first start.
const (
	lockFile     = "LOCK"
	identityFile = "identity.json"
	manifestName = "replicas.json"
	replicasDir  = "replicas"
	folderFormat = 2 // of both JSON files and of the stores; any other is refused
	sharedFormat = 3 // of replicas.json, where it names replicas in the shared log
)

// Identity is what a data folder knows about its node (R14).
type Identity struct {
	// Node is the id that the operator gave.
	Node string `json:"node"`
	// Incarnation is 128 random bits in hex, drawn when the folder was first used. A node that comes
	// back with another one has lost its data.
	Incarnation string `json:"incarnation"`
	// Cluster is the id of the cluster in hex (ClusterID), "" until it is formed.
	Cluster string `json:"cluster,omitempty"`
	// Initial are the nodes that formed the cluster, as far as this node was told.
	Initial []Founder `json:"initial,omitempty"`
}

// Founder is a node that takes part in forming a cluster.
type Founder struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
}

// ClusterID is the id of the cluster that the founders form, whatever their order: the first 16
// bytes, in hex, of the SHA-256 over their sorted list. Founders are sorted by node; each is written
// as length (decimal), colon and bytes of node, then of incarnation, so that no two lists collide.
func ClusterID(initial []Founder) string {
	sorted := slices.Clone(initial)
	slices.SortFunc(sorted, compareFounders)
	h := sha256.New()
	for _, f := range sorted {
		fmt.Fprintf(h, "%d:%s%d:%s", len(f.Node), f.Node, len(f.Incarnation), f.Incarnation)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func compareFounders(a, b Founder) int {
	if c := strings.Compare(a.Node, b.Node); c != 0 {
		return c
	}
	return strings.Compare(a.Incarnation, b.Incarnation)
}

// IdentityFile is the identity of a data folder that this process holds the lock of.
type IdentityFile struct {
	dir  string
	lock *os.File

	mu       sync.Mutex // guards identity and closed
	identity Identity
	closed   bool
}

type identityRecord struct {
	Format int `json:"format"`
	Identity
}

// OpenIdentity takes the lock of the data folder dir and reads who the node is. On the first start it
// makes the folder and an incarnation, both durable before it returns.
//
// It fails when another process uses the folder, when the folder belongs to another node, and, with
// ErrDataLost, when a part of it is missing or damaged.
func OpenIdentity(dir, node string) (*IdentityFile, error) {
	if node == "" || strings.ContainsAny(node, "/ \t\r\n") {
		return nil, fmt.Errorf("node id %q: must not be empty nor contain a slash or space", node)
	}
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("making data folder %s: %w", dir, err)
	}
	lock, err := lockDataFolder(dir)
	if err != nil {
		return nil, err
	}
	identity, err := loadIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		identity, err = firstStart(dir, node)
	}
	if err == nil && identity.Node != node {
		err = fmt.Errorf("data folder %s belongs to node %s, not to %s", dir, identity.Node, node)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &IdentityFile{dir: dir, lock: lock, identity: identity}, nil
}

// lockDataFolder keeps other processes, and other handles of this one, out of dir until the file is
// closed. The kernel does that when the process dies.
func lockDataFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data folder %s is in use by another process", dir)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// loadIdentity reads and checks identity.json. A folder that was never used is fs.ErrNotExist.
func loadIdentity(dir string) (Identity, error) {
	path := filepath.Join(dir, identityFile)
	var record identityRecord
	if err := readJSON(path, &record); errors.Is(err, fs.ErrNotExist) || passing(err) {
		return Identity{}, err
	} else if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrRejoin, err)
	}
	if record.Format != folderFormat {
		return Identity{}, fmt.Errorf("%s has format %d, this version reads format %d", path, record.Format, folderFormat)
	}
	id := record.Identity
	if raw, err := hex.DecodeString(id.Incarnation); err != nil || len(raw) != 16 || id.Node == "" {
		return Identity{}, fmt.Errorf("%w: %s names no node and incarnation", ErrRejoin, path)
	}
	if len(id.Initial) > 0 && ClusterID(id.Initial) != id.Cluster {
		return Identity{}, fmt.Errorf("%w: %s: the list of initial nodes does not give the cluster id", ErrRejoin, path)
	}
	return id, nil
}

// firstStart gives the folder an identity, unless it shows traces of an earlier one.
func firstStart(dir, node string) (Identity, error) {
	notes, err := loadNotes(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Identity{}, err
	}
	if _, err := os.Stat(filepath.Join(dir, replicasDir)); len(notes) > 0 || !errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("%w: data folder %s holds replicas but no %s", ErrRejoin, dir, identityFile)
	}
	if err := saveNotes(dir, nil); err != nil {
		return Identity{}, err
	}
	raw := make([]byte, 16)
	rand.Read(raw) // never fails (crypto/rand)
	if bugSameIncarnation.on() {
		raw = append(make([]byte, 16), node...)[len(node):]
	}
	identity := Identity{Node: node, Incarnation: hex.EncodeToString(raw)}
	return identity, writeJSON(filepath.Join(dir, identityFile), identityRecord{folderFormat, identity})
}

// Identity returns the node's identity.
func (f *IdentityFile) Identity() Identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.identity
	id.Initial = slices.Clone(id.Initial)
	return id
}

// Form makes the node a member of cluster, durably and for ever: repeating it is allowed, another
// cluster is an error, and so is a list of initial nodes that does not give the cluster's id. A node
// that joins later may leave initial empty.
func (f *IdentityFile) Form(cluster string, initial []Founder) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return ErrStopped
	case cluster == "":
		return errors.New("forming a cluster without an id")
	case len(initial) > 0 && ClusterID(initial) != cluster:
		return fmt.Errorf("forming cluster %s: the initial nodes give %s", cluster, ClusterID(initial))
	case f.identity.Cluster == cluster:
		return nil
	case f.identity.Cluster != "":
		return fmt.Errorf("%w: node %s is in cluster %s and can't enter %s", ErrWrongCluster, f.identity.Node, f.identity.Cluster, cluster)
	}
	next := f.identity
	next.Cluster = cluster
	next.Initial = slices.Clone(initial)
	slices.SortFunc(next.Initial, compareFounders)
	if err := writeJSON(filepath.Join(f.dir, identityFile), identityRecord{folderFormat, next}); err != nil {
		return fmt.Errorf("forming cluster %s: %w", cluster, err)
	}
	f.identity = next
	return nil
}

// Close lets go of the data folder. It is idempotent.
func (f *IdentityFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	return f.lock.Close()
}
