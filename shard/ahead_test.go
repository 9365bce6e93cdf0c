package shard

import (
	"fmt"
	"testing"
	"time"
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
