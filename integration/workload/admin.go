package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// operators change the cluster by two nodes at once, each pair of requests for one shard and, where members change, by
// one and the same configuration, so that at most one of them may be carried out.
type operators struct {
	l     *Load
	rng   *rand.Rand
	whole map[uint64]int // shard -> members at the start

	mu    sync.Mutex // guards tally
	tally map[string]int
}

func newOperators(l *Load) *operators {
	if len(l.cfg.Nodes) == 0 {
		panic("workload: admin needs Config.Nodes")
	}
	return &operators{l: l, rng: rand.New(rand.NewPCG(l.cfg.Seed, 1<<32)), whole: map[uint64]int{}, tally: map[string]int{}}
}

// Operated counts the answers to operators, by what was asked and the status: "transfer 204", and the changes that were
// carried out: "remove-member done".
func (l *Load) Operated() map[string]int {
	if l.operators == nil {
		return nil
	}
	l.operators.mu.Lock()
	defer l.operators.mu.Unlock()
	tally := map[string]int{}
	for what, n := range l.operators.tally {
		tally[what] = n
	}
	return tally
}

const (
	// operatorsPause is about how long operators look on between two requests.
	operatorsPause = 700 * time.Millisecond
	// operationTime bounds the wait for a change of members, restoreTime the end, in which shards get their members back.
	operationTime = 20 * time.Second
	restoreTime   = 30 * time.Second
)

// run operates until ctx ends, and then gives each shard as many members as it had.
func (p *operators) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, operatorsPause/2+time.Duration(p.rng.Int64N(int64(operatorsPause))))
		if ctx.Err() != nil {
			break
		}
		p.once(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTime)
	defer cancel()
	for shard, whole := range p.whole {
		for ctx.Err() == nil && !p.restore(ctx, shard, whole) {
			pause(ctx, 200*time.Millisecond)
		}
	}
}

// once makes one pair of requests.
func (p *operators) once(ctx context.Context) {
	nodes := p.l.cfg.Nodes
	first := nodes[p.rng.IntN(len(nodes))]
	second := nodes[p.rng.IntN(len(nodes))]
	d, err := first.Directory(ctx)
	if err != nil || len(d.Shards) == 0 {
		return
	}
	shard := d.Shards[p.rng.IntN(len(d.Shards))].ID
	if p.rng.IntN(2) == 0 {
		if p.rng.IntN(5) == 0 {
			shard = 0 // the directory's own leader
		}
		p.transfers(ctx, first, second, shard)
		return
	}
	m, err := first.Members(ctx, shard)
	if p.broken(err) || err != nil {
		return
	}
	if p.whole[shard] == 0 {
		p.whole[shard] = len(m.Members)
	}
	p.changes(ctx, first, second, m)
}

// transfers asks for two leaders at once.
func (p *operators) transfers(ctx context.Context, first, second *cluster.Node, shard uint64) {
	s, err := first.Shard(ctx, shard)
	if err != nil || len(s.Members) == 0 {
		return
	}
	to := func() string { return s.Members[p.rng.IntN(len(s.Members))].Node }
	a, b := to(), to()
	p.both(
		func() {
			answer, err := first.TransferLeader(ctx, shard, a)
			p.note("transfer", answer, err)
		},
		func() {
			answer, err := second.TransferLeader(ctx, shard, b)
			p.note("transfer", answer, err)
		},
	)
}

