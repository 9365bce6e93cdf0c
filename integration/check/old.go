package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Bounded checks the reads that may be old by at most their MaxStaleness: each shows what was current
// at some time from that long before it was asked for until it was answered. It uses the places that
// the answers name,
//
//  1. what was answered in the shard longer than the bound before the read was asked for has no higher
//     place, and what is asked for after it was answered no lower one;
//  2. at its place, the key held what the read shows;
//
// and, without them, what a client sees: no value that was replaced for longer than the bound, no
// absence of a value that was there for longer and was not removed since. Nor may an answer call itself
// older than the bound and the time that it took: the bound counts from when the read was asked for,
// the age to when it was answered.
//
// A value that may vanish may be absent at any time.
func Bounded(ops []history.Operation, mode history.Mode) []Violation {
	ops = withoutReplayedPlaces(ops)
	c := oldReads{check: "bounded", keys: byKey(ops), writers: writersOf(ops), traits: traitsOf(ops, mode)}
	shards := map[uint64][]*history.Operation{}
	for i := range ops {
		o := &ops[i]
		if o.Outcome != history.OK || o.Kind == history.GetAny {
			continue
		}
		shards[o.Place.Shard] = append(shards[o.Place.Shard], o)
		if o.Kind == history.GetBounded {
			c.value(o)
			c.atPlace(o)
			c.seen(o)
			if limit := o.MaxStaleness + o.Return - o.Invoke; o.Age > int(math.Ceil(limit.Seconds())) {
				c.report(fmt.Sprintf("an answer that may be %v old says to be %d s old", limit, o.Age), o)
			}
		}
	}
	for _, shard := range sortedKeys(shards) {
		c.realTime(fmt.Sprintf("shard %d", shard), shards[shard])
	}
	return c.violations
}

// Any checks the reads that may be of any age: what they show was stored under the key at some time, by
// a write that was asked for before they were answered, with its version. They may show nothing at any time.
func Any(ops []history.Operation, mode history.Mode) []Violation {
	c := oldReads{check: "any", keys: byKey(ops), writers: writersOf(ops), traits: traitsOf(ops, mode)}
	for i := range ops {
		if o := &ops[i]; o.Outcome == history.OK && o.Kind == history.GetAny {
			c.value(o)
		}
	}
	return c.violations
}

// oldReads is the check of the reads that may be old.
type oldReads struct {
	check      string
	keys       map[string][]*history.Operation // without those reads
	writers    map[string]*history.Operation   // who stored, or tried to store, a value
	traits     map[string]trait
	violations []Violation
}

func writersOf(ops []history.Operation) map[string]*history.Operation {
	writers := map[string]*history.Operation{}
	for i := range ops {
		if ops[i].Kind.Stores() {
			writers[ops[i].Value] = &ops[i]
		}
	}
	return writers
}

func (c *oldReads) report(what string, ops ...*history.Operation) {
	v := Violation{Check: c.check, What: what}
	for _, o := range ops {
		if o != nil {
			v.Ops = append(v.Ops, *o)
		}
	}
	c.violations = append(c.violations, v)
}

// value checks that somebody stored what o shows.
func (c *oldReads) value(o *history.Operation) {
	if !o.Found || c.traits[o.Key].derived {
		return
	}
	switch w := c.writers[o.Read]; {
	case w == nil:
		c.report("a read shows a value that nobody stored", o)
	case w.Key != o.Key:
		c.report("a read shows the value of another key", w, o)
	case w.Outcome == history.Refused || w.Conflict:
		c.report("a read shows a value whose write was refused", w, o)
	case w.Invoke > o.Return:
		c.report("a read shows a value from before its write was asked for", w, o)
	case w.Outcome == history.OK && w.Version != o.Version:
		c.report("a read shows the value with another version", w, o)
	}
}

// change reports whether o changed its key and has a place.
func change(o *history.Operation) bool {
	return o.Outcome == history.OK && o.Kind.Changes() && !o.Conflict
}

