package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// Operations that come together and are of one shard (Cache.DoBatch).
//
// With a write among them, all are commands of one log entry and stand in it one after the other, in the order in which they
// came. A read is then a command too (fsm.KindGet): it is decided where it stands, after the writes before it and before
// those after it, and is as linearizable as they are. To read beside the log between two writes would take an entry for each
// side of it.
//
// Reads alone leave the log alone: one round confirms this replica for all of them (probe.go, readindex.go), as it began
// after they came. Each then looks by itself, so they see no common state.
//
// What a batch comes to is one outcome for each operation. An error of the batch is that of all of them, and refuses all
// or, with a write among them, leaves the fate of all open: they have one entry.

const (
	// MaxBatchOps and MaxBatchBytes bound the operations of one Batch, by number and by the bytes of their keys, values and
	// content types. One operation alone may be larger.
	MaxBatchOps   = 1024
	MaxBatchBytes = 1 << 20
	// MaxAtomicOps and MaxAtomicBytes bound those of one that is atomic: it can't be divided.
	MaxAtomicOps   = fsm.MaxAtomic
	MaxAtomicBytes = 4 << 20
	// MaxBatchAppends bounds the appends of either, and those for which a log entry takes further proposals. Each copies a value
	// whose length its own bytes say nothing of, and the copies are in memory at the same time, as the results of the entry.
	MaxBatchAppends = 64
	// maxBatchAnswer bounds the bytes of the values in the answer to a batch, which go back in one frame: so one value alone
	// always has its room.
	maxBatchAnswer = maxValue
)

// Batch is operations of one client on keys of one shard.
type Batch struct {
	Shard ID     // filled in by the router
	R     uint64 // the replica that is meant on the node that is asked; 0: whichever it hosts
	// Ops are linearizable reads without Fill, and writes without idempotency keys of their own. Their Shard, R and Caller
	// are not used.
	Ops []Request
	// Atomic makes one change of all: one that is refused by its condition, or by what it finds, leaves all of them
	// unapplied. Not with fsm.CondFill.
	Atomic bool
	// Caller and IdempotencyKey are the scope in which an atomic batch is applied once (R7). Then it has no reads.
	Caller         string
	IdempotencyKey string
}

// Reply is what one operation of a batch came to: a response, or an error as Do returns it. A write whose value is
// missing in the answer for want of room has no Value, as a replay may have none; a read is ErrAnswerTooLarge then.
type Reply struct {
	Response Response
	Err      error
}

// Size is about what an operation takes of a batch's bytes.
func (r *Request) Size() int { return len(r.Key) + len(r.Value) + len(r.ContentType) }

// Reads reports whether all operations are reads.
func (b *Batch) Reads() bool {
	return !slices.ContainsFunc(b.Ops, func(r Request) bool { return r.Op != OpGet })
}

func (b *Batch) check() error {
	size, appends := 0, 0
	maxOps, maxBytes := MaxBatchOps, MaxBatchBytes
	if b.Atomic {
		maxOps, maxBytes = MaxAtomicOps, MaxAtomicBytes
	}
	for i := range b.Ops {
		r := &b.Ops[i]
		size += r.Size()
		if r.Op == OpAppend {
			appends++
		}
		if err := r.check(); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		switch {
		case r.IdempotencyKey != "" || r.Fill != 0 || r.Consistency != Linearizable:
			return fmt.Errorf("%w: operation %d has an idempotency key, a fill time or a consistency of its own", errBadRequest, i)
		case b.Atomic && r.Cond.Kind == fsm.CondFill:
			return fmt.Errorf("%w: operation %d of an atomic batch has a fill token", errBadRequest, i)
		case b.IdempotencyKey != "" && r.Op == OpGet:
			return fmt.Errorf("%w: operation %d of an idempotent batch is a read", errBadRequest, i)
		}
	}
	switch {
	case len(b.Ops) == 0 || len(b.Ops) > maxOps || appends > MaxBatchAppends || size > maxBytes && len(b.Ops) > 1:
		return fmt.Errorf("%w: %d operations of %d bytes together, %d appends", errBadRequest, len(b.Ops), size, appends)
	case len(b.IdempotencyKey) > fsm.MaxIdempotencyKey || b.IdempotencyKey != "" && !b.Atomic:
		return fmt.Errorf("%w: idempotency key of %d bytes, atomic %t", errBadRequest, len(b.IdempotencyKey), b.Atomic)
	case len(b.Caller) > fsm.MaxCaller:
		return fmt.Errorf("%w: caller's name of %d bytes", errBadRequest, len(b.Caller))
	}
	return nil
}

// DoBatch performs operations on this replica, in order. With a write among them, or atomic, it must lead.
func (c *Cache) DoBatch(ctx context.Context, b Batch) ([]Reply, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	if err := c.group.serves(); err != nil {
		return nil, err
	}
	if b.Atomic || !b.Reads() {
		return c.writeAll(ctx, &b)
	}
	replies, err := c.getAll(ctx, b.Ops)
	if stopped := c.group.serves(); err == nil && stopped != nil { // found out meanwhile
		return nil, stopped
	}
	return replies, err
}

