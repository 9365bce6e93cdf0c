package check

import (
	"github.com/larder-cache/larder/integration/history"
)

// Fills ensures that no value was loaded by right of a miss after the key was changed since: by a change that was asked for after the
// token was told, and has a place before that of the load. checked is how many loads were taken.
func Fills(ops []history.Operation) (violations []Violation, checked int) {
	for _, group := range byKey(ops) {
		missed := map[uint64]*history.Operation{} // who was told a token first
		for _, o := range group {
			if first := missed[o.FillToken]; o.Kind == history.Get && o.Outcome == history.OK && o.FillToken != 0 &&
				(first == nil || o.Return < first.Return) {
				missed[o.FillToken] = o
			}
		}
		for _, fill := range group {
			miss := missed[fill.FillToken]
			if fill.Kind != history.Create || fill.Outcome != history.OK || fill.Conflict || fill.FillToken == 0 || miss == nil {
				continue
			}
			checked++
			for _, w := range group {
				if changed(w) && w != fill && w.Invoke > miss.Return && w.Place.CompareSlot(fill.Place) < 0 {
					violations = append(violations, Violation{Check: "fills", What: "a value was loaded by right of a miss, though the key was changed since",
						Ops: []history.Operation{*miss, *w, *fill}})
					break
				}
			}
		}
	}
	return violations, checked
}

// changed reports whether an operation stored a value, or removed one, for certain.
func changed(o *history.Operation) bool {
	if o.Outcome != history.OK || o.Conflict || o.Replayed || !o.Kind.Changes() {
		return false
	}
	return o.Kind != history.Delete || o.Existed
}
