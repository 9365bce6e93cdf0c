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

// recover waits until the clients' successes are back, and returns when the second began in which they were: at their
// share of what they were, or, as machines become slow too, hardly anything of what is asked for fails.
func (r *runner) recover(ctx context.Context) (back time.Duration, ok bool) {
	waiting, cancel := context.WithTimeout(ctx, recoverTime+meterTime)
	defer cancel()
	// Several meters, each a part of a second later than the one before, so that a second may begin at any of them.
	const parts = 5
	type started struct {
		at     time.Duration
		meter  *meter
		before map[history.Outcome]int
	}
	var running []started
	for waiting.Err() == nil {
		running = append(running, started{r.recorder.Now(), newMeter(r.done), r.recorder.Count()})
		sleep(waiting, meterTime/parts)
		if len(running) < parts {
			continue
		}
		first := running[0]
		running = running[1:]
		rate := first.meter.rate()
		if rate >= recoverShare*r.rate || rate >= r.o.least && well(first.before, r.recorder.Count()) {
			return first.at, true
		}
	}
	return 0, false
}

// well reports whether hardly anything failed between two counts.
func well(before, after map[history.Outcome]int) bool {
	const share = 0.95
	ok := after[history.OK] - before[history.OK]
	bad := after[history.Refused] - before[history.Refused] + after[history.Unknown] - before[history.Unknown]
	return float64(ok) >= share*float64(ok+bad)
}
