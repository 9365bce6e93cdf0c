package shard

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// stick has the disk of a node end no append, on which the library waits, until free is called or its process has ended.
func (c *cluster) stick(node string) (free func()) {
	disk := c.hosts[node].Group(testShard).store.(*memoryStore)
	ended := make(chan struct{})
	disk.onStore(func([]*raft.Log) error {
		<-ended
		return nil
	})
	return func() {
		disk.onStore(nil)
		close(ended)
	}
}

// putPatiently has key written by a node within a minute, and tells what becomes of it.
func putPatiently(h *Host, key string) (answer chan error) {
	answer = make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	go func() {
		defer cancel()
		_, err := h.Do(ctx, h.Node(), Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte("v")})
		answer <- err
	}()
	return answer
}

// Ensures that a leader whose disk is stuck, and in whose place nobody could be elected, stays the leader: reads go on everywhere, and the write
// is answered once the disk goes on. Once somebody can be elected, it falls silent.
func TestStuckLeaderWithoutHeirLeadsOn(t *testing.T) {
	for _, n := range []int{2, 3} {
		inBubble(t, n, withLeases, func(c *cluster) {
			a := c.lead("a")
			c.mustPut(a, "k", "v")
			if n == 3 {
				c.crash("c")
			}
			time.Sleep(maxSyncTime) // those who are gone are known to be
			term := raftOf(a).CurrentTerm()
			free := c.stick("a")
			answer := putPatiently(a, "other")
			time.Sleep(maxSyncTime + 10*time.Second)
			for _, h := range c.hosts {
				if r, err := get(h, "k"); err != nil || !r.Found {
					t.Errorf("%d voters: read on %s while the disk is stuck: %v", n, h.Node(), err)
				}
			}
			freed := time.Now()
			free()
			if err := <-answer; err != nil {
				t.Errorf("%d voters: the write: %v", n, err)
			}
			if took := time.Since(freed); took > time.Second {
				t.Errorf("%d voters: the write was answered %v after the disk went on", n, took)
			}
			if now := raftOf(a).CurrentTerm(); now != term {
				t.Errorf("%d voters: term %d became %d", n, term, now)
			}
			next := a
			if n == 3 {
				free = c.stick("a")
				putPatiently(a, "more")
				time.Sleep(2 * maxSyncTime)
				c.start("c")
				back := time.Now()
				next = c.leader("b", "c")
				c.mustPut(next, "k", "w")
				if took := time.Since(back); took > 3*time.Second {
					t.Errorf("another one led %v after a third was back", took)
				}
				free()
			}
			c.mustPut(next, "k", "x")
			c.wantSameState()
		})
	}
}

// Ensures the same of one whose log goes ahead of its syncs: it does not hand over to whom nobody else could elect, as there are too few others or their
// disks are stuck, too; and it does soon once somebody can.
func TestStuckLeaderHandsOverToAnHeir(t *testing.T) {
	for _, test := range []struct {
		name   string
		voters int
		before func(c *aheadCluster) // has all but one of the others be of no use
		after  func(c *aheadCluster) // ends that
	}{
		{"two voters", 2, func(*aheadCluster) {}, nil},
		{"one of three is gone", 3, func(c *aheadCluster) { c.crash("c") }, func(c *aheadCluster) { c.start("c") }},
		{"another disk is stuck", 3, func(c *aheadCluster) { c.lag["c"].Store(int64(time.Minute)) }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			inAheadClusterOf(t, test.voters, withLeases, func(c *aheadCluster) {
				const slow = 30 * time.Second
				a := c.hosts["a"]
				c.mustPut(a, "k", "v")
				test.before(c)
				time.Sleep(maxSyncTime) // those who are gone are known to be
				term := raftOf(a).CurrentTerm()
				write := func(key string) (answered func() (bool, error)) { // which is the one whose sync does not end; all others wait for it
					last := raftOf(a).LastIndex()
					c.lag["a"].Store(int64(slow))
					defer c.lag["a"].Store(0)
					answered = c.putAside(key)
					c.until("the entry is in the log", func() bool { return raftOf(a).LastIndex() > last })
					return answered
				}
				answered := write("other")
				for range slow/time.Second - 1 {
					time.Sleep(time.Second)
					for _, node := range []string{"a", "b"} {
						if r, err := get(c.hosts[node], "k"); err != nil || !r.Found {
							t.Fatalf("read on %s while the disk is stuck: %v", node, err)
						}
					}
				}
				c.until("the write is answered", func() bool { done, _ := answered(); return done })
				if _, err := answered(); err != nil {
					t.Errorf("the write: %v", err)
				}
				if now := raftOf(a).CurrentTerm(); now != term {
					t.Errorf("term %d became %d", term, now)
				}
				if test.after == nil {
					return
				}
				write("more")
				time.Sleep(3*maxSyncTime + time.Second)
				test.after(c)
				back := time.Now()
				c.mustPut(c.leader("b", "c"), "k", "w")
				if took := time.Since(back); took > 4*time.Second {
					t.Errorf("another one led %v after it could", took)
				}
				c.until("all have it", func() bool { return c.has("a", "more") && c.has("b", "more") && c.has("c", "more") })
				c.wantSameState()
			})
		})
	}
}

