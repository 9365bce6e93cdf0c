package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// spreadPatience is how long whoever changed the table waits until all may have heard.
const spreadPatience = 200 * time.Millisecond

// tick is the longest time between two looks of the service's loop at the world.
const tick = 100 * time.Millisecond

// lookCost, for each shard, is the least time between two looks, but no more than mostLookCost: where shards are many, all of them together would
// take too much of a processor, and a thousand leaderships that change at the same time would each have all of them looked at.
const (
	lookCost     = 250 * time.Microsecond
	mostLookCost = 400 * time.Millisecond
)

// Config is what a Service needs. All fields but Zone (of Self), Logger and Registry are required.
type Config struct {
	// Host hosts this node's replicas. New registers handlers with it, so it must not be started yet;
	// Start needs it started.
	Host *shard.Host
	// Identity is the node's data folder; a shard.Host is one.
	Identity Identity
	// Self is this node as it wants to be known: addresses as others reach them, zone, capacity.
	// ID and Incarnation are filled in from Host and Identity.
	Self Node
	// Initial maps the ids of the initial nodes to their Raft addresses, this node included; for a
	// node that joined later, the nodes by which it finds the others.
	Initial map[string]string
	// Join: this node is no initial one; where it has joined no cluster yet, it joins that of the nodes
	// in Initial.
	Join bool
	// Memory is that of the process, bytes: once the table is known, the node's capacity follows from
	// it by the cluster's settings. 0 leaves Self.Capacity as it is; a node that joins must have some.
	Memory uint64
	// OnCapacity is told how many bytes the node has for entries, once the table is known and whenever its settings
	// change that. It must not wait. nil is nobody.
	OnCapacity func(bytes uint64)
	// TableFile is where the node keeps a copy of the table; "" keeps none.
	TableFile string
	// Settings seed the first table. Zero fields mean their defaults.
	Settings Settings
	// Logger receives what an operator would tell a colleague; nil discards it.
	Logger *slog.Logger
	// Registry receives the package's metrics; nil keeps them to oneself.
	Registry prometheus.Registerer
}

func (c Config) validate(node string) error {
	switch {
	case c.Identity == nil:
		return errors.New("directory: no identity")
	case !isHexID(c.Identity.Incarnation()):
		return fmt.Errorf("directory: incarnation %q is not 32 hex digits", c.Identity.Incarnation())
	case c.Self.Capacity == 0:
		return fmt.Errorf("directory: node %s has no memory for entries", node)
	}
	for what, address := range map[string]string{"Raft": c.Self.Raft, "HTTP": c.Self.HTTP} {
		if _, _, err := net.SplitHostPort(address); err != nil || len(address) > maxAddress {
			return fmt.Errorf("directory: %s address %q is not host:port", what, address)
		}
	}
	if err := c.Settings.Validate(); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if _, _, formed := c.Identity.Formed(); formed {
		return nil
	}
	if c.Join {
		if len(c.Initial) == 0 {
			return fmt.Errorf("directory: node %s is to join a cluster and knows no node of it", node)
		}
		if c.Memory == 0 {
			return fmt.Errorf("directory: node %s is to join a cluster and has no memory", node)
		}
		return nil
	}
	if _, ok := c.Initial[node]; !ok {
		return fmt.Errorf("directory: node %s is not among the initial nodes %v", node, slices.Sorted(maps.Keys(c.Initial)))
	}
	if c.Settings.Replicas > len(c.Initial) {
		return fmt.Errorf("directory: replicas is %d, but there are only %d initial nodes", c.Settings.Replicas, len(c.Initial))
	}
	return nil
}

// Service is a node's part in the directory: it forms the cluster, hosts a replica of the table,
// keeps a copy of it current, opens the replicas that the table puts on this node, and grants the
// shards that this node leads what the table gives them.
//
// One goroutine, the loop, owns looked, rest, book, peersSet, touchSet, told and behind, and looks at the world each tick, when the
// table changes, and when a replica here begins or ceases to lead; what may take time it leaves to duties. Close stops both and waits. All
// exported methods are safe for concurrent use.
type Service struct {
	cfg     Config
	host    host
	log     *slog.Logger
	self    Node
	latest  *Latest
	soft    *soft
	router  *Router
	metrics *metrics

	began atomic.Pointer[time.Time] // since when this node has looked without a break
	sizes sizes
	rates rates

	balanceAfter time.Duration

	ctx    context.Context
	cancel context.CancelFunc
	duties *duties
	loop   sync.WaitGroup

	kept    atomic.Uint64 // version of the copy of the table on disk
	keeping sync.Mutex    // held over the write of the copy

	rebuilding sync.Mutex // held while the directory is rebuilt here

	mu      sync.Mutex // guards former, missing, group, groupID, opened, closed
	closed  bool
	former  *former
	missing []string                  // initial nodes that the cluster still waits for, in order
	group   group                     // of the directory; nil on a node without a replica of it
	groupID shard.ReplicaID           // the replica that group is of
	opened  map[shard.ReplicaID]error // outcome of opening each replica; absent: not tried yet

	looked   time.Time // when step did last
	rest     rest
	book     addressBook
	peersSet map[string]shard.Peer
	touchSet time.Duration // as the host was told last; below 0: never
	told     uint64        // capacity that OnCapacity was told last
	behind   time.Time     // since when a peer is known to have a newer table; zero: not
}

