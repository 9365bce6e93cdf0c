package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/larder-cache/larder/integration/history"
)

// Counters holds the final number under each key that was only ever incremented, and does not vanish, against what was
// acknowledged: each acknowledged increment counts once, each of unknown outcome once or not at all, a refused one never.
// It needs no order, and no version.
func Counters(ops, final []history.Operation, mode history.Mode) (violations []Violation) {
	type sum struct {
		only        bool
		least, most int64
	}
	sums, traits := map[string]*sum{}, traitsOf(ops, mode)
	for i := range ops {
		o := &ops[i]
		if !o.Kind.Write() || traits[o.Key].vanish() {
			continue
		}
		s := sums[o.Key]
		if s == nil {
			s = &sum{only: true}
			sums[o.Key] = s
		}
		switch {
		case o.Kind != history.Incr:
			s.only = false
		case o.Outcome == history.OK:
			s.least, s.most = s.least+o.Delta, s.most+o.Delta
		case o.Outcome == history.Unknown:
			s.least, s.most = s.least+min(o.Delta, 0), s.most+max(o.Delta, 0)
		}
	}
	for _, o := range final {
		s := sums[o.Key]
		if s == nil || !s.only || o.Outcome != history.OK {
			continue
		}
		n := int64(0)
		if o.Found {
			var err error
			if n, err = strconv.ParseInt(o.Read, 10, 64); err != nil {
				violations = append(violations, Violation{Check: "counters", What: "a number is none", Ops: []history.Operation{o}})
				continue
			}
		}
		if n < s.least || n > s.most {
			violations = append(violations, Violation{Check: "counters", Ops: []history.Operation{o},
				What: fmt.Sprintf("the increments of %s make at least %d and at most %d, not %d", o.Key, s.least, s.most, n)})
		}
	}
	return violations
}

// Sets checks the lists under keys that were only ever appended to: an element is in a list at most once, and only where it was
// appended and not refused; at the end every acknowledged one is there, unless the list may vanish. It needs no order.
func Sets(ops, final []history.Operation, mode history.Mode) (violations []Violation) {
	report := func(what string, ops ...history.Operation) {
		violations = append(violations, Violation{Check: "sets", What: what, Ops: ops})
	}
	appended, mixed, traits := map[string][]*history.Operation{}, map[string]bool{}, traitsOf(ops, mode)
	for i := range ops {
		if o := &ops[i]; o.Kind == history.Append {
			appended[o.Key] = append(appended[o.Key], o)
		} else if o.Kind.Changes() {
			mixed[o.Key] = true
		}
	}
	for key := range mixed {
		delete(appended, key)
	}
	for i := range ops {
		o := &ops[i]
		elements := appended[o.Key]
		if elements == nil || o.Outcome != history.OK || !o.Found {
			continue
		}
		left, seen := o.Read, map[int]bool{}
		for left != "" { // elements are never a prefix of each other
			e := slices.IndexFunc(elements, func(e *history.Operation) bool { return strings.HasPrefix(left, e.Value) })
			if e < 0 {
				report("a list shows what nobody appended", *o)
				break
			}
			left = left[len(elements[e].Value):]
			switch {
			case seen[e]:
				report("a list shows an element twice", *elements[e], *o)
			case elements[e].Outcome == history.Refused:
				report("a list shows an element whose write was refused", *elements[e], *o)
			}
			seen[e] = true
		}
	}
	for _, o := range final {
		if o.Outcome != history.OK || traits[o.Key].vanish() {
			continue
		}
		for _, e := range appended[o.Key] {
			if e.Outcome == history.OK && !strings.Contains(o.Read, e.Value) {
				report("an acknowledged element is gone", *e, o)
			}
		}
	}
	return violations
}
