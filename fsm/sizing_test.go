package fsm

import (
	"bufio"
	"compress/gzip"
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"testing"
)

// exactLRU is a plain LRU of bounded bytes, which may be observed.
type exactLRU struct {
	limit, bytes uint64
	order        *list.List // newest in front
	entries      map[Touch]*list.Element
	sizing       *Sizing // nil: not observed
	now          uint64
	hits         int
}

type exactEntry struct {
	key      Touch
	cost     uint64
	expireAt uint64
}

func newExactLRU(limit uint64) *exactLRU {
	return &exactLRU{limit: limit, order: list.New(), entries: map[Touch]*list.Element{}}
}

// read uses key, or stores it where it is not there, and reports whether it was.
func (l *exactLRU) read(key Touch, cost, expireAt uint64) bool {
	if e := l.entries[key]; e != nil {
		if entry := e.Value.(exactEntry); entry.expireAt == 0 || entry.expireAt > l.now {
			l.order.MoveToFront(e)
			l.hits++
			return true
		}
		l.remove(e, ReasonExpired)
	}
	l.store(key, cost, expireAt)
	return false
}

func (l *exactLRU) store(key Touch, cost, expireAt uint64) {
	if e := l.entries[key]; e != nil {
		l.bytes -= e.Value.(exactEntry).cost
		l.order.Remove(e)
	}
	l.entries[key] = l.order.PushFront(exactEntry{key, cost, expireAt})
	if l.sizing != nil {
		l.sizing.Stored(key)
	}
	for l.bytes += cost; l.bytes > l.limit; {
		why := ReasonEvicted
		if at := l.order.Back().Value.(exactEntry).expireAt; at != 0 && at <= l.now {
			why = ReasonExpired
		}
		l.remove(l.order.Back(), why)
	}
	l.fit()
}

func (l *exactLRU) delete(key Touch) {
	if e := l.entries[key]; e != nil {
		l.remove(e, ReasonDeleted)
	} else if l.sizing != nil {
		l.sizing.Removed(key, 0, ReasonDeleted, 0)
	}
	l.fit()
}

func (l *exactLRU) remove(e *list.Element, why Reason) {
	entry := l.order.Remove(e).(exactEntry)
	l.bytes -= entry.cost
	delete(l.entries, entry.key)
	if l.sizing != nil {
		l.sizing.Removed(entry.key, entry.cost, why, entry.expireAt)
	}
}

func (l *exactLRU) fit() {
	if l.sizing != nil {
		l.sizing.Fit(l.limit, l.bytes)
	}
}

// sizingRun replays accesses on an observed machine and on exact ones of all sizes.
type sizingRun struct {
	observed *exactLRU
	larger   [Extras]*exactLRU
	reads    int
	missed   uint64 // estimate of the observed one's misses
	gained   [Extras]uint64
}

func newSizingRun(limit uint64) *sizingRun {
	r := &sizingRun{observed: newExactLRU(limit)}
	r.observed.sizing = new(Sizing)
	r.observed.fit()
	for i, quarters := range extraQuarters {
		r.larger[i] = newExactLRU(limit + limit/4*quarters)
	}
	return r
}

func (r *sizingRun) read(key Touch, cost, expireAt uint64) {
	r.reads++
	for _, l := range r.larger {
		l.read(key, cost, expireAt)
	}
	size, weight := r.observed.sizing.Look(key, r.observed.now) // before the read stores it
	if r.observed.read(key, cost, expireAt) {
		return
	}
	r.missed += weight
	for i := size; i < Extras; i++ {
		r.gained[i] += weight
	}
}

func (r *sizingRun) tick(now uint64) {
	r.observed.now = now
	for _, l := range r.larger {
		l.now = now
	}
}

func (r *sizingRun) delete(key Touch) {
	r.observed.delete(key)
	for _, l := range r.larger {
		l.delete(key)
	}
}

