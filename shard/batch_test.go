package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/fsm"
)

// doBatch performs operations on the replica of h's node.
func doBatch(h *Host, ops ...Request) ([]Reply, error) {
	return doBatchOn(h, h.Node(), Batch{Ops: ops})
}

// doBatchOn performs b on the replica of a node, by way of h.
func doBatchOn(h *Host, node string, b Batch) ([]Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	b.Shard = testShard
	return h.DoBatch(ctx, node, b)
}

func putOp(key, value string) Request {
	return Request{Op: OpPut, Key: []byte(key), Value: []byte(value)}
}

func getOp(key string) Request { return Request{Op: OpGet, Key: []byte(key)} }

// TestBatchIsOrdered ensures that the operations of a batch with writes have one log entry and stand in it in order, each at
// its own place; and that a read among them sees what stands before it and nothing of what stands behind it, by whatever node
// it comes in.
func TestBatchIsOrdered(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "k", "0")
		for _, via := range c.names {
			h := c.hosts[via]
			last := l.Group(testShard).Status().Last
			replies, err := doBatchOn(h, l.Node(), Batch{Ops: []Request{getOp("k"), putOp("k", "1"), getOp("k"), {Op: OpIncr, Key: []byte("k"), Delta: 5}, getOp("k"),
				{Op: OpDelete, Key: []byte("k")}, getOp("k"), putOp("k", "0")}})
			if err != nil {
				t.Fatalf("via %s: %v", via, err)
			}
			if now := l.Group(testShard).Status().Last; now != last+1 {
				t.Errorf("via %s: %d entries", via, now-last)
			}
			for i, want := range map[int]string{0: "0", 2: "1", 4: "6", 6: ""} {
				if r := replies[i]; r.Err != nil || string(r.Response.Value) != want || r.Response.Found != (want != "") || r.Response.Read != ReadLog {
					t.Errorf("via %s: read %d: %+v, want %q", via, i, r, want)
				}
			}
			first := replies[0].Response
			for i, r := range replies {
				if r.Err != nil || r.Response.Index != first.Index || r.Response.Position != first.Position+uint32(i) || r.Response.ServedBy != l.Node() {
					t.Errorf("via %s: reply %d: %+v", via, i, r)
				}
			}
		}
		c.wantSameState()
	})
}

// TestBatchOfReads ensures that reads without writes leave the log alone, take one round for all of them, and are served by
// followers too.
func TestBatchOfReads(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		var reads []Request
		for i := range 100 {
			if i%2 == 0 {
				c.mustPut(l, fmt.Sprint("k", i), fmt.Sprint("v", i))
			}
			reads = append(reads, getOp(fmt.Sprint("k", i)))
		}
		last := l.Group(testShard).Status().Last
		for _, node := range c.names {
			replies, err := doBatch(c.hosts[node], reads...)
			if err != nil || len(replies) != 100 {
				t.Fatalf("%s: %v", node, err)
			}
			path := ReadFollower
			if node == l.Node() {
				path = ReadProbe
			}
			for i, r := range replies {
				want := ""
				if i%2 == 0 {
					want = fmt.Sprint("v", i)
				}
				if r.Err != nil || string(r.Response.Value) != want || r.Response.Read != path || !r.Response.Found && r.Response.MissReason != MissAbsent {
					t.Errorf("%s: %+v", node, r)
				}
			}
		}
		if now := l.Group(testShard).Status().Last; now != last {
			t.Errorf("reads took %d log entries", now-last)
		}
	})
}

