package main

import (
	"fmt"
	"math"
	"math/bits"
	"runtime/debug"
	"sync"

	"github.com/spf13/pflag"

	"github.com/larder-cache/larder/directory"
)

const (
	memoryLimitFlag = "memory-limit"
	// goMemoryLimit is the variable by which the runtime itself takes a limit.
	goMemoryLimit = "GOMEMLIMIT"
	// autoMemoryLimit follows what the nodes have for entries.
	autoMemoryLimit = "auto"
	// mostMemoryLimit leaves room for what the runtime does not count: the program itself, its
	// stacks for system calls, what a garbage collection is late by.
	mostMemoryLimit = "90%"
	// leastMemoryLimit is what a node needs with few entries, bytes. A share of less would have the
	// garbage collector run all the time and free nothing.
	leastMemoryLimit = 64 << 20
	// besideEntries is what a node may need beside its entries: the log's tail, requests, snapshots. Bytes.
	besideEntries = 192 << 20
	noMemoryLimit = "off"
)

// memoryLimitFlags adds the limit at which the garbage collector works harder.
func memoryLimitFlags(f *pflag.FlagSet, text *string) {
	f.StringVar(text, memoryLimitFlag, autoMemoryLimit, "memory at which garbage is collected more often: auto (5/4 of cache-memory and 192MiB, as the setting changes, at most 90% of --max-memory),\na share of --max-memory, of all nodes of the process together and no less than 64MiB, or a size, or off (also by the variable GOMEMLIMIT)")
}

// heapLimit is the limit of this process's heap.
type heapLimit struct {
	most int64 // bytes
	auto bool  // follow what the nodes have for entries, up to most

	mu       sync.Mutex        // guards what follows, and the runtime's limit
	capacity map[string]uint64 // of each node of the process, bytes
}

// newHeapLimit is the limit that text gives a process of nodes with maxMemory each, bytes.
func newHeapLimit(text string, maxMemory uint64, nodes int) (*heapLimit, error) {
	l := &heapLimit{auto: text == autoMemoryLimit, capacity: map[string]uint64{}}
	switch text {
	case noMemoryLimit:
		l.most = math.MaxInt64
		return l, nil
	case autoMemoryLimit:
		text = mostMemoryLimit
	}
	m, err := directory.ParseMemory(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("--%s: %w", memoryLimitFlag, err)}
	}
	if size, err := directory.ParseSize(text); err == nil {
		l.most = int64(size) // at most MaxInt64
		return l, nil
	}
	high, sum := bits.Mul64(maxMemory, uint64(nodes))
	if high > 0 || sum > math.MaxInt64 {
		sum = math.MaxInt64
	}
	l.most = int64(max(m.Of(sum), leastMemoryLimit))
	return l, nil
}

// set sets the process's limit, and keeps its heap small below that. undo gives it back what it had.
func (l *heapLimit) set() (undo func()) {
	before := debug.SetMemoryLimit(l.most)
	end := keepHeap(heapTick)
	return func() {
		end()
		debug.SetMemoryLimit(before)
	}
}

// follow hears how many bytes a node has for entries.
func (l *heapLimit) follow(node string, capacity uint64) {
	if l == nil || !l.auto {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.capacity[node] = capacity
	debug.SetMemoryLimit(l.now())
}

// now is the limit for what the nodes have.
func (l *heapLimit) now() int64 {
	sum := uint64(0)
	for _, c := range l.capacity {
		if c > uint64(l.most) { // more than there may be, and sums of less don't overflow
			return l.most
		}
		sum = min(sum+c/4*5+besideEntries, math.MaxInt64)
	}
	return min(l.most, int64(sum))
}
