package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// fake is a cluster that knows no more than faults can see of one: who runs, who hears whom, who leads. Its shards
// apply 200 entries a second while somebody leads them.
type fake struct {
	names []string

	mu     sync.Mutex // guards what follows
	nodes  map[string]*fakeNode
	shards []*fakeShard // the directory's first
	links  map[pair]fakeLink
	cut    map[pair]bool
	counts cluster.Counts
	last   time.Time
}

type fakeNode struct {
	Running, Paused, Full, Wiped bool
	Sync                         time.Duration
	Damage                       Damage
	Offset                       time.Duration
	Rate                         float64

	applied   map[uint64]uint64
	snapshots int
}

type fakeShard struct {
	voters  []string
	leader  string
	term    uint64
	conf    int
	applied uint64
}

type fakeLink struct {
	Delay             time.Duration
	Loss, Twice, Late float64
	Rate              int
}

func newFake(k Knobs) *fake {
	f := &fake{
		names: NodeNames[:k.Nodes], nodes: map[string]*fakeNode{},
		links: map[pair]fakeLink{}, cut: map[pair]bool{}, last: time.Now(),
	}
	for _, n := range f.names {
		f.nodes[n] = &fakeNode{Running: true, Rate: 1, applied: map[uint64]uint64{}}
	}
	for i := range k.Shards + 1 {
		s := &fakeShard{conf: 1}
		for j := range k.Replicas {
			s.voters = append(s.voters, f.names[(i+j)%k.Nodes])
		}
		f.shards = append(f.shards, s)
	}
	return f
}

// state is all that a fault must put back: neither who leads nor how far the shards are.
func (f *fake) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := ""
	for _, n := range f.names {
		node := *f.nodes[n]
		s += fmt.Sprintf("%s %+v %t\n", n, []any{node.Running, node.Paused, node.Full, node.Wiped, node.Sync, node.Damage, node.Offset, node.Rate}, f.cut[pair{n, cluster.Clients}])
	}
	for i, sh := range f.shards {
		s += fmt.Sprintf("shard %d %v\n", i, slices.Sorted(slices.Values(sh.voters)))
	}
	for _, x := range f.names {
		for _, y := range f.names {
			s += fmt.Sprintf("%s>%s %+v %t\n", x, y, f.links[pair{x, y}], f.cut[pair{x, y}])
		}
	}
	return s
}

func (f *fake) up(n string) bool { return f.nodes[n].Running && !f.nodes[n].Paused && !f.nodes[n].Full }

// hears reports whether two nodes hear each other.
func (f *fake) hears(x, y string) bool {
	return x == y || f.up(x) && f.up(y) && !f.cut[pair{x, y}] && !f.cut[pair{y, x}]
}

func (f *fake) majority(s *fakeShard, leader string) bool {
	n := 0
	for _, v := range s.voters {
		if f.up(leader) && f.hears(leader, v) {
			n++
		}
	}
	return 2*n > len(s.voters)
}

// turn lets time pass: leaders change, entries are applied, who is behind by many gets a snapshot.
func (f *fake) turn() {
	const entry = 5 * time.Millisecond
	passed := time.Since(f.last) / entry
	f.last = f.last.Add(passed * entry)
	for i, s := range f.shards {
		if !slices.Contains(s.voters, s.leader) || !f.majority(s, s.leader) {
			for _, v := range s.voters {
				if f.majority(s, v) {
					s.leader = v
					s.term++
					break
				}
			}
		}
		if !f.majority(s, s.leader) {
			continue
		}
		s.applied += uint64(passed)
		for _, v := range s.voters {
			if n := f.nodes[v]; f.hears(s.leader, v) {
				if n.applied[uint64(i)]+100 < s.applied {
					n.snapshots++
				}
				n.applied[uint64(i)] = s.applied
			}
		}
	}
	for _, l := range f.links {
		if l.Loss > 0 {
			f.counts.Lost++
		}
		if l.Twice > 0 {
			f.counts.Repeated++
		}
		if l.Late > 0 {
			f.counts.Reordered++
		}
	}
}

