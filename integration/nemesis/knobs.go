package nemesis

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// Knobs are what is drawn for the cluster itself.
type Knobs struct {
	Nodes    int           `json:"nodes"`    // that form the cluster
	Replicas int           `json:"replicas"` // of each shard
	Shards   int           `json:"shards"`
	Delay    time.Duration `json:"delay"` // of each link, one way
	Jitter   time.Duration `json:"jitter"`
	// SnapshotThreshold and TrailingLogs are in log entries: tiny ones make who was away meet a snapshot.
	SnapshotThreshold int           `json:"snapshot_threshold"`
	TrailingLogs      int           `json:"trailing_logs"`
	TouchInterval     time.Duration `json:"touch_interval"` // of reads, 0: their recency is not replicated
}

// Tolerates returns how many nodes may be away while every shard goes on.
func (k Knobs) Tolerates() int { return (k.Replicas - 1) / 2 }

// Flags are those that the knobs stand for, of each node.
func (k Knobs) Flags() []string {
	return []string{
		"--snapshot-threshold", strconv.Itoa(k.SnapshotThreshold),
		"--trailing-logs", strconv.Itoa(k.TrailingLogs),
		"--touch-interval", k.TouchInterval.String(),
	}
}

func (k Knobs) String() string {
	return fmt.Sprintf("%d nodes, %d shards of %d replicas, links %v +- %v, a snapshot each %d entries with %d kept, touches each %v",
		k.Nodes, k.Shards, k.Replicas, k.Delay, k.Jitter, k.SnapshotThreshold, k.TrailingLogs, k.TouchInterval)
}

// drawKnobs draws those that o leaves open. spare: more nodes than replicas are wanted.
func drawKnobs(rng *rand.Rand, o Options, spare, five bool) Knobs {
	// Drawn whether or not o has a say, so that a fixed knob changes no other.
	k := Knobs{Nodes: 3, Replicas: 3, Shards: 1 + rng.IntN(8)}
	if rng.IntN(4) == 0 {
		k.Nodes = 5
	}
	all := rng.IntN(2) == 0
	k.Delay = time.Duration(1000+rng.IntN(4000)) * time.Microsecond
	k.Jitter = time.Duration(rng.Int64N(int64(k.Delay)/2 + 1)).Round(100 * time.Microsecond)
	k.Delay = k.Delay.Round(100 * time.Microsecond)
	k.SnapshotThreshold = between(rng, 16, 1000)
	k.TrailingLogs = between(rng, 8, 500)
	k.TouchInterval = []time.Duration{100 * time.Millisecond, 20 * time.Millisecond, 0}[rng.IntN(3)]

	if o.Nodes != 0 {
		k.Nodes = o.Nodes
	} else if spare || five {
		k.Nodes = 5
	}
	if k.Nodes >= 5 && all && !spare {
		k.Replicas = 5
	}
	if o.Replicas != 0 {
		k.Replicas = o.Replicas
	}
	k.Replicas = min(k.Replicas, k.Nodes)
	if o.Shards != 0 {
		k.Shards = o.Shards
	}
	if o.Delay != 0 {
		k.Delay, k.Jitter = o.Delay, 0
	}
	return k
}

// between draws from [low, high] so that each order of magnitude is as likely as another.
func between(rng *rand.Rand, low, high int) int {
	l, h := math.Log(float64(low)), math.Log(float64(high))
	return min(high, int(math.Exp(l+rng.Float64()*(h-l))+0.5))
}
