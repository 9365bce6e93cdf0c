package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Member names one replica of a group: server id Shard/Node/R.
type Member struct {
	Node string
	R    uint64
}

// Spec describes a replica that this node is to host.
type Spec struct {
	Shard ID
	R     uint64 // this node's own
	// Members is the exact configuration with which a new group bootstraps, this node in it. Empty:
	// the group is there already, and its leader adds this replica; until then it knows of no member
	// and stands for no election.
	Members []Member
	// First is the first entry of a new group of one member, for its state machine; empty: there is none. It is durable as soon as the
	// replica is, so that the group never had another state before it.
	First []byte
	// Volatile keeps the replica in memory alone: it is lost when this process ends, and never speaks again.
	Volatile bool
	// Keep is what the replica, the only member of a new generation, begins with; the zero one: nothing.
	Keep Keep
	// Campaign asks this replica to hurry the very first election instead of waiting for a timeout.
	Campaign bool
}

// Host hosts the replicas of one node: it owns the data folder, the links to other nodes and the
// groups. Its goroutines are the accept loop, one session per link that came in, one per peer, and
// what each group runs; Close waits for all of them.
type Host struct {
	cfg     Config
	log     *slog.Logger
	net     Network
	storage storage
	clocks  *clocks
	began   time.Time

	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	listener Listener

	snapshotting chan struct{} // one token per snapshot being written to disk
	inMemory     chan struct{} // likewise, of volatile replicas
	snapshots    *snapshotTraffic
	filling      atomic.Int64  // reads that wait for another reader's fill
	change       chan struct{} // one token: a leadership changed
	missing      chan struct{} // one token: a node is gone, or a replica has begun
	fatalOnce    sync.Once
	failing      chan struct{} // closed once Config.Fatal is called
	failed       error         // what it was called with, set before
	closeOnce    sync.Once
	ended        chan struct{} // closed once all that Close ends has
	endErr       error         // set before

	rounds rounds // of the entries that its shards propose

	shards        atomic.Int64 // of the cluster (SetShards)
	touchInterval atomic.Int64 // nanoseconds; 0 = recency is not replicated

	opening openings

	mu       sync.RWMutex // guards following
	peers    map[string]*peer
	inbounds map[Link]hello // who is at the other end, once it said so
	groups   map[ID]*Group
	caches   map[ID]*Cache
	losses   map[ID]loss       // of replicas that do not run
	suspects map[ReplicaID]int // tries to open a replica that found its data lost
	handlers map[string]Handler
	report   func() []byte
	receive  func(from string, payload []byte)
	closed   bool
}

// NewHost opens the data folder. Handlers and gossip are set before Start.
func NewHost(cfg Config) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &Host{cfg: cfg, log: cfg.Log.With("node", cfg.Node), net: cfg.Network, clocks: newClocks(),
		began: time.Now(), ctx: ctx, cancel: cancel, snapshotting: make(chan struct{}, 1), inMemory: make(chan struct{}, 1), snapshots: newSnapshotTraffic(), change: make(chan struct{}, 1), missing: make(chan struct{}, 1),
		failing: make(chan struct{}), ended: make(chan struct{}),
		peers: map[string]*peer{}, inbounds: map[Link]hello{}, groups: map[ID]*Group{}, caches: map[ID]*Cache{}, losses: map[ID]loss{}, suspects: map[ReplicaID]int{}, handlers: map[string]Handler{}}
	var err error
	if cfg.Memory != nil {
		h.storage, err = cfg.Memory, cfg.Memory.claim(cfg.Node)
	} else {
		h.storage, err = openDisk(cfg.Dir, cfg.Node, cfg.LogStore, h.log, h.fatal)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	h.SetTouchInterval(cfg.TouchInterval)
	h.handlers[methodSum], h.handlers[methodJudge], h.handlers[methodSuccession] = h.handleSum, h.handleJudge, h.handleSuccession
	return h, nil
}

// manyShards is how many shards a cluster may have before its groups' heartbeats become rarer, and mostPatience how much rarer at most.
const (
	manyShards   = 64
	mostPatience = 4
)

// SetShards says how many shards the cluster has, before replicas are opened. Where they are many, the leaders of those opened from
// then on send heartbeats less often: that of the nodes themselves tells the rest (succession.go). All nodes are to be told
// about the same; a factor of two makes no difference.
func (h *Host) SetShards(n int) { h.shards.Store(int64(n)) }

// patience is how long a leader may be silent whose node is not, before a follower takes it for lost.
func (h *Host) patience() time.Duration {
	factor := 1
	for n := int(h.shards.Load()); n > manyShards && factor < mostPatience; n /= 2 {
		factor *= 2
	}
	return h.cfg.HeartbeatTimeout * time.Duration(factor)
}

// SetTouchInterval changes how soon reads that no write follows renew the recency of what they found. 0:
// recency is not replicated, and reads leave no trace.
func (h *Host) SetTouchInterval(d time.Duration) { h.touchInterval.Store(int64(max(d, 0))) }

// Start listens for links.
func (h *Host) Start() error {
	l, err := h.net.Listen(h.cfg.Addr)
	if err != nil {
		return fmt.Errorf("peer address: %w", err)
	}
	h.mu.Lock()
	h.listener = l
	h.mu.Unlock()
	h.wg.Go(h.succeed)
	h.wg.Go(func() {
		for {
			link, err := l.Accept()
			if err != nil {
				if h.ctx.Err() == nil {
					h.log.Warn("no more links from peers", "err", err)
				}
				return
			}
			h.wg.Go(func() { h.serveLink(link) })
		}
	})
	return nil
}

