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
		trace := zipf(rand.New(rand.NewPCG(1, 2)), 0, keys, 300_000, skew)
		for _, part := range []uint64{100, 10, 3} {
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
			keys = append(keys, TouchOf(lines.Bytes()))
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
