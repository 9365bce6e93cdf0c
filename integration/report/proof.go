package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

// searched is the check that says that there is no order, and leaves it to others to say why.
const searched = "linearizable"

// proof is a few operations of one key that no order explains, by what clients saw alone.
type proof struct {
	ops  []*history.Operation // nil: none was found
	why  func(number func(*history.Operation) int) []string
	gap  time.Duration // how long before the last was asked for it was decided
	rank int           // of the check that it is from: the lower the better
	none bool          // it rests on what nobody did, which is harder to see
}

// better prefers what was done to what nobody did, and then few operations, and of as many those of the better check, and those that are farther apart.
func (p proof) better(q proof) bool {
	if p.none != q.none {
		return q.none
	}
	return cmp.Or(cmp.Compare(len(p.ops), len(q.ops)), cmp.Compare(p.rank, q.rank), cmp.Compare(q.gap, p.gap)) < 0
}

// culprit is the operation that a violation is about: what the search failed at, or the last of the evidence.
func culprit(v *check.Violation) (last *history.Operation) {
	for i := range v.Ops {
		o := &v.Ops[i]
		if o.Outcome == history.OK && (last == nil || v.Check != searched || o.Return > last.Return) {
			last = o
		}
	}
	return last
}

// prove looks for a proof of a violation in all operations on its key.
func prove(v *check.Violation, keys map[string]*keyed, mode history.Mode) proof {
	o := culprit(v)
	if o == nil || o.Kind.Old() {
		return proof{}
	}
	k := keys[o.Key]
	group := k.ops
	if at := slices.IndexFunc(group, func(x *history.Operation) bool { return same(x, o) }); at >= 0 {
		o = group[at]
	}
	if p := miscounted(o, group, mode); p.ops != nil {
		return p
	}
	saw, ok := observed(o)
	if !ok {
		return proof{}
	}
	if saw.absent {
		return lost(o, group, mode)
	}
	return stale(o, saw, k)
}

// sight is what an answer tells of what a key held.
type sight struct {
	absent  bool
	version uint64
	value   string
}

// observed returns what o's answer tells of what the key held when it happened.
func observed(o *history.Operation) (sight, bool) {
	switch {
	case o.Outcome != history.OK || o.Kind.Old() || o.Replayed:
		return sight{}, false
	case o.Kind == history.Get && o.Found:
		return sight{version: o.Version, value: o.Read}, true
	case o.Kind == history.Get:
		return sight{absent: true}, true
	case o.Conflict && o.Version != 0:
		return sight{version: o.Version}, true
	case o.Kind == history.Create && !o.Conflict && o.FillToken == 0:
		return sight{absent: true}, true
	case (o.Kind == history.Replace || o.Kind == history.DeleteIf) && !o.Conflict:
		return sight{version: o.IfMatch}, true
	}
	return sight{}, false
}

// shows reports whether a sight is of what w stored.
func (s sight) shows(w *history.Operation) bool {
	if s.absent || !w.Kind.Changes() || w.Conflict || w.Outcome == history.Refused {
		return false
	}
	if s.value != "" && w.Kind.Stores() && w.Kind != history.Append {
		return w.Value == s.value
	}
	return w.Outcome == history.OK && !w.Replayed && (w.Kind.Stores() || w.Kind == history.Incr) && s.version != 0 && w.Version == s.version
}

// keyed is all that was asked of a key.
type keyed struct {
	ops []*history.Operation
	// known is, by what was stored or removed, the first answer after which it is known to have happened: its own, or that
	// of one who saw it.
	known map[*history.Operation]*history.Operation
}

// learn fills in known.
func (k *keyed) learn() {
	if k.known != nil {
		return
	}
	k.known = map[*history.Operation]*history.Operation{}
	learned := func(w, by *history.Operation) {
		if first := k.known[w]; first == nil || by.Return < first.Return {
			k.known[w] = by
		}
	}
	values, versions := map[string]*history.Operation{}, map[uint64]*history.Operation{}
	for _, w := range k.ops {
		if w.Kind.Changes() && w.Outcome == history.OK && !w.Replayed {
			learned(w, w)
		}
		if w.Kind.Stores() && w.Kind != history.Append {
			values[w.Value] = w
		}
		if w.Version != 0 && w.Kind.Changes() && !w.Conflict {
			versions[w.Version] = w
		}
	}
	for _, x := range k.ops {
		saw, ok := observed(x)
		if !ok || saw.absent {
			continue
		}
		for _, w := range []*history.Operation{values[saw.value], versions[saw.version]} {
			if w != nil && w != x && saw.shows(w) {
				learned(w, x)
				break
			}
		}
	}
}

