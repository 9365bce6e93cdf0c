package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// fillTries is how often a key is stored until the filling gives up: servers that elect or are full of requests ask for patience.
const fillTries = 50

// Fill stores a value under each key, once, with all clients at once. It fails where a key can't be stored, or
// ctx ends before all are.
func Fill(ctx context.Context, cfg Config, dial Dial) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	conns, err := dialAll(ctx, cfg.Clients, dial)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v := newValues(&cfg)
	var next, stored atomic.Uint64
	var clients sync.WaitGroup
	for i, conn := range conns {
		choose := newChooser(&cfg, i, nil, v)
		clients.Go(func() {
			for n := next.Add(1) - 1; n < cfg.Keys && ctx.Err() == nil; n = next.Add(1) - 1 {
				if err := store(ctx, conn, choose.keyAt(n), choose.value()); err != nil {
					cancel(err)
					return
				}
				stored.Add(1)
			}
		})
	}
	began := time.Now()
	report(&clients, cfg.Progress, func() (Progress, uint64) {
		done := stored.Load()
		return Progress{Elapsed: time.Since(began), Keys: done, AllKeys: cfg.Keys}, done
	})
	return context.Cause(ctx)
}

// store puts a value, again where that did not work: which of several equal writes stays makes no difference here.
func store(ctx context.Context, conn Conn, key, value []byte) error {
	var timer pause
	for try := 1; ; try++ {
		err := conn.Put(ctx, key, value)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		f := failureOf(err)
		if f.Kind == Denied || f.Kind == Rejected || try == fillTries {
			return f
		}
		timer.wait(failurePause * time.Duration(try))
	}
}
