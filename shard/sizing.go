package shard

import (
	"math"
	"sync"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// Sizing tells what hit ratio more memory would have given to the reads that a replica served of late: each
// counts half as much as one sizingHalfLife after it. All ratios are 0 to 1.
type Sizing struct {
	HitRatio float64 `json:"hitRatio"` // as it was
	// Estimate is the hit ratio as the sample has it, to be held against HitRatio: a sample that is far off
	// is too small, or some key that is asked for very often and never there is in it. The others don't
	// build on it, but on HitRatio and on the misses in the sample that would have hit.
	Estimate float64 `json:"estimate"`
	Plus25   float64 `json:"plus25"`  // with a quarter more memory
	Plus50   float64 `json:"plus50"`  // with half more
	Plus100  float64 `json:"plus100"` // with twice as much
	Lookups  uint64  `json:"lookups"` // reads that count, each by its age
	Samples  int     `json:"samples"` // evicted entries in the sample
}

// sizingHalfLife is short enough to follow the load over a day, and long enough for a shard that is read ten
// times a second.
const sizingHalfLife = 10 * time.Minute

// readCounts are numbers of reads.
type readCounts [countGained + fsm.Extras]uint64

const (
	countHits    = 0
	countMisses  = 1
	countSampled = 2 // misses as the sample has them
	countGained  = 3 // of these, hits with more memory, by the smallest size with which they would be
)

// recentReads are readCounts of which what is old has faded.
type recentReads struct {
	mu   sync.Mutex // guards what follows
	at   time.Duration
	seen readCounts // included in sums
	sums [len(readCounts{})]float64
}

// reach brings the sums up to date, by the clock and by what was counted since the replica opened. What came
// since the last call counts as new, so the calls are to come often, whether or not anybody looks.
func (r *recentReads) reach(clock func() time.Duration, count func() readCounts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, counts := clock(), count()
	fade := math.Exp2(-float64(now-r.at) / float64(sizingHalfLife))
	for i, n := range counts {
		r.sums[i] = r.sums[i]*fade + float64(n-r.seen[i])
	}
	r.at, r.seen = now, counts
}

// sizing makes the report; nil where there were too few reads to tell anything of.
func (r *recentReads) sizing(samples int) *Sizing {
	r.mu.Lock()
	defer r.mu.Unlock()
	hits, missed := r.sums[countHits], r.sums[countSampled]
	reads := hits + r.sums[countMisses]
	if reads < 1 {
		return nil
	}
	s := &Sizing{HitRatio: hits / reads, Estimate: max(0, 1-missed/reads), Lookups: uint64(reads), Samples: samples}
	for i, plus := range [...]*float64{&s.Plus25, &s.Plus50, &s.Plus100} {
		hits += r.sums[countGained+i]
		*plus = min(hits/reads, 1)
	}
	return s
}
