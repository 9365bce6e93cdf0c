package shard

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestFollowerAheadOfItsAnswers ensures that a follower whose answers were lost, and whose log begins behind what the leader
// knows it to have, is sent what it lacks, and not the leader's older snapshot again and again.
func TestFollowerAheadOfItsAnswers(t *testing.T) {
	tune := func(node string, c *Config) {
		c.TrailingLogs, c.SnapshotEntries, c.CheckInterval = 1, 4, time.Hour
		if node == "a" {
			c.SnapshotEntries = 20
		}
	}
	inBubble(t, 3, tune, func(c *cluster) {
		last := func(node string) uint64 {
			metas, err := c.hosts[node].Group(testShard).snaps.List()
			if err != nil || len(metas) == 0 {
				return 0
			}
			return metas[0].Index
		}
		l := c.lead("a")
		for n := range 30 {
			c.mustPut(l, fmt.Sprint("k", n), "v")
		}
		c.until("the leader has a snapshot", func() bool { return last("a") > 20 })
		before := l.Group(testShard).Status().Last
		c.net.Isolate("a", "b")
		c.net.BreakLinks("a", "b")
		for n := range 10 {
			c.mustPut(l, fmt.Sprint("k", n), "w")
		}
		b := c.hosts["b"].Group(testShard)
		c.net.DropWhen(func(from, to string, frame []byte) bool { // it takes all of them, and its answer is lost
			at, err := b.store.LastIndex()
			return from == "b" && to == "a" && !isRequest(frame) && err == nil && at >= before+10
		})
		c.net.Heal()
		c.until("b has a snapshot of what the leader does not know it to have", func() bool { return last("b") > before+1 })
		t.Logf("the leader's snapshot is at %d, b's at %d; the log ended at %d", last("a"), last("b"), before)
		c.net.DropWhen(nil)
		c.net.BreakLinks("a", "b")
		c.mustPut(l, "k", "x")
		c.wantSameState()
	})
}

// TestTrimTakesNoEntryOnTrust ensures that a replica which has restored a snapshot over a log that diverges from it, and has not
// repaired that log yet, acknowledges no entries on the strength of what is left there: the repair would take them away again.
func TestTrimTakesNoEntryOnTrust(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		old := c.lead("a")
		c.mustPut(old, "k", "v0")
		c.net.Isolate("a", "b", "c")
		c.proposeInVain(old, 400)
		next := c.leader("b", "c")
		c.fill(next, 60, "v")
		for n := range 2 {
			c.mustPut(next, fmt.Sprint("after the snapshot", n), "v")
		}
		leader, g := next.Group(testShard), old.Group(testShard)
		metas, err := leader.snaps.List()
		if err != nil || len(metas) == 0 {
			t.Fatalf("the leader's snapshots: %v, %v", metas, err)
		}
		meta, content, err := leader.snaps.Open(metas[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		var before raft.Log
		if err := leader.store.GetLog(meta.Index-1, &before); err != nil {
			t.Fatal(err)
		}
		request := &raft.AppendEntriesRequest{RPCHeader: header(leader.id.String()), Term: leader.store.Term() + 1, // a later leader's
			PrevLogEntry: before.Index, PrevLogTerm: before.Term}
		for index := meta.Index; index <= meta.Index+2; index++ {
			var log raft.Log
			if err := leader.store.GetLog(index, &log); err != nil {
				t.Fatal(err)
			}
			request.Entries = append(request.Entries, &log)
		}

		// From here on the test replaces the instance, and can wait as long as it likes between restoring and repairing.
		g.cancel()
		<-g.done
		start := func() *instance {
			i, err := g.startInstance(nil)
			if err != nil {
				t.Fatal(err)
			}
			return i
		}
		stop := func(i *instance) {
			g.stopInstance(i)
			close(i.over)
		}
		inst := start()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := inst.trans.deliver(ctx, &raft.InstallSnapshotRequest{RPCHeader: request.RPCHeader, SnapshotVersion: meta.Version,
			Term: leader.store.Term(), LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
			Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex}, content); err != nil {
			t.Fatal(err)
		}
		if base, term, ok := g.store.base(); !ok || base != meta.Index || term == meta.Term {
			t.Fatalf("the log begins at %d of term %d, %t; want another entry at %d than that of term %d", base, term, ok, meta.Index, meta.Term)
		}
		message, _, err := inst.trans.receive(ctx, leader.id.String(), rpcAppend, appendAppendEntries(nil, request))
		if err != nil {
			t.Fatal(err)
		}
		var answer raft.AppendEntriesResponse
		if err := decodeAppendEntriesResponse(message, "a", &answer); err != nil {
			t.Fatal(err)
		}
		stop(inst)
		inst = start()
		defer stop(inst)
		if last, err := g.store.LastIndex(); err != nil || answer.Success && last < meta.Index+2 {
			t.Errorf("entries up to %d were acknowledged, and the log ends at %d: %v", meta.Index+2, last, err)
		}
	})
}
