package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// TestHeapPercent ensures that garbage may come to a sixth of what lives, or to what it always may, that small changes are left alone,
// and that the runtime's own percentage is set.
func TestHeapPercent(t *testing.T) {
	const mib = 1 << 20
	var k heapKeeper
	for i, tc := range []struct {
		live uint64
		want int
	}{
		{0, 600}, {mib, 0}, {4 * mib, 0}, {8 * mib, 300}, {24 * mib, 100}, {25 * mib, 0}, {23 * mib, 0}, {48 * mib, 50}, {120 * mib, 20}, {144 * mib, 16}, {1 << 30, 0}, {1 << 40, 0}, {48 * mib, 50},
	} {
		if got, _ := k.step(heapSample{live: tc.live, used: tc.live}); got != tc.want {
			t.Errorf("step %d: %d MiB live: got %d %%, want %d", i, tc.live/mib, got, tc.want)
		}
	}
}

// TestHeapGoal ensures that the runtime lets the heap grow about as far as it may where next to nothing lives, or nothing is known to yet:
// it has a least heap of its own, which a percentage makes larger.
func TestHeapGoal(t *testing.T) {
	var k heapKeeper
	percent, _ := k.step(heapSample{})
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	runtime.GC()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(goal)
	if got := goal[0].Value.Uint64(); got < leastGarbage || got > 2*leastGarbage {
		t.Errorf("%d bytes live, and the heap may grow to %d, want about %d", sampleHeap().live, got, leastGarbage)
	}
}

// TestHeapCalm ensures that what is free is given back where it is much, and where little was allocated for some time.
func TestHeapCalm(t *testing.T) {
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		live, garbage, free uint64 // MiB
		allocs              []uint64
		want                int // the step at which memory is given back, counted from 0; -1: never
	}{
		"calm":              {100, 10, 10, []uint64{500, 500, 500, 500, 500, 500, 500}, 5},
		"calm later":        {100, 0, 20, []uint64{500, 600, 700, 800, 801, 801, 801, 802, 802, 802}, 8},
		"busy":              {100, 10, 10, []uint64{500, 502, 504, 506, 508, 510, 512, 514, 516}, -1},
		"much, less calm":   {100, 40, 0, []uint64{500, 502, 504, 506, 508, 510, 512, 514, 516}, 5},
		"little":            {100, 1, 1, []uint64{500, 500, 500, 500, 500, 500, 500, 500}, -1},
		"a bit more":        {100, 1, 2, []uint64{500, 500, 500, 500, 500, 500, 500, 500}, 5},
		"little of a lot":   {1920, 10, 10, []uint64{5000, 5000, 5000, 5000, 5000, 5000, 5000}, -1},
		"a part of a lot":   {1920, 10, 11, []uint64{5000, 5000, 5000, 5000, 5000, 5000, 5000}, 5},
		"again, not sooner": {100, 10, 10, []uint64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 5},
	} {
		var k heapKeeper
		got := -1
		for i, allocs := range tc.allocs {
			s := heapSample{live: tc.live * mib, used: (tc.live + tc.garbage) * mib, free: tc.free * mib, allocs: allocs * mib}
			if _, release := k.step(s); release {
				if got >= 0 {
					t.Errorf("%s: given back again at step %d", name, i)
				}
				got = i
			}
		}
		if got != tc.want {
			t.Errorf("%s: given back at step %d, want %d", name, got, tc.want)
		}
	}
}

// TestHeapLeft ensures that what could not be given back is not tried again and again, until it has doubled.
func TestHeapLeft(t *testing.T) {
	const mib = 1 << 20
	var k heapKeeper
	k.released(heapSample{live: 10 * mib, used: 10 * mib, free: 5 * mib})
	for i, free := range []uint64{5, 5, 5, 5, 5, 5, 10, 11, 5, 5, 5, 5, 5, 5, 5} {
		if _, release := k.step(heapSample{live: 10 * mib, used: 10 * mib, free: free * mib, allocs: mib}); release != (i == 7) {
			t.Errorf("step %d: given back: %v", i, release)
		}
	}
	k.released(heapSample{live: 10 * mib, used: 10 * mib})
	for i := range 2*calmTicks + 1 {
		if _, release := k.step(heapSample{live: 10 * mib, used: 10 * mib, free: 5 * mib, allocs: mib}); release && i >= calmTicks {
			return
		}
	}
	t.Error("what can be given back again is kept")
}

// TestKeepHeap ensures that the process gives back what it has no use for, and has its own percentage again at the end.
func TestKeepHeap(t *testing.T) {
	t.Setenv(goGCPercent, "")
	before := debug.SetGCPercent(173)
	defer debug.SetGCPercent(before)
	end := keepHeap(10 * time.Millisecond)
	var load [][]byte
	for range 64 {
		load = append(load, make([]byte, 1<<20))
	}
	for i := range load {
		load[i][0] = 1
	}
	load = nil
	runtime.GC()
	if s := sampleHeap(); s.free < 48<<20 {
		t.Errorf("got %+v, want that most of 64 MiB is free", s)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s := sampleHeap()
		if s.spare() < 16<<20 { // the runtime may keep a few MiB whatever is asked for
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it keeps what is free: %+v", s)
		}
	}
	if got := debug.SetGCPercent(50); got == 173 {
		t.Error("the percentage was not set")
	}
	end()
	if got := debug.SetGCPercent(173); got != 173 {
		t.Errorf("got a percentage of %d after all, want 173", got)
	}
}
