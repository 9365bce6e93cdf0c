package shard

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// Filling a miss once for all (R8). A reader that would load a missing value itself says so, and for how long
// (Request.Fill). The first to miss gets a fill token, the shard's version at its miss, and a lease on the key for
// that long. The others wait: for the value, whose put wakes them when it is applied here, or for the end of
// the lease, after which the first of them gets a token of its own. Each woken reader reads again, from a
// read barrier on.
//
// Leases are soft state of the leader and decide nothing. What keeps a late loader from overwriting what is newer
// is the token alone, in Apply (fsm.CondFill). So a lease that is lost, with its leader or for want of room,
// costs a second load and no more, and a token holds whoever leads.

const (
	// MaxFill is the longest Request.Fill.
	MaxFill = 30 * time.Second
	// maxFillKeys bounds the leases of a shard, and maxFillWaiters the reads that wait on a node: far fewer than
	// a link may have in hand (inboundRequests). Beyond them each reader gets a token at once.
	maxFillKeys    = 4096
	maxFillWaiters = 2048
)

// fills are the leases on one machine's keys. take is called with the machine's lock held for reading, settle with it
// held for writing: between the look that misses and its lease no command is applied.
type fills struct {
	held atomic.Int32 // len(leases): while it is 0 Apply has nothing to look up

	mu     sync.Mutex // guards leases
	leases map[string]*fillLease
}

// fillLease is the right of one reader to fill a key.
type fillLease struct {
	token uint64
	until time.Time
	timer *time.Timer   // ends it
	done  chan struct{} // closed at its end
}

// take leases key for d, unless somebody has it: whose lease it is then returned.
func (f *fills) take(key string, token uint64, d time.Duration) (theirs *fillLease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if l := f.leases[key]; l != nil {
		if now.Before(l.until) {
			return l
		}
		f.endLocked(key, l) // its timer is about to
	}
	if len(f.leases) >= maxFillKeys {
		return nil
	}
	if f.leases == nil {
		f.leases = map[string]*fillLease{}
	}
	l := &fillLease{token: token, until: now.Add(d), done: make(chan struct{})}
	l.timer = time.AfterFunc(d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.leases[key] == l {
			f.endLocked(key, l)
		}
	})
	f.leases[key] = l
	f.held.Store(int32(len(f.leases)))
	return nil
}

func (f *fills) endLocked(key string, l *fillLease) {
	l.timer.Stop()
	close(l.done)
	delete(f.leases, key)
	f.held.Store(int32(len(f.leases)))
}

// settle ends the leases on keys that an entry's commands changed, and those whose own fill was refused.
func (f *fills) settle(commands []fsm.Command, results []fsm.Result) {
	if f.held.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range commands {
		c := &commands[i]
		switch c.Kind {
		case fsm.KindPut, fsm.KindDelete, fsm.KindIncr, fsm.KindAppend:
		default:
			continue
		}
		l := f.leases[string(c.Key)]
		if l == nil {
			continue
		}
		changed := results[i].Status == fsm.StatusOK && results[i].Version != 0
		if changed || c.Cond == (fsm.Cond{Kind: fsm.CondFill, Version: l.token}) {
			f.endLocked(string(c.Key), l)
		}
	}
}

// end ends all leases.
func (f *fills) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, l := range f.leases {
		f.endLocked(key, l)
	}
}

// endFills wakes those who wait for a fill: this replica does not serve them any more.
func (i *instance) endFills() {
	if m, ok := i.fsm.machine.(*cacheMachine); ok {
		m.fills.end()
	}
}

// leaseFill leases key to a reader that missed it, or returns the lease that another has. missed is false where
// the key has an entry by now, or is not owned.
func (c *cacheMachine) leaseFill(key []byte, d time.Duration) (token uint64, theirs *fillLease, missed bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l := c.m.Lookup(key)
	if !l.Owned || l.Found {
		return 0, nil, false
	}
	return l.Version, c.fills.take(string(key), l.Version, d), true
}

// getToFill is get for a reader that would fill a miss. Only the leader serves it: it alone sees all who
// would. A reader that waited is counted as a miss first, and then by what it got.
func (c *Cache) getToFill(ctx context.Context, req Request) (Response, error) {
	end := time.Now().Add(req.Fill)
	for {
		i := c.group.instance()
		if i == nil {
			return Response{}, ErrStopped
		}
		if i.ready.Load() == 0 {
			return Response{}, i.notLeader()
		}
		r, err := c.get(ctx, req)
		if err != nil || r.Found {
			return r, err
		}
		token, theirs, missed := i.fsm.machine.(*cacheMachine).leaseFill(req.Key, req.Fill)
		switch {
		case !missed || i.ready.Load() == 0:
			continue // it came meanwhile, or another leads: the next read tells
		case theirs == nil:
			r.FillToken = token
			return r, nil
		case !time.Now().Before(end):
			return r, nil
		}
		if waits, err := c.awaitFill(ctx, theirs, end); err != nil {
			return Response{}, err
		} else if !waits {
			r.FillToken = token
			return r, nil
		}
	}
}

// awaitFill waits for the end of a lease, or until end. It reports false where too many wait already.
func (c *Cache) awaitFill(ctx context.Context, l *fillLease, end time.Time) (waits bool, err error) {
	h := c.group.host
	defer h.filling.Add(-1)
	if h.filling.Add(1) > maxFillWaiters {
		return false, nil
	}
	t := time.NewTimer(time.Until(end))
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
	case <-ctx.Done():
		return true, ErrDeadline
	case <-c.group.ctx.Done():
		return true, ErrStopped
	}
	return true, nil
}
