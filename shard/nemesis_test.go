package shard

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestNemesis ensures that under random faults every answer is linearizable, what was refused was not
// done, what was acknowledged is there at the end, all replicas agree then, and nothing keeps running
// after Close. It plays scenarios (see scenario), as many at a time as there are processors: LARDER_SEEDS of them,
// or until LARDER_TIME is over; from the seed LARDER_SEED on, 1 if it is not set. LARDER_KIND=lean or rich plays
// one kind alone, LARDER_TRACE=1 shows the nodes' logs of a failure. A failing seed does not replay exactly, since
// neither goroutines nor the library's timeouts are seeded.
func TestNemesis(t *testing.T) {
	first, seeds := uint64(1), uint64(96)
	if testing.Short() {
		seeds = 32
	}
	if n, err := strconv.ParseUint(os.Getenv("LARDER_SEED"), 10, 64); err == nil {
		first, seeds = n, 1
	}
	if n, err := strconv.ParseUint(os.Getenv("LARDER_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // much garbage, and little else
	limit, err := time.ParseDuration(os.Getenv("LARDER_TIME"))
	timed := err == nil
	var (
		wg    sync.WaitGroup
		next  atomic.Uint64
		mu    sync.Mutex // guards total
		total scenarioSums
	)
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !t.Failed() {
				n := next.Add(1) - 1
				if timed && time.Since(began) > limit || !timed && n >= seeds {
					return
				}
				seed := first + n
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					s := newScenario(seed, os.Getenv("LARDER_KIND"))
					defer func() { // synctest.Test does not return from what failed
						if t.Failed() {
							t.Logf("again: LARDER_SEED=%d LARDER_KIND=%s go test ./shard -run '^TestNemesis$' -count 20", seed, s.kind())
						}
					}()
					stuck := time.AfterFunc(patience, func() {
						panic(fmt.Sprintf("seed %d (%s) does not end: virtual time stands still while anything works without a pause", seed, s.kind()))
					})
					defer stuck.Stop()
					var sums scenarioSums
					synctest.Test(t, func(t *testing.T) { sums = s.run(t) })
					mu.Lock()
					defer mu.Unlock()
					total.add(sums)
					if timed && total.scenarios%1000 == 0 { // a panic does not tell its seed
						fmt.Printf("%d scenarios in %v, now at seed %d\n", total.scenarios, time.Since(began).Round(time.Second), first+next.Load())
					}
				})
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	report := fmt.Sprintf("%s\n%.0f scenarios a minute, %v in all", &total, float64(total.scenarios)/took.Minutes(), took.Round(time.Millisecond))
	if timed {
		fmt.Println(report) // also where go test shows no logs
	} else {
		t.Log(report)
	}
	if n := total.scenarios; n >= 32 && !t.Failed() && (total.unknown < n || total.terms < 3*n || total.failedConditions < n || total.checks < 3*n ||
		total.touches < n || total.reads[ReadFollower] < 5*n || total.reads[ReadLease] < n || total.reads[ReadLocal] < n) {
		t.Errorf("too little happened to prove anything: %s", &total)
	}
	if n := total.scenarios; n >= 96 && !t.Failed() && (len(total.effects) < faultClasses || total.evictions < n || total.expirations == 0 ||
		total.replayed == 0 || total.reads[ReadLog] == 0 || total.lost == 0) {
		t.Errorf("something never happened: %s", &total)
	}
}

// patience is how long a scenario may take, in real time: a thousand times as long as most do.
const patience = time.Minute

// faultClasses is how many classes of faults there are.
const faultClasses = 17

// fault is one of the ways to break a cluster. begin starts it and returns what tells, later, whether it has taken
// effect; nil: it could not begin.
type fault struct {
	class string
	begin func() (took func() bool)
}

// nemesis breaks a cluster in random ways. Its goroutine is the test's.
type nemesis struct {
	c       *cluster
	s       scenario
	clocks  *testClocks
	bell    *bell // rings when something begins
	disks   *stuckDisks
	rnd     *rand.Rand
	faults  map[string]fault
	log     []string
	effects map[string]int    // rounds in which a class of faults took effect
	wrong   string            // the node whose clock is; never two at once (R2)
	leaving map[string]uint64 // nodes, with the configuration that their removal was planned from
}

func newNemesis(c *cluster, s scenario, clocks *testClocks, bell *bell, disks *stuckDisks) *nemesis {
	n := &nemesis{c: c, s: s, clocks: clocks, bell: bell, disks: disks, rnd: rand.New(rand.NewPCG(s.seed, 8)), effects: map[string]int{}, leaving: map[string]uint64{}}
	n.choose()
	return n
}

func (n *nemesis) effective() (sum int) {
	for _, k := range n.effects {
		sum += k
	}
	return sum
}

// choose takes a random half of the faults for this run: some need company, others quiet.
func (n *nemesis) choose() {
	always := func() bool { return true }
	all := map[string]fault{
		"isolate leader": {"partition", func() func() bool {
			n.isolateLeader()
			return n.more(func(d FaultCounts) int { return d.Cut })
		}},
		"isolate any": {"partition", func() func() bool {
			n.isolate(n.any())
			return n.more(func(d FaultCounts) int { return d.Cut })
		}},
		"split": {"partition", func() func() bool {
			names := n.shuffled()
			for _, a := range names[:len(names)/2] {
				for _, b := range names[len(names)/2:] {
					n.c.net.Isolate(a, b)
				}
			}
			return n.more(func(d FaultCounts) int { return d.Cut })
		}},
		"one way": {"one-way", func() func() bool {
			a := n.any()
			for _, b := range n.c.others(a) {
				if n.rnd.IntN(2) == 0 {
					n.c.net.SetFaults(a, b, LinkFaults{Cut: true})
				} else {
					n.c.net.SetFaults(b, a, LinkFaults{Cut: true})
				}
			}
			return n.more(func(d FaultCounts) int { return d.Cut })
		}},
		"pause leader": {"pause", func() func() bool { return n.pause(n.leader()) }},
		"pause any":    {"pause", func() func() bool { return n.pause(n.any()) }},
		"hold answers to leader": {"hold", func() func() bool {
			l := n.leader()
			for _, o := range n.c.others(l) {
				n.c.net.Hold(o, l)
			}
			return n.more(func(d FaultCounts) int { return d.Held })
		}},
		"delay": {"delay", func() func() bool {
			n.everywhere(LinkFaults{Delay: time.Duration(1+n.rnd.IntN(30)) * time.Millisecond})
			return n.more(func(d FaultCounts) int { return d.Late })
		}},
		"reorder": {"reorder", func() func() bool {
			n.everywhere(LinkFaults{Jitter: time.Duration(1+n.rnd.IntN(50)) * time.Millisecond})
			return n.more(func(d FaultCounts) int { return d.Overtaken })
		}},
		"loss": {"loss", func() func() bool {
			n.everywhere(LinkFaults{Loss: 0.1 * n.rnd.Float64()})
			return n.more(func(d FaultCounts) int { return d.Lost })
		}},
		"duplicate": {"duplicate", func() func() bool {
			n.everywhere(LinkFaults{Duplicate: 0.3, Jitter: 5 * time.Millisecond})
			return n.more(func(d FaultCounts) int { return d.Doubled })
		}},
		"reset": {"reset", func() func() bool {
			took := n.more(func(d FaultCounts) int { return d.Broken })
			names := n.shuffled()
			n.c.net.BreakLinks(names[0], names[1])
			return took
		}},
		"crash leader":   {"crash", func() func() bool { return n.crash(n.leader()) }},
		"crash any":      {"crash", func() func() bool { return n.crash(n.any()) }},
		"crash majority": {"crash", func() func() bool { return n.crash(n.shuffled()[:len(n.c.names)/2+1]...) }},
		"crash all":      {"crash", func() func() bool { return n.crash(n.shuffled()...) }},
		"transfer": {"transfer", func() func() bool {
			l := n.leader()
			if n.c.hosts[l] == nil {
				return nil
			}
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			if err := n.c.hosts[l].Group(testShard).TransferLeadership(ctx, n.other(l)); err != nil { // as well it may under the other faults
				return nil
			}
			return always
		}},
		"stall leader": {"stall", func() func() bool {
			l := n.leader()
			if n.rnd.IntN(2) == 0 {
				n.isolateLeader()
			}
			return n.stall(l, upTo(n.s.heartbeat, 4*n.s.heartbeat)(n.rnd))
		}},
		"slow disks": {"slow-disk", func() func() bool {
			var slowed atomic.Int64
			for _, h := range n.c.hosts {
				n.slowDisk(h, &slowed)
			}
			return func() bool { return slowed.Load() > 0 }
		}},
	}
	if n.s.leases {
		all["usurp"] = fault{"usurp", n.usurp}
	}
	if n.s.ahead {
		all["stuck sync"] = fault{"stuck-sync", n.stuckSync}
	}
	if n.s.members {
		all["members"] = fault{"members", n.changeMembers}
	}
	if n.s.clocks {
		all["clock"] = fault{"clock", n.spoilClock}
	}
	n.faults = map[string]fault{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if n.rnd.IntN(2) == 0 || all[name].class == "members" || all[name].class == "clock" {
			n.faults[name] = all[name]
		}
	}
	n.faults["isolate leader"] = all["isolate leader"] // never none
}

// more returns whether the network did more of something since.
func (n *nemesis) more(of func(FaultCounts) int) func() bool {
	before := of(n.c.net.Did())
	return func() bool { return of(n.c.net.Did()) > before }
}

// round begins one to three faults, lets them work, and mostly heals them.
func (n *nemesis) round() {
	names := slices.Sorted(maps.Keys(n.faults))
	took := map[string]bool{} // classes
	var judge []func()
	for range 1 + n.rnd.IntN(3) {
		name := names[n.rnd.IntN(len(names))]
		n.note(name)
		n.bell.ring()
		f := n.faults[name]
		if effect := f.begin(); effect != nil {
			judge = append(judge, func() { took[f.class] = took[f.class] || effect() })
		}
		n.sleep(300)
	}
	n.watch(n.s.active(n.rnd))
	for _, j := range judge {
		j()
	}
	for class, yes := range took {
		if yes {
			n.effects[class]++
		}
	}
	for _, name := range n.c.names {
		if n.c.hosts[name] == nil {
			n.c.start(name)
		}
	}
	if n.rnd.IntN(4) > 0 {
		n.heal()
		n.watch(n.s.quiet(n.rnd))
	}
}

// watch lets time pass, and rings whenever another node leads: then old and new leaders can contradict each other.
func (n *nemesis) watch(d time.Duration) {
	ready := func() (nodes string) {
		for _, name := range n.c.names {
			if h := n.c.hosts[name]; h != nil {
				if i := h.Group(testShard).instance(); i != nil && i.ready.Load() != 0 {
					nodes += name
				}
			}
		}
		return nodes
	}
	last := ready()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if now := ready(); now != last {
			last = now
			n.bell.ring()
		}
	}
}

