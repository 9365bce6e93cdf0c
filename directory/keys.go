package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// eraseMargin is what is left of the time when no further step of removing keys is begun: its answer should come in time.
const eraseMargin = 300 * time.Millisecond

// Scan returns a page of keys from where the slot of s.From is served, as Do performs a read. At the end of the keys it asks nobody.
func (r *Router) Scan(ctx context.Context, s shard.Scan) (shard.Page, error) {
	if s.From = s.From.Within(s.Prefix); s.From.Slot >= fsm.Slots {
		return shard.Page{Next: s.From}, nil
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return r.seek(ctx, s, false)
}

// Erase removes keys from s.From on, shard by shard, as Do performs a write, until there are no more or the time is about to end: Next
// tells how far it came, and is behind the last slot where all are removed. Nothing is common to shards.
//
// With an error nothing was removed; with shard.ErrOutcomeUnknown some keys may be, Page.Removed for certain. What is refused once others
// are removed ends it without an error: to go on from Next tells why.
func (r *Router) Erase(ctx context.Context, s shard.Scan) (shard.Page, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	var all shard.Page
	for begun := false; ; begun = true {
		if all.Next = s.From.Within(s.Prefix); all.Next.Slot >= fsm.Slots {
			return all, nil
		}
		deadline, _ := ctx.Deadline()
		if begun && time.Until(deadline) < eraseMargin {
			return all, nil
		}
		s.From = all.Next
		p, err := r.seek(ctx, s, true)
		switch {
		case err != nil && begun && shard.Refused(err):
			return all, nil
		case err != nil:
			return all, err
		}
		removed := all.Removed + p.Removed
		all = p
		all.Removed = removed
		if s.From = p.Next; p.Status != fsm.StatusOK {
			return all, nil
		}
	}
}

func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, DefaultTimeout)
}

// seek has one shard list keys, or remove them: the one that owns the slot where s begins, whichever that is when it is asked.
func (r *Router) seek(ctx context.Context, s shard.Scan, erase bool) (shard.Page, error) {
	h := hunt{router: r, read: !erase, listed: s.Consistency == shard.Any}
	var last error
	for {
		if ctx.Err() != nil {
			return shard.Page{}, h.giveUp(last)
		}
		table, replaced := r.latest.Changed()
		owner, ok := table.Lookup(uint16(s.From.Slot))
		if !ok {
			last = r.noTable()
			h.pause(ctx, replaced)
			continue
		}
		node := h.next(owner)
		if node == "" {
			if last == nil {
				last = fmt.Errorf("%w: shard %d", shard.ErrNoLeader, owner.ID)
			}
			h.pause(ctx, replaced)
			continue
		}
		s.Shard, s.R = owner.ID, 0
		if !erase || owner.Generation > 1 {
			// Only by the replica that the table lists, as in Do.
			m, _ := owner.Member(node)
			s.R = m.R
		}
		p, err := r.attemptScan(ctx, node, s, erase)
		if err == nil {
			if node != r.self {
				p.ForwardedTo = node
			}
			return p, nil
		}
		reason, again := retryable(err)
		if !again {
			return shard.Page{}, err
		}
		last = err
		r.retried(reason)
		if !h.follow(owner, node, err) {
			h.pause(ctx, replaced)
		}
	}
}

// attemptScan asks one node once. Of a page it makes any failure a refusal, as attempt does.
func (r *Router) attemptScan(ctx context.Context, node string, s shard.Scan, erase bool) (p shard.Page, err error) {
	if erase {
		return r.erase(ctx, node, s)
	}
	err = attemptRead(ctx, readAttempt, node, func(ctx context.Context) error {
		p, err = r.scan(ctx, node, s)
		return err
	})
	return p, err
}
