package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

const (
	// backoff is the first pause where nobody can be reached; it doubles up to maxBackoff.
	backoff    = 50 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
	// maxHops is how many times in a row a refusal with a name is believed. Nodes that point at each other are
	// left to sort it out: one of them forwards.
	maxHops = 2
)

// Modes of ?route=.
const (
	routeLocal   = "local"
	routeForward = "forward"
)

// do performs r: it sends r until an answer settles it, another try can't help, or the time is over.
func (c *Client) do(ctx context.Context, r *request) (*answer, error) {
	if bad := r.check(c.cfg.MaxValueBytes); bad != nil {
		return nil, bad
	}
	if !c.begin() {
		return nil, &Error{Op: r.op, Kind: ErrClosed, Applied: AppliedNo}
	}
	defer c.calls.Done()
	// One cause for the three ways in which a call can be cut short, and its deadline.
	var cancel context.CancelFunc
	if _, ok := ctx.Deadline(); ok {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, c.cfg.Timeout+r.fill)
	}
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	c.awaitTable(ctx)
	r.fillEnd = time.Now().Add(r.fill)
	if r.once == "" && r.takesKey() && !c.cfg.NoRetry && !c.cfg.NoIdempotency {
		r.once = c.newKey()
	}

	if r.ownKey && opaque(r.once) {
		r.until = time.Now().Add(opaqueWindow)
	}

	// Nobody says when the transport is done with a body, and the caller's slice is the caller's after the call.
	r.value = slices.Clone(r.value)
	p := path{c: c, r: r, slot: slotOf(r.key)}
	// Once an attempt may have been applied, only a change that was made settles the call: what is refused, or finds
	// nothing to do, is not remembered under the key, and says nothing about the earlier attempt, which may still
	// be on its way.
	var last, unknown *Error
	renewals := 0
	for {
		if ctx.Err() != nil {
			return nil, c.over(ctx, r, last, unknown)
		}
		n, mode := p.next()
		began := time.Now()
		a, err := c.attempt(ctx, n, mode, r)
		if err == nil {
			p.learn(n, a)
			if unknown != nil && !a.made(r) {
				return nil, unsettled(unknown, &Error{Node: n.host, Status: http.StatusNoContent, Detail: "nothing was there to delete", Kind: ErrNotFound})
			}
			return a, nil
		}
		if !c.cfg.NoRetry && c.renew(r, err, unknown != nil, &renewals) {
			n.answered()
			continue
		}
		if err.Kind == ErrOutcomeUnknown {
			unknown, r.repeated = err, true
		}
		if !err.again || c.cfg.NoRetry {
			switch {
			case err.broken:
				p.lost(n)
			case a != nil:
				p.learn(n, a)
			default:
				n.answered()
			}
			if unknown != nil && err != unknown {
				return nil, unsettled(unknown, err)
			}
			return a, err
		}
		last = err
		pause := p.after(n, mode, err, time.Since(began))
		if deadline, _ := ctx.Deadline(); pause >= time.Until(deadline) || r.repeated && !r.until.IsZero() && pause >= time.Until(r.until) {
			return nil, c.over(ctx, r, last, unknown)
		}
		if pause > 0 {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
	}
}

// unsettled is the error of a call of which one attempt may have been applied, and a later one was refused.
func unsettled(unknown, refusal *Error) *Error {
	e := *unknown
	e.Node, e.Status, e.Type, e.Detail = refusal.Node, refusal.Status, refusal.Type, refusal.Detail
	e.Err = fmt.Errorf("an earlier attempt may have been applied, this one was refused: %w", refusal.Kind)
	return &e
}

// over is the error of a call that has no more time. last is its last refusal, nil if there was none; unknown the
// last attempt that could have applied, nil if there was none.
func (c *Client) over(ctx context.Context, r *request, last, unknown *Error) *Error {
	if unknown != nil {
		if unknown.Err == nil {
			unknown.Err = context.Cause(ctx)
		}
		return unknown
	}
	e := &Error{Op: r.op, Kind: ErrUnavailable, Applied: AppliedNo, Detail: "nothing was sent"}
	if last != nil {
		e = last
	}
	switch {
	case c.ctx.Err() != nil:
		e.Kind = ErrClosed
	case ctx.Err() != nil:
		e.Err = context.Cause(ctx)
	}
	return e
}

// path is the way of one call through the nodes.
type path struct {
	c       *Client
	r       *request
	slot    uint32
	forward bool    // no more guesses: any node that forwards
	leads   bool    // only a leader serves it, as a refusal said
	hops    int     // refusals with a name in a row
	tried   []*node // those that failed since the last pause
	pause   time.Duration
}

// next is where to send the request now.
func (p *path) next() (n *node, mode string) {
	sh := p.c.table.Load().find(p.slot)
	usable := func(n *node) bool { return n != nil && n.good() && !slices.Contains(p.tried, n) }
	if sh != nil && !p.forward {
		mode := routeLocal
		if p.c.cfg.NoRetry || p.r.batch != nil || p.r.scan {
			mode = routeForward // the one request must do, or has keys of many
		}
		serves := func(m *node) bool { return usable(m) && sh.refused[m].try() && m.suspect.try() }
		if near := p.near(sh); serves(near) {
			return near, mode
		}
		if equals := p.equals(sh); len(equals) > 0 {
			turn := int(p.c.turn.Add(1) % uint64(len(equals)))
			for i := range equals {
				if m := equals[(turn+i)%len(equals)]; serves(m) {
					return m, mode
				}
			}
		}
		if leader := sh.leader.Load(); usable(leader) {
			return leader, mode
		}
	}
	return p.c.candidates(sh, p.tried)[0], routeForward
}