// stale looks for a change that came after what o saw was there, and was known before o was asked for.
func stale(o *history.Operation, saw sight, k *keyed) (best proof) {
	k.learn()
	at := slices.IndexFunc(k.ops, func(w *history.Operation) bool { return w != o && saw.shows(w) })
	if at < 0 {
		return proof{}
	}
	w := k.ops[at]
	was := k.known[w]
	if was == nil {
		return proof{}
	}
	for _, c := range k.ops {
		if c == o || c == w || !c.Kind.Changes() || c.Conflict || c.Outcome == history.Refused || c.Invoke <= was.Return {
			continue
		}
		now := k.known[c]
		if now == nil || now.Return >= o.Invoke {
			continue
		}
		ops := slices.Compact([]*history.Operation{w, was, c, now, o})
		p := proof{ops: ops, gap: o.Invoke - now.Return}
		p.why = func(n func(*history.Operation) int) []string { return whyStale(n, w, was, c, now, o) }
		if best.ops == nil || p.better(best) {
			best = p
		}
	}
	return best
}

func whyStale(n func(*history.Operation) int, w, was, c, now, o *history.Operation) []string {
	held := "What step " + fmt.Sprint(n(w)) + " left"
	if w.Kind.Stores() && w.Kind != history.Append {
		held = fmt.Sprintf("%s, of step %d,", label(w.Value), n(w))
	}
	seen := ""
	if was != w {
		seen = fmt.Sprintf(", as step %d shows", n(was))
	}
	became := "put another value in its place"
	switch {
	case c.Kind.Stores() && c.Kind != history.Append:
		became = "put " + label(c.Value) + " in its place"
	case !c.Kind.Stores() && c.Kind != history.Incr:
		became = "removed it"
	}
	first := fmt.Sprintf("%s was there before step %d was asked for%s. So step %d came after it, and %s.", held, n(c), seen, n(c), became)
	second := fmt.Sprintf("The answer of step %d had come %s before step %d was asked for, so step %d comes after step %d in any order.", n(c), span(o.Invoke-now.Return), n(o), n(o), n(c))
	if now != c {
		second = fmt.Sprintf("That had happened by the answer of step %d, which shows it and came %s before step %d was asked for; so step %d comes after step %d in any order.", n(now), span(o.Invoke-now.Return), n(o), n(o), n(c))
	}
	before := "what was there before"
	if o.Found && w.Kind.Stores() && w.Kind != history.Append {
		before = label(w.Value)
	}
	third := fmt.Sprintf("But step %d was answered with %s. No value is stored twice in a run, so it cannot have come back: no order explains these answers.", n(o), before)
	if o.Kind != history.Get {
		third = fmt.Sprintf("But step %d was decided by what was there before. No version is given twice, so it cannot have come back: no order explains these answers.", n(o))
	}
	return []string{first, second, third}
}

// lost looks for a value that was there before o was asked for, which nobody removed, and o did not see.
func lost(o *history.Operation, group []*history.Operation, mode history.Mode) (best proof) {
	if mode == history.Tight || slices.ContainsFunc(group, func(x *history.Operation) bool { return x.TTL != 0 }) {
		return proof{}
	}
	for _, w := range group {
		if !w.Kind.Stores() || w.Conflict || w.Outcome != history.OK || w.Replayed || w.Return >= o.Invoke {
			continue
		}
		removed := slices.ContainsFunc(group, func(d *history.Operation) bool {
			return (d.Kind == history.Delete || d.Kind == history.DeleteIf) && !d.Conflict && d.Outcome != history.Refused &&
				d.Invoke <= o.Return && (d.Outcome == history.Unknown || d.Return >= w.Invoke)
		})
		if removed {
			continue
		}
		p := proof{ops: []*history.Operation{w, o}, gap: o.Invoke - w.Return, none: true}
		p.why = func(n func(*history.Operation) int) []string {
			return []string{
				fmt.Sprintf("Step %d was acknowledged %s before step %d was asked for.", n(w), span(o.Invoke-w.Return), n(o)),
				"Between the two, and at the same time as either, no client asked to remove what stands under this key, and none of whose outcome is unknown may have; no value of it has a time to live, and there was room for all.",
				fmt.Sprintf("So something must stand there when step %d happens, which found nothing.", n(o)),
			}
		}
		if best.ops == nil || p.gap < best.gap {
			best = p
		}
	}
	return best
}

// sentenceOf makes a sentence of what a check said, without what leads over to its operations.
func sentenceOf(s string) string {
	s, _, _ = strings.Cut(s, "; the shortest")
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
