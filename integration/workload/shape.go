package workload

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// shape is a workload.
type shape struct {
	name    string
	flavors []*flavor // keys take them by turns
	keys    int       // in use at a time, at the least
	work    func(ctx context.Context, w *worker)
	retries retries
	// operated: operators change members and leaders meanwhile.
	operated bool
}

// retries says which clients send writes again.
type retries int

const (
	half retries = iota
	never
	always
)

// flavor is what happens to a key.
type flavor struct {
	name string
	mix  []part
	// least and most operations before the key is given up.
	least, most int
	// ttl draws a time to live for what is stored, 0 for none; nil: there are none.
	ttl func(rng *rand.Rand) time.Duration
	// loads: who misses the value stores one, as a cache's clients do.
	loads bool
	// tagged keys fall into a few groups, each of which is in one shard.
	tagged bool
}

// part is a kind of request and its weight in a mix.
type part struct {
	weight int
	set    func(w *worker, o *history.Operation)
}

// just is a kind of request that needs nothing more.
func just(kind history.Kind) func(*worker, *history.Operation) {
	return func(_ *worker, o *history.Operation) { o.Kind = kind }
}

// get is a linearizable read; some leave the recency alone.
func get(w *worker, o *history.Operation) { o.Kind, o.NoTouch = history.Get, w.rng.IntN(5) == 0 }

// local is a linearizable read by the node asked alone, a follower as a rule.
func local(_ *worker, o *history.Operation) { o.Kind, o.Local = history.Get, true }

// bounded reads may be old: short enough that a run sees the bound pass often.
func bounded(w *worker, o *history.Operation) {
	o.Kind, o.Local = history.GetBounded, w.rng.IntN(2) == 0
	o.MaxStaleness = []time.Duration{200 * time.Millisecond, time.Second, 2 * time.Second}[w.rng.IntN(3)]
}

func anyAge(w *worker, o *history.Operation) { o.Kind, o.Local = history.GetAny, w.rng.IntN(2) == 0 }

// toFill is a read by one who would load what is missing.
func toFill(w *worker, o *history.Operation) {
	o.Kind, o.Fill = history.Get, time.Duration(20+w.rng.IntN(80))*time.Millisecond
}

// conditional is a kind that names a version; who was shown none does without.
func conditional(kind, else_ history.Kind) func(*worker, *history.Operation) {
	return func(w *worker, o *history.Operation) {
		if o.IfMatch = w.seen[o.Key]; o.IfMatch == 0 {
			o.Kind = else_
			return
		}
		o.Kind = kind
	}
}

func incr(w *worker, o *history.Operation) {
	o.Kind = history.Incr
	for o.Delta == 0 {
		o.Delta = int64(w.rng.IntN(12)) - 3
	}
}

// expire gives what is there another time to live, now and then none.
func expire(w *worker, o *history.Operation) {
	o.Kind = history.Expire
	if w.rng.IntN(4) > 0 {
		o.TTL = shortTTL(w.rng)
	}
}

// shortTTL draws a time to live that a run sees the end of.
func shortTTL(rng *rand.Rand) time.Duration {
	return time.Duration(100+rng.IntN(2900)) * time.Millisecond
}

// someTTL draws none for a part of the values.
func someTTL(rng *rand.Rand) time.Duration {
	if rng.IntN(4) == 0 {
		return 0
	}
	return shortTTL(rng)
}