// worst returns the largest error of an estimate, in points of hit ratio, and logs all of them.
func (r *sizingRun) worst(t *testing.T, name string) float64 {
	t.Helper()
	part := func(n int) float64 { return 100 * float64(n) / float64(r.reads) }
	line := fmt.Sprintf("%-22s 1x %5.1f (from the sample %5.1f)", name, part(r.observed.hits), 100-part(int(r.missed)))
	worst := 0.0
	for i, l := range r.larger {
		estimate, exact := part(r.observed.hits+int(r.gained[i])), part(l.hits)
		worst = max(worst, math.Abs(estimate-exact))
		line += fmt.Sprintf("  +%d%% %5.2f exact %5.2f", 25*extraQuarters[i], estimate, exact)
	}
	t.Logf("%s  1 in %d, %d sampled", line, 1<<r.observed.sizing.shift, r.observed.sizing.Samples())
	return worst
}

// costOf gives each key a cost of its own, from small to 20 times as much.
func costOf(key Touch) uint64 { return Overhead + key.mix()>>40%4000 }

// TestSizingExact ensures that with all keys in the sample the gains are exactly those of larger machines,
// whatever is deleted and differs in size; nearly so where entries expire: here an expired one takes room
// until it is met or evicted, which happens at another moment in a larger machine.
func TestSizingExact(t *testing.T) {
	for seed := range uint64(10) {
		expiring := seed%2 == 1
		random := rand.New(rand.NewPCG(seed, 1))
		zipf := rand.NewZipf(random, 1.1, 10, 1500)
		r := newSizingRun(200_000)
		for i := range 20_000 {
			r.tick(uint64(i))
			key := ghostKey(int(zipf.Uint64()))
			switch random.IntN(20) {
			case 0:
				r.delete(key)
			case 1:
				if expiring {
					r.read(key, costOf(key), r.observed.now+1+random.Uint64N(5000))
				}
			default:
				r.read(key, costOf(key), 0)
			}
			if i%20 == 0 {
				checkSizing(t, r.observed)
			}
		}
		if r.observed.sizing.shift != 0 {
			t.Fatal("not all keys are in the sample")
		}
		if r.gained[0] == 0 || r.gained[1] <= r.gained[0] || r.gained[2] <= r.gained[1] {
			t.Errorf("gains %v: nothing tested", r.gained)
		}
		tolerated := 0.0
		if expiring {
			tolerated = .001 * float64(r.reads)
		}
		for i, l := range r.larger {
			if diff := math.Abs(float64(r.observed.hits + int(r.gained[i]) - l.hits)); diff > tolerated {
				t.Errorf("seed %d, size %d: %d hits and %d gained, exact %d", seed, i, r.observed.hits, r.gained[i], l.hits)
			}
		}
	}
}

// checkSizing ensures that the sample fits its sizes.
func checkSizing(t *testing.T, l *exactLRU) {
	t.Helper()
	s := l.sizing
	sum, n := uint64(0), 0
	for i := range s.layer {
		bytes := uint64(0)
		if len(s.nodes) > 0 {
			for at := s.nodes[head(i)].next; at != head(i); at = s.nodes[at].next {
				bytes += s.nodes[at].cost
				n++
			}
		}
		sum += s.layer[i]
		if bytes != s.layer[i] || sum > s.room(i) {
			t.Fatalf("layer %d counts %d bytes, has %d; up to it %d of %d", i, s.layer[i], bytes, sum, s.room(i))
		}
	}
	if n != len(s.index) || n > s.bound() {
		t.Fatalf("%d entries, index of %d, bound %d", n, len(s.index), s.bound())
	}
}

// zipf returns accesses to keys from the first on, the n-th of which is asked for in proportion to n^-skew.
// (The library's own wants a skew above 1.)
func zipf(random *rand.Rand, first, keys, accesses int, skew float64) []Touch {
	cumulative := make([]float64, keys)
	sum := 0.0
	for i := range cumulative {
		sum += math.Pow(float64(i+1), -skew)
		cumulative[i] = sum
	}
	trace := make([]Touch, accesses)
	for i := range trace {
		trace[i] = ghostKey(first + sort.SearchFloat64s(cumulative, random.Float64()*sum))
	}
	return trace
}

