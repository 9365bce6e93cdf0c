package directory

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

	"github.com/larder-cache/larder/shard"
)

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
	hands hands
	heat  *heat

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
	s.heat = newHeat()
	s.router = &Router{
		self:    h.Node(),
		latest:  s.latest,
		known:   s.Known,
		leader:  s.soft.leader,
		hot:     s.heat.is,
		up:      func(node string) bool { state, _ := s.soft.state(node); return state == NodeUp },
		do:      h.Do,
		doBatch: h.DoBatch,
		scan:    h.Scan,
		erase:   h.Erase,
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
