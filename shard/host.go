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

	"github.com/hashicorp/raft"
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

// Peer is how another node is reached and recognised.
type Peer struct {
	Addr        string // Raft address
	Incarnation string // "" = any
}

// Handler answers a Call. An error refuses, unless it is ErrOutcomeUnknown.
type Handler = func(ctx context.Context, from string, payload []byte) ([]byte, error)

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

func (h *Host) hello(target string) hello {
	id := h.storage.Identity()
	return hello{min: protocolMin, max: protocolMax, cluster: id.Cluster, node: id.Node, incarnation: id.Incarnation, target: target}
}

// SetPeers replaces the table of peers (this node is ignored in it). Links to peers that changed
// are dropped, and so are those to peers that are missing from the table.
func (h *Host) SetPeers(peers map[string]Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, p := range h.peers {
		if _, known := peers[node]; !known {
			p.cancel()
			delete(h.peers, node)
		}
	}
	for link, theirs := range h.inbounds {
		// An earlier life of a node, or one that is no member any more, may still have links open.
		if theirs.cluster == "" {
			continue
		}
		if p, known := peers[theirs.node]; !known || p.Incarnation != "" && p.Incarnation != theirs.incarnation {
			link.Close()
		}
	}
	for node, addr := range peers {
		if node == h.cfg.Node || h.closed {
			continue
		}
		if p := h.peers[node]; p != nil {
			p.setAddr(addr)
			continue
		}
		p := newPeer(h, node, addr)
		h.peers[node] = p
		h.wg.Go(p.run)
	}
}

// refusalPatience is how long all peers must have refused this node's data folder before it ends:
// one that joined again under an id is refused by those who have not heard of it yet.
const refusalPatience = 10 * time.Second

// checkRefusals ends the process when the cluster knows this node by another data folder: most peers
// say so, have for a while, and none takes this one.
func (h *Host) checkRefusals(err error) {
	if h.refused() {
		h.fatal(err) // without a lock: it may close the host
	}
}

func (h *Host) refused() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	refusing := 0
	for _, p := range h.peers {
		p.mu.Lock()
		linked := p.link != nil
		p.mu.Unlock()
		if linked {
			return false
		}
		if since := p.refuses.Load(); since > 0 && h.mono()-time.Duration(since) >= refusalPatience {
			refusing++
		}
	}
	return 2*refusing > len(h.peers)
}

func (h *Host) peer(node string) *peer {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.peers[node]
}

// forget drops what peers were to be asked for an instance that has ended.
func (h *Host) forget(i *instance) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.peers {
		p.probes.forget(i)
	}
}