// Ensures that a leader whose disk is stuck, and that an election deposed which led to nothing, keeps nobody quiet, also where it is read by lease
// all the time: it can't even take note of the new term.
func TestStuckDeposedLeaderFallsSilent(t *testing.T) {
	inAheadClusterOf(t, 3, withLeases, func(c *aheadCluster) {
		const slow = time.Minute
		a := c.hosts["a"]
		term := raftOf(a).CurrentTerm()
		var stop atomic.Bool
		var reader sync.WaitGroup
		reader.Go(func() {
			for !stop.Load() {
				get(a, "k")
				time.Sleep(promiseTime / 10)
			}
		})
		defer reader.Wait()
		defer stop.Store(true)
		c.lag["a"].Store(int64(slow))
		began := time.Now()
		c.putAside("k")
		c.until("all have the entry", func() bool {
			return raftOf(c.hosts["b"]).LastIndex() == raftOf(a).LastIndex() && raftOf(c.hosts["c"]).LastIndex() == raftOf(a).LastIndex()
		})
		c.net.SetFaults("b", "c", LinkFaults{Cut: true}) // who stands has no other vote than that of the leader, which can't vote
		c.net.SetFaults("c", "b", LinkFaults{Cut: true})
		c.until("it is deposed", func() bool { return raftOf(a).State() == raft.Follower })
		time.Sleep(500 * time.Millisecond)
		if now := raftOf(a).CurrentTerm(); now != term {
			t.Fatalf("its disk was not stuck: term %d became %d", term, now)
		}
		c.net.Heal()
		healed := time.Now()
		c.mustPut(c.leader("b", "c"), "other", "v")
		if took := time.Since(healed); took > 4*time.Second {
			t.Errorf("another one led after %v", took)
		}
		if time.Since(began) > slow {
			t.Fatal("the disk was not stuck for long enough to prove anything")
		}
		c.lag["a"].Store(0)
		c.until("all have it", func() bool { return c.has("a", "other") && c.has("b", "other") && c.has("c", "other") })
		c.wantSameState()
	})
}

// Ensures that the loss of a leader costs no time because a follower whose disk is stuck would be the next one: it has the entries and has not synced
// them, so that it could not even vote for itself.
func TestStuckFollowerIsPassedOver(t *testing.T) {
	inAheadClusterOf(t, 5, withLeases, func(c *aheadCluster) {
		voters, _ := c.hosts["a"].Group(testShard).instance().voters()
		others := slices.DeleteFunc(slices.Clone(voters), func(v ReplicaID) bool { return v.Node == "a" })
		first := slices.MinFunc(others, func(v, w ReplicaID) int { return turn(v, voters) - turn(w, voters) })
		c.lag[first.Node].Store(int64(20 * time.Second))
		c.mustPut(c.hosts["a"], "k", "v")
		c.until("all have the entry", func() bool { return raftOf(c.hosts[first.Node]).LastIndex() == raftOf(c.hosts["a"]).LastIndex() })
		c.lag[first.Node].Store(0)
		time.Sleep(maxSyncTime + time.Second)
		if !c.hosts[first.Node].Group(testShard).instance().knows().Bound {
			t.Error("its vote is counted on")
		}
		c.crash("a")
		lost := time.Now()
		c.mustPut(c.leader(), "k", "w")
		if took := time.Since(lost); took > 500*time.Millisecond {
			t.Errorf("another one led after %v", took)
		}
		c.start("a")
		c.wantSameState()
	})
}

