package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Verdict is what a run came to.
type Verdict string

const (
	// Valid: everything that was promised was kept, and enough happened to say so.
	Valid Verdict = "valid"
	// Invalid: something was not kept.
	Invalid Verdict = "invalid"
	// Undecided: for too many keys no order was found in time, nor shown to be impossible.
	Undecided Verdict = "undecided"
	// NotProved: too little happened, or something that the run must not meet.
	NotProved Verdict = "not proved"
)

// Result is what one check came to.
type Result struct {
	Name    string
	Verdict Verdict
	Checked int // operations, keys, samples or faults that it looked at
	Detail  string
}

// Options say what a run must have reached.
type Options struct {
	// KeyLimit bounds the search for an order of one key's operations.
	KeyLimit time.Duration
	// LeastRate is how many operations must have succeeded per second.
	LeastRate float64
	// LeastFaults is how many faults must have taken effect.
	LeastFaults int
}

// Verdict of all checks: invalid before undecided before not proved before valid. Without checks nothing is proved.
func (r Report) Verdict() Verdict {
	worst := Valid
	if len(r.Checks) == 0 {
		worst = NotProved
	}
	order := []Verdict{Valid, NotProved, Undecided, Invalid}
	for _, c := range r.Checks {
		if slices.Index(order, c.Verdict) > slices.Index(order, worst) {
			worst = c.Verdict
		}
	}
	return worst
}

// Run runs all checks on a run.
func Run(r *history.Run, o Options) Report {
	start := time.Now()
	r = inOneLog(r)
	mode := r.Meta.Mode
	report := Linearizable(r.Ops, mode, o.KeyLimit)
	lin := Result{"linearizable", Valid, report.Operations, fmt.Sprintf("%d keys", report.Keys)}
	if n := len(report.Undecided); n > 0 {
		lin.Detail += fmt.Sprintf(", %d undecided", n)
	}
	switch {
	case len(report.Violations) > 0:
		lin.Verdict = Invalid
		lin.Detail += fmt.Sprintf(", %d without an order", len(report.Violations))
	case report.tooUndecided():
		lin.Verdict = Undecided
	}
	report.Checks = append(report.Checks, lin)

	add := func(name string, checked int, violations []Violation) {
		result := Result{name, Valid, checked, ""}
		if n := len(violations); n > 0 {
			result.Verdict, result.Detail = Invalid, fmt.Sprintf("%d violations, the first: %s", n, violations[0].What)
		}
		report.Checks = append(report.Checks, result)
		report.Violations = append(report.Violations, violations...)
	}
	violations, vanished := Certificate(r.Ops, mode)
	add("certificate", report.Operations, violations)
	add("durable", len(r.Final), Durable(r.Ops, r.Final, mode))
	add("counters", count(r.Ops, history.Incr), Counters(r.Ops, r.Final, mode))
	add("sets", count(r.Ops, history.Append), Sets(r.Ops, r.Final, mode))
	add("bounded", count(r.Ops, history.GetBounded), Bounded(r.Ops, mode))
	add("any", count(r.Ops, history.GetAny), Any(r.Ops, mode))
	violations, bounds := TimeToLive(r)
	add("time to live", bounds, violations)
	violations, reasons := Misses(r.Ops, mode)
	add("misses", reasons, violations)
	violations, fills := Fills(r.Ops)
	add("fills", fills, violations)
	if len(r.Meta.Nodes)+len(r.Samples)+len(r.Ends) > 0 { // a run of processes, not a list of operations alone
		add("replicas", len(r.Samples)+len(r.Ends), Replicas(r))
		if !memoryOnly(r) { // samples don't tell lives apart, and a life that ends takes all that it held
			add("leaders", len(r.Samples), Leaders(r))
			add("room", len(r.Samples)+len(r.Ends), vanishings(r, vanished))
		}
		report.Checks = append(report.Checks, room(r), convergence(r))
	}
	add("liveness", len(r.Faults), Liveness(r))
	report.Checks = append(report.Checks, recovery(r))
	add("interface", len(r.Ops), defects(r))
	report.Checks = append(report.Checks, coverage(r, o))
	report.Took = time.Since(start)
	return report
}

func count(ops []history.Operation, kind history.Kind) (n int) {
	for i := range ops {
		if ops[i].Kind == kind && ops[i].Outcome == history.OK {
			n++
		}
	}
	return n
}

// defects are answers that the interface does not allow.
func defects(r *history.Run) (violations []Violation) {
	for _, d := range r.Defects {
		violations = append(violations, Violation{Check: "interface", What: d})
	}
	return violations
}
