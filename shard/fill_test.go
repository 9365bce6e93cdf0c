package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// fillRead is what came of a read that would fill a miss.
type fillRead struct {
	Response
	err  error
	took time.Duration
}

// getToFill starts such a read on a node and returns where its answer will be.
func getToFill(h *Host, key string, fill time.Duration) <-chan fillRead {
	done := make(chan fillRead, 1)
	go func() {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), fill+5*time.Second)
		defer cancel()
		r, err := h.Do(ctx, h.Node(), Request{Shard: testShard, Op: OpGet, Key: []byte(key), Fill: fill})
		done <- fillRead{r, err, time.Since(began)}
	}()
	return done
}

// mustToken reads to fill and expects a token at once.
func (c *cluster) mustToken(h *Host, key string, fill time.Duration) uint64 {
	c.t.Helper()
	r := <-getToFill(h, key, fill)
	if r.err != nil || r.Found || r.FillToken == 0 || r.took > 100*time.Millisecond {
		c.t.Fatalf("read to fill %s: %+v, want a token at once", key, r)
	}
	return r.FillToken
}

// fillWith puts a value with a fill token.
func fillWith(h *Host, key, value string, token uint64) (Response, error) {
	return do(h, Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte(value), Cond: fsm.Cond{Kind: fsm.CondFill, Version: token}})
}

// TestFillOnce ensures that of many readers who miss a key one alone gets a token, and that the others get the
// value once it is put, by whatever put.
func TestFillOnce(t *testing.T) {
	for _, plain := range []bool{true, false} {
		inBubble(t, 3, nil, func(c *cluster) {
			t, l := c.t, c.leader()
			if !plain {
			}
			const n = 100
			var reads []<-chan fillRead
			for range n {
				reads = append(reads, getToFill(l, "k", 5*time.Second))
			}
			other := c.mustToken(l, "other", 5*time.Second) // a key by itself
			time.Sleep(time.Second)
			token, waiting := uint64(0), reads[:0]
			for _, ch := range reads {
				select {
				case r := <-ch:
					if r.err != nil || r.Found || r.FillToken == 0 || token != 0 {
						t.Fatalf("%+v, with token %d given already", r, token)
					}
					token = r.FillToken
				default:
					waiting = append(waiting, ch)
				}
			}
			if token == 0 || len(waiting) != n-1 {
				t.Fatalf("token %d, %d wait", token, len(waiting))
			}
			if plain {
				c.mustPut(l, "k", "v")
			} else if r, err := fillWith(l, "k", "v", token); err != nil || r.Status != fsm.StatusOK {
				t.Fatalf("fill: %+v, %v", r, err)
			}
			for _, ch := range waiting {
				if r := <-ch; r.err != nil || string(r.Value) != "v" || r.FillToken != 0 || r.took > 2*time.Second {
					t.Fatalf("a reader that waited: %+v", r)
				}
			}
			if r := <-getToFill(l, "k", 5*time.Second); r.err != nil || string(r.Value) != "v" || r.took > time.Second {
				t.Errorf("a reader that comes later: %+v", r)
			}
			if !plain {
				if r, err := fillWith(l, "other", "v", other); err != nil || r.Status != fsm.StatusOK {
					t.Errorf("fill of the other key: %+v, %v", r, err)
				}
			}
			if left := l.filling.Load(); left != 0 {
				t.Errorf("%d reads still count as waiting", left)
			}
		})
	}
}

