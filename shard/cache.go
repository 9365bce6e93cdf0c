package shard

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// Cache is a Group whose state machine is an fsm.Machine: one data shard's replica on this node.
type Cache struct {
	group    *Group
	batches  *batcher
	touches  *touches
	compares *comparer
	hits     atomic.Uint64
	misses   [len(missReasons)]atomic.Uint64
	sampled  atomic.Uint64             // misses as the sample has them
	gained   [fsm.Extras]atomic.Uint64 // of these, hits with more memory (readCounts)
	recent   recentReads
	paths    map[ReadPath]*atomic.Uint64 // reads by how they were confirmed; all paths are there
}

func newCache(g *Group) *Cache {
	t := newTouches(g.host.mono, &g.host.touchInterval)
	c := &Cache{group: g, batches: newBatcher(g, t), touches: t, compares: newComparer(g.host.cfg.CheckInterval), paths: map[ReadPath]*atomic.Uint64{}}
	for _, p := range readPaths {
		c.paths[p] = new(atomic.Uint64)
	}
	return c
}

// cacheMachine makes an fsm.Machine a StateMachine. A log entry becomes visible to readers whole:
// Apply holds the lock for all of its commands.
type cacheMachine struct {
	shard ID
	marks marks
	fills fills
	level atomic.Uint32 // m's feature level
	mu    sync.RWMutex  // guards m and all it holds, and aside
	m     *fsm.Machine
	aside aside
}

func newCacheMachine(shard ID) *cacheMachine {
	c := &cacheMachine{shard: shard, m: fsm.New()}
	c.m.Observe(&c.aside)
	c.level.Store(uint32(c.m.Stats().Level))
	return c
}

// Apply panics where the entry can't be applied: replicas would differ from then on.
func (c *cacheMachine) Apply(index uint64, data []byte) any {
	b, err := fsm.DecodeBatch(data)
	if err != nil {
		panic(fmt.Sprintf("shard %d: log entry %d: %v", c.shard, index, err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if bugOwnClock.on() {
		b.Stamp = uint64(time.Now().UnixMilli())
	}
	if bugOwnEvictions.on() {
		c.misevict()
	}
	results, err := c.m.Apply(index, b)
	if err != nil {
		panic(fmt.Sprintf("shard %d: log entry %d: %v", c.shard, index, err))
	}
	c.fills.settle(b.Commands, results)
	stats := c.m.Stats()
	c.level.Store(uint32(stats.Level))
	c.aside.applied(c.m, &b, results, stats)
	return applied{results, stats.Epoch}
}

// applied is what a log entry came to: a result per command, and the epoch after it.
type applied struct {
	results []fsm.Result
	epoch   uint64
}

func (c *cacheMachine) Snapshot() StateSnapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m.Snapshot()
}

func (c *cacheMachine) Restore(r io.Reader) error {
	m, err := fsm.Restore(r)
	if errors.Is(err, fsm.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrDataLost, err)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.misrestore(m)
	c.m = m
	c.m.Observe(&c.aside)
	c.aside.restored(m.Stats())
	c.level.Store(uint32(m.Stats().Level))
	c.marks.forget()
	return nil
}

// featureLevel is the machine's. It never falls.
func (c *cacheMachine) featureLevel() uint8 { return uint8(c.level.Load()) }

// Generation counts the lives of the shard's group.
func (c *cacheMachine) Generation() uint64 { return c.Stats().Generation }

// Clock is the log clock.
func (c *cacheMachine) Clock() uint64 { return c.Stats().Clock }

// Stats is the machine's own account.
func (c *cacheMachine) Stats() fsm.Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.m.Stats()
}

// samples is how many evicted entries the sample has.
func (c *cacheMachine) samples() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.aside.sizing.Samples()
}

// place is a place in a shard's log, and the life of the shard that the log is of.
type place struct {
	index      uint64
	position   uint32
	generation uint64
}

// look reads a key, with the place in the log whose state it saw, and with what is known where it is not
// there.
func (c *cacheMachine) look(key []byte) (l fsm.Lookup, at place, none miss) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l = c.m.Lookup(key)
	if l.Owned && !l.Found {
		none = c.aside.look(&l)
	}
	at.index, at.position = c.m.Applied()
	at.generation = c.m.Stats().Generation
	return l, at, none
}

