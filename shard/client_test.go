package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// keyspace is what the clients of a scenario share: a few keys at a time, and new ones before the history of
// one gets too long to judge.
type keyspace struct {
	owned fsm.Range // where the keys' slots lie
	few   int       // keys at a time

	mu    sync.Mutex // guards following
	names []string   // of all keys so far
	uses  int        // of the present ones
}

func newKeyspace(owned fsm.Range, few int) *keyspace {
	k := &keyspace{owned: owned, few: few}
	k.next()
	return k
}

// next replaces the present keys.
func (k *keyspace) next() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nextLocked()
}

func (k *keyspace) nextLocked() {
	k.uses = 0
	for want := len(k.names) + k.few; len(k.names) < want; {
		prefix := fmt.Sprintf("k%d-", len(k.names))
		for n := 0; ; n++ {
			if name := strconv.AppendInt([]byte(prefix), int64(n), 10); k.owned.Contains(fsm.Slot(name)) {
				k.names = append(k.names, string(name))
				break
			}
		}
	}
}

// pick returns one of the present keys.
func (k *keyspace) pick(rnd *rand.Rand) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.uses++; k.uses > 100*k.few {
		k.nextLocked()
	}
	return k.names[len(k.names)-1-rnd.IntN(k.few)]
}

// bell wakes those who wait for it when something happens.
type bell struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

func newBell() *bell { return &bell{ch: make(chan struct{})} }

// next is closed when the bell rings the next time.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}

// client performs operations one after the other, through any node.
type client struct {
	c       *cluster
	s       scenario
	t       testing.TB
	history *recorder
	bell    *bell
	rnd     *rand.Rand // nil: it reads what can be read by all means
	leader  string     // as it was last told
	known   struct {
		key     string
		put     int
		version uint64
	}
}

// run performs operations until stop: one after each pause, and a few in a row when the bell rings.
func (cl *client) run(stop <-chan struct{}, keys *keyspace) {
	rung, hurried := cl.bell.next(), 0
	for {
		pause := cl.s.think(cl.rnd)
		if hurried > 0 {
			hurried--
			pause = max(0, upTo(-10*time.Millisecond, 10*time.Millisecond)(cl.rnd)) // half of them at the same moment
		}
		select {
		case <-stop:
			return
		case <-rung:
			rung, hurried = cl.bell.next(), cl.s.hurried
			continue
		case <-time.After(pause):
		}
		via := cl.c.host(cl.anyNode())
		if via == nil {
			continue
		}
		to := cl.leader
		if to == "" || cl.rnd.IntN(5) == 0 {
			to = cl.anyNode()
		}
		if cl.s.batches && cl.rnd.IntN(4) == 0 {
			cl.doBatch(via, to, cl.draw(keys), time.Duration(20+cl.rnd.IntN(800))*time.Millisecond)
			continue
		}
		o := operation{key: keys.pick(cl.rnd)}
		switch p := cl.rnd.IntN(10); {
		case p < 4: // most of whatever replica, also through its own node
			if cl.rnd.IntN(3) > 0 {
				to = cl.anyNode()
			}
			if cl.rnd.IntN(2) == 0 {
				to = via.Node()
			}
			o.kind = opGet
			switch {
			case cl.rnd.IntN(5) == 0:
				o.consistency = Bounded
			case cl.rnd.IntN(8) == 0:
				o.consistency = Any
			}
		case p < 6:
			o.kind = opPut
		case p < 7:
			o.kind = opPutAbsent
		case p < 9:
			if cl.known.key != o.key {
				continue
			}
			o.kind, o.expect = opCAS, cl.known.put
		default:
			o.kind = opDelete
		}
		if o.kind != opGet && o.kind != opDelete && cl.s.mortal && cl.rnd.IntN(3) == 0 {
			o.ttl = time.Duration(200+cl.rnd.IntN(6000)) * time.Millisecond
			if cl.rnd.IntN(2) == 0 {
				time.AfterFunc(o.ttl, cl.bell.ring)
			}
		}
		cl.do(via, to, o, time.Duration(20+cl.rnd.IntN(800))*time.Millisecond)
	}
}

// killed reports whether the process of a host was killed, and its answer never came.
func (cl *client) killed(via *Host) bool { return cl.c.host(via.Node()) != via }

func (cl *client) anyNode() string { return cl.c.names[cl.rnd.IntN(len(cl.c.names))] }

// request is what o asks for.
func (cl *client) request(o operation) Request {
	req := Request{Shard: testShard, Op: OpPut, Key: []byte(o.key), TTL: o.ttl}
	switch o.kind {
	case opGet:
		req.Op, req.Consistency = OpGet, o.consistency
		if o.consistency == Bounded {
			req.MaxStaleness = time.Duration(1+cl.rnd.IntN(2000)) * time.Millisecond
		}
		return req
	case opDelete:
		req.Op = OpDelete
	case opPutAbsent:
		req.Cond = fsm.Cond{Kind: fsm.CondAbsent}
	case opCAS:
		req.Cond = fsm.Cond{Kind: fsm.CondVersion, Version: cl.known.version}
	}
	if req.Op == OpPut {
		req.Value = fmt.Appendf(nil, "#%d ", o.id)
		switch {
		case cl.s.tight:
			req.Value = append(req.Value, make([]byte, tightValue-cl.rnd.IntN(tightValue/4))...)
		case o.id%16 == 0:
			req.Value = append(req.Value, make([]byte, 20_000)...)
		}
	}
	if cl.s.once && cl.rnd.IntN(2) == 0 {
		req.IdempotencyKey = fmt.Sprint(o.id)
		if cl.rnd.IntN(2) == 0 {
			req.IdempotencyKey = fmt.Sprintf("%d-%d", time.Now().UnixMilli(), o.id)
		}
	}
	return req
}

