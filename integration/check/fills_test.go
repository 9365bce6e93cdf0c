package check

import (
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// TestFills ensures that a load counts as wrong where the key was changed between token and load for certain, and not where
// it was not changed, or changed before or after, or may not have been.
func TestFills(t *testing.T) {
	at := func(seconds, took int, index uint64, o history.Operation) history.Operation {
		o.Key, o.Place = "k", history.Place{Shard: 1, Epoch: 1, Index: index}
		o.Invoke, o.Return = time.Duration(seconds)*time.Second, time.Duration(seconds+took)*time.Second
		if o.Outcome == "" {
			o.Outcome = history.OK
		}
		return o
	}
	miss := at(10, 1, 5, history.Operation{Kind: history.Get, FillToken: 7})
	fill := at(20, 1, 9, history.Operation{Kind: history.Create, FillToken: 7, Value: "v", Version: 30})
	for name, tt := range map[string]struct {
		between history.Operation
		want    int
	}{
		"put between":               {at(14, 1, 7, history.Operation{Kind: history.Put, Version: 8}), 1},
		"deleted between":           {at(14, 1, 7, history.Operation{Kind: history.Delete, Existed: true}), 1},
		"nothing was deleted":       {at(14, 1, 7, history.Operation{Kind: history.Delete}), 0},
		"refused by its condition":  {at(14, 1, 7, history.Operation{Kind: history.Replace, Conflict: true}), 0},
		"unknown":                   {at(14, 1, 7, history.Operation{Kind: history.Put, Outcome: history.Unknown}), 0},
		"before the miss":           {at(2, 1, 4, history.Operation{Kind: history.Put, Version: 3}), 0},
		"at the time of the miss":   {at(10, 1, 6, history.Operation{Kind: history.Put, Version: 6}), 0},
		"after the load":            {at(20, 1, 11, history.Operation{Kind: history.Put, Version: 40}), 0},
		"touched, and not changed":  {at(14, 1, 7, history.Operation{Kind: history.Touch, Existed: true}), 0},
		"told again from a retry":   {at(14, 1, 7, history.Operation{Kind: history.Put, Version: 8, Replayed: true}), 0},
		"another load of one token": {at(14, 1, 7, history.Operation{Kind: history.Create, FillToken: 7, Version: 8}), 1},
	} {
		ops := []history.Operation{miss, tt.between, fill}
		violations, checked := Fills(ops)
		if len(violations) != tt.want || checked == 0 {
			t.Errorf("%s: %d of %d loads are wrong: %v", name, len(violations), checked, violations)
		}
	}
	stale := fill
	stale.Conflict = true
	if violations, checked := Fills([]history.Operation{miss, stale}); len(violations) != 0 || checked != 0 {
		t.Errorf("a load that was refused: %v, %d", violations, checked)
	}
}
