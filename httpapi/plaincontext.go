package httpapi

import (
	"context"
	"slices"
	"sync"
	"time"
)

// plainContext is the context of one plain request. It ends at its deadline, when the client goes, or with the request;
// the connection looks for the first two. It is a context.Context that costs little where nothing of that happens.
type plainContext struct {
	conn     *plainConn
	began    time.Time
	mu       sync.Mutex // guards what follows
	deadline time.Time  // zero: none
	done     chan struct{}
	err      error
	after    []*afterFunc
}

type afterFunc struct{ f func() }

func (c *plainContext) Deadline() (deadline time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline, !c.deadline.IsZero()
}

func (c *plainContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

func (c *plainContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *plainContext) Value(key any) any {
	if key == (closingKey{}) {
		return c.conn.server.closing
	}
	return nil
}

// AfterFunc is what package context asks for to end the contexts below this one without a goroutine for each.
func (c *plainContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	a := &afterFunc{f}
	c.after = append(c.after, a)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.after, a)
		if i >= 0 {
			c.after = slices.Delete(c.after, i, i+1)
		}
		return i >= 0
	}
}

// end ends the context, unless it has ended.
func (c *plainContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	for _, a := range c.after {
		go a.f()
	}
	c.after = nil
}

// withDeadline returns a context that ends with that of a request, and at the deadline; cancel is to be called when the
// request needs it no longer.
func withDeadline(ctx context.Context, deadline time.Time) (_ context.Context, cancel func()) {
	plain, ok := ctx.(*plainContext)
	if !ok {
		return context.WithDeadline(ctx, deadline)
	}
	plain.mu.Lock()
	plain.deadline = deadline
	plain.mu.Unlock()
	plain.conn.watch(plain, deadline)
	return plain, func() { plain.end(context.Canceled) }
}
