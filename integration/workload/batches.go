package workload

import (
	"context"

	"github.com/larder-cache/larder/integration/history"
)

const (
	// mostOps is how many operations a batch has at most.
	mostOps = 10
	// atomicOneIn: how seldom a batch is atomic.
	atomicOneIn = 3
)

// onBatches is the work of a client that sends batches: on keys of all shards, some of them twice, or atomic ones on a few keys of
// one group.
func onBatches(ctx context.Context, w *worker) {
	w.paced(ctx, func() {
		atomic := w.rng.IntN(atomicOneIn) == 0
		slots, ops := w.batch(1+w.rng.IntN(mostOps), atomic)
		if len(ops) == 0 {
			return
		}
		target := w.targets[w.rng.IntN(len(w.targets))]
		// As a single operation, a batch that has begun is not cut short by Stop.
		for i, o := range w.c.Batch(context.WithoutCancel(ctx), target, ops, atomic) {
			w.l.keys.give(slots[i], &o)
			w.l.count(&o)
			switch {
			case o.Outcome == history.Unknown:
				w.lanes[i] = w.l.recorder.NewProcess()
			case o.Outcome == history.OK:
				w.seen[o.Key] = o.Version
			}
		}
	})
}

// batch makes up operations, and the keys that they are on. Those of an atomic batch are on different keys: a condition that does
// not hold tells of what is there, whatever the others would have made of it.
func (w *worker) batch(n int, atomic bool) (slots []*slot, ops []history.Operation) {
	first := w.l.keys.take(w.rng)
	if first == nil {
		return nil, nil
	}
	slots = []*slot{first}
	if atomic {
		slots = append(slots, w.l.keys.takeLike(first, n-1)...)
	}
	for !atomic && len(slots) < n {
		s := slots[w.rng.IntN(len(slots))]
		if w.rng.IntN(3) > 0 || !w.l.keys.retake(s) {
			if s = w.l.keys.take(w.rng); s == nil {
				break
			}
		}
		slots = append(slots, s)
	}
	for i, s := range slots {
		o := w.next(s)
		if len(w.lanes) == i {
			w.lanes = append(w.lanes, w.l.recorder.NewProcess())
		}
		o.Process = w.lanes[i]
		ops = append(ops, o)
	}
	return slots, ops
}
