package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/history"
)

// settingKey is the setting that directory changes, and no other: all settings share one version. It has no effect
// without clients that store something, and a later workload in the same cluster must reckon with what is left there.
const settingKey = client.SettingPrefix + "default-ttl"

// changePause is how long a client that may not change the setting now waits before it does something else.
const changePause = 200 * time.Millisecond

// onDirectory is the work of a client of the directory.
func onDirectory(ctx context.Context, w *worker) {
	if !w.l.seed(ctx, w) {
		return
	}
	w.paced(ctx, func() {
		target := w.targets[w.rng.IntN(len(w.targets))]
		switch n := w.rng.IntN(100); {
		case n >= 70:
			if !w.change(ctx, target) {
				pause(ctx, changePause)
			}
		case n < 30:
			w.setting(ctx, target, history.Operation{Kind: history.GetAny})
		default:
			if table, ok := w.c.Table(context.WithoutCancel(ctx), target); ok {
				w.l.done.Add(1)
				if err := w.l.tables.see(table); err != nil {
					w.l.recorder.Defect(fmt.Errorf("the table of %s: %w", target.Node, err))
				}
			}
		}
	})
}

// change changes the setting. An answer that shows the change of another is worth nothing to a checker, so most changes are
// made while there is no other; a part of them meet one. It reports false where it left it to another.
func (w *worker) change(ctx context.Context, target client.Target) bool {
	t := &w.l.tables
	switch {
	case t.alone.TryLock():
		t.guest.Store(w.rng.IntN(6) == 0)
		defer t.alone.Unlock()
		defer t.guest.Store(false)
	case !t.guest.CompareAndSwap(true, false):
		return false
	}
	o := history.Operation{Kind: history.Put}
	if w.seen[settingKey] != 0 && w.rng.IntN(10) == 0 { // mostly in vain, since others change it too
		o.Kind = history.Replace
	}
	// At once, at a node that may not know of the first one yet.
	if o = w.setting(ctx, target, o); o.Outcome == history.OK && w.rng.IntN(3) == 0 {
		w.setting(ctx, w.l.cfg.Targets[w.rng.IntN(len(w.l.cfg.Targets))], history.Operation{Kind: history.Replace})
	}
	return true
}

// setting performs an operation on the setting.
func (w *worker) setting(ctx context.Context, target client.Target, o history.Operation) history.Operation {
	o.Key, o.Process = settingKey, w.process
	if o.Kind.Write() {
		o.Value = w.l.settingValue()
	}
	if o.Kind == history.Replace {
		o.IfMatch = w.seen[settingKey]
	}
	o = w.c.DoSetting(context.WithoutCancel(ctx), target, w.l.tables.first(), o)
	w.l.count(&o)
	switch {
	case o.Outcome == history.Unknown:
		w.process = w.l.recorder.NewProcess()
	case o.Outcome == history.OK && o.Kind.Write():
		w.seen[settingKey] = o.Version
	}
	return o
}

// settingValue is a time to live that is set nowhere else in the run, written as the server shows it.
func (l *Load) settingValue() string {
	base := rand.New(rand.NewPCG(l.cfg.Seed, 0)).Int64N(1e8)
	// Whole milliseconds that are no whole seconds: so the text ends in no unit of 0.
	return (time.Duration(base+l.values.Add(1))*time.Second + time.Millisecond).String()
}

// seed makes the first change of the setting, before which a history of it knows nothing; it reports false where ctx ended first.
// One client does it, all wait for it.
func (l *Load) seed(ctx context.Context, w *worker) bool {
	l.tables.seeding.Lock()
	defer l.tables.seeding.Unlock()
	for l.tables.first() == 0 {
		if ctx.Err() != nil {
			return false
		}
		o := w.setting(ctx, w.targets[w.rng.IntN(len(w.targets))], history.Operation{Kind: history.Create})
		if o.Outcome == history.OK {
			l.tables.begin(o.Version)
		} else {
			pause(ctx, 20*time.Millisecond)
		}
	}
	return true
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// tables remembers the tables that nodes have shown.
type tables struct {
	seeding sync.Mutex  // held by who makes the first change
	alone   sync.Mutex  // held by who makes a change
	guest   atomic.Bool // another may make one beside it

	mu      sync.Mutex // guards what follows
	version uint64     // of the first change of the setting, 0 before it
	shown   map[uint64]string
}

func (t *tables) first() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version
}

func (t *tables) begin(version uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version = version
}

// slots is how many there are.
const slots = 16384

// see holds a table against itself and those seen before: its ranges divide the slots, and one version has one content.
func (t *tables) see(table client.Table) error {
	shards := slices.Clone(table.Shards)
	slices.SortFunc(shards, func(a, b client.TableShard) int { return int(a.Start) - int(b.Start) })
	end := uint64(0)
	var errs []error
	for _, s := range shards {
		if s.Start != end || s.End <= s.Start {
			errs = append(errs, fmt.Errorf("version %d: shard %d has the slots %d to %d, after %d", table.Version, s.ID, s.Start, s.End, end))
		}
		end = s.End
	}
	if end != slots {
		errs = append(errs, fmt.Errorf("version %d: the shards end at slot %d of %d", table.Version, end, slots))
	}
	content := fmt.Sprint(table.Shards)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown == nil {
		t.shown = map[uint64]string{}
	}
	if before, ok := t.shown[table.Version]; ok && before != content {
		errs = append(errs, fmt.Errorf("version %d is %s, and was %s", table.Version, content, before))
	}
	t.shown[table.Version] = content
	return errors.Join(errs...)
}
