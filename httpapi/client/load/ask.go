package load

import (
	"context"
	"errors"
	"fmt"
)

// asker sends the requests of one client.
type asker struct {
	conn   Conn
	batch  BatchConn // nil: a request is an operation
	choose *chooser
	ops    []Op    // of a request
	errs   []error // what became of each
}

func newAsker(cfg *Config, conn Conn, choose *chooser) *asker {
	a := &asker{conn: conn, choose: choose, ops: make([]Op, max(cfg.Batch, 1)), errs: make([]error, max(cfg.Batch, 1))}
	if cfg.Batch > 0 {
		a.batch = conn.(BatchConn) // canBatch
	}
	return a
}

// canBatch says which of conns can't do what cfg asks for.
func canBatch(cfg *Config, conns []Conn) error {
	if cfg.Batch == 0 {
		return nil
	}
	for _, c := range conns {
		if _, ok := c.(BatchConn); !ok {
			return fmt.Errorf("load: a %T carries no batches", c)
		}
	}
	return nil
}

// do sends a request, and returns how many of its operations failed. What became of each is in errs.
func (a *asker) do(ctx context.Context, read bool) (failed int) {
	switch {
	case a.batch != nil:
		for i := range a.ops {
			op := &a.ops[i]
			op.Read, op.Key, op.Value = read, append(op.Key[:0], a.choose.nextKey()...), nil
			if !read {
				op.Value = a.choose.value()
			}
		}
		a.batch.Batch(ctx, a.ops, a.errs)
	case read:
		a.errs[0] = a.conn.Get(ctx, a.choose.nextKey())
	default:
		a.errs[0] = a.conn.Put(ctx, a.choose.nextKey(), a.choose.value())
	}
	for _, err := range a.errs {
		if err != nil && !errors.Is(err, ErrMissing) {
			failed++
		}
	}
	return failed
}
