package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/integration/bench/local"
)

// bench is the state of a child: a subject and the ids of the keys in it.
type bench struct {
	name     string
	s        subject
	baseline uint64 // live heap before the subject was filled
	entries  int
	next     uint64 // ids below it were stored, the last entries of them are there
	rnd      *rand.Rand
}

func (b *bench) do(words []string) (answer, error) {
	if len(words) == 0 {
		return answer{}, errors.New("no command")
	}
	number := func(i int) int {
		n := 0
		if i < len(words) {
			n, _ = strconv.Atoi(words[i])
		}
		return n
	}
	if b.s == nil && (words[0] != "fill" && words[0] != "snapshot" && words[0] != "churn") {
		return answer{}, errors.New("nothing filled")
	}
	switch words[0] {
	case "fill":
		return answer{}, b.fill(number(1))
	case "put":
		return b.put(number(1), number(2))
	case "mix":
		return answer{}, b.mix()
	case "get":
		return b.get(number(1))
	case "touch":
		return b.touch(number(1), number(2))
	case "encode":
		return b.encode(number(1), number(2))
	case "decode":
		return b.decode(number(1), number(2))
	case "heap":
		rss, err := local.Memory("self", "VmRSS")
		return answer{Heap: liveHeap() - b.baseline, RSS: rss}, err
	case "mixed":
		return b.mixed(time.Duration(number(1)) * time.Millisecond)
	case "snapshot":
		return takeSnapshots(words[1:])
	case "churn":
		return runChurn(words[1:])
	}
	return answer{}, fmt.Errorf("unknown command %q", words[0])
}

// liveHeap is what a collection leaves.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC() // sweeps what the first one found
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// fill fills a new subject to the brim.
func (b *bench) fill(entries int) error {
	b.baseline = liveHeap()
	s, err := newSubject(b.name, entries)
	if err != nil {
		return err
	}
	b.s, b.entries, b.next, b.rnd = s, entries, 0, rand.New(rand.NewPCG(1, 2))
	for left := entries; left > 0; {
		n := min(left, 64<<10)
		if err := s.put(b.newKeys(n), 64); err != nil {
			return err
		}
		left -= n
	}
	return b.full()
}

// full checks that the subject holds what it was made for.
func (b *bench) full() error {
	if got := b.s.len(); got != b.entries {
		return fmt.Errorf("%d entries, want %d", got, b.entries)
	}
	return nil
}

// newKeys returns n keys that were not stored so far.
func (b *bench) newKeys(n int) []byte {
	keys := make([]byte, n*keySize)
	for i := range n {
		keyAt(keys[i*keySize:], b.next)
		b.next++
	}
	return keys
}

// present returns n keys that are there, at random.
func (b *bench) present(dst []byte) {
	low := b.next - uint64(b.entries)
	for ; len(dst) > 0; dst = dst[keySize:] {
		keyAt(dst, low+b.rnd.Uint64N(uint64(b.entries)))
	}
}

// perOp is the time of f by operation: that of the thread it ran on, which other processes don't stretch.
// What the collector does meanwhile on other threads is not in it.
func perOp(ops int, f func() error) (answer, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := cpuTime(unix.CLOCK_THREAD_CPUTIME_ID)
	err := f()
	return answer{NS: float64((cpuTime(unix.CLOCK_THREAD_CPUTIME_ID) - began).Nanoseconds()) / float64(ops)}, err
}

// cpuTime reads a clock of CPU time.
func cpuTime(clock int32) time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(clock, &ts) // fails for a wrong argument only
	return time.Duration(ts.Nano())
}

// put stores new keys, each of which evicts the oldest.
func (b *bench) put(ops, batch int) (answer, error) {
	keys := b.newKeys(ops)
	a, err := perOp(ops, func() error { return b.s.put(keys, batch) })
	if err != nil {
		return a, err
	}
	return a, b.full()
}

// mix stores new keys throughout and then renews them one after the other in a random order, so that the order
// of recency is one of its own.
func (b *bench) mix() error {
	if err := b.s.put(b.newKeys(b.entries), 64); err != nil {
		return err
	}
	keys, low := make([]byte, b.entries*keySize), b.next-uint64(b.entries)
	for i, id := range b.rnd.Perm(b.entries) {
		keyAt(keys[i*keySize:], low+uint64(id))
	}
	if m, ok := b.s.(*machine); ok { // reads alone renew the others
		return m.touch(m.touchesOf(keys), 256)
	}
	if found := b.s.get(keys); found != b.entries {
		return fmt.Errorf("found %d of %d", found, b.entries)
	}
	return nil
}

func (b *bench) get(ops int) (answer, error) {
	keys := make([]byte, ops*keySize)
	b.present(keys)
	return perOp(ops, func() error {
		if found := b.s.get(keys); found != ops {
			return fmt.Errorf("found %d of %d", found, ops)
		}
		return nil
	})
}