// TestSizingZipf ensures that gains by a sample are those of exact larger machines within a point.
func TestSizingZipf(t *testing.T) {
	const keys = 100_000
	for _, skew := range []float64{0.7, 0.99} {
		trace := zipf(rand.New(rand.NewPCG(1, 2)), 0, keys, 200_000, skew)
		for _, part := range []uint64{100, 3} {
			r := newSizingRun(keys / part * (Overhead + 2000))
			for _, key := range trace {
				r.read(key, costOf(key), 0)
			}
			name := fmt.Sprintf("zipf %.2f, 1/%d", skew, part)
			if worst := r.worst(t, name); worst > 1 {
				t.Errorf("%s: %.2f points off", name, worst)
			}
			checkSizing(t, r.observed)
		}
	}
}

// TestSizingFollows ensures that the rate of the sample falls as entries become many, and rises again as
// they become few, and that the gains are right afterwards.
func TestSizingFollows(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const limit = 8 << 20
	r := newSizingRun(limit)
	for _, key := range zipf(random, 0, 200_000, 400_000, 0.8) {
		r.read(key, Overhead, 0)
	}
	small := r.observed.sizing.shift
	if small < 4 {
		t.Errorf("%d entries, 1 in %d is in the sample", len(r.observed.entries), 1<<small)
	}
	for _, key := range zipf(random, 1_000_000, 2_000, 100_000, 0.8) {
		r.read(key, 20_000, 0)
	}
	if s := r.observed.sizing; s.shift >= small || s.Samples() < s.bound()/16 {
		t.Errorf("%d entries, 1 in %d is in the sample, %d of them", len(r.observed.entries), 1<<s.shift, s.Samples())
	}
	checkSizing(t, r.observed)
	for i := range r.larger {
		r.gained[i], r.larger[i].hits = 0, 0
	}
	r.reads, r.missed, r.observed.hits = 0, 0, 0
	for _, key := range zipf(random, 1_000_000, 2_000, 100_000, 0.8) {
		r.read(key, 20_000, 0)
	}
	if worst := r.worst(t, "after it changed"); worst > 2 {
		t.Errorf("%.2f points off", worst)
	}
}

// sizingObserver hands what a machine says on to a Sizing.
type sizingObserver struct{ sizing *Sizing }

func (o sizingObserver) Stored(key Touch, _ uint64) { o.sizing.Stored(key) }

func (o sizingObserver) Removed(key Touch, cost uint64, why Reason, _, expireAt uint64) {
	o.sizing.Removed(key, cost, why, expireAt)
}

// TestSizingMachine ensures that what a machine tells its observer gives the gains of larger machines, which
// are asked here themselves: exactly, and nearly so with times to live. There, a miss that is filled here is a
// hit in a larger machine, whose entry goes on to live by its older time.
func TestSizingMachine(t *testing.T) {
	for _, expiring := range []bool{false, true} {
		t.Run(fmt.Sprintf("expiring=%t", expiring), func(t *testing.T) { testSizingMachine(t, expiring) })
	}
}

