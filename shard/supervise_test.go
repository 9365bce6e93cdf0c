package shard

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestStuckTransferReplacesInstance ensures that a leader which refuses all work because of a leadership
// transfer that does not end gets a fresh instance, and that one which ended in time does not
// (hashicorp/raft #696).
func TestStuckTransferReplacesInstance(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		g := l.Group(testShard)
		first := g.instance()
		_ = first.writeError(raft.ErrLeadershipTransferInProgress)
		c.mustPut(l, "k", "v") // the transfer is over: the library takes work again
		time.Sleep(10 * l.cfg.ElectionTimeout)
		if g.instance() != first {
			t.Fatal("replaced though it serves")
		}
		_ = first.writeError(raft.ErrLeadershipTransferInProgress)
		c.until("the instance is replaced", func() bool { return g.instance() != first && g.instance() != nil })
		c.wantGet(c.leader(), "k", "v")
	})
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
