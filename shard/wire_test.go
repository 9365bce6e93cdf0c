package shard

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// FuzzFrames ensures that no bytes from a peer make a decoder panic, and that what can't be read as an
// error is never taken for a refusal.
func FuzzFrames(f *testing.F) {
	f.Add(hello{1, 1, "c", "a", "i", "b"}.append(nil))
	f.Add(appendAppendEntries(nil, &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 7, PrevLogTerm: 2, LeaderCommitIndex: 6,
		Entries: []*raft.Log{{Index: 8, Term: 3, Data: []byte("data"), Extensions: []byte("x")}}}))
	f.Add(appendSnapshotBegin(nil, &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 3, LastLogIndex: 9, Configuration: []byte("c"), Size: 5}))
	f.Add(appendRequest(nil, Request{Shard: 1, Op: OpPut, Key: []byte("k"), Value: []byte("v"), TTL: time.Second}))
	f.Add(appendRequest(nil, Request{Shard: 1, R: 7, Op: OpGet, Key: []byte("k"), Consistency: Bounded, MaxStaleness: time.Second}))
	f.Add(appendRequest(nil, Request{Shard: 1, Op: OpIncr, Key: []byte("k"), Delta: -5, IdempotencyKey: "i"}))
	f.Add(appendResponse(nil, Response{Shard: 1, Index: 5, Value: []byte("7"), HasValue: true, Replayed: true}))
	f.Add(appendResponse(nil, Response{Shard: 1, Index: 5, Value: []byte("v"), Read: ReadProbe}))
	f.Add(appendResponse(nil, Response{Shard: 1, Index: 5, Value: []byte("v"), Read: ReadLocal, Age: time.Hour}))
	f.Add(appendResponse(nil, Response{Shard: 1, Index: 5, Read: ReadLocal, MissReason: MissDeleted}))
	f.Add(appendTouches(nil, ReplicaID{1, "a", 1}, ReplicaID{1, "b", 2}, listOf(1<<40-1, 0, 7)))
	f.Add(replyFrame(4, nil, &NotLeaderError{"b"}))
	f.Add(replyFrame(4, []byte("body"), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeHello(b)
		_, _ = decodeAppendEntries(b, "1/a/1")
		_ = decodeAppendEntriesResponse(b, "1/a/1", &raft.AppendEntriesResponse{})
		_, _, _ = decodeVote(b, "1/a/1")
		_, _, _ = decodeVoteResponse(b)
		_, _ = decodeSnapshotBegin(b, "1/a/1")
		_, _ = decodeResponse(b)
		_, _, _ = decodeReply(b, "a")
		r := reader{b: b}
		_ = r.request()
		r = reader{b: b}
		_ = r.batch()
		_, _ = decodeReplies(b, "a")
		if _, _, _, keys, err := decodeTouches(b); err == nil && len(keys) > maxTouches {
			t.Errorf("%d touches were taken", len(keys))
		}
		if err := decodeError(b, "a"); err == nil {
			t.Errorf("%x is no error", b)
		} else if len(b) == 0 && Refused(err) {
			t.Error("nothing at all was taken for a refusal")
		}
	})
}