func testSizingMachine(t *testing.T, expiring bool) {
	const limit, reads = 100_000, 6_000
	random := rand.New(rand.NewPCG(7, 8))
	machines := make([]*Machine, 1+Extras) // the observed one, then the larger ones
	index, now := uint64(0), uint64(1000)
	apply := func(m *Machine, commands ...Command) []Result {
		t.Helper()
		index++
		results, err := m.Apply(index, Batch{Level: 1, Stamp: now, Commands: commands})
		if err != nil {
			t.Fatal(err)
		}
		return results
	}
	for i := range machines {
		bytes := uint64(limit)
		if i > 0 {
			bytes += limit / 4 * extraQuarters[i-1]
		}
		machines[i] = New()
		apply(machines[i], Command{Kind: KindLevel, Level: 2})
		apply(machines[i], Command{Kind: KindGrant, Grant: Grant{Range: Range{End: Slots}, Epoch: 1, Generation: 1, VersionBits: 1, Limit: bytes, TableVersion: 1}})
	}
	hits := make([]int, len(machines))
	var gained [Extras]int
	var sizing Sizing
	sizing.Fit(limit, 0)
	machines[0].Observe(sizingObserver{&sizing})
	for range reads {
		now += random.Uint64N(20)
		key := fmt.Appendf(nil, "%d", int(math.Exp(random.Float64()*8)))
		value := make([]byte, unseeded(key)%500)
		ttl := uint64(0)
		if expiring && unseeded(key)%7 == 0 {
			ttl = 20_000
		}
		remove := random.IntN(50) == 0
		for i, m := range machines {
			apply(m) // so that what expired is gone
			switch l := m.Lookup(key); {
			case remove:
				if r := apply(m, Command{Kind: KindDelete, Key: key}); i == 0 && !r[0].Existed {
					sizing.Removed(unseeded(key), 0, ReasonDeleted, 0)
				}
			case l.Found:
				hits[i]++
				apply(m, Command{Kind: KindTouch, Key: key})
			default:
				if size, weight := sizing.Look(l.Touch, l.Clock); i == 0 && size < Extras && weight == 1 {
					gained[size]++
				}
				apply(m, Command{Kind: KindPut, Key: key, Value: value, TTL: ttl})
			}
			if i == 0 {
				sizing.Fit(limit, m.Stats().Bytes)
			}
		}
	}
	sum, tolerated := hits[0], 0
	if expiring {
		tolerated = reads / 500
	}
	for i, n := range gained {
		sum += n
		if diff := sum - hits[1+i]; n == 0 || diff < -tolerated || diff > tolerated {
			t.Errorf("size %d: %d hits and %d gained, a machine of this size has %d", i, hits[0], sum-hits[0], hits[1+i])
		}
	}
}

// TestSizingTraces ensures the same for traces of real accesses, one key per line, which the folder
// LARDER_TRACES holds.
func TestSizingTraces(t *testing.T) {
	paths, _ := filepath.Glob(filepath.Join(os.Getenv("LARDER_TRACES"), "*.txt.gz"))
	if os.Getenv("LARDER_TRACES") == "" || len(paths) == 0 {
		t.Skip("LARDER_TRACES names no folder with traces")
	}
	for _, path := range paths {
		trace := readTrace(t, path)
		cost := map[Touch]uint64{}
		total := uint64(0)
		for _, key := range trace {
			if cost[key] == 0 {
				cost[key] = costOf(key)
				total += cost[key]
			}
		}
		for _, part := range []uint64{100, 10, 3} {
			for _, forced := range []uint{0, 3} {
				if forced > 0 && len(trace) < 20_000 {
					continue // an eighth of its keys is too few to tell anything
				}
				r := newSizingRun(total / part)
				r.observed.sizing.shift = forced
				for _, key := range trace {
					r.read(key, cost[key], 0)
				}
				name := fmt.Sprintf("%s, 1/%d", filepath.Base(path), part)
				if worst := r.worst(t, name); worst > 2 {
					t.Errorf("%s: %.2f points off", name, worst)
				}
			}
		}
	}
}

func readTrace(t *testing.T, path string) (keys []Touch) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		if len(lines.Bytes()) > 0 {
			keys = append(keys, unseeded(lines.Bytes()))
		}
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return keys
}

// BenchmarkSizing shows what it costs to hear of entries in and out of the sample, and to look at a miss.
func BenchmarkSizing(b *testing.B) {
	const n = 1 << 20
	keys := make([]Touch, n)
	var s Sizing
	s.Fit(n*500, n*500)
	for i := range keys {
		keys[i] = ghostKey(i)
		s.Removed(keys[i], 500, ReasonEvicted, 0)
		s.Fit(n*500, n*500)
	}
	var in, out []Touch
	for _, key := range keys {
		if !s.sampled(key) {
			out = append(out, key)
		} else if s.index[key] != 0 {
			in = append(in, key)
		}
	}
	for _, bench := range []struct {
		name string
		keys []Touch
	}{{"sampled", in}, {"unsampled", out}} {
		b.Run("Look/"+bench.name, func(b *testing.B) {
			for i := range b.N {
				s.Look(bench.keys[i%len(bench.keys)], 0)
			}
		})
		b.Run("StoredRemoved/"+bench.name, func(b *testing.B) {
			for i := range b.N {
				key := bench.keys[i%len(bench.keys)]
				s.Stored(key)
				s.Removed(key, 500, ReasonEvicted, 0)
				s.Fit(n*500, n*500)
			}
		})
	}
}
