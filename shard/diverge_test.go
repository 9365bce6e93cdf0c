package shard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// checkOften makes comparisons frequent.
func checkOften(_ string, c *Config) { c.CheckInterval = time.Second }

// neverCheck leaves the log to a test that counts its entries.
func neverCheck(_ string, c *Config) { c.CheckInterval = time.Hour }

// stopped waits until the replicas on these nodes, and on no others, have stopped for good and run sealed.
func (c *cluster) stopped(nodes ...string) {
	c.t.Helper()
	want := map[string]bool{}
	for _, n := range nodes {
		want[n] = true
	}
	c.until(fmt.Sprintf("%v have stopped", nodes), func() bool {
		for n, h := range c.hosts {
			g := h.Group(testShard)
			i := g.instance()
			if i == nil || (g.Diverged() != nil) != want[n] || i.fsm.sealed != want[n] {
				return false
			}
		}
		return true
	})
}

// wantRefused ensures that the replica on a node serves nothing at all.
func (c *cluster) wantRefused(node string) {
	c.t.Helper()
	for _, req := range []Request{
		{Op: OpGet}, {Op: OpGet, Consistency: Any}, {Op: OpGet, Consistency: Bounded, MaxStaleness: time.Hour},
		{Op: OpPut, Value: []byte("v")}, {Op: OpDelete},
	} {
		req.Shard, req.Key = testShard, []byte("k")
		if r, err := do(c.hosts[node], req); !errors.Is(err, ErrDiverged) || !Refused(err) {
			c.t.Errorf("%+v on %s: %+v, %v", req, node, r, err)
		}
		for _, via := range c.others(node) { // the refusal is the same over the link
			if h := c.hosts[via]; h != nil {
				var err error
				c.until("there is a link", func() bool {
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
					defer cancel()
					_, err = h.Do(ctx, node, req)
					return !errors.Is(err, ErrUnreachable)
				})
				if !errors.Is(err, ErrDiverged) || !Refused(err) {
					c.t.Errorf("%+v on %s by %s: %v", req, node, via, err)
				}
				break
			}
		}
	}
	s := c.hosts[node].Cache(testShard).Status()
	if s.Diverged == "" || s.Ready {
		c.t.Errorf("status of %s: %+v", node, s)
	}
}

// TestFollowerDiverges ensures that a follower whose state differs is found within a few intervals and
// stops, that the others serve all along, that it stays stopped over a restart, takes no snapshot, never
// serves though it still votes, and that a comparison shows it.
func TestFollowerDiverges(t *testing.T) {
	tune := func(n string, c *Config) {
		checkOften(n, c)
		c.SnapshotEntries, c.TrailingLogs = 20, 4
	}
	inBubble(t, 3, tune, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		c.wantSameState()
		c.diverge("c", "k")
		began := time.Now()
		for n := 0; c.hosts["c"].Group(testShard).Diverged() == nil; n++ {
			if time.Since(began) > 10*time.Second {
				t.Fatal("not found within ten intervals")
			}
			c.mustPut(l, fmt.Sprint("other", n), "v") // without a pause for those who serve
			c.wantGet(l, "k", "v")
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("found after %v, at an interval of 1 s", time.Since(began))
		c.stopped("c")
		c.wantRefused("c")
		c.wantGet(c.hosts["b"], "k", "v")
		if s := l.Cache(testShard).Status(); s.Differ != 1 || s.Checks == 0 || s.Diverged != "" {
			t.Errorf("the leader's status: %+v", s)
		}
		found := c.compare()
		line, _ := found.line("1/c/1")
		if o, _ := found.Outcome(); o != OutcomeEqual || found.Differ() != 1 || line.Stopped != OutcomeMinority || line.Checksum != "" || line.Error == "" {
			t.Errorf("a comparison shows %s, %+v", o, found)
		}

		snaps, err := c.hosts["c"].Group(testShard).snaps.List()
		if err != nil {
			t.Fatal(err)
		}
		for n := range 100 {
			c.mustPut(l, fmt.Sprint("more", n), "v")
		}
		time.Sleep(3 * time.Second)
		if now, err := c.hosts["c"].Group(testShard).snaps.List(); err != nil || len(now) != len(snaps) || len(now) > 0 && now[0].Index != snaps[0].Index {
			t.Errorf("snapshots %v, before it stopped %v, %v", now, snaps, err)
		}

		c.crash("c")
		c.start("c")
		c.stopped("c")
		c.wantRefused("c")
		// It still holds up the quorum, entries and votes.
		c.crash("b")
		c.mustPut(l, "k", "v2")
		c.start("b")
		c.until("b has all", func() bool {
			return c.hosts["b"].Group(testShard).Status().Applied >= l.Group(testShard).Status().Applied
		})
		c.crash("a")
		next := c.leader("b")
		c.wantGet(next, "k", "v2")
		c.wantRefused("c")
		if err := next.Group(testShard).TransferLeadership(context.Background(), "c"); err == nil {
			t.Error("leadership was handed to a replica that has stopped")
		}
		c.start("a")
		c.wantGet(c.leader("a", "b"), "k", "v2")
	})
}

