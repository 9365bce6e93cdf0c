package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// stall makes the log writes of a node's replica wait until the returned function is called.
func stall(h *Host) (release func()) {
	gate := make(chan struct{})
	store := h.Group(testShard).store.(*memoryStore)
	store.onStore(func([]*raft.Log) error { <-gate; return nil })
	return func() {
		store.onStore(nil)
		close(gate)
	}
}

// busy keeps the library's main goroutine of a leader in a write of its disk, with an entry that its batcher knows nothing of, until release.
func (c *cluster) busy(l *Host) (release func()) {
	c.t.Helper()
	data, err := fsm.Batch{Stamp: 1, Level: commandLevel}.AppendBinary(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	end := stall(l)
	done := make(chan error)
	go func() {
		_, _, err := l.Group(testShard).Propose(context.Background(), data)
		done <- err
	}()
	synctest.Wait()
	return func() {
		end()
		if err := <-done; err != nil {
			c.t.Errorf("the entry in the disk: %v", err)
		}
	}
}

func (c *cluster) stats(h *Host) fsm.Stats { return *h.Cache(testShard).Status().Cache }

// TestPacking ensures that concurrent writes share log entries, and that each answer names a place of
// its own in the log and its own version, in the same order.
func TestPacking(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		before := l.Group(testShard).Status().Last
		release := stall(l)
		const n = 500
		type place struct {
			index    uint64
			position uint32
		}
		var mu sync.Mutex
		places, versions, positions := map[place]uint64{}, map[uint64]bool{}, uint32(0)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				r, err := put(l, fmt.Sprint("k", i), "v")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				places[place{r.Index, r.Position}] = r.Version
				versions[r.Version] = true
				positions = max(positions, r.Position)
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		if len(places) != n || len(versions) != n {
			t.Errorf("%d writes took %d places and %d versions", n, len(places), len(versions))
		}
		if used := l.Group(testShard).Status().Last - before; used > n/20 || positions == 0 {
			t.Errorf("%d writes took %d log entries", n, used)
		}
		for a, va := range places {
			for b, vb := range places {
				if before := a.index < b.index || a.index == b.index && a.position < b.position; before != (va < vb) {
					t.Fatalf("version %d stands at %v, %d at %v", va, a, vb, b)
				}
			}
		}
		c.wantSameState()
	})
}

// TestDeadlineInQueue ensures that a write whose deadline passes before it is proposed is refused, at
// the deadline, and never happens.
func TestDeadlineInQueue(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		release := stall(l)
		var wg sync.WaitGroup
		// One entry at a time until no more may be in flight, or wait on the way to the library.
		for i := range maxInFlight + 2 {
			wg.Go(func() { _, _ = put(l, fmt.Sprint("filler", i), "v") })
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := l.Do(ctx, l.Node(), Request{Shard: testShard, Op: OpPut, Key: []byte("late"), Value: []byte("v")})
		if !errors.Is(err, ErrDeadline) || !Refused(err) {
			t.Errorf("put that waited in the queue: %v", err)
		}
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("refused after %v", took)
		}
		release()
		wg.Wait()
		l = c.leader()
		c.mustPut(l, "after", "v")
		c.wantGet(l, "late", "")
	})
}

// TestDeadlineAfterStop ensures that what waited in the queue while this process was stopped is not
// proposed after its deadline, although no timer has fired yet.
func TestDeadlineAfterStop(t *testing.T) {
	b := newBatcher(nil, nil)
	past, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	for name, ctx := range map[string]context.Context{"fired": past, "not fired": late{context.Background()}} {
		p := &proposal{ctx: ctx, command: &fsm.Command{Key: []byte("k")}, done: make(chan outcome, 1)}
		b.bytes.Add(p.weight())
		if b.take(p) {
			t.Fatalf("%s: proposed", name)
		}
		if o := <-p.done; !errors.Is(o.err, ErrDeadline) {
			t.Errorf("%s: %v", name, o.err)
		}
	}
	if left := b.bytes.Load(); left != 0 {
		t.Errorf("%d bytes are still counted as waiting", left)
	}
}

