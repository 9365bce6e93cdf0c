package client

import (
	"context"
	"fmt"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Attempt says where and when an operation is sent for the n-th time, n being 1 for the first: after a pause.
type Attempt func(n int) (target Target, pause time.Duration)

// DoAgain is Do of a write under an idempotency key that is sent up to most times, until it is settled. The end of
// ctx cuts the pauses short.
func (c *Client) DoAgain(ctx context.Context, next Attempt, most int, o history.Operation) history.Operation {
	request := o
	doubt := false // an attempt may have been applied, or may still be
	var first string
	var invoke time.Duration
	for n := 1; ; n++ {
		target, pause := next(n)
		wait(ctx, pause)
		o = request
		if n == 1 {
			first, invoke = target.Node, c.cfg.Recorder.Now()
		}
		o.Node, o.Invoke, o.Attempts = first, invoke, n
		c.attempt(context.WithoutCancel(ctx), target, &o)
		if o.Outcome == history.OK {
			if doubt && !made(&o) {
				doubtful(&o)
			}
			break
		}
		doubt = doubt || o.Outcome == history.Unknown
		if n == most || o.Problem == history.ProblemKeyTooOld || ctx.Err() != nil && n > 1 {
			if doubt {
				doubtful(&o)
			}
			break
		}
	}
	c.cfg.Recorder.Add(o)
	return o
}

// made reports whether a write that was answered made a change. Other answers are not remembered under its key.
func made(o *history.Operation) bool {
	switch {
	case o.Conflict:
		return false
	case o.Kind == history.Delete, o.Kind == history.DeleteIf, o.Kind == history.Expire:
		return o.Existed
	}
	return true
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Repeat sends an operation that DoAgain returned once more, as a network might that repeats what it carries. Nothing may
// come of it: where the answer is not a refusal it is that of the first time, else it is a defect. It reports whether
// there was such an answer. It is no operation and not recorded.
func (c *Client) Repeat(ctx context.Context, target Target, o history.Operation) bool {
	if o.IdempotencyKey == "" || o.Outcome != history.OK || !made(&o) {
		return false
	}
	again := o
	again.Node = target.Node
	again.Hops, again.Status, again.Problem, again.Err = 0, 0, "", ""
	doubtful(&again)
	c.attempt(ctx, target, &again)
	if again.Outcome != history.OK {
		return false
	}
	same := again.Replayed && !again.Conflict && again.Existed == o.Existed && again.Version == o.Version && again.Number == o.Number &&
		(again.Read == o.Read || !again.Found) // a value that was too long to be remembered is left out
	if !same {
		c.cfg.Recorder.Defect(fmt.Errorf("two answers under the idempotency key %q: first %s; then %s", o.IdempotencyKey, o, again))
	}
	return true
}