func (n *nemesis) note(what string) {
	n.log = append(n.log, time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).String()+" "+what)
}

func (n *nemesis) sleep(millis int) { time.Sleep(time.Duration(n.rnd.IntN(millis)) * time.Millisecond) }

func (n *nemesis) heal() {
	n.note("heal")
	n.bell.ring()
	n.sleep(50)
	n.c.net.Heal()
	n.disks.heal()
	if n.wrong != "" {
		n.clocks.set(n.wrong, 0)
		n.wrong = ""
	}
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

// other is any node but one.
func (n *nemesis) other(but string) string {
	others := n.c.others(but)
	return others[n.rnd.IntN(len(others))]
}

// spoilClock makes a node's wall clock jump, or stand still.
func (n *nemesis) spoilClock() (took func() bool) {
	if n.wrong == "" {
		n.wrong = n.any()
	}
	node, before := n.wrong, n.clocks.read(n.wrong)
	switch jump := upTo(time.Second, time.Hour)(n.rnd); n.rnd.IntN(5) {
	case 0, 1:
		n.clocks.set(node, jump)
	case 2, 3:
		n.clocks.set(node, -jump)
	default:
		n.clocks.stop(node)
	}
	return func() bool { return n.clocks.read(node) > before }
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

// isolateLeader leaves it nobody, or a learner alone, that must not count.
func (n *nemesis) isolateLeader() {
	l := n.leader()
	n.isolate(l)
	if h := n.c.hosts[l]; h != nil && n.rnd.IntN(4) > 0 {
		for _, learner := range h.Group(testShard).Status().Learners {
			n.isolate(learner)
			n.c.net.SetFaults(l, learner, LinkFaults{})
			n.c.net.SetFaults(learner, l, LinkFaults{})
		}
	}
}

func (n *nemesis) everywhere(f LinkFaults) {
	for _, a := range n.c.names {
		for _, b := range n.c.others(a) {
			n.c.net.SetFaults(a, b, f)
		}
	}
}

// pause is what SIGSTOP of a process looks like to the others, and to its own library, which is stopped where it
// writes to the log. Its own clients' requests go on, which is as if they had all been waiting when it continued.
func (n *nemesis) pause(name string) (took func() bool) {
	took = n.more(func(d FaultCounts) int { return d.Held })
	d := upTo(0, 6*time.Second)(n.rnd)
	n.stall(name, d)
	for _, o := range n.c.others(name) {
		n.c.net.Hold(o, name)
	}
	time.Sleep(upTo(0, n.s.heartbeat)(n.rnd)) // what others answer meanwhile waits in its sockets until it continues
	for _, o := range n.c.others(name) {
		n.c.net.Hold(name, o)
	}
	n.watch(d)
	n.bell.ring()
	n.sleep(50)
	for _, o := range n.c.others(name) {
		n.c.net.Release(o, name)
		n.c.net.Release(name, o)
	}
	return took
}

// stall makes the next write of a node's log last until d has passed.
func (n *nemesis) stall(name string, d time.Duration) (took func() bool) {
	h := n.c.hosts[name]
	if h == nil {
		return nil
	}
	var stalled atomic.Bool
	end := time.Now().Add(d)
	h.Group(testShard).store.(*memoryStore).onStore(func([]*raft.Log) error {
		if left := time.Until(end); left > 0 {
			stalled.Store(true)
			time.Sleep(left)
		}
		return nil
	})
	return stalled.Load
}

func (n *nemesis) crash(names ...string) (took func() bool) {
	crashed := 0
	for _, name := range names {
		if n.c.hosts[name] != nil {
			n.c.crash(name)
			crashed++
		}
	}
	if n.rnd.IntN(2) == 0 { // at once, into the same faults
		for _, name := range names {
			n.c.start(name)
		}
	}
	return func() bool { return crashed > 0 }
}

// usurp cuts the leader off and makes another stand at once, sooner than any that misses it would, after the crash of a third
// or not.
func (n *nemesis) usurp() (took func() bool) {
	l := n.leader()
	names := slices.DeleteFunc(n.shuffled(), func(name string) bool { return name == l })
	n.isolate(l)
	if n.rnd.IntN(2) == 0 && n.c.hosts[names[1]] != nil {
		n.c.crash(names[1])
		n.c.start(names[1])
		n.sleep(int(promiseTime / time.Millisecond))
	}
	h := n.c.hosts[names[0]]
	if h == nil {
		return nil
	}
	term := h.Group(testShard).Status().Term
	stand(h)
	n.bell.ring()
	return func() bool { return h.Group(testShard).Status().Term > term }
}

// slowDisk makes a replica's log writes take up to 30 ms, and counts them.
func (n *nemesis) slowDisk(h *Host, slowed *atomic.Int64) {
	rnd := rand.New(rand.NewPCG(n.rnd.Uint64(), 1))
	h.Group(testShard).store.(*memoryStore).onStore(func([]*raft.Log) error { // on one goroutine
		slowed.Add(1)
		time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
		return nil
	})
}
