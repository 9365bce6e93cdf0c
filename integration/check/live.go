package check

import (
	"fmt"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// RecoveryLimit is within what the clients' successes must be back after a fault was undone.
const RecoveryLimit = 10 * time.Second

// Liveness checks that the cluster came back after each fault, and that the run could be carried through.
func Liveness(r *history.Run) (violations []Violation) {
	for _, f := range r.Faults {
		if f.Healed != 0 && f.Recovered-f.Healed > RecoveryLimit {
			violations = append(violations, Violation{Check: "liveness",
				What: fmt.Sprintf("after %s of %v, undone at %.1f s, the clients' successes were back at %.1f s", f.Name, f.Targets, f.Healed.Seconds(), f.Recovered.Seconds())})
		}
	}
	for _, failure := range r.Failures {
		violations = append(violations, Violation{Check: "liveness", What: failure})
	}
	return violations
}

// recovery says whether it was seen of every fault that it was undone, and that clients' successes were back after that.
func recovery(r *history.Run) Result {
	seen := time.Duration(0)
	for _, f := range r.Faults {
		seen = max(seen, f.Recovered)
	}
	result := Result{"recovery", Valid, len(r.Faults), ""}
	for _, f := range r.Faults {
		switch {
		case f.Healed == 0:
			result.Verdict, result.Detail = NotProved, fmt.Sprintf("%s of %v was never undone", f.Name, f.Targets)
		case f.Recovered == 0 && seen < f.Healed:
			result.Verdict, result.Detail = NotProved, fmt.Sprintf("nobody saw that the clients' successes were back after %s of %v", f.Name, f.Targets)
		}
	}
	return result
}

// LeastHits is the share of linearizable reads that must have found something: a verdict on nothing but misses means nothing.
const LeastHits = 0.05

// coverage says whether enough happened.
func coverage(r *history.Run, o Options) Result {
	faults, ok, reads, hits := 0, 0, 0, 0
	for _, f := range r.Faults {
		if f.Effect != "" {
			faults++
		}
	}
	var first, last time.Duration
	for i := range r.Ops {
		p := &r.Ops[i]
		if i == 0 {
			first = p.Invoke
		}
		last = max(last, p.Return)
		if p.Outcome != history.OK {
			continue
		}
		ok++
		if p.Kind == history.Get {
			reads++
			if p.Found {
				hits++
			}
		}
	}
	rate := float64(ok) / max((last-first).Seconds(), 1e-9)
	result := Result{"coverage", Valid, ok, fmt.Sprintf("%.0f successes a second, %d faults that took effect, %d of %d linearizable reads found something", rate, faults, hits, reads)}
	what, n := missing(r)
	switch {
	case reads+len(r.Final) == 0:
		result.Verdict = NotProved
	case rate < o.LeastRate:
		result.Verdict = NotProved
		result.Detail += fmt.Sprintf("; %.0f successes a second are the least", o.LeastRate)
	case faults < o.LeastFaults:
		result.Verdict = NotProved
		result.Detail += fmt.Sprintf("; %d faults are the least", o.LeastFaults)
	case float64(hits) < LeastHits*float64(reads):
		result.Verdict = NotProved
		result.Detail += fmt.Sprintf("; %.0f %% must", LeastHits*100)
	case what != "":
		result.Verdict = NotProved
		result.Detail += fmt.Sprintf("; %d %s, and %d are the least of a run of %s", n, what, leastOfNeed, r.Meta.Workload)
	}
	return result
}
