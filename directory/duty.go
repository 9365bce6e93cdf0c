package directory

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// dutyTimeout bounds one try of a duty.
	dutyTimeout = 3 * time.Second
	// dutyPause is the time between two tries of a duty that failed; a hurried one waits less.
	dutyPause = 500 * time.Millisecond
)

// duties runs what the service's loop finds to be done but must not wait for: one goroutine per
// name at most, so that a directory without a quorum delays no grant of a shard. Close waits for
// all of them. What has to be done is found anew at each tick, so a failed duty keeps no state but
// the time of its next try.
type duties struct {
	ctx context.Context
	log *slog.Logger
	wg  sync.WaitGroup

	mu    sync.Mutex // guards all below
	state map[string]*dutyState
}

type dutyState struct {
	running   bool
	notBefore time.Time
	failure   string // of the last try, to log a lasting one once
}

func newDuties(ctx context.Context, log *slog.Logger) *duties {
	return &duties{ctx: ctx, log: log, state: make(map[string]*dutyState)}
}

// try starts f under name, unless it runs or failed just now.
func (d *duties) try(name string, f func(ctx context.Context) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.state[name]
	if st == nil {
		st = &dutyState{}
		d.state[name] = st
	}
	if st.running || time.Now().Before(st.notBefore) || d.ctx.Err() != nil {
		return
	}
	st.running = true
	d.wg.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, dutyTimeout)
		defer cancel()
		err := f(ctx)
		d.done(st, name, err)
	})
}

func (d *duties) done(st *dutyState, name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	st.running = false
	if err == nil {
		delete(d.state, name) // nothing to remember; operations and replicas come and go for ever
		return
	}
	st.notBefore = time.Now().Add(dutyPause)
	if err.Error() != st.failure && d.ctx.Err() == nil {
		st.failure = err.Error()
		d.log.Info("not done yet, will be tried again", "duty", name, "err", err)
	}
}

// wait returns when all have ended; the context that they got must be cancelled.
func (d *duties) wait() { d.wg.Wait() }