// TestFillLeaseEnds ensures that a loader which does nothing holds up nobody for longer than its own fill time: then the next
// reader gets a token, and that readers wait no longer than their own.
func TestFillLeaseEnds(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t, l := c.t, c.leader()
		c.mustToken(l, "k", 3*time.Second)
		short := getToFill(l, "k", time.Second)
		long, longer := getToFill(l, "k", 10*time.Second), getToFill(l, "k", 10*time.Second)
		if r := <-short; r.err != nil || r.Found || r.FillToken != 0 || r.took < time.Second || r.took > 1100*time.Millisecond {
			t.Errorf("a reader that waits 1 s: %+v", r)
		}
		var got []fillRead
		select {
		case r := <-long:
			got = append(got, r)
			long = longer
		case r := <-longer:
			got = append(got, r)
		}
		if r := got[0]; r.err != nil || r.Found || r.FillToken == 0 || r.took < 2900*time.Millisecond || r.took > 3100*time.Millisecond {
			t.Errorf("the next in turn: %+v, want a token after 3 s", r)
		}
		// The new lease lasts 10 s from then on, so the last one waits for all of its own time.
		if r := <-long; r.err != nil || r.Found || r.FillToken != 0 || r.took < 10*time.Second {
			t.Errorf("the last: %+v", r)
		}
		c.mustToken(l, "elsewhere", time.Second)
		if got := machineOf(l).fills.held.Load(); got != 2 {
			t.Errorf("%d leases are held, want 2", got)
		}
		time.Sleep(20 * time.Second)
		if got := machineOf(l).fills.held.Load(); got != 0 {
			t.Errorf("%d leases are held, want none", got)
		}
	})
}

// machineOf is the state machine of the shard's replica on a node.
func machineOf(h *Host) *cacheMachine {
	return h.Group(testShard).instance().fsm.machine.(*cacheMachine)
}

// TestFillLeaderChange ensures that readers who wait on a leader that is deposed are told at once where to go, that
// the new leader gives out a token, and that of the two tokens the one that fills first wins.
func TestFillLeaderChange(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t, l := c.t, c.leader()
		first := c.mustToken(l, "k", 10*time.Second)
		waits := getToFill(l, "k", 10*time.Second)
		next := c.others(l.Node())[0]
		if r := <-getToFill(c.hosts[next], "k", time.Second); !errors.As(r.err, new(*NotLeaderError)) {
			t.Errorf("a follower: %+v, want to be sent to the leader", r)
		}
		synctest.Wait()
		n := c.lead(next)
		var notLeader *NotLeaderError
		if r := <-waits; !errors.As(r.err, &notLeader) && !errors.Is(r.err, ErrNoLeader) || r.took > 5*time.Second {
			t.Errorf("who waits on the old leader: %+v", r)
		}
		second := c.mustToken(n, "k", 10*time.Second)
		if r, err := fillWith(n, "k", "first", first); err != nil || r.Status != fsm.StatusOK {
			t.Errorf("the token of the old leader: %+v, %v", r, err)
		}
		if r, err := fillWith(n, "k", "second", second); err != nil || r.Status != fsm.StatusCondition {
			t.Errorf("a second fill: %+v, %v, want it refused", r, err)
		}
		c.wantGet(n, "k", "first")
	})
}

// TestFillRefused ensures that a value which was loaded before its key was written or deleted is never stored, and that the
// refusal, or the delete itself, gives the next reader a token.
func TestFillRefused(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t, l := c.t, c.leader()
		for name, change := range map[string]func(key string){
			"deleted": func(key string) {
				c.mustPut(l, key, "v")
				if r, err := do(l, Request{Shard: testShard, Op: OpDelete, Key: []byte(key)}); err != nil || !r.Existed {
					t.Fatalf("delete: %+v, %v", r, err)
				}
			},
			"written": func(key string) { c.mustPut(l, key, "newer") },
			"expired": func(key string) {
				r, err := do(l, Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte("v"), TTL: time.Second})
				if err != nil || r.Status != fsm.StatusOK {
					t.Fatalf("put: %+v, %v", r, err)
				}
				time.Sleep(2 * time.Second)
				c.wantGet(l, key, "")
			},
		} {
			token := c.mustToken(l, name, 20*time.Second)
			change(name)
			r, err := fillWith(l, name, "loaded before", token)
			if err != nil || r.Status != fsm.StatusCondition {
				t.Errorf("%s: fill: %+v, %v, want it refused", name, r, err)
			}
			if name == "written" {
				c.wantGet(l, name, "newer")
				continue
			}
			c.wantGet(l, name, "")
			if r, err := fillWith(l, name, "loaded after", c.mustToken(l, name, 20*time.Second)); err != nil || r.Status != fsm.StatusOK {
				t.Errorf("%s: fill with a new token: %+v, %v", name, r, err)
			}
		}
		c.wantSameState()
	})
}

