package shard

import (
	"errors"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// probesOf counts the probes that a node sends, by whom it asks.
func (c *cluster) probesOf(node string) map[string]*atomic.Int32 {
	sent := map[string]*atomic.Int32{}
	for _, n := range c.names {
		sent[n] = new(atomic.Int32)
	}
	c.net.DropWhen(func(from, to string, frame []byte) bool {
		if from == node && frame[0] == frameProbe {
			sent[to].Add(1)
		}
		return false
	})
	return sent
}

// TestReadsAskAsManyAsMustAnswer ensures that a read asks a quorum of voters while these answer, and not one more.
func TestReadsAskAsManyAsMustAnswer(t *testing.T) {
	for _, voters := range []int{3, 5} {
		inBubble(t, voters, nil, func(c *cluster) {
			l := c.leader()
			c.mustPut(l, "k", "v")
			time.Sleep(slowTime) // whoever was slow as all began is no more
			sent := c.probesOf(l.Node())
			const reads = 20
			for range reads {
				c.wantGet(l, "k", "v")
			}
			asked := 0
			for node, n := range sent {
				switch n.Load() {
				case 0:
				case reads:
					asked++
				default:
					t.Errorf("of %d voters, %s was asked %d times for %d reads", voters, node, n.Load(), reads)
				}
			}
			if need := voters / 2; asked != need {
				t.Errorf("%d of %d voters were asked, %d others must confirm", asked, voters, need)
			}
		})
	}
}

// TestReadsPassBySlowPeer ensures that reads wait for a voter that does not answer no longer than they must, that those which
// follow don't wait for it at all, and that it is asked again once it may have recovered.
func TestReadsPassBySlowPeer(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "k", "v")
		time.Sleep(slowTime)
		sent := c.probesOf(l.Node())
		c.wantGet(l, "k", "v")
		first := ""
		for node, n := range sent {
			if n.Load() > 0 {
				first = node
			}
		}
		read := func() time.Duration {
			began := time.Now()
			c.wantGet(l, "k", "v")
			return time.Since(began)
		}
		c.net.Hold(first, l.Node()) // its answers
		if took := read(); took < probePatience || took > probePatience+5*time.Millisecond {
			t.Errorf("the first read took %v, want that it asks all others after %v", took, probePatience)
		}
		for n := range 20 {
			if took := read(); took > probePatience/2 {
				t.Errorf("later read %d took %v: it waited for the one that is known to be slow", n, took)
			}
		}
		c.net.Release(first, l.Node())
		time.Sleep(slowTime)
		before := sent[first].Load()
		if took := read(); took > probePatience/2 || sent[first].Load() != before+1 {
			t.Errorf("a read after its recovery took %v and asked it %d times, want once", took, sent[first].Load()-before)
		}
	})
}

// TestReadsPassByDeadPeer ensures that a read asks another voter at once where the first one can't be reached.
func TestReadsPassByDeadPeer(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "k", "v")
		for _, dead := range c.others(l.Node()) {
			c.crash(dead)
			c.net.BreakLinks(l.Node(), dead)
			synctest.Wait()
			began := time.Now()
			c.wantGet(l, "k", "v")
			if took := time.Since(began); took > probePatience/2 {
				t.Errorf("without %s a read took %v", dead, took)
			}
			c.start(dead)
			c.until("it takes part", func() bool { return c.host(dead).Group(testShard).Status().Leader == l.Node() })
			l = c.leader()
			time.Sleep(slowTime)
		}
	})
}

// TestReadsPassByUnable ensures that a read asks another voter at once where the first one says that it can't confirm.
func TestReadsPassByUnable(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "k", "v")
		time.Sleep(slowTime)
		sent := c.probesOf(l.Node())
		c.wantGet(l, "k", "v")
		for node, n := range sent {
			if n.Load() == 0 {
				continue
			}
			if err := c.hosts[node].Destroy(testShard, 1); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			c.wantGet(l, "k", "v")
			if took := time.Since(began); took > probePatience/2 {
				t.Errorf("a read took %v though %s said at once that it has no such replica", took, node)
			}
			if n.Load() < 2 {
				t.Errorf("%s was not asked", node)
			}
			return
		}
	})
}

// TestOwnVoteEndsReads ensures that a leader which has persisted a later term, as it does before it votes for another, serves no read of its
// own term, by whatever the others say and whatever they promised: its instance may not have noticed yet.
func TestOwnVoteEndsReads(t *testing.T) {
	for _, leases := range []bool{false, true} {
		inBubble(t, 3, func(_ string, c *Config) { c.Leases = leases }, func(c *cluster) {
			l := c.leader()
			c.mustPut(l, "k", "v")
			c.wantGet(l, "k", "v")
			i := l.Group(testShard).instance()
			if _, ok := i.leased(); ok != leases {
				t.Fatalf("with leases %t there is one: %t", leases, ok)
			}
			if err := i.group.store.SetUint64([]byte(keyCurrentTerm), i.ready.Load()+1); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if r, err := get(l, "k"); !errors.Is(err, ErrNoLeader) {
					t.Errorf("leases %t: a read was confirmed by %q (%v)", leases, r.Read, err)
				}
			}
			if i.ready.Load() == 0 {
				t.Error("its instance has noticed, so this proves nothing")
			}
		})
	}
}

// TestMembersFollowConfiguration ensures that the voters that an instance knows are those of its latest configuration,
// whichever way that came.
func TestMembersFollowConfiguration(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		l := c.leader()
		check := func(when string) {
			t.Helper()
			for name, h := range c.hosts {
				i := h.Group(testShard).instance()
				if i == nil {
					continue
				}
				var want []ReplicaID
				for _, s := range i.raft.GetConfiguration().Configuration().Servers {
					if r, err := ParseReplicaID(string(s.ID)); err == nil && s.Suffrage == raft.Voter {
						want = append(want, r)
					}
				}
				if got, self := i.voters(); !reflect.DeepEqual(got, want) || self != (name != "d" || len(want) == 4) {
					t.Errorf("%s: %s knows voters %v (one of them: %t), want %v", when, name, got, self, want)
				}
			}
		}
		check("at first")
		c.addLearner(l, "d")
		c.wantSameState()
		check("with a learner")
		d := c.replicaOn("d")
		if err := raftOf(l).AddVoter(raft.ServerID(d.String()), raft.ServerAddress(d.String()), 0, 0).Error(); err != nil {
			t.Fatal(err)
		}
		c.mustPut(l, "k", "v")
		c.wantSameState()
		check("with a fourth voter")
		if err := raftOf(l).DemoteVoter(raft.ServerID(d.String()), 0, 0).Error(); err != nil {
			t.Fatal(err)
		}
		c.mustPut(l, "k", "w")
		c.wantSameState()
		check("without it")
	})
}