// TestBatchOfReadsMeetsDue ensures that a read of a batch which meets an entry that is over sees it dead, on the leader by a
// tick, and that a follower leaves all of them to the leader.
func TestBatchOfReadsMeetsDue(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "stays", "v")
		for _, key := range []string{"a", "b"} {
			if _, err := do(l, Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte("v"), TTL: time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(1500 * time.Millisecond)
		var leader *NotLeaderError
		if _, err := doBatch(c.hosts[c.others(l.Node())[0]], getOp("stays"), getOp("a")); !errors.As(err, &leader) || leader.Leader != l.Node() {
			t.Errorf("on a follower: %v", err)
		}
		replies, err := doBatch(l, getOp("a"), getOp("stays"), getOp("b"))
		if err != nil || replies[0].Response.Found || !replies[1].Response.Found || replies[2].Response.Found || replies[0].Response.Read != ReadLog {
			t.Errorf("%+v, %v", replies, err)
		}
	})
}

// TestBatchReadsAreUses ensures that a read in a batch makes its entry recent, among writes or without, unless it is to leave no trace.
func TestBatchReadsAreUses(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.fillLRU(l, 8)
		quiet := getOp(lruKey(1))
		quiet.NoTouch = true
		if _, err := doBatch(l, getOp(lruKey(0)), quiet, putOp(lruKey(7), lruValue)); err != nil {
			t.Fatal(err)
		}
		c.replicated(l, 1)
		c.mustPut(l, lruKey(8), lruValue)
		quiet.Key = []byte(lruKey(2))
		if _, err := doBatch(l, quiet, getOp(lruKey(3))); err != nil {
			t.Fatal(err)
		}
		c.replicated(l, 2)
		for k := 9; k < 11; k++ {
			c.mustPut(l, lruKey(k), lruValue)
		}
		c.wantThere(l, 11, func(k int) bool { return k != 1 && k != 2 && k != 4 })
	})
}

// TestBatchRefusals ensures that what the state machine refuses keeps nothing else of a batch from being done, and that a
// shard says of each operation whether it owns the key.
func TestBatchRefusals(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		absent := putOp("k", "2")
		absent.Cond = fsm.Cond{Kind: fsm.CondAbsent}
		replies, err := doBatch(l, putOp("k", "1"), absent, Request{Op: OpTouch, Key: []byte("none")}, Request{Op: OpIncr, Key: []byte("k"), Delta: math.MaxInt64}, getOp("k"))
		want := []fsm.Status{fsm.StatusOK, fsm.StatusCondition, fsm.StatusNotFound, fsm.StatusNotInteger, fsm.StatusOK}
		for i, r := range replies {
			if r.Err != nil || r.Response.Status != want[i] {
				t.Errorf("reply %d: %+v, %v", i, r, err)
			}
		}
		slot := uint32(fsm.Slot([]byte("mine")))
		if err := l.Cache(testShard).Grant(context.Background(), fsm.Grant{Range: fsm.Range{Start: slot, End: slot + 1}, Epoch: 2, Generation: 1, VersionBits: 2, Limit: 1 << 20, TableVersion: 2}); err != nil {
			t.Fatal(err)
		}
		for _, ops := range [][]Request{{getOp("k"), getOp("mine")}, {putOp("k", "v"), putOp("mine", "v")}, {putOp("k", "v"), getOp("mine")}, {getOp("k"), putOp("mine", "v")}} {
			for _, via := range c.names {
				replies, err := doBatchOn(c.hosts[via], l.Node(), Batch{Ops: ops})
				if err != nil || !isNotOwner(replies[0].Err) || replies[1].Err != nil {
					t.Errorf("via %s: %+v, %v", via, replies, err)
				}
			}
		}
		if _, err := doBatchOn(l, l.Node(), Batch{Atomic: true, Ops: []Request{putOp("mine", "v"), putOp("k", "v")}}); !isNotOwner(err) {
			t.Errorf("atomic: %v", err)
		}
	})
}

