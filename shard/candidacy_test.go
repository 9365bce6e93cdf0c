package shard

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// standNow makes a replica stand, as a follower does that has found its leader lost.
func (c *cluster) standNow(names ...string) {
	c.t.Helper()
	var wg sync.WaitGroup
	for _, n := range names {
		i := c.hosts[n].Group(testShard).instance()
		wg.Go(func() {
			if _, err := i.trans.deliver(context.Background(), &raft.TimeoutNowRequest{RPCHeader: header(i.group.id.String())}, nil); err != nil {
				c.t.Error(err)
			}
		})
	}
	wg.Wait()
	c.until("all stand", func() bool {
		for _, n := range names {
			if raftOf(c.hosts[n]).State() != raft.Candidate {
				return false
			}
		}
		return true
	})
}

// TestCandidacyEnds ensures that elections which come to nothing hold up the next one for no longer than the votes may take, also where
// shards are so many that the library waits for long: where two stand at the same time, and where one stands and is never answered,
// though it got the vote.
func TestCandidacyEnds(t *testing.T) {
	for _, l := range []struct {
		name   string
		stand  []string
		hears  string // it is told what it is asked, and nobody hears its answer
		within time.Duration
	}{
		{"two stand", []string{"b", "c"}, "", 4 * time.Second},
		{"a vote is lost", []string{"b"}, "c", 4 * time.Second},
	} {
		for _, shards := range []int{0, 1000} {
			t.Run(fmt.Sprintf("%s, %d shards", l.name, shards), func(t *testing.T) {
				for round := range 6 {
					inBubbleWithShards(t, 3, shards, func(c *cluster) {
						c.lead("a")
						c.mustPut(c.hosts["a"], "k", "v")
						time.Sleep(time.Second + time.Duration(round)*170*time.Millisecond)
						c.net.DropWhen(func(from, to string, _ []byte) bool { return from != "a" && to != "a" && to != l.hears })
						c.crash("a")
						c.standNow(l.stand...)
						time.Sleep(300 * time.Millisecond)
						c.net.DropWhen(nil)
						began := time.Now()
						next := c.leader("b", "c")
						if took := time.Since(began); took > l.within {
							t.Errorf("another leads after %v, at most %v expected", took, l.within)
						}
						c.wantGet(next, "k", "v")
					})
				}
			})
		}
	}
}

// TestCandidacyOrphans ensures that voters whose candidate is lost once it has their votes wait for it for no longer than for any leader's node, also where shards are
// many, but longer each time that it happens.
func TestCandidacyOrphans(t *testing.T) {
	for _, shards := range []int{0, 1000} {
		inBubbleWithShards(t, 7, shards, func(c *cluster) {
			c.lead("a")
			c.mustPut(c.hosts["a"], "k", "v")
			c.net.DropWhen(func(from, to string, _ []byte) bool { return to == "b" })
			c.crash("a")
			c.standNow("b")
			time.Sleep(10 * time.Millisecond) // they vote
			c.crash("b")
			c.net.DropWhen(nil)
			began := time.Now()
			next := c.leader("c", "d", "e", "f", "g")
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%d shards: another leads after %v", shards, took)
			}
			c.wantGet(next, "k", "v")
			c.until("nobody counts failures any more", func() bool {
				for _, h := range c.hosts {
					if h.Group(testShard).instance().heirs.failed.Load() != 0 {
						return false
					}
				}
				return true
			})
			i := next.Group(testShard).instance()
			i.heirs.failed.Store(100)
			if got, want := i.heirs.slower(time.Second, 1), 8*time.Second; got != want {
				t.Errorf("after 100 failures a second becomes %v, want %v", got, want)
			}
		})
	}
}

// TestCandidacyAlone ensures that a candidate which reaches no majority is left as it is: terms don't grow.
func TestCandidacyAlone(t *testing.T) {
	inBubbleWithShards(t, 5, 1000, func(c *cluster) {
		c.lead("a")
		c.net.DropWhen(func(from, to string, _ []byte) bool { return from+to != "cd" && from+to != "dc" })
		c.standNow("c")
		left := c.hosts["c"].Group(testShard)
		c.until("it has voted for itself", func() bool { return left.store.Term() > 2 })
		term := left.store.Term()
		time.Sleep(time.Minute)
		if now := left.store.Term(); now != term {
			t.Errorf("from term %d to %d", term, now)
		}
		c.net.DropWhen(nil)
		c.leader()
	})
}

// TestCandidacyWonMeanwhile ensures that a replica which has come to lead, or to follow, when its candidacy was to be ended goes on with that, and that nobody
// gets a vote.
func TestCandidacyWonMeanwhile(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		leader := c.leader()
		term := leader.Group(testShard).store.Term()
		for _, n := range c.names {
			i := c.hosts[n].Group(testShard).instance()
			resp, err := i.trans.deliverVote(context.Background(), voidVote(i.group.id, term), term+1, false)
			if err != nil || resp.(*raft.RequestVoteResponse).Granted {
				t.Fatalf("%s: %+v, %v", n, resp, err)
			}
		}
		time.Sleep(time.Second)
		if s := leader.Group(testShard).Status(); !s.Ready || s.Term != term {
			t.Errorf("%+v, want ready in term %d", s, term)
		}
	})
}

// TestMixedPatience ensures that nobody stands while all is well where nodes were told of different numbers of shards when they opened a shard's
// replicas, as those that were started again were, and that a leader that is lost is replaced there.
func TestMixedPatience(t *testing.T) {
	for _, many := range []string{"a", "b"} { // the leader, or a follower
		inBubble(t, 3, nil, func(c *cluster) {
			c.crash(many)
			c.shards = 1000
			c.start(many)
			c.shards = 0
			c.lead("a")
			for _, from := range c.names {
				for _, to := range c.others(from) {
					c.net.SetFaults(from, to, LinkFaults{Delay: 50 * time.Millisecond})
				}
			}
			time.Sleep(5 * time.Second)
			term := c.leader().Group(testShard).Status().Term
			time.Sleep(2 * time.Minute)
			if now := c.leader().Group(testShard).Status().Term; now != term {
				t.Errorf("%d elections, though nothing happened", now-term)
			}
			leader, began := c.leader().Node(), time.Now()
			c.net.Kill(leader)
			c.leader(c.others(leader)...)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("another leads after %v", took)
			}
			c.net.Revive(leader)
		})
	}
}

// TestFirstLeaderWithoutHurry ensures that a new group does not wait for the replica that was to hurry its first election where its node is
// gone, also where shards are many.
func TestFirstLeaderWithoutHurry(t *testing.T) {
	for _, shards := range []int{0, 1000} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, nil)
			c.shards = shards
			defer c.close()
			c.start("b") // a is the one that is to hurry
			time.Sleep(10 * time.Second)
			if term := c.hosts["b"].Group(testShard).store.Term(); term > 1 {
				t.Errorf("alone, b is in term %d", term)
			}
			began := time.Now()
			c.start("c")
			c.leader("b", "c")
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%d shards: the first leader is there after %v", shards, took)
			}
		})
	}
}
