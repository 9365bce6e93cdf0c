package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// Config describes a Nemesis. All fields but Operated must be set.
type Config struct {
	Recorder *history.Recorder
	Knobs    Knobs
	// Done counts the clients' successes.
	Done func() int64
	// Writes is the median time that acknowledged writes took which began between two times of the recording, 0 for none.
	Writes func(from, to time.Duration) time.Duration
	// Operated: clients change members, too, so that nobody knows for sure what they are.
	Operated bool
	// MemoryOnly: shards are in memory alone.
	MemoryOnly bool
	// Queue readies clients of a node, with open connections.
	Queue func(ctx context.Context, node string) Queue
}

// Queue are clients of one node, which they keep busy until they are closed.
type Queue interface {
	// Send sends recorded reads, without waiting, of keys in those shards that were written since a time of the
	// recording; it returns how many, and a function that waits for their answers.
	Send(ctx context.Context, shards []uint64, since time.Duration) (sent int, wait func())
	Close()
}

// Nemesis does steps of a plan.
type Nemesis struct {
	cfg  Config
	sys  System
	last *Act // what Break cut; Break, MendMost and MendRest are called one after the other

	mu sync.Mutex // guards what follows
	// cuts of each act that has some.
	cuts map[*Act][]pair
	// stopped counts the acts that keep a node from running, or do not care whether it does.
	stopped map[string]int
	// broken nodes lost what they had acknowledged and were not replaced.
	broken  map[string]bool
	damaged map[string]bool
	// guests must run.
	guests map[string]bool
	acts   int // that are under way
	// violations are what no cluster may do, seen by a fault.
	violations []string
}

// New returns a nemesis of sys.
func New(sys System, cfg Config) *Nemesis {
	return &Nemesis{cfg: cfg, sys: sys, cuts: map[*Act][]pair{}, stopped: map[string]int{}, broken: map[string]bool{}, damaged: map[string]bool{}, guests: map[string]bool{}}
}

// Act is a step that is being done.
type Act struct {
	Step
	Targets []string // nodes, or links as a>b

	n      *Nemesis
	rng    *rand.Rand
	fault  Fault
	before map[uint64]Replica // of each shard, as its leader or the newest told it
	probes map[probe]time.Duration
	counts cluster.Counts
	begun  time.Duration // when Do began, in the recording

	voters []string // of the shard, before
	killed []string // nodes that are down by it
	lines  int      // of a log, before

	// Of pause-leader-with-queued-reads: what the target led, when it was paused, and how reads are sent to it.
	led    []uint64
	paused time.Duration
	queue  Queue

	// Of faults that move many replicas: who had them all before, who joined for that, when something was lost for good, what was
	// served meanwhile, and who works at it.
	former    map[uint64][]string
	guest     string
	lost      time.Time
	served    []uint64
	operators []*operator

	mu     sync.Mutex // guards what follows
	effect string     // how it shows that there was one

	// What goes on until the fault is undone runs under this context, and is waited for.
	on    context.Context
	going sync.WaitGroup
}

const (
	// doLimit bounds what it takes to begin a fault, undoLimit what it takes to undo it: a node may have to be replaced.
	doLimit   = 60 * time.Second
	undoLimit = 150 * time.Second
	// effectEvery is how often is looked for an effect.
	effectEvery = 150 * time.Millisecond
	// sleep is how often is looked for anything else.
	sleep = 50 * time.Millisecond
)

// NotUndone is in the Err of a fault that could not be undone: the cluster is not as it was.
const NotUndone = "not undone"

