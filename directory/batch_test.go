package directory

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

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// batchRig is a router on node a over a table of nodes a, b, c with four shards, led by b, and scripted shards.
type batchRig struct {
	*Router
	mu    sync.Mutex
	asked map[shard.ID][]string // "node: op op ..."
	// script, when set for a shard, answers its n-th batch, from 0 on; nil replies and no error serve.
	script map[shard.ID]func(ctx context.Context, n int, node string, b shard.Batch) ([]shard.Reply, error)
}

func newBatchRig(t *testing.T) *batchRig {
	rig := &batchRig{asked: map[shard.ID][]string{}, script: map[shard.ID]func(context.Context, int, string, shard.Batch) ([]shard.Reply, error){}}
	latest := NewLatest()
	latest.Publish(testTable(t, 3, Settings{InitialShards: 4, Replicas: 3, CacheMemory: "60%"}))
	rig.Router = &Router{
		self:    "a",
		latest:  latest,
		known:   func() error { return nil },
		hot:     func(shard.ID) bool { return false },
		leader:  func(shard.ID) (string, uint64) { return "b", 1 },
		up:      func(string) bool { return true },
		retried: func(string) {},
		doBatch: func(ctx context.Context, node string, b shard.Batch) ([]shard.Reply, error) {
			var ops []string
			for _, op := range b.Ops {
				if owner, _ := latest.Table().Lookup(fsm.Slot(op.Key)); owner.ID != b.Shard {
					t.Errorf("shard %d was asked for a key of %d", b.Shard, owner.ID)
				}
				ops = append(ops, string(op.Value))
			}
			rig.mu.Lock()
			n := len(rig.asked[b.Shard])
			rig.asked[b.Shard] = append(rig.asked[b.Shard], node+": "+strings.Join(ops, " "))
			f := rig.script[b.Shard]
			rig.mu.Unlock()
			if f != nil {
				if replies, err := f(ctx, n, node, b); replies != nil || err != nil {
					return replies, err
				}
			}
			return rig.serve(node, b), nil
		},
	}
	return rig
}

// serve answers each operation with its own value.
func (rig *batchRig) serve(node string, b shard.Batch) []shard.Reply {
	replies := make([]shard.Reply, len(b.Ops))
	for i, op := range b.Ops {
		replies[i].Response = shard.Response{Shard: b.Shard, ServedBy: node, Status: fsm.StatusOK, Value: op.Value}
	}
	return replies
}

// keyOf returns a key of a shard.
func (rig *batchRig) keyOf(id shard.ID) []byte {
	for i := 0; ; i++ {
		key := fmt.Appendf(nil, "k%d", i)
		if owner, _ := rig.latest.Table().Lookup(fsm.Slot(key)); owner.ID == id {
			return key
		}
	}
}

// ops makes an operation on each of the shards, whose value is its number.
func (rig *batchRig) ops(op shard.Op, shards ...shard.ID) (ops []shard.Request) {
	for i, id := range shards {
		ops = append(ops, shard.Request{Op: op, Key: rig.keyOf(id), Value: fmt.Append(nil, i)})
	}
	return ops
}

// TestBatchIsSplit ensures that the operations of a batch go to their shards at once, those of a shard together and in order, and
// that replies have the order of the operations.
func TestBatchIsSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newBatchRig(t)
		var all sync.WaitGroup
		all.Add(3)
		for _, id := range []shard.ID{1, 2, 4} { // each is answered once all are asked
			rig.script[id] = func(context.Context, int, string, shard.Batch) ([]shard.Reply, error) {
				all.Done()
				all.Wait()
				return nil, nil
			}
		}
		replies, err := rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(shard.OpPut, 1, 2, 1, 4, 2, 1)})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range replies {
			if r.Err != nil || string(r.Response.Value) != fmt.Sprint(i) || r.Response.ForwardedTo != "b" {
				t.Errorf("reply %d: %+v", i, r)
			}
		}
		for id, want := range map[shard.ID]string{1: "b: 0 2 5", 2: "b: 1 4", 4: "b: 3"} {
			if got := rig.asked[id]; !slices.Equal(got, []string{want}) {
				t.Errorf("shard %d: asked %q, want %q", id, got, want)
			}
		}
	})
}