// Node returns this node's id.
func (h *Host) Node() string { return h.cfg.Node }

// Identity returns who this node is.
func (h *Host) Identity() Identity { return h.storage.Identity() }

// Incarnation is the id of this node's data folder.
func (h *Host) Incarnation() string { return h.storage.Identity().Incarnation }

// Formed returns the cluster id and its founders once this node is a member.
func (h *Host) Formed() (cluster string, initial []Founder, ok bool) {
	id := h.storage.Identity()
	return id.Cluster, id.Initial, id.Cluster != ""
}

// Form makes this node a member of a cluster for ever (see IdentityFile.Form). Links are made anew:
// what they carry depends on it.
func (h *Host) Form(cluster string, initial []Founder) error {
	before := h.storage.Identity().Cluster
	if err := h.storage.Form(cluster, initial); err != nil {
		return err
	}
	if before != cluster {
		h.mu.RLock()
		peers := slices.Collect(maps.Values(h.peers))
		links := slices.Collect(maps.Keys(h.inbounds))
		h.mu.RUnlock()
		for _, p := range peers {
			p.drop()
		}
		for _, l := range links {
			l.Close()
		}
	}
	return nil
}

// Group returns the replica of a shard on this node, nil when there is none.
func (h *Host) Group(id ID) *Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.groups[id]
}

// Cache returns the replica of a data shard on this node, nil when there is none.
func (h *Host) Cache(id ID) *Cache {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.caches[id]
}

// Status returns the status of each replica on this node, by shard, also of one that does not run as its data is lost.
func (h *Host) Status() []Status {
	h.mu.RLock()
	groups := slices.Collect(maps.Values(h.groups))
	caches := maps.Clone(h.caches)
	all := make([]Status, 0, len(groups)+len(h.losses))
	for id, l := range h.losses {
		if h.groups[id] == nil {
			all = append(all, l.status())
		}
	}
	h.mu.RUnlock()
	for _, g := range groups {
		if c := caches[g.id.Shard]; c != nil {
			all = append(all, c.Status())
		} else {
			all = append(all, g.Status())
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return int(int64(a.Shard) - int64(b.Shard)) })
	return all
}

// Changed has a token whenever a replica here began or ceased to lead.
func (h *Host) Changed() <-chan struct{} { return h.change }

func (h *Host) changed() { notify(h.change) }

// mono is this node's monotonic clock.
func (h *Host) mono() time.Duration { return time.Since(h.began) }

// now is this node's wall clock.
func (h *Host) now() time.Time { return h.cfg.Now() }

// fatal reports, once, what this process can't go on with.
func (h *Host) fatal(err error) {
	h.fatalOnce.Do(func() {
		if h.ctx.Err() == nil {
			h.failed = err
			close(h.failing)
			h.cfg.Fatal(err)
		}
	})
}

// Handover gives the leadership of each shard that this node leads to a voter that is reachable,
// so that a planned stop costs no election. It returns when all are handed over or ctx ends.
func (h *Host) Handover(ctx context.Context) {
	h.mu.RLock()
	groups := slices.Collect(maps.Values(h.groups))
	h.mu.RUnlock()
	var wg sync.WaitGroup
	for n, g := range groups {
		s := g.Status()
		if s.Role != RoleLeader {
			continue
		}
		wg.Go(func() {
			for k := range s.Voters { // another first choice for each shard
				to := s.Voters[(n+k)%len(s.Voters)]
				if to == h.cfg.Node || time.Since(h.Heard(to)) > 2*pingInterval || ctx.Err() != nil {
					continue
				}
				try, cancel := context.WithTimeout(ctx, h.cfg.ElectionTimeout)
				err := g.TransferLeadership(try, to)
				cancel()
				if err == nil {
					return
				} else if !errors.Is(err, context.DeadlineExceeded) {
					h.log.Info("leadership not handed over", "shard", s.Shard, "to", to, "err", err)
				}
			}
		})
	}
	wg.Wait()
}

// failedPatience is how long Close waits for what hangs in a disk that has failed.
const failedPatience = time.Second

// Close stops all replicas and links and lets go of the data folder. What was in flight ends as
// unknown. Called again, it waits for the same. Once Config.Fatal is called, by which it may be called too,
// it waits for a second at most, and lets go of what does not end: whoever called Fatal, and what waits in the disk. That keeps the data
// folder until the process ends.
func (h *Host) Close() error {
	h.closeOnce.Do(func() {
		go func() {
			defer close(h.ended)
			h.endErr = h.close()
		}()
	})
	select {
	case <-h.ended:
		return h.endErr
	case <-h.failing:
	}
	select {
	case <-h.ended:
		return h.endErr
	case <-time.After(failedPatience):
		h.cancel()
		return fmt.Errorf("not all of the node has ended: %w", h.failed)
	}
}

func (h *Host) close() error {
	h.opening.close() // nothing is half open from here on
	h.mu.Lock()
	h.closed = true
	groups := slices.Collect(maps.Values(h.groups))
	caches := slices.Collect(maps.Values(h.caches))
	l := h.listener
	h.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(groups))
	for n, g := range groups {
		wg.Go(func() { errs[n] = g.close() })
	}
	wg.Wait()
	for _, c := range caches {
		c.stop()
	}
	h.cancel()
	if l != nil {
		l.Close()
	}
	h.wg.Wait()
	return errors.Join(append(errs, h.storage.Close())...)
}