// Do does a step: it waits for its time, begins, holds and undoes it. When ctx ends it is undone at once.
func (n *Nemesis) Do(ctx context.Context, s Step) history.Fault {
	f := faultNamed(s.Fault)
	a := &Act{Step: s, n: n, fault: f, rng: rand.New(rand.NewPCG(s.Seed, 0))}
	wait(ctx, s.After)
	n.act(1)
	defer n.act(-1)
	a.look(ctx)
	rec := history.Fault{Name: f.Name, Class: string(f.Class), Start: n.cfg.Recorder.Now()}

	doing, cancel := context.WithTimeout(ctx, doLimit)
	on, stop := context.WithCancel(ctx)
	a.on = on
	begun := time.Now()
	a.begun = rec.Start
	err := f.Do(doing, a)
	cancel()
	if err == nil {
		a.hold(ctx, time.Until(begun.Add(s.Hold)))
	}
	stop()
	a.going.Wait()

	undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	undone := f.Undo(undoing, a)
	rec.Healed = n.cfg.Recorder.Now()
	if err == nil && a.shown() == "" {
		a.lookForEffect(undoing)
	}
	if undone != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", NotUndone, undone))
	}
	if err != nil {
		rec.Err = err.Error()
	}
	if err == nil || undone != nil && a.shown() != "" {
		rec.Effect = a.shown()
	}
	rec.Targets = a.Targets
	return rec
}

// hold waits for d and looks meanwhile whether there is an effect.
func (a *Act) hold(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, max(d, 0))
	defer cancel()
	for a.shown() == "" && ctx.Err() == nil {
		a.lookForEffect(ctx)
		wait(ctx, effectEvery)
	}
	<-ctx.Done()
}

func (a *Act) lookForEffect(ctx context.Context) {
	if effect := a.fault.Effect(ctx, a); effect != "" {
		a.show(effect)
	}
}

// show says how it shows that there was an effect; shown returns what was said last.
func (a *Act) show(effect string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.effect = effect
}

func (a *Act) shown() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.effect
}

// goOn runs f until the fault is undone.
func (a *Act) goOn(f func(ctx context.Context)) {
	a.going.Go(func() { f(a.on) })
}

// wait returns after d or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// poll asks again and again until done says so or ctx ends.
func poll(ctx context.Context, done func() bool) error {
	for !done() {
		if wait(ctx, sleep); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// act counts an act that begins or ends; acting how many are under way.
func (n *Nemesis) act(more int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.acts += more
}

func (n *Nemesis) acting() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.acts
}

// keep says that a node is kept from running by this act, or may end by itself; release that it is not any more.
func (n *Nemesis) keep(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped[node]++
}

func (n *Nemesis) release(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped[node]--
}

// Deserters returns the nodes that do not run though nothing that was done to them excuses it.
func (n *Nemesis) Deserters() []string {
	var gone []string
	n.mu.Lock()
	guests := slices.Sorted(maps.Keys(n.guests))
	n.mu.Unlock()
	for _, node := range slices.Concat(n.sys.Nodes(), guests) {
		// First the process, then the excuse: who is about to kill a node says so before.
		if n.sys.Running(node) {
			continue
		}
		n.mu.Lock()
		excused := n.stopped[node] > 0 || n.broken[node]
		n.mu.Unlock()
		if !excused {
			gone = append(gone, node)
		}
	}
	return gone
}

// Damaged returns the nodes whose disks were ever damaged, full or wiped: they may fall apart, if nobody is told anything wrong.
func (n *Nemesis) Damaged() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.damaged))
}

// Violations returns what faults saw that no cluster may do.
func (n *Nemesis) Violations() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.violations)
}

func (n *Nemesis) violated(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.violations = append(n.violations, what)
}

// Mend starts all nodes that do not run, but those that are broken, heals all links and returns what it could not do.
func (n *Nemesis) Mend() error {
	err := n.heal()
	for _, node := range n.sys.Nodes() {
		n.mu.Lock()
		broken := n.broken[node]
		n.mu.Unlock()
		if !broken && !n.sys.Running(node) {
			err = errors.Join(err, n.sys.Start(node))
		}
	}
	return err
}

// heal forgets the cuts of all acts.
func (n *Nemesis) heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	return n.sys.Heal()
}
