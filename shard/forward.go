package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// maxForward bounds the deadline that travels with a request.
const maxForward = 10 * time.Minute

// Do performs req on the replica that node hosts: here, or forwarded one hop as a frame of its own.
// It never forwards further: a node that does not lead refuses with NotLeaderError.
func (h *Host) Do(ctx context.Context, node string, req Request) (Response, error) {
	if node == h.cfg.Node {
		c, err := h.replicaFor(req.Shard, req.R)
		if err != nil {
			return Response{}, err
		}
		return c.Do(ctx, req)
	}
	p := h.peer(node)
	if p == nil {
		return Response{}, fmt.Errorf("%w: no address for node %q", ErrUnreachable, node)
	}
	if err := req.check(); err != nil {
		return Response{}, err
	}
	body := appendDuration(nil, timeLeft(ctx, maxForward))
	body = appendString(body, req.Caller)
	body = appendRequest(body, req)
	began := h.mono()
	answer, err := p.call(ctx, frameData, body, false)
	if err != nil {
		if req.Op == OpGet && errors.Is(err, ErrOutcomeUnknown) {
			return Response{}, fmt.Errorf("%w: %v", ErrUnreachable, err)
		}
		return Response{}, err
	}
	resp, err := decodeResponse(answer)
	if err != nil { // it was done, but what it did can't be read
		return Response{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	if req.Consistency != Linearizable {
		resp.Age += h.mono() - began // it was that old when it was asked for there
	}
	return resp, nil
}

// replicaFor returns the replica here that a request means: r of a shard, or whichever there is where r is 0.
func (h *Host) replicaFor(id ID, r uint64) (*Cache, error) {
	c := h.Cache(id)
	if c == nil {
		return nil, ErrUnknownShard
	}
	if r != 0 && r != c.group.id.R {
		return nil, fmt.Errorf("%w: replica %d is meant, %d is here", ErrUnknownShard, r, c.group.id.R)
	}
	return c, nil
}

// serveData performs a request that another node forwarded.
func (h *Host) serveData(ctx context.Context, age time.Duration, body []byte) ([]byte, error) {
	r := reader{b: body}
	timeout, caller, req := r.duration(), r.string(), r.request()
	req.Caller = caller
	if r.err != nil {
		return nil, r.err
	}
	if timeout <= age {
		return nil, ErrDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, timeout-age)
	defer cancel()
	c, err := h.replicaFor(req.Shard, req.R)
	if err != nil {
		return nil, err
	}
	began := h.mono()
	resp, err := c.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	resp.Age = max(0, resp.Age-(h.mono()-began)) // as it was asked for: who asked adds all the time that it took
	return appendResponse(nil, resp), nil
}

// extendedOp marks, in the byte of the operation, a request that ends with what the first form of requests has
// no room for. A node that does not know it refuses the operation, rather than to leave out what it asks for.
const extendedOp = 0x80

// extended reports whether r has what the first form of requests has no room for. The caller's name travels
// before the request.
func (r *Request) extended() bool {
	return r.Delta != 0 || r.ReturnOld || r.IdempotencyKey != "" || r.Fill != 0 || r.NoTouch || r.DefaultTTL || r.NoLease
}

func appendRequest(b []byte, r Request) []byte {
	b = binary.AppendUvarint(b, uint64(r.Shard))
	op := byte(r.Op)
	if r.extended() {
		op |= extendedOp
	}
	b = append(b, op)
	b = appendString(b, r.Key)
	b = appendString(b, r.Value)
	b = appendString(b, r.ContentType)
	b = appendDuration(b, r.TTL)
	b = append(b, byte(r.Cond.Kind))
	b = binary.AppendUvarint(b, r.Cond.Version)
	b = append(b, byte(r.Consistency))
	b = binary.AppendUvarint(b, uint64(r.MaxStaleness))
	b = binary.AppendUvarint(b, r.R)
	if r.extended() {
		b = binary.AppendVarint(b, r.Delta)
		b = appendBool(b, r.ReturnOld)
		b = appendString(b, r.IdempotencyKey)
		b = appendDuration(b, r.Fill)
		b = appendBool(b, r.NoTouch)
		b = appendBool(b, r.DefaultTTL)
		b = appendBool(b, r.NoLease)
	}
	return b
}

func (r *reader) request() Request {
	req := Request{Shard: ID(r.uint()), Op: Op(r.byte()), Key: r.bytes(), Value: r.bytes(), ContentType: r.string(),
		TTL: time.Duration(r.uint()) * time.Millisecond, Cond: fsm.Cond{Kind: fsm.CondKind(r.byte()), Version: r.uint()},
		Consistency: Consistency(r.byte()), MaxStaleness: r.span(), R: r.uint()}
	if req.Op&extendedOp != 0 {
		req.Op &^= extendedOp
		req.Delta, req.ReturnOld, req.IdempotencyKey, req.Fill = r.int(), r.bool(), r.string(), r.duration()
		req.NoTouch, req.DefaultTTL, req.NoLease = r.bool(), r.bool(), r.bool()
	}
	if req.Consistency > Any {
		r.fail()
	}
	return req
}

func appendResponse(b []byte, r Response) []byte {
	b = binary.AppendUvarint(b, uint64(r.Shard))
	b = binary.AppendUvarint(b, r.Epoch)
	b = binary.AppendUvarint(b, r.Index)
	b = binary.AppendUvarint(b, uint64(r.Position))
	b = appendString(b, r.ServedBy)
	b = append(b, byte(r.Status))
	b = binary.AppendUvarint(b, r.Version)
	b = appendBool(b, r.Existed)
	b = appendBool(b, r.Found)
	b = appendString(b, r.Value)
	b = appendString(b, r.ContentType)
	b = appendBool(b, r.HasTTL)
	b = appendDuration(b, r.TTL)
	b = appendString(b, r.Read)
	b = binary.AppendUvarint(b, uint64(max(r.Age, 0)))
	if r.Replayed || r.HasValue || r.FillToken != 0 || r.MissReason != "" { // at the end, where a node that does not know it does not look
		b = appendBool(b, r.Replayed)
		b = appendBool(b, r.HasValue)
		b = binary.AppendUvarint(b, r.FillToken)
		b = appendString(b, r.MissReason)
	}
	return b
}

// int is a signed integer, as binary.AppendVarint writes it.
func (r *reader) int() int64 {
	zigzag := r.uint()
	return int64(zigzag>>1) ^ -int64(zigzag&1)
}

// span is a duration in nanoseconds.
func (r *reader) span() time.Duration {
	v := r.uint()
	if v > math.MaxInt64 {
		r.fail()
		return 0
	}
	return time.Duration(v)
}

func decodeResponse(b []byte) (Response, error) {
	r := reader{b: b}
	resp := Response{Shard: ID(r.uint()), Epoch: r.uint(), Index: r.uint(), Position: uint32(r.uint()), ServedBy: r.string(),
		Status: fsm.Status(r.byte()), Version: r.uint(), Existed: r.bool(), Found: r.bool(), Value: r.bytes(),
		ContentType: r.string(), HasTTL: r.bool(), TTL: time.Duration(r.uint()) * time.Millisecond, Read: ReadPath(r.string()),
		Age: r.span()}
	if r.err == nil && len(r.b) > 0 {
		resp.Replayed, resp.HasValue, resp.FillToken = r.bool(), r.bool(), r.uint()
		resp.MissReason = MissReason(r.string())
		if resp.MissReason != "" && !slices.Contains(missReasons[:], resp.MissReason) {
			r.fail()
		}
	}
	if resp.Read != "" && !slices.Contains(readPaths, resp.Read) {
		r.fail()
	}
	return resp, r.err
}
