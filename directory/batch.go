package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// maxAnswer bounds the bytes of the values that a batch is answered with. What its shards answer at the same time may add
// one part's each.
const maxAnswer = 32 << 20

// SpansShardsError refuses an atomic batch, since its keys live in several shards: A and B are the numbers of two operations
// that no one shard has.
type SpansShardsError struct{ A, B int }

func (e *SpansShardsError) Error() string {
	return fmt.Sprintf("the operations %d and %d are of different shards", e.A, e.B)
}

// NotAttemptedError refuses an operation of a batch, since the outcome of an earlier one of its shard is unknown: that one may
// still be applied, and the order would be lost.
type NotAttemptedError struct{ Cause error }

func (e *NotAttemptedError) Error() string {
	return fmt.Sprintf("not attempted after an operation of the batch whose outcome is unknown (%v)", e.Cause)
}

// DoBatch performs the operations of b where their keys are served, those of different shards at the same time, and returns
// a reply for each, in their order.
//
// Those of a shard are performed in order, in parts of at most shard.MaxBatchOps, shard.MaxBatchBytes and shard.MaxBatchAppends:
// a part begins when the one before it was answered. A part is tried again as Do tries a request again. What the state machine refuses, a
// condition for one, keeps no later operation from being tried. A part that is refused as a whole once no other try can
// help, or whose outcome is unknown, is the last of its shard: those after it are refused, with the same error or with a
// NotAttemptedError. So what was applied of a shard's operations is the beginning of them, then come those of one part that may
// have been.
//
// An atomic batch is one part. Its error is a *SpansShardsError, or one of Do's; without an error there is a reply for
// each operation.
func (r *Router) DoBatch(ctx context.Context, b shard.Batch) ([]shard.Reply, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	replies := make([]shard.Reply, len(b.Ops))
	s := &series{router: r, batch: b, replies: replies, slots: make([]uint16, len(b.Ops)), room: new(atomic.Int64)}
	s.room.Store(maxAnswer)
	for i := range b.Ops {
		s.slots[i] = fsm.Slot(b.Ops[i].Key)
		s.left = append(s.left, i)
	}
	if b.Atomic {
		return replies, s.run(ctx)
	}
	var wg sync.WaitGroup
	all := s.byShard(ctx)
	for _, one := range all[1:] {
		wg.Go(func() { _ = one.run(ctx) })
	}
	_ = all[0].run(ctx)
	wg.Wait()
	return replies, nil
}

// series is operations of a batch that are performed in order.
type series struct {
	router  *Router
	batch   shard.Batch
	slots   []uint16      // of all operations
	replies []shard.Reply // to all operations; a series sets those of its own
	left    []int         // numbers of those that have no reply yet
	room    *atomic.Int64 // bytes of values that replies may still have
}

// byShard makes a series for each shard that has operations, by the table; at least one.
func (s *series) byShard(ctx context.Context) (all []*series) {
	h := hunt{router: s.router}
	table, replaced := s.router.latest.Changed()
	for len(s.slots) > 0 && ctx.Err() == nil {
		if _, ok := table.Lookup(s.slots[0]); ok {
			break
		}
		h.pause(ctx, replaced)
		table, replaced = s.router.latest.Changed()
	}
	of := map[shard.ID]*series{}
	for _, i := range s.left {
		owner, _ := table.Lookup(s.slots[i]) // without a table all are the first one's, which says so
		one := of[owner.ID]
		if one == nil {
			one = &series{router: s.router, batch: s.batch, slots: s.slots, replies: s.replies, room: s.room}
			of[owner.ID] = one
			all = append(all, one)
		}
		one.left = append(one.left, i)
	}
	if len(all) == 0 {
		return []*series{s}
	}
	return all
}

// run performs what is left, part by part. The error is an atomic batch's.
func (s *series) run(ctx context.Context) error {
	r := s.router
	h := hunt{router: r, read: true}
	var last error // refusal of the present part
	for len(s.left) > 0 {
		table, replaced := r.latest.Changed()
		owner, ok := table.Lookup(s.slots[s.left[0]])
		if !ok {
			last = r.noTable()
		}
		if ctx.Err() != nil {
			return s.end(len(s.left), h.giveUp(last))
		}
		if !ok {
			h.pause(ctx, replaced)
			continue
		}
		n, err := s.part(table, owner)
		if err != nil {
			return err
		}
		part := s.request(n)
		h.read = part.Reads() && !part.Atomic
		node := h.next(owner)
		if node == "" {
			if last == nil {
				last = fmt.Errorf("%w: shard %d", shard.ErrNoLeader, owner.ID)
			}
			h.pause(ctx, replaced)
			continue
		}
		part.Shard = owner.ID
		if h.read || owner.Generation > 1 {
			// Only by the replica that the table lists, as in Do.
			m, _ := owner.Member(node)
			part.R = m.R
		}
		replies, err := r.attemptBatch(ctx, node, part)
		if err == nil {
			done, refusal := s.settle(n, node, replies)
			if refusal == nil || done {
				h, last = hunt{router: r}, nil // the next part is another request
			}
			if refusal == nil {
				continue
			}
			err = refusal
		}
		reason, again := retryable(err)
		if !again {
			return s.end(n, err)
		}
		last = err
		r.retried(reason)
		if !h.follow(owner, node, err) {
			h.pause(ctx, replaced)
		}
	}
	return nil
}