// atPlace checks 2.
func (c *oldReads) atPlace(o *history.Operation) {
	if c.traits[o.Key].derived {
		return
	}
	var last, next *history.Operation   // acknowledged changes around the place of o
	removed := c.traits[o.Key].vanish() // or a change of unknown outcome may have left the key absent
	for _, w := range c.keys[o.Key] {
		switch {
		case !change(w):
			removed = removed || w.Outcome == history.Unknown && !w.Kind.Stores() && w.Invoke <= o.Return
		case w.Place.CompareSlot(o.Place) <= 0:
			if last == nil || w.Place.CompareSlot(last.Place) > 0 {
				last = w
			}
		case w.Kind.Stores() && (next == nil || w.Place.CompareSlot(next.Place) < 0):
			next = w
		}
	}
	w := c.writers[o.Read]
	switch {
	case !o.Found && last != nil && last.Kind.Stores() && !removed:
		c.report("an answer says absent, but a value was there at its place", last, o)
	case !o.Found || w == nil || w == last:
	case w.Outcome == history.OK && !w.Conflict:
		c.report("a read shows a value that was not there at its place", last, w, o)
	case last != nil && o.Version <= last.Version, next != nil && o.Version >= next.Version:
		c.report("a read shows a version that was not there at its place", last, next, o)
	}
}

// seen checks what needs no places.
func (c *oldReads) seen(o *history.Operation) {
	if c.traits[o.Key].derived {
		return
	}
	since := o.Invoke - o.MaxStaleness
	w := c.writers[o.Read]
	for _, x := range c.keys[o.Key] {
		if !change(x) || x.Return >= since {
			continue
		}
		switch {
		case o.Found && w != nil && w.Outcome == history.OK && w.Return < x.Invoke:
			c.report("a read shows a value that was replaced for longer than it may be old", w, x, o)
			return
		case !o.Found && x.Kind.Stores() && !c.traits[o.Key].vanish() && !c.removal(o.Key, x.Invoke, o.Return):
			c.report("an answer says absent, but a value was there for longer than it may be old", x, o)
			return
		}
	}
}

// removal reports whether a change that may have removed the key was under way between from and to.
func (c *oldReads) removal(key string, from, to time.Duration) bool {
	return slices.ContainsFunc(c.keys[key], func(d *history.Operation) bool {
		return d.Kind.Write() && !d.Kind.Stores() && !d.Conflict && d.Invoke <= to && (d.Outcome == history.Unknown || d.Return >= from)
	})
}

// realTime checks 1 over the operations of a shard: linearizable ones, and bounded reads.
func (c *oldReads) realTime(where string, group []*history.Operation) {
	// A bounded read promises nothing to the next bounded one, so each kind is held against the other.
	var exact, old highest
	byReturn := slices.Clone(group)
	slices.SortStableFunc(byReturn, func(a, b *history.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, o := range byReturn {
		if !o.Kind.Old() {
			exact.add(o)
		} else {
			old.add(o)
		}
	}
	for _, o := range group {
		if o.Kind.Old() {
			if w := exact.before(o.Invoke - o.MaxStaleness); w != nil && w.Place.Compare(o.Place) > 0 {
				c.report(fmt.Sprintf("%s: a read of at most %v age lacks what was answered before that", where, o.MaxStaleness), w, o)
			}
			continue
		}
		if b := old.before(o.Invoke); b != nil && (b.Place.Compare(o.Place) > 0 || b.Place.Compare(o.Place) == 0 && logged(o)) {
			c.report(where+": a read that may be old was ahead of what came after it", b, o)
		}
	}
}

// highest tells which operation had the highest place among those answered before a time.
type highest struct {
	at  []time.Duration // ascending
	ops []*history.Operation
}

// add takes operations in the order of their answers.
func (h *highest) add(o *history.Operation) {
	if n := len(h.ops); n > 0 && h.ops[n-1].Place.Compare(o.Place) >= 0 {
		return
	}
	h.at = append(h.at, o.Return)
	h.ops = append(h.ops, o)
}

// before returns it, nil when none was answered before t.
func (h *highest) before(t time.Duration) *history.Operation {
	n := sort.Search(len(h.at), func(i int) bool { return h.at[i] >= t })
	if n == 0 {
		return nil
	}
	return h.ops[n-1]
}