// Group returns the cache's group.
func (c *Cache) Group() *Group { return c.group }

// Status is the group's, with the state machine's account.
func (c *Cache) Status() Status {
	s := c.group.Status()
	counts := c.counts()
	s.Hits, s.Misses = counts[countHits], counts[countMisses]
	if i := c.group.instance(); i != nil {
		m := i.fsm.machine.(*cacheMachine)
		st := m.Stats()
		s.Cache = &st
		c.recent.reach(c.group.host.mono, c.counts)
		s.Sizing = c.recent.sizing(m.samples())
	}
	s.Missed = map[MissReason]uint64{}
	for i, reason := range missReasons {
		s.Missed[reason] = c.misses[i].Load()
	}
	s.Checks = c.compares.checks.Load()
	if s.Ready {
		s.Differ = int(c.compares.differ.Load())
	} else if s.Stopped {
		s.Differ = 1
	}
	s.Reads = map[ReadPath]uint64{}
	for p, n := range c.paths {
		s.Reads[p] = n.Load()
	}
	t := c.touches.stats()
	s.Touches = &t
	return s
}

// counts tells of the reads that the replica served since it opened.
func (c *Cache) counts() readCounts {
	counts := readCounts{countHits: c.hits.Load(), countSampled: c.sampled.Load()}
	for i := range c.misses {
		counts[countMisses] += c.misses[i].Load()
	}
	for i := range c.gained {
		counts[countGained+i] = c.gained[i].Load()
	}
	return counts
}

// Grant proposes the directory's grant (see fsm.Grant); no effect unless it is newer.
func (c *Cache) Grant(ctx context.Context, g fsm.Grant) error {
	_, err := c.batches.submit(ctx, &fsm.Command{Kind: fsm.KindGrant, Grant: g})
	return err
}

// SetLimit proposes a byte bound; no effect unless tableVersion is newer than the last one's.
func (c *Cache) SetLimit(ctx context.Context, bytes, tableVersion uint64) error {
	_, err := c.batches.submit(ctx, &fsm.Command{Kind: fsm.KindLimit, Limit: bytes, TableVersion: tableVersion})
	return err
}

// Raise proposes a feature level; no effect unless it is higher than the present one. Every replica that
// the shard has, or may get, must know the level.
func (c *Cache) Raise(ctx context.Context, level uint8) error {
	if level > fsm.MaxLevel {
		return fmt.Errorf("feature level %d, this build knows %d", level, fsm.MaxLevel)
	}
	raise := fsm.Command{Kind: fsm.KindLevel, Level: level}
	if level >= 2 {
		var seed [8]byte
		rand.Read(seed[:])
		raise.Seed = binary.BigEndian.Uint64(seed[:])
	}
	_, err := c.batches.submit(ctx, &raise)
	return err
}

// Do performs a request on this replica. For a write it must lead.
func (c *Cache) Do(ctx context.Context, req Request) (Response, error) {
	if err := req.check(); err != nil {
		return Response{}, err
	}
	if err := c.group.serves(); err != nil {
		return Response{}, err
	}
	if req.Op == OpGet {
		r, err := c.read(ctx, req)
		if stopped := c.group.serves(); err == nil && stopped != nil { // found out meanwhile
			return Response{}, stopped
		}
		return r, err
	}
	return c.write(ctx, req)
}

func (c *Cache) read(ctx context.Context, req Request) (Response, error) {
	switch {
	case req.Consistency != Linearizable:
		return c.getOld(ctx, req)
	case req.Fill != 0:
		return c.getToFill(ctx, req)
	}
	return c.get(ctx, req)
}

// errBadRequest refuses what no client of ours sends: the layers above check their input.
var errBadRequest = errors.New("bad request")

// maxValue bounds values: a log entry that no frame can carry would stop its group for good.
const maxValue = maxFrame / 2

