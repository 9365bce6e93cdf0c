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
		c, err := h.replicaFor(req)
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
	body = appendString(body, "") // the caller's name, once callers have one
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
		resp.Age += h.mono() - began // its way here counts too
	}
	return resp, nil
}

// replicaFor returns the replica here that a request means.
func (h *Host) replicaFor(req Request) (*Cache, error) {
	c := h.Cache(req.Shard)
	if c == nil {
		return nil, ErrUnknownShard
	}
	if req.R != 0 && req.R != c.group.id.R {
		return nil, fmt.Errorf("%w: replica %d is meant, %d is here", ErrUnknownShard, req.R, c.group.id.R)
	}
	return c, nil
}

// serveData performs a request that another node forwarded.
func (h *Host) serveData(ctx context.Context, age time.Duration, body []byte) ([]byte, error) {
	r := reader{b: body}
	timeout, _, req := r.duration(), r.string(), r.request()
	if r.err != nil {
		return nil, r.err
	}
	if timeout <= age {
		return nil, ErrDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, timeout-age)
	defer cancel()
	c, err := h.replicaFor(req)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	return appendResponse(nil, resp), nil
}

func appendRequest(b []byte, r Request) []byte {
	b = binary.AppendUvarint(b, uint64(r.Shard))
	b = append(b, byte(r.Op))
	b = appendString(b, r.Key)
	b = appendString(b, r.Value)
	b = appendString(b, r.ContentType)
	b = appendDuration(b, r.TTL)
	b = append(b, byte(r.Cond.Kind))
	b = binary.AppendUvarint(b, r.Cond.Version)
	b = append(b, byte(r.Consistency))
	b = binary.AppendUvarint(b, uint64(r.MaxStaleness))
	b = appendBool(b, r.NoTouch)
	return binary.AppendUvarint(b, r.R)
}

func (r *reader) request() Request {
	req := Request{Shard: ID(r.uint()), Op: Op(r.byte()), Key: r.bytes(), Value: r.bytes(), ContentType: r.string(),
		TTL: time.Duration(r.uint()) * time.Millisecond, Cond: fsm.Cond{Kind: fsm.CondKind(r.byte()), Version: r.uint()},
		Consistency: Consistency(r.byte()), MaxStaleness: r.span(), NoTouch: r.bool(), R: r.uint()}
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
	if r.MissReason != "" { // at the end, where a node that does not know it does not look
		b = appendString(b, r.MissReason)
	}
	return b
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
		resp.MissReason = MissReason(r.string())
		if !slices.Contains(missReasons[:], resp.MissReason) {
			r.fail()
		}
	}
	if resp.Read != "" && !slices.Contains(readPaths, resp.Read) {
		r.fail()
	}
	return resp, r.err
}