// TestBatchIsBounded ensures that operations which are too many for one part go one part after the other, and that a part
// begins only when the one before it was answered.
func TestBatchIsBounded(t *testing.T) {
	rig := newBatchRig(t)
	var sizes []int
	busy := false
	rig.script[1] = func(_ context.Context, _ int, _ string, b shard.Batch) ([]shard.Reply, error) {
		if busy {
			t.Error("two parts at the same time")
		}
		busy = true
		defer func() { busy = false }()
		sizes = append(sizes, len(b.Ops))
		return rig.serve("b", b), nil
	}
	ops := rig.ops(shard.OpPut, slices.Repeat([]shard.ID{1}, 2*shard.MaxBatchOps+5)...)
	ops[10].Value = make([]byte, shard.MaxBatchBytes)
	replies, err := rig.DoBatch(t.Context(), shard.Batch{Ops: ops})
	if err != nil || !slices.Equal(sizes, []int{10, 1, shard.MaxBatchOps, shard.MaxBatchOps - 6}) {
		t.Errorf("parts of %v operations, %v", sizes, err)
	}
	for i, r := range replies {
		if r.Err != nil || i != 10 && string(r.Response.Value) != fmt.Sprint(i) {
			t.Errorf("reply %d: %+v", i, r)
		}
	}
	sizes = nil
	ops = rig.ops(shard.OpAppend, slices.Repeat([]shard.ID{1}, shard.MaxBatchAppends+5)...)
	ops[3].Op = shard.OpGet
	if _, err := rig.DoBatch(t.Context(), shard.Batch{Ops: ops}); err != nil || !slices.Equal(sizes, []int{shard.MaxBatchAppends + 1, 4}) {
		t.Errorf("parts of %v appends, %v", sizes, err)
	}
}

// TestBatchRetries ensures that a part which was refused for a while is tried again, where the refusal says; and that keys which
// a shard does not own at the moment are tried again, in order and before what follows.
func TestBatchRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newBatchRig(t)
		rig.script[1] = func(_ context.Context, n int, node string, b shard.Batch) ([]shard.Reply, error) {
			switch n {
			case 0:
				return nil, &shard.NotLeaderError{Leader: "c"}
			case 1:
				replies := rig.serve(node, b)
				replies[0].Err, replies[2].Err = &shard.NotOwnerError{Epoch: 5}, &shard.NotOwnerError{Epoch: 5}
				return replies, nil
			case 2:
				return nil, fmt.Errorf("%w: elections", shard.ErrNoLeader)
			}
			return nil, nil
		}
		ops := rig.ops(shard.OpPut, 1, 1, 1)
		replies, err := rig.DoBatch(t.Context(), shard.Batch{Ops: append(ops, ops[0])})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range replies {
			if r.Err != nil || string(r.Response.Value) != string(append(ops, ops[0])[i].Value) {
				t.Errorf("reply %d: %+v", i, r)
			}
		}
		got := rig.asked[1]
		for i, want := range []string{"b: 0 1 2 0", "c: 0 1 2 0", ": 0 2", ": 0 2"} {
			if i >= len(got) || !strings.HasSuffix(got[i], want) {
				t.Fatalf("asked %q, the %d. should be %q", got, i, want)
			}
		}
	})
}

// TestBatchEnds ensures that after a part whose outcome is unknown, or which is refused for good, nothing more of its shard is
// tried, and that each operation is told what became of it: unknown, refused, or as if nothing had happened on other shards.
func TestBatchEnds(t *testing.T) {
	unknown := fmt.Errorf("%w: link lost", shard.ErrOutcomeUnknown)
	for name, tc := range map[string]struct {
		err  error
		rest func(error) bool
	}{
		"unknown":    {unknown, func(err error) bool { var e *NotAttemptedError; return errors.As(err, &e) && shard.Refused(err) }},
		"overloaded": {shard.ErrOverloaded, func(err error) bool { return errors.Is(err, shard.ErrOverloaded) }},
	} {
		rig := newBatchRig(t)
		rig.script[1] = func(_ context.Context, n int, _ string, b shard.Batch) ([]shard.Reply, error) {
			if n == 1 {
				return nil, tc.err
			}
			return nil, nil
		}
		shards := append(slices.Repeat([]shard.ID{1}, 2*shard.MaxBatchOps+1), 2, 1)
		replies, err := rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(shard.OpPut, shards...)})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range replies {
			ok := false
			switch {
			case i < shard.MaxBatchOps || shards[i] == 2:
				ok = r.Err == nil
			case i < 2*shard.MaxBatchOps:
				ok = errors.Is(r.Err, tc.err)
			default:
				ok = tc.rest(r.Err)
			}
			if !ok {
				t.Errorf("%s: reply %d: %v", name, i, r.Err)
			}
		}
		if len(rig.asked[1]) != 2 {
			t.Errorf("%s: %d parts were tried", name, len(rig.asked[1]))
		}
	}
}

// TestBatchDeadline ensures that what nobody served in time is refused, with the last reason, and that nothing is tried after
// the deadline.
func TestBatchDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newBatchRig(t)
		rig.script[1] = func(context.Context, int, string, shard.Batch) ([]shard.Reply, error) { return nil, shard.ErrNoLeader }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		replies, err := rig.DoBatch(ctx, shard.Batch{Ops: rig.ops(shard.OpPut, slices.Repeat([]shard.ID{1}, shard.MaxBatchOps+1)...)})
		if err != nil || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		for i, r := range replies {
			if !errors.Is(r.Err, shard.ErrNoLeader) || !shard.Refused(r.Err) {
				t.Errorf("reply %d: %v", i, r.Err)
			}
		}
	})
}