// New returns the service of the node that cfg.Host hosts, and registers its handlers there.
func New(cfg Config) (*Service, error) {
	if cfg.Host == nil {
		return nil, errors.New("directory: no host")
	}
	return newService(cfg, realHost{cfg.Host})
}

func newService(cfg Config, h host) (*Service, error) {
	cfg.Settings = cfg.Settings.WithDefaults()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.validate(h.Node()); err != nil {
		return nil, err
	}
	s := &Service{
		cfg:          cfg,
		host:         h,
		log:          cfg.Logger,
		self:         cfg.Self,
		latest:       NewLatest(),
		opened:       make(map[shard.ReplicaID]error),
		balanceAfter: balanceAfter,

		touchSet: -1,
	}
	s.self.ID, s.self.Incarnation = h.Node(), cfg.Identity.Incarnation()
	s.soft = newSoft(h.Node(), h.Heard)
	s.soft.refresh(nil, 0, s.self.Raft, s.self.HTTP)
	var formed *founding
	if cluster, list, ok := cfg.Identity.Formed(); ok {
		formed = &founding{cluster, list}
	}
	s.former = newFormer(FormReport{
		Node:     s.self,
		Names:    slices.Collect(maps.Keys(cfg.Initial)),
		Settings: cfg.Settings,

		Level:      ownLevels.directory,
		ShardLevel: ownLevels.shards,
		Memory:     cfg.Memory,
	}, formed)
	s.missing = s.others()
	now := time.Now()
	s.began.Store(&now)
	s.looked = now
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.duties = newDuties(s.ctx, s.log)
	s.metrics = newMetrics(s)
	s.router = &Router{
		self:    h.Node(),
		latest:  s.latest,
		known:   s.Known,
		leader:  s.soft.leader,
		up:      func(node string) bool { state, _ := s.soft.state(node); return state == NodeUp },
		do:      h.Do,
		doBatch: h.DoBatch,
		retried: s.metrics.retried,
	}
	if cfg.Registry != nil {
		if err := s.metrics.register(cfg.Registry); err != nil {
			return nil, fmt.Errorf("directory: %w", err)
		}
	}
	h.Handle(methodForm, s.handleForm)
	h.Handle(methodPropose, s.handlePropose)
	h.Handle(methodTable, s.handleTable)
	h.Handle(methodJoin, s.handleJoin)
	h.Handle(methodConf, s.handleConf)
	h.Handle(methodStep, s.handleStep)
	h.Handle(methodCompare, s.handleCompare)
	h.Handle(methodDiverged, s.handleDiverged)
	h.Handle(methodFate, s.handleFate)
	h.Handle(methodRecover, s.handleRecover)
	h.Handle(methodSurvey, s.handleSurvey)
	h.Gossip(s.soft.report, s.soft.receive)
	return s, nil
}

// Start forms or joins the cluster, where that was not done before, opens this node's replica of the
// directory and starts the loop. It returns once that is done, not once there are leaders: Ready
// tells. It waits for all initial nodes until ctx ends. shard.ErrDataLost: the data folder is not the
// one that the cluster was founded with. To end it early, end ctx; call Close whatever the outcome.
func (s *Service) Start(ctx context.Context) error {
	enter := s.form
	if _, _, formed := s.cfg.Identity.Formed(); s.cfg.Join && !formed {
		enter = s.join
	}
	if err := enter(ctx); err != nil {
		return err
	}
	s.recall()
	s.setPeers(s.latest.Table())
	s.catchUp(ctx)
	spec, member, err := s.directorySpec()
	if err != nil {
		return err
	}
	if member && !s.left(spec.R) {
		// One whose data is lost is left out, and made anew by those that have theirs.
		if err := s.openDirectory(spec); err != nil && !errors.Is(err, shard.ErrDataLost) {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return shard.ErrStopped
	}
	s.loop.Go(s.run)
	return nil
}

// Close stops the service and returns when all its goroutines have ended. It leaves the host open.
// It is idempotent.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.loop.Wait()
	s.duties.wait()
}