// part returns how many of what is left are the next part: those at its beginning that one shard owns, within the bounds.
func (s *series) part(table *Table, owner Shard) (n int, err error) {
	size, appends := 0, 0
	for n < len(s.left) && (s.batch.Atomic || n < shard.MaxBatchOps) {
		i := s.left[n]
		size += s.batch.Ops[i].Size()
		if s.batch.Ops[i].Op == shard.OpAppend {
			appends++
		}
		if n > 0 && (size > shard.MaxBatchBytes || appends > shard.MaxBatchAppends) && !s.batch.Atomic {
			break
		}
		if of, ok := table.Lookup(s.slots[i]); !ok || of.ID != owner.ID {
			if s.batch.Atomic {
				return 0, &SpansShardsError{0, i}
			}
			break
		}
		n++
	}
	return n, nil
}

// request is the batch of the first n of what is left.
func (s *series) request(n int) shard.Batch {
	part := s.batch
	if n == len(part.Ops) {
		return part // as most are: all of them, in order
	}
	part.Ops = make([]shard.Request, n)
	for k, i := range s.left[:n] {
		part.Ops[k] = s.batch.Ops[i]
	}
	return part
}

// settle takes replies to the first n of what is left. Those operations that another try can help stay, in order, and
// refusal is why the first of them does; done is that others have their replies now.
func (s *series) settle(n int, node string, replies []shard.Reply) (done bool, refusal error) {
	var again []int
	reads := !s.batch.Atomic // whose reads see one state, that of one place in the log
	for _, i := range s.left[:n] {
		reads = reads && s.batch.Ops[i].Op == shard.OpGet
	}
	for k, i := range s.left[:n] {
		reply := replies[k]
		if s.stays(reads, done, reply.Err) {
			if again = append(again, i); refusal == nil && !errors.Is(reply.Err, shard.ErrAnswerTooLarge) {
				refusal = reply.Err
			}
			continue
		}
		done = true
		if reply.Err == nil && node != s.router.self {
			reply.Response.ForwardedTo = node
		}
		s.replies[i] = s.fit(reply)
	}
	s.left = append(again, s.left[n:]...)
	return done, refusal
}

// fit leaves the value out of a reply where the replies before it have used up the room.
func (s *series) fit(reply shard.Reply) shard.Reply {
	r := &reply.Response
	size := int64(len(r.Value))
	switch {
	case size == 0:
	case s.room.Add(-size)+size > 0:
	case r.Found:
		return shard.Reply{Err: shard.ErrAnswerTooLarge}
	default:
		r.HasValue, r.Value, r.ContentType = false, nil, ""
	}
	return reply
}

// stays reports whether an operation is to be tried again after err, in a part that has reads alone or not, and of which
// one before it is done or not. What does not own a slot any more did not own it for any of the part's operations on it, so
// they stay in order; reads were not ordered against anything.
func (s *series) stays(reads, done bool, err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, shard.ErrAnswerTooLarge) {
		return reads && done && s.room.Load() > 0 // in another answer
	}
	if reads {
		_, again := retryable(err)
		return again
	}
	var owner *shard.NotOwnerError
	return errors.As(err, &owner)
}

// end refuses what is left, or leaves it open: err is the outcome of the first n, after which no other is tried.
func (s *series) end(n int, err error) error {
	if s.batch.Atomic {
		return err
	}
	rest := err
	if errors.Is(err, shard.ErrOutcomeUnknown) {
		rest = &NotAttemptedError{err}
	}
	for k, i := range s.left {
		if s.replies[i].Err = err; k >= n {
			s.replies[i].Err = rest
		}
	}
	s.left = nil
	return nil
}

// attemptBatch asks one node once. Of reads alone it makes any failure a refusal, as attempt does.
func (r *Router) attemptBatch(ctx context.Context, node string, b shard.Batch) (replies []shard.Reply, err error) {
	if b.Atomic || !b.Reads() {
		return r.doBatch(ctx, node, b)
	}
	err = attemptRead(ctx, readAttempt, node, func(ctx context.Context) error {
		replies, err = r.doBatch(ctx, node, b)
		return err
	})
	return replies, err
}
