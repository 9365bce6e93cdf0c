package main

import (
	"math"
	"runtime/debug"
	"testing"
)

// TestMemoryLimit ensures that a share is one of all nodes' memory and not absurdly small, that a size is
// taken as it is, and that off is none.
func TestMemoryLimit(t *testing.T) {
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
		{"0%", 1 << 30, 1, 0},
		{"", 1 << 30, 1, 0},
		{"most", 1 << 30, 1, 0},
	} {
		got, err := memoryLimit(tc.text, tc.maxMemory, tc.nodes)
		if got != tc.want || (err == nil) != (tc.want > 0) {
			t.Errorf("%q of %d nodes with %d: got %d, %v, want %d", tc.text, tc.nodes, tc.maxMemory, got, err, tc.want)
		}
	}
}

// TestLimitMemory ensures that the limit is the runtime's until it is undone.
func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	undo := limitMemory(1 << 40)
	if got := debug.SetMemoryLimit(-1); got != 1<<40 {
		t.Errorf("got %d, want %d", got, 1<<40)
	}
	undo()
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("got %d after all, want %d", got, before)
	}
}
