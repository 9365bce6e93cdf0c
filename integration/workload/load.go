package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/history"
)

// Config describes a load. All fields must be set but Roaming.
type Config struct {
	Targets []client.Target
	Pinned  int // clients for each target
	Roaming int // clients that ask a random target each time
	Keys    int // in use at a time
	// Prefix of all keys of this load.
	Prefix string
	// Timeout is how long a client waits for an answer. It differs a little from client to client.
	Timeout time.Duration
	// Think is the pause of a client between an answer and its next request.
	Think time.Duration
	Seed  uint64
}

// Load is a set of clients at work.
type Load struct {
	cfg      Config
	recorder *history.Recorder
	keys     *keys
	done     atomic.Int64 // operations that ended OK
	values   atomic.Int64 // values made so far
	cancel   context.CancelFunc
	clients  sync.WaitGroup
}

// Start starts the clients; they work until Stop.
func Start(ctx context.Context, r *history.Recorder, cfg Config) *Load {
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cfg: cfg, recorder: r, keys: newKeys(cfg.Prefix, cfg.Keys), cancel: cancel}
	n := uint64(0)
	start := func(targets []client.Target) {
		n++
		rng := rand.New(rand.NewPCG(cfg.Seed, n))
		l.clients.Go(func() { l.run(ctx, targets, rng) })
	}
	for i := range cfg.Targets {
		for range cfg.Pinned {
			start(cfg.Targets[i : i+1])
		}
	}
	for range cfg.Roaming {
		start(cfg.Targets)
	}
	return l
}

// Stop ends the load and waits for the operations that are under way.
func (l *Load) Stop() {
	l.cancel()
	l.clients.Wait()
}

// Done returns how many operations ended OK so far.
func (l *Load) Done() int64 { return l.done.Load() }

// Keys returns all keys that the load used so far.
func (l *Load) Keys() []string { return l.keys.names() }

// run is one client.
func (l *Load) run(ctx context.Context, targets []client.Target, rng *rand.Rand) {
	// 3/4 to 5/4 of the timeout, so that not all give up at the same time.
	timeout := l.cfg.Timeout*3/4 + time.Duration(rng.Int64N(int64(l.cfg.Timeout/2)))
	c := client.New(l.recorder, timeout)
	defer c.Close()
	process := l.recorder.NewProcess()
	seen := map[string]uint64{} // the version last shown of each key
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		if s := l.keys.take(rng); s != nil {
			o := l.next(rng, s.key, seen[s.key])
			o.Process = process
			target := targets[rng.IntN(len(targets))]
			if o.Local { // any, so that most are followers
				target = l.cfg.Targets[rng.IntN(len(l.cfg.Targets))]
			}
			// An operation that has begun is not cut short by Stop: its answer is wanted.
			o = c.Do(context.WithoutCancel(ctx), target, o)
			l.keys.give(s, o)
			switch {
			case o.Outcome == history.Unknown:
				process = l.recorder.NewProcess()
			case o.Outcome == history.OK && o.Kind.Old():
				l.done.Add(1) // a condition must name a version that the search for an order has met
			case o.Outcome == history.OK:
				l.done.Add(1)
				seen[s.key] = o.Version
			}
		}
		pause.Reset(l.cfg.Think/2 + time.Duration(rng.Int64N(int64(l.cfg.Think)+1)))
	}
}

// maxStaleness is the bound of the reads that have one: short enough that a run sees it pass often.
const maxStaleness = time.Second

// next makes up an operation; version is the one last shown of key, 0 when there was none.
func (l *Load) next(rng *rand.Rand, key string, version uint64) history.Operation {
	o := history.Operation{Key: key}
	switch n := rng.IntN(100); {
	case n < 20:
		o.Kind = history.Get
	case n < 36:
		o.Kind, o.Local = history.Get, true
	case n < 43:
		o.Kind, o.MaxStaleness, o.Local = history.GetBounded, maxStaleness, rng.IntN(2) == 0
	case n < 46:
		o.Kind, o.Local = history.GetAny, rng.IntN(2) == 0
	case n < 70:
		o.Kind = history.Put
	case n < 80:
		o.Kind = history.Create
	case n < 90 && version != 0:
		o.Kind = history.Replace
	case n < 94 && version != 0:
		o.Kind = history.DeleteIf
	default:
		o.Kind = history.Delete
	}
	if o.Kind == history.Replace || o.Kind == history.DeleteIf {
		o.IfMatch = version
	}
	if o.Kind.Stores() {
		o.Value = l.value(rng)
	}
	return o
}

// value makes a value that is stored nowhere else in the run: values of two loads differ by prefix.
func (l *Load) value(rng *rand.Rand) string {
	return fmt.Sprintf("%d of %s %s", l.values.Add(1), l.cfg.Prefix, strings.Repeat("x", rng.IntN(200)))
}
