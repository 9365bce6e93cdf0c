package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// TestNemesis ensures that under random faults every answer is linearizable, what was refused was not
// done, what was acknowledged is there at the end, all replicas agree then, and nothing keeps running
// after Close. LARDER_SEEDS=n tries n seeds, LARDER_SEED=n begins with that one, LARDER_TRACE=1 shows
// the nodes' logs of a failure. A failing seed does not replay exactly, since neither goroutines nor
// the library's timeouts are seeded.
func TestNemesis(t *testing.T) {
	first, seeds := 1, 30
	if testing.Short() {
		seeds = 8
	}
	if n, err := strconv.Atoi(os.Getenv("LARDER_SEED")); err == nil {
		first, seeds = n, 1
	}
	if n, err := strconv.Atoi(os.Getenv("LARDER_SEEDS")); err == nil {
		seeds = n
	}
	var total nemesisSums
	for seed := first; seed < first+seeds && !t.Failed(); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { total.add(runNemesis(t, uint64(seed))) })
		})
	}
	t.Logf("%+v", total)
	if seeds >= 8 && !t.Failed() && (total.done < 100*seeds || total.unknown == 0 || total.terms < 4*seeds || total.failedConditions == 0 || total.checks < 20*seeds ||
		total.touches < 20*seeds || total.reads[ReadFollower] < 20*seeds || total.reads[ReadLocal] < 20*seeds) {
		t.Errorf("too little happened to prove anything: %+v", total)
	}
}

// nemesisSums says how much a run proves.
type nemesisSums struct {
	done, unknown, refused, failedConditions, terms, touches int
	checks                                                   int // comparisons in the last lives of the nodes
	reads                                                    map[ReadPath]int
}

func (s *nemesisSums) add(o nemesisSums) {
	s.done += o.done
	s.unknown += o.unknown
	s.refused += o.refused
	s.failedConditions += o.failedConditions
	s.terms += o.terms
	s.touches += o.touches
	s.checks += o.checks
	if s.reads == nil {
		s.reads = map[ReadPath]int{}
	}
	for path, n := range o.reads {
		s.reads[path] += n
	}
}

// traceBuffer keeps the end of what the nodes log.
type traceBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *traceBuffer) Write(p []byte) (int, error) {
	const most = 4 << 20
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.text = append(b.text, p...); len(b.text) > 2*most {
		b.text = append([]byte(nil), b.text[len(b.text)-most:]...)
	}
	return len(p), nil
}

