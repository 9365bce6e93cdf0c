// Package workload runs many clients at once against a cluster, in a shape that a checker can decide.
//
// Some clients are pinned to a node each, as programs are that run beside one; others ask any node. All share a few
// keys, so that there are conflicts. A part of the reads may be served by the node asked alone, a follower as a
// rule; a smaller part may be old. Each value is stored once in a run. A key is given up for a new
// one after about a hundred operations or a few writes of unknown outcome, and has at most eight operations under way
// at a time, those of unknown outcome included: beyond that the search for an order explodes.
//
// # Concurrency
//
// Start runs one goroutine per client; Stop ends them and waits.
//
// # Caveats
//
// The clients never retry. While a shard has no leader they meet refusals, which are recorded too.
package workload
