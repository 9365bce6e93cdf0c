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
	names    []string
	replicas int // that each shard is to have

	mu     sync.Mutex // guards what follows
	nodes  map[string]*fakeNode
	shards []*fakeShard // the directory's first
	links  map[pair]fakeLink
	cut    map[pair]bool
	counts cluster.Counts
	last   time.Time

	// The table, as far as operators change it.
	known    map[string]bool
	draining map[string]bool
	settings map[string]string
}

// fakeGuest is the node that may join a fake.
const fakeGuest = "g"

type fakeNode struct {
	Running, Paused, Full, Wiped bool
	Sync                         time.Duration
	Damage                       Damage
	Offset                       time.Duration
	Rate                         float64

	applied   map[uint64]uint64
	snapshots int
	refused   int       // how often it came back without its data, or with damaged data
	seen      time.Time // when it was up last
	started   time.Time
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
		names: NodeNames[:k.Nodes], replicas: k.Replicas, nodes: map[string]*fakeNode{},
		links: map[pair]fakeLink{}, cut: map[pair]bool{}, last: time.Now(),
		known: map[string]bool{}, draining: map[string]bool{}, settings: map[string]string{},
	}
	for _, n := range f.names {
		f.nodes[n] = &fakeNode{Running: true, Rate: 1, applied: map[uint64]uint64{}}
		f.known[n] = true
	}
	f.nodes[fakeGuest] = &fakeNode{Wiped: true, Rate: 1, applied: map[uint64]uint64{}}
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
	s := fmt.Sprintf("known %v, draining %v, settings %v\n", f.known, f.draining, f.settings)
	for _, n := range append(f.Nodes(), fakeGuest) {
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
	f.relocate()
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

// relocate moves a replica of each shard off a node that is drained or gone, while somebody leads the directory.
func (f *fake) relocate() {
	now := time.Now()
	for name, n := range f.nodes {
		if f.up(name) {
			n.seen = now
		}
	}
	if !f.majority(f.shards[0], f.shards[0].leader) {
		return
	}
	repair, _ := time.ParseDuration(f.settings["repair-after"])
	for _, s := range f.shards {
		for i, v := range s.voters {
			gone := repair > 0 && now.Sub(f.nodes[v].seen) > repair
			to := f.target(s)
			if !gone && !f.draining[v] || to == "" && len(s.voters) <= f.replicas || !f.majority(s, s.leader) {
				continue
			}
			if s.voters[i] = to; to == "" {
				s.voters = slices.Delete(s.voters, i, i+1)
			}
			s.conf++
			break
		}
	}
}

// target returns a node that takes a replica of a shard, "" for none.
func (f *fake) target(s *fakeShard) string {
	for _, name := range append(f.Nodes(), fakeGuest) {
		if f.known[name] && f.up(name) && !f.draining[name] && !slices.Contains(s.voters, name) {
			return name
		}
	}
	return ""
}

// do changes a node.
func (f *fake) do(node string, change func(*fakeNode) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	return change(f.nodes[node])
}

var errFake = errors.New("not now")

func (f *fake) Nodes() []string { return slices.Clone(f.names) }

func (f *fake) Spare() string { return fakeGuest }

func (f *fake) Running(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[node].Running
}

func (f *fake) Start(node string) error {
	return f.do(node, func(n *fakeNode) error {
		if n.Running {
			return errFake
		}
		if n.Wiped {
			n.refused++
			return nil
		}
		if n.Damage != "" {
			n.refused++
		}
		n.Running, n.Offset, n.Rate, n.started = n.Damage == "", 0, 1, time.Now()
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

func (f *fake) Terminate(ctx context.Context, node string) error {
	err := f.Kill(node)
	wait(ctx, 20*time.Millisecond)
	return err
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
		if n.Running || f.known[node] == n.Wiped {
			return errFake
		}
		n.Running, n.Wiped, f.known[node] = true, false, true
		n.Offset, n.Rate = 0, 1 // it is another process
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

func (f *fake) Logged(node, text string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	if text == refusals[0] {
		return f.nodes[node].refused, nil
	}
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

// table makes a change of the directory, which is answered with a status.
func (f *fake) table(ctx context.Context, via string, change func() int) (cluster.Answer, error) {
	if err := f.answers(ctx, via, yes, nil); err != nil {
		return cluster.Answer{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn()
	if !f.majority(f.shards[0], f.shards[0].leader) {
		return cluster.Answer{Status: 503}, nil
	}
	return cluster.Answer{Status: change()}, nil
}

// hosts counts a node's replicas, and reports whether it has one of the directory.
func (f *fake) hosts(node string) (replicas int, directory bool) {
	for i, s := range f.shards {
		if slices.Contains(s.voters, node) {
			replicas += min(i, 1)
			directory = directory || i == 0
		}
	}
	return replicas, directory
}

// Rebuild is refused while the directory has a majority.
func (f *fake) Rebuild(ctx context.Context, via string) (cluster.Answer, error) {
	if err := f.answers(ctx, via, yes, nil); err != nil {
		return cluster.Answer{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shards[0]
	if slices.ContainsFunc(s.voters, func(v string) bool { return f.majority(s, v) }) {
		return cluster.Answer{Status: 200}, nil
	}
	s.voters, s.leader = []string{via}, via
	s.term++
	s.conf++
	return cluster.Answer{Status: 202}, nil
}

func (f *fake) Forget(ctx context.Context, via, node string) (cluster.Answer, error) {
	return f.table(ctx, via, func() int {
		replicas, directory := f.hosts(node)
		if f.nodes[node].Running || replicas > 0 || directory {
			return 409
		}
		delete(f.known, node)
		delete(f.draining, node)
		return 204
	})
}

func (f *fake) Node(ctx context.Context, via, node string) (cluster.NodeState, error) {
	if err := f.answers(ctx, via, yes, nil); err != nil {
		return cluster.NodeState{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := cluster.NodeState{ID: node, State: "down", Draining: f.draining[node]}
	s.Replicas, s.Directory = f.hosts(node)
	if f.up(node) {
		s.State = "up"
	}
	if !f.known[node] {
		return s, errFake
	}
	return s, nil
}

func (f *fake) Drain(ctx context.Context, via, node string, drain bool) (cluster.Answer, error) {
	return f.table(ctx, via, func() int {
		switch {
		case !f.known[node]:
			return 404
		case drain && slices.ContainsFunc(f.shards, func(s *fakeShard) bool {
			return slices.Contains(s.voters, node) && f.target(s) == "" && len(s.voters) <= f.replicas
		}):
			return 409
		case drain:
			f.draining[node] = true
		default:
			delete(f.draining, node)
		}
		return 202
	})
}

func (f *fake) Cancel(ctx context.Context, via string, _ uint64) (cluster.Answer, error) {
	return f.table(ctx, via, func() int { return 409 })
}

func (f *fake) Set(ctx context.Context, via, name, value string) (cluster.Answer, error) {
	return f.table(ctx, via, func() int {
		if f.settings[name] = value; value == "" {
			delete(f.settings, name)
		}
		return 200
	})
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
