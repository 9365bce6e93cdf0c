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
	for _, store := range []string{"bolt", "shared"} {
		t.Run(store, func(t *testing.T) { testKillAll(t, store) })
	}
}

func testKillAll(t *testing.T, store string) {
	processes(t)
	binary := builder.Binary(t)
	c := cluster.Start(t, cluster.Config{
		Binary: binary, Shards: 4, Delay: 2 * time.Millisecond,
		Args: []string{"--log-store", store, "--snapshot-threshold", "300", "--trailing-logs", "100"},
	})
	r := startRun(t, c)
	stop := r.writeOnce(4)
	for range rounds(t, 1) { // by each store
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
			c := client.New(client.Config{Recorder: r.recorder, Timeout: requestTimeout})
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

// quiesce waits until all members tell of the same applied index of each data shard, and of no other for a while,
// since what they tell is some moments old.
func quiesce(t *testing.T, c *cluster.Cluster) still {
	t.Helper()
	const quiet = 2 * time.Second
	ctx := within(t, 30*time.Second)
	var last map[uint64]uint64
	var members map[uint64][]string
	var since time.Time
	if err := cluster.Poll(ctx, func() bool {
		var err error
		if members, err = hosts(ctx, c); err != nil {
			return false
		}
		at, equal := appliedOf(ctx, c, members)
		if !equal || !maps.Equal(at, last) {
			last, since = at, time.Now()
		}
		return equal && len(at) > 0 && time.Since(since) > quiet
	}); err != nil {
		t.Fatalf("the replicas don't meet: %v; last seen %v", err, last)
	}
	return still{last, members}
}

// still is where the data shards of a cluster that nobody uses stand.
type still struct {
	at      map[uint64]uint64   // applied index
	members map[uint64][]string // nodes that host a replica
}

// hosts returns the nodes that have a replica of each data shard, by the table.
func hosts(ctx context.Context, c *cluster.Cluster) (map[uint64][]string, error) {
	d, err := c.Nodes[0].Directory(ctx)
	nodes := map[uint64][]string{}
	for _, s := range d.Shards {
		for _, m := range s.Members {
			nodes[s.ID] = append(nodes[s.ID], m.Node)
		}
	}
	return nodes, err
}

// appliedOf returns the applied index of each data shard, and whether all its members tell of the same.
func appliedOf(ctx context.Context, c *cluster.Cluster, members map[uint64][]string) (at map[uint64]uint64, equal bool) {
	at = map[uint64]uint64{}
	for _, n := range c.Nodes {
		replicas, err := n.Replicas(ctx)
		if err != nil {
			return at, false
		}
		for _, r := range replicas {
			if !slices.Contains(members[r.ID], n.ID) {
				continue
			}
			if index, ok := at[r.ID]; r.Source != n.ID || ok && index != r.Applied {
				return at, false
			}
			at[r.ID] = r.Applied
		}
	}
	return at, true
}

// compareOffline reads the data folders of all nodes, which don't run, and compares the state of
// each shard in the folders of its members at the index where it stood.
func compareOffline(t *testing.T, binary string, c *cluster.Cluster, s still) {
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
	at := s.at
	for _, n := range c.Nodes {
		args := []string{"check", "data-dir", n.DataDir, "-o", "json"}
		for shard, index := range at {
			if !slices.Contains(s.members[shard], n.ID) {
				continue
			}
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
		for _, got := range states {
			if _, wanted := at[got.Shard]; !wanted {
				continue
			}
			if !slices.Contains(s.members[got.Shard], n.ID) {
				t.Errorf("folder of %s: it holds a replica of shard %d, of which it is no member: %+v", n.ID, got.Shard, got)
				continue
			}
			seen[got.Shard]++
			if got.Error != "" || got.Checksum == "" || got.Applied != at[got.Shard] {
				t.Errorf("folder of %s: shard %d: want a checksum at index %d: %+v", n.ID, got.Shard, at[got.Shard], got)
			}
			same, ok := first[got.Shard]
			if !ok {
				first[got.Shard] = got
				continue
			}
			if got.Checksum != same.Checksum || got.Entries != same.Entries || got.Bytes != same.Bytes {
				t.Errorf("replicas of shard %d differ at index %d:\n%+v\n%+v", got.Shard, at[got.Shard], same, got)
			}
		}
	}
	entries := uint64(0)
	for shard := range at {
		if seen[shard] != len(s.members[shard]) {
			t.Errorf("shard %d was found in %d folders, its members are %v", shard, seen[shard], s.members[shard])
		}
		entries += first[shard].Entries
	}
	if entries == 0 {
		t.Error("not proved: all states are empty")
	}
	t.Logf("%d shards with %d entries are equal in the folders of all their members", len(at), entries)
}