// TestFramesRoundTrip ensures that what one node says is what the other reads, errors included: a
// refusal stays one, and an unknown outcome too.
func TestFramesRoundTrip(t *testing.T) {
	req := Request{Shard: 3, Op: OpPut, Key: []byte("k"), Value: []byte("v"), ContentType: "text/plain", TTL: 1500 * time.Millisecond,
		Cond: fsm.Cond{Kind: fsm.CondVersion, Version: 1 << 50}}
	req.R, req.Consistency, req.MaxStaleness, req.NoTouch = 1<<40, Bounded, 1500*time.Microsecond, true
	r := reader{b: appendRequest(nil, req)}
	if got := r.request(); r.err != nil || len(r.b) != 0 || !reflect.DeepEqual(got, req) {
		t.Errorf("got %+v, %v, want %+v", got, r.err, req)
	}
	for _, extended := range []Request{
		{Shard: 3, Op: OpIncr, Key: []byte("k"), Value: []byte{}, Delta: math.MinInt64},
		{Shard: 3, Op: OpIncr, Key: []byte("k"), Value: []byte{}, Delta: 5, IdempotencyKey: "once"},
		{Shard: 3, Op: OpPut, Key: []byte("k"), Value: []byte("v"), ReturnOld: true, Cond: fsm.Cond{Kind: fsm.CondFill, Version: 1 << 60}},
		{Shard: 3, Op: OpAppend, Key: []byte("k"), Value: []byte("v"), IdempotencyKey: "1700000000000-x", TTL: time.Second},
		{Shard: 3, Op: OpIncr, Key: []byte("k"), Value: []byte{}, IdempotencyKey: "i", TTL: time.Second, DefaultTTL: true},
		{Shard: 3, Op: OpExpire, Key: []byte("k"), Value: []byte{}, TTL: time.Minute},
		{Shard: 3, Op: OpTouch, Key: []byte("k"), Value: []byte{}},
		{Shard: 3, Op: OpGet, Key: []byte("k"), Value: []byte{}, Fill: 1500 * time.Millisecond},
	} {
		r := reader{b: appendRequest(nil, extended)}
		if got := r.request(); r.err != nil || len(r.b) != 0 || !reflect.DeepEqual(got, extended) {
			t.Errorf("got %+v, %v, want %+v", got, r.err, extended)
		}
	}
	for _, resp := range []Response{
		{Value: []byte("7"), Status: fsm.StatusOK, HasValue: true, Version: 5},
		{Value: []byte{}, Status: fsm.StatusOK, Replayed: true},
		{Value: []byte{}, Status: fsm.StatusOK, Read: ReadProbe, FillToken: 1<<63 + 5},
	} {
		if got, err := decodeResponse(appendResponse(nil, resp)); err != nil || !reflect.DeepEqual(got, resp) {
			t.Errorf("got %+v, %v, want %+v", got, err, resp)
		}
	}
	resp := Response{Shard: 3, Epoch: 4, Index: 5, Position: 6, ServedBy: "b", Status: fsm.StatusCondition, Version: 1 << 60, Existed: true,
		Found: true, Value: []byte("v"), ContentType: "a/b", HasTTL: true, TTL: time.Second, Read: ReadLog, Age: 1234567}
	if got, err := decodeResponse(appendResponse(nil, resp)); err != nil || !reflect.DeepEqual(got, resp) {
		t.Errorf("got %+v, %v, want %+v", got, err, resp)
	}
	source, target := ReplicaID{3, "a", 1}, ReplicaID{3, "b", 2}
	body := appendTouches(nil, source, target, listOf(1<<40-1, 0, 7))
	if id, from, to, keys, err := decodeTouches(body); err != nil || id != 3 || from != source.String() || to != target.String() ||
		!slices.Equal(keys, []fsm.Touch{1<<40 - 1, 0, 7}) {
		t.Errorf("touches: got %d from %s to %s: %v, %v", id, from, to, keys, err)
	}
	for name, bad := range map[string][]byte{"cut short": body[:len(body)-1], "of more than 40 bits": appendTouches(nil, source, target, listOf(1<<40))} {
		if _, _, _, keys, err := decodeTouches(bad); err == nil {
			t.Errorf("touches %s were read: %v", name, keys)
		}
	}
	for name, bad := range map[string]Request{
		"an unknown consistency": {Op: OpGet, Consistency: Any + 1},
		"an endless staleness":   {Op: OpGet, Consistency: Bounded, MaxStaleness: -1},
	} {
		r := reader{b: appendRequest(nil, bad)}
		if got := r.request(); r.err == nil {
			t.Errorf("%s was read: %+v", name, got)
		}
	}
	miss := Response{Shard: 3, ServedBy: "b", Status: fsm.StatusOK, Read: ReadProbe, MissReason: MissEvicted}
	got, err := decodeResponse(appendResponse(nil, miss))
	if got.Value = nil; err != nil || !reflect.DeepEqual(got, miss) {
		t.Errorf("got %+v, %v, want %+v", got, err, miss)
	}
	if got, err := decodeResponse(appendResponse(nil, Response{MissReason: "guess"})); err == nil {
		t.Errorf("an unknown reason of a miss was read as %+v", got)
	}
	if got, err := decodeResponse(appendResponse(nil, Response{Read: "guess"})); err == nil {
		t.Errorf("an unknown path was read: %+v", got)
	}
	for _, w := range wireErrors {
		if got := decodeError(appendError(nil, w.err), "b"); !errors.Is(got, w.err) || Refused(got) != Refused(w.err) {
			t.Errorf("%v became %v", w.err, got)
		}
	}
	var leader *NotLeaderError
	if got := decodeError(appendError(nil, &NotLeaderError{"c"}), "b"); !errors.As(got, &leader) || leader.Leader != "c" {
		t.Errorf("not leader became %v", got)
	}
	var owner *NotOwnerError
	if got := decodeError(appendError(nil, &NotOwnerError{9}), "b"); !errors.As(got, &owner) || owner.Epoch != 9 {
		t.Errorf("not owner became %v", got)
	}
	wrapped := errors.Join(ErrOutcomeUnknown, &NotLeaderError{"c"})
	if got := decodeError(appendError(nil, wrapped), "b"); Refused(got) {
		t.Errorf("an unknown outcome became the refusal %v", got)
	}
	for _, err := range []error{ErrNoLeader, errors.New("odd")} {
		if got, want := decodeError(appendError(nil, err), "b").Error(), "node b says: "+err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := decodeError(appendError(nil, errors.New("odd")), "b"); !Refused(got) {
		t.Errorf("a refusal became %v", got)
	}
}

// TestOldNodeRefuses ensures that a node which does not know the second form of requests takes none for one of the
// first: to store without the idempotency key that was asked for would be a promise broken in silence.
func TestOldNodeRefuses(t *testing.T) {
	for _, req := range []Request{
		{Op: OpPut, IdempotencyKey: "i"}, {Op: OpPut, ReturnOld: true}, {Op: OpDelete, IdempotencyKey: "i"}, {Op: OpGet, Fill: time.Second},
	} {
		req.Key = []byte("k")
		plain := req
		plain.IdempotencyKey, plain.ReturnOld, plain.Fill = "", false, 0
		with, without := appendRequest(nil, req), appendRequest(nil, plain)
		op := reader{b: with}
		_ = op.uint()
		if got := Op(op.byte()); got == req.Op || got <= OpTouch {
			t.Errorf("%+v is sent as the operation %d", req, got)
		}
		if len(without) >= len(with) {
			t.Errorf("%+v takes %d bytes, without its extras %d", req, len(with), len(without))
		}
	}
}

// TestCheckRequest ensures that what fsm has no encoding for never reaches a log entry, and that all else does:
// each request either is refused, or its command can be encoded.
func TestCheckRequest(t *testing.T) {
	long := strings.Repeat("x", fsm.MaxIdempotencyKey+1)
	fill := fsm.Cond{Kind: fsm.CondFill, Version: 1}
	for _, tc := range []struct {
		req Request
		ok  bool
	}{
		{Request{Op: OpPut, IdempotencyKey: "i", Caller: "me", ReturnOld: true, Cond: fill, TTL: time.Second}, true},
		{Request{Op: OpPut, Caller: "me"}, true}, // without a key the caller's name is of no use
		{Request{Op: OpDelete, IdempotencyKey: "i", Cond: fsm.Cond{Kind: fsm.CondPresent}}, true},
		{Request{Op: OpIncr, Delta: -1, TTL: time.Second, IdempotencyKey: "i"}, true},
		{Request{Op: OpIncr}, true},
		{Request{Op: OpIncr, IdempotencyKey: "i", DefaultTTL: true}, true},
		{Request{Op: OpPut, DefaultTTL: true}, true}, // of no use without a key
		{Request{Op: OpExpire, IdempotencyKey: "i", DefaultTTL: true}, true},
		{Request{Op: OpAppend, Value: []byte("v"), ContentType: "a/b", TTL: time.Second, IdempotencyKey: "i"}, true},
		{Request{Op: OpExpire, TTL: time.Second, IdempotencyKey: "i", Cond: fsm.Cond{Kind: fsm.CondVersion, Version: 1}}, true},
		{Request{Op: OpTouch}, true},
		{Request{Op: 0}, false},
		{Request{Op: OpTouch + 1}, false},
		{Request{Op: OpPut, IdempotencyKey: long}, false},
		{Request{Op: OpPut, IdempotencyKey: "i", Caller: strings.Repeat("c", fsm.MaxCaller+1)}, false},
		{Request{Op: OpPut, Delta: 1}, false},
		{Request{Op: OpPut, Fill: time.Second}, false},
		{Request{Op: OpPut, TTL: time.Microsecond}, false},
		{Request{Op: OpPut, Cond: fsm.Cond{Kind: fsm.CondFill + 1}}, false},
		{Request{Op: OpDelete, Cond: fill}, false},
		{Request{Op: OpIncr, Cond: fill}, false},
		{Request{Op: OpIncr, ReturnOld: true}, false},
		{Request{Op: OpTouch, IdempotencyKey: "i"}, false},
		{Request{Op: OpTouch, Cond: fsm.Cond{Kind: fsm.CondPresent}}, false},
		{Request{Op: OpGet, IdempotencyKey: "i"}, false},
		{Request{Op: OpGet, Cond: fsm.Cond{Kind: fsm.CondPresent}}, false},
		{Request{Op: OpGet, Fill: MaxFill}, true},
		{Request{Op: OpGet, Fill: MaxFill + time.Millisecond}, false},
		{Request{Op: OpGet, Fill: -time.Second}, false},
		{Request{Op: OpGet, Fill: time.Second, Consistency: Any}, false},
	} {
		tc.req.Key = []byte("k")
		err := tc.req.check()
		if (err == nil) != tc.ok {
			t.Errorf("%+v: %v, want ok %t", tc.req, err, tc.ok)
		}
		if err == nil && tc.req.Op != OpGet {
			if _, err := fsm.AppendCommand(nil, tc.req.command()); err != nil {
				t.Errorf("%+v is admitted, and has no encoding: %v", tc.req, err)
			}
		}
	}
}
