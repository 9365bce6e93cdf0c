package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Certificate verifies the places in the log that the answers name. For each shard, over all its keys:
//
//  1. no two changes share a place, and their versions grow with their places;
//  2. the epoch never falls as the log grows;
//  3. real time: what was answered before a request was made has a lower place than a change by that
//     request, and not a higher one than a read by it.
//
// And for each key, over all shards that owned it:
//
//  4. an epoch belongs to one shard, and real time as in 3 by (epoch, place);
//  5. replayed in the order of places, each answer is what the changes before it left. Changes of
//     unknown outcome have no place: a read may show one of them, from its invocation on, if the
//     version fits between those of its neighbours. Of values that may vanish each is shown to be gone at most once
//     per write. Numbers and lists, which are made of what was there, are left to Linearizable, Counters and Sets.
//
// vanished is, by shard, how often a value of a key that does not end by itself was gone without a cause.
func Certificate(ops []history.Operation, mode history.Mode) (violations []Violation, vanished map[uint64]int) {
	ops = withoutReplayedPlaces(ops)
	c := &certificate{values: map[string]*history.Operation{}, traits: traitsOf(ops, mode), vanished: map[uint64]int{}}
	shards := map[uint64][]*history.Operation{}
	for i := range ops {
		o := &ops[i]
		if o.Kind.Stores() {
			if other := c.values[o.Value]; other != nil && other.Outcome != history.Refused && o.Outcome != history.Refused {
				c.report("the run itself is wrong, it stored a value twice", other, o)
			}
			c.values[o.Value] = o
		}
		if o.Outcome == history.OK && !o.Kind.Old() {
			shards[o.Place.Shard] = append(shards[o.Place.Shard], o)
		}
	}
	for _, shard := range sortedKeys(shards) {
		group := shards[shard]
		c.places(group)
		c.realTime(fmt.Sprintf("shard %d", shard), group, history.Place.Compare)
	}
	keys := byKey(ops)
	for _, key := range sortedKeys(keys) {
		c.key(key, keys[key])
	}
	return c.violations, c.vanished
}

// withoutReplayedPlaces returns ops in which answers that repeat an earlier one's, under an idempotency key, count as of unknown
// outcome: their place is that of the repetition, and the change's own, before it, was told to nobody. Whether there is an
// order for what they say is left to Linearizable.
func withoutReplayedPlaces(ops []history.Operation) []history.Operation {
	ops = slices.Clone(ops)
	for i := range ops {
		if o := &ops[i]; o.Replayed && o.Outcome == history.OK && o.Kind.Write() {
			o.Outcome = history.Unknown
		}
	}
	return ops
}

type certificate struct {
	values     map[string]*history.Operation // who stored, or tried to store, a value
	traits     map[string]trait
	vanished   map[uint64]int // by shard
	violations []Violation
}

func (c *certificate) report(what string, ops ...*history.Operation) {
	v := Violation{Check: "certificate", What: what}
	for _, o := range ops {
		v.Ops = append(v.Ops, *o)
	}
	c.violations = append(c.violations, v)
}

// logged reports whether o has a place of its own: changes and refused conditions went through the log.
func logged(o *history.Operation) bool { return o.Kind.Write() }

// inLog sorts by compare, and at equal places puts what went through the log before the reads that saw it.
func inLog(group []*history.Operation, compare func(a, b history.Place) int) []*history.Operation {
	sorted := slices.Clone(group)
	slices.SortStableFunc(sorted, func(a, b *history.Operation) int {
		if n := compare(a.Place, b.Place); n != 0 {
			return n
		}
		switch {
		case logged(a) == logged(b):
			return 0
		case logged(a):
			return -1
		default:
			return 1
		}
	})
	return sorted
}

// places checks 1 and 2.
func (c *certificate) places(group []*history.Operation) {
	var last, lastLogged, lastChange *history.Operation
	for _, o := range inLog(group, history.Place.Compare) {
		if o.Place.Index == 0 || o.Place.Epoch == 0 {
			c.report("an answer without a place or an epoch", o)
			continue
		}
		if last != nil && o.Place.Epoch < last.Place.Epoch {
			c.report("the epoch falls as the log grows", last, o)
		}
		last = o
		if !logged(o) {
			if lastChange != nil && o.Found && o.Version > lastChange.Version && c.placed(o) {
				c.report("a read shows a version that was given at a later place", lastChange, o)
			}
			continue
		}
		if lastLogged != nil && lastLogged.Place.Compare(o.Place) == 0 {
			c.report("two requests have one place in the log", lastLogged, o)
		}
		lastLogged = o
		if o.Conflict || o.Version == 0 || !o.Kind.Changes() {
			continue
		}
		if lastChange != nil && o.Version <= lastChange.Version {
			c.report("versions do not grow with the log", lastChange, o)
		}
		lastChange = o
	}
}

// placed reports whether the value that o read was acknowledged, so that its place is known.
func (c *certificate) placed(o *history.Operation) bool {
	w := c.values[o.Read]
	return w != nil && w.Outcome == history.OK && !w.Conflict
}

// realTime checks 3: one sweep over invocations and answers in the order of time, with the highest
// place answered so far.
func (c *certificate) realTime(where string, group []*history.Operation, compare func(a, b history.Place) int) {
	type event struct {
		at     time.Duration
		answer bool
		op     *history.Operation
	}
	events := make([]event, 0, 2*len(group))
	for _, o := range group {
		events = append(events, event{o.Invoke, false, o}, event{o.Return, true, o})
	}
	// At equal times nothing is before the other: requests first.
	slices.SortStableFunc(events, func(a, b event) int {
		if n := cmp.Compare(a.at, b.at); n != 0 {
			return n
		}
		switch {
		case a.answer == b.answer:
			return 0
		case b.answer:
			return -1
		default:
			return 1
		}
	})
	var highest *history.Operation
	for _, e := range events {
		if e.answer {
			if highest == nil || compare(e.op.Place, highest.Place) > 0 {
				highest = e.op
			}
			continue
		}
		if highest == nil {
			continue
		}
		n := compare(e.op.Place, highest.Place)
		if n < 0 || n == 0 && logged(e.op) {
			c.report(where+": an answer from before the request was made has a higher place", highest, e.op)
		}
	}
}

// key checks 4 and 5 for one key.
func (c *certificate) key(key string, group []*history.Operation) {
	var placed, unplaced []*history.Operation
	owner := map[uint64]*history.Operation{}
	for _, o := range group {
		if o.Outcome != history.OK {
			unplaced = append(unplaced, o)
			continue
		}
		placed = append(placed, o)
		if first := owner[o.Place.Epoch]; first == nil {
			owner[o.Place.Epoch] = o
		} else if first.Place.Shard != o.Place.Shard {
			c.report(fmt.Sprintf("two shards answered for key %s in one epoch", key), first, o)
		}
	}
	c.realTime("key "+key, placed, history.Place.CompareSlot)

	if c.traits[key].derived {
		return
	}
	r := replay{c: c, trait: c.traits[key], unplaced: unplaced, shown: map[*history.Operation]bool{}, spent: map[*history.Operation]bool{}}
	for _, o := range inLog(placed, history.Place.CompareSlot) {
		r.step(o)
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