// TestBatchOfReads ensures that reads alone are asked of this node first, and of others where one does not answer: a read has no
// outcome that could be unknown.
func TestBatchOfReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newBatchRig(t)
		rig.script[1] = func(ctx context.Context, n int, _ string, _ shard.Batch) ([]shard.Reply, error) {
			switch n {
			case 0:
				return nil, &shard.NotLeaderError{Leader: "b"}
			case 1:
				<-ctx.Done()
				return nil, fmt.Errorf("%w: no answer", shard.ErrOutcomeUnknown)
			}
			return nil, nil
		}
		rig.script[2] = func(_ context.Context, _ int, node string, b shard.Batch) ([]shard.Reply, error) {
			owner, _ := rig.latest.Table().Lookup(fsm.Slot(b.Ops[0].Key))
			if m, _ := owner.Member(node); b.R != m.R || b.R == 0 {
				t.Errorf("replica %d is meant, the table lists %d", b.R, m.R)
			}
			return nil, nil
		}
		if _, err := rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(shard.OpGet, 2)}); err != nil {
			t.Error(err)
		}
		replies, err := rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(shard.OpGet, 1, 1)})
		if err != nil || replies[0].Err != nil || replies[1].Err != nil {
			t.Errorf("%+v, %v", replies, err)
		}
		if got := rig.asked[1]; len(got) != 3 || got[0] != "a: 0 1" || got[1] != "b: 0 1" || got[2] == got[1] {
			t.Errorf("asked %q", got)
		}
	})
}

// TestBatchLargeAnswers ensures that reads whose values have no room in an answer are read again, as long as all answers
// together stay within their bound, and then are refused; among writes they are not, as those are done, nor in an atomic
// batch, whose reads would see two states.
func TestBatchLargeAnswers(t *testing.T) {
	rig := newBatchRig(t)
	value := make([]byte, 4<<20)
	rig.script[1] = func(_ context.Context, _ int, node string, b shard.Batch) ([]shard.Reply, error) {
		replies := rig.serve(node, b)
		for i := range replies {
			if replies[i].Response.Value = value; i >= 2 && b.Ops[i].Op == shard.OpGet {
				replies[i] = shard.Reply{Err: shard.ErrAnswerTooLarge}
			}
		}
		return replies, nil
	}
	replies, _ := rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(shard.OpGet, slices.Repeat([]shard.ID{1}, 11)...)})
	for i, r := range replies {
		if fits := i < maxAnswer/len(value); fits != (r.Err == nil) || !fits && !errors.Is(r.Err, shard.ErrAnswerTooLarge) {
			t.Errorf("read %d: %v", i, r.Err)
		}
	}
	ops := rig.ops(shard.OpGet, 1, 1, 1, 1)
	ops[0].Op = shard.OpPut
	replies, _ = rig.DoBatch(t.Context(), shard.Batch{Ops: ops})
	if replies[1].Err != nil || !errors.Is(replies[2].Err, shard.ErrAnswerTooLarge) || !errors.Is(replies[3].Err, shard.ErrAnswerTooLarge) {
		t.Errorf("among writes: %v %v", replies[2].Err, replies[3].Err)
	}
	asked := len(rig.asked[1])
	replies, err := rig.DoBatch(t.Context(), shard.Batch{Atomic: true, Ops: rig.ops(shard.OpGet, 1, 1, 1, 1)})
	if err != nil || !errors.Is(replies[2].Err, shard.ErrAnswerTooLarge) || len(rig.asked[1]) != asked+1 {
		t.Errorf("atomic: %v, %v, asked %q", replies[2].Err, err, rig.asked[1][asked:])
	}
	rig.script[1] = func(_ context.Context, _ int, node string, b shard.Batch) ([]shard.Reply, error) {
		replies := rig.serve(node, b)
		for i := range replies {
			r := &replies[i].Response
			r.Found, r.HasValue, r.Value = b.Ops[i].Op == shard.OpGet, b.Ops[i].Op != shard.OpGet, nil
			if i == 0 {
				r.Value = make([]byte, maxAnswer/2)
			}
		}
		return replies, nil
	}
	for _, op := range []shard.Op{shard.OpGet, shard.OpIncr} {
		replies, _ = rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(op, slices.Repeat([]shard.ID{1}, 2*shard.MaxBatchOps+1)...)})
		last := replies[2*shard.MaxBatchOps]
		if op == shard.OpGet && !errors.Is(last.Err, shard.ErrAnswerTooLarge) || op != shard.OpGet && (last.Err != nil || last.Response.HasValue) {
			t.Errorf("operation %d of a third part: %v, %d bytes", op, last.Err, len(last.Response.Value))
		}
		if r := replies[shard.MaxBatchOps]; r.Err != nil || len(r.Response.Value) != maxAnswer/2 {
			t.Errorf("operation %d of a second part: %v", op, r.Err)
		}
	}
	rig.script[1] = func(_ context.Context, _ int, node string, b shard.Batch) ([]shard.Reply, error) {
		return slices.Repeat([]shard.Reply{{Err: shard.ErrAnswerTooLarge}}, len(b.Ops)), nil
	}
	if replies, _ = rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(shard.OpGet, 1, 1)}); !errors.Is(replies[0].Err, shard.ErrAnswerTooLarge) {
		t.Errorf("nothing has room: %v", replies[0].Err)
	}
}