// TestLeaderDiverges ensures that a leader whose state differs from the majority's stops, and that another
// leads and serves soon.
func TestLeaderDiverges(t *testing.T) {
	inBubble(t, 3, checkOften, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		c.wantSameState()
		c.diverge("a", "k")
		began := time.Now()
		var next *Host
		c.until("another leads", func() bool {
			for _, n := range []string{"b", "c"} {
				if c.hosts[n].Group(testShard).Status().Ready {
					next = c.hosts[n]
				}
			}
			if next == nil {
				_, _ = put(l, "other", "v") // moves the log
			}
			return next != nil
		})
		t.Logf("another leads after %v, at an interval of 1 s", time.Since(began))
		c.stopped("a")
		c.wantRefused("a")
		c.wantGet(next, "k", "v")
		c.mustPut(next, "k", "v2")
		if s := next.Cache(testShard).Status(); s.Differ > 1 {
			t.Errorf("%+v", s)
		}
		// Its vote counts, and it hands over what it wins.
		other := c.others(next.Node())
		for _, n := range other {
			if n != "a" {
				c.net.Isolate(n, "a", next.Node())
			}
		}
		c.mustPut(next, "k", "v3")
		c.net.Heal()
		c.wantGet(c.leader("b", "c"), "k", "v3")
	})
}

// TestOnlyStoppedHasAll ensures that what only a replica that has stopped and the lost leader had is not
// lost: it leads to hand it over, and serves nothing meanwhile.
func TestOnlyStoppedHasAll(t *testing.T) {
	inBubble(t, 3, checkOften, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		c.wantSameState()
		c.diverge("c", "k")
		c.mustPut(l, "other", "v")
		c.stopped("c")
		c.net.Isolate("b", "a", "c")
		c.mustPut(l, "k", "v2") // on a and c
		c.crash("a")
		c.net.Heal()
		began := time.Now()
		next := c.leader("b")
		t.Logf("handed over after %v", time.Since(began))
		c.wantGet(next, "k", "v2")
		c.wantRefused("c")
		c.start("a")
		c.wantSameStateOf("a", "b")
	})
}

// wantSameStateOf is wantSameState for some nodes: by a comparison.
func (c *cluster) wantSameStateOf(nodes ...string) {
	c.t.Helper()
	c.until(fmt.Sprintf("%v have the same state", nodes), func() bool {
		found := c.compare()
		first := ""
		for n, node := range nodes {
			r, _ := found.line(ReplicaID{testShard, node, 1}.String())
			if n == 0 {
				first = r.Checksum
			}
			if r.Checksum == "" || r.Checksum != first {
				return false
			}
		}
		return true
	})
}

// TestNoMajority ensures that all replicas stop where no majority agrees, two of two and three of three,
// over restarts too, and that a replica which was away stops too once it meets the others.
func TestNoMajority(t *testing.T) {
	for _, size := range []int{2, 3} {
		inBubble(t, size, checkOften, func(c *cluster) {
			l := c.followed("a")
			c.mustPut(l, "k", "v")
			c.wantSameState()
			for _, n := range c.names[1:] {
				c.diverge(n, "k"+n)
			}
			_, _ = put(l, "other", "v")
			c.stopped(c.names...)
			for _, n := range c.names {
				c.wantRefused(n)
				c.crash(n)
			}
			for _, n := range c.names {
				c.start(n)
			}
			c.stopped(c.names...)
			time.Sleep(10 * time.Second)
			for _, n := range c.names {
				c.wantRefused(n)
				if s := c.hosts[n].Cache(testShard).Status(); s.Differ != 1 {
					t.Errorf("%s: %+v", n, s)
				}
			}
		})
	}
}

