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

// Listing and removing keys by a prefix.
//
// A page of keys is a read: it is confirmed as one of a key is (read in cache.go), and shows the state of one place in the log. It goes as far
// as one shard does at most; where it ends tells a slot and a key, so whoever owns that slot goes on.
//
// Keys are removed by log entries, each of which removes what is in a part of the slots (fsm.KindDeletePrefix). The leader makes them of the state that it
// has, so what is written later stays. It makes so many that a caller hears in time how far it came:
//
//	the process dies before an entry is proposed    refused, or the answer to those before is lost: then unknown
//	                       while one is in flight    unknown, as of any write: the entry may be applied later
//	                       once it is applied        unknown, unless the answer went out before
//
// To repeat it does no harm but to what was written since. A range that moves away while its keys are removed takes those with it that are
// left: each answer's epoch is compared, and removing goes on from there at whoever owns the slots now.

const (
	// eraseSpan is how many entries an entry of the log that removes keys looks at, about.
	eraseSpan = 1024
	// eraseMost is after how many such entries an answer goes out, at the next end of a slot.
	eraseMost = 32
	// eraseMargin is what is left of the time when no further entry is begun, so that the last one has its answer.
	eraseMargin = 250 * time.Millisecond
)

// Scan asks for a page of keys, or to remove them.
type Scan struct {
	Shard ID     // filled in by the router
	R     uint64 // the replica that is meant on the node that is asked; 0: whichever it hosts
	// Prefix is what the keys begin with, at most fsm.MaxKey bytes.
	Prefix []byte
	// From is where to begin. Its slot is the shard's.
	From fsm.Cursor
	// Limit is how many keys a page has at most, 1 to fsm.MaxPage. Not for removing.
	Limit int
	// As in a Request. Not for removing.
	Consistency  Consistency
	MaxStaleness time.Duration
	NoLease      bool
}

// Page is an answer to a Scan.
type Page struct {
	Response            // the place, and how it was read; Status and Version of what removed last
	Keys     [][]byte   // in order
	Removed  uint64     // how many keys were removed
	Next     fsm.Cursor // where the next page begins
}

func (s *Scan) check(erase bool) error {
	limits := s.Limit >= 1 && s.Limit <= fsm.MaxPage
	plain := s.Limit == 0 && s.Consistency == Linearizable && !s.NoLease
	switch {
	case len(s.Prefix) > fsm.MaxKey || len(s.From.After) > fsm.MaxKey || s.From.Slot >= fsm.Slots:
		return fmt.Errorf("%w: prefix of %d bytes, cursor at slot %d and a key of %d bytes", errBadRequest, len(s.Prefix), s.From.Slot, len(s.From.After))
	case !erase && !limits || erase && !plain:
		return fmt.Errorf("%w: %d keys, consistency %d", errBadRequest, s.Limit, s.Consistency)
	case s.Consistency > Any || s.MaxStaleness < 0 || s.MaxStaleness%time.Millisecond != 0 || s.Consistency != Bounded && s.MaxStaleness != 0:
		return fmt.Errorf("%w: consistency %d, max staleness %v", errBadRequest, s.Consistency, s.MaxStaleness)
	}
	return nil
}

// Scan returns a page of keys of this replica. It is no use of their entries.
func (c *Cache) Scan(ctx context.Context, s Scan) (Page, error) {
	if err := s.check(false); err != nil {
		return Page{}, err
	}
	if err := c.group.serves(); err != nil {
		return Page{}, err
	}
	p, err := c.scan(ctx, &s)
	if stopped := c.group.serves(); err == nil && stopped != nil { // found out meanwhile
		return Page{}, stopped
	}
	return p, err
}

func (c *Cache) scan(ctx context.Context, s *Scan) (Page, error) {
	i := c.group.instance()
	switch {
	case i == nil:
		return Page{}, ErrStopped
	case s.Consistency != Linearizable:
		return c.scanOld(ctx, i, s)
	case i.ready.Load() == 0:
		return c.scanAsFollower(ctx, i, s)
	}
	path, err := i.readBarrier(ctx, s.NoLease)
	if err != nil {
		return Page{}, err
	}
	m := i.fsm.machine.(*cacheMachine) // the one that the read was admitted on
	for {
		now := uint64(0)
		if stamps := i.stamps.Load(); stamps != nil {
			now = stamps.peek()
		}
		p, at := m.list(s, now)
		if p.Due == 0 {
			return c.page(&p, at, path)
		}
		path = ReadLog
		if err := c.batches.tick(ctx, p.Due); err != nil {
			return Page{}, readError(err)
		}
		if c.group.instance() != i {
			return Page{}, ErrNoLeader // this machine's clock stands still now
		}
	}
}

