package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

const (
	// queueLength and queueBytes bound the commands that wait for a log entry; beyond them a write
	// is refused at once (R16).
	queueLength = 4096
	queueBytes  = 32 << 20
	// commandWeight is about what a command takes in memory beside its bytes, and counts where a proposal has several.
	commandWeight = 256
	// A log entry takes proposals until it has maxBatchCommands, maxBatchBytes or MaxBatchAppends.
	maxBatchCommands = 1024
	maxBatchBytes    = 256 << 10
	// maxInFlight bounds the entries of one replica that are proposed and not yet applied. An entry that is not full is alone: while it
	// is in flight the next commands gather, since an entry costs far more than a command in it.
	maxInFlight = 4
	// commandLevel is the feature level that an entry without commands needs.
	commandLevel = 1
	// answerTime is kept back from a deadline to answer in: what the log has not taken by then is
	// refused while somebody still listens, rather than unknown.
	answerTime = 2 * time.Millisecond
)

// proposal is one command on its way into the log, or several that go into one entry, one after the other, or a tick
// (neither).
type proposal struct {
	ctx      context.Context
	command  *fsm.Command
	commands []fsm.Command
	need     uint64 // tick: the log clock that it must reach
	state    atomic.Int32
	done     chan outcome
}

// States of a proposal: whoever moves it on from waiting decides its fate.
const (
	waiting   = 0
	taken     = 1
	abandoned = 2
)

// outcome is the answer to a proposal: a result and its place in the log, or an error. Of several commands it has
// all results, and the place of the first.
type outcome struct {
	result   fsm.Result
	results  []fsm.Result
	index    uint64
	position uint32
	epoch    uint64
	err      error
}

// batcher packs concurrent commands into log entries (R11): what arrives while entries are in
// flight goes into the next one together. run owns the packing; one goroutine per entry in flight
// hands its results back. Both end with the group; Cache.stop waits for them. An entry with commands of
// clients begins with the touches that were gathered before (touch.go), so that it evicts nothing that
// was read.
type batcher struct {
	group   *Group
	touches *touches
	queue   chan *proposal
	bytes   atomic.Int64  // that wait
	appends atomic.Int64  // likewise
	crowded atomic.Bool   // a write was refused for want of room since the last entry was made
	slots   chan struct{} // one token per entry in flight
	slow    atomic.Bool   // its last entry that had a round took far longer than others do
	look    chan struct{} // one token: an entry is no longer in flight, or a full one waits
	wg      sync.WaitGroup

	mu   sync.Mutex
	last *flight // the youngest entry proposed
}

// errNotTaken is the end of a flight that the library did not take before a deadline.
var errNotTaken = errors.New("not taken in time")

// permit is the leave to propose an entry that a batcher has: its place among those in flight here, and among those of the node.
type permit struct {
	round  *round    // that waits for it, nil for none
	writes int       // that it has there
	began  time.Time // when it set out, if it did so in a round
}

// flight is a log entry in flight.
type flight struct {
	life  <-chan struct{} // quit of the instance: which one it was, without keeping it
	stamp uint64
	done  chan struct{} // closed once err is set
	err   error
}

func newBatcher(g *Group, t *touches) *batcher {
	return &batcher{group: g, touches: t, queue: make(chan *proposal, queueLength), slots: make(chan struct{}, maxInFlight), look: make(chan struct{}, 1)}
}

// submit queues a command and waits for its outcome until ctx ends. Refused as long as it waits in
// the queue, unknown once it was taken.
func (b *batcher) submit(ctx context.Context, c *fsm.Command) (outcome, error) {
	return b.enqueue(&proposal{ctx: ctx, command: c, done: make(chan outcome, 1)})
}

// submitAll is submit for several commands, at most maxBatchCommands and one more. They have one entry, and stand in it
// one after the other: so one answer is that of all.
func (b *batcher) submitAll(ctx context.Context, commands []fsm.Command) (outcome, error) {
	return b.enqueue(&proposal{ctx: ctx, commands: commands, done: make(chan outcome, 1)})
}

// tick moves the log clock to need or beyond.
func (b *batcher) tick(ctx context.Context, need uint64) error {
	_, err := b.enqueue(&proposal{ctx: ctx, need: need, done: make(chan outcome, 1)})
	return err
}

