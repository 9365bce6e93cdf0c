package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

func incrRequest(key string, delta int64, once string) Request {
	return Request{Shard: testShard, Op: OpIncr, Key: []byte(key), Delta: delta, IdempotencyKey: once}
}

// TestIncrOnceOverFailover ensures that an increment whose outcome is unknown, made again on the next leader under the same
// idempotency key, counts once: both where the first leader's entry is lost with it, and where the next one commits it.
func TestIncrOnceOverFailover(t *testing.T) {
	for _, survives := range []bool{false, true} {
		inBubble(t, 3, nil, func(c *cluster) {
			t, l := c.t, c.leader()
			if r, err := do(l, incrRequest("n", 5, "")); err != nil || string(r.Value) != "5" {
				t.Fatalf("%+v, %v", r, err)
			}
			others := c.others(l.Node())
			for _, n := range others {
				// The leader hears nobody; whether it is heard decides about its entry.
				c.net.SetFaults(n, l.Node(), LinkFaults{Cut: true})
				c.net.SetFaults(l.Node(), n, LinkFaults{Cut: !survives})
			}
			if _, err := do(l, incrRequest("n", 1, "once")); !errors.Is(err, ErrOutcomeUnknown) {
				t.Fatalf("of a leader that is cut off: %v, want an unknown outcome", err)
			}
			next := c.leader(others...)
			for i := range 3 {
				r, err := do(next, incrRequest("n", 1, "once"))
				if err != nil || r.Status != fsm.StatusOK || string(r.Value) != "6" || !r.HasValue || r.Replayed != (survives || i > 0) {
					t.Errorf("survives %t, attempt %d: %+v, %v", survives, i+2, r, err)
				}
			}
			if r, err := do(next, incrRequest("n", 2, "once")); err != nil || r.Status != fsm.StatusKeyReused {
				t.Errorf("another change under the same key: %+v, %v", r, err)
			}
			c.net.Heal()
			c.wantGet(next, "n", "6")
			c.wantSameState()
		})
	}
}

// TestIncrOnceOverSnapshot ensures that replicas which begin from a snapshot remember what was done under an idempotency key.
func TestIncrOnceOverSnapshot(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		t, l := c.t, c.leader()
		first, err := do(l, incrRequest("n", 5, "once"))
		if err != nil || string(first.Value) != "5" {
			t.Fatalf("%+v, %v", first, err)
		}
		c.fill(l, 40, "v")
		c.until("all have it in a snapshot", func() bool {
			return !slices.ContainsFunc(c.names, func(n string) bool {
				metas, err := c.hosts[n].Group(testShard).snaps.List()
				return err != nil || len(metas) == 0 || metas[0].Index < first.Index
			})
		})
		for _, n := range c.names {
			c.crash(n)
		}
		for _, n := range c.names {
			c.start(n)
		}
		if r, err := do(c.leader(), incrRequest("n", 5, "once")); err != nil || string(r.Value) != "5" || !r.Replayed {
			t.Errorf("again, after the snapshot: %+v, %v", r, err)
		}
	})
}

