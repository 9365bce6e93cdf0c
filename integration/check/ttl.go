package check

import (
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// ttlSlack is how far the end of a time to live may be from where the clients' clock puts it: nodes' clocks are one here, but time
// stands still for a shard while it has no leader, and a new one's clock is known after a round of pings.
const ttlSlack = 1500 * time.Millisecond

// TimeToLive holds values that end against the clients' clock: none is shown by a linearizable read that was asked for later than its
// time allows, and none is gone before its time. That they do not come back is part of model.Law. The bounds are left out where
// clocks were set wrong; where values are evicted, a value may be gone early.
func TimeToLive(r *history.Run) (violations []Violation) {
	for _, f := range r.Faults {
		if f.Class == "clock" {
			return nil
		}
	}
	keys := byKey(r.Ops)
	for _, key := range sortedKeys(keys) {
		group := keys[key]
		var expires bool
		for _, o := range group {
			expires = expires || o.Kind == history.Expire || o.Kind == history.Incr || o.Kind == history.Append
		}
		if expires {
			continue // when the value ends depends on more than the request that stored it
		}
		writers := map[string]*history.Operation{}
		for _, o := range group {
			if o.Kind.Stores() && o.TTL != 0 && o.Outcome == history.OK && !o.Conflict {
				writers[o.Value] = o
			}
		}
		for _, o := range group {
			if o.Kind != history.Get || o.Outcome != history.OK {
				continue
			}
			if w := writers[o.Read]; o.Found && w != nil && o.Invoke > w.Return+w.TTL+ttlSlack {
				violations = append(violations, Violation{Check: "time to live", What: "a value is shown after its time", Ops: []history.Operation{*w, *o}})
			}
			if o.Found || r.Meta.Mode == history.Tight {
				continue
			}
			for _, w := range writers {
				if w.Return < o.Invoke && o.Return < w.Invoke+w.TTL-ttlSlack && !disturbed(group, w, o) {
					violations = append(violations, Violation{Check: "time to live", What: "a value is gone before its time", Ops: []history.Operation{*w, *o}})
				}
			}
		}
	}
	return violations
}

// disturbed reports whether another change may have come between w and o.
func disturbed(group []*history.Operation, w, o *history.Operation) bool {
	for _, x := range group {
		if x != w && x.Kind.Changes() && x.Invoke < o.Return && (x.Outcome == history.Unknown || x.Return > w.Invoke) && !x.Conflict {
			return true
		}
	}
	return false
}

func timedCount(ops []history.Operation) (n int) {
	for i := range ops {
		if ops[i].TTL != 0 {
			n++
		}
	}
	return n
}
