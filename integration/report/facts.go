package report

import (
	"fmt"
	"maps"
	"slices"

	"github.com/larder-cache/larder/integration/history"
)

// facts are the numbers that a reader looks for first.
func facts(s Summary) []fact {
	ok, refused, unknown := s.Outcomes()
	hits, misses := s.Reads()
	effective, done := s.Effects()
	recovery := "none"
	if slices.ContainsFunc(s.Faults, func(f FaultSum) bool { return f.Recovered > 0 }) {
		recovery = back(s.Slowest())
	}
	return []fact{
		{"Operations", count(s.Operations), fmt.Sprintf("%s answered, %s refused, %s of unknown outcome", count(ok), count(refused), count(unknown))},
		{"Put in order", count(s.Checked), fmt.Sprintf("on %s; the others did nothing, or may show what is old", some(s.Keys, "key"))},
		{"Faults that took effect", count(effective), fmt.Sprintf("of %s done", count(done))},
		{"Slowest recovery", recovery, "from the end of a fault to the clients' successes"},
		{"Reads that found a value", share(hits, hits+misses), fmt.Sprintf("%s hits, %s misses", count(hits), count(misses))},
		{"Successes", fmt.Sprintf("%.0f a second", s.Rate), "over " + secs(s.Lasted) + ", faults included"},
		{"Cluster", some(len(s.Meta.Nodes), "node"), fmt.Sprintf("%s%s", some(s.Meta.Shards, "shard"), copies(s.Meta))},
		{"Violations and undecided keys", fmt.Sprintf("%s and %s", count(s.Violations), count(s.Undecided)), "all that the checks complained of"},
	}
}

func copies(m history.Meta) string {
	if n := m.Flags["replicas"]; n != "" {
		return " of " + n + " replicas each"
	}
	return ""
}

// drawn are the settings of the run, which follow from the seed where they were not given.
func drawn(m history.Meta) (all []fact) {
	net := map[string]string{"tap": "namespaces and a switch, which can lose and reorder packets", "proxy": "proxies on loopback, which can only hold bytes back"}
	disk := map[string]string{"loop": "a file system for each node, which can lose power", "folder": "folders of one file system"}
	mode := map[history.Mode]string{history.Strict: "there is room for everything", history.Tight: "there is too little room, values are evicted"}
	all = []fact{
		{"nodes", list(m.Nodes), ""},
		{"mode", string(m.Mode), mode[m.Mode]}, {"network", m.Net, net[m.Net]}, {"disk", m.Disk, disk[m.Disk]},
		{"faults to choose from", list(m.Nemeses), ""},
		{"build", m.Version, ""},
	}
	for _, name := range slices.Sorted(maps.Keys(m.Flags)) {
		all = append(all, fact{name, m.Flags[name], ""})
	}
	return slices.DeleteFunc(all, func(f fact) bool { return f.Value == "" })
}

// words are those that a page uses and does not explain where it does.
var words = []fact{
	{"key, value, version", "What the cache stores: a value under a key. Each change of a key gets a version, which only grows.", ""},
	{"hit, miss", "A read that found a value; a read that found none.", ""},
	{"operation", "One request of one client with its answer. A client does one at a time.", ""},
	{"answered, refused, unknown", "What is known of an operation: it happened; it certainly did not and never will; or it may have, or still may. An unknown one gets the benefit of every doubt.", ""},
	{"conflict", "A conditional request (“if version 5 is there”) that was not done since its condition did not hold.", ""},
	{"shard, replica", "The keys are split among shards; each shard has copies on several nodes, its replicas.", ""},
	{"leader, term, log", "One replica of a shard leads, and puts all changes in an order, its log. When it is lost the others elect one, and a new term begins. The directory, which says where the shards are, has a leader too.", ""},
	{"epoch, place", "Who owns a part of the keys may change; each time the epoch grows. A place is a shard's epoch and position in its log.", ""},
	{"linearizable", "Every operation seems to happen at one moment between its request and its answer, as if there were one copy and one client at a time.", ""},
	{"fault, effect, recovery", "Something that was done to the cluster; how it is known that it hurt; the time from its end until the clients had their successes back.", ""},
	{"seed", "The number from which the plan of faults and the load follow.", ""},
	{"median, 99th of 100", "Half of the operations were faster; 99 of 100 were faster.", ""},
}