// TestDeadlineAfterStopInBetween ensures that of what was gathered for an entry, nothing is proposed whose deadline passed before the library got it,
// as where this process was stopped just then, and that the rest is.
func TestDeadlineAfterStopInBetween(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		b := l.Cache(testShard).batches
		var batch []*proposal
		for key, ctx := range map[string]context.Context{"late": late{context.Background()}, "in time": context.Background()} {
			batch = append(batch, &proposal{ctx: ctx, command: &fsm.Command{Kind: fsm.KindPut, Key: []byte(key), Value: []byte("v")}, done: make(chan outcome, 1)})
			batch[len(batch)-1].state.Store(taken)
		}
		permit, ok := b.await(batch[0])
		if !ok {
			t.Fatal("the group ended")
		}
		all := slices.Clone(batch)
		if b.propose(batch, false, permit) {
			t.Error("an entry was made with what is late")
		} else {
			b.release(permit)
		}
		for _, p := range all {
			_, isLate := p.ctx.(late)
			if o := <-p.done; isLate != errors.Is(o.err, ErrDeadline) || !isLate && o.err != nil {
				t.Errorf("%s: %v", p.command.Key, o.err)
			}
		}
		c.wantGet(l, "late", "")
		c.wantGet(l, "in time", "v")
	})
}

// late is a context whose deadline has passed and whose timer has not run.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

// TestOverload ensures that a write is refused at once when too many wait already, by number or by
// bytes, and that those who wait are served when the jam is over.
func TestOverload(t *testing.T) {
	for _, tc := range []struct {
		name  string
		n     int
		value string
	}{{"many", queueLength + maxInFlight*maxBatchCommands + 500, "v"}, {"large", 100, strings.Repeat("x", 1<<20)}} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, 3, nil, func(c *cluster) {
				l := c.leader()
				release := stall(l)
				var wg sync.WaitGroup
				for i := range maxInFlight + 2 {
					wg.Go(func() { _, _ = put(l, fmt.Sprint("filler", i), "v") })
					synctest.Wait()
				}
				var mu sync.Mutex
				refused, done := 0, 0
				began := time.Now()
				for i := range tc.n {
					wg.Go(func() {
						_, err := put(l, fmt.Sprint("k", i), tc.value)
						mu.Lock()
						defer mu.Unlock()
						switch {
						case err == nil:
							done++
						case errors.Is(err, ErrOverloaded) && Refused(err):
							refused++
							if took := time.Since(began); took > 0 {
								t.Errorf("refused after %v", took)
							}
						default:
							t.Error(err)
						}
					})
				}
				synctest.Wait()
				release()
				wg.Wait()
				if refused == 0 || done == 0 || refused+done != tc.n {
					t.Errorf("of %d writes %d were refused and %d done", tc.n, refused, done)
				}
				if left := l.Cache(testShard).batches.bytes.Load(); left != 0 {
					t.Errorf("%d bytes are still counted as waiting", left)
				}
				c.wantSameState()
			})
		})
	}
}

// TestLeadershipLostInFlight ensures that a write which was proposed and whose leader lost its
// leadership ends as unknown, and one that comes later as refused.
func TestLeadershipLostInFlight(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.net.Isolate(l.Node(), c.others(l.Node())...)
		_, err := put(l, "k", "v")
		if !errors.Is(err, ErrOutcomeUnknown) || Refused(err) {
			t.Errorf("write of a leader that is cut off: %v", err)
		}
		if _, err := put(l, "k", "v"); !Refused(err) {
			t.Errorf("write of a deposed leader: %v", err)
		}
		next := c.leader(c.others(l.Node())...)
		c.net.Heal()
		c.mustPut(next, "k", "v2")
		c.wantSameState()
		c.wantGet(c.leader(), "k", "v2")
	})
}