// Router returns the router over this service's table.
func (s *Service) Router() *Router { return s.router }

// directorySpec returns this node's replica of the directory, as far as that is known without a table:
// the one that is in the data folder, or that of a founder. All founders are its first members, with r
// 0, since no table version could have allotted them one.
func (s *Service) directorySpec() (spec shard.Spec, member bool, err error) {
	_, founders, _ := s.cfg.Identity.Formed()
	spec = shard.Spec{Shard: shard.Directory}
	first := s.self.ID
	for _, f := range founders {
		if f.Node == s.self.ID {
			if f.Incarnation != s.self.Incarnation {
				return shard.Spec{}, false, fmt.Errorf("%w: %w", shard.ErrRejoin, errNotFounder)
			}
			member = true
		}
		spec.Members = append(spec.Members, shard.Member{Node: f.Node})
		first = min(first, f.Node)
	}
	spec.Campaign = first == s.self.ID
	for _, id := range s.host.Replicas() {
		if id.Shard == shard.Directory && id.R > 0 {
			return shard.Spec{Shard: shard.Directory, R: id.R}, true, nil
		}
	}
	return spec, member, nil
}

// left reports whether the table says that this node's replica r of the directory is no member any more: since it was removed, or the directory was
// rebuilt without it. With others like it, it would go on as if it were one.
func (s *Service) left(r uint64) bool {
	t := s.Table()
	own, member := t.member(shard.Directory, s.self.ID)
	return t.Founded() && r <= t.Version && !(member && own.R == r)
}

// openDirectory opens a replica of the directory. One that was here and was destroyed is none.
func (s *Service) openDirectory(spec shard.Spec) error {
	g, err := s.host.OpenGroup(spec, func() shard.StateMachine { return NewMachine(s.latest.Publish) })
	if errors.Is(err, shard.ErrRetired) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the directory: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := shard.ReplicaID{Shard: shard.Directory, Node: s.self.ID, R: spec.R}
	if slices.Contains(s.host.Replicas(), id) { // else it was destroyed meanwhile, and must not stand in the way of the next one
		s.group, s.groupID = g, id
	}
	return nil
}

// leaveDirectory forgets the replica of the directory with that id.
func (s *Service) leaveDirectory(id shard.ReplicaID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groupID == id {
		s.group, s.groupID = nil, shard.ReplicaID{}
	}
}

// run is the loop.
func (s *Service) run() {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		table, replaced := s.latest.Changed()
		s.step(table)
		next.Reset(min(time.Duration(len(table.Shards))*lookCost, mostLookCost))
		select {
		case <-next.C:
		case <-s.ctx.Done():
			return
		}
		// At round times, when package shard wakes the process for its heartbeats anyway.
		next.Reset(tick - time.Duration(time.Now().UnixNano()%int64(tick)))
		select {
		case <-next.C:
		case <-replaced:
		case <-s.host.Changed():
		case <-s.ctx.Done():
			return
		}
	}
}

// step looks once at the table and at this node's replicas, and starts what is to be done.
func (s *Service) step(t *Table) {
	s.look(time.Now())
	statuses := s.host.Status()
	s.soft.refresh(statuses, t.Version, s.self.Raft, s.self.HTTP)
	s.countRates(t, time.Now())
	s.setPeers(t)
	s.setTouchInterval(t)
	s.host.SetShards(len(t.Shards))
	s.setSnapshotBandwidth(t)
	s.follow(t)
	s.keep(t)
	s.retire(t)
	if unopened := s.unopened(t); len(unopened) > 0 {
		s.duties.try("open replicas", func(ctx context.Context) error { return s.open(ctx, unopened) })
	}
	self := s.self
	if s.cfg.Memory > 0 && t.Founded() {
		self.Capacity = t.Settings.Capacity(s.cfg.Memory)
		s.tellCapacity(t.Settings.room(s.cfg.Memory))
	}
	if s.knows(t) && t.Nodes[s.self.ID] != self {
		s.duties.try("register", func(ctx context.Context) error {
			return s.proposeDuty(ctx, Command{RegisterNode: &RegisterNode{Node: self}})
		})
	}
	for _, st := range statuses {
		if st.Role != shard.RoleLeader || !st.Ready {
			continue
		}
		if st.Shard == shard.Directory {
			s.mu.Lock()
			r := s.groupID.R
			s.mu.Unlock()
			if !s.left(r) {
				s.lead(t)
			}
		} else if sh, ok := t.Shard(st.Shard); ok && st.Cache != nil && !t.former(st.Replica) {
			s.grant(sh, t.ShardLevel, *st.Cache)
		}
	}
}