// TestBatchAtomicIsOne ensures that an atomic batch is one part of one shard: refused before anybody is asked where its keys
// are in several, and answered by one error where it fails.
func TestBatchAtomicIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newBatchRig(t)
		var spans *SpansShardsError
		if _, err := rig.DoBatch(t.Context(), shard.Batch{Atomic: true, Ops: rig.ops(shard.OpPut, 1, 1, 2)}); !errors.As(err, &spans) || spans.B != 2 || !shard.Refused(err) || len(rig.asked) > 0 {
			t.Errorf("over two shards: %v, asked %v", err, rig.asked)
		}
		rig.script[1] = func(_ context.Context, n int, _ string, b shard.Batch) ([]shard.Reply, error) {
			switch {
			case !b.Atomic || b.IdempotencyKey != "once" || len(b.Ops) != 2:
				t.Errorf("asked for %+v", b)
			case n == 0:
				return nil, &shard.NotOwnerError{}
			case n == 2:
				return nil, shard.ErrOutcomeUnknown
			}
			return nil, nil
		}
		b := shard.Batch{Atomic: true, IdempotencyKey: "once", Ops: rig.ops(shard.OpPut, 1, 1)}
		if replies, err := rig.DoBatch(t.Context(), b); err != nil || len(replies) != 2 || replies[1].Err != nil {
			t.Errorf("%+v, %v", replies, err)
		}
		if _, err := rig.DoBatch(t.Context(), b); !errors.Is(err, shard.ErrOutcomeUnknown) || len(rig.asked[1]) != 3 {
			t.Errorf("%v, asked %v", err, rig.asked[1])
		}
		rig.script[1] = func(context.Context, int, string, shard.Batch) ([]shard.Reply, error) { return nil, shard.ErrNoLeader }
		if _, err := rig.DoBatch(t.Context(), b); !errors.Is(err, shard.ErrNoLeader) || !shard.Refused(err) {
			t.Errorf("without a leader: %v", err)
		}
	})
}

// TestBatchWaitsForTheTable ensures that a batch which comes before the table is known waits for it, and is refused where it does
// not come.
func TestBatchWaitsForTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newBatchRig(t)
		ops := rig.ops(shard.OpPut, 1, 2)
		table := rig.latest.Table()
		rig.latest = NewLatest()
		go func() {
			time.Sleep(time.Second)
			rig.latest.Publish(table)
		}()
		rig.doBatch = func(_ context.Context, node string, b shard.Batch) ([]shard.Reply, error) {
			return rig.serve(node, b), nil
		}
		if replies, err := rig.DoBatch(t.Context(), shard.Batch{Ops: ops}); err != nil || replies[0].Err != nil || replies[1].Response.Shard != 2 {
			t.Errorf("%+v, %v", replies, err)
		}
		rig.latest = NewLatest()
		replies, err := rig.DoBatch(t.Context(), shard.Batch{Ops: ops})
		if err != nil || !errors.Is(replies[0].Err, ErrNoTable) || !errors.Is(replies[1].Err, ErrNoTable) {
			t.Errorf("%+v, %v", replies, err)
		}
	})
}

// TestBatchRetriesFirst ensures that an operation which stays goes before the parts that follow: they may be on its key.
func TestBatchRetriesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newBatchRig(t)
		rig.script[1] = func(_ context.Context, n int, node string, b shard.Batch) ([]shard.Reply, error) {
			replies := rig.serve(node, b)
			if n == 0 {
				replies[7].Err = &shard.NotOwnerError{Epoch: 5}
			}
			return replies, nil
		}
		_, err := rig.DoBatch(t.Context(), shard.Batch{Ops: rig.ops(shard.OpPut, slices.Repeat([]shard.ID{1}, shard.MaxBatchOps+1)...)})
		if got := rig.asked[1]; err != nil || len(got) != 2 || !strings.HasSuffix(got[1], fmt.Sprint(": 7 ", shard.MaxBatchOps)) {
			t.Errorf("%v, the second part: %q", err, got[1:])
		}
	})
}
