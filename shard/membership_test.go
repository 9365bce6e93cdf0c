package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// change runs one change of members on the leader, planned from its present configuration, and waits
// until the configuration shows it. The leader may change meanwhile.
func (c *cluster) change(what string, done func(Configuration) bool, step func(ctx context.Context, g *Group, prev uint64) error) {
	c.t.Helper()
	c.until(what, func() bool {
		g := c.leader().Group(testShard)
		conf, err := g.Configuration()
		if err != nil {
			return false
		}
		if done(conf) {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = step(ctx, g, conf.Index) // seen by the next look
		return false
	})
}

func (c *cluster) learner(id ReplicaID) {
	c.t.Helper()
	c.change("learner "+id.String(), func(conf Configuration) bool {
		_, _, member := conf.Find(id)
		return member
	}, func(ctx context.Context, g *Group, prev uint64) error { return g.AddLearner(ctx, id, prev) })
}

func (c *cluster) voter(id ReplicaID) {
	c.t.Helper()
	c.learner(id)
	c.until(id.String()+" caught up", func() bool {
		conf, err := c.leader().Group(testShard).Configuration()
		p, _, _ := conf.Find(id)
		return err == nil && p.Recent && p.Match >= conf.Last
	})
	c.change("voter "+id.String(), func(conf Configuration) bool {
		_, votes, _ := conf.Find(id)
		return votes
	}, func(ctx context.Context, g *Group, prev uint64) error { return g.Promote(ctx, id, prev) })
}

func (c *cluster) remove(id ReplicaID) {
	c.t.Helper()
	c.change("without "+id.String(), func(conf Configuration) bool {
		_, _, member := conf.Find(id)
		return !member
	}, func(ctx context.Context, g *Group, prev uint64) error {
		if g.id == id {
			for _, v := range g.Status().Voters {
				if v != id.Node {
					return g.TransferLeadership(ctx, v)
				}
			}
		}
		return g.Remove(ctx, id, prev)
	})
}

// TestMembersChange ensures that a node joins a shard as a learner, catches up by the log or a snapshot,
// votes, and that one is removed, also while it leads; and that nothing acknowledged is lost by it.
func TestMembersChange(t *testing.T) {
	for _, snapshots := range []bool{false, true} {
		t.Run(fmt.Sprintf("snapshots=%v", snapshots), func(t *testing.T) {
			tune := func(_ string, cfg *Config) {
				if snapshots {
					cfg.SnapshotEntries, cfg.TrailingLogs = 16, 8
				}
			}
			inBubbleWithSpares(t, 4, 1, tune, func(c *cluster) {
				l := c.lead("a")
				for n := range 200 {
					c.mustPut(l, fmt.Sprint("k", n), "v")
				}
				if snapshots {
					time.Sleep(3 * time.Second) // a snapshot is looked for each second
					c.mustPut(l, "k", "v")
				}
				c.voter(ReplicaID{testShard, "d", 1})
				c.wantSameState()
				if s := c.hosts["d"].Group(testShard).Status(); !slices.Equal(slices.Sorted(slices.Values(s.Voters)), []string{"a", "b", "c", "d"}) {
					t.Errorf("d knows the voters %v", s.Voters)
				}
				c.remove(ReplicaID{testShard, "a", 1}) // it leads
				if err := c.hosts["a"].Destroy(testShard, 1); err != nil {
					t.Fatal(err)
				}
				// d and one more are a quorum of b, c, d.
				c.crash("b")
				l = c.leader("c", "d")
				c.mustPut(l, "after", "v")
				for n := range 200 {
					c.wantGet(l, fmt.Sprint("k", n), "v")
				}
			})
		})
	}
}

// TestSameNodeAgain ensures that a node which left a shard and is added again is another replica: the
// old one must be destroyed first and never comes back, also not after a crash.
func TestSameNodeAgain(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		c.mustPut(c.lead("a"), "k", "v")
		old := ReplicaID{testShard, "c", 1}
		c.remove(old)
		h := c.hosts["c"]
		if err := h.OpenCache(Spec{Shard: testShard, R: 7}); err == nil {
			t.Error("a second replica of the shard was opened beside the first")
		}
		for range 2 { // it is idempotent
			if err := h.Destroy(testShard, 1); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.Replicas(); len(got) != 0 {
			t.Errorf("replicas left: %v", got)
		}
		if err := h.OpenCache(Spec{Shard: testShard, R: 1, Members: c.members()}); !errors.Is(err, ErrRetired) {
			t.Errorf("opening the destroyed replica: %v", err)
		}
		if err := h.OpenCache(Spec{Shard: testShard, R: 7}); err != nil {
			t.Fatal(err)
		}
		c.voter(ReplicaID{testShard, "c", 7})
		c.wantSameState()
		c.crash("a")
		c.wantGet(c.leader("b", "c"), "k", "v")
	})
}

