package model

import (
	"testing"

	"github.com/larder-cache/larder/integration/history"
)

// ok makes an operation that was answered, unknown one that was not.
func ok(o history.Operation) history.Operation {
	o.Outcome = history.OK
	return o
}

func unknown(o history.Operation) history.Operation {
	o.Outcome = history.Unknown
	return o
}

// one is a key that holds a value without end.
func one(text string, version, floor uint64) held {
	return held{values: []value{{text, version, false}}, floor: max(floor, version)}
}

// TestLaw ensures that from each kind of state each operation leads where it must, and that an
// answer which the state does not allow is refused.
func TestLaw(t *testing.T) {
	var (
		empty     = nothing(0)
		a         = one("a", 10, 10)
		unlearned = one("a", 0, 7)
		deleted   = nothing(10)
		// What unknown writes leave where values may vanish.
		either = held{values: []value{{"a", 10, false}, {"b", 0, false}}, floor: 10}
		number = one("5", 10, 10)
		timed  = held{values: []value{{"a", 10, true}}, floor: 10}
		gone   = held{values: []value{{"5", 10, false}}, absent: true, floor: 10}
	)
	for _, tt := range []struct {
		name string
		from held
		op   history.Operation
		want held
		bad  bool
	}{
		{"read", a, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 10}), a, false},
		{"read of another value", a, ok(history.Operation{Kind: history.Get, Found: true, Read: "b", Version: 10}), a, true},
		{"read of another version", a, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 11}), a, true},
		{"read of nothing", a, ok(history.Operation{Kind: history.Get}), a, true},
		{"read of an empty value from nothing", empty, ok(history.Operation{Kind: history.Get, Found: true, Version: 1}), empty, true},
		{"read that learns", unlearned, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 8}), one("a", 8, 8), false},
		{"read that learns an old version", unlearned, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 7}), unlearned, true},
		{"put", empty, ok(history.Operation{Kind: history.Put, Value: "b", Version: 3}), one("b", 3, 3), false},
		{"put over a value", a, ok(history.Operation{Kind: history.Put, Value: "b", Version: 11, Existed: true}), one("b", 11, 11), false},
		{"put with an old version", a, ok(history.Operation{Kind: history.Put, Value: "b", Version: 10, Existed: true}), a, true},
		{"put that denies the value", a, ok(history.Operation{Kind: history.Put, Value: "b", Version: 11}), a, true},
		{"put after a delete with its version", deleted, ok(history.Operation{Kind: history.Put, Value: "b", Version: 10}), deleted, true},
		{"unknown put", a, unknown(history.Operation{Kind: history.Put, Value: "b"}), one("b", 0, 10), false},
		{"create", empty, ok(history.Operation{Kind: history.Create, Value: "b", Version: 3}), one("b", 3, 3), false},
		{"create over a value", a, ok(history.Operation{Kind: history.Create, Value: "b", Version: 11}), a, true},
		{"create refused", a, ok(history.Operation{Kind: history.Create, Conflict: true, Version: 10}), a, false},
		{"create refused by nothing", empty, ok(history.Operation{Kind: history.Create, Conflict: true}), empty, true},
		{"create refused by what is unlearned", unlearned, ok(history.Operation{Kind: history.Create, Conflict: true, Version: 9}), one("a", 9, 9), false},
		{"unknown create", a, unknown(history.Operation{Kind: history.Create, Value: "b"}), a, false},
		{"unknown create of nothing", deleted, unknown(history.Operation{Kind: history.Create, Value: "b"}), one("b", 0, 10), false},
		{"replace", a, ok(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10, Version: 11}), one("b", 11, 11), false},
		{"replace of another version", a, ok(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 9, Version: 11}), a, true},
		{"replace of nothing", deleted, ok(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10, Version: 11}), deleted, true},
		{"replace refused", a, ok(history.Operation{Kind: history.Replace, IfMatch: 9, Conflict: true, Version: 10}), a, false},
		{"replace refused though it matches", a, ok(history.Operation{Kind: history.Replace, IfMatch: 10, Conflict: true, Version: 10}), a, true},
		{"replace refused by nothing", deleted, ok(history.Operation{Kind: history.Replace, IfMatch: 10, Conflict: true}), deleted, false},
		{"replace refused by nothing over a value", a, ok(history.Operation{Kind: history.Replace, IfMatch: 9, Conflict: true}), a, true},
		{"unknown replace", a, unknown(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10}), one("b", 0, 10), false},
		{"unknown replace of another version", a, unknown(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 9}), a, false},
		{"unknown replace of what is unlearned", unlearned, unknown(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 7}), unlearned, false},
		{"delete", a, ok(history.Operation{Kind: history.Delete, Existed: true, Version: 11}), nothing(11), false},
		{"delete that tells no version", a, ok(history.Operation{Kind: history.Delete, Existed: true}), deleted, false},
		{"delete that denies the value", a, ok(history.Operation{Kind: history.Delete}), a, true},
		{"delete of nothing", deleted, ok(history.Operation{Kind: history.Delete}), deleted, false},
		{"unknown delete", a, unknown(history.Operation{Kind: history.Delete}), deleted, false},
		{"delete-if", a, ok(history.Operation{Kind: history.DeleteIf, IfMatch: 10, Existed: true}), deleted, false},
		{"delete-if of another version", a, ok(history.Operation{Kind: history.DeleteIf, IfMatch: 9, Existed: true}), a, true},
		{"unknown delete-if", a, unknown(history.Operation{Kind: history.DeleteIf, IfMatch: 10}), deleted, false},
		{"unknown delete-if of another version", a, unknown(history.Operation{Kind: history.DeleteIf, IfMatch: 9}), a, false},
		{"swap", a, ok(history.Operation{Kind: history.Swap, Value: "b", Existed: true, Found: true, Read: "a", Version: 11}), one("b", 11, 11), false},
		{"swap that tells another value", a, ok(history.Operation{Kind: history.Swap, Value: "b", Existed: true, Found: true, Read: "c", Version: 11}), a, true},
		{"swap that tells nothing, repeated", a, ok(history.Operation{Kind: history.Swap, Value: "b", Existed: true, Version: 11}), one("b", 11, 11), false},
		{"incr", number, ok(history.Operation{Kind: history.Incr, Delta: -7, Number: -2, Version: 11}), one("-2", 11, 11), false},
		{"incr that forgets what was there", number, ok(history.Operation{Kind: history.Incr, Delta: 2, Number: 2, Version: 11}), number, true},
		{"incr of nothing", empty, ok(history.Operation{Kind: history.Incr, Delta: 2, Number: 2, Version: 1}), one("2", 1, 1), false},
		{"incr of what may be gone", gone, ok(history.Operation{Kind: history.Incr, Delta: 2, Number: 2, Version: 11}), one("2", 11, 11), false},
		{"incr of what is there yet", gone, ok(history.Operation{Kind: history.Incr, Delta: 2, Number: 7, Version: 11}), one("7", 11, 11), false},
		{"incr twice", gone, ok(history.Operation{Kind: history.Incr, Delta: 2, Number: 9, Version: 11}), gone, true},
		{"incr with an old version", number, ok(history.Operation{Kind: history.Incr, Delta: 1, Number: 6, Version: 10}), number, true},
		{"unknown incr", number, unknown(history.Operation{Kind: history.Incr, Delta: 2}), one("7", 0, 10), false},
		{"unknown incr of what may be gone", gone, unknown(history.Operation{Kind: history.Incr, Delta: 2}), held{values: []value{{"2", 0, false}, {"7", 0, false}}, floor: 10}, false},
		{"append", a, ok(history.Operation{Kind: history.Append, Value: "b", Found: true, Read: "ab", Version: 11}), one("ab", 11, 11), false},
		{"append that lost what was there", a, ok(history.Operation{Kind: history.Append, Value: "b", Found: true, Read: "b", Version: 11}), a, true},
		{"append that tells nothing, repeated", a, ok(history.Operation{Kind: history.Append, Value: "b", Version: 11}), one("ab", 11, 11), false},
		{"unknown append of nothing", deleted, unknown(history.Operation{Kind: history.Append, Value: "b"}), one("b", 0, 10), false},
		{"expire", a, ok(history.Operation{Kind: history.Expire, Existed: true, Version: 10}), a, false},
		{"expire of nothing", a, ok(history.Operation{Kind: history.Expire}), a, true},
		{"expire that names another version", a, ok(history.Operation{Kind: history.Expire, Existed: true, Version: 11}), a, true},
		{"put for a time", a, ok(history.Operation{Kind: history.Put, Value: "a", TTL: 1, Version: 11, Existed: true}), held{values: []value{{"a", 11, true}}, floor: 11}, false},
		{"put without end over one for a time", timed, ok(history.Operation{Kind: history.Put, Value: "b", Version: 11, Existed: true}), one("b", 11, 11), false},
		{"append to one for a time", timed, ok(history.Operation{Kind: history.Append, Value: "b", Version: 11}), held{values: []value{{"ab", 11, true}}, floor: 11}, false},
		{"append of nothing for a time", empty, ok(history.Operation{Kind: history.Append, Value: "b", TTL: 1, Version: 11}), held{values: []value{{"b", 11, true}}, floor: 11}, false},
		{"expire gives a time", a, ok(history.Operation{Kind: history.Expire, TTL: 1, Existed: true, Version: 10}), timed, false},
		{"expire takes a time", timed, ok(history.Operation{Kind: history.Expire, Existed: true, Version: 10}), a, false},
		{"unknown expire may give a time", a, unknown(history.Operation{Kind: history.Expire, TTL: 1}), timed, false},
		{"unknown expire may take a time, or not", timed, unknown(history.Operation{Kind: history.Expire}), timed, false},
		{"read that says for a time", timed, ok(history.Operation{Kind: history.Get, Found: true, Timed: true, Read: "a", Version: 10}), timed, false},
		{"read that says for a time without cause", a, ok(history.Operation{Kind: history.Get, Found: true, Timed: true, Read: "a", Version: 10}), a, true},
		{"touch of what may be gone", gone, ok(history.Operation{Kind: history.Touch}), deleted, false},
		{"touch of what is there yet", gone, ok(history.Operation{Kind: history.Touch, Existed: true}), number, false},
		{"read of what may be gone", gone, ok(history.Operation{Kind: history.Get}), deleted, false},
		{"read of one of two", either, ok(history.Operation{Kind: history.Get, Found: true, Read: "b", Version: 12}), one("b", 12, 12), false},
		{"read of neither", either, ok(history.Operation{Kind: history.Get, Found: true, Read: "c", Version: 12}), either, true},
		{"put over one of two", either, ok(history.Operation{Kind: history.Put, Value: "c", Existed: true, Version: 12}), one("c", 12, 12), false},
		{"unknown create of what may be gone", gone, unknown(history.Operation{Kind: history.Create, Value: "b"}), held{values: []value{{"5", 10, false}, {"b", 0, false}}, floor: 10}, false},
		{"replace of one of two", either, unknown(history.Operation{Kind: history.Replace, Value: "c", IfMatch: 10}), held{values: []value{{"b", 0, false}, {"c", 0, false}}, floor: 10}, false},
		{"unknown delete-if of one of two", either, unknown(history.Operation{Kind: history.DeleteIf, IfMatch: 10}), held{values: []value{{"b", 0, false}}, absent: true, floor: 10}, false},
		{"create by a token, refused by nothing", empty, ok(history.Operation{Kind: history.Create, FillToken: 4, Conflict: true}), empty, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, allowed := law(tt.from, &tt.op)
			if allowed == tt.bad {
				t.Fatalf("allowed %t, want %t", allowed, !tt.bad)
			}
			if allowed && !equal(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestVanish ensures that what vanished does not come back where values may vanish, and that nothing vanishes elsewhere.
func TestVanish(t *testing.T) {
	put := ok(history.Operation{Kind: history.Put, Value: "a", Version: 1})
	brief := ok(history.Operation{Kind: history.Put, Value: "a", TTL: 1, Version: 1})
	free := ok(history.Operation{Kind: history.Expire, Existed: true, Version: 1})
	there := ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 1})
	absent := ok(history.Operation{Kind: history.Get})
	for _, tt := range []struct {
		vanish bool
		ops    []history.Operation
		want   bool
	}{
		{false, []history.Operation{put, there, there}, true},
		{false, []history.Operation{put, absent}, false},
		{false, []history.Operation{brief, there, absent}, true},
		{false, []history.Operation{brief, absent, there}, false},
		{false, []history.Operation{brief, free, absent}, false},
		{true, []history.Operation{put, there, absent, absent}, true},
		{true, []history.Operation{put, absent, there}, false},
		{true, []history.Operation{absent, there}, false},
	} {
		m := Law(tt.vanish)
		s, allowed := m.Init(), true
		for i := range tt.ops {
			if allowed {
				allowed, s = m.Step(s, &tt.ops[i], nil)
			}
		}
		if allowed != tt.want {
			t.Errorf("vanish %t, %v: allowed %t", tt.vanish, tt.ops, allowed)
		}
	}
}