func (b *traceBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// nemesis breaks a cluster in random ways. Its goroutine is the test's.
type nemesis struct {
	c      *cluster
	rnd    *rand.Rand
	faults map[string]func()
	log    []string
}

func runNemesis(t *testing.T, seed uint64) nemesisSums {
	rnd := rand.New(rand.NewPCG(seed, 7))
	trace := &traceBuffer{}
	heartbeat := time.Duration(200+rnd.IntN(800)) * time.Millisecond
	entries, trailing := uint64(8+rnd.IntN(60)), uint64(1+rnd.IntN(8))
	tune := func(_ string, c *Config) {
		c.HeartbeatTimeout, c.ElectionTimeout, c.CommitTimeout = heartbeat, heartbeat, heartbeat/2
		c.SnapshotEntries, c.TrailingLogs = entries, trailing
		c.CheckInterval = 100 * time.Millisecond // no fault may pass for a difference of states
		if os.Getenv("LARDER_TRACE") != "" {
			c.Log = slog.New(slog.NewTextHandler(trace, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
	}
	c := newCluster(t, 3+2*rnd.IntN(2), tune)
	c.net = NewMemoryNetwork(seed)
	defer c.close()
	c.startAll()
	n := &nemesis{c: c, rnd: rnd}
	n.choose()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, %d nodes, heartbeat %v, snapshot after %d entries, %d left:\n%s\n%s",
				seed, len(c.names), heartbeat, entries, trailing, strings.Join(n.log, "\n"), trace)
		}
	}()
	history := newRecorder()

	stop := make(chan struct{})
	// Two keys at a time, and new ones before a history gets too long to judge.
	var generation struct {
		sync.Mutex
		n, uses int
	}
	next := func() { generation.n, generation.uses = generation.n+1, 0 }
	keyOf := func(r *rand.Rand) string {
		generation.Lock()
		defer generation.Unlock()
		if generation.uses++; generation.uses > 200 {
			next()
		}
		return fmt.Sprintf("k%d-%d", generation.n, r.IntN(2))
	}
	var wg sync.WaitGroup
	for i := range 4 {
		cl := &client{c: c, t: t, history: history, rnd: rand.New(rand.NewPCG(seed, uint64(100+i)))}
		wg.Go(func() { cl.run(stop, keyOf) })
	}
	for range 8 {
		generation.Lock()
		next()
		generation.Unlock()
		n.round()
	}
	n.heal()
	for _, a := range c.names { // TCP would have sent again what links lost, or ended them
		for _, b := range c.others(a) {
			c.net.BreakLinks(a, b)
		}
	}
	close(stop)
	wg.Wait()
	for name := range c.memory {
		if err := c.fatal(name); err != nil {
			t.Errorf("node %s ended itself: %v", name, err)
		}
	}
	found := c.compare()
	if o, _ := found.Outcome(); o != OutcomeEqual || found.Differ() != 0 {
		t.Errorf("at the end replicas differ: %s, %+v", o, found)
	}
	l := c.leader()
	cl := &client{c: c, t: t, history: history}
	for g := 1; g <= generation.n; g++ {
		for k := range 2 {
			cl.do(l, l.Node(), opGet, fmt.Sprintf("k%d-%d", g, k), 0, 0, 2*time.Second)
			for _, node := range c.others(l.Node()) {
				cl.do(c.hosts[node], node, opGet, fmt.Sprintf("k%d-%d", g, k), 0, 0, 2*time.Second)
			}
		}
	}
	c.wantSameState()
	history.check(t)
	sums := nemesisSums{done: len(history.ops), unknown: history.unknown, refused: len(history.refused), terms: int(l.Group(testShard).Status().Term)}
	for _, h := range c.hosts { // those of their last lives
		sums.touches += int(touchStats(h).Replicated)
		sums.checks += int(h.Cache(testShard).Status().Checks)
	}
	sums.reads = map[ReadPath]int{}
	for _, o := range slices.Concat(history.ops, history.aged) {
		if o.kind == opGet {
			sums.reads[o.resp.Read]++
		}
		if o.resp.Status == fsm.StatusCondition {
			sums.failedConditions++
		}
	}
	return sums
}

// client performs operations one after the other, through any node.
type client struct {
	c       *cluster
	t       testing.TB
	history *recorder
	rnd     *rand.Rand
	leader  string // as it was last told
	known   struct {
		key     string
		put     int
		version uint64
	}
}

func (cl *client) run(stop <-chan struct{}, keyOf func(*rand.Rand) string) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(cl.rnd.IntN(40)) * time.Millisecond):
		}
		via := cl.c.host(cl.c.names[cl.rnd.IntN(len(cl.c.names))])
		if via == nil {
			continue
		}
		to := cl.leader
		if to == "" || cl.rnd.IntN(5) == 0 {
			to = cl.c.names[cl.rnd.IntN(len(cl.c.names))]
		}
		key := keyOf(cl.rnd)
		timeout := time.Duration(20+cl.rnd.IntN(800)) * time.Millisecond
		switch p := cl.rnd.IntN(10); {
		case p < 4: // most of whatever replica, also through its own node
			if cl.rnd.IntN(3) > 0 {
				to = cl.c.names[cl.rnd.IntN(len(cl.c.names))]
			}
			if cl.rnd.IntN(2) == 0 {
				to = via.Node()
			}
			cl.do(via, to, opGet, key, 0, 0, timeout)
		case p < 6:
			cl.do(via, to, opPut, key, 0, 0, timeout)
		case p < 7:
			cl.do(via, to, opPutAbsent, key, 0, 0, timeout)
		case p < 9 && cl.known.key == key:
			cl.do(via, to, opCAS, key, cl.known.put, cl.known.version, timeout)
		case p == 9:
			cl.do(via, to, opDelete, key, 0, 0, timeout)
		}
	}
}

