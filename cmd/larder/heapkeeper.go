package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The runtime by itself lets a heap grow to twice of what lives in it, and gives back what is free as if it would soon be needed again.
// Almost all that lives here are entries, in few and large objects without pointers, of which the garbage collector has nothing to
// look through: it may run far more often than for other heaps of the size. And what a load left free nobody may need for hours.
const (
	// garbageShare is the part of what lives that garbage may come to, and leastGarbage what it always may.
	garbageShare = 6
	leastGarbage = 24 << 20
	// leastHeap is what the runtime takes for what lives where less does, to tell how far a heap may grow.
	leastHeap = 4 << 20
	// calmTicks is how many ticks in a row are looked at to tell whether a process is calm, and calmShare how often what they
	// allocated must fit into what could be given back, for it to be.
	calmTicks = 5
	calmShare = 2
	// releaseShare is the part of what lives that is worth a collection to give it back, leastRelease what always is, where it
	// is also leftTimes what the last time left: the runtime's scavenger takes parts of the heap for empty that are not, and
	// keeps a few MiB until somebody uses them.
	releaseShare = 96
	leastRelease = 2 << 20
	leftTimes    = 2

	heapTick = time.Second

	// goGCPercent is the variable by which the runtime itself takes a percentage, which then stays.
	goGCPercent = "GOGC"
)

// heapSample is what the runtime tells of the heap, bytes.
type heapSample struct {
	live   uint64 // of what lived at the last collection
	used   uint64 // of what lives, and of garbage
	free   uint64 // held from the system, for nothing
	allocs uint64 // allocated since the start
}

// spare is what could be given back.
func (s heapSample) spare() uint64 { return s.free + s.used - min(s.used, s.live) }

// heapKeeper decides how the heap is collected. It has no clock: step is called once a tick.
type heapKeeper struct {
	percent int               // of garbage, as it was set last; 0: never
	allocs  [calmTicks]uint64 // of the last ticks, the last one first; 0: not known
	left    uint64            // spare after memory was given back last
}

// step returns the percentage of garbage to set, 0 to leave it, and whether to give free memory back now.
func (k *heapKeeper) step(s heapSample) (percent int, release bool) {
	garbage := max(leastGarbage, s.live/garbageShare)
	want := int(garbage * 100 / max(s.live, leastHeap))
	if k.percent == 0 || want < k.percent*7/8 || want > k.percent*8/7+1 { // each change stops the world
		k.percent, percent = want, want
	}
	spare := s.spare()
	before := k.allocs[calmTicks-1]
	if before != 0 && (s.allocs-before)*calmShare < spare && spare > max(leastRelease, s.live/releaseShare, k.left*leftTimes) {
		k.allocs = [calmTicks]uint64{} // the next ones are counted anew
		return percent, true
	}
	copy(k.allocs[1:], k.allocs[:])
	k.allocs[0] = s.allocs
	return percent, false
}

// released takes note of what is left right after memory was given back.
func (k *heapKeeper) released(s heapSample) { k.left = s.spare() }

// keepHeap keeps the process's heap small, until end is called.
func keepHeap(tick time.Duration) (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		k, given := heapKeeper{}, 0
		first := true
		for awaitTick(tick, stop) {
			percent, release := k.step(sampleHeap())
			if percent != 0 && os.Getenv(goGCPercent) == "" {
				if before := debug.SetGCPercent(percent); first {
					given, first = before, false
				}
			}
			if release {
				debug.FreeOSMemory()
				k.released(sampleHeap())
			}
		}
		if !first {
			debug.SetGCPercent(given)
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

// awaitTick waits for the next one, which comes at a full second, with all else that a calm process does; false once stop is closed.
func awaitTick(tick time.Duration, stop <-chan struct{}) bool {
	timer := time.NewTimer(time.Until(time.Now().Truncate(tick).Add(tick)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}

func sampleHeap() heapSample {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(samples)
	return heapSample{live: samples[0].Value.Uint64(), used: samples[1].Value.Uint64(), free: samples[2].Value.Uint64(), allocs: samples[3].Value.Uint64()}
}
