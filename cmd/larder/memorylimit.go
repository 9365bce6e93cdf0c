package main

import (
	"fmt"
	"math"
	"math/bits"
	"runtime/debug"

	"github.com/spf13/pflag"

	"github.com/larder-cache/larder/directory"
)

const (
	memoryLimitFlag = "memory-limit"
	// goMemoryLimit is the variable by which the runtime itself takes a limit.
	goMemoryLimit = "GOMEMLIMIT"
	// defaultMemoryLimit leaves room for what the runtime does not count: the program itself, its
	// stacks for system calls, what a garbage collection is late by.
	defaultMemoryLimit = "90%"
	// leastMemoryLimit is what a node needs with few entries, bytes. A share of less would have the
	// garbage collector run all the time and free nothing.
	leastMemoryLimit = 64 << 20
	noMemoryLimit    = "off"
)

// memoryLimitFlags adds the limit at which the garbage collector works harder.
func memoryLimitFlags(f *pflag.FlagSet, text *string) {
	f.StringVar(text, memoryLimitFlag, defaultMemoryLimit, "memory at which garbage is collected more often: a share of --max-memory, of all nodes of the process together\nand no less than 64MiB, or a size, or off (also by the variable GOMEMLIMIT)")
}

// memoryLimit is the limit that text gives a process of nodes with maxMemory each, bytes.
func memoryLimit(text string, maxMemory uint64, nodes int) (int64, error) {
	if text == noMemoryLimit {
		return math.MaxInt64, nil
	}
	m, err := directory.ParseMemory(text)
	if err != nil {
		return 0, usageError{fmt.Errorf("--%s: %w", memoryLimitFlag, err)}
	}
	if size, err := directory.ParseSize(text); err == nil {
		return int64(size), nil // at most MaxInt64
	}
	high, sum := bits.Mul64(maxMemory, uint64(nodes))
	if high > 0 || sum > math.MaxInt64 {
		sum = math.MaxInt64
	}
	return int64(max(m.Of(sum), leastMemoryLimit)), nil
}

// limitMemory sets the limit of this process. undo gives it back what it had.
func limitMemory(limit int64) (undo func()) {
	before := debug.SetMemoryLimit(limit)
	return func() { debug.SetMemoryLimit(before) }
}