// check refuses what has no encoding: one such command would spoil the entry of all others in it.
func (r Request) check() error {
	keyed := r.Op == OpPut || r.Op == OpDelete || r.Op == OpIncr || r.Op == OpAppend || r.Op == OpExpire
	switch {
	case len(r.Key) == 0 || len(r.Key) > fsm.MaxKey:
		return fmt.Errorf("%w: key of %d bytes", errBadRequest, len(r.Key))
	case !keyed && r.Op != OpGet && r.Op != OpTouch:
		return fmt.Errorf("%w: operation %d", errBadRequest, r.Op)
	case len(r.Value) > maxValue:
		return fmt.Errorf("%w: value of %d bytes", errBadRequest, len(r.Value))
	case len(r.ContentType) > fsm.MaxContentType:
		return fmt.Errorf("%w: content type of %d bytes", errBadRequest, len(r.ContentType))
	case r.Cond.Kind > fsm.CondFill || r.Cond.Kind < fsm.CondVersion && r.Cond.Version != 0 ||
		r.Cond.Kind == fsm.CondFill && r.Op != OpPut || r.Cond.Kind != fsm.CondAlways && !keyed:
		return fmt.Errorf("%w: condition %d", errBadRequest, r.Cond.Kind)
	case r.Consistency > Any || r.Op != OpGet && r.Consistency != Linearizable:
		return fmt.Errorf("%w: consistency %d", errBadRequest, r.Consistency)
	case r.MaxStaleness < 0 || r.MaxStaleness%time.Millisecond != 0 || r.Consistency != Bounded && r.MaxStaleness != 0:
		return fmt.Errorf("%w: max staleness %v", errBadRequest, r.MaxStaleness)
	case r.TTL < 0 || r.TTL%time.Millisecond != 0:
		return fmt.Errorf("%w: ttl %v", errBadRequest, r.TTL)
	case r.Delta != 0 && r.Op != OpIncr || r.ReturnOld && r.Op != OpPut:
		return fmt.Errorf("%w: delta %d, return old %t with operation %d", errBadRequest, r.Delta, r.ReturnOld, r.Op)
	case len(r.IdempotencyKey) > fsm.MaxIdempotencyKey || r.IdempotencyKey != "" && !keyed:
		return fmt.Errorf("%w: idempotency key of %d bytes", errBadRequest, len(r.IdempotencyKey))
	case len(r.Caller) > fsm.MaxCaller:
		return fmt.Errorf("%w: caller's name of %d bytes", errBadRequest, len(r.Caller))
	case r.Fill < 0 || r.Fill > MaxFill || r.Fill%time.Millisecond != 0 ||
		r.Fill != 0 && (r.Op != OpGet || r.Consistency != Linearizable):
		return fmt.Errorf("%w: fill %v", errBadRequest, r.Fill)
	}
	return nil
}

// command is the write that r asks for.
func (r Request) command() *fsm.Command {
	c := &fsm.Command{Key: r.Key, Cond: r.Cond}
	if r.IdempotencyKey != "" && !bugNoDedup.on() {
		c.IdempotencyKey = r.IdempotencyKey
		c.Caller = r.Caller
		c.DefaultTTL = r.DefaultTTL && r.Op.ages()
	}
	ttl := uint64(r.TTL / time.Millisecond)
	switch r.Op {
	case OpPut:
		c.Kind, c.Value, c.ContentType, c.TTL, c.ReturnOld = fsm.KindPut, r.Value, r.ContentType, ttl, r.ReturnOld
	case OpDelete:
		c.Kind = fsm.KindDelete
	case OpIncr:
		c.Kind, c.Delta, c.TTL = fsm.KindIncr, r.Delta, ttl
	case OpAppend:
		c.Kind, c.Value, c.ContentType, c.TTL = fsm.KindAppend, r.Value, r.ContentType, ttl
	case OpExpire:
		c.Kind, c.TTL = fsm.KindExpire, ttl
	case OpTouch:
		c.Kind = fsm.KindTouch
	}
	return c
}

func (c *Cache) response(epoch, index uint64, position uint32) Response {
	return Response{Shard: c.group.id.Shard, Epoch: epoch, Index: index, Position: position, ServedBy: c.group.id.Node}
}