// TestPausedLeaderRefusesOldRequests ensures that a forwarded request which waited in the socket of a
// process that was stopped is not proposed when its deadline passed meanwhile, while one with time left
// is done, although neither node knows the other's clock.
func TestPausedLeaderRefusesOldRequests(t *testing.T) {
	for _, pause := range []time.Duration{2500 * time.Millisecond, 5 * time.Second} {
		linkSurvives := pause < linkTimeout
		// Nobody stands for election meanwhile: the leader still leads when it goes on.
		slow := func(_ string, c *Config) { c.HeartbeatTimeout, c.ElectionTimeout = 30*time.Second, 30*time.Second }
		inBubble(t, 3, slow, func(c *cluster) {
			l := c.leader()
			from := c.hosts[c.others(l.Node())[0]]
			c.mustPut(l, "k", "v")
			time.Sleep(transitWindow + 5*time.Second) // so that the stop falls into a second window
			before := c.stats(l).Version
			for _, o := range c.others(l.Node()) {
				c.net.Hold(o, l.Node())
			}
			forward := func(key string, timeout time.Duration) <-chan error {
				done := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), timeout)
					defer cancel()
					_, err := from.Do(ctx, l.Node(), Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte("v")})
					done <- err
				}()
				return done
			}
			late, early := forward("late", time.Second), forward("early", 20*time.Second)
			if err := <-late; !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("the sender can't know what became of it: %v", err)
			}
			time.Sleep(pause - time.Second)
			for _, o := range c.others(l.Node()) {
				c.net.Release(o, l.Node())
			}
			if err := <-early; linkSurvives && err != nil {
				t.Errorf("a request with time left: %v", err)
			}
			synctest.Wait()
			if !l.Group(testShard).Status().Ready {
				t.Error("the leader is deposed: this test proves nothing")
			}
			c.wantGet(l, "late", "")
			if grown := c.stats(l).Version - before; grown > 1 || linkSurvives && grown != 1 {
				t.Errorf("%d writes were executed", grown)
			}
		})
	}
}

// TestBadRequests ensures that what has no encoding, or no frame could carry, is refused by itself and
// spoils no other write.
func TestBadRequests(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		other := c.hosts[c.others(l.Node())[0]]
		good := Request{Shard: testShard, Op: OpPut, Key: []byte("k"), Value: []byte("v")}
		for name, change := range map[string]func(r *Request){
			"no key":                 func(r *Request) { r.Key = nil },
			"long key":               func(r *Request) { r.Key = make([]byte, fsm.MaxKey+1) },
			"long content type":      func(r *Request) { r.ContentType = strings.Repeat("x", fsm.MaxContentType+1) },
			"value beyond a frame":   func(r *Request) { r.Value = make([]byte, maxValue+1) },
			"unknown condition":      func(r *Request) { r.Cond.Kind = 99 },
			"condition with version": func(r *Request) { r.Cond = fsm.Cond{Kind: fsm.CondAbsent, Version: 1} },
			"unknown operation":      func(r *Request) { r.Op = 77 },
			"negative ttl":           func(r *Request) { r.TTL = -time.Second },
			"broken ttl":             func(r *Request) { r.TTL = time.Microsecond },
		} {
			req := good
			change(&req)
			for _, h := range []*Host{l, other} {
				if _, err := h.Do(context.Background(), l.Node(), req); !errors.Is(err, errBadRequest) {
					t.Errorf("%s by %s: %v", name, h.Node(), err)
				}
			}
		}
		if _, err := l.Do(context.Background(), l.Node(), Request{Shard: 9, Op: OpGet, Key: []byte("k")}); !errors.Is(err, ErrUnknownShard) {
			t.Errorf("unknown shard: %v", err)
		}
		if _, err := l.Do(context.Background(), "z", good); !errors.Is(err, ErrUnreachable) {
			t.Errorf("unknown node: %v", err)
		}
		// The largest value that is let through reaches every replica.
		req := good
		req.Value = make([]byte, maxValue)
		if r, err := other.Do(context.Background(), l.Node(), req); err != nil || r.Status != fsm.StatusTooLarge {
			t.Errorf("largest value: %+v, %v", r.Status, err) // decided when applied, by the shard's limit
		}
		c.wantSameState()
	})
}

