package shard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// The leader's side of verdict.go: it logs marks, asks for sums, and tells all where some differ.
//
// A shard is compared each Config.CheckInterval, at the same moments as all others (housekeep), if its log
// moved since the last mark. One that nobody uses is left alone. Where some member could not be asked, the
// same mark is asked about again, without an entry; where one that has started since had no sum, another is made.

const (
	// sumTimeout is how long a replica may take to tell its sum. It learns with the next entry, or after
	// CommitTimeout, that the mark is committed.
	sumTimeout = 2 * time.Second
	// judgeTimeout is how long the leader tries to tell a replica of a comparison.
	judgeTimeout = time.Second

	methodSum   = "shard.sum"
	methodJudge = "shard.judge"
)

// comparer compares the replicas of one data shard while this one leads it.
type comparer struct {
	turn   chan struct{} // one token: one comparison at a time
	checks atomic.Uint64 // comparisons made here
	differ atomic.Int64  // members that differed at the last

	mu       sync.Mutex // guards following
	slot     int64      // the last moment of periodic comparisons
	term     uint64     // of the last comparison
	complete bool       // all were heard at it, and told what it asks of them
	anew     bool       // some had no sum for its mark, and may have for another
}

func newComparer(interval time.Duration) *comparer {
	return &comparer{turn: make(chan struct{}, 1), slot: time.Now().UnixNano() / int64(interval)}
}

// known names the replicas that have stopped, or are about to, as a leader found.
type known struct {
	mu  sync.Mutex
	ids []string
}

func (k *known) set(ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ids = ids
}

func (k *known) has(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.ids, id)
}

// due reports whether a leader's shard is to be compared now.
func (c *Cache) due(i *instance, now time.Time) bool {
	q := c.compares
	q.mu.Lock()
	defer q.mu.Unlock()
	slot := now.UnixNano() / int64(c.group.host.cfg.CheckInterval)
	if c.group.doubt.Load() != nil {
		return true
	}
	if slot == q.slot {
		return false
	}
	q.slot = slot
	return i.ready.Load() != q.term || !q.complete || i.fsm.applied.at() > i.fsm.machine.(*cacheMachine).marks.newest()
}

// lookAfter compares where that is due and none is under way.
func (c *Cache) lookAfter(i *instance) {
	if !c.due(i, time.Now()) {
		return
	}
	select {
	case c.compares.turn <- struct{}{}:
	default:
		return
	}
	c.batches.wg.Go(func() {
		defer func() { <-c.compares.turn }()
		ctx, cancel := context.WithTimeout(c.group.ctx, sumTimeout+judgeTimeout)
		defer cancel()
		if _, err := c.compare(ctx, i, false); err != nil {
			c.group.host.log.Debug("replicas not compared", "shard", c.group.id.Shard, "err", err)
		}
	})
}

// Compare compares the replicas at a mark of its own. This replica must lead. Errors refuse.
func (c *Cache) Compare(ctx context.Context) (Comparison, error) {
	i := c.group.instance()
	if i == nil {
		return Comparison{}, ErrStopped
	}
	if i.ready.Load() == 0 {
		if v := c.group.stopped.Load(); v != nil {
			return Comparison{}, v.err()
		}
		return Comparison{}, i.notLeader()
	}
	select {
	case c.compares.turn <- struct{}{}:
	case <-ctx.Done():
		return Comparison{}, ErrDeadline
	}
	defer func() { <-c.compares.turn }()
	found, err := c.compare(ctx, i, true)
	if err != nil {
		return Comparison{}, readError(err)
	}
	return *found, nil
}

