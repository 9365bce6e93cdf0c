package history

import (
	"fmt"
	"slices"
)

// Reply is what of an HTTP answer decides its outcome.
type Reply struct {
	Status  int
	Problem string // type of the problem+json body, "" when it was none
	Applied string // "applied" of that body
}

// Problems whose meaning the status alone does not carry.
const (
	ProblemAbsent       = "/problems/not-found"
	ProblemUnknown      = "/problems/outcome-unknown"
	ProblemPrecondition = "/problems/precondition-failed"
	ProblemSlowBody     = "/problems/request-timeout"
	ProblemKeyTooOld    = "/problems/idempotency-key-too-old"
	ProblemKeyTooNew    = "/problems/idempotency-key-too-new"
	ProblemConflict     = "/problems/conflict"
	ProblemAborted      = "/problems/aborted" // by another operation of an atomic batch
)

// row is one row of an outcome table: an answer that the interface documents, and what it means.
type row struct {
	status  int
	kinds   func(Kind) bool // that may be answered so
	problem string          // the only type allowed, "" for any
	applied string          // what the body must say, "" when there is no problem body
	outcome Outcome
}

func of(kinds ...Kind) func(Kind) bool {
	return func(k Kind) bool { return slices.Contains(kinds, k) }
}

func all(Kind) bool { return true }

// keyed are the kinds that may be sent under an idempotency key.
func keyed(k Kind) bool { return k.Write() && k != Touch }

// body are the kinds that are sent with a body, which may come too slowly.
func body(k Kind) bool { return k.Stores() || k == Expire }

// data is the outcome table: all answers that the interface documents for the requests on keys that the workloads send.
// What isn't here is a defect: 500 above all, but also 400, 413 and those 422 that no workload deserves. An
// answer of a condition that does not hold, or that there is nothing to change, is an observation and so OK.
var data = []row{
	{200, Kind.Read, "", "", OK},
	{404, Kind.Read, ProblemAbsent, "no", OK},

	{200, of(Swap, Incr, Append), "", "", OK},
	{201, of(Put, Create, Swap), "", "", OK},
	// Of a Swap or Append: a repeated answer whose value was too long to be remembered.
	{204, of(Put, Replace, Delete, DeleteIf, Expire, Touch, Swap, Append), "", "", OK},
	{404, of(Expire, Touch), ProblemAbsent, "no", OK},
	{412, of(Create, Replace, DeleteIf), ProblemPrecondition, "no", OK},
	{408, body, ProblemSlowBody, "no", Refused},
	{422, keyed, ProblemKeyTooOld, "unknown", Unknown},
	{422, keyed, ProblemKeyTooNew, "no", Refused},
	{504, Kind.Write, ProblemUnknown, "unknown", Unknown},
	{507, Kind.Write, "", "no", Refused},

	{424, all, ProblemAborted, "no", Refused},
	{421, all, "", "no", Refused},
	{429, all, "", "no", Refused},
	{503, all, "", "no", Refused},
}

// settings is the outcome table of the requests on the cluster's settings. A condition that does not hold is
// no observation here: the node answers by what it knows, which may be old.
var settings = []row{
	{200, of(Get, GetAny, Put, Create, Replace), "", "", OK},
	{412, of(Replace), ProblemPrecondition, "no", Refused},
	{408, Kind.Write, ProblemSlowBody, "no", Refused},
	{409, Kind.Write, ProblemConflict, "no", Refused}, // some node's build is not known to know how
	{504, Kind.Write, ProblemUnknown, "unknown", Unknown},
	{429, all, "", "no", Refused},
	{503, all, "", "no", Refused},
}

// Classify returns what an answer to a request of that kind on a key means, or an error when the interface
// does not allow it. What operators ask for has a table of its own, in package cluster.
func Classify(kind Kind, r Reply) (Outcome, error) { return classify(data, kind, r) }

// ClassifySetting is Classify for requests on the cluster's settings.
func ClassifySetting(kind Kind, r Reply) (Outcome, error) { return classify(settings, kind, r) }

func classify(table []row, kind Kind, r Reply) (Outcome, error) {
	for _, w := range table {
		if w.status == r.Status && w.kinds(kind) && w.applied == r.Applied && (w.problem == "" || w.problem == r.Problem) {
			return w.outcome, nil
		}
	}
	return Unknown, fmt.Errorf("%s answered %d %s with applied %q: not in the outcome table", kind, r.Status, r.Problem, r.Applied)
}
