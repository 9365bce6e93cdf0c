package load

import (
	"errors"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are kept with three digits, from a microsecond to ten minutes.
const (
	lowest  = int64(time.Microsecond)
	highest = int64(10 * time.Minute)
	digits  = 3
	// maxReasons is how many different reasons for failures are counted apart.
	maxReasons  = 20
	otherReason = "other reasons"
)

// record is what some clients measured. Each has a record with few others: one of its own for each of hundreds of
// clients would push the servers out of the processor's caches.
type record struct {
	mu       sync.Mutex // guards what follows
	reads    *hdrhistogram.Histogram
	writes   *hdrhistogram.Histogram
	all      uint64 // operations, those of the warm-up too; what follows counts operations as well
	answered uint64 // successes within the time that is measured
	misses   uint64
	unsent   uint64
	failures [kinds]uint64
	reasons  map[string]uint64
}

func newRecord() *record {
	return &record{
		reads:   hdrhistogram.New(lowest, highest, digits),
		writes:  hdrhistogram.New(lowest, highest, digits),
		reasons: map[string]uint64{},
	}
}

// latencyLocked counts a request of the time that is measured.
func (r *record) latencyLocked(read bool, took time.Duration) {
	h := r.writes
	if read {
		h = r.reads
	}
	// It fails above highest alone.
	_ = h.RecordValue(min(int64(took), highest))
}

// failureLocked counts what err says of an operation of the time that is measured.
func (r *record) failureLocked(err error) {
	if errors.Is(err, ErrMissing) {
		r.misses++
		return
	}
	f := failureOf(err)
	r.failures[f.Kind]++
	reason := f.Reason
	if _, known := r.reasons[reason]; !known && len(r.reasons) >= maxReasons {
		reason = otherReason
	}
	r.reasons[reason]++
}

// failureOf returns what err is to its caller. Anything but a Failure is a mistake of the Conn: nothing is known.
func failureOf(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Kind: Unknown, Reason: err.Error()}
}

// addLocked adds all that other has.
func (r *record) addLocked(other *record) {
	r.reads.Merge(other.reads)
	r.writes.Merge(other.writes)
	r.all += other.all
	r.answered += other.answered
	r.misses += other.misses
	r.unsent += other.unsent
	for kind, n := range other.failures {
		r.failures[kind] += n
	}
	for reason, n := range other.reasons {
		r.reasons[reason] += n
	}
}
