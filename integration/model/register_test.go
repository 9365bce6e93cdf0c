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

// TestStep ensures that from each kind of state each operation leads where it must, and that an
// answer which the state does not allow is refused.
func TestStep(t *testing.T) {
	var (
		empty     = state{}
		held      = state{present: true, value: "a", version: 10, floor: 10}
		unlearned = state{present: true, value: "a", floor: 7}
		deleted   = state{floor: 10}
	)
	for _, tt := range []struct {
		name string
		from state
		op   history.Operation
		want state
		bad  bool
	}{
		{"read", held, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 10}), held, false},
		{"read of another value", held, ok(history.Operation{Kind: history.Get, Found: true, Read: "b", Version: 10}), held, true},
		{"read of another version", held, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 11}), held, true},
		{"read of nothing", held, ok(history.Operation{Kind: history.Get}), held, true},
		{"read of an empty value from nothing", empty, ok(history.Operation{Kind: history.Get, Found: true, Version: 1}), empty, true},
		{"read that learns", unlearned, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 8}), state{true, "a", 8, 8}, false},
		{"read that learns an old version", unlearned, ok(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 7}), unlearned, true},
		{"put", empty, ok(history.Operation{Kind: history.Put, Value: "b", Version: 3}), state{true, "b", 3, 3}, false},
		{"put over a value", held, ok(history.Operation{Kind: history.Put, Value: "b", Version: 11, Existed: true}), state{true, "b", 11, 11}, false},
		{"put with an old version", held, ok(history.Operation{Kind: history.Put, Value: "b", Version: 10, Existed: true}), held, true},
		{"put that denies the value", held, ok(history.Operation{Kind: history.Put, Value: "b", Version: 11}), held, true},
		{"put after a delete with its version", deleted, ok(history.Operation{Kind: history.Put, Value: "b", Version: 10}), deleted, true},
		{"unknown put", held, unknown(history.Operation{Kind: history.Put, Value: "b"}), state{true, "b", 0, 10}, false},
		{"create", empty, ok(history.Operation{Kind: history.Create, Value: "b", Version: 3}), state{true, "b", 3, 3}, false},
		{"create over a value", held, ok(history.Operation{Kind: history.Create, Value: "b", Version: 11}), held, true},
		{"create refused", held, ok(history.Operation{Kind: history.Create, Conflict: true, Version: 10}), held, false},
		{"create refused by nothing", empty, ok(history.Operation{Kind: history.Create, Conflict: true}), empty, true},
		{"create refused by what is unlearned", unlearned, ok(history.Operation{Kind: history.Create, Conflict: true, Version: 9}), state{true, "a", 9, 9}, false},
		{"unknown create", held, unknown(history.Operation{Kind: history.Create, Value: "b"}), held, false},
		{"unknown create of nothing", deleted, unknown(history.Operation{Kind: history.Create, Value: "b"}), state{true, "b", 0, 10}, false},
		{"replace", held, ok(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10, Version: 11}), state{true, "b", 11, 11}, false},
		{"replace of another version", held, ok(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 9, Version: 11}), held, true},
		{"replace of nothing", deleted, ok(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10, Version: 11}), deleted, true},
		{"replace refused", held, ok(history.Operation{Kind: history.Replace, IfMatch: 9, Conflict: true, Version: 10}), held, false},
		{"replace refused though it matches", held, ok(history.Operation{Kind: history.Replace, IfMatch: 10, Conflict: true, Version: 10}), held, true},
		{"replace refused by nothing", deleted, ok(history.Operation{Kind: history.Replace, IfMatch: 10, Conflict: true}), deleted, false},
		{"replace refused by nothing over a value", held, ok(history.Operation{Kind: history.Replace, IfMatch: 9, Conflict: true}), held, true},
		{"unknown replace", held, unknown(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10}), state{true, "b", 0, 10}, false},
		{"unknown replace of another version", held, unknown(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 9}), held, false},
		{"unknown replace of what is unlearned", unlearned, unknown(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 7}), unlearned, false},
		{"delete", held, ok(history.Operation{Kind: history.Delete, Existed: true, Version: 11}), state{floor: 11}, false},
		{"delete that tells no version", held, ok(history.Operation{Kind: history.Delete, Existed: true}), deleted, false},
		{"delete that denies the value", held, ok(history.Operation{Kind: history.Delete}), held, true},
		{"delete of nothing", deleted, ok(history.Operation{Kind: history.Delete}), deleted, false},
		{"unknown delete", held, unknown(history.Operation{Kind: history.Delete}), deleted, false},
		{"delete-if", held, ok(history.Operation{Kind: history.DeleteIf, IfMatch: 10, Existed: true}), deleted, false},
		{"delete-if of another version", held, ok(history.Operation{Kind: history.DeleteIf, IfMatch: 9, Existed: true}), held, true},
		{"unknown delete-if", held, unknown(history.Operation{Kind: history.DeleteIf, IfMatch: 10}), deleted, false},
		{"unknown delete-if of another version", held, unknown(history.Operation{Kind: history.DeleteIf, IfMatch: 9}), held, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, allowed := step(tt.from, &tt.op)
			if allowed == tt.bad {
				t.Fatalf("allowed %t, want %t", allowed, !tt.bad)
			}
			if allowed && got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