// TestForwardedOnce ensures that a forwarded request which the network repeats, delays, reorders or
// loses is never executed twice: each put-if-absent of a key of its own succeeds or is not answered,
// and each executed put costs exactly one version.
func TestForwardedOnce(t *testing.T) {
	for name, f := range map[string]LinkFaults{
		"repeated":  {Duplicate: 1, Jitter: 3 * time.Millisecond},
		"reordered": {Jitter: 20 * time.Millisecond},
		"lost":      {Loss: 0.1, Duplicate: 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, nil, func(c *cluster) {
				l := c.leader()
				from := c.hosts[c.others(l.Node())[0]]
				before := c.stats(l).Version
				c.net.SetFaults(from.Node(), l.Node(), f)
				var mu sync.Mutex
				done, unknown := 0, 0
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						for n := range 25 {
							resp, err := forwardTo(from, l.Node(), Request{Shard: testShard, Op: OpPut, Key: fmt.Appendf(nil, "%d-%d", i, n),
								Value: []byte("v"), Cond: fsm.Cond{Kind: fsm.CondAbsent}})
							mu.Lock()
							switch {
							case err == nil && resp.Status != fsm.StatusOK:
								t.Errorf("a key of its own was there already: %+v", resp)
							case err == nil:
								done++
							case errors.Is(err, ErrOutcomeUnknown):
								unknown++
							}
							mu.Unlock()
						}
					})
				}
				wg.Wait()
				c.net.Heal()
				c.wantSameState()
				grown := int(c.stats(c.leader()).Version - before)
				if grown < done || grown > done+unknown {
					t.Errorf("%d writes were acknowledged, %d are unknown, %d were executed", done, unknown, grown)
				}
				if done < 20 || name != "repeated" && unknown == 0 {
					t.Errorf("%d done, %d unknown: too little to prove anything", done, unknown)
				}
			})
		})
	}
}

// forwardTo forwards with half a second of time.
func forwardTo(h *Host, to string, req Request) (Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	return h.Do(ctx, to, req)
}

// TestNotProposedAfterDeadline ensures that a write whose deadline passes while the leader's disk is
// busy is refused and never applied, and that one packed with it which has time left is applied.
func TestNotProposedAfterDeadline(t *testing.T) {
	patient := func(_ string, c *Config) { c.HeartbeatTimeout, c.ElectionTimeout = 5*time.Second, 5*time.Second }
	inBubble(t, 3, patient, func(c *cluster) {
		l := c.lead("a")
		release := c.busy(l)
		var wg sync.WaitGroup
		write := func(key string, timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			_, err := l.Do(ctx, "a", Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte("v")})
			return err
		}
		late := func(key string, timeout time.Duration) {
			wg.Go(func() {
				if err := write(key, timeout); !errors.Is(err, ErrDeadline) {
					t.Errorf("%s: %v, want that it is refused: the library did not take it", key, err)
				}
			})
		}
		late("late0", 100*time.Millisecond) // waits for the library, alone; the others then, together
		synctest.Wait()
		for _, key := range []string{"late1", "late2", "late3", "late4", "late5"} {
			late(key, 200*time.Millisecond)
		}
		wg.Go(func() {
			if err := write("patient", 2*time.Second); err != nil {
				t.Errorf("the patient write: %v", err)
			}
		})
		time.Sleep(150 * time.Millisecond)
		if n := l.Cache(testShard).batches.bytes.Load(); n != 0 {
			t.Errorf("%d bytes wait in the queue: not all are in one entry", n)
		}
		time.Sleep(650 * time.Millisecond)
		release()
		wg.Wait()
		time.Sleep(time.Second)
		l = c.leader()
		for _, key := range []string{"late0", "late1", "late2", "late3", "late4", "late5"} {
			c.wantGet(l, key, "")
		}
		c.wantGet(l, "patient", "v")
	})
}