func (c *Cache) scanAsFollower(ctx context.Context, i *instance, s *Scan) (Page, error) {
	x, err := i.followerBarrier(ctx, s.NoLease)
	if err != nil {
		return Page{}, err
	}
	p, at := i.fsm.machine.(*cacheMachine).list(s, x.now)
	if at.generation != x.generation || p.Due != 0 {
		return Page{}, &NotLeaderError{Leader: x.leader}
	}
	return c.page(&p, at, ReadFollower)
}

// scanOld is getOld for a page.
func (c *Cache) scanOld(ctx context.Context, i *instance, s *Scan) (Page, error) {
	m, mono := i.fsm.machine.(*cacheMachine), c.group.host.mono
	path := ReadLocal
	fresh, known := i.fresh() // before the look: what that shows is at least as new
	if !known || s.Consistency == Bounded && mono()-fresh > s.MaxStaleness {
		fresh = mono()
		var err error
		if path, err = i.freshen(ctx, s.NoLease); err != nil {
			return Page{}, err
		}
	}
	found, at := m.list(s, 0)
	p, err := c.page(&found, at, path)
	p.Age = mono() - fresh
	return p, err
}

// list makes a page, with the place in the log whose state it saw.
func (c *cacheMachine) list(s *Scan, now uint64) (p fsm.Page, at place) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p = c.m.Scan(fsm.Scan{Prefix: s.Prefix, From: s.From, Limit: s.Limit, Now: now})
	at.index, at.position = c.m.Applied()
	at.generation = c.m.Stats().Generation
	return p, at
}

func (c *Cache) page(p *fsm.Page, at place, path ReadPath) (Page, error) {
	if !p.Owned {
		return Page{}, &NotOwnerError{Epoch: p.Epoch}
	}
	r := c.response(p.Epoch, at.index, at.position)
	r.Status, r.Read = fsm.StatusOK, path
	return Page{Response: r, Keys: p.Keys, Next: p.Next}, nil
}

// Erase removes keys of this replica's shard, which it must lead, and returns how far it came. An error refuses all of it, or leaves its outcome
// unknown: then some of the keys may be removed. Page.Status is StatusExhausted where the shard waits for new versions, Next being where.
func (c *Cache) Erase(ctx context.Context, s Scan) (Page, error) {
	if err := s.check(true); err != nil {
		return Page{}, err
	}
	if err := c.group.serves(); err != nil {
		return Page{}, err
	}
	i := c.group.instance()
	if i == nil {
		return Page{}, ErrStopped
	}
	// Only a leader gets by. What was acknowledged before is in the state that the plan is made of.
	path, err := i.readBarrier(ctx, false)
	if err != nil {
		return Page{}, err
	}
	plan, end, at := i.fsm.machine.(*cacheMachine).plan(&s)
	p, err := c.page(&end, at, path)
	if err != nil {
		return Page{}, err
	}
	deadline, limited := ctx.Deadline()
	for n := range plan {
		border := n == 0 || plan[n].Slots.Start != plan[n-1].Slots.Start
		if n >= eraseMost && border || n > 0 && limited && time.Until(deadline) < eraseMargin {
			p.Next = fsm.Cursor{Slot: plan[n].Slots.Start}
			break
		}
		o, err := c.batches.submit(ctx, &plan[n])
		if err != nil {
			if n == 0 || errors.Is(err, ErrOutcomeUnknown) {
				return Page{}, err
			}
			p.Next = fsm.Cursor{Slot: plan[n].Slots.Start}
			break
		}
		p.Index, p.Position = o.index, o.position
		if p.Removed += o.result.Count; o.result.Version != 0 {
			p.Version = o.result.Version
		}
		if p.Status = o.result.Status; p.Status != fsm.StatusOK || o.epoch != p.Epoch {
			p.Epoch, p.Next = o.epoch, fsm.Cursor{Slot: plan[n].Slots.Start}
			break
		}
	}
	return p, nil
}

// plan returns the commands that remove keys, and what a page would be that has all of them: its end.
func (c *cacheMachine) plan(s *Scan) (plan []fsm.Command, end fsm.Page, at place) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	stats := c.m.Stats()
	from := s.From.Within(s.Prefix)
	end = fsm.Page{Epoch: stats.Epoch, Owned: from.Slot < fsm.Slots && stats.Range.Contains(uint16(from.Slot))}
	at.index, at.position = c.m.Applied()
	if !end.Owned {
		return nil, end, at
	}
	end.Next = fsm.Cursor{Slot: stats.Range.End}
	if only := (fsm.Cursor{Slot: from.Slot + 1}); only.Within(s.Prefix).Slot == fsm.Slots {
		end.Next.Slot = fsm.Slots
	}
	plan = slices.DeleteFunc(c.m.PlanDelete(nil, s.Prefix, eraseSpan), func(c fsm.Command) bool { return c.Slots.End <= from.Slot })
	if len(plan) > 0 {
		plan[0].Slots.Start = max(plan[0].Slots.Start, from.Slot)
	}
	return plan, end, at
}

