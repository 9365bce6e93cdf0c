package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/disk"
	"github.com/larder-cache/larder/integration/history"
)

// TestDamagedReplicaIsRebuilt ensures that a node whose disk changed bits in the log of a replica, of the directory's or a data
// shard's, in the shared log or a file of its own, runs without that replica at first, and that the cluster replaces it by a new one by itself, in the log store that the
// node is set to by then; and that a node does not run where it can't be told whose the damaged bits are.
func TestDamagedReplicaIsRebuilt(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 2, StartArgs: func(node string, start int) []string {
		if node != "c" {
			return nil
		}
		return []string{"--log-store", []string{"shared", "shared", "bolt", "shared"}[start%4]}
	}})
	r := startRun(t, c)
	hurt := c.Nodes[2]
	stop := r.writeOnce(4)
	// Of the second, what was written before the first damage is in files of the shared log; the third has a file of its own, and the shared log has what follows it.
	want := map[uint64]int{}
	for i, shard := range []uint64{0, 1, 1} {
		r.progress(200, 30*time.Second)
		if err := hurt.Kill(); err != nil {
			t.Fatal(err)
		}
		where, bits := "log/", 1
		if i != 1 {
			where, bits = fmt.Sprintf("replicas/%d-", shard), 8 // one may say nothing, as of the time at which the entry was stored
		}
		for seed := range uint64(bits) {
			did, err := disk.DamageLogOf(hurt.DataDir, shard, seed)
			if err != nil || !strings.HasPrefix(did, where) {
				t.Fatalf("%q, %v, want damage of %s", did, err, where)
			}
			t.Log(did)
		}
		if err := hurt.Start(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var all []cluster.Operation
		ctx := within(t, 60*time.Second)
		if err := cluster.Poll(ctx, func() bool {
			all, _ = c.Nodes[0].Operations(ctx)
			return rebuilt(all, shard) > want[shard] && !slices.ContainsFunc(all, func(o cluster.Operation) bool { return o.State != "done" })
		}); err != nil {
			t.Fatalf("shard %d was not rebuilt: %v", shard, all)
		}
		want[shard]++
		for _, o := range all {
			if o.Node != hurt.ID || o.Kind != "rebuild-member" || o.Reason != "data lost" || o.Shard > shard && i == 0 {
				t.Errorf("for the reason %q: %s", o.Reason, o)
			}
		}
		// Entries of both data shards may be in the block that is damaged.
		if more := rebuilt(all, 2); rebuilt(all, 0) != 1 || rebuilt(all, 1) != want[1] || more > min(i, 1) || len(all) != i+1+more {
			t.Errorf("operations: %v", all)
		}
		c.WaitReady(t, 30*time.Second)
		t.Logf("shard %d was rebuilt, and all were ready, after %v", shard, time.Since(began))
	}
	r.progress(100, 30*time.Second)
	stop()
	if got, err := hurt.Operations(within(t, 5*time.Second)); err != nil || rebuilt(got, 0) != 1 || rebuilt(got, 1) != 2 {
		t.Errorf("operations: %v, %v", got, err)
	}
	r.readLocally(hurt)
	r.verify(500)
	for shard := uint64(1); shard <= 2; shard++ {
		if err := cluster.Poll(within(t, 20*time.Second), func() bool {
			_, err := hurt.Checksums(t.Context(), shard)
			return err == nil
		}); err != nil {
			t.Errorf("shard %d: %v", shard, err)
		}
	}

	if err := hurt.Kill(); err != nil {
		t.Fatal(err)
	}
	for seed, did := uint64(0), ""; !strings.Contains(did, ".log,"); seed++ {
		var err error
		if did, err = disk.DamageLog(hurt.DataDir, seed); err != nil || seed == 50 {
			t.Fatalf("after %d tries: %v", seed, err)
		}
		t.Log(did)
	}
	wantDataLost(t, hurt, "data lost, rejoin as new: the shared log")
}

// rebuilt counts the operations that made a replica of a shard anew.
func rebuilt(all []cluster.Operation, shard uint64) (n int) {
	for _, o := range all {
		if o.Kind == "rebuild-member" && o.Shard == shard && o.State == "done" {
			n++
		}
	}
	return n
}

// readLocally reads what was written once by a node's own replicas.
func (r *run) readLocally(n *cluster.Node) {
	r.t.Helper()
	c := client.New(client.Config{Recorder: r.recorder, Timeout: requestTimeout})
	defer c.Close()
	target := cluster.Targets([]*cluster.Node{n})[0]
	for _, key := range r.probes {
		var o history.Operation
		if err := cluster.Poll(within(r.t, 10*time.Second), func() bool {
			o = c.Do(context.Background(), target, history.Operation{Process: r.recorder.NewProcess(), Kind: history.Get, Key: key, Local: true})
			return o.Outcome == history.OK
		}); err != nil {
			r.t.Errorf("by %s alone: %s, %v", n.ID, o, err)
		}
	}
}
