package check

import (
	"slices"

	"github.com/larder-cache/larder/integration/history"
)

// memoryOnly reports whether shards were in memory alone: one that a majority of its nodes forgot begins another life, empty, in another
// epoch, and its log and terms begin anew.
func memoryOnly(r *history.Run) bool { return r.Meta.Flags["memory-only"] == "true" }

// lifeSpan is more than the log of any life of a shard grows to.
const lifeSpan = 1 << 32

// inOneLog returns a run in which the lives of each shard follow each other in one log: an epoch is one life there.
func inOneLog(r *history.Run) *history.Run {
	if !memoryOnly(r) {
		return r
	}
	one := *r
	one.Ops, one.Final = slices.Clone(r.Ops), slices.Clone(r.Final)
	for _, ops := range [][]history.Operation{one.Ops, one.Final} {
		for i := range ops {
			if p := &ops[i].Place; p.Index > 0 {
				p.Index += p.Epoch * lifeSpan
			}
		}
	}
	return &one
}
