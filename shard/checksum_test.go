package shard

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// compare has the shard's leader compare the replicas, and waits for one that can.
func (c *cluster) compare() Comparison {
	c.t.Helper()
	var found Comparison
	c.until("a comparison", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var err error
		found, err = c.leader().Compare(ctx, testShard)
		return err == nil
	})
	return found
}

// machineOn is the machine of the shard's replica on a node.
func machineOn(h *Host) *cacheMachine {
	return h.Group(testShard).instance().fsm.machine.(*cacheMachine)
}

// diverge gives the replica on a node another state, at the same index: what a machine that is not
// deterministic would have come to.
func (c *cluster) diverge(node, key string) {
	c.t.Helper()
	c.wrong = true
	m := machineOn(c.hosts[node])
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.m.Stats()
	other := fsm.New()
	grant := fsm.Grant{Range: s.Range, Epoch: s.Epoch, Generation: s.Generation, VersionBits: s.VersionBits(), Limit: s.Limit, TableVersion: s.TableVersion}
	_, err1 := other.Apply(1, fsm.Batch{Level: 1, Commands: []fsm.Command{{Kind: fsm.KindLevel, Level: s.Level}, {Kind: fsm.KindGrant, Grant: grant}}})
	_, err2 := other.Apply(s.Applied, fsm.Batch{Level: 1, Stamp: s.Clock, Commands: []fsm.Command{{Kind: fsm.KindPut, Key: []byte(key), Value: []byte("wrong")}}})
	if err := errors.Join(err1, err2); err != nil {
		c.t.Fatal(err)
	}
	m.m = other
}

// TestMarks ensures that all replicas tell the same checksum at a mark, under load, and that it is the
// one of the machine's state right there; that a follower logs none; and that the state is not the same
// at the next.
func TestMarks(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					_, _ = put(l, fmt.Sprint("k", n%50), fmt.Sprint(n))
				}
			}
		}()
		first := c.compare()
		time.Sleep(time.Second)
		second := c.compare()
		close(stop)
		<-stopped
		for _, found := range []Comparison{first, second} {
			if !found.Equal() || len(found.Replicas) != 3 || len(found.Replicas[0].Checksum) != 64 {
				t.Errorf("%+v", found)
			}
		}
		if first.Replicas[0].Checksum == second.Replicas[0].Checksum || second.Index <= first.Index {
			t.Errorf("%+v, then %+v", first, second)
		}
		third := c.compare()
		m := machineOn(l)
		m.mu.RLock()
		index, _ := m.m.Applied()
		sum := fmt.Sprintf("%x", m.m.Checksum())
		m.mu.RUnlock()
		if index != third.Index || sum != third.Replicas[0].Checksum {
			t.Errorf("the machine has %s at %d, the comparison says %+v", sum, index, third)
		}
		if _, err := c.hosts["b"].Compare(context.Background(), testShard); !errors.As(err, new(*NotLeaderError)) {
			t.Errorf("a comparison by a follower: %v", err)
		}
	})
}

// TestMarksKept ensures that the newest marks are kept, however many ticks came between, that a tick is
// none, and that a restored state knows of none.
func TestMarksKept(t *testing.T) {
	m := newCacheMachine(testShard)
	for index := uint64(1); index <= 3*maxMarks; index++ {
		m.Mark(index)
	}
	if n := len(m.marks.kept); n != maxMarks {
		t.Errorf("%d marks are kept, want %d", n, maxMarks)
	}
	if _, ok := m.marks.at(3 * maxMarks); !ok || m.marks.newest() != 3*maxMarks {
		t.Errorf("the newest mark was not kept: %+v", m.marks.kept)
	}
	if _, ok := m.marks.at(2 * maxMarks); ok {
		t.Error("an old mark was kept")
	}
	r := pipeSnapshot(t, m)
	if err := m.Restore(r); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.marks.at(3 * maxMarks); ok {
		t.Error("a mark of the state before a restore was kept")
	}
}

// TestMarksOfAReplay ensures that a replica which starts sums up only what somebody may ask for, and a
// tick never.
func TestMarksOfAReplay(t *testing.T) {
	inBubble(t, 1, neverCheck, func(c *cluster) {
		l := c.leader()
		old := c.compare().Index
		for range maxMarkLag + 1 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if _, _, err := l.Group(testShard).Propose(ctx, mustMark(t)); err != nil { // ticks
				t.Fatal(err)
			}
			cancel()
		}
		late := c.compare().Index
		c.crash("a")
		m := machineOn(c.start("a"))
		c.until("all is applied again", func() bool { return m.marks.newest() == late })
		if _, ok := m.marks.at(old); ok || len(m.marks.kept) != 1 {
			t.Errorf("marks at %d and %d; kept are %+v", old, late, m.marks.kept)
		}
	})
}

func mustMark(t *testing.T) []byte {
	t.Helper()
	data, err := markEntry(0)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