// compare makes one comparison; with the turn. Without fresh it takes the newest mark, where nothing was
// applied since.
func (c *Cache) compare(ctx context.Context, i *instance, fresh bool) (*Comparison, error) {
	m := i.fsm.machine.(*cacheMachine)
	term := i.ready.Load()
	if term == 0 {
		return nil, i.notLeader()
	}
	index := m.marks.newest()
	c.compares.mu.Lock()
	fresh = fresh || c.compares.anew
	c.compares.mu.Unlock()
	if fresh || index == 0 || i.fsm.applied.at() > index || c.group.doubt.Load() != nil {
		var err error
		if index, err = i.mark(ctx); err != nil {
			return nil, err
		}
	}
	own, ok := m.marks.at(index)
	conf := i.fsm.conf.Load()
	if !ok || conf == nil {
		return nil, errNoSum
	}
	found := &Comparison{Shard: c.group.id.Shard, Index: index, Term: term, Generation: own.generation, Level: own.level, Format: sumFormat,
		Leader: c.group.id.String()}
	for _, id := range conf.voters {
		found.Replicas = append(found.Replicas, ReplicaSum{Replica: id.String(), Voter: true})
	}
	for _, id := range conf.learners {
		found.Replicas = append(found.Replicas, ReplicaSum{Replica: id.String()})
	}
	self := false
	var wg sync.WaitGroup
	for n, id := range append(slices.Clone(conf.voters), conf.learners...) {
		r := &found.Replicas[n] // each writes to its own
		if id == c.group.id {
			r.Checksum, r.Doubt, self = own.hex(), c.group.doubt.Load() != nil, true
			continue
		}
		wg.Go(func() { i.askSum(ctx, id, found, r) })
	}
	wg.Wait()
	if !self || i.ready.Load() != term || c.group.instance() != i { // whoever was deposed gathers nothing
		return nil, i.notLeader()
	}
	c.conclude(ctx, i, found)
	return found, nil
}

