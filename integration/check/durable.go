package check

import (
	"fmt"
	"slices"

	"github.com/larder-cache/larder/integration/history"
)

// Durable compares final, reads made after everything else was over, with what ops acknowledged: a key
// holds its last acknowledged change, or a change of unknown outcome that came after. Every key that ops
// changed must be among final. A value that may vanish may be gone, and no older one may stand there. Numbers and lists are
// left to Counters and Sets.
func Durable(ops, final []history.Operation, mode history.Mode) []Violation {
	var violations []Violation
	report := func(what string, evidence ...*history.Operation) {
		v := Violation{Check: "durable", What: what}
		for _, o := range evidence {
			v.Ops = append(v.Ops, *o)
		}
		violations = append(violations, v)
	}
	ends := map[string][]*history.Operation{}
	for i := range final {
		if o := &final[i]; o.Kind == history.Get && o.Outcome == history.OK {
			ends[o.Key] = append(ends[o.Key], o)
		}
	}
	keys, traits := byKey(ops), traitsOf(ops, mode)
	for _, key := range sortedKeys(keys) {
		if traits[key].derived {
			continue
		}
		group := orderable(keys[key])
		last := lastChange(group)
		if last == nil {
			continue // nothing acknowledged, nothing to lose
		}
		if len(ends[key]) == 0 {
			report(fmt.Sprintf("nobody read key %s at the end", key), last)
		}
		for _, end := range ends[key] {
			if what := loss(group, last, end, traits[key].evicts || mayEnd(group, last)); what != "" {
				report(what, last, end)
			}
		}
	}
	return violations
}

// orderable returns group, in which acknowledgements that repeat an earlier one's count as of unknown outcome if others are there to be
// put in an order with them: their places are those of the repetitions (see withoutReplayedPlaces).
func orderable(group []*history.Operation) []*history.Operation {
	acknowledged := func(o *history.Operation) bool {
		return o.Kind.Changes() && o.Outcome == history.OK && !o.Conflict
	}
	n := 0
	for _, o := range group {
		if acknowledged(o) {
			n++
		}
	}
	if n < 2 {
		return group
	}
	group = slices.Clone(group)
	for i, o := range group {
		if acknowledged(o) && o.Replayed {
			unknown := *o
			unknown.Outcome = history.Unknown
			group[i] = &unknown
		}
	}
	return group
}

// lastChange returns the acknowledged change at the highest place, nil when there is none.
func lastChange(group []*history.Operation) *history.Operation {
	var last *history.Operation
	for _, o := range group {
		if !o.Kind.Changes() || o.Outcome != history.OK || o.Conflict {
			continue
		}
		if last == nil || o.Place.CompareSlot(last.Place) > 0 {
			last = o
		}
	}
	return last
}

// mayEnd reports whether the value that last left may be gone since its time is over: by its own time to live, by
// one that it was given, or by that of a value of unknown outcome in its place.
func mayEnd(group []*history.Operation, last *history.Operation) bool {
	return slices.ContainsFunc(group, func(o *history.Operation) bool {
		switch {
		case o.TTL == 0:
			return false
		case o == last, o.Outcome == history.Unknown:
			return true
		}
		return o.Kind == history.Expire && o.Existed && o.Place.CompareSlot(last.Place) > 0
	})
}

// loss says what end has lost of last, "" when nothing.
func loss(group []*history.Operation, last, end *history.Operation, vanish bool) string {
	unknown := func(suits func(*history.Operation) bool) bool {
		return slices.ContainsFunc(group, func(o *history.Operation) bool {
			return o.Outcome == history.Unknown && o.Kind.Changes() && suits(o)
		})
	}
	switch {
	case !end.Found:
		if !vanish && last.Kind.Stores() && !unknown(func(o *history.Operation) bool { return !o.Kind.Stores() }) {
			return "an acknowledged value is gone"
		}
	case last.Kind.Stores() && end.Read == last.Value:
		if end.Version != last.Version {
			return "an acknowledged value came back with another version"
		}
	case !unknown(func(o *history.Operation) bool { return o.Kind.Stores() && o.Value == end.Read }):
		return "another value stands where an acknowledged change was the last"
	case end.Version <= last.Version:
		return "a value older than the last acknowledged change came back"
	}
	return ""
}