// TestIncrCountsExactly ensures that increments of many clients, each made until it is known to have happened, add up to
// exactly their number, while leaders crash and are cut off.
func TestIncrCountsExactly(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t := c.t
		const clients, each = 8, 25
		var unknown, replayed int
		var mu sync.Mutex // guards unknown and replayed
		// once makes an increment until it happened, asking all nodes in turn.
		once := func(random *rand.Rand, key string) {
			for i := 0; ; i++ {
				if h := c.host(c.names[(i+random.IntN(2))%len(c.names)]); h != nil {
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					r, err := h.Do(ctx, h.Node(), incrRequest("n", 1, key))
					cancel()
					if err == nil && r.Status != fsm.StatusOK {
						t.Errorf("%s: %+v", key, r)
					}
					mu.Lock()
					if errors.Is(err, ErrOutcomeUnknown) {
						unknown++
					} else if err == nil && r.Replayed {
						replayed++
					}
					mu.Unlock()
					if err == nil {
						return
					}
				}
				time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
			}
		}
		var wg sync.WaitGroup
		for client := range clients {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(client), 1))
				for i := range each {
					once(random, fmt.Sprintf("%d-%d", client, i))
					time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
				}
			})
		}
		for round := range 4 {
			time.Sleep(700 * time.Millisecond)
			l := c.leader()
			if round%2 == 0 {
				for _, n := range c.others(l.Node()) {
					c.net.SetFaults(n, l.Node(), LinkFaults{Cut: true}) // its entries go out, the answers are lost
				}
				c.leader(c.others(l.Node())...)
				c.net.Heal()
				continue
			}
			c.crash(l.Node())
			c.leader()
			c.start(l.Node())
		}
		wg.Wait()
		c.wantGet(c.leader(), "n", strconv.Itoa(clients*each))
		c.wantSameState()
		if unknown == 0 || replayed == 0 {
			t.Errorf("%d outcomes were unknown and %d replayed: the test is too gentle", unknown, replayed)
		}
		t.Logf("%d outcomes were unknown, %d increments replayed", unknown, replayed)
	})
}

// TestOperations ensures that each operation does on a cluster what it says, here and forwarded, and that the replicas agree
// on what it left behind.
func TestOperations(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		t, l := c.t, c.leader()
		follower := c.hosts[c.others(l.Node())[0]]
		for _, forwarded := range []bool{false, true} {
			key := []byte(fmt.Sprint("k", forwarded))
			ask := func(req Request) Response {
				t.Helper()
				req.Shard = testShard
				if req.Key == nil {
					req.Key = key
				}
				from := l
				if forwarded {
					from = follower
				}
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				r, err := from.Do(ctx, l.Node(), req)
				if err != nil {
					t.Fatalf("%+v: %v", req, err)
				}
				return r
			}
			want := func(what string, r Response, status fsm.Status, value string) {
				t.Helper()
				if r.Status != status || r.HasValue != (value != "") || string(r.Value) != value {
					t.Errorf("forwarded %t, %s: %+v, want status %d and value %q", forwarded, what, r, status, value)
				}
			}
			want("touch of nothing", ask(Request{Op: OpTouch}), fsm.StatusNotFound, "")
			want("expire of nothing", ask(Request{Op: OpExpire, TTL: time.Second}), fsm.StatusNotFound, "")
			want("incr", ask(Request{Op: OpIncr, Delta: -3, TTL: time.Minute}), fsm.StatusOK, "-3")
			want("put", ask(Request{Op: OpPut, Value: []byte("a"), ContentType: "x/y", ReturnOld: true}), fsm.StatusOK, "-3")
			want("incr of text", ask(Request{Op: OpIncr, Delta: 1}), fsm.StatusNotInteger, "")
			r := ask(Request{Op: OpAppend, Value: []byte("b"), ContentType: "not/kept"})
			want("append", r, fsm.StatusOK, "ab")
			if r.ContentType != "x/y" {
				t.Errorf("append: content type %q", r.ContentType)
			}
			if e := ask(Request{Op: OpExpire, TTL: time.Minute}); e.Status != fsm.StatusOK || e.Version != r.Version {
				t.Errorf("expire: %+v, want version %d", e, r.Version)
			}
			if g := ask(Request{Op: OpGet}); !g.HasTTL || g.TTL > time.Minute || g.TTL < 50*time.Second || g.Version != r.Version {
				t.Errorf("get after expire: %+v", g)
			}
			ask(Request{Op: OpExpire})
			want("touch", ask(Request{Op: OpTouch}), fsm.StatusOK, "")
			if g := ask(Request{Op: OpGet}); g.HasTTL || string(g.Value) != "ab" {
				t.Errorf("get after the end of its end: %+v", g)
			}
			first := ask(Request{Op: OpDelete, IdempotencyKey: "once"})
			again := ask(Request{Op: OpDelete, IdempotencyKey: "once"})
			if !first.Existed || first.Replayed || !again.Existed || !again.Replayed || again.Version != first.Version {
				t.Errorf("delete: %+v, again %+v", first, again)
			}
		}
		c.wantSameState()
	})
}