// draw makes up the operations of a batch, some of them on the same keys; some are reads alone.
func (cl *client) draw(keys *keyspace) (ops []operation) {
	kinds := []int{opGet, opGet, opPut, opPut, opPutAbsent, opDelete}
	if cl.rnd.IntN(3) == 0 {
		kinds = kinds[:2]
	}
	for range 2 + cl.rnd.IntN(4) {
		o := operation{kind: kinds[cl.rnd.IntN(len(kinds))], key: keys.pick(cl.rnd)}
		if n := len(ops); n > 0 && cl.rnd.IntN(2) == 0 {
			o.key = ops[n-1].key
		}
		if (o.kind == opPut || o.kind == opPutAbsent) && cl.s.mortal && cl.rnd.IntN(3) == 0 {
			o.ttl = time.Duration(200+cl.rnd.IntN(6000)) * time.Millisecond
		}
		ops = append(ops, o)
	}
	return ops
}

// doBatch performs operations together. Each counts as one, from the first call to the return, and their places must be in their
// order.
func (cl *client) doBatch(via *Host, to string, ops []operation, timeout time.Duration) {
	b := Batch{Shard: testShard}
	for i := range ops {
		ops[i] = cl.history.begin(ops[i])
		req := cl.request(ops[i])
		req.IdempotencyKey = ""
		b.Ops = append(b.Ops, req)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	replies, err := via.DoBatch(ctx, to, b)
	if cl.killed(via) {
		err = ErrOutcomeUnknown
	}
	var last Response
	for i, o := range ops {
		var r Reply
		if r.Err = err; err == nil {
			r = replies[i]
		}
		if o.kind == opGet && errors.Is(r.Err, ErrOutcomeUnknown) {
			r.Err = ErrNoLeader // a read has no outcome: whoever forwards a batch knows
		}
		if err := cl.history.end(o, r.Response, r.Err); err != nil {
			cl.t.Error(err)
		}
		if r.Err != nil {
			continue
		}
		now := r.Response
		if ordered := now.Index > last.Index || now.Index == last.Index && (now.Position > last.Position || b.Reads() && now.Position == last.Position); !ordered {
			cl.t.Errorf("operation %d of a batch has the place %d.%d, the one before it %d.%d", i, now.Index, now.Position, last.Index, last.Position)
		}
		last = now
	}
}

// errKeyRefused refuses: nothing was done under an idempotency key, this time.
var errKeyRefused = errors.New("the idempotency key is not taken")

func (cl *client) ask(via *Host, to string, req Request, timeout time.Duration) (Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	resp, err := via.Do(ctx, to, req)
	switch {
	case cl.killed(via) && req.Op == OpGet: // it has no outcome
		err = ErrUnreachable
	case cl.killed(via):
		err = ErrOutcomeUnknown
	}
	if err == nil && (resp.Status == fsm.StatusKeyTooOld || resp.Status == fsm.StatusKeyTooNew || resp.Status == fsm.StatusKeysFull) {
		err = errKeyRefused
	}
	return resp, err
}

// do performs an operation. One with an idempotency key is repeated, on any node, until its outcome is known: it
// counts as one, from the first call to the last return.
func (cl *client) do(via *Host, to string, o operation, timeout time.Duration) {
	o = cl.history.begin(o)
	req := cl.request(o)
	resp, err := cl.ask(via, to, req, timeout)
	for tries := 0; req.IdempotencyKey != "" && errors.Is(err, ErrOutcomeUnknown) && tries < 5; tries++ {
		time.Sleep(upTo(100*time.Millisecond, time.Second)(cl.rnd)) // past the deadline of the first, wherever it is
		if again := cl.c.host(cl.anyNode()); again != nil {
			if r, e := cl.ask(again, cl.anyNode(), req, time.Second); e == nil { // a refusal tells nothing of the first
				resp, err = r, nil
			}
		}
	}
	if err := cl.history.end(o, resp, err); err != nil {
		cl.t.Error(err)
	}
	var elsewhere *NotLeaderError
	switch {
	case errors.As(err, &elsewhere):
		cl.leader = elsewhere.Leader
	case err != nil:
		cl.leader = ""
	case o.kind == opGet && resp.Found:
		if resp.Read == ReadProbe {
			cl.leader = resp.ServedBy
		}
		cl.known.key, cl.known.version = o.key, resp.Version
		_, _ = fmt.Sscanf(string(resp.Value), "#%d", &cl.known.put) // end checked it
	}
}
