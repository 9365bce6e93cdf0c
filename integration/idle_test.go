package integration

import (
	"slices"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// What nobody uses may cost this much of one core, all nodes together, as the median of some windows. It is 6 to 10 where this was
// measured, as the machine's speed changes by the day.
const (
	idleShards  = 8
	idleLimit   = 15.0 // percent
	idleSettle  = 5 * time.Second
	idleWindow  = 5 * time.Second
	idleWindows = 5
)

// TestIdle ensures that three nodes with eight shards that nobody uses leave the machine to others.
func TestIdle(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: idleShards})
	used := func() (sum time.Duration) {
		for _, n := range c.Nodes {
			cpu, err := n.CPU()
			if err != nil {
				t.Fatal(err)
			}
			sum += cpu
		}
		return sum
	}
	pass := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	pass(idleSettle) // tables and first elections cost something, once
	var percent []float64
	for range idleWindows {
		before, began := used(), time.Now()
		pass(idleWindow)
		percent = append(percent, 100*float64(used()-before)/float64(time.Since(began)))
	}
	slices.Sort(percent)
	median := percent[len(percent)/2]
	t.Logf("%d shards on %d nodes, idle: %.1f %% of one core, median of %.1f", idleShards, len(c.Nodes), median, percent)
	if median > idleLimit {
		t.Errorf("idle nodes take %.1f %% of one core (median of %.1f), the limit is %g %%", median, percent, idleLimit)
	}
}
