package main

import (
	"context"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

const (
	// meterTime is over what time a rate is measured.
	meterTime = time.Second
	// recoverTime is within what the clients' successes must be back, recoverShare how many of them.
	recoverTime  = 10 * time.Second
	recoverShare = 0.8
)

// meter measures the rate at which something that is counted happens.
type meter struct {
	done  func() int64
	since time.Time
	count int64
}

func newMeter(done func() int64) *meter {
	return &meter{done: done, since: time.Now(), count: done()}
}

// rate is that since it was last asked for.
func (m *meter) rate() float64 {
	now, count := time.Now(), m.done()
	rate := float64(count-m.count) / now.Sub(m.since).Seconds()
	m.since, m.count = now, count
	return rate
}

// recover waits until the clients' successes are back at their share of what they were, and returns when the
// second began in which they were. Where they are not, but hardly anything fails, it is the machine that became slow, not
// the cluster that does not serve: that time is 0 then, and what they are is what they must be back at from then on.
func (r *runner) recover(ctx context.Context) (back time.Duration, ok bool) {
	waiting, cancel := context.WithTimeout(ctx, recoverTime+meterTime)
	defer cancel()
	// Several meters, each a part of a second later than the one before, so that a second may begin at any of them.
	const parts = 5
	type started struct {
		at    time.Duration
		meter *meter
	}
	var running []started
	for waiting.Err() == nil {
		running = append(running, started{r.recorder.Now(), newMeter(r.done)})
		sleep(waiting, meterTime/parts)
		if len(running) < parts {
			continue
		}
		first := running[0]
		running = running[1:]
		if rate := first.meter.rate(); rate >= recoverShare*r.rate {
			return first.at, true
		}
	}
	return 0, ctx.Err() == nil && r.slowButWell(ctx)
}

// slowButWell reports whether clients have what they ask for, if slowly.
func (r *runner) slowButWell(ctx context.Context) bool {
	const wellShare = 0.95
	before, rates := r.recorder.Count(), newMeter(r.done)
	sleep(ctx, meterTime)
	after, rate := r.recorder.Count(), rates.rate()
	ok := after[history.OK] - before[history.OK]
	bad := after[history.Refused] - before[history.Refused] + after[history.Unknown] - before[history.Unknown]
	if rate < r.o.least || float64(ok) < wellShare*float64(ok+bad) {
		return false
	}
	r.note("%d of %d operations succeed, but %.0f a second instead of %.0f: a slow machine", ok, ok+bad, rate, r.rate)
	r.rate = rate
	return true
}