// changes asks for two changes of members by one configuration, and sees that at most one is carried out.
func (p *operators) changes(ctx context.Context, first, second *cluster.Node, m cluster.Members) {
	a, b := p.propose(m), p.propose(m)
	if a == nil || b == nil {
		// Nothing may change: what asks for it by another configuration must be refused.
		answer, _, err := second.ChangeMember(ctx, m.Shard, m.Members[p.rng.IntN(len(m.Members))].Node, false, "0-0")
		p.note("remove-member", answer, err)
		if err == nil && answer.Status == 202 {
			p.l.recorder.Defect(fmt.Errorf("a change of members by the configuration 0-0 was taken on: %s", answer))
		}
		return
	}
	var did [2]cluster.Operation
	ask := func(i int, n *cluster.Node, c *change) func() {
		return func() {
			answer, o, err := n.ChangeMember(ctx, m.Shard, c.node, c.add, m.Conf)
			p.note(c.String(), answer, err)
			if err == nil && answer.Status == 202 {
				did[i] = p.outcome(ctx, o)
			}
		}
	}
	p.both(ask(0, first, a), ask(1, second, b))
	if bothDone(did[0], did[1]) {
		p.l.recorder.Defect(fmt.Errorf("two changes of members by the configuration %s of shard %d were carried out: %s; %s", m.Conf, m.Shard, did[0], did[1]))
	}
}

// bothDone reports whether two operations, and not one that both ask for, were carried out.
func bothDone(a, b cluster.Operation) bool {
	return a.ID != b.ID && a.State == "done" && b.State == "done"
}

// change is one member more or less.
type change struct {
	node string
	add  bool
}

func (c *change) String() string {
	if c.add {
		return "add-member"
	}
	return "remove-member"
}

// propose draws a change that keeps as many members as there were at the start, or brings them back to that; nil where there is none.
func (p *operators) propose(m cluster.Members) *change {
	whole := p.whole[m.Shard]
	var outside []string
	for _, n := range p.l.cfg.Nodes {
		if n.Running() && !m.Has(n.ID) {
			outside = append(outside, n.ID)
		}
	}
	inside := m.Members[p.rng.IntN(len(m.Members))].Node
	switch {
	case len(m.Members) > whole, len(m.Members) == whole && len(outside) == 0 && p.l.cfg.Shrink:
		return &change{inside, false}
	case len(m.Members) <= whole && len(outside) > 0:
		return &change{outside[p.rng.IntN(len(outside))], true}
	}
	return nil
}

// outcome waits for the end of an operation, and returns it as far as it is known.
func (p *operators) outcome(ctx context.Context, o cluster.Operation) cluster.Operation {
	ctx, cancel := context.WithTimeout(ctx, operationTime)
	defer cancel()
	for i := 0; ctx.Err() == nil && !o.Over(); i++ {
		pause(ctx, 50*time.Millisecond)
		if now, err := p.l.cfg.Nodes[i%len(p.l.cfg.Nodes)].Operation(ctx, o.ID); err == nil {
			o = now
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tally[o.Kind+" "+o.State]++
	return o
}

// restore makes one step towards as many members as a shard had, and reports whether it has them.
func (p *operators) restore(ctx context.Context, shard uint64, whole int) bool {
	n := p.l.cfg.Nodes[p.rng.IntN(len(p.l.cfg.Nodes))]
	m, err := n.Members(ctx, shard)
	if p.broken(err) || err != nil {
		return false
	}
	if voters, all := m.Voters(); all && len(voters) == whole {
		return true
	}
	if c := p.propose(m); c != nil && len(m.Members) != whole {
		answer, o, err := n.ChangeMember(ctx, shard, c.node, c.add, m.Conf)
		p.note(c.String(), answer, err)
		if err == nil && answer.Status == 202 {
			p.outcome(ctx, o)
		}
	}
	return false
}

// both runs two functions at once.
func (p *operators) both(a, b func()) {
	var all sync.WaitGroup
	all.Go(a)
	all.Go(b)
	all.Wait()
}

// note counts an answer, and records one that the interface does not allow.
func (p *operators) note(what string, a cluster.Answer, err error) {
	if p.broken(err) {
		return
	}
	status := fmt.Sprint(a.Status)
	if err != nil {
		status = "no answer"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tally[what+" "+status]++
}

// broken records an answer that the interface does not allow.
func (p *operators) broken(err error) bool {
	if !errors.Is(err, cluster.ErrInterface) {
		return false
	}
	p.l.recorder.Defect(err)
	return true
}
