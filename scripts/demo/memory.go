package main

import (
	"fmt"
	"math"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/fsm"
)

// What the server insists on, and what it takes when it is told nothing.
const (
	leastShard  = 16 << 10 // bytes of a shard
	largestPart = 8        // an entry may have 1/8 of its shard
	maxMemory   = "1GiB"   // of a node
)

// cost is what the server counts for a key with a value of this demo, bytes.
func cost(key string, valueSize int) uint64 { return fsm.Cost(len(key), valueSize, 0) }

// room is how much memory a cluster has for entries.
type room struct {
	node  uint64 // bytes of each node for entries: its --cache-memory
	shard uint64 // bytes of each shard
	all   uint64 // bytes of all shards
	keys  int    // distinct keys of the trace
}

// roomFor returns the memory with which fill of what all distinct keys cost fits into the shards. Every
// node hosts every shard, and gives each its capacity / (shards + 1 + 1/2), see directory.PlanInitial.
func roomFor(keys []string, fill float64, shards, valueSize int, memory string) (room, error) {
	seen := make(map[string]bool)
	var total, largest uint64
	for _, key := range keys {
		if c := cost(key, valueSize); !seen[key] {
			seen[key] = true
			total += c
			largest = max(largest, c)
		}
	}
	limit := uint64(math.Ceil(fill * float64(total) / float64(shards)))
	parts := 2*uint64(shards) + 3
	r := room{node: (limit*parts + 1) / 2, shard: limit, all: limit * uint64(shards), keys: len(seen)}
	if least := max(leastShard, largestPart*largest); limit < least {
		return room{}, fmt.Errorf("--fill %g leaves each of %d shards %s bytes for %s keys, %s are the least: use fewer --shards, a larger --fill, or --fill 0",
			fill, shards, thousands(int(limit)), thousands(len(seen)), thousands(int(least)))
	}
	whole, err := directory.ParseSize(memory)
	if err != nil {
		return room{}, fmt.Errorf("--max-memory: %w", err)
	}
	if r.node > whole {
		return room{}, fmt.Errorf("--fill %g takes %s bytes on each node, more than --max-memory %s", fill, thousands(int(r.node)), memory)
	}
	return r, nil
}