func (b *bench) touch(ops, batch int) (answer, error) {
	m, ok := b.s.(*machine)
	if !ok {
		return answer{}, errors.New("only ours is touched by itself")
	}
	keys := make([]byte, ops*keySize)
	b.present(keys)
	touches := m.touchesOf(keys)
	return perOp(ops, func() error { return m.touch(touches, batch) })
}

// entry returns a log entry of batch puts.
func (b *bench) entry(batch int) fsm.Batch {
	entry, keys := fsm.Batch{Stamp: 1_700_000_000_000, Level: 1}, make([]byte, batch*keySize)
	b.present(keys)
	for i := range batch {
		entry.Commands = append(entry.Commands, fsm.Command{Kind: fsm.KindPut, Key: keys[i*keySize : (i+1)*keySize], Value: valueAt(i)})
	}
	return entry
}

func (b *bench) encode(ops, batch int) (answer, error) {
	entry := b.entry(batch)
	return perOp(ops/batch*batch, func() error {
		for range ops / batch {
			data, err := entry.AppendBinary(nil)
			if err != nil {
				return err
			}
			sink += data[0]
		}
		return nil
	})
}

func (b *bench) decode(ops, batch int) (answer, error) {
	data, err := b.entry(batch).AppendBinary(nil)
	if err != nil {
		return answer{}, err
	}
	return perOp(ops/batch*batch, func() error {
		for range ops / batch {
			entry, err := fsm.DecodeBatch(data)
			if err != nil {
				return err
			}
			sink += entry.Level
		}
		return nil
	})
}

// mixed is what a read-mostly run came to.
type mixed struct {
	OpsPerSecond float64       // of CPU, collections included
	GCShare      float64       // of the CPU that was used
	Cycles       float64       // collections, see gcShare
	Pause        time.Duration // longest stop of the world, to the end of its bucket
	LongestOp    time.Duration // longest group of operations, see mixedReads
}

// A read-mostly run goes in groups of mixedReads reads and then mixedWrites puts: 95 to 5.
const (
	mixedReads  = 304
	mixedWrites = 16
)

// mixed reads and overwrites present keys at random for a while. In the time of a run a subject that
// makes little garbage may see no collection, or just one: see gcShare.
func (b *bench) mixed(length time.Duration) (answer, error) {
	runtime.GC()
	before := readGC()
	reads, writes := make([]byte, mixedReads*keySize), make([]byte, mixedWrites*keySize)
	var longest time.Duration
	ops := 0
	began := time.Now()
	for time.Since(began) < length {
		b.present(reads)
		b.present(writes)
		start := time.Now()
		if err := b.s.mixed(reads, writes); err != nil {
			return answer{}, err
		}
		longest = max(longest, time.Since(start))
		ops += mixedReads + mixedWrites
	}
	after := readGC()
	if err := b.full(); err != nil {
		return answer{}, err
	}
	cycles, share := gcShare(before, after)
	return answer{Mixed: &mixed{
		OpsPerSecond: float64(ops) / (after.used - before.used).Seconds(),
		GCShare:      share,
		Cycles:       cycles,
		Pause:        longestPause(before.pauses, readGC().pauses),
		LongestOp:    longest,
	}}, nil
}

// gcShare returns how many collections a run saw, or its garbage was worth where that is more (one each
// time that as much is allocated as is live), and their part of the CPU that it used: that many times what
// one costs now. The runtime's own account counts time on the wall, which other processes stretch.
func gcShare(before, after gcState) (cycles, share float64) {
	began := cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID)
	runtime.GC()
	one := cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID) - began
	worth := float64(after.allocated-before.allocated) / float64(readGC().live)
	cycles = max(worth, float64(after.cycles-before.cycles))
	return cycles, cycles * one.Seconds() / (after.used - before.used).Seconds()
}

// gcState is the runtime's account of itself.
type gcState struct {
	used            time.Duration // CPU, of all that the process does
	cycles          uint64        // collections that nobody asked for
	allocated, live uint64        // bytes
	pauses          *metrics.Float64Histogram
}

func readGC() gcState {
	samples := []metrics.Sample{
		{Name: "/gc/cycles/automatic:gc-cycles"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/sched/pauses/total/gc:seconds"},
	}
	metrics.Read(samples)
	return gcState{
		used:      cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID),
		cycles:    samples[0].Value.Uint64(),
		allocated: samples[1].Value.Uint64(),
		live:      samples[2].Value.Uint64(),
		pauses:    samples[3].Value.Float64Histogram(),
	}
}

// longestPause returns the upper end of the last bucket that has more in it after than before.
func longestPause(before, after *metrics.Float64Histogram) time.Duration {
	for i := len(after.Counts) - 1; i >= 0; i-- {
		if after.Counts[i] > before.Counts[i] {
			end := after.Buckets[i+1]
			if math.IsInf(end, 1) {
				end = after.Buckets[i]
			}
			return time.Duration(end * float64(time.Second))
		}
	}
	return 0
}
