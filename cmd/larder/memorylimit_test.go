package main

import (
	"math"
	"runtime/debug"
	"testing"
)

// TestHeapLimit ensures that a share is one of all nodes' memory and not absurdly small, that a size is
// taken as it is, that off is none, and auto at first the most that it may be.
func TestHeapLimit(t *testing.T) {
	for _, tc := range []struct {
		text      string
		maxMemory uint64
		nodes     int
		want      int64 // 0: refused
	}{
		{"90%", 1 << 30, 1, 966367641},
		{"90%", 1 << 30, 3, 2899102924},
		{"100%", 1 << 30, 2, 2 << 30},
		{"90%", 1 << 20, 1, 64 << 20},
		{"50%", math.MaxInt64, 26, math.MaxInt64 / 2},
		{"512MiB", 1 << 30, 3, 512 << 20},
		{"2GiB", 1 << 30, 1, 2 << 30},
		{"1MiB", 1 << 30, 1, 1 << 20},
		{"off", 1 << 30, 1, math.MaxInt64},
		{"auto", 1 << 30, 3, 2899102924},
		{"0%", 1 << 30, 1, 0},
		{"", 1 << 30, 1, 0},
		{"most", 1 << 30, 1, 0},
	} {
		got, err := newHeapLimit(tc.text, tc.maxMemory, tc.nodes)
		if (err == nil) != (tc.want > 0) || err == nil && got.most != tc.want {
			t.Errorf("%q of %d nodes with %d: got %+v, %v, want %d", tc.text, tc.nodes, tc.maxMemory, got, err, tc.want)
		}
	}
}

// TestHeapLimitFollows ensures that the runtime's limit follows what the nodes have for entries where it is auto, up
// to the most that it may be, that another one stays, and that both end with undo.
func TestHeapLimitFollows(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	type step struct {
		node     string
		capacity uint64
		want     int64
	}
	const gib, mib = 1 << 30, 1 << 20
	for text, steps := range map[string][]step{
		"auto": {
			{"a", 8 * gib, 10*gib + 192*mib},
			{"b", 4 * gib, 15*gib + 384*mib},
			{"b", 8 * gib, 20*gib + 384*mib},
			{"a", 28 * gib, 32 * gib * 9 / 10},
			{"a", math.MaxUint64, 32 * gib * 9 / 10},
			{"a", 0, 10*gib + 384*mib},
		},
		"12GiB": {{"a", 8 * gib, 12 * gib}, {"a", gib, 12 * gib}},
		"off":   {{"a", 8 * gib, math.MaxInt64}},
	} {
		l, err := newHeapLimit(text, 16*gib, 2)
		if err != nil {
			t.Fatal(err)
		}
		undo := l.set()
		for _, s := range steps {
			l.follow(s.node, s.capacity)
			if got := debug.SetMemoryLimit(-1); got != s.want {
				t.Errorf("%s, node %s with %d: got %d, want %d", text, s.node, s.capacity, got, s.want)
			}
		}
		undo()
		if got := debug.SetMemoryLimit(-1); got != before {
			t.Errorf("%s: got %d after all, want %d", text, got, before)
		}
	}
}
