package check

import (
	"fmt"
	"slices"

	"github.com/larder-cache/larder/integration/history"
)

// Replicas checks that replicas which applied the same have the same state, at any time, and that at the end those of a
// shard have all applied the same.
func Replicas(r *history.Run) (violations []Violation) {
	report := func(format string, args ...any) {
		violations = append(violations, Violation{Check: "replicas", What: fmt.Sprintf(format, args...)})
	}
	type at struct{ shard, applied uint64 }
	states := map[at]history.Sample{}
	for _, s := range slices.Concat(r.Samples, r.Ends) {
		if s.Checksum == "" {
			continue
		}
		k := at{s.Shard, s.Applied}
		if first, ok := states[k]; !ok {
			states[k] = s
		} else if first.Checksum != s.Checksum {
			report("at index %d of shard %d the state of %s is %s, that of %s %s", s.Applied, s.Shard, first.Node, first.Checksum, s.Node, s.Checksum)
		}
	}
	ends := map[uint64]history.Sample{}
	for _, s := range r.Ends {
		if first, ok := ends[s.Shard]; !ok {
			ends[s.Shard] = s
		} else if first.Applied != s.Applied {
			report("at the end the replica of shard %d on %s has applied %d, that on %s %d", s.Shard, first.Node, first.Applied, s.Node, s.Applied)
		}
	}
	return violations
}

// convergence says whether of every data shard at least two replicas' states were compared at the end.
func convergence(r *history.Run) Result {
	replicas := map[uint64]int{}
	for _, s := range r.Samples {
		if s.Shard != 0 { // the directory tells no checksum
			replicas[s.Shard] += 0
		}
	}
	for shard := range uint64(r.Meta.Shards) {
		replicas[shard+1] += 0
	}
	for _, s := range r.Ends {
		if s.Checksum != "" {
			replicas[s.Shard]++
		}
	}
	result := Result{"convergence", Valid, len(replicas), ""}
	for _, shard := range sortedKeys(replicas) {
		if n := replicas[shard]; n < 2 {
			result.Verdict, result.Detail = NotProved, fmt.Sprintf("the states of %d replicas of shard %d are known at the end", n, shard)
		}
	}
	if len(replicas) == 0 {
		result.Verdict, result.Detail = NotProved, "no replica's state is known at the end"
	}
	return result
}

// Leaders checks that a term of a generation of a shard has one leader.
func Leaders(r *history.Run) (violations []Violation) {
	type term struct{ shard, generation, term uint64 }
	leaders := map[term]string{}
	for _, s := range r.Samples {
		if s.Role != "leader" {
			continue
		}
		k := term{s.Shard, s.Generation, s.Term}
		if first, ok := leaders[k]; ok && first != s.Node {
			violations = append(violations, Violation{Check: "leaders", What: fmt.Sprintf("%s and %s both lead shard %d in term %d", first, s.Node, s.Shard, s.Term)})
		}
		leaders[k] = s.Node
	}
	return violations
}

// evicted is how many entries each shard has evicted, which is part of its state.
func evicted(r *history.Run) map[uint64]uint64 {
	all := map[uint64]uint64{}
	for _, s := range slices.Concat(r.Samples, r.Ends) {
		all[s.Shard] = max(all[s.Shard], s.Evicted)
	}
	return all
}

// vanishings checks that no more values vanished than were evicted.
func vanishings(r *history.Run, vanished map[uint64]int) (violations []Violation) {
	all := evicted(r)
	for _, shard := range sortedKeys(vanished) {
		if n := vanished[shard]; uint64(n) > all[shard] {
			violations = append(violations, Violation{Check: "room", What: fmt.Sprintf("%d values of shard %d vanished, and it has evicted %d entries", n, shard, all[shard])})
		}
	}
	return violations
}

// room checks that the run was what its mode says: with room for all, or without.
func room(r *history.Run) Result {
	sum := uint64(0)
	for _, n := range evicted(r) {
		sum += n
	}
	result := Result{"mode " + string(r.Meta.Mode), Valid, int(sum), "entries were evicted"}
	if strict := r.Meta.Mode != history.Tight; strict && sum > 0 {
		result.Verdict, result.Detail = NotProved, fmt.Sprintf("%d entries were evicted, so that lost ones can't be told", sum)
	} else if !strict && sum == 0 {
		result.Verdict, result.Detail = NotProved, "no entry was evicted"
	}
	return result
}
