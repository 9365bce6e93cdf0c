package report

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/larder-cache/larder/integration/history"
)

// miscounted looks for a number that is not the sum of what was added to it.
func miscounted(o *history.Operation, group []*history.Operation, mode history.Mode) proof {
	told, ok := numberBefore(o)
	if !ok || mode == history.Tight {
		return proof{}
	}
	var before []*history.Operation // acknowledged before o was asked for
	var sum, least, most int64      // of these; what others may add
	maybe := 0
	for _, x := range group {
		switch {
		case same(x, o) || x.Kind.Read() || x.Kind == history.Touch || x.Outcome == history.Refused || x.Invoke >= o.Return:
		case x.Kind != history.Incr || x.TTL != 0:
			return proof{}
		case x.Outcome == history.OK && x.Return < o.Invoke:
			before = append(before, x)
			sum += x.Delta
		default:
			maybe++
			least, most = least+min(x.Delta, 0), most+max(x.Delta, 0)
		}
	}
	if len(before) == 0 || told >= sum+least && told <= sum+most {
		return proof{}
	}
	shown := before[max(0, len(before)-toldSteps+1):]
	p := proof{ops: append(slices.Clone(shown), o)}
	p.why = func(n func(*history.Operation) int) []string {
		first := fmt.Sprintf("Before step %d was asked for, %s of this key had been acknowledged, which make %d together", n(o), some(len(before), "increment"), sum)
		if more := len(before) - len(shown); more > 0 {
			first += fmt.Sprintf(" (the last %d are told here)", len(shown))
		}
		must := fmt.Sprint(sum)
		if maybe > 0 {
			first += fmt.Sprintf("; %s more, of unknown outcome or under way, may make that between %d and %d", count(maybe), sum+least, sum+most)
			must = fmt.Sprintf("between %d and %d", sum+least, sum+most)
		}
		second := fmt.Sprintf("But by the answer of step %d the number was %d, and must have been %s.", n(o), told, must)
		if o.Kind == history.Incr {
			second = fmt.Sprintf("But step %d added %d and was told %d, so it found %d, and must have found %s.", n(o), o.Delta, o.Number, told, must)
		}
		return []string{first + ". Nothing else changed it.", second}
	}
	return p
}

// numberBefore is what number a key held when o happened, before o itself changed it.
func numberBefore(o *history.Operation) (int64, bool) {
	switch {
	case o.Outcome != history.OK || o.Replayed:
	case o.Kind == history.Incr:
		return o.Number - o.Delta, true
	case o.Kind == history.Get && o.Found:
		n, err := strconv.ParseInt(o.Read, 10, 64)
		return n, err == nil
	}
	return 0, false
}