// tick reports whether p has no commands.
func (p *proposal) tick() bool { return p.command == nil && len(p.commands) == 0 }

// size is about what the commands take in the log.
func (p *proposal) size() int64 {
	if p.command != nil {
		return sizeOf(p.command)
	}
	size := int64(0)
	for i := range p.commands {
		size += sizeOf(&p.commands[i])
	}
	return size
}

func sizeOf(c *fsm.Command) int64 {
	return int64(len(c.Key) + len(c.Value) + len(c.ContentType) + len(c.Caller) + len(c.IdempotencyKey))
}

// appends is how many of the commands are appends.
func (p *proposal) appends() (n int) {
	if p.command != nil && p.command.Kind == fsm.KindAppend {
		n++
	}
	for i := range p.commands {
		if p.commands[i].Kind == fsm.KindAppend {
			n++
		}
	}
	return n
}

// weight is what counts against queueBytes: the queue bounds the number of proposals, but not that of the commands that
// some of them have.
func (p *proposal) weight() int64 { return p.size() + int64(len(p.commands))*commandWeight }

// counts has p count among what waits for an entry, or with -1 no more, and returns the bytes that do.
func (b *batcher) counts(p *proposal, sign int64) int64 {
	b.appends.Add(sign * int64(p.appends()))
	return b.bytes.Add(sign * p.weight())
}

func (b *batcher) enqueue(p *proposal) (outcome, error) {
	if b.counts(p, 1) > queueBytes {
		b.counts(p, -1)
		b.crowded.Store(true)
		return outcome{}, ErrOverloaded
	}
	select {
	case b.queue <- p:
	default:
		b.counts(p, -1)
		b.crowded.Store(true)
		return outcome{}, ErrOverloaded
	}
	if b.full() {
		notify(b.look)
	}
	select {
	case o := <-p.done:
		return o, o.err
	case <-p.ctx.Done():
		if p.state.CompareAndSwap(waiting, abandoned) || p.state.Load() == abandoned {
			return outcome{}, ErrDeadline
		}
		return outcome{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, p.ctx.Err())
	case <-b.group.ctx.Done():
		if p.state.CompareAndSwap(waiting, abandoned) {
			return outcome{}, ErrStopped
		}
	}
	// Stopping: the entry in flight still gets its answer from the library.
	select {
	case o := <-p.done:
		return o, o.err
	case <-p.ctx.Done():
		if p.state.CompareAndSwap(waiting, abandoned) || p.state.Load() == abandoned {
			return outcome{}, ErrDeadline
		}
		return outcome{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, p.ctx.Err())
	}
}

// take claims a proposal for a log entry; false when nobody waits for it any more, or must not:
// nothing is proposed after its own deadline, also where this process was stopped in between.
func (b *batcher) take(p *proposal) bool {
	b.counts(p, -1)
	if p.late() {
		if p.state.CompareAndSwap(waiting, abandoned) {
			p.done <- outcome{err: ErrDeadline}
		}
		return false
	}
	return p.state.CompareAndSwap(waiting, taken)
}

// late reports whether it is too late to propose, whether or not ctx's timer has noticed.
func (p *proposal) late() bool {
	d, ok := p.ctx.Deadline()
	return p.ctx.Err() != nil || ok && time.Until(d) <= answerTime
}

// giveBack queues what the library did not take in time, for those that still have some.
func (b *batcher) giveBack(batch []*proposal) {
	for _, p := range batch {
		if p.late() {
			p.state.Store(abandoned)
			p.done <- outcome{err: ErrDeadline}
			continue
		}
		p.state.Store(waiting)
		if b.group.ctx.Err() != nil { // nobody takes from the queue any more
			if p.state.CompareAndSwap(waiting, abandoned) {
				p.done <- outcome{err: ErrStopped}
			}
			continue
		}
		b.counts(p, 1)
		select {
		case b.queue <- p:
		default:
			b.counts(p, -1)
			if p.state.CompareAndSwap(waiting, abandoned) {
				p.done <- outcome{err: ErrOverloaded}
			}
		}
	}
}

