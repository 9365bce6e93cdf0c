package shard

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// scenario is a cluster's life in virtual time, as far as its seed decides it: what the cluster is like, and who
// does what to it. There are two kinds. The lean one is short of everything but faults: many of them in a
// minute find more than few. The rich one has more nodes, more clients and thousands of operations.
type scenario struct {
	seed  uint64
	rich  bool
	nodes int

	heartbeat         time.Duration
	entries, trailing uint64        // a snapshot after so many, so many left behind it
	check             time.Duration // between two comparisons of the replicas

	tight   bool // memory is: entries are evicted
	mortal  bool // some have a time to live
	once    bool // some writes have an idempotency key, and are repeated while their outcome is unknown
	clocks  bool // one node's clock at a time may be wrong
	patient bool // the first leader doubts its leadership late, as if its process had been stopped
	batches bool // some operations come in batches
	ahead   bool // syncs of the log take time, and appends do not wait for them
	members bool // nodes join the group and leave it; there is one more
	leases  bool // leaders read by lease, clients often enough that there is one

	clients int
	hurried int                            // operations of a client in a row when something begins
	think   func(*rand.Rand) time.Duration // of a client, between two operations
	few     int                            // keys at a time
	owned   fsm.Range                      // by the shard: sums and snapshots cost in proportion

	active, quiet func(*rand.Rand) time.Duration // how long faults work, and how long there are none
}

// tightBytes is the limit of a shard that is tight, tightValue that of the values in it: nine or ten of them fit.
const (
	tightBytes = 16 << 10
	tightValue = 1800
)

// What a scenario must have had, or it proves nothing.
const (
	leastTime       = 30 * time.Second
	leastEffects    = 2
	leastOperations = 100
)

// upTo is a random time between two others.
func upTo(least, most time.Duration) func(*rand.Rand) time.Duration {
	return func(rnd *rand.Rand) time.Duration { return least + time.Duration(rnd.Int64N(int64(most-least))) }
}

// newScenario draws a scenario. kind is "lean" or "rich", or "" to let the seed decide.
func newScenario(seed uint64, kind string) scenario {
	rnd := rand.New(rand.NewPCG(seed, 7))
	s := scenario{seed: seed, rich: kind == "rich" || kind == "" && seed%32 == 0,
		entries: uint64(8 + rnd.IntN(60)), trailing: uint64(1 + rnd.IntN(8)), few: 2,
		tight: rnd.IntN(4) == 0, mortal: rnd.IntN(3) == 0, once: rnd.IntN(3) == 0, clocks: rnd.IntN(4) == 0, members: rnd.IntN(3) == 0, patient: rnd.IntN(3) == 0}
	s.leases = rand.New(rand.NewPCG(seed, 9)).IntN(2) == 0
	s.batches = rand.New(rand.NewPCG(seed, 10)).IntN(2) == 0
	s.ahead = rand.New(rand.NewPCG(seed, 11)).IntN(3) > 0
	if s.tight {
		s.few = 16
	}
	if s.members && rnd.IntN(2) == 0 { // it needs such a leader to see whom it believes
		s.patient = true
	}
	if s.rich {
		s.nodes = 3 + 2*rnd.IntN(2)
		s.heartbeat = upTo(200*time.Millisecond, time.Second)(rnd)
		s.check = 100 * time.Millisecond // no fault may pass for a difference of states
		s.clients, s.hurried, s.think = 4, 5, upTo(0, 40*time.Millisecond)
		s.owned = fsm.Range{Start: 0, End: 1024}
		s.active, s.quiet = upTo(0, 3*time.Second), upTo(0, 1500*time.Millisecond)
		return s
	}
	s.nodes = 3
	s.heartbeat = upTo(500*time.Millisecond, 2*time.Second)(rnd)
	s.check = 2 * time.Second
	s.clients, s.hurried, s.think = 3, 4, upTo(0, 2000*time.Millisecond)
	if s.leases {
		s.think = upTo(0, 2*leaseTime)
	}
	s.owned = fsm.Range{Start: 0, End: 256}
	s.active, s.quiet = upTo(0, 4*time.Second), upTo(500*time.Millisecond, 3*time.Second)
	return s
}

