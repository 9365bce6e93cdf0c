package check

import (
	"fmt"

	"github.com/larder-cache/larder/integration/history"
)

// Misses holds the reasons that reads which found nothing were given against what clients did: nothing is deleted that nobody
// deleted, nothing expired to which nobody gave a time, and nothing was evicted where there is room for all. A reason that was
// forgotten ("absent") says nothing. checked is how many reads named one.
func Misses(ops []history.Operation, mode history.Mode) (violations []Violation, checked int) {
	keys := byKey(ops)
	for i := range ops {
		o := &ops[i]
		if o.Outcome != history.OK || !o.Kind.Read() || o.Found {
			continue
		}
		var cause func(*history.Operation) bool
		switch o.Miss {
		case "deleted":
			cause = func(w *history.Operation) bool {
				return (w.Kind == history.Delete || w.Kind == history.DeleteIf) && !w.Conflict
			}
		case "expired":
			cause = func(w *history.Operation) bool { return w.TTL != 0 && !w.Conflict }
		case "evicted":
			cause = func(*history.Operation) bool { return mode == history.Tight }
		default:
			continue
		}
		checked++
		found := false
		for _, w := range keys[o.Key] {
			if w.Invoke >= o.Return {
				break
			}
			if found = cause(w); found {
				break
			}
		}
		if !found {
			violations = append(violations, Violation{Check: "misses", What: fmt.Sprintf("a value is said to be %s, for which there is no cause", o.Miss), Ops: []history.Operation{*o}})
		}
	}
	return violations, checked
}
