package check

import (
	"math"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// ttlSlack is how far the end of a time to live may be from where the clients' clock puts it: nodes' clocks are one here, but time
// stands still for a shard while it has no leader, and a new one's clock is known after a round of pings.
const ttlSlack = 1500 * time.Millisecond

// TimeToLive holds values that end against the clients' clock: none is shown by a linearizable read that was asked for later than its
// time allows, and none is gone before its time. A value's time is what its write gave it, or what an Expire gave it since. That
// they do not come back is part of model.Law. The bounds are left out where clocks were set wrong; where values are evicted, a
// value may be gone early. checked is how many reads there were a bound for.
func TimeToLive(r *history.Run) (violations []Violation, checked int) {
	for _, f := range r.Faults {
		if f.Class == "clock" {
			return nil, 0
		}
	}
	traits := traitsOf(r.Ops, r.Meta.Mode)
	keys := byKey(r.Ops)
	for _, key := range sortedKeys(keys) {
		if !traits[key].timed || traits[key].derived {
			continue
		}
		c := newLifetimes(keys[key])
		for _, o := range keys[key] {
			if o.Kind != history.Get || o.Outcome != history.OK {
				continue
			}
			var v *Violation
			bounded := false
			if o.Found {
				v, bounded = c.shown(o)
			} else if !traits[key].evicts {
				v, bounded = c.gone(o)
			}
			if bounded {
				checked++
			}
			if v != nil {
				violations = append(violations, *v)
			}
		}
	}
	return violations, checked
}

// lifetimes is what is known of when the values of a key end.
type lifetimes struct {
	writers  map[string]*history.Operation // acknowledged, by value
	expires  map[uint64][]*history.Operation
	unknowns []*history.Operation // expires that may be of any version, at any time after
	changes  []*history.Operation
}

func newLifetimes(group []*history.Operation) *lifetimes {
	c := &lifetimes{writers: map[string]*history.Operation{}, expires: map[uint64][]*history.Operation{}}
	for _, o := range group {
		switch {
		case o.Kind == history.Expire && (o.Outcome == history.Unknown || o.Existed && o.Version == 0):
			c.unknowns = append(c.unknowns, o)
		case o.Kind == history.Expire && o.Existed:
			c.expires[o.Version] = append(c.expires[o.Version], o)
		case !o.Kind.Changes() || o.Conflict:
		default:
			c.changes = append(c.changes, o)
			if o.Kind.Stores() && o.Outcome == history.OK {
				c.writers[o.Value] = o
			}
		}
	}
	return c
}

// setters returns what may have set the end of w's value as o saw it: its write and its Expires, but for those after which there
// certainly was another, and those made after o. known is false when one of unknown outcome may have, too.
func (c *lifetimes) setters(w, o *history.Operation) (setters []*history.Operation, known bool) {
	for _, u := range c.unknowns {
		if u.Invoke < o.Return {
			return nil, false
		}
	}
	all := append([]*history.Operation{w}, c.expires[w.Version]...)
	for _, s := range all {
		superseded := slices.ContainsFunc(all, func(t *history.Operation) bool {
			return s.Return < t.Invoke && t.Return < o.Invoke
		})
		if !superseded && s.Invoke <= o.Return {
			setters = append(setters, s)
		}
	}
	return setters, true
}

// shown checks a read that shows a value, and reports whether there was a bound.
func (c *lifetimes) shown(o *history.Operation) (*Violation, bool) {
	w := c.writers[o.Read]
	if w == nil {
		return nil, false
	}
	setters, known := c.setters(w, o)
	end := time.Duration(0)
	var by *history.Operation
	for _, s := range setters {
		if s.TTL == 0 {
			return nil, false
		}
		if at := s.Return + s.TTL; at > end {
			end, by = at, s
		}
	}
	if !known || by == nil {
		return nil, false
	}
	if o.Invoke <= end+ttlSlack {
		return nil, true
	}
	return &Violation{Check: "time to live", What: "a value is shown after its time", Ops: evidence(w, by, o)}, true
}

// gone checks a read that found nothing, and reports whether there was a bound.
func (c *lifetimes) gone(o *history.Operation) (*Violation, bool) {
	bounded := false
	for _, x := range c.changes {
		w := c.writers[x.Value]
		if w != x || w.Return >= o.Invoke || c.disturbed(w, o) {
			continue
		}
		setters, known := c.setters(w, o)
		if !known {
			continue
		}
		end := time.Duration(math.MaxInt64)
		var by *history.Operation
		for _, s := range setters {
			if at := s.Invoke + s.TTL; s.TTL != 0 && at < end {
				end, by = at, s
			}
		}
		if by == nil { // without end: model.Law does not let it vanish
			continue
		}
		bounded = true
		if o.Return < end-ttlSlack {
			return &Violation{Check: "time to live", What: "a value is gone before its time", Ops: evidence(w, by, o)}, true
		}
	}
	return nil, bounded
}

// disturbed reports whether another change may have come between w and o.
func (c *lifetimes) disturbed(w, o *history.Operation) bool {
	return slices.ContainsFunc(c.changes, func(x *history.Operation) bool {
		return x != w && x.Invoke < o.Return && (x.Outcome == history.Unknown || x.Return > w.Invoke)
	})
}

// evidence is the write, what gave its value the time to live, if that was another, and the read.
func evidence(w, by, o *history.Operation) []history.Operation {
	if by == w {
		return []history.Operation{*w, *o}
	}
	return []history.Operation{*w, *by, *o}
}