// TestBatchAtomic ensures that an atomic batch is applied whole or not at all, once under its idempotency key, and that its
// replies say which it was.
func TestBatchAtomic(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		via := c.hosts[c.others(l.Node())[0]]
		absent := putOp("b", "2")
		absent.Cond = fsm.Cond{Kind: fsm.CondAbsent}
		ops := []Request{putOp("a", "1"), absent, getOp("a"), {Op: OpIncr, Key: []byte("a"), Delta: 1}}
		replies, err := doBatchOn(via, l.Node(), Batch{Atomic: true, Ops: ops})
		if err != nil || string(replies[2].Response.Value) != "1" || string(replies[3].Response.Value) != "2" {
			t.Fatalf("%+v, %v", replies, err)
		}
		replies, err = doBatchOn(via, l.Node(), Batch{Atomic: true, Ops: ops})
		if err != nil || replies[0].Response.Status != fsm.StatusAborted || replies[1].Response.Status != fsm.StatusCondition || replies[2].Response.Found {
			t.Fatalf("again: %+v, %v", replies, err)
		}
		c.wantGet(l, "a", "2")
		once := Batch{Atomic: true, Caller: "me", IdempotencyKey: "once", Ops: []Request{{Op: OpIncr, Key: []byte("a"), Delta: 5, TTL: time.Hour, DefaultTTL: true}, {Op: OpDelete, Key: []byte("b")}}}
		for i := range 3 {
			once.Ops[0].TTL = time.Duration(i+1) * time.Hour
			replies, err := doBatchOn(via, l.Node(), once)
			if err != nil || replies[0].Response.Replayed != (i > 0) || replies[1].Response.Replayed != (i > 0) || !replies[1].Response.Existed {
				t.Fatalf("%+v, %v", replies, err)
			}
		}
		once.Ops = once.Ops[:1]
		if replies, err := doBatchOn(via, l.Node(), once); err != nil || replies[0].Response.Status != fsm.StatusKeyReused {
			t.Errorf("another under the key: %+v, %v", replies, err)
		}
		once.Caller, once.Ops = "you", []Request{putOp("c", "v")}
		if replies, err := doBatchOn(via, l.Node(), once); err != nil || replies[0].Response.Status != fsm.StatusOK || replies[0].Response.Replayed {
			t.Errorf("another caller: %+v, %v", replies, err)
		}
		c.wantGet(l, "a", "7")
		c.wantSameState()
	})
}

// TestBatchAnswerIsBounded ensures that values which are too many for one answer are left out: of reads with an error of their
// own, of writes without; and that one value has its room however long it is.
func TestBatchAnswerIsBounded(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		via := c.hosts[c.others(l.Node())[0]]
		long := strings.Repeat("v", maxBatchAnswer/2-100)
		longest := strings.Repeat("v", maxValue-1000)
		c.mustPut(l, "long", long)
		c.mustPut(l, "longest", longest)
		big := Request{Op: OpAppend, Key: []byte("long"), Value: []byte("x")}
		for name, ops := range map[string][]Request{
			"reads":          {getOp("long"), getOp("long"), getOp("long"), getOp("none"), getOp("long")},
			"among a write":  {getOp("long"), getOp("long"), getOp("long"), putOp("other", ""), getOp("long")},
			"the longest":    {getOp("longest"), putOp("other", ""), getOp("long"), getOp("none"), getOp("long")},
			"of the longest": {getOp("longest"), getOp("none"), getOp("long"), getOp("none"), getOp("long")},
			"of writes":      {big, big, big, big, big},
		} {
			replies, err := doBatchOn(via, l.Node(), Batch{Ops: ops})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for i, r := range replies {
				value := r.Response.Value
				switch {
				case name == "of writes":
					if r.Err != nil || r.Response.HasValue != (i < 2) || r.Response.Version == 0 {
						t.Errorf("%s: write %d: value of %d bytes, %v", name, i, len(value), r.Err)
					}
				case ops[i].Op == OpGet && i > 0 && (i > 1 || ops[0].Key[len(ops[0].Key)-1] == 't') && string(ops[i].Key) == "long":
					if !errors.Is(r.Err, ErrAnswerTooLarge) {
						t.Errorf("%s: read %d: value of %d bytes, %v", name, i, len(value), r.Err)
					}
				case r.Err != nil:
					t.Errorf("%s: reply %d: %v", name, i, r.Err)
				}
			}
		}
	})
}

