package shard

import (
	"io"

	"github.com/larder-cache/larder/fsm"
)

// Role is what a replica is at the moment.
type Role string

// The roles of a replica. Leader means that this node believes it leads; whether it may serve is
// decided per read and per write.
const (
	RoleLeader    Role = "leader"
	RoleFollower  Role = "follower"
	RoleCandidate Role = "candidate"
	RoleStopped   Role = "stopped"
)

// Status is what a node knows of one of its replicas.
type Status struct {
	Shard    ID       `json:"shard"`
	Replica  string   `json:"replica"` // server id shard/node/r
	Role     Role     `json:"role"`
	Ready    bool     `json:"ready"` // leads, and a barrier of this term is applied
	Term     uint64   `json:"term"`
	Commit   uint64   `json:"commit"`
	Applied  uint64   `json:"applied"` // last index the state machine saw
	Last     uint64   `json:"last"`    // last index in the log that is synced
	Leader   string   `json:"leader"`  // node, "" when unknown
	Voters   []string `json:"voters"`  // nodes
	Learners []string `json:"learners"`
	Conf     uint64   `json:"conf"` // index of the committed configuration
	// While a snapshot of the leader comes in: bytes that are here, and that there are.
	SnapshotBytes uint64 `json:"snapshot_bytes,omitempty"`
	SnapshotTotal uint64 `json:"snapshot_total,omitempty"`
	// Diverged says why the replica serves nothing: its state differs from that of others, or may. Stopped
	// tells that it has stopped for good.
	Diverged string `json:"diverged,omitempty"`
	Stopped  bool   `json:"stopped,omitempty"`
	// Checks counts the comparisons of the replicas that were made here. Differ is how many members
	// differed at the last one, where this replica leads; else 1 where this one has stopped.
	Checks uint64 `json:"checks,omitempty"`
	Differ int    `json:"differ,omitempty"`
	// Cache is the state machine's own account; nil for the directory's group.
	Cache *fsm.Stats `json:"cache,omitempty"`
	// Reads of a cache on this replica since it opened: hits and misses.
	Hits   uint64 `json:"hits"`
	Misses uint64 `json:"misses"`
	// Missed counts the misses by reason.
	Missed map[MissReason]uint64 `json:"missed,omitempty"`
	// Sizing is what more memory would have given; nil while nobody reads.
	Sizing *Sizing `json:"sizing,omitempty"`
	// Reads counts them by how they were confirmed.
	Reads map[ReadPath]uint64 `json:"reads,omitempty"`
	// Touches counts what the reads of a cache renewed; nil for the directory's group.
	Touches *TouchStats `json:"touches,omitempty"`
}

// StateMachine is what a group replicates. Raft calls Apply and Restore on one goroutine, and
// writes a Snapshot concurrently with later Applies.
type StateMachine interface {
	// Apply applies the entry at index and returns its result, which goes to the proposer alone.
	// An entry that can't be decoded is divergence: Apply panics with index.
	Apply(index uint64, data []byte) any
	// Snapshot returns an immutable view of the state.
	Snapshot() StateSnapshot
	// Restore replaces the whole state, or fails and leaves the replica unusable. r ends with the
	// snapshot. The error wraps ErrDataLost where r holds what no build has ever written.
	Restore(r io.Reader) error
}

// StateSnapshot writes an immutable view of a StateMachine.
type StateSnapshot interface {
	WriteTo(w io.Writer) (int64, error)
}