// TestDoubt ensures that two of three that differ refuse to serve while the third can't say who is right,
// that nobody stops for it, and that the one that is right serves again once it can, the other not.
func TestDoubt(t *testing.T) {
	for _, wrong := range []string{"a", "b"} { // the leader, the follower
		inBubble(t, 3, checkOften, func(c *cluster) {
			l := c.followed("a")
			c.mustPut(l, "k", "v")
			c.wantSameState()
			c.net.Isolate("c", "a", "b")
			c.diverge(wrong, "k")
			_, _ = put(l, "other", "v")
			c.until("both are in doubt", func() bool {
				return c.hosts["a"].Group(testShard).doubt.Load() != nil && c.hosts["b"].Group(testShard).doubt.Load() != nil
			})
			c.wantRefused("b")
			for _, req := range []Request{{Op: OpGet}, {Op: OpPut}} {
				req.Shard, req.Key = testShard, []byte("k")
				if _, err := do(l, req); !errors.Is(err, ErrDiverged) || !Refused(err) {
					t.Errorf("%+v: %v", req, err)
				}
			}
			time.Sleep(20 * time.Second)
			c.stopped()
			c.net.Heal()
			c.stopped(wrong)
			right := map[string]string{"a": "b", "b": "a"}[wrong]
			c.until("it serves again", func() bool {
				for _, n := range []string{right, "c"} {
					if r, err := get(c.hosts[n], "k"); err != nil || string(r.Value) != "v" {
						return false
					}
				}
				return true
			})
			c.wantRefused(wrong)
		})
	}
}

// TestLearnerDiverges ensures that a learner whose state differs stops, and nobody else.
func TestLearnerDiverges(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, checkOften, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		c.addLearner(l, "d")
		c.wantSameState()
		c.diverge("d", "k")
		c.mustPut(l, "other", "v")
		c.stopped("d")
		c.wantGet(l, "k", "v")
		conf, err := l.Group(testShard).Configuration()
		p, _, _ := conf.Find(ReplicaID{testShard, "d", 1})
		if err != nil || !p.Stopped {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestNotJudged ensures that a comparison stops nobody where it is not about the state that the replica
// has: of another term, index or generation, with another checksum than the replica's own, below the
// level, or once the state was replaced.
func TestNotJudged(t *testing.T) {
	inBubble(t, 3, neverCheck, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		good := c.compare()
		bad := func(change func(*Comparison)) *Comparison {
			b := good
			b.Replicas = append([]ReplicaSum{}, good.Replicas...)
			for n := range b.Replicas {
				if b.Replicas[n].Replica != "1/c/1" {
					b.Replicas[n].Checksum = "other"
				}
			}
			change(&b)
			return &b
		}
		i := c.hosts["c"].Group(testShard).instance()
		for name, b := range map[string]*Comparison{
			"an earlier term":    bad(func(b *Comparison) { b.Term-- }),
			"another index":      bad(func(b *Comparison) { b.Index++ }),
			"another generation": bad(func(b *Comparison) { b.Generation++ }),
			"another level":      bad(func(b *Comparison) { b.Level++ }),
			"level 1":            bad(func(b *Comparison) { b.Level = 1 }),
			"another format":     bad(func(b *Comparison) { b.Format++ }),
			"another shard":      bad(func(b *Comparison) { b.Shard++ }),
			"another sum of its own": bad(func(b *Comparison) {
				for n := range b.Replicas {
					if b.Replicas[n].Replica == "1/c/1" {
						b.Replicas[n].Checksum = "another"
					}
				}
			}),
			"none of its own": bad(func(b *Comparison) {
				for n := range b.Replicas {
					if b.Replicas[n].Replica == "1/c/1" {
						b.Replicas[n].Checksum = ""
					}
				}
			}),
		} {
			i.judge(b)
			if c.hosts["c"].Group(testShard).serves() != nil {
				t.Fatalf("stopped by a comparison of %s", name)
			}
		}
		m := machineOn(c.hosts["c"])
		if err := m.Restore(pipeSnapshot(t, m)); err != nil {
			t.Fatal(err)
		}
		i.judge(bad(func(*Comparison) {}))
		if c.hosts["c"].Group(testShard).serves() != nil {
			t.Fatal("stopped by a comparison of the state before a restore")
		}
		again := c.compare()
		good = again
		i.judge(bad(func(*Comparison) {}))
		c.wrong = true
		c.stopped("c") // it can be judged at all
	})
}

// TestIdleShardIsNotCompared ensures that a shard which nobody uses gets no entries after the one mark
// that compares its last state.
func TestIdleShardIsNotCompared(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		time.Sleep(15 * time.Second)
		before, checks := l.Group(testShard).Status(), l.Cache(testShard).Status().Checks
		if checks == 0 {
			t.Error("never compared")
		}
		time.Sleep(10 * time.Minute)
		after := l.Group(testShard).Status()
		if after.Last != before.Last || l.Cache(testShard).Status().Checks != checks {
			t.Errorf("an idle shard's log went on: %+v, then %+v, %d comparisons and %d", before, after, checks, l.Cache(testShard).Status().Checks)
		}
	})
}