var (
	registers = &flavor{name: "register", least: 100, most: 150, mix: []part{
		{18, get}, {14, local}, {6, bounded}, {3, anyAge},
		{22, just(history.Put)}, {10, just(history.Create)}, {9, conditional(history.Replace, history.Put)}, {6, just(history.Swap)},
		{6, just(history.Delete)}, {4, conditional(history.DeleteIf, history.Delete)}, {2, just(history.Touch)},
	}}
	counters = &flavor{name: "counter", least: 100, most: 150, mix: []part{
		{20, get}, {15, local}, {65, incr},
	}}
	sets = &flavor{name: "set", least: 100, most: 150, mix: []part{
		{20, get}, {15, local}, {65, just(history.Append)},
	}}
	// Durable keys are many, each with a few changes that must last.
	durables = &flavor{name: "durable", least: 4, most: 8, mix: []part{
		{20, get}, {50, just(history.Put)}, {15, just(history.Create)}, {10, conditional(history.Replace, history.Put)}, {5, just(history.Delete)},
	}}
	timed = &flavor{name: "ttl", least: 100, most: 150, ttl: someTTL, mix: []part{
		{25, get}, {20, local}, {4, bounded}, {3, anyAge},
		{20, just(history.Put)}, {8, just(history.Create)}, {4, conditional(history.Replace, history.Put)}, {4, just(history.Swap)},
		{8, expire}, {2, just(history.Touch)}, {2, just(history.Delete)},
	}}
	// Of crowded keys there are more than there is room for: mostly reads, and who misses loads.
	crowded = &flavor{name: "evict", least: 100, most: 150, loads: true, mix: []part{
		{45, get}, {20, toFill}, {10, local}, {3, anyAge}, {15, just(history.Put)}, {3, conditional(history.Replace, history.Put)}, {2, just(history.Touch)}, {2, just(history.Delete)},
	}}
	agings = &flavor{name: "bounded", least: 100, most: 150, mix: []part{
		{45, bounded}, {10, anyAge}, {5, get}, {30, just(history.Put)}, {5, just(history.Create)}, {5, just(history.Delete)},
	}}
	followed = &flavor{name: "follower", least: 100, most: 150, mix: []part{
		{60, local}, {5, get}, {25, just(history.Put)}, {5, conditional(history.Replace, history.Put)}, {5, just(history.Delete)},
	}}
	repeated = &flavor{name: "repeated", least: 100, most: 150, mix: []part{
		{15, get}, {10, local}, {25, just(history.Put)}, {10, just(history.Create)}, {15, just(history.Swap)}, {10, conditional(history.Replace, history.Put)},
		{10, just(history.Delete)}, {5, conditional(history.DeleteIf, history.Delete)},
	}}
)

// What stands in batches: as elsewhere, without what only a single request can ask for.
var (
	batched = &flavor{name: "batched", least: 100, most: 150, tagged: true, mix: []part{
		{30, get}, {24, just(history.Put)}, {10, just(history.Create)}, {9, conditional(history.Replace, history.Put)}, {6, just(history.Swap)},
		{8, just(history.Delete)}, {4, conditional(history.DeleteIf, history.Delete)}, {4, just(history.Touch)},
	}}
	batchedCounters = &flavor{name: "batched-counter", least: 100, most: 150, tagged: true, mix: []part{{35, get}, {65, incr}}}
	batchedSets     = &flavor{name: "batched-set", least: 100, most: 150, tagged: true, mix: []part{{35, get}, {65, just(history.Append)}}}
)

// shapes are the workloads.
var shapes = []shape{
	{name: "register", flavors: []*flavor{registers}, work: onKeys},
	{name: "counter", flavors: []*flavor{counters}, work: onKeys},
	{name: "set", flavors: []*flavor{sets}, work: onKeys},
	{name: "durable", flavors: []*flavor{durables}, work: onKeys},
	{name: "ttl", flavors: []*flavor{timed}, keys: 48, work: onKeys},
	{name: "evict", flavors: []*flavor{crowded}, keys: 4096, work: onKeys, retries: never},
	{name: "bounded", flavors: []*flavor{agings}, work: onKeys},
	{name: "follower", flavors: []*flavor{followed}, work: onKeys},
	{name: "idempotency", flavors: []*flavor{repeated, counters, sets}, work: onKeys, retries: always},
	{name: "batch", flavors: []*flavor{batched, batchedCounters, batched, batchedSets}, keys: 24, work: onBatches, retries: never},
	{name: "directory", flavors: []*flavor{registers}, work: onDirectory},
	{name: "admin", flavors: []*flavor{registers}, work: onKeys, operated: true},
	{name: "mixed", flavors: []*flavor{registers, counters, sets, timed, agings, repeated}, work: onKeys},
}
