package integration

import (
	"syscall"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/workload"
)

// TestWorkloads ensures that a cluster without faults answers each workload as the interface says, that the answers are consistent, and
// that the clients are fast enough to be worth it.
func TestWorkloads(t *testing.T) {
	processes(t)
	binary := builder.Binary(t)
	roomy := cluster.Start(t, cluster.Config{Binary: binary, Shards: 2})
	for _, name := range workload.Names() {
		if name != "evict" && name != "directory" { // these have clusters of their own
			t.Run(name, func(t *testing.T) { runWorkload(t, roomy, name) })
		}
	}
	for _, n := range roomy.Nodes {
		replicas, err := n.Replicas(within(t, 5*time.Second))
		if err != nil {
			t.Error(err)
		}
		for _, r := range replicas {
			if r.Evictions != 0 {
				t.Errorf("shard %d at %s evicted %d entries although there is room", r.ID, n.ID, r.Evictions)
			}
		}
	}
}

// TestWorkloadDirectory runs the workload that changes a setting, which gives each key of that cluster a time to live.
func TestWorkloadDirectory(t *testing.T) {
	processes(t)
	runWorkload(t, cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 2}), "directory")
}

// TestWorkloadEvict ensures that evict finds some of what it asks for, and not all, where there is room for a part.
func TestWorkloadEvict(t *testing.T) {
	processes(t)
	tight := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 2, Args: []string{"--shard-bytes", "65536"}})
	ops, load := runWorkload(t, tight, "evict")
	n := load.Reads()[history.Get]
	share := float64(n.Hits) / float64(n.Hits+n.Misses)
	evicted, filled := 0, 0
	for _, o := range ops {
		if o.Miss == "evicted" {
			evicted++
		}
		if o.Kind == history.Create && o.FillToken != 0 && o.Outcome == history.OK && !o.Conflict {
			filled++
		}
	}
	t.Logf("%.0f %% hits, %d misses of what was evicted, %d filled", 100*share, evicted, filled)
	if share < 0.2 || share > 0.8 || evicted == 0 || filled == 0 {
		t.Errorf("%.0f %% hits, %d misses of what was evicted, %d filled", 100*share, evicted, filled)
	}
}

// runWorkload runs a workload for some thousand operations and checks them.
func runWorkload(t *testing.T, c *cluster.Cluster, name string) ([]history.Operation, *workload.Load) {
	t.Helper()
	r := history.NewRecorder()
	load := workload.Start(t.Context(), r, workload.Config{
		Workload: name, Targets: cluster.Targets(c.Nodes), Nodes: c.Nodes, Shrink: true, SteadyClocks: true,
		Pinned: 2, Roaming: 4, Keys: 10, Prefix: name, Timeout: 5 * time.Second, Seed: uint64(time.Now().UnixNano()),
	})
	t.Cleanup(load.Stop)
	const enough, least = 3000, 3 * time.Second
	began, cpu := time.Now(), cpuTime(t)
	if err := cluster.Poll(within(t, 60*time.Second), func() bool {
		did := load.Operated()
		operated := name != "admin" || did["transfer 204"] > 0 && did["remove-member done"] > 0
		return load.Done() >= enough && time.Since(began) > least && operated
	}); err != nil {
		t.Fatalf("%d operations in a minute, want %d; operators %v", load.Done(), enough, load.Operated())
	}
	done := load.Done()
	t.Logf("%.0f operations a second, for which the clients took %v of processor each", float64(done)/time.Since(began).Seconds(), (cpuTime(t)-cpu)/time.Duration(done))
	load.Stop()
	final, err := load.Finish(within(t, 30*time.Second))
	if err != nil {
		t.Error(err)
	}
	for _, d := range r.Defects() {
		t.Errorf("interface broken: %v", d)
	}
	ops := r.Operations()
	t.Logf("outcomes %v, reads %v, operators %v", r.Count(), load.Reads(), load.Operated())
	mode := history.Strict
	if name == "evict" {
		mode = history.Tight
	}
	report := check.Run(&history.Run{Meta: history.Meta{Workload: name, Mode: mode}, Ops: ops, Final: final}, check.Options{KeyLimit: 10 * time.Second})
	t.Log(report)
	if report.Verdict() != check.Valid {
		t.Errorf("%s: %+v: %v", report.Verdict(), report.Checks, report.Err())
		keepHistory(t, ops)
	}
	return ops, load
}

// cpuTime is the processor time that this process has had.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
