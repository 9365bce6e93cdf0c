package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// TestKillAll ensures that after kill -9 of all nodes at once, under load, every acknowledged write
// is there with its version, and that the replicas of each shard hold the same state at the same index.
func TestKillAll(t *testing.T) {
	processes(t)
	binary := builder.Binary(t)
	c := cluster.Start(t, cluster.Config{
		Binary: binary, Shards: 4, Delay: 2 * time.Millisecond,
		Args: []string{"--snapshot-threshold", "300", "--trailing-logs", "100"},
	})
	r := startRun(t, c)
	stop := r.writeOnce(4)
	for range rounds(t, 2) {
		r.progress(400, 30*time.Second)
		together(c.Nodes, func(n *cluster.Node) {
			if err := n.Kill(); err != nil {
				t.Error(err)
			}
		})
		for _, n := range c.Nodes {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		c.WaitReady(t, 60*time.Second)
	}
	r.progress(100, 30*time.Second)
	stop()
	if len(r.probes) < 200 {
		t.Errorf("not proved: only %d keys were written once", len(r.probes))
	}
	r.verify(500)

	at := quiesce(t, c)
	together(c.Nodes, func(n *cluster.Node) {
		if err := n.Terminate(within(t, 30*time.Second)); err != nil {
			t.Errorf("node %s, asked to end: %v", n.ID, err)
		}
	})
	compareOffline(t, binary, c, at)
}

// writeOnce starts writers that store a value under a new key each time, through any node, until the function it
// returns is called. Nothing overwrites these values: each that was acknowledged must be there in the end.
func (r *run) writeOnce(writers int) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var all sync.WaitGroup
	keys := make([][]string, writers)
	targets := cluster.Targets(r.cluster.Nodes)
	for i := range writers {
		all.Go(func() {
			c := client.New(r.recorder, requestTimeout)
			defer c.Close()
			tick := time.NewTicker(10 * time.Millisecond) // also the pause between refusals
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("once/%d/%d", i, n)
				c.Do(context.WithoutCancel(ctx), targets[n%len(targets)], history.Operation{
					Process: r.recorder.NewProcess(), Kind: history.Put, Key: key, Value: "the value of " + key,
				})
				keys[i] = append(keys[i], key)
				<-tick.C
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		r.probes = append(r.probes, slices.Concat(keys...)...)
	})
	r.t.Cleanup(stop)
	return stop
}

// quiesce waits until all nodes tell of the same applied index of each data shard, and of no other for a while,
// since what they tell is some moments old. It returns these indexes.
func quiesce(t *testing.T, c *cluster.Cluster) map[uint64]uint64 {
	t.Helper()
	const quiet = 2 * time.Second
	ctx := within(t, 30*time.Second)
	var last map[uint64]uint64
	var since time.Time
	if err := cluster.Poll(ctx, func() bool {
		at, equal := appliedOf(ctx, c)
		if !equal || !maps.Equal(at, last) {
			last, since = at, time.Now()
		}
		return equal && len(at) > 0 && time.Since(since) > quiet
	}); err != nil {
		t.Fatalf("the replicas don't meet: %v; last seen %v", err, last)
	}
	return last
}

// appliedOf returns the applied index of each data shard, and whether all nodes tell of the same.
func appliedOf(ctx context.Context, c *cluster.Cluster) (at map[uint64]uint64, equal bool) {
	at = map[uint64]uint64{}
	for _, n := range c.Nodes {
		replicas, err := n.Replicas(ctx)
		if err != nil {
			return at, false
		}
		for _, r := range replicas {
			if index, ok := at[r.ID]; r.Source != n.ID || ok && index != r.Applied {
				return at, false
			}
			at[r.ID] = r.Applied
		}
	}
	return at, true
}

// compareOffline reads the data folders of all nodes, which don't run, and compares the state of
// each shard at the index given for it.
func compareOffline(t *testing.T, binary string, c *cluster.Cluster, at map[uint64]uint64) {
	t.Helper()
	type state struct {
		Shard    uint64
		Replica  string
		Applied  uint64
		Entries  uint64
		Bytes    uint64
		Checksum string
		Error    string
	}
	first := map[uint64]state{}
	seen := map[uint64]int{}
	for _, n := range c.Nodes {
		args := []string{"check", "data-dir", n.DataDir, "-o", "json"}
		for shard, index := range at {
			args = append(args, "--at", fmt.Sprintf("%d=%d", shard, index))
		}
		var complaints bytes.Buffer
		cmd := exec.CommandContext(within(t, 60*time.Second), binary, args...)
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("larder check of the folder of %s: %v\n%s%s", n.ID, err, out, &complaints)
		}
		var states []state
		if err := json.Unmarshal(out, &states); err != nil {
			t.Fatalf("larder check printed %s: %v", out, err)
		}
		for _, s := range states {
			if _, wanted := at[s.Shard]; !wanted {
				continue
			}
			seen[s.Shard]++
			if s.Error != "" || s.Checksum == "" || s.Applied != at[s.Shard] {
				t.Errorf("folder of %s: shard %d: want a checksum at index %d: %+v", n.ID, s.Shard, at[s.Shard], s)
			}
			same, ok := first[s.Shard]
			if !ok {
				first[s.Shard] = s
				continue
			}
			if s.Checksum != same.Checksum || s.Entries != same.Entries || s.Bytes != same.Bytes {
				t.Errorf("replicas of shard %d differ at index %d:\n%+v\n%+v", s.Shard, at[s.Shard], same, s)
			}
		}
	}
	entries := uint64(0)
	for shard := range at {
		if seen[shard] != len(c.Nodes) {
			t.Errorf("shard %d was found in %d of %d folders", shard, seen[shard], len(c.Nodes))
		}
		entries += first[shard].Entries
	}
	if entries == 0 {
		t.Error("not proved: all states are empty")
	}
	t.Logf("%d shards with %d entries are equal in all folders", len(at), entries)
}