// Ensures that a disk is not taken for stuck because this process stood still while a write was under way; and that it is where the write does not end
// afterwards.
func TestPauseIsNoStuckDisk(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		a := c.lead("a")
		i := a.Group(testShard).instance()
		disk := a.Group(testShard).store.(*memoryStore)
		for range 10 { // looks come and go between short writes
			time.Sleep(time.Second)
			c.mustPut(a, "k", "v")
		}
		before := time.Now().Add(-time.Minute) // that is how it looks after a minute's stop
		disk.waits.Store(&before)
		for range 2 {
			if i.stuck() || i.diskStuck() || i.silent() || !i.knows().Leads {
				t.Error("the disk is taken for stuck")
			}
			time.Sleep(time.Second)
		}
		time.Sleep(stuckLooks * time.Second)
		if !i.stuck() || !i.diskStuck() || !i.silent() {
			t.Error("the write has not ended yet, and the disk is not taken for stuck")
		}
		disk.waits.Store(nil)
		time.Sleep(time.Second)
		if n := i.waited.Load(); n != 0 {
			t.Errorf("%d looks still count once the disk goes on", n)
		}
		c.mustPut(c.leader(), "k", "w")
		c.wantSameState()
	})
}

// TestDeathOfASilentLeader ensures that nothing that was answered is lost, and that the replicas agree, when the process of a leader whose disk is
// stuck dies before it falls silent, while it is, and after another was elected: with a write that is in no log, and one that the others have
// and the leader has not heard of.
func TestDeathOfASilentLeader(t *testing.T) {
	for step := range 12 {
		inBubble(t, 3, withLeases, func(c *cluster) {
			a := c.lead("a")
			c.mustPut(a, "before", "v")
			for _, node := range []string{"b", "c"} { // they have the entry once the leader is stuck
				c.hosts[node].Group(testShard).store.(*memoryStore).onStore(func([]*raft.Log) error {
					time.Sleep(100 * time.Millisecond)
					return nil
				})
			}
			last := raftOf(a).LastIndex()
			heard := putPatiently(a, "unheard")
			c.until("the entry is in its log", func() bool { return raftOf(a).LastIndex() > last })
			free := c.stick("a")
			go raftOf(a).Barrier(0)
			stuck := putPatiently(a, "stuck")
			time.Sleep(maxSyncTime - 100*time.Millisecond + time.Duration(step)*100*time.Millisecond)
			synctest.Wait()
			if len(heard)+len(stuck) > 0 {
				t.Error("a write was answered that waits for the disk")
			}
			if term := raftOf(c.hosts["b"]).CurrentTerm(); step == 11 && term == raftOf(a).CurrentTerm() {
				t.Errorf("nobody else was elected: term %d", term)
			}
			go func() {
				time.Sleep(time.Millisecond) // after its death
				free()
			}()
			c.crash("a")
			<-heard
			if err := <-stuck; err == nil {
				t.Error("a write was answered that is in no log")
			}
			c.start("a")
			c.mustPut(c.leader(), "after", "v")
			for _, key := range []string{"before", "unheard", "after"} {
				c.until("all have "+key, func() bool { return c.has("a", key) && c.has("b", key) && c.has("c", key) })
			}
			c.wantSameState()
		})
	}
}

// has reports whether the state of a node has a key.
func (c *cluster) has(node, key string) bool {
	r, err := do(c.hosts[node], Request{Shard: testShard, Op: OpGet, Consistency: Any, Key: []byte(key)})
	return err == nil && r.Found
}

// Ensures that a Close waits for a disk that is stuck, and that it ends soon where the disk fails meanwhile, though whoever calls Fatal does not come
// back; and that another Close says no other thing.
func TestCloseOfAStuckNode(t *testing.T) {
	for _, fails := range []bool{false, true} {
		inBubble(t, 3, nil, func(c *cluster) {
			a := c.lead("a")
			freed, ended := make(chan struct{}), make(chan struct{})
			a.Group(testShard).store.(*memoryStore).onStore(func([]*raft.Log) error {
				<-freed
				if fails {
					a.fatal(errDisk)
					<-ended
				}
				return nil
			})
			go put(a, "k", "v")
			time.Sleep(2 * maxSyncTime)
			delete(c.hosts, "a")
			var closes sync.WaitGroup
			for range 2 {
				closes.Go(func() {
					began := time.Now()
					err := a.Close()
					if want := 10 * time.Second; time.Since(began) < want || time.Since(began) > want+2*failedPatience {
						t.Errorf("it returned after %v, want after %v", time.Since(began), want)
					}
					if fails != errors.Is(err, errDisk) {
						t.Errorf("a disk that fails: %v; Close says %v", fails, err)
					}
				})
			}
			time.Sleep(10 * time.Second)
			close(freed)
			closes.Wait()
			close(ended)
			if err := a.Close(); err != nil {
				t.Errorf("once all has ended: %v", err)
			}
			c.mustPut(c.leader("b", "c"), "k", "w")
		})
	}
}