// TestBatchCheck ensures that a batch which is out of bounds, or asks for what none can have, never reaches a log entry.
func TestBatchCheck(t *testing.T) {
	long := putOp("k", strings.Repeat("v", MaxBatchBytes/2+1))
	fill := putOp("k", "v")
	fill.Cond = fsm.Cond{Kind: fsm.CondFill, Version: 1}
	once := putOp("k", "v")
	once.IdempotencyKey = "i"
	for name, tc := range map[string]struct {
		b  Batch
		ok bool
	}{
		"nothing":                {Batch{}, false},
		"all that it may have":   {Batch{Ops: slices.Repeat([]Request{getOp("k")}, MaxBatchOps)}, true},
		"one more":               {Batch{Ops: slices.Repeat([]Request{getOp("k")}, MaxBatchOps+1)}, false},
		"too many bytes":         {Batch{Ops: []Request{long, long}}, false},
		"one that is longer":     {Batch{Ops: []Request{putOp("k", strings.Repeat("v", 2*MaxBatchBytes))}}, true},
		"atomic, more bytes":     {Batch{Ops: []Request{long, long}, Atomic: true}, true},
		"atomic, too many":       {Batch{Ops: slices.Repeat([]Request{long}, 9), Atomic: true}, false},
		"appends":                {Batch{Ops: slices.Repeat([]Request{{Op: OpAppend, Key: []byte("k")}}, MaxBatchAppends)}, true},
		"too many appends":       {Batch{Ops: slices.Repeat([]Request{{Op: OpAppend, Key: []byte("k")}}, MaxBatchAppends+1)}, false},
		"atomic, too many ops":   {Batch{Ops: slices.Repeat([]Request{getOp("k")}, MaxAtomicOps+1), Atomic: true}, false},
		"a bad operation":        {Batch{Ops: []Request{getOp("k"), {Op: OpPut}}}, false},
		"a key of an operation":  {Batch{Ops: []Request{once}}, false},
		"a read that may be old": {Batch{Ops: []Request{{Op: OpGet, Key: []byte("k"), Consistency: Any}}}, false},
		"a read to fill":         {Batch{Ops: []Request{{Op: OpGet, Key: []byte("k"), Fill: time.Second}}}, false},
		"a fill":                 {Batch{Ops: []Request{fill}}, true},
		"an atomic fill":         {Batch{Ops: []Request{fill}, Atomic: true}, false},
		"a key":                  {Batch{Ops: []Request{putOp("k", "v")}, IdempotencyKey: "i"}, false},
		"a key of atomic":        {Batch{Ops: []Request{putOp("k", "v")}, IdempotencyKey: "i", Atomic: true}, true},
		"a key and a read":       {Batch{Ops: []Request{getOp("k")}, IdempotencyKey: "i", Atomic: true}, false},
		"a long key":             {Batch{Ops: []Request{putOp("k", "v")}, IdempotencyKey: strings.Repeat("i", 65), Atomic: true}, false},
		"a long caller":          {Batch{Ops: []Request{putOp("k", "v")}, Caller: strings.Repeat("i", 129)}, false},
	} {
		if err := tc.b.check(); (err == nil) != tc.ok {
			t.Errorf("%s: %v, want ok %t", name, err, tc.ok)
		}
	}
}