func (cl *client) do(via *Host, to string, kind int, key string, expect int, version uint64, timeout time.Duration) {
	o := cl.history.begin(kind, key, expect)
	req := Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: fmt.Appendf(nil, "#%d ", o.id)}
	if o.id%16 == 0 {
		req.Value = append(req.Value, make([]byte, 20_000)...)
	}
	switch kind {
	case opGet:
		req.Op, req.Value = OpGet, nil
		switch {
		case cl.rnd == nil: // at the end
		case cl.rnd.IntN(5) == 0:
			req.Consistency, req.MaxStaleness = Bounded, time.Duration(1+cl.rnd.IntN(2000))*time.Millisecond
		case cl.rnd.IntN(8) == 0:
			req.Consistency = Any
		}
		o.consistency = req.Consistency
	case opPutAbsent:
		req.Cond = fsm.Cond{Kind: fsm.CondAbsent}
	case opCAS:
		req.Cond = fsm.Cond{Kind: fsm.CondVersion, Version: version}
	case opDelete:
		req.Op, req.Value = OpDelete, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	resp, err := via.Do(ctx, to, req)
	if err := cl.history.end(o, resp, err); err != nil {
		cl.t.Error(err)
	}
	var elsewhere *NotLeaderError
	switch {
	case errors.As(err, &elsewhere):
		cl.leader = elsewhere.Leader
	case err != nil:
		cl.leader = ""
	case kind == opGet && resp.Found:
		if resp.Read == ReadProbe {
			cl.leader = resp.ServedBy
		}
		cl.known.key, cl.known.version = key, resp.Version
		_, _ = fmt.Sscanf(string(resp.Value), "#%d", &cl.known.put) // end checked it
	}
}

// choose takes a random half of the faults for this run: some need company, others quiet.
func (n *nemesis) choose() {
	all := map[string]func(){
		"isolate leader": func() { n.isolate(n.leader()) },
		"isolate any":    func() { n.isolate(n.any()) },
		"split": func() {
			names := n.shuffled()
			for _, a := range names[:len(names)/2] {
				for _, b := range names[len(names)/2:] {
					n.c.net.Isolate(a, b)
				}
			}
		},
		"one way": func() {
			a := n.any()
			for _, b := range n.c.others(a) {
				if n.rnd.IntN(2) == 0 {
					n.c.net.SetFaults(a, b, LinkFaults{Cut: true})
				} else {
					n.c.net.SetFaults(b, a, LinkFaults{Cut: true})
				}
			}
		},
		"pause leader": func() { n.pause(n.leader()) },
		"pause any":    func() { n.pause(n.any()) },
		"hold answers to leader": func() {
			l := n.leader()
			for _, o := range n.c.others(l) {
				n.c.net.Hold(o, l)
			}
		},
		"delay": func() {
			n.everywhere(LinkFaults{Delay: time.Duration(n.rnd.IntN(30)) * time.Millisecond})
		},
		"reorder":   func() { n.everywhere(LinkFaults{Jitter: time.Duration(1+n.rnd.IntN(50)) * time.Millisecond}) },
		"loss":      func() { n.everywhere(LinkFaults{Loss: 0.1 * n.rnd.Float64()}) },
		"duplicate": func() { n.everywhere(LinkFaults{Duplicate: 0.3, Jitter: 5 * time.Millisecond}) },
		"reset": func() {
			names := n.shuffled()
			n.c.net.BreakLinks(names[0], names[1])
		},
		"crash leader":   func() { n.crash(n.leader()) },
		"crash any":      func() { n.crash(n.any()) },
		"crash majority": func() { n.crash(n.shuffled()[:len(n.c.names)/2+1]...) },
		"crash all":      func() { n.crash(n.shuffled()...) },
		"transfer": func() {
			if h := n.c.hosts[n.leader()]; h != nil {
				ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				defer cancel()
				_ = h.Group(testShard).TransferLeadership(ctx, n.any()) // may well fail under the other faults
			}
		},
		"slow disks": func() {
			for _, h := range n.c.hosts {
				n.slowDisk(h)
			}
		},
	}
	n.faults = map[string]func(){}
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if n.rnd.IntN(2) == 0 {
			n.faults[name] = all[name]
		}
	}
	n.faults["isolate leader"] = all["isolate leader"] // never none
}

