package check

import (
	"fmt"
	"slices"

	"github.com/larder-cache/larder/integration/history"
)

// replay walks the answers for one key in the order of their places and holds each against what the
// answers before it left. Changes of unknown outcome have no place of their own: each may
// have happened anywhere after it was asked for, or nowhere.
type replay struct {
	c        *certificate
	trait    trait
	unplaced []*history.Operation        // changes of unknown outcome
	shown    map[*history.Operation]bool // those of them whose value was read: their place is found

	spent map[*history.Operation]bool // those of them that explain why a value was gone

	present bool
	mortal  bool               // the value there may have a time to live
	version uint64             // of the value there
	holder  *history.Operation // stored the value there; nil when absent, or when only the version was shown
	floor   uint64             // highest version seen
	cause   *history.Operation // the answer that determined the above, nil at the start
}

// step holds one answer against the state and moves the state on.
func (r *replay) step(o *history.Operation) {
	switch {
	case o.Kind == history.Get && o.Found:
		r.shows(o, r.c.values[o.Read])
	case o.Kind == history.Get, o.Conflict && o.Version == 0:
		r.showsAbsent(o)
	case o.Conflict:
		r.showsVersion(o)
	case o.Kind == history.Expire, o.Kind == history.Touch:
		if !o.Existed {
			r.showsAbsent(o)
			return
		}
		r.showsVersion(o)
		if o.Kind == history.Expire {
			r.mortal = o.TTL != 0
		}
	default:
		r.changes(o)
	}
}

// changes checks an acknowledged change.
func (r *replay) changes(o *history.Operation) {
	switch o.Kind {
	case history.Put, history.Swap, history.Delete:
		if o.Kind == history.Swap && o.Found {
			r.tells(o)
		}
		if o.Existed != r.present && !r.possible(o, o.Existed) {
			r.wrong(fmt.Sprintf("a change says that a value existed: %t, which is not so at its place", o.Existed), o)
		}
	case history.Create:
		if r.present && !r.possible(o, false) {
			r.wrong("a value was created where one was", o)
		}
	case history.Replace, history.DeleteIf:
		// The version was shown before the request was made, so at a lower place: it is the one
		// there, or it is gone for good. Unless it was shown by a repeated answer, or a read that may be old.
		if (!r.present || r.version != o.IfMatch) && (o.IfMatch <= r.floor || !r.possible(o, true)) {
			r.wrong("a condition held that can't hold at its place", o)
		}
	}
	if o.Kind.Stores() {
		r.set(o, o.Version, o)
		r.mortal = o.TTL != 0
	} else {
		r.clear(o)
		r.floor = max(r.floor, o.Version)
	}
}

// tells checks the former value that a swap tells, without its version.
func (r *replay) tells(o *history.Operation) {
	w := r.c.values[o.Read]
	read := *o
	switch {
	case r.present && (r.holder == w || r.holder == nil):
		read.Version = r.version
	case w != nil && w.Outcome == history.OK:
		read.Version = w.Version
	default:
		read.Version = r.floor + 1
	}
	r.shows(&read, w)
}

// shows checks a read that found the value stored by w.
func (r *replay) shows(o, w *history.Operation) {
	switch {
	case w == nil:
		r.wrong("a read shows a value that nobody stored", o)
	case w.Key != o.Key:
		r.wrong("a read shows the value of another key", o, w)
	case w.Outcome == history.Refused || w.Conflict:
		r.wrong("a read shows a value whose write was refused", o, w)
	case r.present && r.holder == w:
		if o.Version != r.version {
			r.wrong("a read shows the value with another version", o)
		}
	case w.Outcome == history.OK:
		r.wrong("a read shows a value that was not there at its place", o, w)
	case r.shown[w]:
		r.wrong("a read shows a value that was replaced before", o, w)
	case w.Invoke > o.Return:
		r.wrong("a read shows a value from before its write was asked for", o, w)
	case r.present && r.holder == nil && r.version == o.Version:
		// Its version was shown before, by a refused condition.
	case o.Version <= r.floor:
		r.wrong("a read shows a version that fits no place before it", o, w)
	}
	switch {
	case r.present && r.holder == w:
	case w == nil:
		r.mortal = true
	default:
		// Of a value whose version alone was known, the time to live may have been changed since.
		r.mortal = w.TTL != 0 || r.present && r.holder == nil && r.mortal
	}
	if w != nil {
		r.shown[w] = true
	}
	r.set(w, o.Version, o)
}