// near is the replica of sh that a read had better ask, nil for none.
func (p *path) near(sh *route) *node {
	if p.c.cfg.Near == "" || p.leads || !p.r.single() {
		return nil
	}
	for _, m := range sh.voters {
		if m.id == p.c.cfg.Near {
			return m
		}
	}
	return nil
}

// equals are the replicas of sh that take turns, nil where the leader is to be asked.
func (p *path) equals(sh *route) []*node {
	switch {
	case p.leads:
	case p.r.anyReplica:
		return sh.members
	case p.r.single() && sh.isHot():
		return sh.voters
	}
	return nil
}

// candidates are all nodes to ask, the best first: those not tried before the tried, those that answer before suspects,
// members of the shard (nil: of none) before other nodes, and the addresses of Config last. Equals take turns.
func (c *Client) candidates(sh *route, tried []*node) []*node {
	var all []*node
	var members []*node
	if sh != nil {
		members = sh.members
	}
	if t := c.table.Load(); t != nil {
		for _, n := range t.nodes {
			all = append(all, n)
		}
		slices.SortFunc(all, func(a, b *node) int {
			if a.id < b.id {
				return -1
			}
			return 1
		})
	}
	known := len(all)
	for _, s := range c.seeds {
		if !slices.ContainsFunc(all[:known], func(n *node) bool { return n.host == s.host }) {
			all = append(all, s)
		}
	}
	turn := int(c.turn.Add(1) % uint64(len(all)))
	all = append(all[turn:len(all):len(all)], all[:turn]...)
	rank := func(n *node) (rank int) {
		if slices.Contains(tried, n) {
			rank += 8
		}
		if !n.good() {
			rank += 4
		}
		if n.id == "" && known > 0 {
			rank += 2
		} else if !slices.Contains(members, n) {
			rank++
		}
		return rank
	}
	slices.SortStableFunc(all, func(a, b *node) int { return rank(a) - rank(b) })
	return all
}

// lost notes that n gave no answer.
func (p *path) lost(n *node) {
	n.failed()
	if sh := p.c.table.Load().find(p.slot); sh != nil {
		sh.leader.CompareAndSwap(n, nil)
	}
}

// after learns from an answer that isn't final, or from none. It returns how long to wait before the next attempt.
func (p *path) after(n *node, mode string, e *Error, took time.Duration) time.Duration {
	switch {
	case e.Status == 421 && mode == routeLocal:
		return p.misdirected(n, e)
	case e.Status == 429:
		return jitter(max(e.retryAfter, p.grow()))
	case e.broken:
		p.lost(n)
		p.tried, p.forward = append(p.tried, n), true
		if len(p.tried) < len(p.c.candidates(nil, nil)) {
			return 0
		}
		p.tried = nil
		return jitter(p.grow())
	case mode == routeLocal:
		// It has no leader to name. A node that forwards waits for one.
		p.refused(n)
		p.tried, p.forward = append(p.tried, n), true
		return 0
	}
	// The server has waited for a leader already; that counts.
	p.tried = []*node{n}
	return jitter(max(e.retryAfter-took, p.grow()))
}

// misdirected follows a 421 to the node that it names, unless the refusing node knows less than we do.
func (p *path) misdirected(n *node, e *Error) time.Duration {
	t := p.c.table.Load()
	sh := t.find(p.slot)
	p.hops++
	if sh == nil || p.hops > maxHops {
		p.forward = true
		return 0
	}
	if e.epoch > sh.epoch {
		p.c.wish()
	}
	leader := t.nodes[e.leader]
	if leader == nil || leader == n || e.epoch < sh.epoch {
		p.forward = true
		if e.leader != "" && leader == nil {
			p.c.wish()
		}
		return 0
	}
	p.leads = true // its replica doesn't serve: the leader does
	if !p.refused(n) {
		sh.leader.Store(leader)
	}
	return 0
}

// refused notes that n did not serve, and reports whether it was asked though another is known to lead. If so it does not know better who does: one that
// is behind, or cut off, may name the leader before.
func (p *path) refused(n *node) bool {
	sh := p.c.table.Load().find(p.slot)
	if sh == nil {
		return false
	}
	leader := sh.leader.Load()
	if leader == nil || leader == n {
		return false
	}
	if d := sh.refused[n]; d != nil && p.r.op == "get" {
		d.raise()
	}
	return true
}

func (p *path) grow() time.Duration {
	p.pause = min(max(2*p.pause, backoff), maxBackoff)
	return p.pause
}

// jitter keeps clients that failed together from coming back together. It never shortens d.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/4+1) }

// learn takes from a good answer who leads, and whether the table is old.
func (p *path) learn(n *node, a *answer) {
	n.answered()
	t := p.c.table.Load()
	sh := t.find(p.slot)
	if sh == nil || p.r.batch != nil || p.r.scan {
		return
	}
	if a.place.Shard != sh.id || a.place.Epoch > sh.epoch {
		p.c.wish()
		return
	}
	if d := sh.refused[n]; d != nil && !d.over() {
		d.lift()
	}
	if a.path == ReadFollower || a.path == ReadLocal {
		return
	}
	if a.hot {
		sh.heat()
	}
	if leader := t.nodes[a.place.ServedBy]; leader != nil && sh.leader.Load() != leader {
		sh.leader.Store(leader)
	}
}
