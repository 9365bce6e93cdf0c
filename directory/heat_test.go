package directory

import (
	"testing"
	"time"

	"github.com/larder-cache/larder/shard"
)

// TestHeat ensures that a shard is hot where it is much read, whoever answers, and more than a node's part of all reads, and that it does not become cold
// by its reads being spread.
func TestHeat(t *testing.T) {
	table := testTable(t, 3, Settings{InitialShards: 2, Replicas: 3, CacheMemory: "60%"})
	const many = 2 * hotReads
	window := uint64(heatWindow / time.Second)
	h := &heat{procs: 2}
	now := time.Unix(1000, 0)
	counts := map[replicaOn]uint64{}
	unknown := replicaOn{}
	count := func() {
		h.count(table, func(id shard.ID) bool { return id == 1 }, func(node string, id shard.ID) (uint64, bool) {
			r := replicaOn{id, node}
			return counts[r], r != unknown
		}, now)
	}
	count()
	for _, step := range []struct {
		name  string
		reads map[replicaOn]uint64 // per second
		want  bool
	}{
		{"idle", nil, false},
		{"just not many", map[replicaOn]uint64{{1, "a"}: many}, false},
		{"many", map[replicaOn]uint64{{1, "a"}: many + 1}, true},
		{"spread", map[replicaOn]uint64{{1, "a"}: many / 3, {1, "b"}: many / 3, {1, "c"}: many / 3}, true},
		{"fewer", map[replicaOn]uint64{{1, "a"}: many/4*3 + 1}, true},
		{"few", map[replicaOn]uint64{{1, "a"}: many / 4 * 3}, false},
		{"fewer again", map[replicaOn]uint64{{1, "a"}: many/4*3 + 1}, false},
		{"another's", map[replicaOn]uint64{{2, "a"}: 10 * many}, false},
		{"no more than a node's part", map[replicaOn]uint64{{1, "a"}: 2 * many, {2, "b"}: 4 * many}, false},
		{"a little more", map[replicaOn]uint64{{1, "a"}: 21 * many / 10, {2, "b"}: 39 * many / 10}, false},
		{"far more", map[replicaOn]uint64{{1, "a"}: 26 * many / 10, {2, "b"}: 34 * many / 10}, true},
		{"a little more yet", map[replicaOn]uint64{{1, "a"}: 21 * many / 10, {2, "b"}: 39 * many / 10}, true},
		{"no more than its part again", map[replicaOn]uint64{{1, "a"}: 2 * many, {2, "b"}: 4 * many}, false},
	} {
		for r, n := range step.reads {
			counts[r] += n * window
		}
		was := h.is(1)
		now = now.Add(heatWindow - 1)
		count()
		if h.is(1) != was {
			t.Errorf("%s: it changes within the window", step.name)
		}
		now = now.Add(1)
		count()
		if h.is(1) != step.want || h.is(2) {
			t.Errorf("%s: hot are 1 %t, 2 %t; want %t, and never 2, which another leads", step.name, h.is(1), h.is(2), step.want)
		}
	}
	// A replica that was not heard, or has begun anew, counts for nothing until it was heard twice.
	unknown = replicaOn{1, "a"}
	now = now.Add(heatWindow)
	count()
	unknown = replicaOn{}
	counts[replicaOn{1, "a"}] += 10 * many * window
	now = now.Add(heatWindow)
	count()
	if h.is(1) {
		t.Error("hot by reads of nobody knows when")
	}
	counts[replicaOn{1, "a"}] = 0
	now = now.Add(heatWindow)
	count()
	if h.is(1) {
		t.Error("hot by a replica that has begun anew")
	}
}