// room is what is left of maxBatchAnswer for values, bytes.
type room int

// take reports whether a value of n bytes has its place.
func (r *room) take(n int) bool {
	if n > int(*r) {
		return false
	}
	*r -= room(n)
	return true
}

// getAll is get for several keys.
func (c *Cache) getAll(ctx context.Context, reqs []Request) ([]Reply, error) {
	i := c.group.instance()
	if i == nil {
		return nil, ErrStopped
	}
	leads := i.ready.Load() != 0
	noLease := slices.ContainsFunc(reqs, func(r Request) bool { return r.NoLease })
	var x readIndex
	var path ReadPath
	var err error
	if leads {
		path, err = i.readBarrier(ctx, noLease)
	} else {
		x, err = i.followerBarrier(ctx, noLease)
	}
	if err != nil {
		return nil, err
	}
	replies := make([]Reply, len(reqs))
	left := room(maxBatchAnswer)
	for k := range reqs {
		var r Response
		if leads {
			r, err = c.lookAsLeader(ctx, i, reqs[k], path)
		} else {
			r, err = c.lookAsFollower(i, x, reqs[k])
		}
		if !leads && err != nil && !isNotOwner(err) {
			return nil, err // the leader can serve all of them
		}
		if err == nil && !left.take(len(r.Value)) {
			r, err = Response{}, ErrAnswerTooLarge
		}
		replies[k] = Reply{r, err}
	}
	return replies, nil
}

func isNotOwner(err error) bool {
	var owner *NotOwnerError
	return errors.As(err, &owner)
}

// writeAll proposes the operations in one log entry.
func (c *Cache) writeAll(ctx context.Context, b *Batch) ([]Reply, error) {
	first := 0 // place of the first operation's command
	if b.Atomic {
		first = 1
	}
	commands := make([]fsm.Command, first+len(b.Ops))
	if b.Atomic {
		commands[0] = fsm.Command{Kind: fsm.KindAtomic, Ops: uint32(len(b.Ops))}
		if b.IdempotencyKey != "" && !bugNoDedup.on() {
			commands[0].Caller, commands[0].IdempotencyKey = b.Caller, b.IdempotencyKey
		}
	}
	for i, r := range b.Ops {
		if r.Op == OpGet {
			commands[first+i] = fsm.Command{Kind: fsm.KindGet, Key: r.Key}
			continue
		}
		commands[first+i] = *r.command()
		commands[first+i].DefaultTTL = r.DefaultTTL && commands[0].IdempotencyKey != "" && r.Op.ages()
	}
	o, err := c.batches.submitAll(ctx, commands)
	if err != nil {
		return nil, err
	}
	if b.Atomic {
		switch whole := o.results[0].Status; whole {
		case fsm.StatusNotOwner:
			return nil, &NotOwnerError{Epoch: o.epoch}
		case fsm.StatusKeyReused, fsm.StatusKeyTooOld, fsm.StatusKeyTooNew, fsm.StatusKeysFull: // it is that of all
			for i := range o.results {
				o.results[i].Status = whole
			}
		}
	}
	left := room(maxBatchAnswer)
	replies := make([]Reply, len(b.Ops))
	for i := range b.Ops {
		result, place := &o.results[first+i], o.position+uint32(first+i)
		if b.Ops[i].Op == OpGet {
			replies[i] = c.readInLog(&b.Ops[i], result, &o, place)
		} else {
			replies[i] = c.written(result, &o, place)
		}
		if r := &replies[i].Response; !left.take(len(r.Value)) {
			r.HasValue, r.Value, r.ContentType = false, nil, ""
			if r.Found {
				replies[i] = Reply{Err: ErrAnswerTooLarge}
			}
		}
	}
	return replies, nil
}

// ages reports whether an operation stores what can have a time to live that nobody asked for.
func (o Op) ages() bool { return o == OpPut || o == OpIncr || o == OpAppend }

// written is the outcome of a write.
func (c *Cache) written(result *fsm.Result, o *outcome, position uint32) Reply {
	if result.Status == fsm.StatusNotOwner {
		return Reply{Err: &NotOwnerError{Epoch: o.epoch}}
	}
	r := c.response(o.epoch, o.index, position)
	r.Status, r.Version, r.Existed, r.Replayed = result.Status, result.Version, result.Existed, result.Replayed
	r.HasValue, r.Value, r.ContentType = result.HasValue, result.Value, result.ContentType
	return Reply{Response: r}
}