// showsAbsent checks an answer that says there is nothing.
func (r *replay) showsAbsent(o *history.Operation) {
	if o.Kind == history.Create && o.FillToken == 0 {
		r.wrong("a create was refused although it found nothing", o)
	}
	if r.present && !r.possible(o, false) {
		r.wrong("an answer says absent, but a value was there at its place", o)
	}
	r.clear(o)
}

// showsVersion checks a refused condition that names the version which stands there.
func (r *replay) showsVersion(o *history.Operation) {
	if o.Version == 0 {
		if !r.present && !r.possible(o, true) { // a touch, or a change of expiry, that tells no version
			r.wrong("an answer says that a value was there, which is not so at its place", o)
		}
		return
	}
	if o.Version == o.IfMatch {
		r.wrong("a condition was refused that holds", o)
	}
	if r.present && r.version == o.Version {
		return
	}
	if o.Version <= r.floor || !r.possible(o, true) {
		r.wrong("a refused condition names a version that was not there at its place", o)
	}
	r.set(nil, o.Version, o) // whose value it is stays open until a read shows it
	r.mortal = r.trait.timed
}

func (r *replay) set(holder *history.Operation, version uint64, cause *history.Operation) {
	r.present, r.holder, r.version, r.cause = true, holder, version, cause
	r.floor = max(r.floor, version)
}

func (r *replay) clear(cause *history.Operation) {
	r.present, r.mortal, r.holder, r.version, r.cause = false, false, nil, 0, cause
}

// possible reports whether a change of unknown outcome, asked for before o was answered, may have
// left the key present, or absent; or whether the value may have vanished.
func (r *replay) possible(o *history.Operation, present bool) bool {
	if present {
		return slices.ContainsFunc(r.unplaced, func(w *history.Operation) bool {
			return w.Kind.Stores() && w.Invoke < o.Return
		})
	}
	return r.removed(o) || r.vanished(o)
}

// removed reports whether a change of unknown outcome may have removed the value before o. It happened once at most, so
// that it explains one value's end; the one that was asked for last leaves the others to answers before which it was not.
func (r *replay) removed(o *history.Operation) bool {
	var last *history.Operation
	for _, w := range r.unplaced {
		if w.Kind.Changes() && !w.Kind.Stores() && w.Invoke < o.Return && !r.spent[w] && (last == nil || w.Invoke > last.Invoke) {
			last = w
		}
	}
	if last != nil {
		r.spent[last] = true
	}
	return last != nil
}

// vanished reports whether the value may be gone by itself before o, and counts those that were evicted for sure.
func (r *replay) vanished(o *history.Operation) bool {
	if r.trait.evicts {
		if !r.trait.timed {
			r.c.vanished[o.Place.Shard]++
		}
		return true
	}
	// Whatever gave a time to live, and is of unknown outcome, may have come before.
	return r.mortal || slices.ContainsFunc(r.unplaced, func(w *history.Operation) bool {
		return w.TTL != 0 && w.Invoke < o.Return
	})
}

// wrong reports o after what determined the state before it, and others.
func (r *replay) wrong(what string, o *history.Operation, others ...*history.Operation) {
	evidence := slices.Clone(others)
	if r.cause != nil && !slices.Contains(others, r.cause) {
		evidence = append([]*history.Operation{r.cause}, evidence...)
	}
	r.c.report(what, append(evidence, o)...)
}
