package shard

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stuckDisks are disks that end no sync of an append for a while.
type stuckDisks struct {
	mu     sync.Mutex // guards following
	until  map[string]time.Time
	caught map[string]int // appends whose sync took that long
}

func newStuckDisks() *stuckDisks {
	return &stuckDisks{until: map[string]time.Time{}, caught: map[string]int{}}
}

// syncs makes of how long a node's syncs take usually how long they do.
func (d *stuckDisks) syncs(node string, usual func() time.Duration) func() time.Duration {
	return func() time.Duration {
		d.mu.Lock()
		defer d.mu.Unlock()
		if left := time.Until(d.until[node]); left > 0 {
			d.caught[node]++
			return left
		}
		return usual()
	}
}

// stick has a node's disk end no sync for a while that it begins from now on.
func (d *stuckDisks) stick(node string, long time.Duration) (took func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until[node] = time.Now().Add(long)
	before := d.caught[node]
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.caught[node] > before
	}
}

// heal ends that for syncs that begin from now on.
func (d *stuckDisks) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.until)
}

// stuckSync has the disk of a node be stuck, mostly a leader's and long enough that it hands over, and kills that node meanwhile or not,
// as a sync that fails would.
func (n *nemesis) stuckSync() (took func() bool) {
	node := n.leader()
	if n.rnd.IntN(4) == 0 {
		node = n.any()
	}
	if n.c.hosts[node] == nil {
		return nil
	}
	took = n.disks.stick(node, upTo(n.s.heartbeat, 3*maxSyncTime)(n.rnd))
	n.watch(upTo(0, 3*maxSyncTime/2)(n.rnd))
	if n.rnd.IntN(2) == 0 && n.c.hosts[node] != nil {
		n.bell.ring()
		n.disks.heal()
		n.crash(node)
	}
	return took
}

// TestDeathWithinHandover ensures that nothing that was answered is lost, and that the replicas agree, when a leader whose disk is stuck dies at any
// moment of its handing over, with writes that are in all logs; or, with writes that are in no other log, or in one, while it waits to, as too few others
// take them.
func TestDeathWithinHandover(t *testing.T) {
	for step := range 12 {
		inAheadCluster(t, func(c *aheadCluster) {
			c.mustPut(c.hosts["a"], "before", "v")
			c.lag["a"].Store(int64(45 * time.Second))
			alone := step%2 == 0
			if alone {
				c.net.Isolate("a", "c")
			}
			answered := c.putAside("k")
			// The hand-over begins with a look after maxSyncTime, one a second, and takes some tens of milliseconds.
			time.Sleep(maxSyncTime - 100*time.Millisecond)
			handing := func() bool {
				i := c.hosts["a"].Group(testShard).instance()
				return i.evading.Load() || raftOf(c.hosts["b"]).CurrentTerm() > 2
			}
			for end := time.Now().Add(3 * time.Second); !handing() && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if handing() == alone {
				t.Errorf("it hands over: %v, and enough others take the write: %v", alone, !alone)
			}
			time.Sleep(time.Duration(step*step) * time.Millisecond)
			synctest.Wait()
			if done, err := answered(); done && err == nil {
				t.Error("the write was answered before its sync")
			}
			c.crash("a")
			c.lag["a"].Store(0)
			c.net.Heal()
			c.start("a")
			c.mustPut(c.leader(), "after", "v")
			for _, key := range []string{"before", "after"} {
				c.until("all have "+key, func() bool { return c.has("a", key) && c.has("b", key) && c.has("c", key) })
			}
			c.wantSameState()
		})
	}
}
