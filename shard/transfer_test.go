package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestTransferLeadership ensures that leadership goes to the named voter without an election timeout,
// and only to a voter.
func TestTransferLeadership(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		l := c.lead("a")
		c.mustPut(l, "k", "v")
		c.addLearner(l, "d")
		for _, node := range []string{"a", "d", "z"} {
			if err := l.Group(testShard).TransferLeadership(context.Background(), node); err == nil {
				t.Errorf("handed over to %s", node)
			}
		}
		began := time.Now()
		if err := l.Group(testShard).TransferLeadership(context.Background(), "c"); err != nil {
			t.Fatal(err)
		}
		c.wantGet(c.leader("c"), "k", "v")
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the transfer took %v", took)
		}
	})
}

// TestTimeoutNowDropped ensures that the order to stand for election is followed once, in the term in
// which its leader gave it, and only by a voter: one that is late, repeated or sent to a learner
// changes nothing.
func TestTimeoutNowDropped(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		l := c.lead("a")
		c.addLearner(l, "d")
		order := func(to string, term uint64) error {
			_, err := c.dial("a", to).askRaft(testShard, "1/a/1", ReplicaID{testShard, to, 1}.String(), rpcTimeoutNow, binary.AppendUvarint(nil, term))
			return err
		}
		term := func() uint64 { return l.Group(testShard).Status().Term }
		now := term()
		for _, tc := range []struct {
			name, to string
			term     uint64
			why      string
		}{
			{"late", "b", now - 1, "late"},
			{"of a term to come", "b", now + 1, "late"},
			{"to a learner", "d", now, "does not vote"},
		} {
			if err := order(tc.to, tc.term); err == nil || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
		// One that was taken and came to nothing, and comes again.
		c.hosts["c"].Group(testShard).instance().lastTimeoutNow.Store(now)
		if err := order("c", now); err == nil || !strings.Contains(err.Error(), "repeated") {
			t.Errorf("repeated: %v", err)
		}
		time.Sleep(3 * time.Second)
		if got := term(); got != now || !l.Group(testShard).Status().Ready {
			t.Errorf("the term went from %d to %d", now, got)
		}
		if err := order("b", now); err != nil {
			t.Errorf("in time: %v", err)
		}
		c.until("b leads", func() bool { return raftOf(c.hosts["b"]).State() == raft.Leader })
		c.leader("b")
	})
}

// TestTransferToReplaced ensures that a voter whose instance was replaced after it was told to stand, and before it did, can be handed the
// lead in the same term.
func TestTransferToReplaced(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		term := l.Group(testShard).Status().Term
		before := c.hosts["c"].Group(testShard).instance()
		before.lastTimeoutNow.Store(term)
		notify(before.installed)
		c.until("another instance runs", func() bool {
			i := c.hosts["c"].Group(testShard).instance()
			return i != nil && i != before
		})
		if now := l.Group(testShard).Status().Term; now != term {
			t.Fatalf("term %d, not %d", now, term)
		}
		c.lead("c")
	})
}

// TestHandover ensures that a planned stop hands leadership to a voter that is reachable.
func TestHandover(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		c.mustPut(l, "k", "v")
		c.net.Isolate("b", "a", "c")
		time.Sleep(3 * pingInterval) // b has been silent for long enough to be passed over
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		l.Handover(ctx)
		c.wantGet(c.leader("c"), "k", "v")
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("the handover took %v", took)
		}
	})
}

// TestTransferToNoVoter ensures that a leader refuses to hand over to a node that is no other voter, as one is whose removal it was too
// late to hear of.
func TestTransferToNoVoter(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		l := c.leader()
		for _, node := range []string{"d", "z", l.Node()} {
			if err := l.Group(testShard).TransferLeadership(context.Background(), node); !errors.Is(err, ErrConfChanged) || !Refused(err) {
				t.Errorf("to %s: %v", node, err)
			}
		}
	})
}