// look notes that the loop runs. One that stood still has heard nobody meanwhile.
func (s *Service) look(now time.Time) {
	if now.Sub(s.looked) > softLife {
		s.began.Store(&now)
	}
	s.looked = now
}

// lead does what the leader of the directory has to see to.
func (s *Service) lead(t *Table) {
	if !t.Founded() {
		s.duties.try("found the cluster", s.found)
		return
	}
	s.reconcile(t)
	if ownLevels.above(t) {
		s.duties.try("raise the feature levels", func(ctx context.Context) error { return s.raise(ctx, t) })
	}
	s.rebuild(t)
	s.reset(t)
	s.settle(t)
	v := s.outlook(t)
	calm := s.calm(v)
	s.place(t, v, calm)
	s.balance(t, v, calm)
	changes, err := limitChanges(t)
	if err != nil || len(changes) > 0 {
		s.duties.try("set limits", func(ctx context.Context) error {
			if err != nil {
				return err
			}
			return s.proposeDuty(ctx, Command{SetLimits: &SetLimits{Expect: t.Version, Limits: changes}})
		})
	}
}

// The counted bits of a version (R3), and how many changes before their end a new grant is asked for.
const (
	counterMask    = 1<<44 - 1
	counterReserve = 1 << 32
)

// grant sees to it that a shard which this node leads has what the table grants it, and the feature
// level that the table has for shards. The grant comes first: the shard serves with it, and the raise
// follows at once.
func (s *Service) grant(sh Shard, level uint8, has fsm.Stats) {
	g := sh.Grant()
	raise := func(ctx context.Context) error {
		if level <= has.Level {
			return nil
		}
		return s.host.Raise(ctx, sh.ID, level)
	}
	switch {
	case newerGrant(g, has):
		s.duties.try(fmt.Sprintf("grant shard %d", sh.ID), func(ctx context.Context) error {
			if err := s.host.Grant(ctx, sh.ID, g); err != nil {
				return err
			}
			return raise(ctx)
		})
	case level > has.Level:
		s.duties.try(fmt.Sprintf("raise shard %d", sh.ID), raise)
	case g.TableVersion > has.TableVersion:
		s.duties.try(fmt.Sprintf("limit shard %d", sh.ID), func(ctx context.Context) error {
			return s.host.SetLimit(ctx, sh.ID, g.Limit, g.TableVersion)
		})
	case has.VersionBits() == g.VersionBits && has.Version&counterMask >= counterMask-counterReserve:
		s.duties.try(fmt.Sprintf("regrant shard %d", sh.ID), func(ctx context.Context) error {
			return s.proposeDuty(ctx, Command{Regrant: &Regrant{Shard: sh.ID, Expect: g.VersionBits}})
		})
	}
}

// newerGrant reports whether g would change a machine that reports has, by the order of grants (see
// fsm.Grant): generation, epoch, version bits. The bits must be new whatever else is.
func newerGrant(g fsm.Grant, has fsm.Stats) bool {
	switch {
	case has.Generation != 0 && g.VersionBits <= has.VersionBits():
		return false
	case g.Generation != has.Generation:
		return g.Generation > has.Generation
	case g.Epoch != has.Epoch:
		return g.Epoch > has.Epoch
	}
	return g.VersionBits > has.VersionBits()
}

// retire destroys the replicas of this node that the table does not list any more. An r is the table
// version that allotted it, so a table of an earlier version says nothing of it.
func (s *Service) retire(t *Table) {
	if !t.Founded() {
		return
	}
	for _, id := range s.host.Replicas() {
		if m, member := t.member(id.Shard, s.self.ID); id.R > t.Version || member && m.R == id.R || s.keeps(t, id) {
			continue
		}
		if t.doubtful(id) {
			s.duties.try(fmt.Sprintf("leave replica %s", id), func(ctx context.Context) error { return s.leave(ctx, id) })
			continue
		}
		s.duties.try(fmt.Sprintf("destroy replica %s", id), func(context.Context) error { return s.destroy(t, id) })
	}
}