// TestAwayAtTheMark ensures that a replica which could not be reached at a mark is asked again about the
// same one, without another entry, and found to differ.
func TestAwayAtTheMark(t *testing.T) {
	inBubble(t, 3, checkOften, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		c.wantSameState()
		c.net.Isolate("c", "a", "b")
		c.diverge("c", "k")
		c.mustPut(l, "other", "v")
		time.Sleep(5 * time.Second)
		last := l.Group(testShard).Status().Last
		c.net.Heal()
		c.stopped("c")
		if now := raftOf(c.leader()).LastIndex(); now > last+2 && c.leader() == l {
			t.Errorf("the log went from %d to %d", last, now)
		}
	})
}

// TestRestoredIsCompared ensures that a replica which was away at a mark, and came back with a snapshot of a
// later state, is compared at one new mark, though nobody uses the shard any more.
func TestRestoredIsCompared(t *testing.T) {
	tune := func(n string, c *Config) {
		checkOften(n, c)
		c.TrailingLogs = 1
	}
	inBubble(t, 3, tune, func(c *cluster) {
		l := c.followed("a")
		c.crash("c")
		for n := range 300 {
			c.mustPut(l, fmt.Sprint("k", n), "v")
		}
		time.Sleep(5 * time.Second)
		if err := raftOf(l).Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		last := l.Group(testShard).Status().Last
		c.start("c")
		c.until("it is restored", func() bool {
			i := c.hosts["c"].Group(testShard).instance()
			return i != nil && i.fsm.applied.at() >= last
		})
		time.Sleep(20 * time.Second)
		if now := l.Group(testShard).Status().Last; now != last+1 {
			t.Errorf("the log went from %d to %d, want one mark", last, now)
		}
		if machineOn(c.hosts["c"]).marks.newest() != last+1 {
			t.Error("the replica was not compared")
		}
	})
}

// TestSealedSendsNoSnapshot ensures that a replica that has stopped sends no snapshot, though it may lead
// for a moment.
func TestSealedSendsNoSnapshot(t *testing.T) {
	inBubble(t, 3, checkOften, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		c.wantSameState()
		c.diverge("c", "k")
		c.mustPut(l, "other", "v")
		c.stopped("c")
		i := c.hosts["c"].Group(testShard).instance()
		if err := i.trans.InstallSnapshot("1/b/1", "", &raft.InstallSnapshotRequest{}, &raft.InstallSnapshotResponse{}, nil); !errors.Is(err, ErrDiverged) {
			t.Errorf("a snapshot sent: %v", err)
		}
		c.mustPut(l, "more", "v")
		c.until("it has that", func() bool { return i.fsm.applied.at() >= l.Group(testShard).Status().Applied })
		if err := i.raft.Snapshot().Error(); err == nil || !strings.Contains(err.Error(), errSealed.Error()) {
			t.Errorf("a snapshot taken: %v", err)
		}
	})
}