// conclude notes what a comparison shows, and tells all where it asks something of them.
func (c *Cache) conclude(ctx context.Context, i *instance, found *Comparison) {
	q := c.compares
	q.mu.Lock()
	q.term, q.complete, q.anew = found.Term, found.complete(), found.forgotten()
	q.mu.Unlock()
	q.checks.Add(1)
	q.differ.Store(int64(found.Differ()))
	o, common := found.Outcome()
	var stopped []string
	doubt := false
	for _, r := range found.Replicas {
		doubt = doubt || r.Doubt
		if r.Stopped != "" || o == OutcomeMinority && r.Checksum != "" && r.Checksum != common {
			stopped = append(stopped, r.Replica)
		}
	}
	c.group.known.set(stopped)
	if o == OutcomeUnjudged || o == OutcomeEqual && !doubt {
		return
	}
	if o != OutcomeEqual {
		c.group.host.log.Error("replicas differ", "shard", found.Shard, "index", found.Index, "outcome", o, "replicas", found.Replicas)
	}
	body, err := json.Marshal(found)
	if err != nil {
		c.group.host.log.Error("a comparison can't be sent", "shard", found.Shard, "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, judgeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range found.Replicas {
		id, err := ParseReplicaID(r.Replica)
		if err != nil || id == c.group.id {
			continue
		}
		wg.Go(func() {
			if _, err := c.group.host.Call(ctx, id.Node, methodJudge, body); err != nil { // it is asked, and told, again
				q.mu.Lock()
				q.complete = false
				q.mu.Unlock()
				c.group.host.log.Warn("a replica was not told that replicas differ", "shard", found.Shard, "replica", r.Replica, "err", err)
			}
		})
	}
	wg.Wait()
	i.judge(found) // last: it may end the leadership
}

// mark logs a mark and returns its index once it is applied here.
func (i *instance) mark(ctx context.Context) (uint64, error) {
	stamps := i.stamps.Load()
	if i.ready.Load() == 0 || stamps == nil {
		return 0, i.notLeader()
	}
	data, err := markEntry(stamps.next())
	if err != nil {
		return 0, err
	}
	index, _, err := i.group.propose(ctx, raft.Log{Data: data, Extensions: markExtension})
	return index, err
}

// sumQuestion asks a replica for its sum at a mark.
type sumQuestion struct {
	Target     string `json:"target"`
	Source     string `json:"source"`
	Term       uint64 `json:"term"`
	Index      uint64 `json:"index"`
	Generation uint64 `json:"generation"`
	Level      uint8  `json:"level"`
	Format     int    `json:"format"`
}

// askSum asks one replica and fills in r.
func (i *instance) askSum(ctx context.Context, id ReplicaID, about *Comparison, r *ReplicaSum) {
	h := i.group.host
	ctx, cancel := context.WithTimeout(ctx, sumTimeout)
	defer cancel()
	told, err := func() (ReplicaSum, error) {
		question, err := json.Marshal(sumQuestion{Target: id.String(), Source: about.Leader, Term: about.Term, Index: about.Index,
			Generation: about.Generation, Level: about.Level, Format: about.Format})
		if err != nil {
			return ReplicaSum{}, err
		}
		p := h.peer(id.Node)
		if p == nil {
			return ReplicaSum{}, ErrUnreachable
		}
		body := appendDuration(nil, timeLeft(ctx, maxForward))
		body = appendString(body, methodSum)
		body = appendString(body, question)
		answer, err := p.call(ctx, frameCall, body, true) // lazy: the questions of all shards leave together
		if err != nil {
			return ReplicaSum{}, err
		}
		var told ReplicaSum
		return told, json.Unmarshal(answer, &told)
	}()
	if err != nil {
		r.Error = err.Error()
		return
	}
	r.Checksum, r.Stopped, r.Doubt, r.Error = told.Checksum, told.Stopped, told.Doubt, told.Error
	if r.Checksum == "" && r.Error == "" {
		r.Error = errNoSum.Error()
	}
}

// errNoSum refuses: the replica did not sum its state up at this mark, or has forgotten it.
var errNoSum = errors.New("it has no checksum for this mark: it was restored from a later state, or has just started")

// handleSum answers a sumQuestion.
func (h *Host) handleSum(ctx context.Context, from string, payload []byte) ([]byte, error) {
	var q sumQuestion
	if err := json.Unmarshal(payload, &q); err != nil {
		return nil, fmt.Errorf("question for a checksum: %w", err)
	}
	g, err := h.meant(from, q.Source, q.Target)
	if err != nil {
		return nil, err
	}
	told := ReplicaSum{Replica: g.id.String()}
	if v := g.stopped.Load(); v != nil {
		told.Stopped, told.Error = v.Outcome, v.err().Error()
		return json.Marshal(told)
	}
	i := g.instance()
	if i == nil {
		return nil, ErrStopped
	}
	m, ok := i.fsm.machine.(*cacheMachine)
	if !ok {
		return nil, ErrUnknownShard
	}
	if now := g.store.Term(); now > q.Term {
		return nil, fmt.Errorf("asked in term %d, now it is %d", q.Term, now)
	}
	if q.Format != sumFormat {
		return nil, fmt.Errorf("it sums up in format %d, not %d", sumFormat, q.Format)
	}
	if err := i.fsm.applied.wait(ctx, i.trans.ctx.Done(), q.Index); err != nil {
		return nil, fmt.Errorf("index %d is not applied yet: %w", q.Index, err)
	}
	k, ok := m.marks.at(q.Index)
	switch {
	case !ok:
		told.Error = errNoSum.Error()
	case k.generation != q.Generation || k.level != q.Level:
		told.Error = fmt.Sprintf("its state is of generation %d and level %d", k.generation, k.level)
	default:
		told.Checksum = k.hex()
	}
	told.Doubt = g.doubt.Load() != nil
	return json.Marshal(told)
}

// handleJudge takes a comparison from the leader.
func (h *Host) handleJudge(_ context.Context, from string, payload []byte) ([]byte, error) {
	var c Comparison
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, fmt.Errorf("comparison: %w", err)
	}
	g := h.Group(c.Shard)
	if g == nil {
		return nil, ErrUnknownShard
	}
	if _, err := h.meant(from, c.Leader, g.id.String()); err != nil {
		return nil, err
	}
	i := g.instance()
	if i == nil {
		return nil, ErrStopped
	}
	i.judge(&c)
	return nil, nil
}

// meant returns the replica here that a replica on another node means.
func (h *Host) meant(from, source, target string) (*Group, error) {
	by, err := ParseReplicaID(source)
	if err != nil || by.Node != from {
		return nil, fmt.Errorf("source %q does not fit node %s", source, from)
	}
	g := h.Group(by.Shard)
	if g == nil || g.id.String() != target {
		return nil, fmt.Errorf("%w: no replica %s here", ErrUnknownShard, target)
	}
	return g, nil
}

// Compare compares the replicas of a data shard that this node leads.
func (h *Host) Compare(ctx context.Context, id ID) (Comparison, error) {
	c := h.Cache(id)
	if c == nil {
		return Comparison{}, ErrUnknownShard
	}
	return c.Compare(ctx)
}

// Diverged returns the replica of a shard here and why it has stopped for good, nil if it has not.
func (h *Host) Diverged(id ID) (replica string, v *Verdict, err error) {
	h.mu.RLock()
	g, l := h.groups[id], h.losses[id]
	h.mu.RUnlock()
	switch {
	case g != nil:
		return g.id.String(), g.Diverged(), nil
	case l.v != nil:
		return l.id.String(), l.v, nil
	}
	return "", nil, ErrUnknownShard
}