// keeps reports whether the state of a replica of this node is to become that of its successor, which is not open yet. Opening that destroys it.
func (s *Service) keeps(t *Table, id shard.ReplicaID) bool {
	sh, ok := t.Shard(id.Shard)
	if !ok || sh.Kept != id.R || sh.Bootstrap[0].Node != s.self.ID || !slices.Contains(sh.Members, sh.Bootstrap[0]) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err, tried := s.opened[sh.Bootstrap[0].id(sh.ID)]
	return !tried || err != nil
}

// destroy destroys a replica of this node that a table does not list.
func (s *Service) destroy(t *Table, id shard.ReplicaID) error {
	s.mu.Lock()
	delete(s.opened, id)
	s.mu.Unlock()
	s.leaveDirectory(id)
	err := s.host.Destroy(id.Shard, id.R)
	s.leaveDirectory(id) // it may have been opened just before
	if began := t.began(id.Shard); err == nil && id.R < began {
		s.log.Warn("a replica of a former generation is destroyed, as its shard was recovered", "shard", id.Shard, "replica", id.String(), "epoch", began)
	}
	if err == nil && id.Shard == shard.Directory && id.R < t.Rebuilt {
		s.log.Warn("a replica of the directory that was lost is destroyed, as the directory was rebuilt", "replica", id.String(), "version", t.Rebuilt)
	}
	return err
}

// knows reports whether a table knows this node by this data folder.
func (s *Service) knows(t *Table) bool {
	n, ok := t.Nodes[s.self.ID]
	return ok && n.Incarnation == s.self.Incarnation
}

// unopened returns the replicas that the table puts on this node and that are not open. Where the table
// knows the node's id by another data folder, they are that one's: opened here too, with nothing in them,
// they would take back what it said.
func (s *Service) unopened(t *Table) []shard.Spec {
	if !s.knows(t) {
		return nil
	}
	doubtful := map[shard.ID]shard.ReplicaID{}
	if t.Rebuilt > 0 {
		for _, id := range s.host.Replicas() {
			if m, member := t.member(id.Shard, s.self.ID); t.doubtful(id) && !(member && m.R == id.R) {
				doubtful[id.Shard] = id
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var specs []shard.Spec
	for _, sh := range t.Shards {
		id, there := doubtful[sh.ID]
		if err, tried := s.opened[id]; there && !(tried && err == nil) { // its shard may need it
			specs = append(specs, shard.Spec{Shard: id.Shard, R: id.R, Volatile: t.Settings.MemoryOnly})
		}
	}
	if own, member := t.member(shard.Directory, s.self.ID); member && s.group == nil {
		specs = append(specs, shard.Spec{Shard: shard.Directory, R: own.R})
	}
	for _, sh := range t.Shards {
		own, member := sh.Member(s.self.ID)
		if err, tried := s.opened[own.id(sh.ID)]; !member || tried && err == nil {
			continue
		}
		spec := shard.Spec{Shard: sh.ID, R: own.R, Volatile: t.Settings.MemoryOnly}
		if slices.ContainsFunc(sh.Bootstrap, func(m Member) bool { return m.Node == own.Node && m.R == own.R }) {
			spec.Campaign = sh.Bootstrap[0].Node == s.self.ID
			for _, m := range sh.Bootstrap {
				spec.Members = append(spec.Members, shard.Member{Node: m.Node, R: m.R})
			}
			if sh.Kept > 0 {
				spec.Keep = shard.Keep{R: sh.Kept, Grant: sh.Grant()}
			}
		}
		specs = append(specs, spec)
	}
	return specs
}

// id is the member's server id.
func (m Member) id(of shard.ID) shard.ReplicaID {
	return shard.ReplicaID{Shard: of, Node: m.Node, R: m.R}
}

// openTogether is how many replicas are opened at the same time: each waits for its disk, and they share the syncs.
const openTogether = 32

// open opens replicas, each for itself, and returns what failed.
func (s *Service) open(ctx context.Context, specs []shard.Spec) error {
	var opens sync.WaitGroup
	failed := make([]error, len(specs))
	turns := make(chan struct{}, openTogether)
	for n, spec := range specs {
		turns <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		opens.Go(func() {
			defer func() { <-turns }()
			failed[n] = s.openOne(spec)
		})
	}
	opens.Wait()
	return errors.Join(failed...)
}

// openOne opens a replica, and notes what came of it.
func (s *Service) openOne(spec shard.Spec) error {
	if spec.Shard == shard.Directory {
		return s.openDirectory(spec)
	}
	err := s.host.OpenCache(spec)
	s.mu.Lock()
	s.opened[shard.ReplicaID{Shard: spec.Shard, Node: s.self.ID, R: spec.R}] = err
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("shard %d: %w", spec.Shard, err)
	}
	return nil
}