func (h *Host) peerAddr(node string) Peer {
	p := h.peer(node)
	if p == nil {
		return Peer{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// OpenCache makes sure that the replica of a data shard exists and runs; it is idempotent. Another
// replica of the shard that runs here must be destroyed first.
func (h *Host) OpenCache(spec Spec) error {
	if !h.opening.begin(spec.Shard) {
		return ErrStopped
	}
	defer h.opening.end(spec.Shard)
	g, err := h.open(spec, func() StateMachine { return newCacheMachine(spec.Shard) })
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.caches[spec.Shard] == nil {
		c := newCache(g)
		h.caches[spec.Shard] = c
		c.start()
	}
	return nil
}

// OpenGroup is OpenCache for any other state machine (the directory's). newMachine is called for
// each life of the Raft instance: a recycled instance gets a new machine, but for one that begins with the snapshot that the one before it restored.
func (h *Host) OpenGroup(spec Spec, newMachine func() StateMachine) (*Group, error) {
	if !h.opening.begin(spec.Shard) {
		return nil, ErrStopped
	}
	defer h.opening.end(spec.Shard)
	return h.open(spec, newMachine)
}

// open opens a replica; within opening.
func (h *Host) open(spec Spec, newMachine func() StateMachine) (*Group, error) {
	switch g := h.Group(spec.Shard); {
	case g == nil:
	case g.spec.R == spec.R:
		return g, nil
	case spec.Keep.R == 0 || g.spec.R != spec.Keep.R:
		return nil, fmt.Errorf("shard %d runs here as replica %d, not %d", spec.Shard, g.spec.R, spec.R)
	}
	if v := h.lost(ReplicaID{spec.Shard, h.cfg.Node, spec.R}); v != nil {
		return nil, v.err() // what can't be read does not get better
	}
	if len(spec.Members) > 0 && !slices.Contains(spec.Members, Member{h.cfg.Node, spec.R}) {
		return nil, fmt.Errorf("shard %d: replica %d of %s is not among its members", spec.Shard, spec.R, h.cfg.Node)
	}
	if len(spec.First) > 0 && len(spec.Members) != 1 { // others would begin without it
		return nil, fmt.Errorf("shard %d: a group of %d members can't begin with an entry", spec.Shard, len(spec.Members))
	}
	id := ReplicaID{spec.Shard, h.cfg.Node, spec.R}
	spoolDir := h.storage.spoolDir(id)
	if spec.Volatile {
		spoolDir = "" // it has no folder
	}
	g := newGroup(h, spec, nil, nil, spoolDir, newMachine)
	bootstrap := g.bootstrap
	if spec.Keep.R != 0 {
		m, err := h.kept(spec)
		if err != nil {
			g.cancel()
			return nil, h.lose(id, fmt.Errorf("replica %s: %w", id, err))
		}
		bootstrap = func(store replicaStore, snaps raft.SnapshotStore) error { return g.seed(m, store, snaps) }
	}
	first := false
	store, snaps, err := h.storage.open(id, spec.Volatile, spec.Keep.R, newRaftLogger(h.log, spec.Shard), h.fatal,
		func(store replicaStore, snaps raft.SnapshotStore) error {
			first = spec.R <= firstR
			return bootstrap(store, snaps)
		})
	if err != nil {
		g.cancel()
		return nil, h.lose(id, fmt.Errorf("replica %s: %w", id, err))
	}
	if former := (ReplicaID{spec.Shard, h.cfg.Node, spec.Keep.R}); spec.Keep.R != 0 && slices.Contains(h.storage.replicas(), former) {
		if err := h.destroy(spec.Shard, spec.Keep.R); err != nil { // it has ended, and never opens again: that can be made up for later
			h.log.Warn("a replica whose state was kept is not destroyed yet", "shard", spec.Shard, "replica", former.String(), "err", err)
		}
	}
	g.store, g.snaps = store, snaps
	if !first && spec.Shard != Directory { // of which no leader asks for promises
		g.promise.begin(h.mono())
	}
	if v := h.storage.verdict(id); v != nil {
		g.stopped.Store(v)
		h.log.Error("replica does not serve: "+v.String(), "shard", spec.Shard, "replica", id.String())
	}
	if err := g.start(); err != nil {
		g.cancel()
		store.Close()
		return nil, h.lose(id, err)
	}
	h.found(id)
	h.mu.Lock()
	h.groups[spec.Shard] = g
	h.mu.Unlock()
	notify(h.missing)
	if last, err := store.LastIndex(); spec.Campaign && err == nil && last <= spec.begins() && store.Term() <= 1 {
		h.wg.Go(g.hurry)
	}
	return g, nil
}

// bootstrap writes the group's first configuration: the same on all its members, each of which
// could otherwise vote for anybody. A replica that joins writes none: until the leader sends it one, it
// may vote for anybody too, but nobody counts its vote who has not got it in his own configuration, and
// then it is one vote of one replica in one term like any other.
func (g *Group) bootstrap(store replicaStore, snaps raft.SnapshotStore) error {
	if len(g.spec.Members) == 0 {
		return nil
	}
	var servers []raft.Server
	for _, m := range g.spec.Members {
		id := ReplicaID{g.spec.Shard, m.Node, m.R}.String()
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	err := raft.BootstrapCluster(g.raftConfig(nil), store, store, snaps, newTransport(g), raft.Configuration{Servers: servers})
	if err != nil || len(g.spec.First) == 0 {
		return err
	}
	// Of the same term as the configuration, which is entry 1: the only member commits both when it first leads.
	return store.StoreLog(&raft.Log{Index: g.spec.begins(), Term: 1, Type: raft.LogCommand, Data: g.spec.First})
}

// firstR is the highest r of founders of a cluster's first groups: no group of the shard was before them.
const firstR = 1

// begins is the last index of the log that a new group's members begin with.
func (s Spec) begins() uint64 {
	if len(s.First) > 0 {
		return 2
	}
	return 1
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

// Call sends payload to the handler of method on node and returns its answer. An error that is not
// ErrOutcomeUnknown means that the handler did not run, or is the handler's own refusal.
func (h *Host) Call(ctx context.Context, node, method string, payload []byte) ([]byte, error) {
	body := appendDuration(nil, timeLeft(ctx, maxForward))
	body = appendString(body, method)
	body = appendString(body, payload)
	if node == h.cfg.Node {
		return h.serveCall(ctx, node, true, 0, body)
	}
	p := h.peer(node)
	if p == nil {
		return nil, fmt.Errorf("%w: no address for node %q", ErrUnreachable, node)
	}
	return p.call(ctx, frameCall, body, false)
}

// Handle sets the handler of a method; before Start. Methods that begin with "form" are served to
// nodes that are not members of the cluster yet, and are the only ones that are.
func (h *Host) Handle(method string, f Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[method] = f
}

// Gossip makes every ping (each 500 ms to each peer) carry what report returns, and hands to
// receive what peers' pings carry. receive must not block.
func (h *Host) Gossip(report func() []byte, receive func(from string, payload []byte)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report, h.receive = report, receive
}

func (h *Host) gossip() []byte {
	h.mu.RLock()
	f := h.report
	h.mu.RUnlock()
	if f == nil {
		return nil
	}
	return f()
}

func (h *Host) receiveGossip(from string, payload []byte) {
	h.mu.RLock()
	f := h.receive
	h.mu.RUnlock()
	if f != nil {
		f(from, payload)
	}
}

// Heard returns when a frame of node last arrived; zero if never.
func (h *Host) Heard(node string) time.Time {
	p := h.peer(node)
	if p == nil {
		return time.Time{}
	}
	if at := p.heard.Load(); at > 0 {
		return h.began.Add(time.Duration(at))
	}
	return time.Time{}
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

// Close stops all replicas and links and lets go of the data folder. What was in flight ends as
// unknown.
func (h *Host) Close() error {
	if !h.opening.close() { // nothing is half open from here on
		return nil
	}
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
