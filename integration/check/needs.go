package check

import (
	"strings"

	"github.com/larder-cache/larder/integration/history"
)

// need is something that a workload is there to do.
type need struct {
	what string
	is   func(o *history.Operation) bool // of one that is OK
}

// leastOfNeed is how often a run must have done each.
const leastOfNeed = 10

var (
	conflicts  = need{"refused conditions", func(o *history.Operation) bool { return o.Conflict }}
	increments = need{"increments", func(o *history.Operation) bool { return o.Kind == history.Incr }}
	appends    = need{"appended elements", func(o *history.Operation) bool { return o.Kind == history.Append }}
	endings    = need{"times to live", func(o *history.Operation) bool { return o.TTL != 0 && !o.Conflict }}
	olds       = need{"reads of bounded age", func(o *history.Operation) bool { return o.Kind == history.GetBounded }}
	followers  = need{"linearizable reads by followers", func(o *history.Operation) bool { return o.Kind == history.Get && o.Path == "follower" }}
	keyed      = need{"writes under an idempotency key", func(o *history.Operation) bool { return o.Kind.Changes() && o.IdempotencyKey != "" }}
	changes    = need{"changes", func(o *history.Operation) bool { return o.Kind.Changes() && !o.Conflict }}
	setting    = need{"changes of settings", func(o *history.Operation) bool {
		return o.Kind.Changes() && !o.Conflict && strings.HasPrefix(o.Key, settings)
	}}
)

// needs are those of the workloads. A run that did too little of what it is named for proves nothing about that.
var needs = map[string][]need{
	"register":    {changes, conflicts},
	"counter":     {increments},
	"set":         {appends},
	"durable":     {changes},
	"ttl":         {endings},
	"evict":       {changes},
	"bounded":     {changes, olds},
	"follower":    {changes, followers},
	"idempotency": {changes, keyed},
	"directory":   {setting},
	"admin":       {changes, conflicts},
	"mixed":       {conflicts, increments, appends, endings, olds},
}

// missing returns the first need of a run's workload that it met too seldom, and how often it did; "" when there is none.
func missing(r *history.Run) (what string, n int) {
	for _, need := range needs[r.Meta.Workload] {
		n = 0
		for i := range r.Ops {
			if o := &r.Ops[i]; o.Outcome == history.OK && need.is(o) {
				n++
			}
		}
		if n < leastOfNeed {
			return need.what, n
		}
	}
	return "", 0
}