// readInLog is the outcome of a read that went through the log. Why it found nothing is looked up now: a hint, as ever.
func (c *Cache) readInLog(req *Request, result *fsm.Result, o *outcome, position uint32) Reply {
	if result.Status == fsm.StatusNotOwner {
		return Reply{Err: &NotOwnerError{Epoch: o.epoch}}
	}
	r := c.response(o.epoch, o.index, position)
	r.Status, r.Read = result.Status, ReadLog
	if result.Status != fsm.StatusOK { // of an atomic batch that was refused
		return Reply{Response: r}
	}
	c.paths[ReadLog].Add(1)
	var now fsm.Lookup
	var none miss
	i := c.group.instance()
	if i != nil {
		now, _, none = i.fsm.machine.(*cacheMachine).look(req.Key)
	}
	if r.Found = result.Existed; !r.Found {
		r.MissReason = missReasons[none.why]
		c.countMiss(none)
		return Reply{Response: r}
	}
	c.hits.Add(1)
	if i != nil {
		c.touch(*req, i.fsm.machine.(*cacheMachine), now)
	}
	r.Value, r.ContentType, r.Version = result.Value, result.ContentType, result.Version
	r.HasTTL, r.TTL = result.TTL != 0, time.Duration(result.TTL)*time.Millisecond
	return Reply{Response: r}
}

// DoBatch performs b on the replica that node hosts: here, or forwarded one hop in a frame of its own.
func (h *Host) DoBatch(ctx context.Context, node string, b Batch) ([]Reply, error) {
	if node == h.cfg.Node {
		c, err := h.replicaFor(b.Shard, b.R)
		if err != nil {
			return nil, err
		}
		return c.DoBatch(ctx, b)
	}
	p := h.peer(node)
	if p == nil {
		return nil, fmt.Errorf("%w: no address for node %q", ErrUnreachable, node)
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	body := appendDuration(nil, timeLeft(ctx, maxForward))
	body = appendString(body, b.Caller)
	body = appendBatch(body, b)
	answer, err := p.call(ctx, frameBatch, body, false)
	var remote *RemoteError
	if errors.As(err, &remote) && strings.Contains(remote.Text, unknownFrame) {
		return nil, fmt.Errorf("%w: %s", ErrUnreachable, remote.Text) // its build is older; another node may lead soon
	}
	if err != nil {
		if b.Reads() && errors.Is(err, ErrOutcomeUnknown) {
			return nil, fmt.Errorf("%w: %v", ErrUnreachable, err)
		}
		return nil, err
	}
	replies, err := decodeReplies(answer, node)
	if err == nil && len(replies) != len(b.Ops) {
		err = fmt.Errorf("%d replies of %d operations", len(replies), len(b.Ops))
	}
	if err != nil { // it was done, but what it did can't be read
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return replies, nil
}

// serveBatch performs a batch that another node forwarded.
func (h *Host) serveBatch(ctx context.Context, age time.Duration, body []byte) ([]byte, error) {
	r := reader{b: body}
	timeout, caller, b := r.duration(), r.string(), r.batch()
	b.Caller = caller
	if r.err != nil {
		return nil, r.err
	}
	if timeout <= age {
		return nil, ErrDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, timeout-age)
	defer cancel()
	c, err := h.replicaFor(b.Shard, b.R)
	if err != nil {
		return nil, err
	}
	replies, err := c.DoBatch(ctx, b)
	if err != nil {
		return nil, err
	}
	return appendReplies(nil, replies), nil
}

// A batch on the wire, after timeout and caller:
//
//	shard r atomic(1) idempotency key, count, then count requests
//
// and its answer: count, then of each operation 0 and a response, or 1 and an error; either with its length first.

func appendBatch(b []byte, batch Batch) []byte {
	b = binary.AppendUvarint(b, uint64(batch.Shard))
	b = binary.AppendUvarint(b, batch.R)
	b = appendBool(b, batch.Atomic)
	b = appendString(b, batch.IdempotencyKey)
	b = binary.AppendUvarint(b, uint64(len(batch.Ops)))
	for i := range batch.Ops {
		r := batch.Ops[i]
		r.Shard, r.R, r.Caller = 0, 0, ""
		b = appendRequest(b, r)
	}
	return b
}

func (r *reader) batch() Batch {
	b := Batch{Shard: ID(r.uint()), R: r.uint(), Atomic: r.bool(), IdempotencyKey: r.string()}
	n := r.uint()
	if n > MaxBatchOps {
		r.fail()
		return Batch{}
	}
	b.Ops = make([]Request, n)
	for i := range b.Ops {
		b.Ops[i] = r.request()
	}
	return b
}

func appendReplies(b []byte, replies []Reply) []byte {
	b = binary.AppendUvarint(b, uint64(len(replies)))
	var one []byte
	for i := range replies {
		failed := replies[i].Err != nil
		if b = appendBool(b, failed); failed {
			one = appendError(one[:0], replies[i].Err)
		} else {
			one = appendResponse(one[:0], replies[i].Response)
		}
		b = appendString(b, one)
	}
	return b
}

func decodeReplies(b []byte, node string) ([]Reply, error) {
	r := reader{b: b}
	n := r.uint()
	if n > MaxBatchOps {
		return nil, errShortFrame
	}
	replies := make([]Reply, n)
	for i := range replies {
		failed, one := r.bool(), r.bytes()
		if r.err != nil {
			return nil, r.err
		}
		if failed {
			replies[i].Err = decodeError(one, node)
			continue
		}
		var err error
		if replies[i].Response, err = decodeResponse(one); err != nil {
			return nil, err
		}
	}
	return replies, nil
}