func (b *batcher) run() {
	for {
		var first *proposal // nil: touches are due
		select {
		case first = <-b.queue:
		case <-b.touches.due.C:
			if !b.touchesDue() {
				continue
			}
		case <-b.group.ctx.Done():
			return
		}
		if first != nil && !b.clearWay() {
			return
		}
		p, ok := b.await(first)
		if !ok {
			return // those who wait see the group's end themselves
		}
		batch := b.gather(first)
		p.writes = len(batch)
		r, rounds := p.round, &b.group.host.rounds
		rounds.add(r, p.writes)
		if r != nil {
			p.began = time.Now()
			if b.slow.Load() {
				p.round = nil
			}
		}
		if due := first == nil; len(batch) == 0 && !due || !b.propose(batch, due, p) {
			b.release(p)
			if due {
				b.touches.discard()
			}
		}
		if p.round == nil {
			rounds.leave(r, p.writes) // it has set out with the others, which go on without it
		}
	}
}

// clearWay proposes the touches that are too many to head the next entry with commands of clients, in entries of their own; false once the group ends.
func (b *batcher) clearWay() bool {
	for b.touches.many() && b.touchesDue() {
		p, ok := b.await(nil)
		if !ok {
			return false
		}
		if !b.propose(nil, true, p) {
			b.release(p)
			b.touches.discard()
		}
	}
	return true
}

// full reports whether an entry's worth waits, at least: by bytes, commands or appends, as gather judges it.
func (b *batcher) full() bool {
	return b.bytes.Load() >= maxBatchBytes || len(b.queue) >= maxBatchCommands || b.appends.Load() >= MaxBatchAppends
}

// await waits until the next entry may be made, and counts it as in flight; false once the group ends. One that is not to gather what comes
// meanwhile, since touches are due (first is nil), waits for no other. Nor does a tick, which a read waits for, or what fills an entry, wait for other shards.
func (b *batcher) await(first *proposal) (p permit, ok bool) {
	for {
		if n := len(b.slots); n == 0 || n < maxInFlight && (first == nil || b.full()) {
			if n == 0 && first != nil && !first.tick() && !b.full() {
				if p.round, ok = b.group.host.rounds.enter(b.group.ctx.Done()); !ok {
					return p, false
				}
			}
			b.slots <- struct{}{} // there is room: nobody else takes it
			return p, true
		}
		select {
		case <-b.look:
		case <-b.group.ctx.Done():
			return p, false
		}
	}
}

// release counts an entry as in flight no more.
func (b *batcher) release(p permit) {
	<-b.slots
	b.group.host.rounds.leave(p.round, p.writes)
	notify(b.look)
}

// gather takes what waits, up to one entry's worth, first of all first, if it is not nil.
func (b *batcher) gather(first *proposal) []*proposal {
	var batch []*proposal
	commands, appends, size := 0, 0, int64(0)
	for p := first; ; {
		if p != nil && b.take(p) {
			batch = append(batch, p)
			commands += max(len(p.commands), 1)
			appends += p.appends()
			size += p.size()
		}
		if commands >= maxBatchCommands || appends >= MaxBatchAppends || size >= maxBatchBytes {
			return batch
		}
		select {
		case p = <-b.queue:
		default:
			return batch
		}
	}
}

func refuse(batch []*proposal, err error) {
	for _, p := range batch {
		p.done <- outcome{err: err}
	}
}

// pack collects the commands of a batch, and returns those who wait for them, ticks included. It refuses
// what the machine has not the feature level for: in the log that would be divergence.
func (i *instance) pack(batch []*proposal) (commands []fsm.Command, left []*proposal) {
	commands = make([]fsm.Command, 1, len(batch)+1) // the first is for touches
	left = batch[:0]
	level := i.fsm.machine.(*cacheMachine).featureLevel()
	for _, p := range batch {
		n := len(commands)
		if p.command != nil {
			commands = append(commands, *p.command)
		}
		if commands = append(commands, p.commands...); len(commands) > n {
			if needs := fsm.LevelOf(commands[n:]); needs > level {
				commands = commands[:n]
				p.done <- outcome{err: fmt.Errorf("%w: feature level %d is needed, the shard is at %d", ErrNoLeader, needs, level)}
				continue
			}
		}
		left = append(left, p)
	}
	return commands, left
}

