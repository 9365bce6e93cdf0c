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

// client performs operations one after the other, through any node.
type client struct {
	c       *cluster
	t       testing.TB
	history *recorder
	rnd     *rand.Rand // nil: it reads what can be read by all means
	think   func(*rand.Rand) time.Duration
	leader  string // as it was last told
	known   struct {
		key     string
		put     int
		version uint64
	}
}

func (cl *client) run(stop <-chan struct{}, keys *keyspace) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(cl.think(cl.rnd)):
		}
		via := cl.c.host(cl.c.names[cl.rnd.IntN(len(cl.c.names))])
		if via == nil {
			continue
		}
		to := cl.leader
		if to == "" || cl.rnd.IntN(5) == 0 {
			to = cl.c.names[cl.rnd.IntN(len(cl.c.names))]
		}
		key := keys.pick(cl.rnd)
		timeout := time.Duration(20+cl.rnd.IntN(800)) * time.Millisecond
		switch p := cl.rnd.IntN(10); {
		case p < 4: // most of whatever replica, also through its own node
			if cl.rnd.IntN(3) > 0 {
				to = cl.c.names[cl.rnd.IntN(len(cl.c.names))]
			}
			if cl.rnd.IntN(2) == 0 {
				to = via.Node()
			}
			cl.do(via, to, opGet, key, 0, 0, timeout)
		case p < 6:
			cl.do(via, to, opPut, key, 0, 0, timeout)
		case p < 7:
			cl.do(via, to, opPutAbsent, key, 0, 0, timeout)
		case p < 9 && cl.known.key == key:
			cl.do(via, to, opCAS, key, cl.known.put, cl.known.version, timeout)
		case p == 9:
			cl.do(via, to, opDelete, key, 0, 0, timeout)
		}
	}
}

func (cl *client) do(via *Host, to string, kind int, key string, expect int, version uint64, timeout time.Duration) {
	o := cl.history.begin(kind, key, expect)
	req := Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: fmt.Appendf(nil, "#%d ", o.id)}
	if o.id%16 == 0 {
		req.Value = append(req.Value, make([]byte, 20_000)...)
	}
	switch kind {
	case opGet:
		req.Op, req.Value = OpGet, nil
		switch {
		case cl.rnd == nil: // at the end
		case cl.rnd.IntN(5) == 0:
			req.Consistency, req.MaxStaleness = Bounded, time.Duration(1+cl.rnd.IntN(2000))*time.Millisecond
		case cl.rnd.IntN(8) == 0:
			req.Consistency = Any
		}
		o.consistency = req.Consistency
	case opPutAbsent:
		req.Cond = fsm.Cond{Kind: fsm.CondAbsent}
	case opCAS:
		req.Cond = fsm.Cond{Kind: fsm.CondVersion, Version: version}
	case opDelete:
		req.Op, req.Value = OpDelete, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	resp, err := via.Do(ctx, to, req)
	if err := cl.history.end(o, resp, err); err != nil {
		cl.t.Error(err)
	}
	var elsewhere *NotLeaderError
	switch {
	case errors.As(err, &elsewhere):
		cl.leader = elsewhere.Leader
	case err != nil:
		cl.leader = ""
	case kind == opGet && resp.Found:
		if resp.Read == ReadProbe {
			cl.leader = resp.ServedBy
		}
		cl.known.key, cl.known.version = key, resp.Version
		_, _ = fmt.Sscanf(string(resp.Value), "#%d", &cl.known.put) // end checked it
	}
}
