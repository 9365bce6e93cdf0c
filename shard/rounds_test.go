package shard

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// mover is somebody who enters rounds.
type mover struct {
	rounds *rounds
	in     chan *round // gets the round that it is in; nil: it was stopped
	stop   chan struct{}
}

func newMover(r *rounds) *mover {
	m := &mover{r, make(chan *round, 1), make(chan struct{})}
	go func() {
		c, ok := r.enter(m.stop)
		if ok != (c != nil) {
			panic("an entry without a round")
		}
		m.in <- c
	}()
	synctest.Wait()
	return m
}

func (m *mover) waits() bool { return len(m.in) == 0 }

// enterBig has an entry of many writes set out.
func enterBig(t *testing.T, r *rounds) *round {
	t.Helper()
	c, ok := r.enter(nil)
	if !ok {
		t.Fatal("it was stopped")
	}
	r.add(c, fewWrites)
	return c
}

// TestRounds ensures that entries of a node wait for those in flight where these are many, and then set out together, and that
// nobody waits where little is in flight.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rounds{}
		var small []*round
		for range fewWrites {
			c, _ := r.enter(nil)
			r.add(c, 1)
			small = append(small, c)
		}
		waiting := []*mover{newMover(r), newMover(r), newMover(r)}
		gone := newMover(r)
		close(gone.stop)
		synctest.Wait()
		if gone.waits() || <-gone.in != nil {
			t.Error("it waits although it was stopped")
		}
		for _, c := range small {
			if slices.ContainsFunc(waiting, func(m *mover) bool { return !m.waits() }) {
				t.Fatal("it set out while much was in flight")
			}
			r.leave(c, 1)
			synctest.Wait()
		}
		var next []*round
		for _, m := range waiting {
			if m.waits() {
				t.Fatal("it waits for nobody")
			}
			next = append(next, <-m.in)
		}
		if len(slices.Compact(next)) != 1 || next[0] == small[0] {
			t.Error("they did not set out together")
		}
		r.add(next[0], fewWrites)
		late := newMover(r)
		for range waiting {
			if !late.waits() {
				t.Error("it joined a round with much in flight")
			}
			r.leave(next[0], 0)
		}
		r.leave(<-late.in, 0)
		if r.current != nil || len(r.waiting) != 0 {
			t.Error("there is a round although nothing is in flight")
		}
	})
}

// TestRoundOfStuckShard ensures that an entry which stays in flight holds up the others once, and not for long.
func TestRoundOfStuckShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rounds{}
		stuck := enterBig(t, r)
		began := time.Now()
		time.Sleep(roundPatience / 2)
		next := enterBig(t, r)
		if took := time.Since(began); took != roundPatience {
			t.Errorf("the next round begins after %v, want %v", took, roundPatience)
		}
		began = time.Now()
		waits := newMover(r)
		r.leave(stuck, fewWrites) // its round is over
		synctest.Wait()
		if !waits.waits() {
			t.Error("the end of a round that was over ended another")
		}
		r.leave(next, fewWrites)
		r.leave(<-waits.in, 0)
		if took := time.Since(began); took != 0 {
			t.Errorf("rounds after it wait %v", took)
		}
	})
}

// TestNewcomersWait ensures that those who come do not join a round that others wait for the end of, though little of it is left.
func TestNewcomersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rounds{}
		little, _ := r.enter(nil)
		r.add(little, 1)
		much := enterBig(t, r)
		first := newMover(r)
		r.leave(much, fewWrites) // little of it is left
		second := newMover(r)
		if !first.waits() || !second.waits() {
			t.Fatalf("the first waits %t, the second %t", first.waits(), second.waits())
		}
		r.leave(little, 1)
		a, b := <-first.in, <-second.in
		if a != b {
			t.Error("they did not set out together")
		}
		r.leave(a, 0)
		r.leave(b, 0)
	})
}

// TestStoppedInRound ensures that one that is stopped while its turn comes does not hold up the others.
func TestStoppedInRound(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			r := &rounds{}
			first := enterBig(t, r)
			m := newMover(r)
			go close(m.stop)
			go r.leave(first, fewWrites)
			began := time.Now()
			if c := <-m.in; c != nil {
				r.leave(c, 0)
			}
			r.leave(enterBig(t, r), fewWrites)
			if took := time.Since(began); took != 0 || r.current != nil {
				t.Fatalf("after it the next waits %v", took)
			}
		})
	}
}

// TestShardsProposeTogether ensures that a shard's writes wait for the entries of the node's other shards, gather meanwhile, and are
// held up for no longer than roundPatience.
func TestShardsProposeTogether(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		r := &l.rounds
		for _, ends := range []bool{true, false} {
			synctest.Wait()
			if r.current != nil {
				t.Fatalf("a round is left: %+v", r.current)
			}
			other := enterBig(t, r)
			began := time.Now()
			var wg sync.WaitGroup
			entries := make([]uint64, 20)
			for i := range entries {
				wg.Go(func() {
					resp, err := put(l, fmt.Sprint("k", i), "v")
					if err != nil {
						t.Error(err)
					}
					entries[i] = resp.Index
				})
			}
			synctest.Wait()
			if n := len(l.Cache(testShard).batches.slots); n != 0 {
				t.Errorf("%d entries are in flight beside the round", n)
			}
			if ends {
				r.leave(other, fewWrites)
			}
			wg.Wait()
			if n := len(slices.Compact(entries)); n != 1 {
				t.Errorf("they are in %d entries", n)
			}
			if took := time.Since(began); !ends && took < roundPatience || took >= 2*roundPatience {
				t.Errorf("ended %t: they took %v", ends, took)
			}
		}
	})
}

// TestNoRoundForFullEntriesAndTicks ensures that neither what fills an entry nor what a read waits for waits for the node's other shards.
func TestNoRoundForFullEntriesAndTicks(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		for what, propose := range map[string]func() error{
			"full": func() error { _, err := put(l, "k", strings.Repeat("x", maxBatchBytes)); return err },
			"tick": func() error { return l.Cache(testShard).batches.tick(context.Background(), math.MaxUint64) },
		} {
			other := enterBig(t, &l.rounds)
			began := time.Now()
			if err := propose(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took >= roundPatience {
				t.Errorf("%s: it took %v", what, took)
			}
			l.rounds.leave(other, fewWrites)
		}
	})
}
