package nemesis

import (
	"context"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// System is a cluster as faults see it; nodes go by their ids. What one can't do returns an error that is
// errors.ErrUnsupported. Methods with a context ask nodes, and may find nobody there.
type System interface {
	Links

	Nodes() []string // that form the cluster
	// Spare is a node that is none of these, and does not run before it joins.
	Spare() string
	Running(node string) bool
	Start(node string) error
	Kill(node string) error
	Pause(node string) error
	Resume(node string) error
	// Terminate asks a node to end in order, and waits until it has; an error tells how it ended instead, or that it did not.
	Terminate(ctx context.Context, node string) error

	// PowerLoss ends nodes, all at once, and all that they did not sync is gone.
	PowerLoss(nodes ...string) error
	FillDisk(node string) error
	FreeDisk(node string) error
	SlowDisk(node string, sync time.Duration) error // each sync takes that long; 0 ends it
	// Damage hurts the files of a node that does not run, by a seed, and says what it did.
	Damage(node string, d Damage, seed uint64) (string, error)
	Wipe(node string) error
	// Rejoin starts a node, which does not run and was wiped, as one that joins by via.
	Rejoin(node, via string) error
	// SetClock sets what a node takes for the time: offset from the true one, growing by rate - 1.
	SetClock(ctx context.Context, node string, offset time.Duration, rate float64) error

	// Replicas is what a node says of each shard, the directory's (0) included.
	Replicas(ctx context.Context, node string) ([]Replica, error)
	// Probe makes a linearizable read of something in a data shard at a node, and fails when there is no answer.
	Probe(ctx context.Context, node string, shard uint64) error
	// Alive asks whether the process answers clients at all.
	Alive(ctx context.Context, node string) error
	// Ready reports whether a node says that all its replicas serve.
	Ready(ctx context.Context, node string) bool
	// Logged counts the lines of a node's log that contain text.
	Logged(node, text string) (int, error)

	Members(ctx context.Context, via string, shard uint64) (cluster.Members, error)
	ChangeMember(ctx context.Context, via string, shard uint64, node string, add bool, conf string) (cluster.Answer, cluster.Operation, error)
	Operations(ctx context.Context, via string) ([]cluster.Operation, error)
	Transfer(ctx context.Context, via string, shard uint64, to string) (cluster.Answer, error)
	Cancel(ctx context.Context, via string, operation uint64) (cluster.Answer, error)
	Node(ctx context.Context, via, node string) (cluster.NodeState, error)
	Drain(ctx context.Context, via, node string, drain bool) (cluster.Answer, error)
	Forget(ctx context.Context, via, node string) (cluster.Answer, error)     // takes a node out of the table
	Rebuild(ctx context.Context, via string) (cluster.Answer, error)          // begins the directory anew on a node; 202: it did
	Set(ctx context.Context, via, name, value string) (cluster.Answer, error) // changes a setting; "" is its default
}

// Links are the ways between nodes, and between nodes and cluster.Clients. Each belongs to an ordered pair.
type Links interface {
	// Cut loses all that from sends to to, until Mend. Heal mends all.
	Cut(from, to string) error
	Mend(from, to string) error
	Heal() error
	SetDelay(from, to string, d time.Duration) error // 0: as it was at first
	SetLoss(from, to string, share float64) error
	SetDuplicate(from, to string, share float64) error
	SetReorder(from, to string, share float64) error
	SetRate(from, to string, bytesPerSecond int) error // 0: no bound
	// Counts is what the links did so far.
	Counts() cluster.Counts
}

// Damage is what can be done to the files of a node.
type Damage string

// The kinds of damage.
const (
	DamageLogTail  Damage = "log-tail"
	DamageSnapshot Damage = "snapshot"
	TruncateLog    Damage = "truncate"
	DamageLogFile  Damage = "log-file"
	LoseLog        Damage = "lose-log"
)

// Replica is what a node says of its replica of a shard.
type Replica struct {
	Shard   uint64
	Leader  string // whom it believes to lead
	Term    uint64
	Applied uint64
	Members []string // by the node's table
}