// TestUntakenIsRefused ensures that what the library did not take before its deadline is refused, not
// unknown, whichever way it was proposed, and that a tick which was to ride on it is made anew.
func TestUntakenIsRefused(t *testing.T) {
	patient := func(_ string, c *Config) { c.HeartbeatTimeout, c.ElectionTimeout = 5*time.Second, 5*time.Second }
	inBubble(t, 3, patient, func(c *cluster) {
		l := c.lead("a")
		g, cache := l.Group(testShard), l.Cache(testShard)
		c.putTTL(l, "due", 10*time.Millisecond)
		time.Sleep(20 * time.Millisecond)
		for range 30 {
			release := c.busy(l)
			var wg sync.WaitGroup
			soon, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			wg.Go(func() {
				_, err := cache.Do(soon, Request{Shard: testShard, Op: OpPut, Key: []byte("k"), Value: []byte("v")})
				if !errors.Is(err, ErrDeadline) {
					t.Errorf("the write: %v", err)
				}
			})
			wg.Go(func() {
				data, err := fsm.Batch{Stamp: 1, Level: commandLevel}.AppendBinary(nil)
				if err != nil {
					t.Error(err)
				}
				if _, _, err := g.Propose(soon, data); !errors.Is(err, ErrDeadline) {
					t.Errorf("the proposal: %v", err)
				}
			})
			time.Sleep(10 * time.Millisecond)
			wg.Go(func() {
				later, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				if err := cache.batches.tick(later, 1); err != nil {
					t.Errorf("a tick with time left: %v", err)
				}
			})
			time.Sleep(300 * time.Millisecond)
			release()
			wg.Wait()
			cancel()
		}
		c.wantGet(l, "k", "")
	})
}

// TestAppendsFillAnEntry ensures that as many appends as an entry takes do not wait for the one in flight, and that none is counted as waiting in the
// end.
func TestAppendsFillAnEntry(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		b := l.Cache(testShard).batches
		release := stall(l)
		var wg sync.WaitGroup
		for i := range 1 + MaxBatchAppends {
			wg.Go(func() {
				if _, err := do(l, Request{Shard: testShard, Op: OpAppend, Key: []byte("k"), Value: []byte("v")}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			want := 1
			if i == MaxBatchAppends { // the first one is in flight
				want = 2
			}
			if n := len(b.slots); n != want {
				t.Errorf("%d entries are in flight after %d appends, want %d", n, i+1, want)
			}
		}
		release()
		wg.Wait()
		if n := b.appends.Load(); n != 0 {
			t.Errorf("%d appends wait in the end", n)
		}
	})
}

// TestWritesGather ensures that what comes while an entry is in flight shares the next one, and that what fills entries does not
// wait for that.
func TestWritesGather(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		for _, tc := range []struct {
			value    string
			inFlight int
		}{{"v", 1}, {strings.Repeat("x", maxBatchBytes), 2}} { // the library takes no third from a leader whose disk stalls
			release := stall(l)
			var wg sync.WaitGroup
			var mu sync.Mutex
			entries := map[uint64]int{}
			for i := range 20 {
				wg.Go(func() {
					r, err := put(l, fmt.Sprint("k", i), tc.value)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					entries[r.Index]++
				})
				synctest.Wait()
			}
			if n := len(l.Cache(testShard).batches.slots); n != tc.inFlight {
				t.Errorf("values of %d bytes: %d entries are in flight, want %d", len(tc.value), n, tc.inFlight)
			}
			release()
			wg.Wait()
			want := 2
			if tc.inFlight > 1 {
				want = 20
			}
			if len(entries) != want {
				t.Errorf("values of %d bytes: 20 writes in %d entries, want %d: %v", len(tc.value), len(entries), want, entries)
			}
		}
	})
}