// write proposes what changes a key. Whether this shard owns it, whether the condition holds and whether
// the same was done before is decided when the entry is applied.
func (c *Cache) write(ctx context.Context, req Request) (Response, error) {
	if bugConditionOutside.on() {
		if r, decided := c.judgeOutside(&req); decided {
			return r, nil
		}
	}
	submit := c.batches.submit
	if bugAckEarly.on() {
		submit = c.submitEarly
	}
	o, err := submit(ctx, req.command())
	switch unknown := errors.Is(err, ErrOutcomeUnknown); {
	case unknown && bugAckUnknown.on():
		o = c.guess(req.Key)
	case unknown && bugUnknownRefused.on():
		return Response{}, ErrNoLeader
	case err != nil:
		return Response{}, err
	}
	done := c.written(&o.result, &o, o.position)
	return done.Response, done.Err
}

// get is a linearizable read, on the leader or on a follower. An entry that is due by the stamp that the
// leader would use now, but not yet dead by the log clock, waits for a tick: what was seen expired stays
// expired (R2). A follower leaves that to the leader.
func (c *Cache) get(ctx context.Context, req Request) (Response, error) {
	i := c.group.instance()
	if i == nil {
		return Response{}, ErrStopped
	}
	if i.ready.Load() == 0 && !(bugStaleOwner.on() && i.stamps.Load() != nil) {
		return c.getAsFollower(ctx, i, req)
	}
	path, err := i.readBarrier(ctx, req.NoLease)
	if err != nil {
		return Response{}, err
	}
	return c.lookAsLeader(ctx, i, req, path)
}

// lookAsLeader is the rest of a linearizable read on the leader that i is, after its read barrier, which path confirmed.
func (c *Cache) lookAsLeader(ctx context.Context, i *instance, req Request, path ReadPath) (Response, error) {
	m := i.fsm.machine.(*cacheMachine) // the one that the read was admitted on
	for {
		l, place, none := m.look(req.Key)
		now := l.Clock
		if bugTTLByOwnClock.on() {
			l.Found = l.Found && !due(l, uint64(c.group.host.now().UnixMilli()))
			return c.answer(l, place, none, now, path)
		}
		if stamps := i.stamps.Load(); stamps != nil && l.Found && l.Entry.ExpireAt != 0 { // for others it decides nothing
			now = max(now, stamps.peek())
		}
		if l.Owned && due(l, now) {
			path = ReadLog
			if bugExpireBlindly.on() {
				_, _ = c.batches.submit(ctx, Request{Op: OpDelete, Key: req.Key}.command())
			}
			if err := c.batches.tick(ctx, l.Entry.ExpireAt); err != nil {
				return Response{}, readError(err)
			}
			if c.group.instance() != i {
				return Response{}, ErrNoLeader // this machine's clock stands still now
			}
			continue
		}
		c.touch(req, m, l)
		return c.answer(l, place, none, now, path)
	}
}

// due reports whether an entry that is alive by the log clock is over by the stamp now.
func due(l fsm.Lookup, now uint64) bool {
	return l.Found && l.Entry.ExpireAt != 0 && l.Entry.ExpireAt <= now
}

// getAsFollower is a linearizable read on a replica that does not lead.
func (c *Cache) getAsFollower(ctx context.Context, i *instance, req Request) (Response, error) {
	x, err := i.followerBarrier(ctx, req.NoLease)
	if err != nil {
		return Response{}, err
	}
	return c.lookAsFollower(i, x, req)
}

// lookAsFollower is the rest of getAsFollower, after its barrier.
func (c *Cache) lookAsFollower(i *instance, x readIndex, req Request) (Response, error) {
	m := i.fsm.machine.(*cacheMachine)
	l, place, none := m.look(req.Key)
	switch {
	case place.generation != x.generation:
		return Response{}, &NotLeaderError{Leader: x.leader} // another began since
	case l.Owned && due(l, x.now):
		return Response{}, &NotLeaderError{Leader: x.leader}
	}
	c.touch(req, m, l)
	return c.answer(l, place, none, max(l.Clock, x.now), ReadFollower)
}

