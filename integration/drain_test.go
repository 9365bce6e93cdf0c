package integration

import (
	"slices"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/workload"
)

// TestNodesAreReplaced ensures, under load, that a node which joined takes its part of the replicas by itself, and takes over from one that is drained and
// removed, that the replicas of a node which was killed are made anew on a fifth one, the directory's too, and that clients of a node that
// stays notice no more than elections: no wrong answer, nothing lost, no shard without a success for long, few failures.
func TestNodesAreReplaced(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{
		Binary: builder.Binary(t), Shards: 4, Delay: 2 * time.Millisecond, Limit: 10 * time.Minute,
		Args: append([]string{"--repair-after", "5s"}, smallLogs...),
	})
	a := c.Node("a")
	r := &run{t: t, cluster: c, recorder: history.NewRecorder()}
	r.load = workload.Start(t.Context(), r.recorder, workload.Config{
		Targets: cluster.Targets([]*cluster.Node{a}), Pinned: 40, Keys: 64, Prefix: "load",
		Timeout: 5 * time.Second, Rate: 1000, Seed: uint64(time.Now().UnixNano()),
	})
	t.Cleanup(r.load.Stop)
	p := newOperator(t, c)
	all := append(shards(t, c), 0)
	r.progress(500, 30*time.Second)
	began := time.Now()

	c.Join(t, a)
	c.WaitReady(t, 60*time.Second)
	c.WaitKnown(t, "d", 30*time.Second)
	r.untilSpread("a", "b", "c", "d")
	t.Logf("spread after %v", time.Since(began))
	gone := c.Node("c")
	if answer, err := a.Drain(within(t, 10*time.Second), "c", true); err != nil || answer.Status != 202 {
		t.Fatalf("draining: %s, %v", answer, err)
	}
	r.untilEmpty("c")
	t.Logf("drained after %v", time.Since(began))
	if err := gone.Terminate(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	p.removeNode("c")

	c.Join(t, a)
	c.WaitKnown(t, "e", 30*time.Second)
	killed := time.Now()
	if err := c.Node("b").Kill(); err != nil {
		t.Fatal(err)
	}
	r.untilEmpty("b")
	t.Logf("repaired %v after it was killed", time.Since(killed))
	p.removeNode("b")
	for _, shard := range all {
		voters, whole := p.members(shard).Voters()
		if slices.Sort(voters); !slices.Equal(voters, []string{"a", "d", "e"}) || !whole {
			t.Errorf("shard %d has the voters %v", shard, voters)
		}
	}
	operations, err := a.Operations(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range slices.Backward(operations) {
		t.Log(o.String(), o.Reason)
	}
	r.progress(500, 30*time.Second)
	r.load.Stop()
	r.wantNoGaps(3*time.Second, 0.005)
	r.mark()
	r.readAll()
	r.readMembers()
	r.verify(5000)
}

// untilSpread waits until the numbers of replicas on nodes differ by one at most.
func (r *run) untilSpread(nodes ...string) {
	r.t.Helper()
	var has []int
	ctx := within(r.t, 90*time.Second)
	if err := cluster.Poll(ctx, func() bool {
		has = nil
		for _, node := range nodes {
			n, err := r.cluster.Node("a").Node(ctx, node)
			if err != nil {
				return false
			}
			has = append(has, n.Replicas)
		}
		return slices.Max(has)-slices.Min(has) <= 1
	}); err != nil {
		r.t.Fatalf("nodes %v have %v replicas", nodes, has)
	}
}

// untilEmpty waits until a node hosts nothing.
func (r *run) untilEmpty(node string) {
	r.t.Helper()
	var n cluster.NodeState
	ctx := within(r.t, 90*time.Second)
	if err := cluster.Poll(ctx, func() bool {
		var err error
		n, err = r.cluster.Node("a").Node(ctx, node)
		return err == nil && n.Replicas == 0 && !n.Directory
	}); err != nil {
		r.t.Fatalf("node %s is not empty: %+v", node, n)
	}
}

// wantNoGaps wants each shard to have had a success in each window of the load, and few operations to have failed.
func (r *run) wantNoGaps(window time.Duration, failures float64) {
	r.t.Helper()
	last, longest := map[uint64]time.Duration{}, map[uint64]time.Duration{}
	failed := 0
	ops := slices.SortedFunc(slices.Values(r.recorder.Operations()), func(a, b history.Operation) int { return int(a.Return - b.Return) })
	for _, o := range ops {
		if o.Local && o.Status == 421 { // the node that was asked has no replica of that shard any more
			continue
		}
		if o.Outcome != history.OK {
			failed++
			continue
		}
		shard, at := o.Place.Shard, time.Duration(o.Return)
		if before, seen := last[shard]; seen {
			longest[shard] = max(longest[shard], at-before)
		}
		last[shard] = at
	}
	r.t.Logf("%d of %d operations failed; the longest time without a success, by shard: %v", failed, len(ops), longest)
	if float64(failed) > failures*float64(len(ops)) {
		r.t.Errorf("%d of %d operations failed", failed, len(ops))
	}
	for shard, gap := range longest {
		if gap > window {
			r.t.Errorf("shard %d had no success for %v", shard, gap)
		}
	}
}
