package history

import "fmt"

// Reply is what of an HTTP answer decides its outcome.
type Reply struct {
	Status  int
	Problem string // type of the problem+json body, "" when it was none
	Applied string // "applied" of that body
}

// Problems whose meaning the status alone does not carry.
const (
	ProblemAbsent  = "/problems/not-found"
	ProblemUnknown = "/problems/outcome-unknown"
)

// meaning is one row of the outcome table.
type meaning struct {
	outcome Outcome
	applied string // what the body must say, "" when there is no problem body
	problem string // the only type allowed, "" for any
}

// reads and writes are the outcome table: all answers that the interface documents for the requests
// that the workloads send. A status that isn't here is a defect: 500 above all, but also 400 and 413,
// since no workload sends what deserves them. What operators ask for (409, 428 and others) is in no
// history of a key and has a table of its own, in package cluster.
var (
	reads = map[int]meaning{
		200: {outcome: OK},
		404: {outcome: OK, applied: "no", problem: ProblemAbsent},
		421: {outcome: Refused, applied: "no"},
		429: {outcome: Refused, applied: "no"},
		503: {outcome: Refused, applied: "no"},
	}
	writes = map[int]meaning{
		201: {outcome: OK},
		204: {outcome: OK},
		412: {outcome: OK, applied: "no"}, // the refusal of a condition is an observation
		421: {outcome: Refused, applied: "no"},
		429: {outcome: Refused, applied: "no"},
		503: {outcome: Refused, applied: "no"},
		504: {outcome: Unknown, applied: "unknown", problem: ProblemUnknown},
		507: {outcome: Refused, applied: "no"},
	}
)

// Classify returns what an answer to a request of that kind means, or an error when the interface
// does not allow it.
func Classify(kind Kind, r Reply) (Outcome, error) {
	table := reads
	if kind.Write() {
		table = writes
	}
	m, ok := table[r.Status]
	switch {
	case !ok:
		return Unknown, fmt.Errorf("%s answered %d %s: not in the outcome table", kind, r.Status, r.Problem)
	case r.Applied != m.applied:
		return Unknown, fmt.Errorf("%s answered %d %s with applied %q, want %q", kind, r.Status, r.Problem, r.Applied, m.applied)
	case m.problem != "" && r.Problem != m.problem:
		return Unknown, fmt.Errorf("%s answered %d with problem %q, want %q", kind, r.Status, r.Problem, m.problem)
	case (kind == Put || kind == Delete) && r.Status == 412:
		return Unknown, fmt.Errorf("%s without a condition answered 412", kind)
	case r.Status == 201 && (kind == Delete || kind == DeleteIf || kind == Replace),
		r.Status == 204 && kind == Create:
		return Unknown, fmt.Errorf("%s answered %d, which it can't", kind, r.Status)
	}
	return m.outcome, nil
}
