package model

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/anishathalye/porcupine"

	"github.com/larder-cache/larder/integration/history"
)

// value is what a key may hold. A version is 0 while nobody was told it.
type value struct {
	text    string
	version uint64
	// mortal: it may have a time to live, and so be gone by itself.
	mortal bool
}

// held is what is known of a key: it holds one of the values, or, if that may be, nothing. Several values are possible
// only after a write of unknown outcome whose effect depends on what was there. It is never changed, and sorted.
type held struct {
	values []value
	absent bool
	floor  uint64 // the highest version that the key is known to have had
}

func equal(a, b held) bool {
	return a.absent == b.absent && a.floor == b.floor && slices.Equal(a.values, b.values)
}

// stored is what a key holds after o stored its value.
func stored(o *history.Operation, version, floor uint64) held {
	return held{values: []value{valueOf(o, version)}, floor: max(floor, version)}
}

func valueOf(o *history.Operation, version uint64) value {
	return value{o.Value, version, o.TTL != 0}
}

func nothing(floor uint64) held { return held{absent: true, floor: floor} }

// newer reports whether a change may have been given version v. 0 was not told.
func (h held) newer(v uint64) bool { return v == 0 || v > h.floor }

// shown returns h after an answer that showed a value: of any text if that is nil, of any version if that is 0.
func (h held) shown(text *string, version uint64) (held, bool) {
	next := held{floor: max(h.floor, version)}
	for _, v := range h.values {
		switch {
		case text != nil && v.text != *text,
			version != 0 && v.version != 0 && v.version != version,
			version != 0 && v.version == 0 && version <= h.floor:
			continue
		}
		if version != 0 {
			v.version = version
		}
		next.values = append(next.values, v)
	}
	return next.sorted(), len(next.values) > 0
}

// each returns h after every value became another one, which keeps its time to live; put is what an absent one became.
func (h held) each(version uint64, f func(text string) (string, bool), put value) (held, bool) {
	next := held{floor: max(h.floor, version)}
	for _, v := range h.values {
		if text, ok := f(v.text); ok {
			next.values = append(next.values, value{text, version, v.mortal})
		}
	}
	if h.absent {
		next.values = append(next.values, put)
	}
	return next.sorted(), h.newer(version) && (len(next.values) > 0)
}

// given returns h after its values were given a time to live, or, with mortal false, freed of it.
func (h held) given(mortal bool) held {
	h.values = slices.Clone(h.values)
	for i := range h.values {
		h.values[i].mortal = mortal
	}
	return h.sorted()
}

// mortal reports whether what the key holds may be gone by itself.
func (h held) mortal() bool {
	return slices.ContainsFunc(h.values, func(v value) bool { return v.mortal })
}

// timed returns h without the values that have no time to live for sure.
func (h held) timed() held {
	h.values = slices.DeleteFunc(slices.Clone(h.values), func(v value) bool { return !v.mortal })
	return h
}