// getOld is a read that may be old. It never writes to the log: an entry is over when the log clock
// says so.
func (c *Cache) getOld(ctx context.Context, req Request) (Response, error) {
	i := c.group.instance()
	if i == nil {
		return Response{}, ErrStopped
	}
	m, mono := i.fsm.machine.(*cacheMachine), c.group.host.mono
	path := ReadLocal
	fresh, known := i.fresh() // before the look: what that shows is at least as new
	l, place, none := m.look(req.Key)
	if bugBoundedAge.on() {
		fresh, known = mono(), true
	}
	if !known || req.Consistency == Bounded && mono()-fresh > req.MaxStaleness {
		fresh = mono()
		var err error
		if path, err = i.freshen(ctx, req.NoLease); err != nil {
			return Response{}, err
		}
		l, place, none = m.look(req.Key)
	}
	c.touch(req, m, l)
	r, err := c.answer(l, place, none, l.Clock, path)
	r.Age = mono() - fresh // after it: this process may have been stopped in between
	return r, err
}

// answer makes the response to a read out of what a look showed, and counts it. now is the time that a time to live
// counts from.
func (c *Cache) answer(l fsm.Lookup, at place, none miss, now uint64, path ReadPath) (Response, error) {
	if !l.Owned {
		return Response{}, &NotOwnerError{Epoch: l.Epoch}
	}
	c.paths[path].Add(1)
	r := c.response(l.Epoch, at.index, at.position)
	r.Status, r.Found, r.Read = fsm.StatusOK, l.Found, path
	if !l.Found {
		r.MissReason = missReasons[none.why]
		c.countMiss(none)
		return r, nil
	}
	c.hits.Add(1)
	r.Value, r.ContentType, r.Version = l.Entry.Value, l.Entry.ContentType, l.Entry.Version
	if l.Entry.ExpireAt != 0 {
		r.HasTTL, r.TTL = true, time.Duration(l.Entry.ExpireAt-now)*time.Millisecond
	}
	return r, nil
}

func (c *Cache) countMiss(none miss) {
	c.misses[none.why].Add(1)
	if none.weight == 0 {
		return
	}
	c.sampled.Add(none.weight)
	if none.size < fsm.Extras {
		c.gained[none.size].Add(none.weight)
	}
}

// touch gathers what a read found, so that the log makes it recent (touch.go). level 1 knows no touches.
func (c *Cache) touch(req Request, m *cacheMachine, l fsm.Lookup) {
	switch {
	case req.NoTouch || !l.Found || !c.touches.wanted():
	case m.featureLevel() < touchLevel:
		c.touches.drop(1)
	case bugOwnRecency.on():
		m.misuse(req.Key)
	case l.Recent:
		c.touches.skipped.Add(1)
	default:
		c.touches.add(l.Touch)
	}
}

// readError turns an unknown outcome into a refusal: a read changes nothing, so it can always be
// asked again.
func readError(err error) error {
	if errors.Is(err, ErrOutcomeUnknown) {
		return fmt.Errorf("%w: %v", ErrNoLeader, err)
	}
	return err
}

// start begins packing and housekeeping; stop waits for their end, after the group was closed.
func (c *Cache) start() {
	c.batches.wg.Go(c.batches.run)
	c.batches.wg.Go(c.housekeep)
}

func (c *Cache) stop() { c.batches.wg.Wait() }

// A leader looks each housekeepIdle whether its shard needs entries that no client asks for, and
// each housekeepBusy while it does.
const (
	housekeepIdle = time.Second
	housekeepBusy = 100 * time.Millisecond
)

// housekeep lets old reads fade, and makes an idle shard come down to a lowered limit: each log entry evicts
// a bounded number of entries, so somebody must write them. And it has the replicas compared, where that is due.
func (c *Cache) housekeep() {
	look := min(housekeepIdle, c.group.host.cfg.CheckInterval)
	t := time.NewTimer(untilNext(look))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-c.group.ctx.Done():
			return
		}
		wait := untilNext(look)
		c.recent.reach(c.group.host.mono, c.counts)
		if i := c.group.instance(); i != nil && i.ready.Load() != 0 {
			if s := i.fsm.machine.(*cacheMachine).Stats(); s.Bound > s.Limit {
				ctx, cancel := context.WithTimeout(c.group.ctx, time.Second)
				_ = c.batches.tick(ctx, math.MaxUint64) // an entry of its own; the next look tries again
				cancel()
				wait = housekeepBusy
			}
			c.lookAfter(i)
		}
		t.Reset(wait)
	}
}
