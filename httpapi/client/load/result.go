package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run measured, without its warm-up but for Sent. Numbers are of operations, and latencies of requests,
// which carry more than one where Config.Batch says so.
type Result struct {
	Seconds float64 `json:"seconds"`
	// Rate is how many operations were answered in a second, misses included, failures not.
	Rate float64 `json:"rate"`
	// Sent is how many operations were sent, the warm-up's too.
	Sent uint64 `json:"sent"`
	// Unsent is how many were due and not sent when the time was over: the servers, or the clients, can't do more.
	Unsent  uint64 `json:"unsent"`
	Misses  uint64 `json:"misses"`
	Refused uint64 `json:"refused"` // certainly not applied, or read
	Unknown uint64 `json:"unknown"` // writes, maybe applied
	// Reasons are those of what was refused or is unknown.
	Reasons map[string]uint64 `json:"reasons,omitempty"`
	All     Latencies         `json:"all"`
	Reads   Latencies         `json:"reads"`
	Writes  Latencies         `json:"writes"`

	failures [kinds]uint64
}

// Failures is how many operations failed in that way.
func (r *Result) Failures(kind Kind) uint64 { return r.failures[kind] }

// Latencies are those of some requests, in microseconds.
type Latencies struct {
	Count uint64  `json:"count"`
	Min   float64 `json:"min_us"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p99_9_us"`
	P9999 float64 `json:"p99_99_us"`
	Max   float64 `json:"max_us"`
}

func latenciesOf(h *hdrhistogram.Histogram) Latencies {
	if h.TotalCount() == 0 {
		return Latencies{}
	}
	const us = float64(time.Microsecond)
	at := func(percent float64) float64 { return float64(h.ValueAtPercentile(percent)) / us }
	return Latencies{
		Count: uint64(h.TotalCount()),
		Min:   float64(h.Min()) / us, Mean: h.Mean() / us,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), P9999: at(99.99),
		Max: float64(h.Max()) / us,
	}
}

// result reads a record that nobody writes to any more.
func (r *record) result(measured time.Duration) *Result {
	res := &Result{
		Seconds: measured.Seconds(),
		Sent:    r.all, Unsent: r.unsent, Misses: r.misses, Reasons: r.reasons,
		Unknown: r.failures[Unknown], failures: r.failures,
		Reads: latenciesOf(r.reads), Writes: latenciesOf(r.writes),
	}
	for kind, n := range r.failures {
		if Kind(kind) != Unknown {
			res.Refused += n
		}
	}
	if measured > 0 {
		res.Rate = float64(r.answered) / measured.Seconds()
	}
	r.reads.Merge(r.writes)
	res.All = latenciesOf(r.reads)
	return res
}

// Progress is how far a run is.
type Progress struct {
	// Elapsed is the time since the run began, warm-up included, Total the time that it takes; of Fill it is how many keys.
	Elapsed, Total time.Duration
	Keys, AllKeys  uint64
	// Rate is how many operations were sent in a second since the last report.
	Rate float64
	// Failed is how many failed since the run began, without the warm-up.
	Failed uint64
}