// round applies one to three faults, lets them work, and mostly heals them.
func (n *nemesis) round() {
	var names []string
	for name := range n.faults {
		names = append(names, name)
	}
	slices.Sort(names)
	for range 1 + n.rnd.IntN(3) {
		name := names[n.rnd.IntN(len(names))]
		n.note(name)
		n.faults[name]()
		n.sleep(300)
	}
	n.sleep(3000)
	for _, name := range n.c.names {
		if n.c.hosts[name] == nil {
			n.c.start(name)
		}
	}
	if n.rnd.IntN(4) > 0 {
		n.heal()
		n.sleep(1500)
	}
}

func (n *nemesis) note(what string) {
	n.log = append(n.log, time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).String()+" "+what)
}

func (n *nemesis) sleep(millis int) { time.Sleep(time.Duration(n.rnd.IntN(millis)) * time.Millisecond) }

func (n *nemesis) heal() {
	n.note("heal")
	n.c.net.Heal()
	for _, a := range n.c.names {
		for _, b := range n.c.others(a) {
			n.c.net.Release(a, b)
		}
		if h := n.c.hosts[a]; h != nil {
			h.Group(testShard).store.(*memoryStore).onStore(nil)
		} else {
			n.c.start(a)
		}
	}
}

func (n *nemesis) any() string { return n.c.names[n.rnd.IntN(len(n.c.names))] }

func (n *nemesis) shuffled() []string {
	names := slices.Clone(n.c.names)
	n.rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

// leader is a node that believes to lead, any where none does.
func (n *nemesis) leader() string {
	for _, name := range n.shuffled() {
		if h := n.c.hosts[name]; h != nil && h.Group(testShard).Status().Role == RoleLeader {
			return name
		}
	}
	return n.any()
}

func (n *nemesis) isolate(name string) { n.c.net.Isolate(name, n.c.others(name)...) }

func (n *nemesis) everywhere(f LinkFaults) {
	for _, a := range n.c.names {
		for _, b := range n.c.others(a) {
			n.c.net.SetFaults(a, b, f)
		}
	}
}

// pause is what SIGSTOP of a process looks like to the others. Its own clients' requests go on, which
// is as if they had all been waiting when it continued.
func (n *nemesis) pause(name string) {
	for _, o := range n.c.others(name) {
		n.c.net.Hold(name, o)
		n.c.net.Hold(o, name)
	}
	n.sleep(6000)
	for _, o := range n.c.others(name) {
		n.c.net.Release(o, name)
		n.c.net.Release(name, o)
	}
}

func (n *nemesis) crash(names ...string) {
	for _, name := range names {
		if n.c.hosts[name] != nil {
			n.c.crash(name)
		}
	}
	if n.rnd.IntN(2) == 0 { // at once, into the same faults
		for _, name := range names {
			n.c.start(name)
		}
	}
}

// slowDisk makes a replica's log writes take up to 30 ms.
func (n *nemesis) slowDisk(h *Host) {
	rnd := rand.New(rand.NewPCG(n.rnd.Uint64(), 1))
	h.Group(testShard).store.(*memoryStore).onStore(func([]*raft.Log) error { // on one goroutine
		time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
		return nil
	})
}
