package shard

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// withLeases makes leaders read by lease.
func withLeases(_ string, c *Config) { c.Leases = true }

// wantPath reads a key at its leader and ensures how that was confirmed.
func (c *cluster) wantPath(h *Host, want ReadPath) {
	c.t.Helper()
	if r, err := get(h, "k"); err != nil || r.Read != want {
		c.t.Fatalf("a read on %s was confirmed by %q (%v), want %q", h.Node(), r.Read, err, want)
	}
}

// stand makes a node's replica stand for election at once, as one that misses its leader does.
func stand(h *Host) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	i := h.Group(testShard).instance()
	_, _ = i.trans.deliver(ctx, &raft.TimeoutNowRequest{RPCHeader: header(i.group.id.String())}, nil)
}

// apart ensures, for longer than any lease, that no other node serves while the lease of old's replica holds.
func (c *cluster) apart(old *Host) {
	c.t.Helper()
	i := old.Group(testShard).instance()
	for began := time.Now(); time.Since(began) < 2*promiseTime; time.Sleep(time.Millisecond) {
		_, leased := i.leased()
		for _, n := range c.others(old.Node()) {
			if h := c.hosts[n]; leased && h != nil && h.Group(testShard).Status().Ready {
				c.t.Fatalf("%s serves while the lease of %s holds, %v after it was cut off", n, old.Node(), time.Since(began))
			}
		}
	}
}

// TestLeaseKeepsOthersOut ensures that while a leader holds a lease nobody else comes to lead, whatever a voter that
// promised it goes through, and that somebody does afterwards.
func TestLeaseKeepsOthersOut(t *testing.T) {
	for name, tt := range map[string]struct {
		promises string // the only voter whose promise the leader has
		then     func(c *cluster)
	}{
		"another asks a voter that promised": {"c", func(c *cluster) { stand(c.hosts["b"]) }},
		"a voter that promised stands":       {"b", func(c *cluster) { stand(c.hosts["b"]) }},
		"a voter that promised starts again": {"c", func(c *cluster) {
			c.crash("c")
			c.start("c")
			c.hosts["b"].peer("c").waitUp(context.Background(), nil)
			stand(c.hosts["b"])
		}},
		"its instance is replaced": {"c", func(c *cluster) {
			c.hosts["c"].Group(testShard).instance().installed <- struct{}{}
			synctest.Wait()
			stand(c.hosts["b"])
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, withLeases, func(c *cluster) {
				old := c.lead("a")
				c.mustPut(old, "k", "v")
				time.Sleep(2 * promiseTime) // of the reads and starts before
				silent := map[string]string{"b": "c", "c": "b"}[tt.promises]
				c.net.Isolate("a", silent)
				c.wantPath(old, ReadProbe)
				c.wantPath(old, ReadLease)
				c.net.Isolate("a", "b", "c")
				tt.then(c)
				c.apart(old)
				next := c.leader("b", "c")
				c.mustPut(next, "k", "new")
				if r, err := get(old, "k"); err == nil {
					t.Errorf("a reads %q after %s has changed it", r.Value, next.Node())
				}
			})
		})
	}
}

// TestLeaseKeepsNextGenerationOut ensures that the next generation of a shard serves nobody while a leader of the former one holds a
// lease, whatever number of members it begins with.
func TestLeaseKeepsNextGenerationOut(t *testing.T) {
	for name, members := range map[string][]Member{
		"one founder":  {{"c", 2}},
		"two founders": {{"b", 2}, {"c", 2}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, withLeases, func(c *cluster) {
				old := c.lead("a")
				c.mustPut(old, "k", "v")
				time.Sleep(2 * promiseTime)
				c.wantPath(old, ReadProbe)
				c.wantPath(old, ReadLease)
				i := old.Group(testShard).instance()
				c.net.Isolate("a", "b", "c")
				began := time.Now()
				for _, m := range members {
					if err := c.hosts[m.Node].Destroy(testShard, 1); err != nil {
						t.Fatal(err)
					}
				}
				for _, m := range members {
					if err := c.hosts[m.Node].OpenCache(Spec{Shard: testShard, R: m.R, Members: members, Campaign: m.Node == members[0].Node}); err != nil {
						t.Fatal(err)
					}
				}
				c.until("the next generation serves", func() bool {
					for _, m := range members {
						if c.hosts[m.Node].Group(testShard).Status().Ready {
							return true
						}
					}
					return false
				})
				if _, leased := i.leased(); leased {
					t.Errorf("the next generation serves while the lease of the former one's leader holds, %v after it was cut off", time.Since(began))
				}
				if took := time.Since(began); took > promiseTime+200*time.Millisecond {
					t.Errorf("the next generation serves after %v", took)
				}
			})
		})
	}
}

