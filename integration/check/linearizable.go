package check

import (
	"cmp"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/model"
)

// Linearizable checks each key of ops against model.Law, each for at most keyLimit.
//
// Keys are handed out one by one, since porcupine would search all partitions of a
// history at once and its memory grows with each search under way.
func Linearizable(ops []history.Operation, mode history.Mode, keyLimit time.Duration) Report {
	start := time.Now()
	keys, traits := byKey(ops), traitsOf(ops, mode)
	var r Report
	r.Keys = len(keys)
	names := make(chan string)
	var mu sync.Mutex // guards r
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for key := range names {
				group := keys[key]
				evicts := traits[key].evicts
				result := checkKey(group, evicts, keyLimit)
				mu.Lock()
				r.Operations += len(group)
				switch result {
				case porcupine.Illegal:
					r.Violations = append(r.Violations, Violation{
						Check: "linearizable",
						What:  "no order explains the answers for key " + key + "; the shortest history that has none:",
						Ops:   shortest(group, evicts, keyLimit),
					})
				case porcupine.Unknown:
					r.Undecided = append(r.Undecided, key)
				}
				mu.Unlock()
			}
		})
	}
	for key := range keys {
		names <- key
	}
	close(names)
	workers.Wait()
	slices.Sort(r.Undecided)
	slices.SortFunc(r.Violations, func(a, b Violation) int { return cmp.Compare(a.What, b.What) })
	r.Took = time.Since(start)
	return r
}

// checkKey asks porcupine about one key.
func checkKey(group []*history.Operation, evicts bool, limit time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(model.Law(evicts), intervals(group), limit)
}

func intervals(group []*history.Operation) []porcupine.Operation {
	ops := make([]porcupine.Operation, 0, len(group))
	for _, o := range group {
		end := int64(o.Return)
		if o.Outcome == history.Unknown {
			end = math.MaxInt64 // it may happen at any later time, or never: last is as good as never
		}
		ops = append(ops, porcupine.Operation{ClientId: o.Process, Input: o, Call: int64(o.Invoke), Return: end})
	}
	return ops
}

// shortest cuts an illegal history to the shortest prefix, by time, that is illegal too. An
// operation still under way at the cut counts as unknown there if it writes, and is left out if it
// reads, so that each prefix is a history of its own.
func shortest(group []*history.Operation, evicts bool, limit time.Duration) []history.Operation {
	ends := make([]time.Duration, 0, len(group))
	for _, o := range group {
		ends = append(ends, o.Return)
	}
	slices.Sort(ends)
	prefix := func(until time.Duration) []*history.Operation {
		var cut []*history.Operation
		for _, o := range group {
			switch {
			case o.Return <= until:
				cut = append(cut, o)
			case o.Invoke <= until && o.Kind.Write():
				open := *o
				open.Outcome = history.Unknown
				cut = append(cut, &open)
			}
		}
		return cut
	}
	// Legality is lost once and for all as the prefix grows, so the first illegal one is found by halving.
	n, _ := slices.BinarySearchFunc(ends, porcupine.Illegal, func(end time.Duration, _ porcupine.CheckResult) int {
		if checkKey(prefix(end), evicts, limit) == porcupine.Illegal {
			return 0
		}
		return -1
	})
	cut := group
	if n < len(ends) {
		cut = prefix(ends[n])
	}
	// The end of it is what a person looks at.
	const shown = 30
	sortByInvoke(cut)
	if len(cut) > shown {
		cut = cut[len(cut)-shown:]
	}
	out := make([]history.Operation, len(cut))
	for i, o := range cut {
		out[i] = *o
	}
	return out
}

func sortByInvoke(group []*history.Operation) {
	slices.SortFunc(group, func(a, b *history.Operation) int { return cmp.Compare(a.Invoke, b.Invoke) })
}
