package shard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestCommitIndexClamped ensures that no AppendEntries on the wire tells a follower to commit beyond
// the last entry that it checks, whatever the library asked for, over elections, divergent logs and
// entries cut into several frames.
func TestCommitIndexClamped(t *testing.T) {
	inBubble(t, 3, func(_ string, c *Config) { c.SnapshotEntries, c.TrailingLogs = 20, 5 }, func(c *cluster) {
		var mu sync.Mutex
		var seen, committing int
		var last *raft.AppendEntriesRequest
		c.net.DropWhen(func(from, to string, frame []byte) bool {
			a, ok := appendIn(frame)
			if !ok {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			seen++
			last = a
			if a.LeaderCommitIndex > 0 {
				committing++
			}
			if checked := a.PrevLogEntry + uint64(len(a.Entries)); a.LeaderCommitIndex > checked {
				t.Errorf("%s tells %s to commit %d and checks only %d", from, to, a.LeaderCommitIndex, checked)
			}
			return false
		})
		rnd := rand.New(rand.NewPCG(3, 3))
		for round := range 6 {
			l := c.leader()
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() { _, _ = put(l, fmt.Sprint("k", i), string(make([]byte, 1+i*2000))) })
			}
			time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
			c.net.Isolate(l.Node(), c.others(l.Node())...)
			wg.Wait()
			c.mustPut(c.leader(c.others(l.Node())...), "k", fmt.Sprint(round))
			c.net.Heal()
			c.wantSameState()
		}
		mu.Lock()
		if seen < 50 || committing < 15 {
			t.Errorf("only %d requests, %d of them with a commit index, were looked at", seen, committing)
		}
		mu.Unlock()

		// What the library asks for in a narrow race only: entries 12 to 14 are committed, the
		// follower is asked about 11. The term is old, so that the request itself changes nothing.
		l := c.leader()
		to := raft.ServerID(ReplicaID{testShard, c.others(l.Node())[0], 1}.String())
		trans := l.Group(testShard).instance().trans
		var resp raft.AppendEntriesResponse
		for entries := range 3 {
			req := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 11, PrevLogTerm: 1, LeaderCommitIndex: 14}
			for i := range entries {
				req.Entries = append(req.Entries, &raft.Log{Index: uint64(12 + i), Term: 1})
			}
			if err := trans.AppendEntries(to, "", req, &resp); err != nil || resp.Success {
				t.Fatalf("crafted request: %+v, %v", resp, err)
			}
			if req.LeaderCommitIndex != 14 {
				t.Error("the library's own request was changed")
			}
			mu.Lock()
			got, ok := last.LeaderCommitIndex, last.PrevLogEntry == 11
			mu.Unlock()
			if want := uint64(11 + entries); ok && got != want {
				t.Errorf("commit index on the wire with %d entries: %d, want %d", entries, got, want)
			}
		}
	})
}

// TestNoFastPath ensures that heartbeats go through the instance's main goroutine like all else, and
// that there is no pipeline.
func TestNoFastPath(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		for _, h := range c.hosts {
			trans := h.Group(testShard).instance().trans
			trans.SetHeartbeatHandler(func(raft.RPC) { t.Error("a heartbeat took the fast path") })
			if _, err := trans.AppendEntriesPipeline("", ""); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
				t.Errorf("pipeline: %v", err)
			}
		}
		l := c.leader()
		term := l.Group(testShard).Status().Term
		time.Sleep(time.Minute)
		if s := l.Group(testShard).Status(); s.Term != term || !s.Ready {
			t.Errorf("a quiet minute moved the term from %d to %d", term, s.Term)
		}
	})
}

// TestLargeAppendIsCut ensures that entries which the library sends as one request go out as frames of
// bounded size and arrive whole.
func TestLargeAppendIsCut(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		lagging := c.others(l.Node())[0]
		c.net.Isolate(lagging, c.others(lagging)...)
		for i := range 40 {
			c.mustPut(l, fmt.Sprint("k", i), string(make([]byte, 200<<10)))
		}
		var mu sync.Mutex
		largest, frames := 0, 0
		c.net.DropWhen(func(_, to string, frame []byte) bool {
			if a, ok := appendIn(frame); ok && to == lagging && len(a.Entries) > 0 {
				mu.Lock()
				defer mu.Unlock()
				largest, frames = max(largest, len(frame)), frames+1
			}
			return false
		})
		c.net.Heal()
		c.wantSameState()
		mu.Lock()
		defer mu.Unlock()
		if largest > appendBytes+1024 || frames < 8 {
			t.Errorf("%d frames, the largest of %d bytes", frames, largest)
		}
	})
}