// propose makes one log entry of a batch, and of the touches where they are due or it has commands; false
// when there was none to make.
func (b *batcher) propose(batch []*proposal, due bool, p permit) bool {
	i := b.group.instance()
	if i == nil {
		refuse(batch, ErrStopped)
		return false
	}
	stamps := i.stamps.Load()
	if i.ready.Load() == 0 || stamps == nil {
		refuse(batch, i.notLeader())
		return false
	}
	commands, batch := i.pack(batch)
	if len(batch) == 0 && !due {
		return false
	}
	need, size := uint64(0), int64(0)
	var earliest time.Time // deadline
	for _, p := range batch {
		if d, ok := p.ctx.Deadline(); ok && (earliest.IsZero() || d.Before(earliest)) {
			earliest = d
		}
		need = max(need, p.need)
		size += p.size()
	}
	touched := 0
	if len(commands) > 1 || due {
		commands[0], touched = b.takeTouches(i, size)
	} else if b.join(i, batch, need) {
		return false
	}
	first := 1 // place of the first client's command
	if touched == 0 {
		first, commands = 0, commands[1:]
	}
	if len(commands) == 0 && len(batch) == 0 {
		return false
	}
	entry := fsm.Batch{Stamp: stamps.next(), Level: fsm.LevelOf(commands), Commands: commands}
	data, err := entry.AppendBinary(nil)
	if err != nil {
		b.touches.drop(touched)
		refuse(batch, err)
		return false
	}
	// The library takes it when its main goroutine is free, which may be in a disk write: it waits no
	// longer than the first deadline.
	timeout := time.Duration(0)
	switch {
	case len(batch) == 0: // nobody waits for it
		timeout = touchPatience
	case !earliest.IsZero():
		if timeout = time.Until(earliest) - answerTime; timeout <= 0 { // this process stood still since the batch was gathered
			b.touches.drop(touched)
			b.giveBack(batch)
			return false
		}
	}
	if !i.enter() {
		b.touches.drop(touched)
		refuse(batch, ErrStopped)
		return false
	}
	fl := &flight{life: i.quit, stamp: entry.Stamp, done: make(chan struct{})}
	b.mu.Lock()
	b.last = fl
	b.mu.Unlock()
	if len(batch) > 0 {
		i.hurry()
	}
	f := i.raft.Apply(data, timeout)
	b.wg.Go(func() {
		err := f.Error()
		i.wg.Done()
		if err == nil {
			b.touches.replicated(touched)
		} else {
			b.touches.drop(touched) // perhaps it is there all the same: no harm
		}
		if errors.Is(err, raft.ErrEnqueueTimeout) {
			fl.err = errNotTaken
			close(fl.done)
			b.release(p)
			b.giveBack(batch)
			return
		}
		if err != nil {
			err = i.writeError(err)
		} else if failed, ok := f.Response().(error); ok { // the state machine did not see it
			err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, failed)
		} else if stopped := b.group.serves(); stopped != nil {
			// It is in the log, but what came of it was made by a state that may be wrong.
			err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, stopped)
		} else {
			i.transferSince.Store(0)
			if !p.began.IsZero() {
				b.slow.Store(b.group.host.rounds.long(time.Since(p.began)))
			}
		}
		fl.err = err
		close(fl.done)
		defer b.release(p) // so that those who have their answer may be back in time for the next
		if err != nil {
			refuse(batch, err)
			return
		}
		a := f.Response().(applied)
		n := first
		for _, p := range batch {
			o := outcome{index: f.Index(), epoch: a.epoch}
			if p.command != nil {
				o.result, o.position = a.results[n], uint32(n)
				n++
			}
			if all := len(p.commands); all > 0 {
				o.results, o.position = a.results[n:n+all:n+all], uint32(n)
				n += all
			}
			p.done <- o
		}
	})
	return true
}

// join lets ticks ride on an entry in flight that is stamped late enough.
func (b *batcher) join(i *instance, ticks []*proposal, need uint64) bool {
	b.mu.Lock()
	fl := b.last
	b.mu.Unlock()
	if fl == nil || fl.life != (<-chan struct{})(i.quit) || fl.stamp < need {
		return false
	}
	select {
	case <-fl.done: // its effects are there already, or it failed: make a new one
		if fl.err != nil {
			return false
		}
		refuse(ticks, nil)
		return true
	default:
	}
	b.wg.Go(func() {
		<-fl.done
		if fl.err == errNotTaken {
			b.giveBack(ticks)
			return
		}
		refuse(ticks, fl.err)
	})
	return true
}