// TestLeaseEndsWithHandover ensures that a leader has no lease from the moment that it hands over on, and that promises to it
// hold nobody up then.
func TestLeaseEndsWithHandover(t *testing.T) {
	inBubble(t, 3, withLeases, func(c *cluster) {
		old := c.lead("a")
		c.mustPut(old, "k", "v")
		time.Sleep(time.Second)
		c.wantPath(old, ReadProbe)
		c.wantPath(old, ReadLease)
		c.net.DropWhen(func(from, to string, frame []byte) bool { return to == "a" && isRequest(frame) }) // it does not hear of the end
		c.net.Hold("b", "a")
		c.net.Hold("c", "a")
		began := time.Now()
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = old.Group(testShard).TransferLeadership(ctx, "b")
		}()
		i := old.Group(testShard).instance()
		c.until("b leads", func() bool {
			if _, leased := i.leased(); leased && c.hosts["b"].Group(testShard).Status().Ready {
				t.Fatal("b serves while the lease of a holds")
			}
			return c.hosts["b"].Group(testShard).Status().Ready
		})
		if took := time.Since(began); took > promiseTime/2 {
			t.Errorf("b leads after %v: promises held it up", took)
		}
		if _, leased := i.leased(); leased {
			t.Error("b serves while the lease of a holds")
		}
		c.net.Heal()
		c.net.Release("b", "a")
		c.net.Release("c", "a")
		c.until("a follows", func() bool { return i.ready.Load() == 0 })
	})
}

// TestLeaseIsTakenAndRenewed ensures that reads are confirmed by a lease from the second one on, for as long as there are
// some, and not for longer than the lease once nobody answers; that a read can do without it; and that none is taken while
// members change, nor by promises of learners, nor in a mode without.
func TestLeaseIsTakenAndRenewed(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, withLeases, func(c *cluster) {
		l := c.lead("a")
		c.mustPut(l, "k", "v")
		time.Sleep(time.Second)
		probes := func() uint64 { return l.Cache(testShard).paths[ReadProbe].Load() }
		c.wantPath(l, ReadProbe)
		before := probes()
		for range 100 {
			c.wantPath(l, ReadLease)
			time.Sleep(leaseTime / 10)
		}
		if n := probes() - before; n > 0 {
			t.Errorf("%d reads were probes", n)
		}
		for _, n := range []string{"b", "c"} {
			if r, err := get(c.hosts[n], "k"); err != nil || r.Read != ReadFollower {
				t.Errorf("a read on %s: %+v, %v", n, r, err)
			}
		}
		if r, err := do(l, Request{Shard: testShard, Op: OpGet, Key: []byte("k"), NoLease: true}); err != nil || r.Read != ReadProbe {
			t.Errorf("a read that wants no lease: %+v, %v", r, err)
		}

		i := l.Group(testShard).instance()
		i.lease.suspend() // as a change of members does
		c.wantPath(l, ReadProbe)
		c.wantPath(l, ReadProbe)
		i.lease.resume()
		c.wantPath(l, ReadProbe)
		c.wantPath(l, ReadLease)

		c.addLearner(l, "d")
		time.Sleep(time.Second)
		c.net.Isolate("b", "a", "c", "d")
		c.net.Isolate("c", "a", "b", "d")
		_, _ = get(l, "k") // fails, and asks d too, if anybody does
		if _, ok := i.leased(); ok {
			t.Error("the promise of a learner makes a lease")
		}
		c.net.Heal()
		l = c.lead("a")
		i = l.Group(testShard).instance()
		c.until("a lease", func() bool {
			r, err := get(l, "k")
			return err == nil && r.Read == ReadLease
		})
		c.net.Isolate("a", "b", "c", "d")
		for began := time.Now(); ; time.Sleep(time.Millisecond) {
			_, ok := i.leased()
			if !ok {
				break
			}
			if time.Since(began) > leaseTime {
				t.Fatalf("a lease holds %v after the last promise", time.Since(began))
			}
		}
		c.net.Heal()
		c.leader()
	})
	inBubble(t, 3, patient("a"), func(c *cluster) {
		l := c.lead("a")
		c.mustPut(l, "k", "v")
		c.wantPath(l, ReadProbe)
		c.wantPath(l, ReadProbe)
		for _, n := range c.names {
			p := &c.hosts[n].Group(testShard).promise
			if p.term != 0 {
				t.Errorf("%s promised something: %+v", n, p)
			}
		}
	})
}

// TestLeaseTakesQuorumOfPromises ensures that a lease takes promises of as many voters as must confirm a leader, that it ends with the oldest
// of those that it needs, and that promises of learners, of a former term and of before a change of members count for none.
func TestLeaseTakesQuorumOfPromises(t *testing.T) {
	inBubbleWithSpares(t, 6, 2, nil, func(c *cluster) {
		h := c.lead("a")
		c.addLearner(h, "e")
		i := h.Group(testShard).instance()
		term := i.ready.Load()
		l := &readLease{inst: i}
		want := func(when string, until time.Duration) {
			t.Helper()
			end := l.valid.Load()
			switch {
			case until == 0 && end != nil:
				t.Fatalf("%s: there is a lease: %+v", when, *end)
			case until != 0 && (end == nil || *end != leaseEnd{term, until + leaseTime}):
				t.Fatalf("%s: the lease is %+v, want one from %v on", when, end, until)
			}
		}
		promised := func(node string, term uint64, asked time.Duration) { l.promised(c.replicaOn(node), term, asked) }
		promised("b", term, 10)
		promised("b", term, 20)
		promised("e", term, 30)
		promised("a", term, 30)
		promised("c", term-1, 30)
		want("with one other voter of four", 0)
		promised("c", term, 30)
		want("with two", 20)
		promised("b", term, 15) // that was long on its way
		want("with one asked for before", 20)
		promised("d", term, 50)
		want("with all", 30)
		promised("b", term, 60)
		want("with a newer one", 50)
		l.suspend()
		want("in a change of members", 0)
		promised("c", term, 70)
		l.resume()
		promised("d", term, 80)
		want("after it, with one", 0)
		promised("b", term, 90)
		want("after it, with two", 80)
		l.end(term)
		promised("c", term, 100)
		want("after a handover", 0)
	})
}