// TestBatchRoundTrip ensures that a batch, and the replies to it, are read by another node as they were meant.
func TestBatchRoundTrip(t *testing.T) {
	b := Batch{Shard: 7, R: 1 << 40, Atomic: true, IdempotencyKey: "once", Ops: []Request{
		{Op: OpPut, Key: []byte("k"), Value: []byte("v"), ReturnOld: true, TTL: time.Second, DefaultTTL: true},
		{Op: OpGet, Key: []byte{0}, Value: []byte{}, NoTouch: true}, {Op: OpIncr, Key: []byte("n"), Value: []byte{}, Delta: -1}}}
	body := appendBatch(nil, b)
	r := reader{b: body}
	if got := r.batch(); r.err != nil || len(r.b) != 0 || !reflect.DeepEqual(got, b) {
		t.Errorf("got %+v, %v, want %+v", got, r.err, b)
	}
	for n := range body {
		r := reader{b: body[:n]}
		if _ = r.batch(); r.err == nil {
			t.Errorf("%d of %d bytes were read", n, len(body))
		}
	}
	replies := []Reply{{Response: Response{Shard: 7, Value: []byte("v"), Status: fsm.StatusOK, Found: true, Read: ReadLog}}, {Err: ErrAnswerTooLarge},
		{Err: &NotOwnerError{Epoch: 3}}, {Response: Response{Value: []byte{}, Status: fsm.StatusAborted}}}
	got, err := decodeReplies(appendReplies(nil, replies), "b")
	if err != nil || !reflect.DeepEqual(got[0], replies[0]) || !errors.Is(got[1].Err, ErrAnswerTooLarge) || !isNotOwner(got[2].Err) || !reflect.DeepEqual(got[3], replies[3]) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := decodeReplies(appendReplies(nil, replies)[:20], "b"); err == nil {
		t.Error("half of it was read")
	}
	if _, err := decodeReplies([]byte{255, 255, 255, 127}, "b"); err == nil {
		t.Error("too many were read")
	}
}

// TestBatchLeaderChange ensures that a leader which loses its followers, and then its leadership, while batches are under way leaves each
// of them applied whole or not at all, and tells its fate as unknown unless it is known; and that what the next leader is asked for
// comes after that.
func TestBatchLeaderChange(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "n", "0")
		for _, node := range c.others(l.Node()) {
			c.net.Hold(l.Node(), node) // what was sent arrives later, or never
		}
		type end struct {
			replies []Reply
			err     error
		}
		const batches = 5
		ends := make(chan end, batches)
		for i := range batches {
			go func() {
				replies, err := doBatch(l, Request{Op: OpIncr, Key: []byte("n"), Delta: 1}, getOp("n"), putOp(fmt.Sprint("k", i), "v"), Request{Op: OpIncr, Key: []byte("n"), Delta: 1})
				ends <- end{replies, err}
			}()
		}
		reads := make(chan end, 1)
		go func() {
			replies, err := doBatch(l, getOp("n"), getOp("k0"))
			reads <- end{replies, err}
		}()
		others := c.others(l.Node())
		next := c.leader(others...)
		before, err := doBatch(next, getOp("n"), Request{Op: OpIncr, Key: []byte("n"), Delta: 100}, getOp("n"))
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range others {
			c.net.Release(l.Node(), node)
		}
		unknown := 0
		for range batches {
			switch e := <-ends; {
			case errors.Is(e.err, ErrOutcomeUnknown):
				unknown++
			case e.err == nil:
				t.Errorf("a batch that no majority has was answered: %+v", e.replies)
			case !Refused(e.err):
				t.Error(e.err)
			}
		}
		if e := <-reads; e.err == nil || !Refused(e.err) {
			t.Errorf("reads of a leader that nobody confirms: %+v, %v", e.replies, e.err)
		}
		if unknown == 0 {
			t.Error("no outcome is unknown: nothing was under way")
		}
		var n int
		if _, err := fmt.Sscan(string(before[0].Response.Value), &n); err != nil || n%2 != 0 || string(before[2].Response.Value) != fmt.Sprint(n+100) {
			t.Errorf("the next leader has %q, and then %q", before[0].Response.Value, before[2].Response.Value)
		}
		applied := 0
		for i := range batches {
			if r, err := get(next, fmt.Sprint("k", i)); err != nil {
				t.Error(err)
			} else if r.Found {
				applied++
			}
		}
		if n != 2*applied {
			t.Errorf("%d increments of %d batches", n, applied)
		}
		c.wantSameState()
	})
}