// do changes a node.
func (f *fake) do(node string, change func(*fakeNode) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	return change(f.nodes[node])
}

var errFake = errors.New("not now")

func (f *fake) Nodes() []string { return f.names }

func (f *fake) Running(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[node].Running
}

func (f *fake) Start(node string) error {
	return f.do(node, func(n *fakeNode) error {
		if n.Running || n.Wiped {
			return errFake
		}
		n.Running, n.Offset, n.Rate = n.Damage == "", 0, 1
		return nil
	})
}

func (f *fake) Kill(node string) error {
	return f.do(node, func(n *fakeNode) error {
		if !n.Running {
			return errFake
		}
		n.Running, n.Paused = false, false
		return nil
	})
}

func (f *fake) PowerLoss(nodes ...string) error {
	var err error
	for _, node := range nodes {
		err = errors.Join(err, f.Kill(node))
	}
	return err
}

func (f *fake) Pause(node string) error {
	return f.do(node, func(n *fakeNode) error {
		if !n.Running {
			return errFake
		}
		n.Paused = true
		return nil
	})
}

func (f *fake) Resume(node string) error {
	return f.do(node, func(n *fakeNode) error { n.Paused = false; return nil })
}

func (f *fake) FillDisk(node string) error {
	return f.do(node, func(n *fakeNode) error { n.Full = true; return nil })
}

func (f *fake) FreeDisk(node string) error {
	return f.do(node, func(n *fakeNode) error { n.Full = false; return nil })
}

func (f *fake) SlowDisk(node string, d time.Duration) error {
	return f.do(node, func(n *fakeNode) error { n.Sync = d; return nil })
}

func (f *fake) Damage(node string, d Damage, _ uint64) (string, error) {
	return "damaged", f.do(node, func(n *fakeNode) error {
		if n.Running {
			return errFake
		}
		n.Damage = d
		return nil
	})
}

func (f *fake) Wipe(node string) error {
	return f.do(node, func(n *fakeNode) error {
		if n.Running {
			return errFake
		}
		n.Wiped, n.Damage, n.applied = true, "", map[uint64]uint64{}
		return nil
	})
}

func (f *fake) Rejoin(node, _ string) error {
	return f.do(node, func(n *fakeNode) error {
		for _, s := range f.shards {
			if n.Running || !n.Wiped || slices.Contains(s.voters, node) {
				return errFake
			}
		}
		n.Running, n.Wiped = true, false
		return nil
	})
}

func (f *fake) SetClock(_ context.Context, node string, offset time.Duration, rate float64) error {
	return f.do(node, func(n *fakeNode) error {
		if !n.Running || n.Paused {
			return errFake
		}
		n.Offset, n.Rate = offset, rate
		return nil
	})
}

// answers waits like a client whose node says nothing, where it says nothing.
func (f *fake) answers(ctx context.Context, node string, can func() bool, took func() time.Duration) error {
	f.mu.Lock()
	f.turn()
	ok := f.nodes[node].Running && !f.nodes[node].Paused && !f.cut[pair{node, cluster.Clients}] && can()
	d := time.Millisecond
	if took != nil {
		d = took()
	}
	f.mu.Unlock()
	if !ok {
		<-ctx.Done()
		return ctx.Err()
	}
	wait(ctx, d)
	return ctx.Err()
}

func (f *fake) Ready(ctx context.Context, node string) bool { return f.Alive(ctx, node) == nil }

func yes() bool { return true }

func (f *fake) Alive(ctx context.Context, node string) error { return f.answers(ctx, node, yes, nil) }

func (f *fake) Probe(ctx context.Context, node string, shard uint64) error {
	s := f.shards[shard]
	return f.answers(ctx, node,
		func() bool { return f.hears(node, s.leader) && f.majority(s, s.leader) },
		func() time.Duration {
			d := 2 * time.Millisecond
			for _, p := range []pair{{node, s.leader}, {s.leader, node}} {
				d += f.links[p].Delay
				if f.links[p].Rate > 0 {
					d += 50 * time.Millisecond
				}
			}
			return d
		})
}

