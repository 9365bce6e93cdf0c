package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/history"
)

// worker is one client. It belongs to its goroutine.
type worker struct {
	l       *Load
	rng     *rand.Rand
	c       *client.Client
	targets []client.Target
	route   string
	again   bool // sends writes again
	process int
	lanes   []int // processes of the operations of a batch
	// seen is the version last shown of each key, 0 when there was none.
	seen     map[string]uint64
	interval time.Duration // between requests; 0: think
}

// paced calls f again and again, at the client's pace, until ctx ends.
func (w *worker) paced(ctx context.Context, f func()) {
	defer w.c.Close()
	pause := time.NewTimer(time.Duration(w.rng.Int64N(int64(w.interval) + 1)))
	defer pause.Stop()
	next := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		f()
		if w.interval == 0 {
			pause.Reset(w.l.cfg.Think/2 + time.Duration(w.rng.Int64N(int64(w.l.cfg.Think)+1)))
			continue
		}
		// 1/2 to 3/2 of the interval after the last one was due. What was missed is not made up for.
		next = next.Add(w.interval/2 + time.Duration(w.rng.Int64N(int64(w.interval)+1)))
		if now := time.Now(); now.Sub(next) > time.Second {
			next = now
		}
		pause.Reset(time.Until(next))
	}
}

// onKeys is the work of a client of keys.
func onKeys(ctx context.Context, w *worker) {
	w.paced(ctx, func() {
		s := w.l.keys.take(w.rng)
		if s == nil {
			return
		}
		o := w.perform(ctx, s, w.next(s))
		if load := w.load(s, &o); load != nil && w.l.keys.retake(s) {
			w.perform(ctx, s, *load)
		}
	})
}

// perform sends an operation and gives the key back.
func (w *worker) perform(ctx context.Context, s *slot, o history.Operation) history.Operation {
	o.Process = w.process
	target := w.targets[w.rng.IntN(len(w.targets))]
	switch {
	case o.Local: // any, so that most are followers
		target = w.l.cfg.Targets[w.rng.IntN(len(w.l.cfg.Targets))]
	case !o.Kind.Old():
		o.Route = w.route
	}
	if w.again && o.Kind.Write() && o.Kind != history.Touch {
		o = w.insist(ctx, o)
	} else {
		// An operation that has begun is not cut short by Stop: its answer is wanted.
		o = w.c.Do(context.WithoutCancel(ctx), target, o)
	}
	w.l.keys.give(s, &o)
	w.l.count(&o)
	switch {
	case o.Outcome == history.Unknown:
		w.process = w.l.recorder.NewProcess()
	case o.Outcome == history.OK && !o.Kind.Old(): // a condition must name a version that the search for an order has met
		w.seen[s.key] = o.Version
	}
	return o
}

// How a client insists.
const (
	mostAttempts = 5
	// lateOneIn and lapsedOneIn: how seldom an attempt follows seconds later, and so late that its key is forgotten.
	lateOneIn, lapsedOneIn = 10, 60
	// repeatOneIn: how seldom what was settled is sent again.
	repeatOneIn = 20
)

// insist sends o under an idempotency key until it is settled, at one node after the other.
func (w *worker) insist(ctx context.Context, o history.Operation) history.Operation {
	// Where there is little room, little of what carries no time can be remembered.
	opaque := w.l.cfg.SteadyClocks && !w.l.cfg.Tight && w.rng.IntN(4) == 0
	o.IdempotencyKey = fmt.Sprintf("%s-%d", w.l.cfg.Prefix, w.l.values.Add(1))
	if !opaque {
		o.IdempotencyKey = fmt.Sprintf("%d-%s", time.Now().UnixMilli(), o.IdempotencyKey)
	}
	first := w.rng.IntN(len(w.targets))
	node := func(n int) client.Target {
		if n == 1 {
			return w.targets[first]
		}
		return w.l.cfg.Targets[(first+n)%len(w.l.cfg.Targets)]
	}
	late := time.Duration(0)
	switch {
	case opaque: // remembered for less long than it might be under way
	case w.rng.IntN(lapsedOneIn) == 0:
		late = 32 * time.Second
	case w.rng.IntN(lateOneIn) == 0:
		late = time.Second + time.Duration(w.rng.Int64N(int64(9*time.Second)))
	}
	o = w.c.DoAgain(ctx, func(n int) (client.Target, time.Duration) {
		switch {
		case n == 1:
			return node(n), 0
		case n == 2 && late > 0:
			return node(n), late
		}
		return node(n), time.Duration(10+w.rng.IntN(90<<(n-2))) * time.Millisecond
	}, mostAttempts, o)
	if w.rng.IntN(repeatOneIn) == 0 {
		w.c.Repeat(context.WithoutCancel(ctx), node(2), o)
	}
	return o
}

// next makes up an operation on a key.
func (w *worker) next(s *slot) history.Operation {
	o := history.Operation{Key: s.key}
	f := s.flavor
	total := 0
	for _, p := range f.mix {
		total += p.weight
	}
	n := w.rng.IntN(total)
	for _, p := range f.mix {
		if n -= p.weight; n < 0 {
			p.set(w, &o)
			break
		}
	}
	w.complete(f, &o)
	return o
}

// complete gives an operation that stores something its value and time to live.
func (w *worker) complete(f *flavor, o *history.Operation) {
	if !o.Kind.Stores() {
		return
	}
	if f.ttl != nil {
		o.TTL = f.ttl(w.rng)
	}
	if o.Kind == history.Append {
		o.Value = fmt.Sprintf("%s.%d;", w.l.cfg.Prefix, w.l.values.Add(1))
		return
	}
	o.Value = w.value(w.l.cfg.Tight && !f.loads)
}

// load is what follows a miss where clients load: a write of the value, by the right to do so if there was one.
func (w *worker) load(s *slot, o *history.Operation) *history.Operation {
	if !s.flavor.loads || o.Kind != history.Get || o.Outcome != history.OK || o.Found || o.Fill > 0 && o.FillToken == 0 {
		return nil
	}
	put := history.Operation{Key: o.Key, Kind: history.Put}
	if o.FillToken != 0 {
		put.Kind, put.FillToken = history.Create, o.FillToken
	}
	w.complete(s.flavor, &put)
	return &put
}

// value makes a value that is stored nowhere else in the run: values of two loads differ by prefix. Most are small, unless
// they are to take much room.
func (w *worker) value(roomy bool) string {
	size := w.rng.IntN(200)
	switch n := w.rng.IntN(100); {
	case n == 0:
		size = w.rng.IntN(w.l.cfg.Large)
	case n < 8 || roomy && n < 70:
		size = w.rng.IntN(min(4<<10, w.l.cfg.Large))
	}
	s := fmt.Sprintf("%d of %s ", w.l.values.Add(1), w.l.cfg.Prefix)
	return s + strings.Repeat("x", max(0, size-len(s)))
}
