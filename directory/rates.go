package directory

import (
	"sync"
	"time"

	"github.com/larder-cache/larder/shard"
)

// rateWindow is the time over which a leader's requests are counted.
const rateWindow = 30 * time.Second

// rates are the requests per second that the leaders of shards serve, as leaderships are placed by them: reads answered and log entries applied,
// where an entry has what was written at about one time. A shard's is known from one window after somebody began to lead it, and stays until
// another window is off by more than a quarter.
type rates struct {
	settled sizes

	mu sync.Mutex // guards of
	of map[shard.ID]*rateCount
}

// rateCount is where a leader's counters stood when the window began.
type rateCount struct {
	leader string
	done   uint64
	since  time.Time
	rate   uint64
	known  bool
}

// count takes in what a shard's leader has done in all, by its own account.
func (r *rates) count(id shard.ID, leader string, done uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = make(map[shard.ID]*rateCount)
	}
	c := r.of[id]
	if c == nil {
		c = &rateCount{}
		r.of[id] = c
	}
	passed := now.Sub(c.since)
	switch {
	case leader != c.leader || done < c.done:
	case passed < rateWindow:
		return
	default:
		c.rate, c.known = r.settled.settled(id, uint64(float64(done-c.done)/passed.Seconds())), true
	}
	c.leader, c.done, c.since = leader, done, now
}

// rate returns a shard's requests per second; false: not known yet.
func (r *rates) rate(id shard.ID) (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.of[id]; c != nil {
		return c.rate, c.known
	}
	return 0, false
}

// countRates takes in what is known of the leaders of t's shards.
func (s *Service) countRates(t *Table, now time.Time) {
	for _, sh := range t.Shards {
		leader, _ := s.soft.leader(sh.ID)
		if r, known := s.soft.replica(leader, sh.ID); known && leader != "" {
			s.rates.count(sh.ID, leader, r.hits+r.misses+r.applied, now)
		}
	}
}
