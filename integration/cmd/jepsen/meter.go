package main

import (
	"context"
	"slices"
	"sort"
	"sync"
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

// pulse is what the clients had come to at a time.
type pulse struct {
	at      time.Duration
	done    int64 // the load's successes
	ok, bad int   // of all that is recorded
}

// pulses are taken all the time, so that a recovery counts which was over before anybody looked for it.
type pulses struct {
	mu    sync.Mutex // guards taken
	taken []pulse
}

// pulseTime is between two of them, a part of meterTime.
const (
	pulseParts = 5
	pulseTime  = meterTime / pulseParts
)

// take adds pulses until ctx ends.
func (p *pulses) take(ctx context.Context, r *runner) {
	for ctx.Err() == nil {
		count := r.recorder.Count()
		now := pulse{r.recorder.Now(), r.done(), count[history.OK], count[history.Refused] + count[history.Unknown]}
		p.mu.Lock()
		p.taken = append(p.taken, now)
		p.mu.Unlock()
		sleep(ctx, pulseTime)
	}
}

// since returns those from a time on.
func (p *pulses) since(at time.Duration) []pulse {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := sort.Search(len(p.taken), func(i int) bool { return p.taken[i].at >= at })
	return slices.Clone(p.taken[i:])
}

// recover waits until the clients' successes are back after a time, and returns when the second began in which they were:
// at their share of what they were, or, as machines become slow too, hardly anything of what is asked for fails.
func (r *runner) recover(ctx context.Context, after time.Duration) (back time.Duration, ok bool) {
	for ctx.Err() == nil {
		taken := r.pulses.since(after)
		for i := 0; i+pulseParts < len(taken); i++ {
			first, last := taken[i], taken[i+pulseParts]
			if first.at > after+recoverTime {
				return 0, false
			}
			rate := float64(last.done-first.done) / (last.at - first.at).Seconds()
			if rate >= recoverShare*r.rate || rate >= r.o.least && wellFrom(first, last) {
				return first.at, true
			}
		}
		sleep(ctx, pulseTime)
	}
	return 0, false
}

// wellFrom reports whether hardly anything failed from one pulse to another.
func wellFrom(first, last pulse) bool {
	const share = 0.95
	ok, bad := last.ok-first.ok, last.bad-first.bad
	return float64(ok) >= share*float64(ok+bad)
}