// TestChangeOfMembersEndsLease ensures that each change of members ends the lease, which begins anew with promises that were made since, and that there is none
// while a change is under way.
func TestChangeOfMembersEndsLease(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, withLeases, func(c *cluster) {
		l := c.lead("a")
		g := l.Group(testShard)
		c.mustPut(l, "k", "v")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		d := c.replicaOn("d")
		changes := []struct {
			name   string
			change func(ctx context.Context, id ReplicaID, prev uint64) error
			id     ReplicaID
		}{{"learner", g.AddLearner, d}, {"voter", g.Promote, d}, {"removal", g.Remove, c.replicaOn("b")}}
		for _, ch := range changes {
			c.until("a lease", func() bool {
				r, err := get(l, "k")
				return err == nil && r.Read == ReadLease
			})
			conf, err := g.Configuration()
			if err != nil {
				t.Fatal(err)
			}
			release := sync.OnceFunc(stall(l))
			defer release()
			done := make(chan error, 1)
			go func() { done <- ch.change(ctx, ch.id, conf.Index) }()
			synctest.Wait()
			for range 2 { // the first would make one
				c.wantPath(l, ReadProbe)
			}
			release()
			if err := <-done; err != nil {
				t.Fatalf("%s: %v", ch.name, err)
			}
			c.wantPath(l, ReadProbe)
			c.until("the replica on d has what there is", func() bool {
				return c.hosts["d"].Group(testShard).Status().Applied >= g.Status().Applied
			})
		}
	})
}

// TestLeaderLostWithLeases ensures that promises to a leader that is gone hold up the next one no longer than they bind.
func TestLeaderLostWithLeases(t *testing.T) {
	inBubble(t, 3, withLeases, func(c *cluster) {
		l := c.lead("a")
		c.mustPut(l, "k", "v")
		time.Sleep(time.Second)
		for range 20 {
			_, _ = get(l, "k")
			time.Sleep(leaseTime / 10)
		}
		began := time.Now()
		c.crash("a")
		c.leader("b", "c")
		if took := time.Since(began); took > promiseTime+300*time.Millisecond {
			t.Errorf("the next leader serves after %v", took)
		}
	})
}

// TestPromise ensures what a promise lets through, over its time and the leaders' terms, and when none is given.
func TestPromise(t *testing.T) {
	at := func(term uint64) func() uint64 { return func() uint64 { return term } }
	const later = time.Hour
	var p promise
	if !p.ask(later, 5, false) || !p.enter(later, 5, false) {
		t.Fatal("one that was never given forbids an election")
	}
	if p.give(later, 4, at(4)) {
		t.Error("given while a vote is under way")
	}
	p.leave()
	if p.give(later, 4, at(5)) {
		t.Error("given to the leader of a term that is over")
	}
	if !p.give(later, 4, at(4)) {
		t.Fatal("not given")
	}
	for _, tt := range []struct {
		after  time.Duration
		term   uint64
		handed bool
		want   bool
	}{
		{0, 5, false, false},
		{promiseTime - 1, 5, false, false},
		{promiseTime, 5, false, true},
		{0, 5, true, true},  // its leader asked for it
		{0, 6, true, true},  // a later one did
		{0, 4, true, false}, // an earlier one did
	} {
		if got := p.ask(later+tt.after, tt.term, tt.handed); got != tt.want {
			t.Errorf("%v later, term %d, handed %t: %t", tt.after, tt.term, tt.handed, got)
		}
		if got := p.enter(later+tt.after, tt.term, tt.handed); got != tt.want {
			t.Errorf("%v later, a vote in term %d, handed %t: %t", tt.after, tt.term, tt.handed, got)
		} else if got {
			p.leave()
		}
	}
	if !p.give(later+time.Millisecond, 5, at(5)) || p.ask(later+time.Millisecond, 5, true) || !p.ask(later+time.Millisecond, 6, true) {
		t.Error("a promise to the next leader is not one to him")
	}
	var restarted promise
	restarted.begin(later)
	if restarted.ask(later+promiseTime-1, 7, false) || !restarted.ask(later, 7, true) || !restarted.ask(later+promiseTime, 7, false) {
		t.Error("a voter that was started again does not keep what it may have promised")
	}
	if leaseTime >= promiseTime || leaseTime%time.Millisecond != 0 {
		t.Errorf("a lease of %v on a promise of %v", leaseTime, promiseTime)
	}
}
