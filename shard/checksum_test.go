package shard

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// TestMarks ensures that all replicas that watch tell the same checksum at a mark, under load, that one
// whose state differs tells another, and that one that did not watch tells none.
func TestMarks(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
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
		sums := func() map[string]string {
			t.Helper()
			for _, h := range c.hosts {
				if err := h.WatchMarks(testShard); err != nil {
					t.Fatal(err)
				}
			}
			index, err := l.Mark(ctx, testShard)
			if err != nil {
				t.Fatal(err)
			}
			all := map[string]string{}
			for n, h := range c.hosts {
				sum, err := h.MarkChecksum(ctx, testShard, index)
				if err != nil || len(sum) != 64 {
					t.Fatalf("%s: %q, %v", n, sum, err)
				}
				all[n] = sum
			}
			return all
		}
		first := sums()
		time.Sleep(time.Second)
		second := sums()
		if first["a"] != first["b"] || first["a"] != first["c"] || second["a"] != second["b"] || second["a"] != second["c"] || first["a"] == second["a"] {
			t.Errorf("checksums %v, then %v", first, second)
		}
		close(stop)
		<-stopped
		c.wantSameState() // nothing that is still to come writes over what is damaged now
		if _, err := c.hosts["b"].Mark(ctx, testShard); !errors.As(err, new(*NotLeaderError)) {
			t.Errorf("a mark of a follower: %v", err)
		}
		m := c.hosts["c"].Group(testShard).instance().fsm.machine.(*cacheMachine)
		m.mu.Lock()
		m.m.Lookup([]byte("k1")).Entry.Value[0] ^= 1 // a bit flips
		m.mu.Unlock()
		if third := sums(); third["a"] != third["b"] || third["a"] == third["c"] {
			t.Errorf("checksums with a damaged replica on c: %v", third)
		}
		time.Sleep(markTime + time.Second)
		index, err := l.Mark(ctx, testShard)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := c.hosts["b"].MarkChecksum(ctx, testShard, index); !errors.Is(err, errNoMark) {
			t.Errorf("without watching: %q, %v", sum, err)
		}
	})
}

// TestMarksKept ensures that a mark is kept however many entries without commands came before it, that no
// more than maxMarks states are held, and that a watch which was gone on with does not end with the first.
func TestMarksKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m marks
		machine := fsm.New()
		m.note(1, machine)
		if m.take(1) != nil {
			t.Error("kept while nobody watched")
		}
		m.watch()
		for index := uint64(1); index <= 3*maxMarks; index++ {
			m.note(index, machine)
		}
		held := func() int {
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.states)
		}
		if n := held(); n != maxMarks {
			t.Errorf("%d states are held, want %d", n, maxMarks)
		}
		if m.take(3*maxMarks) == nil {
			t.Error("the newest mark was not kept")
		}
		first := m.turn
		m.watch()
		m.over(first) // it was due, and waited for the lock, as the second watch began
		m.note(100, machine)
		if m.take(100) == nil {
			t.Error("the second watch ended with the first")
		}
		time.Sleep(markTime + time.Second)
		if held() != 0 {
			t.Error("states are held after the watch")
		}
	})
}