// TestChangeIsPlannedFromAConfiguration ensures that a change of members takes effect only upon the
// configuration that it was planned from, and that after a fence no earlier plan does.
func TestChangeIsPlannedFromAConfiguration(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		g := c.lead("a").Group(testShard)
		d := ReplicaID{testShard, "d", 1}
		index := func() uint64 {
			conf, err := g.Configuration()
			if err != nil {
				t.Fatal(err)
			}
			return conf.Index
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		first := index()
		for _, prev := range []uint64{first - 1, first + 1} {
			if err := g.AddLearner(ctx, d, prev); prev != 0 && !errors.Is(err, ErrConfChanged) {
				t.Errorf("planned from %d at %d: %v", prev, first, err)
			}
		}
		if err := g.AddLearner(ctx, d, 0); err == nil {
			t.Error("a change without a plan was made")
		}
		if err := g.Promote(ctx, d, first); !errors.Is(err, ErrConfChanged) {
			t.Errorf("promoting one that is no learner: %v", err)
		}
		if err := g.Fence(ctx, first); err != nil {
			t.Fatal(err)
		}
		if now := index(); now <= first {
			t.Fatalf("after the fence the configuration is still that of %d", now)
		}
		if err := g.AddLearner(ctx, d, first); !errors.Is(err, ErrConfChanged) {
			t.Errorf("planned before the fence: %v", err)
		}
		// The library itself compares too, where ours was overtaken.
		if err := raftOf(c.hosts["a"]).AddNonvoter("1/d/1", "1/d/1", first, time.Second).Error(); err == nil {
			t.Error("the library took a plan from before the fence")
		}
		if err := g.AddLearner(ctx, d, index()); err != nil {
			t.Error(err)
		}
		if err := g.Remove(ctx, ReplicaID{testShard, "a", 1}, index()); err == nil {
			t.Error("the leader removed itself")
		}
		if err := c.hosts["b"].Group(testShard).AddLearner(ctx, d, index()); !errors.As(err, new(*NotLeaderError)) {
			t.Errorf("on a follower: %v", err)
		}
	})
}

// TestMembersChangeAcrossCrashes ensures that a change whose leader crashes at any moment of it is either
// made or not, alike on all, and can then be made again from what the configuration shows.
func TestMembersChangeAcrossCrashes(t *testing.T) {
	for _, after := range []time.Duration{0, 200 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
				for _, from := range c.names {
					for _, to := range c.others(from) {
						c.net.SetFaults(from, to, LinkFaults{Delay: time.Millisecond})
					}
				}
				l := c.lead("a")
				c.mustPut(l, "k", "v")
				g := l.Group(testShard)
				conf, err := g.Configuration()
				if err != nil {
					t.Fatal(err)
				}
				d := ReplicaID{testShard, "d", 1}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- g.AddLearner(ctx, d, conf.Index) }()
				time.Sleep(after)
				c.crash("a")
				<-done
				c.leader("b", "c")
				c.start("a")
				c.voter(d)
				c.mustPut(c.leader(), "k2", "v")
				c.wantSameState()
				want := fmt.Sprint([]string{"a", "b", "c", "d"})
				c.until("all know the voters", func() bool {
					for _, h := range c.hosts {
						s := h.Group(testShard).Status()
						if slices.Sort(s.Voters); fmt.Sprint(s.Voters) != want || len(s.Learners) != 0 {
							return false
						}
					}
					return true
				})
			})
		})
	}
}