func (f *fake) Replicas(ctx context.Context, node string) ([]Replica, error) {
	if err := f.answers(ctx, node, yes, nil); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Replica
	for i, s := range f.shards {
		all = append(all, Replica{Shard: uint64(i), Leader: s.leader, Term: s.term, Applied: f.nodes[node].applied[uint64(i)], Members: slices.Clone(s.voters)})
	}
	return all, nil
}

func (f *fake) Logged(node, _ string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	return f.nodes[node].snapshots, nil
}

func (f *fake) Members(ctx context.Context, via string, shard uint64) (cluster.Members, error) {
	if err := f.answers(ctx, via, yes, nil); err != nil {
		return cluster.Members{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shards[shard]
	if !f.majority(s, s.leader) {
		return cluster.Members{}, errFake
	}
	m := cluster.Members{Shard: shard, Conf: strconv.Itoa(s.conf), Leader: s.leader}
	for _, v := range s.voters {
		m.Members = append(m.Members, cluster.Member{Node: v, Role: "voter"})
	}
	return m, nil
}

func (f *fake) ChangeMember(ctx context.Context, via string, shard uint64, node string, add bool, conf string) (cluster.Answer, cluster.Operation, error) {
	if err := f.answers(ctx, via, yes, nil); err != nil {
		return cluster.Answer{}, cluster.Operation{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shards[shard]
	if !f.majority(s, s.leader) || conf != strconv.Itoa(s.conf) || slices.Contains(s.voters, node) == add || add && !f.up(node) {
		return cluster.Answer{Status: 409}, cluster.Operation{}, nil
	}
	s.conf++
	if add {
		s.voters = append(s.voters, node)
	} else {
		s.voters = slices.DeleteFunc(s.voters, func(v string) bool { return v == node })
	}
	return cluster.Answer{Status: 202}, cluster.Operation{}, nil
}

func (f *fake) Operations(ctx context.Context, via string) ([]cluster.Operation, error) {
	return nil, f.answers(ctx, via, yes, nil)
}

func (f *fake) Transfer(ctx context.Context, via string, shard uint64, to string) (cluster.Answer, error) {
	if err := f.answers(ctx, via, yes, nil); err != nil {
		return cluster.Answer{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.shards[shard]; slices.Contains(s.voters, to) && f.majority(s, to) && s.leader != to {
		s.leader = to
		s.term++
		return cluster.Answer{Status: 204}, nil
	}
	return cluster.Answer{Status: 409}, nil
}

func (f *fake) Forget(ctx context.Context, via, _ string) (cluster.Answer, error) {
	return cluster.Answer{Status: 204}, f.answers(ctx, via, yes, nil)
}

// set changes a link.
func (f *fake) set(from, to string, change func(*fakeLink)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	l := f.links[pair{from, to}]
	change(&l)
	f.links[pair{from, to}] = l
	return nil
}

func (f *fake) Cut(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	f.cut[pair{from, to}] = true
	return nil
}

func (f *fake) Heal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	clear(f.cut)
	return nil
}

func (f *fake) Mend(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	delete(f.cut, pair{from, to})
	return nil
}

func (f *fake) SetDelay(from, to string, d time.Duration) error {
	return f.set(from, to, func(l *fakeLink) { l.Delay = d })
}

func (f *fake) SetLoss(from, to string, share float64) error {
	return f.set(from, to, func(l *fakeLink) { l.Loss = share })
}

func (f *fake) SetDuplicate(from, to string, share float64) error {
	return f.set(from, to, func(l *fakeLink) { l.Twice = share })
}

func (f *fake) SetReorder(from, to string, share float64) error {
	return f.set(from, to, func(l *fakeLink) { l.Late = share })
}

func (f *fake) SetRate(from, to string, rate int) error {
	return f.set(from, to, func(l *fakeLink) { l.Rate = rate })
}

func (f *fake) Counts() cluster.Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	return f.counts
}
