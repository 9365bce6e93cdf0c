package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// fault is one way to lose a leader.
type fault struct {
	name string
	hurt func(*run, *cluster.Node) error
	// heal undoes it; it is called no earlier than lasts after hurt.
	heal  func(*run, *cluster.Node) error
	lasts time.Duration
}

var faults = []fault{
	{
		name: "kill -9",
		hurt: func(_ *run, n *cluster.Node) error { return n.Kill() },
		heal: func(_ *run, n *cluster.Node) error { return n.Start() },
	},
	{
		name:  "SIGSTOP for 5 s",
		hurt:  func(_ *run, n *cluster.Node) error { return n.Pause() },
		heal:  func(_ *run, n *cluster.Node) error { return n.Resume() },
		lasts: 5 * time.Second,
	},
	{
		name: "cut off",
		hurt: func(r *run, n *cluster.Node) error { return r.cluster.Links.Isolate(n.ID) },
		heal: func(r *run, _ *cluster.Node) error { return r.cluster.Links.Heal() },
		// Its clients still reach it, and must not be told what is no longer so.
		lasts: 3 * time.Second,
	},
}

// Bounds on the time from the loss of a leader to the first write through another node.
const (
	failoverGoal  = 4 * time.Second  // the median, reported
	failoverLimit = 10 * time.Second // of the median, on a machine that does other things too
	failoverNever = 30 * time.Second // of any
)

// TestFailover ensures that a shard whose leader is killed, frozen or cut off is written to again
// through another node within seconds, and that no client is told anything wrong meanwhile and after.
func TestFailover(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{
		Binary: builder.Binary(t), Shards: 4, Delay: 2 * time.Millisecond, Limit: 20 * time.Minute,
		// Small enough that nodes that were away are caught up by a snapshot in some rounds, by the log in others.
		Args: []string{"--snapshot-threshold", "500", "--trailing-logs", "200"},
	})
	r := startRun(t, c)
	r.progress(200, 20*time.Second)

	all := shards(t, c)
	took := make([][]time.Duration, len(faults))
	for round := range rounds(t, 2) {
		for i, f := range faults {
			shard := all[(round*len(faults)+i)%len(all)]
			took[i] = append(took[i], r.failover(f, shard))
		}
	}
	r.verify(1000)

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "leader lost by\trounds\tmedian\tmax")
	for i, f := range faults {
		slices.Sort(took[i])
		n := len(took[i])
		median, longest := (took[i][(n-1)/2]+took[i][n/2])/2, took[i][n-1]
		fmt.Fprintf(w, "%s\t%d\t%.2f s\t%.2f s\n", f.name, n, median.Seconds(), longest.Seconds())
		switch {
		case median > failoverLimit:
			t.Errorf("%s: writes took %v (median) to go on, the limit is %v", f.name, median, failoverLimit)
		case median > failoverGoal:
			t.Logf("%s: writes took %v (median) to go on, the goal is %v", f.name, median, failoverGoal)
		}
	}
	w.Flush()
	t.Logf("first successful write to the shard through another node:\n%s", table.String())
}

// failover loses the leader of a shard by f, returns how long it took until a write to the
// shard succeeded through another node, and puts everything right again.
func (r *run) failover(f fault, shard uint64) time.Duration {
	t := r.t
	t.Helper()
	victim := leader(t, r.cluster.Nodes, shard)
	others := r.cluster.Others(victim.ID)
	key := keyIn(t, others[0], fmt.Sprintf("probe-%d", len(r.probes)), shard)
	r.probes = append(r.probes, key)

	start := time.Now()
	if err := f.hurt(r, victim); err != nil {
		t.Fatal(err)
	}
	r.write(key, others)
	took := time.Since(start)
	t.Logf("%s of %s, leader of shard %d: writes go on after %.2f s", f.name, victim.ID, shard, took.Seconds())

	lasts := time.NewTimer(time.Until(start.Add(f.lasts)))
	defer lasts.Stop()
	select {
	case <-lasts.C:
	case <-t.Context().Done():
	}
	if err := f.heal(r, victim); err != nil {
		t.Fatal(err)
	}
	r.cluster.WaitReady(t, 60*time.Second)
	r.progress(100, 20*time.Second)
	return took
}

// write writes to key through the nodes in turn, with a small timeout, until one write succeeds.
func (r *run) write(key string, through []*cluster.Node) {
	t := r.t
	t.Helper()
	c := client.New(client.Config{Recorder: r.recorder, Timeout: 300 * time.Millisecond})
	defer c.Close()
	targets := cluster.Targets(through)
	attempts := 0
	err := cluster.Poll(within(t, failoverNever), func() bool {
		attempts++
		o := c.Do(t.Context(), targets[attempts%len(targets)], history.Operation{
			Process: r.recorder.NewProcess(),
			Kind:    history.Put,
			Key:     key,
			Value:   fmt.Sprintf("%s, attempt %d", key, attempts),
		})
		return o.Outcome == history.OK
	})
	if err != nil {
		t.Fatalf("no write to %s in %v", key, failoverNever)
	}
}