// Scan returns a page of keys from the replica that node hosts: this one's, or forwarded one hop.
func (h *Host) Scan(ctx context.Context, node string, s Scan) (Page, error) {
	return h.scan(ctx, node, s, false)
}

// Erase removes keys on the replica that node hosts, likewise.
func (h *Host) Erase(ctx context.Context, node string, s Scan) (Page, error) {
	return h.scan(ctx, node, s, true)
}

func (h *Host) scan(ctx context.Context, node string, s Scan, erase bool) (Page, error) {
	if node == h.cfg.Node {
		return h.scanHere(ctx, s, erase)
	}
	p := h.peer(node)
	if p == nil {
		return Page{}, fmt.Errorf("%w: no address for node %q", ErrUnreachable, node)
	}
	if err := s.check(erase); err != nil {
		return Page{}, err
	}
	body := appendDuration(nil, timeLeft(ctx, maxForward))
	body = appendScan(appendBool(body, erase), s)
	began := h.mono()
	answer, err := p.call(ctx, frameScan, body, false)
	var remote *RemoteError
	if errors.As(err, &remote) && strings.Contains(remote.Text, unknownFrame) {
		return Page{}, fmt.Errorf("%w: %s", ErrUnreachable, remote.Text) // its build is older; another node may lead soon
	}
	var page Page
	if err == nil {
		if page, err = decodePage(answer); err != nil { // it was done, but what it did can't be read
			err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
		}
	}
	if err != nil {
		if !erase && errors.Is(err, ErrOutcomeUnknown) {
			err = fmt.Errorf("%w: %v", ErrUnreachable, err)
		}
		return Page{}, err
	}
	if s.Consistency != Linearizable {
		page.Age += h.mono() - began // it was that old when it was asked for there
	}
	return page, nil
}

func (h *Host) scanHere(ctx context.Context, s Scan, erase bool) (Page, error) {
	c, err := h.replicaFor(s.Shard, s.R)
	if err != nil {
		return Page{}, err
	}
	if erase {
		return c.Erase(ctx, s)
	}
	return c.Scan(ctx, s)
}

// serveScan performs what another node forwarded.
func (h *Host) serveScan(ctx context.Context, age time.Duration, body []byte) ([]byte, error) {
	r := reader{b: body}
	timeout, erase, s := r.duration(), r.bool(), r.scan()
	if r.err != nil {
		return nil, r.err
	}
	if timeout <= age {
		return nil, ErrDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, timeout-age)
	defer cancel()
	began := h.mono()
	p, err := h.scanHere(ctx, s, erase)
	if err != nil {
		return nil, err
	}
	p.Age = max(0, p.Age-(h.mono()-began)) // as it was asked for: who asked adds all the time that it took
	return appendPage(nil, p), nil
}

func appendScan(b []byte, s Scan) []byte {
	b = binary.AppendUvarint(b, uint64(s.Shard))
	b = binary.AppendUvarint(b, s.R)
	b = appendString(b, s.Prefix)
	b = appendCursor(b, s.From)
	b = binary.AppendUvarint(b, uint64(s.Limit))
	b = append(b, byte(s.Consistency))
	b = appendDuration(b, s.MaxStaleness)
	return appendBool(b, s.NoLease)
}

func (r *reader) scan() Scan {
	s := Scan{Shard: ID(r.uint()), R: r.uint(), Prefix: r.bytes(), From: r.cursor()}
	limit := r.uint()
	s.Limit, s.Consistency = int(min(limit, fsm.MaxPage+1)), Consistency(r.byte())
	s.MaxStaleness, s.NoLease = r.duration(), r.bool()
	return s
}

func appendCursor(b []byte, c fsm.Cursor) []byte {
	return appendString(binary.AppendUvarint(b, uint64(c.Slot)), c.After)
}

func (r *reader) cursor() fsm.Cursor {
	slot, after := r.uint(), r.bytes()
	if slot > fsm.Slots {
		r.fail()
	}
	return fsm.Cursor{Slot: uint32(slot), After: after}
}

func appendPage(b []byte, p Page) []byte {
	b = appendString(b, appendResponse(nil, p.Response))
	b = binary.AppendUvarint(b, p.Removed)
	b = appendCursor(b, p.Next)
	b = binary.AppendUvarint(b, uint64(len(p.Keys)))
	for _, key := range p.Keys {
		b = appendString(b, key)
	}
	return b
}

func decodePage(b []byte) (Page, error) {
	r := reader{b: b}
	response := r.bytes()
	p := Page{Removed: r.uint(), Next: r.cursor()}
	n := r.uint()
	if r.err != nil || n > fsm.MaxPage {
		return Page{}, errShortFrame
	}
	p.Keys = make([][]byte, n)
	for i := range p.Keys {
		p.Keys[i] = r.bytes()
	}
	var err error
	if p.Response, err = decodeResponse(response); err == nil {
		err = r.err
	}
	return p, err
}
