package integration

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/workload"
)

// run is a cluster under a recorded load.
type run struct {
	t        *testing.T
	cluster  *cluster.Cluster
	recorder *history.Recorder
	load     *workload.Load

	probes []string // keys written beside the load
	final  []history.Operation
}

// requestTimeout is about what a client waits for an answer: above what a write takes on a slow
// disk, far below an election, so that outcomes become unknown.
const requestTimeout = 800 * time.Millisecond

// startRun starts the mixed load on c.
func startRun(t *testing.T, c *cluster.Cluster) *run {
	t.Helper()
	r := &run{t: t, cluster: c, recorder: history.NewRecorder()}
	r.load = workload.Start(t.Context(), r.recorder, workload.Config{
		Targets: cluster.Targets(c.Nodes),
		Pinned:  2, Roaming: 3, Keys: 8, Prefix: "load",
		Timeout: requestTimeout, Think: 15 * time.Millisecond, Seed: uint64(time.Now().UnixNano()),
	})
	t.Cleanup(r.load.Stop)
	return r
}

// progress waits until the load has had n more successes.
func (r *run) progress(n int64, limit time.Duration) {
	r.t.Helper()
	want := r.load.Done() + n
	if err := cluster.Poll(within(r.t, limit), func() bool { return r.load.Done() >= want }); err != nil {
		r.t.Fatalf("the clients had %d successes in %v, want %d: no progress", n-(want-r.load.Done()), limit, n)
	}
}

// keys ends the load, where there is one, and returns every key that was ever used.
func (r *run) keys() []string {
	if r.load == nil {
		return r.probes
	}
	r.load.Stop()
	return slices.Concat(r.load.Keys(), r.probes)
}

// readAll ends the load and reads every key that was ever used, at changing nodes.
func (r *run) readAll() {
	r.t.Helper()
	keys := r.keys()
	targets := cluster.Targets(r.cluster.Nodes)
	ctx := within(r.t, 60*time.Second)
	c := client.New(client.Config{Recorder: r.recorder, Timeout: 2 * time.Second})
	defer c.Close()
	process := r.recorder.NewProcess()
	attempts := 0
	for _, key := range keys {
		err := cluster.Poll(ctx, func() bool {
			attempts++
			o := c.Do(ctx, targets[attempts%len(targets)], history.Operation{Process: process, Kind: history.Get, Key: key})
			if o.Outcome == history.OK {
				r.final = append(r.final, o)
			}
			return o.Outcome == history.OK
		})
		if err != nil {
			r.t.Fatalf("key %q can't be read at the end: %v", key, err)
		}
	}
}

// verify checks the whole run. least is the number of successes below which it proves nothing.
func (r *run) verify(least int) {
	t := r.t
	t.Helper()
	if len(r.final) == 0 {
		r.readAll()
	}
	for _, err := range r.recorder.Defects() {
		t.Errorf("interface broken: %v", err)
	}
	ops := r.recorder.Operations()
	const keyLimit = 10 * time.Second
	report := check.Verify(ops, r.final, keyLimit)
	count := r.recorder.Count()
	reads := map[string]int{} // answered, by what was promised and how it was kept
	for _, o := range ops {
		if o.Kind.Read() && o.Outcome == history.OK {
			reads[string(o.Kind)+" "+o.Path]++
		}
	}
	t.Logf("%v; outcomes %v; reads %v", report, count, reads)
	if r.load != nil && (reads["get follower"] == 0 || reads["get-bounded local"] == 0 || reads["get-any local"] == 0) {
		t.Errorf("not proved: not all ways to read were met: %v", reads)
	}
	if err := report.Err(); err != nil {
		t.Errorf("%v", err)
	}
	if count[history.OK] < least {
		t.Errorf("not proved: %d operations succeeded, want at least %d", count[history.OK], least)
	}
	for _, n := range r.cluster.Nodes {
		if !n.Running() {
			continue
		}
		replicas, err := n.Replicas(within(t, 5*time.Second))
		if err != nil {
			t.Error(err)
		}
		for _, replica := range replicas {
			if replica.Evictions != 0 {
				t.Errorf("not proved: shard %d at %s evicted %d entries, so that lost ones can't be told", replica.ID, n.ID, replica.Evictions)
			}
		}
	}
	if t.Failed() {
		keepHistory(t, ops)
	}
}

// keepHistory writes a history that is wrong to where it outlives the test.
func keepHistory(t *testing.T, ops []history.Operation) {
	dir, err := os.MkdirTemp("", "larder-history-")
	if err != nil {
		t.Error(err)
		return
	}
	path := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+".jsonl")
	if err := history.WriteFile(path, ops); err != nil {
		t.Error(err)
		return
	}
	t.Logf("the history is in %s", path)
}

// leader waits until all nodes agree in which term who leads the shard, and returns that node.
func leader(t *testing.T, nodes []*cluster.Node, shard uint64) *cluster.Node {
	t.Helper()
	var found cluster.Replica
	ctx := within(t, 30*time.Second)
	if err := cluster.Poll(ctx, func() bool {
		for i, n := range nodes {
			replica, ok := replicaOf(ctx, n, shard)
			if !ok || replica.Leader == "" || i > 0 && (replica.Leader != found.Leader || replica.Term != found.Term) {
				return false
			}
			found = replica
		}
		return true
	}); err != nil {
		t.Fatalf("the nodes don't agree who leads shard %d: %v", shard, err)
	}
	i := slices.IndexFunc(nodes, func(n *cluster.Node) bool { return n.ID == found.Leader })
	if i < 0 {
		t.Fatalf("shard %d is led by %q", shard, found.Leader)
	}
	return nodes[i]
}

// replicaOf returns what n says of its own replica of a shard.
func replicaOf(ctx context.Context, n *cluster.Node, shard uint64) (cluster.Replica, bool) {
	replicas, err := n.Replicas(ctx)
	if err != nil {
		return cluster.Replica{}, false
	}
	i := slices.IndexFunc(replicas, func(r cluster.Replica) bool { return r.ID == shard && r.Source == n.ID })
	if i < 0 {
		return cluster.Replica{}, false
	}
	return replicas[i], true
}

// shards returns the ids of the data shards.
func shards(t *testing.T, c *cluster.Cluster) []uint64 {
	t.Helper()
	d, err := c.Nodes[0].Directory(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var all []uint64
	for _, s := range d.Shards {
		all = append(all, s.ID)
	}
	if len(all) == 0 {
		t.Fatal("the directory lists no shards")
	}
	return all
}

// keyIn returns a key that starts with prefix and belongs to shard.
func keyIn(t *testing.T, n *cluster.Node, prefix string, shard uint64) string {
	t.Helper()
	ctx := within(t, 10*time.Second)
	for i := range 1000 {
		key := prefix + "-" + strconv.Itoa(i)
		l, err := n.Locate(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if l.Shard == shard {
			return key
		}
	}
	t.Fatalf("none of 1000 keys belongs to shard %d", shard)
	return ""
}

// together calls f for each node at once and waits for all.
func together(nodes []*cluster.Node, f func(*cluster.Node)) {
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() { f(n) })
	}
	all.Wait()
}