// TestFillRefusedEndsLease ensures that a loader whose fill is refused for another key's sake, which the slot's memory of
// removals can bring about, holds up nobody any longer: the next reader gets a token that holds.
func TestFillRefusedEndsLease(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t, l := c.t, c.leader()
		c.mustPut(l, "{slot}other", "v")
		token := c.mustToken(l, "{slot}k", 20*time.Second)
		waits := getToFill(l, "{slot}k", 20*time.Second)
		synctest.Wait()
		if r, err := do(l, Request{Shard: testShard, Op: OpDelete, Key: []byte("{slot}other")}); err != nil || !r.Existed {
			t.Fatalf("delete: %+v, %v", r, err)
		}
		if r, err := fillWith(l, "{slot}k", "v", token-1); err != nil || r.Status != fsm.StatusCondition {
			t.Fatalf("fill with a token of another: %+v, %v", r, err)
		}
		synctest.Wait()
		select {
		case r := <-waits:
			t.Fatalf("somebody else's fill ended the lease: %+v", r)
		default:
		}
		if r, err := fillWith(l, "{slot}k", "v", token); err != nil || r.Status != fsm.StatusCondition {
			t.Fatalf("fill: %+v, %v, want it refused", r, err)
		}
		r := <-waits
		if r.err != nil || r.Found || r.FillToken == 0 || r.took > time.Second {
			t.Fatalf("who waited: %+v, want a token", r)
		}
		if r, err := fillWith(l, "{slot}k", "v", r.FillToken); err != nil || r.Status != fsm.StatusOK {
			t.Errorf("fill with the new token: %+v, %v", r, err)
		}
	})
}

// TestFillBounds ensures that beyond the bounds on keys and on readers who wait nobody waits: each gets a token.
func TestFillBounds(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t, l := c.t, c.leader()
		var wg sync.WaitGroup
		for i := range maxFillKeys {
			wg.Go(func() { c.mustToken(l, fmt.Sprint("k", i), 20*time.Second) })
		}
		wg.Wait()
		for range 2 { // not leased: the second one gets a token as well
			c.mustToken(l, "one more", 20*time.Second)
		}
		if got := len(machineOf(l).fills.leases); got != maxFillKeys {
			t.Errorf("%d leases are held", got)
		}
		var waits []<-chan fillRead
		for range maxFillWaiters {
			waits = append(waits, getToFill(l, "k0", 10*time.Second))
		}
		synctest.Wait()
		c.until("all wait", func() bool { return l.filling.Load() == maxFillWaiters })
		c.mustToken(l, "k0", 10*time.Second)
		c.mustPut(l, "k0", "v")
		for _, ch := range waits {
			if r := <-ch; r.err != nil || string(r.Value) != "v" {
				t.Fatalf("a reader that waited: %+v", r)
			}
		}
		if left := l.filling.Load(); left != 0 {
			t.Errorf("%d reads still count as waiting", left)
		}
	})
}

// TestFillDeadline ensures that a read whose deadline comes before its fill time is over ends by the deadline,
// refused.
func TestFillDeadline(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t, l := c.t, c.leader()
		c.mustToken(l, "k", 20*time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		r, err := l.Do(ctx, l.Node(), Request{Shard: testShard, Op: OpGet, Key: []byte("k"), Fill: 10 * time.Second})
		if !errors.Is(err, ErrDeadline) || time.Since(began) != time.Second {
			t.Errorf("%+v, %v after %v", r, err, time.Since(began))
		}
	})
}