func (s scenario) kind() string {
	if s.rich {
		return "rich"
	}
	return "lean"
}

func (s *scenario) String() string {
	return fmt.Sprintf("%s, %d nodes, heartbeat %v, snapshot after %d entries, %d left; tight %t, times to live %t, idempotency keys %t, clocks %t, members %t, patient %t, leases %t, batches %t, ahead %t",
		s.kind(), s.nodes, s.heartbeat, s.entries, s.trailing, s.tight, s.mortal, s.once, s.clocks, s.members, s.patient, s.leases, s.batches, s.ahead)
}

// scenarioSums says how much scenarios prove.
type scenarioSums struct {
	scenarios, rich                                          int
	virtual                                                  time.Duration
	done, unknown, refused, failedConditions, terms, touches int
	evictions, expirations, replayed                         int
	checks                                                   int // comparisons in the last lives of the nodes
	lost                                                     int // entries that crashes took, as they were not synced
	reads                                                    map[ReadPath]int
	effects                                                  map[string]int // faults that took effect, by class
}

func (s *scenarioSums) add(o scenarioSums) {
	s.scenarios += o.scenarios
	s.rich += o.rich
	s.virtual += o.virtual
	s.done += o.done
	s.unknown += o.unknown
	s.refused += o.refused
	s.failedConditions += o.failedConditions
	s.terms += o.terms
	s.touches += o.touches
	s.checks += o.checks
	s.lost += o.lost
	s.evictions += o.evictions
	s.expirations += o.expirations
	s.replayed += o.replayed
	if s.reads == nil {
		s.reads, s.effects = map[ReadPath]int{}, map[string]int{}
	}
	for path, n := range o.reads {
		s.reads[path] += n
	}
	for class, n := range o.effects {
		s.effects[class] += n
	}
}

// effective is how many faults took effect.
func (s *scenarioSums) effective() (n int) {
	for _, k := range s.effects {
		n += k
	}
	return n
}

func (s *scenarioSums) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d scenarios (%d rich), %v of virtual time, %d terms\n", s.scenarios, s.rich, s.virtual.Round(time.Second), s.terms)
	fmt.Fprintf(&b, "%d operations checked: %d of unknown outcome beside them, %d refused, %d conditions failed, reads %v\n",
		s.done, s.unknown, s.refused, s.failedConditions, s.reads)
	fmt.Fprintf(&b, "%d touches, %d evictions, %d expirations, %d writes replayed, %d comparisons of replicas, %d entries lost in crashes\n",
		s.touches, s.evictions, s.expirations, s.replayed, s.checks, s.lost)
	fmt.Fprintf(&b, "%d faults took effect:", s.effective())
	for _, class := range slices.Sorted(maps.Keys(s.effects)) {
		fmt.Fprintf(&b, " %s %d", class, s.effects[class])
	}
	return b.String()
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

// syncTimes draws how long syncs take: seldom as long as the disk of a machine that has much to do.
func syncTimes(rnd *rand.Rand) func() time.Duration {
	var mu sync.Mutex // guards rnd
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if rnd.IntN(16) == 0 {
			return upTo(0, time.Second)(rnd)
		}
		return upTo(0, 20*time.Millisecond)(rnd)
	}
}

