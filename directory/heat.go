package directory

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/shard"
)

const (
	// heatWindow is the time over which reads are counted.
	heatWindow = 5 * time.Second
	// hotReads is how many reads per second of one shard, for each of the leader's processors, are many: about a third of what one answers.
	hotReads = 10_000
)

// heat tells which of the shards that this node leads are hot: so much read that the other voters had better answer some of it.
//
// That is where a shard has many reads (hotReads), and a quarter more of them than fall to a node if all nodes answered as many; else moving
// leaderships is enough (balance.go). Without the quarter, where each node has its part some shard would always be above it. A follower's
// read costs a round trip to the leader, which it shares with all that came meanwhile: so it is slower, and spares the leader most of the work.
// Reads are counted wherever they are answered, or a shard would be cold as soon as others answered some. One that is hot is so until
// it has no more than a node's part, or a quarter less than many.
//
// The step loop alone counts.
type heat struct {
	procs  uint64
	since  time.Time // of counts
	counts map[replicaOn]uint64
	hot    atomic.Pointer[map[shard.ID]bool]
}

// replicaOn names a replica by its place.
type replicaOn struct {
	shard shard.ID
	node  string
}

func newHeat() *heat { return &heat{procs: uint64(runtime.GOMAXPROCS(0))} }

// is reports whether a shard is hot.
func (h *heat) is(id shard.ID) bool {
	hot := h.hot.Load()
	return hot != nil && (*hot)[id]
}

// count takes in how many reads the replicas of t's shards have answered in all, where that is known, and which shards this node leads.
func (h *heat) count(t *Table, leads func(shard.ID) bool, reads func(node string, id shard.ID) (uint64, bool), now time.Time) {
	passed := now.Sub(h.since)
	if passed < heatWindow {
		return
	}
	before := h.counts
	h.since, h.counts = now, make(map[replicaOn]uint64)
	rates, all := make(map[shard.ID]uint64, len(t.Shards)), uint64(0)
	for _, sh := range t.Shards {
		for _, m := range sh.Members {
			n, known := reads(m.Node, sh.ID)
			if !known {
				continue
			}
			r := replicaOn{sh.ID, m.Node}
			h.counts[r] = n
			if was, ok := before[r]; ok && n > was {
				rates[sh.ID] += uint64(float64(n-was) / passed.Seconds())
			}
		}
		all += rates[sh.ID]
	}
	many, part := hotReads*h.procs, all/uint64(max(1, len(t.Nodes)-len(t.Draining)))
	start, end := max(many, part+part/4), max(many-many/4, part)
	hot := make(map[shard.ID]bool)
	for id, rate := range rates {
		if leads(id) && (rate > start || h.is(id) && rate > end) {
			hot[id] = true
		}
	}
	h.hot.Store(&hot)
}

// countReads takes in what is known of the replicas of t's shards.
func (s *Service) countReads(t *Table, now time.Time) {
	leads := func(id shard.ID) bool {
		st, ok := s.soft.status(id)
		return ok && st.Role == shard.RoleLeader
	}
	s.heat.count(t, leads, func(node string, id shard.ID) (uint64, bool) {
		r, known := s.soft.replica(node, id)
		return r.hits + r.misses, known
	}, now)
}
