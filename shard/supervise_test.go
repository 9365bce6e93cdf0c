package shard

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/raft"
)

// TestStuckTransferReplacesInstance ensures that a leader whose library refuses all work since its flag
// of a leadership transfer stays set (hashicorp/raft #696) gets a fresh instance, and serves then.
func TestStuckTransferReplacesInstance(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		g := l.Group(testShard)
		first := g.instance()
		// What the defect leaves behind takes two lost transfers and a step-down; the flag is all of it.
		flag := reflect.ValueOf(first.raft).Elem().FieldByName("leaderState").FieldByName("leadershipTransferInProgress")
		atomic.StoreInt32((*int32)(unsafe.Pointer(flag.UnsafeAddr())), 1)
		if _, err := put(l, "k", "v"); !errors.Is(err, ErrNoLeader) {
			t.Fatalf("a write during a transfer: %v", err)
		}
		began := time.Now()
		c.until("the instance is replaced", func() bool { return g.instance() != first && g.instance() != nil })
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("after %v", took)
		}
		c.mustPut(c.leader(), "k", "v")
	})
}

// TestTransferKeepsInstance ensures that a transfer which refused writes and then ended, with success or
// without, replaces no instance.
func TestTransferKeepsInstance(t *testing.T) {
	for _, succeeds := range []bool{true, false} {
		inBubble(t, 3, nil, func(c *cluster) {
			l := c.lead("a")
			g := l.Group(testShard)
			first := g.instance()
			c.net.SetFaults("a", "b", LinkFaults{Delay: 20 * time.Millisecond}) // so that writes meet the transfer
			c.net.DropWhen(func(_, _ string, frame []byte) bool {
				f, ok := raftIn(frame)
				return ok && f.rpc == rpcTimeoutNow && !succeeds
			})
			var wg sync.WaitGroup
			wg.Go(func() {
				for { // one that is refused at once, or over before a write comes, shows nothing
					err := g.TransferLeadership(context.Background(), "b")
					if err == nil && !succeeds {
						t.Error("a transfer succeeded without its message")
					}
					if err == nil || !succeeds && first.transferSince.Load() != 0 {
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
			c.until("a write is refused", func() bool {
				_, _ = put(l, "k", "v")
				return first.transferSince.Load() != 0
			})
			wg.Wait()
			c.leader()
			time.Sleep(10 * l.cfg.ElectionTimeout)
			if g.instance() != first {
				t.Errorf("succeeds %v: a healthy instance was replaced", succeeds)
			}
		})
	}
}

// TestTransferNeedsLiveTarget ensures that leadership is not offered to a voter that is silent: the
// library would remember the offer for ever.
func TestTransferNeedsLiveTarget(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		c.net.Isolate("b", "a", "c")
		time.Sleep(3 * pingInterval)
		if err := l.Group(testShard).TransferLeadership(context.Background(), "b"); !errors.Is(err, ErrUnreachable) {
			t.Errorf("handed over to a silent node: %v", err)
		}
		c.mustPut(l, "k", "v")
	})
}

// TestEndedInstancesAreForgotten ensures that an instance which was replaced, and the cache that it
// held, are not kept by what was to be asked of a peer that is away.
func TestEndedInstancesAreForgotten(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		c.lead("a")
		c.crash("b")
		for range 3 {
			l := c.lead("a")
			c.wantGet(l, "absent", "")
			g := l.Group(testShard)
			before := g.instance()
			notify(before.installed) // as after an installed snapshot
			c.until("the instance is replaced", func() bool { return g.instance() != before && g.instance() != nil })
		}
		c.leader()
		p := c.hosts["a"].peer("b")
		p.probes.mu.Lock()
		defer p.probes.mu.Unlock()
		for i := range p.probes.want {
			if i != c.hosts["a"].Group(testShard).instance() {
				t.Error("an ended instance is kept")
			}
		}
	})
}

// TestLeaderThatKnowsNoTimeHandsOver ensures that a leader which hears no clocks, and so never comes to serve, has
// another one lead.
func TestLeaderThatKnowsNoTimeHandsOver(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		b, a := c.lead("b"), c.hosts["a"]
		c.mustPut(b, "k", "v")
		var wg sync.WaitGroup
		defer wg.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		deaf := func() {
			a.clocks.mu.Lock()
			defer a.clocks.mu.Unlock()
			clear(a.clocks.heard)
		}
		deaf()
		wg.Go(func() {
			for ctx.Err() == nil {
				deaf()
				time.Sleep(100 * time.Microsecond)
			}
		})
		wg.Go(func() { _ = b.Group(testShard).TransferLeadership(ctx, "a") })
		c.until("a leads alone", func() bool { return raftOf(a).State() == raft.Leader && raftOf(b).State() == raft.Follower })
		began := time.Now()
		c.mustPut(c.leader("b", "c"), "k", "w")
		if took := time.Since(began); took < 5*time.Second || took > 30*time.Second {
			t.Errorf("after %v", took)
		}
	})
}