// TestBatchLikeSingles ensures that operations come to the same, whether they are performed as a batch or one by one.
func TestBatchLikeSingles(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			versions := [2]map[string]uint64{{}, {}} // of either side's keys, as they were last told
			for range 4 {
				var ops []Request
				for range rapid.IntRange(1, 12).Draw(rt, "ops") {
					ops = append(ops, randomOp(rt))
				}
				sides := [2][]Reply{}
				for side := range sides {
					mine := make([]Request, len(ops))
					for i, op := range ops {
						if op.Cond.Kind == fsm.CondVersion {
							op.Cond.Version = max(versions[side][string(op.Key)], 1)
						}
						op.Key = fmt.Appendf(nil, "%d-%d-%s", round, side, op.Key)
						op.Shard = testShard
						mine[i] = op
					}
					via, to := c.hosts[rapid.SampledFrom(c.names).Draw(rt, "via")], l.Node()
					if side == 0 {
						var err error
						if sides[0], err = doBatchOn(via, to, Batch{Ops: mine}); err != nil {
							rt.Fatal(err)
						}
					} else {
						for _, op := range mine {
							r, err := via.Do(context.Background(), to, op)
							sides[1] = append(sides[1], Reply{r, err})
						}
					}
					for i, r := range sides[side] {
						if key := string(ops[i].Key); r.Response.Version != 0 {
							versions[side][key] = r.Response.Version
						}
					}
				}
				for i := range ops {
					a, b := sides[0][i], sides[1][i]
					ra, rb := plainOf(a.Response), plainOf(b.Response)
					if a.Err != nil || b.Err != nil || !reflect.DeepEqual(ra, rb) {
						rt.Fatalf("operation %d, %+v\n   in a batch: %+v, %v\n   by itself: %+v, %v", i, ops[i], ra, a.Err, rb, b.Err)
					}
				}
			}
		})
		c.wantSameState()
	})
}

// plainOf is what must be the same of the answers to the same operation on two keys.
func plainOf(r Response) Response {
	return Response{Status: r.Status, Existed: r.Existed, HasValue: r.HasValue, Value: append([]byte(nil), r.Value...), ContentType: r.ContentType,
		Found: r.Found, HasTTL: r.HasTTL, MissReason: ""}
}

func randomOp(t *rapid.T) Request {
	op := Request{Op: rapid.SampledFrom([]Op{OpGet, OpGet, OpPut, OpPut, OpDelete, OpIncr, OpAppend, OpExpire, OpTouch}).Draw(t, "op"),
		Key: fmt.Appendf(nil, "k%d", rapid.IntRange(0, 3).Draw(t, "key"))}
	value := []byte(rapid.SampledFrom([]string{"", "1", "-7", "text", "9223372036854775807"}).Draw(t, "value"))
	switch op.Op {
	case OpPut:
		op.Value, op.ReturnOld = value, rapid.Bool().Draw(t, "return old")
	case OpAppend:
		op.Value, op.ContentType = value, "a/b"
	case OpIncr:
		op.Delta = rapid.SampledFrom([]int64{1, -1, math.MaxInt64}).Draw(t, "delta")
	}
	if op.Op != OpGet && op.Op != OpTouch {
		if op.Op != OpDelete && rapid.Bool().Draw(t, "mortal") {
			op.TTL = time.Hour
		}
		op.Cond.Kind = rapid.SampledFrom([]fsm.CondKind{fsm.CondAlways, fsm.CondAlways, fsm.CondAbsent, fsm.CondPresent, fsm.CondVersion}).Draw(t, "condition")
	}
	return op
}