// TestFullEntryGoesAtOnce ensures that writes which wait for an entry in flight go as soon as there are enough of them to fill one.
func TestFullEntryGoesAtOnce(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		release := stall(l)
		var wg sync.WaitGroup
		for i, value := range []string{"in flight", "waits", strings.Repeat("x", maxBatchBytes)} {
			if n := len(l.Cache(testShard).batches.slots); n != min(i, 1) {
				t.Errorf("before write %d %d entries are in flight", i, n)
			}
			wg.Go(func() {
				if _, err := put(l, fmt.Sprint("k", i), value); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if n := len(l.Cache(testShard).batches.slots); n != 2 {
			t.Errorf("with an entry's worth of writes waiting %d entries are in flight, want 2", n)
		}
		release()
		wg.Wait()
	})
}

// TestTickRidesOnEntryInFlight ensures that a tick has the outcome of an entry in flight that is stamped late enough, and is
// made anew where the library did not take that one.
func TestTickRidesOnEntryInFlight(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		b, i := l.Cache(testShard).batches, l.Group(testShard).instance()
		failed := errors.New("failed")
		for _, tc := range []struct{ came, want error }{{nil, nil}, {failed, failed}, {errNotTaken, nil}} {
			before := raftOf(l).LastIndex()
			fl := &flight{life: i.quit, stamp: 1, done: make(chan struct{})}
			b.mu.Lock()
			b.last = fl
			b.mu.Unlock()
			tick := &proposal{ctx: context.Background(), need: 1, done: make(chan outcome, 1)}
			tick.state.Store(taken)
			if b.join(i, nil, fl.stamp+1) || !b.join(i, []*proposal{tick}, 1) {
				t.Fatal("joined one that is stamped too early, or not one that is stamped late enough")
			}
			synctest.Wait()
			if len(tick.done) != 0 {
				t.Fatal("it is done before the entry is")
			}
			fl.err = tc.came
			close(fl.done)
			if o := <-tick.done; !errors.Is(o.err, tc.want) {
				t.Errorf("of an entry that ended with %v, a tick ends with %v", tc.came, o.err)
			}
			if made := raftOf(l).LastIndex() != before; made != (tc.came == errNotTaken) {
				t.Errorf("of an entry that ended with %v, another was made: %t", tc.came, made)
			}
		}
	})
}

// TestCloseWhileUntaken ensures that a write which the library has not taken when the node closes is
// refused at once, however long its deadline is.
func TestCloseWhileUntaken(t *testing.T) {
	patient := func(_ string, c *Config) { c.HeartbeatTimeout, c.ElectionTimeout = 5*time.Second, 5*time.Second }
	inBubble(t, 3, patient, func(c *cluster) {
		l := c.lead("a")
		release := c.busy(l)
		var wg sync.WaitGroup
		cache := l.Cache(testShard)
		b := cache.batches
		for range maxInFlight { // no slot is free, so that both get into one entry
			b.slots <- struct{}{}
		}
		for _, timeout := range []time.Duration{200 * time.Millisecond, time.Hour} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				defer cancel()
				began := time.Now()
				_, err := cache.Do(ctx, Request{Shard: testShard, Op: OpPut, Key: []byte("k"), Value: []byte("v")})
				if took := time.Since(began); took > time.Minute || !Refused(err) {
					t.Errorf("deadline %v: %v after %v", timeout, err, took)
				}
			})
		}
		time.Sleep(5 * time.Millisecond)
		for range maxInFlight {
			b.release(permit{})
		}
		time.Sleep(50 * time.Millisecond)
		delete(c.hosts, "a")
		wg.Go(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		release()
		wg.Wait()
	})
}

// TestAppendsPerEntry ensures that a log entry takes few appends, however short they are: what each makes may be long.
func TestAppendsPerEntry(t *testing.T) {
	b := newBatcher(nil, nil)
	for range 2 * MaxBatchAppends {
		p := &proposal{ctx: t.Context(), command: &fsm.Command{Kind: fsm.KindAppend, Key: []byte("k")}, done: make(chan outcome, 1)}
		b.bytes.Add(p.weight())
		b.queue <- p
	}
	commands := slices.Repeat([]fsm.Command{{Kind: fsm.KindAppend}, {Kind: fsm.KindPut}}, MaxBatchAppends)
	for range 2 {
		b.queue <- &proposal{ctx: t.Context(), commands: commands, done: make(chan outcome, 1)}
	}
	for i, want := range []int{MaxBatchAppends, MaxBatchAppends, 1, 1} {
		if batch := b.gather(nil); len(batch) != want {
			t.Errorf("entry %d takes %d proposals, want %d", i, len(batch), want)
		}
	}
}