func (h held) sorted() held {
	if len(h.values) > 1 {
		slices.SortFunc(h.values, func(a, b value) int {
			return cmp.Or(cmp.Compare(a.text, b.text), cmp.Compare(a.version, b.version), compareBool(a.mortal, b.mortal))
		})
		h.values = slices.Compact(h.values)
	}
	return h
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// matched parts h by a version.
func (h held) matched(version uint64) (matching, others []value) {
	for _, v := range h.values {
		if v.version == version {
			matching = append(matching, v)
		} else {
			others = append(others, v)
		}
	}
	return matching, others
}

// law returns what h becomes by o, and whether h allows o's answer.
func law(h held, o *history.Operation) (held, bool) {
	unknown := o.Outcome == history.Unknown
	switch o.Kind {
	case history.Get:
		if !o.Found {
			return nothing(h.floor), h.absent
		}
		if o.Timed {
			h = h.timed()
		}
		return h.shown(&o.Read, o.Version)
	case history.Put, history.Swap:
		if unknown {
			return stored(o, 0, h.floor), true
		}
		if !h.existed(o) || o.Kind == history.Swap && !h.told(o) {
			return h, false
		}
		return stored(o, o.Version, h.floor), h.newer(o.Version)
	case history.Create:
		return create(h, o, unknown)
	case history.Replace, history.DeleteIf:
		return conditional(h, o, unknown)
	case history.Delete:
		if unknown {
			return nothing(h.floor), true
		}
		return nothing(max(h.floor, o.Version)), h.existed(o) && (o.Version == 0 || o.Version > h.floor)
	case history.Incr:
		return incr(h, o, unknown)
	case history.Append:
		return appended(h, o, unknown)
	case history.Expire:
		if unknown {
			return h.given(o.TTL != 0 || h.mortal()), true // or it stayed as it was
		}
		next, ok := touched(h, o)
		return next.given(o.TTL != 0), ok
	case history.Touch:
		if unknown {
			return h, true
		}
		return touched(h, o)
	}
	panic("model: unknown kind " + string(o.Kind))
}

// touched is what an answer says of what stands there and stays.
func touched(h held, o *history.Operation) (held, bool) {
	if !o.Existed {
		return nothing(h.floor), h.absent
	}
	return h.shown(nil, o.Version)
}

// existed reports whether what an answer says of a former value may be so.
func (h held) existed(o *history.Operation) bool {
	if o.Existed {
		return len(h.values) > 0
	}
	return h.absent
}

// told reports whether the former value that a swap tells may have been there.
func (h held) told(o *history.Operation) bool {
	return !o.Found || slices.ContainsFunc(h.values, func(v value) bool { return v.text == o.Read })
}

func create(h held, o *history.Operation, unknown bool) (held, bool) {
	switch {
	case unknown:
		next := held{values: slices.Clone(h.values), floor: h.floor}
		if h.absent {
			next.values = append(next.values, valueOf(o, 0))
		}
		return next.sorted(), true
	case o.Conflict && o.Version == 0:
		// A fill token may be refused without a value there; a plain create may not.
		return nothing(h.floor), o.FillToken != 0 && h.absent
	case o.Conflict:
		return h.shown(nil, o.Version)
	}
	return stored(o, o.Version, h.floor), h.absent && h.newer(o.Version)
}

// conditional is a replace or delete of one version. The version was told before, so a value whose version nobody
// knows is another.
func conditional(h held, o *history.Operation, unknown bool) (held, bool) {
	matching, others := h.matched(o.IfMatch)
	switch {
	case unknown:
		next := held{values: others, absent: h.absent, floor: h.floor}
		if len(matching) > 0 && o.Kind == history.Replace {
			next.values = append(others, valueOf(o, 0))
		} else if len(matching) > 0 {
			next.absent = true
		}
		return next.sorted(), true
	case o.Conflict && o.Version == 0:
		return nothing(h.floor), h.absent
	case o.Conflict:
		if o.Version == o.IfMatch {
			return h, false
		}
		return h.shown(nil, o.Version)
	case len(matching) == 0:
		return h, false
	case o.Kind == history.Replace:
		return stored(o, o.Version, h.floor), h.newer(o.Version)
	}
	return nothing(max(h.floor, o.Version)), o.Existed && h.newer(o.Version)
}

func incr(h held, o *history.Operation, unknown bool) (held, bool) {
	add := func(text string) (string, bool) {
		n, err := strconv.ParseInt(text, 10, 64)
		return strconv.FormatInt(n+o.Delta, 10), err == nil
	}
	first := value{strconv.FormatInt(o.Delta, 10), o.Version, o.TTL != 0}
	if unknown {
		first.version = 0
		return h.each(0, add, first)
	}
	next, ok := h.each(o.Version, add, first)
	if !ok {
		return h, false
	}
	became := strconv.FormatInt(o.Number, 10)
	return next.shown(&became, 0)
}

func appended(h held, o *history.Operation, unknown bool) (held, bool) {
	add := func(text string) (string, bool) { return text + o.Value, true }
	if unknown {
		return h.each(0, add, valueOf(o, 0))
	}
	next, ok := h.each(o.Version, add, valueOf(o, o.Version))
	if !ok || !o.Found {
		return next, ok
	}
	return next.shown(&o.Read, 0)
}

// Law returns the model of one key. Inputs are *history.Operation, outputs are not used. Where entries may be evicted, a key
// may hold nothing at any moment, and so may one with a value that has a time to live; what vanished must not come back.
func Law(evicts bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return nothing(0) },
		Step: func(s, input, _ any) (bool, any) {
			h := s.(held)
			h.absent = h.absent || evicts || h.mortal()
			next, ok := law(h, input.(*history.Operation))
			return ok, next
		},
		Equal: func(a, b any) bool { return equal(a.(held), b.(held)) },
		DescribeOperation: func(input, _ any) string {
			return input.(*history.Operation).String()
		},
		DescribeState: func(s any) string { return s.(held).String() },
	}
}

func (h held) String() string {
	s := ""
	for i, v := range h.values {
		if i > 0 {
			s += " or "
		}
		s += strconv.Quote(clip(v.text)) + " version " + strconv.FormatUint(v.version, 10)
		if v.mortal {
			s += " for a time"
		}
	}
	if h.absent {
		if s != "" {
			s += " or "
		}
		s += "absent"
	}
	return s + ", above " + strconv.FormatUint(h.floor, 10)
}

// clip shortens a value for people.
func clip(s string) string {
	const most = 24
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