// run plays a scenario, in a bubble, and judges it.
func (s scenario) run(t *testing.T) scenarioSums {
	began := time.Now()
	trace := &traceBuffer{}
	clocks, bell := newTestClocks(), newBell()
	nodes := s.nodes
	if s.members {
		nodes++
	}
	c := newCluster(t, nodes, func(node string, c *Config) {
		clocks.tune(node, c)
		c.HeartbeatTimeout, c.ElectionTimeout, c.CommitTimeout = s.heartbeat, s.heartbeat, s.heartbeat/2
		if s.patient && node == "a" { // its lease outlives the others' patience, and they still hear its heartbeats
			c.HeartbeatTimeout, c.ElectionTimeout = 6*s.heartbeat, 6*s.heartbeat
		}
		c.Leases = s.leases
		c.SnapshotEntries, c.TrailingLogs, c.CheckInterval = s.entries, s.trailing, s.check
		if os.Getenv("LARDER_TRACE") != "" {
			c.Log = slog.New(slog.NewTextHandler(trace, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
	})
	c.net = NewMemoryNetwork(s.seed)
	c.voters, c.owned, c.look = s.nodes, s.owned, 5*time.Millisecond
	if s.tight {
		c.limit = tightBytes
	}
	disks := newStuckDisks()
	if s.ahead {
		for i, name := range c.names {
			c.memory[name].SyncIn(disks.syncs(name, syncTimes(rand.New(rand.NewPCG(s.seed, uint64(20+i))))))
		}
	}
	defer c.close()
	c.startAll()
	n := newNemesis(c, s, clocks, bell, disks)
	defer func() {
		if t.Failed() {
			t.Logf("%s\n%s\n%s", &s, strings.Join(n.log, "\n"), trace)
		}
	}()
	history, keys := newRecorder(), newKeyspace(s.owned, s.few)
	history.tight, history.clocks = s.tight, s.clocks

	if s.tight { // full from the start
		first := &client{c: c, s: s, t: t, history: history, rnd: rand.New(rand.NewPCG(s.seed, 99))}
		for _, key := range keys.names {
			first.do(c.leader(), c.leader().Node(), operation{kind: opPut, key: key}, time.Second)
		}
	}

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range s.clients {
		cl := &client{c: c, s: s, t: t, history: history, bell: bell, rnd: rand.New(rand.NewPCG(s.seed, uint64(100+i)))}
		wg.Go(func() { cl.run(stop, keys) })
	}
	if s.members { // a learner from the start
		n.changeMember(c.leader())
	}
	for time.Since(began) < leastTime || time.Since(began) < 4*leastTime && (n.effective() < leastEffects || history.answered() < leastOperations) {
		if !s.tight { // there, what is old must meet what is new
			keys.next()
		}
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
	sums := scenarioSums{scenarios: 1, virtual: time.Since(began), effects: n.effects, reads: map[ReadPath]int{}}
	if s.rich {
		sums.rich = 1
	}
	sums.lost = c.lost
	for name := range c.memory {
		if err := c.fatal(name); err != nil {
			t.Errorf("node %s ended itself: %v", name, err)
		}
	}
	members := n.settleMembers()
	found := c.compare()
	if o, _ := found.Outcome(); o != OutcomeEqual || found.Differ() != 0 {
		t.Errorf("at the end replicas differ: %s, %+v", o, found)
	}
	l := c.leader()
	last := &client{c: c, s: s, t: t, history: history}
	for _, key := range keys.names {
		for _, node := range members {
			last.do(c.hosts[node], node, operation{kind: opGet, key: key}, 2*time.Second)
		}
	}
	c.wantSameStateOn(members...)
	history.check(t)

	sums.done, sums.unknown, sums.refused = history.answered(), history.unknown, len(history.refused)
	sums.terms = int(l.Group(testShard).Status().Term)
	stats := c.stats(l)
	sums.evictions, sums.expirations = int(stats.Evictions), int(stats.Expirations)
	for _, h := range c.hosts { // those of their last lives
		sums.touches += int(touchStats(h).Replicated)
		sums.checks += int(h.Cache(testShard).Status().Checks)
	}
	for _, o := range slices.Concat(history.ops, history.aged) {
		if o.kind == opGet {
			sums.reads[o.resp.Read]++
		}
		if o.resp.Status == fsm.StatusCondition {
			sums.failedConditions++
		}
		if o.resp.Replayed {
			sums.replayed++
		}
	}
	if sums.virtual < leastTime || sums.effective() < leastEffects || sums.done < leastOperations {
		t.Errorf("too little happened to prove anything: %s", sums.String())
	}
	return sums
}
