package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// Config describes a load.
type Config struct {
	// Workload is one of Names; "" is the first.
	Workload string
	Targets  []client.Target
	// Dial is how nodes are reached; nil is a plain dial.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Pinned  int // clients for each target
	Roaming int // clients that ask a random target each time
	// Keys is how many are in use at a time, at the least.
	Keys int
	// Prefix of all keys of this load.
	Prefix string
	// Timeout is how long a client waits for an answer. It differs a little from client to client.
	Timeout time.Duration
	// Rate is how many requests a second all clients make together, if the cluster keeps up; 0 leaves that to Think.
	Rate int
	// Think is the pause of a client between an answer and its next request, where there is no Rate.
	Think time.Duration
	Seed  uint64
	// Tight: there is too little room for what is stored, and more keys, some of them wanted far more than others, and larger
	// values make sure of it. Evict needs no telling.
	Tight bool
	// Large is the size of the largest values, bytes; 0 is 6 KiB, which a shard with room for 64 KiB takes.
	Large int
	// SteadyClocks: no clock of a node is set, so that keys that carry no time are as good as those that do.
	SteadyClocks bool

	// Nodes are those that operators of admin go to; no other workload needs them.
	Nodes []*cluster.Node
	// Shrink lets operators take a member away where there is no node that could come in its place, and put it back later.
	// A run that kills nodes meanwhile loses majorities.
	Shrink bool
}

// Names returns the names of the workloads.
func Names() []string {
	var names []string
	for _, s := range shapes {
		names = append(names, s.name)
	}
	return names
}

// Load is a set of clients at work.
type Load struct {
	cfg       Config
	shape     *shape
	recorder  *history.Recorder
	keys      *keys
	tables    tables
	operators *operators
	done      atomic.Int64 // operations that ended OK
	values    atomic.Int64 // values made so far
	cancel    context.CancelFunc
	clients   sync.WaitGroup

	mu    sync.Mutex // guards reads
	reads map[history.Kind]Reads
}

// Reads counts what reads found.
type Reads struct{ Hits, Misses int64 }

// Start starts the clients; they work until Stop. The name must be one of Names.
func Start(ctx context.Context, r *history.Recorder, cfg Config) *Load {
	i := 0
	if cfg.Workload != "" {
		i = slices.IndexFunc(shapes, func(s shape) bool { return s.name == cfg.Workload })
	}
	if i < 0 {
		panic(fmt.Sprintf("workload: there is no %q", cfg.Workload))
	}
	if cfg.Large == 0 {
		cfg.Large = 6 << 10
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cfg: cfg, shape: &shapes[i], recorder: r, cancel: cancel, reads: map[history.Kind]Reads{}}
	n := max(cfg.Keys, l.shape.keys)
	if cfg.Tight {
		n = max(n, tightKeys)
	}
	// Where not all can be there, the keys that are wanted most should be.
	l.keys = newKeys(cfg.Prefix, n, l.shape.flavors, cfg.Tight || l.shape.flavors[0].loads)
	var workers []*worker
	for i := range cfg.Targets {
		for range cfg.Pinned {
			workers = append(workers, l.newWorker(len(workers), cfg.Targets[i:i+1], ""))
		}
	}
	for i := range cfg.Roaming {
		workers = append(workers, l.newWorker(len(workers), cfg.Targets, []string{"", "redirect", "local"}[i%3]))
	}
	for _, w := range workers {
		if cfg.Rate > 0 {
			w.interval = time.Duration(len(workers)) * time.Second / time.Duration(cfg.Rate)
		}
		l.clients.Go(func() { l.shape.work(ctx, w) })
	}
	if l.shape.operated {
		l.operators = newOperators(l)
		l.clients.Go(func() { l.operators.run(ctx) })
	}
	return l
}

// tightKeys are in use, at the least, where there is too little room.
const tightKeys = 512

// newWorker makes client n of all. Every other one sends writes again.
func (l *Load) newWorker(n int, targets []client.Target, route string) *worker {
	rng := rand.New(rand.NewPCG(l.cfg.Seed, uint64(n)+1))
	// 3/4 to 5/4 of the timeout, so that not all give up at the same time.
	timeout := l.cfg.Timeout*3/4 + time.Duration(rng.Int64N(int64(l.cfg.Timeout/2)))
	return &worker{
		l: l, rng: rng, targets: targets, route: route,
		again: l.shape.retries == always || l.shape.retries == half && n%2 == 1,
		c: client.New(client.Config{
			Recorder: l.recorder, Timeout: timeout, Dial: l.cfg.Dial, Targets: l.cfg.Targets,
		}),
		process: l.recorder.NewProcess(), seen: map[string]uint64{},
	}
}

// Stop ends the load and waits for the operations that are under way. An operation that waits to be sent again is sent
// once more at once. It may be called again.
func (l *Load) Stop() {
	l.cancel()
	l.clients.Wait()
}

// Done returns how many operations ended OK so far.
func (l *Load) Done() int64 { return l.done.Load() }

// Keys returns all keys that the load used so far.
func (l *Load) Keys() []string { return l.keys.names() }

// Reads returns what the reads of each kind found so far.
func (l *Load) Reads() map[history.Kind]Reads {
	l.mu.Lock()
	defer l.mu.Unlock()
	reads := map[history.Kind]Reads{}
	for kind, n := range l.reads {
		reads[kind] = n
	}
	return reads
}

// count takes note of an operation that is over.
func (l *Load) count(o *history.Operation) {
	if o.Outcome != history.OK {
		return
	}
	l.done.Add(1)
	if !o.Kind.Read() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.reads[o.Kind]
	if o.Found {
		n.Hits++
	} else {
		n.Misses++
	}
	l.reads[o.Kind] = n
}
