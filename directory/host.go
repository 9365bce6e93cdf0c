package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// Identity is the node's data folder, as far as forming the cluster needs it (R14).
type Identity interface {
	// Incarnation is the id of the data folder, 32 hex digits.
	Incarnation() string
	// Formed returns the cluster id and the founders that Form persisted.
	Formed() (cluster string, list []shard.Founder, ok bool)
	// Form persists them, once; it returns when they are synced.
	Form(cluster string, list []shard.Founder) error
}

// host is what this package needs of a shard.Host, which documents it.
type host interface {
	Node() string
	SetPeers(peers map[string]shard.Peer)
	OpenCache(spec shard.Spec) error
	OpenGroup(spec shard.Spec, newMachine func() shard.StateMachine) (group, error)
	Status() []shard.Status
	Do(ctx context.Context, node string, req shard.Request) (shard.Response, error)
	DoBatch(ctx context.Context, node string, b shard.Batch) ([]shard.Reply, error)
	Scan(ctx context.Context, node string, s shard.Scan) (shard.Page, error)
	Erase(ctx context.Context, node string, s shard.Scan) (shard.Page, error)
	// Replicas names the replicas that were created here, or begun, and not destroyed.
	Replicas() []shard.ReplicaID
	// Holdings tells what there is of them.
	Holdings() []shard.Holding
	// Destroy ends a replica of this node for good.
	Destroy(id shard.ID, r uint64) error
	// Configuration returns that of a shard which this node leads, confirmed by a quorum after the call
	// began.
	Configuration(ctx context.Context, id shard.ID) (shard.Configuration, error)
	// Step makes one step of a change of members on this node's replica, which leads the shard.
	Step(ctx context.Context, step memberStep) error
	// Compare compares the replicas of a shard that this node leads.
	Compare(ctx context.Context, id shard.ID) (shard.Comparison, error)
	// Diverged returns this node's replica of a shard, and why it has stopped for good; nil: it has not.
	Diverged(id shard.ID) (replica string, v *shard.Verdict, err error)
	// Fate tells what became of a replica of this node.
	Fate(id shard.ReplicaID) (shard.Fate, error)
	Call(ctx context.Context, node, method string, payload []byte) ([]byte, error)
	Handle(method string, f func(ctx context.Context, from string, payload []byte) ([]byte, error))
	Gossip(report func() []byte, receive func(from string, payload []byte))
	Heard(node string) time.Time
	Changed() <-chan struct{}
	// Grant proposes g on the shard's replica here.
	Grant(ctx context.Context, id shard.ID, g fsm.Grant) error
	// SetLimit proposes a byte limit on the shard's replica here; tableVersion orders limits.
	SetLimit(ctx context.Context, id shard.ID, limit, tableVersion uint64) error
	// Raise proposes a feature level on the shard's replica here.
	Raise(ctx context.Context, id shard.ID, level uint8) error
	// SetTouchInterval says how long reads are gathered before their recency is replicated; 0: it never
	// is.
	SetTouchInterval(d time.Duration)
	// SetShards says how many shards the cluster has, before replicas are opened.
	SetShards(n int)
	// SetSnapshotBandwidth says how many bytes of snapshots this node may send in a second; 0: no limit.
	SetSnapshotBandwidth(bytes uint64)
}

// group is what this package needs of the directory's shard.Group.
type group interface {
	Propose(ctx context.Context, data []byte) (index uint64, result any, err error)
	// Spread makes followers learn at once what is committed.
	Spread(ctx context.Context) error
}

// realHost makes a shard.Host a host.
type realHost struct{ *shard.Host }

func (h realHost) OpenGroup(spec shard.Spec, newMachine func() shard.StateMachine) (group, error) {
	return h.Host.OpenGroup(spec, newMachine)
}

func (h realHost) Grant(ctx context.Context, id shard.ID, g fsm.Grant) error {
	c := h.Cache(id)
	if c == nil {
		return shard.ErrUnknownShard
	}
	return c.Grant(ctx, g)
}

func (h realHost) SetLimit(ctx context.Context, id shard.ID, limit, tableVersion uint64) error {
	c := h.Cache(id)
	if c == nil {
		return shard.ErrUnknownShard
	}
	return c.SetLimit(ctx, limit, tableVersion)
}

func (h realHost) Raise(ctx context.Context, id shard.ID, level uint8) error {
	c := h.Cache(id)
	if c == nil {
		return shard.ErrUnknownShard
	}
	return c.Raise(ctx, level)
}

func (h realHost) Configuration(ctx context.Context, id shard.ID) (shard.Configuration, error) {
	g := h.Group(id)
	if g == nil {
		return shard.Configuration{}, shard.ErrUnknownShard
	}
	if err := g.ReadBarrier(ctx); err != nil {
		return shard.Configuration{}, err
	}
	return g.Configuration()
}

func (h realHost) Step(ctx context.Context, step memberStep) error {
	g := h.Group(step.Shard)
	if g == nil {
		return shard.ErrUnknownShard
	}
	if r := g.ID().R; step.Table != 0 && r > step.Table {
		return fmt.Errorf("%w: it was planned by table version %d, before there was replica %d", shard.ErrConfChanged, step.Table, r)
	}
	if step.Step == stepTransfer {
		return g.TransferLeadership(ctx, step.Node)
	}
	if step.Step == stepFence {
		return g.Fence(ctx, step.Prev)
	}
	id, err := shard.ParseReplicaID(step.Replica)
	if err != nil {
		return err
	}
	switch step.Step {
	case stepAddLearner:
		return g.AddLearner(ctx, id, step.Prev)
	case stepPromote:
		return g.Promote(ctx, id, step.Prev)
	case stepRemove:
		return g.Remove(ctx, id, step.Prev)
	}
	return fmt.Errorf("there is no step %q", step.Step)
}
