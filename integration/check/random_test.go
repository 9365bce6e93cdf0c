package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// store is a cache as naive as can be, that random histories come from.
type store struct {
	rng     *rand.Rand
	held    map[string]entry
	miss    map[string]string // why a key holds nothing
	now     time.Duration
	index   uint64
	version uint64
	evicted uint64
}

type entry struct {
	text    string
	version uint64
	ends    time.Duration // 0: never
}

// ended returns when what is given ttl now ends.
func (s *store) ended(ttl time.Duration) time.Duration {
	if ttl == 0 {
		return 0
	}
	return s.now + ttl
}

// remove takes a key away.
func (s *store) remove(key, why string) {
	delete(s.held, key)
	s.miss[key] = why
}

// apply performs o at this moment, which is its place in the order.
func (s *store) apply(o *history.Operation) {
	if e := s.held[o.Key]; e.ends != 0 && e.ends <= s.now {
		s.remove(o.Key, "expired")
		s.index++ // time goes on in the log: one place has one state
	}
	e, there := s.held[o.Key]
	place := func() {
		s.index++
		o.Place = history.Place{Shard: 1, Epoch: 1, Index: s.index}
	}
	set := func(text string) {
		s.version++
		ends := s.ended(o.TTL)
		if there && (o.Kind == history.Incr || o.Kind == history.Append) {
			ends = e.ends
		}
		s.held[o.Key] = entry{text, s.version, ends}
		o.Version = s.version
	}
	o.Outcome, o.Existed = history.OK, there
	switch o.Kind {
	case history.Get:
		o.Place = history.Place{Shard: 1, Epoch: 1, Index: s.index}
		o.Existed, o.Found, o.Read, o.Version, o.Timed = false, there, e.text, e.version, e.ends != 0
		if !there {
			o.Miss = s.miss[o.Key]
		}
		return
	case history.Put, history.Swap:
		if o.Found = o.Kind == history.Swap && there; o.Found {
			o.Read = e.text
		}
		set(o.Value)
	case history.Create:
		if o.Existed = false; there {
			o.Conflict, o.Version = true, e.version
		} else {
			set(o.Value)
		}
	case history.Replace, history.DeleteIf:
		switch {
		case !there || e.version != o.IfMatch:
			o.Conflict, o.Version = true, e.version
		case o.Kind == history.Replace:
			set(o.Value)
		default:
			s.version++
			o.Version = s.version
			s.remove(o.Key, "deleted")
		}
	case history.Delete:
		if there {
			s.version++
			o.Version = s.version
			s.remove(o.Key, "deleted")
		}
	case history.Incr:
		n, _ := strconv.ParseInt(e.text, 10, 64)
		o.Number = n + o.Delta
		set(strconv.FormatInt(o.Number, 10))
	case history.Append:
		set(e.text + o.Value)
		o.Found, o.Read = true, e.text+o.Value
	case history.Expire, history.Touch:
		if o.Version = 0; there {
			o.Version = e.version
		}
		if there && o.Kind == history.Expire {
			e.ends = s.ended(o.TTL)
			s.held[o.Key] = e
		}
	}
	place()
}

var mixes = map[string][]history.Kind{
	"r": {history.Get, history.Get, history.Get, history.Put, history.Put, history.Create, history.Replace, history.Swap, history.Delete, history.DeleteIf, history.Touch},
	"c": {history.Get, history.Incr, history.Incr},
	"s": {history.Get, history.Append, history.Append},
	"t": {history.Get, history.Get, history.Get, history.Put, history.Put, history.Create, history.Swap, history.Expire, history.Touch, history.Delete},
}

// generate makes a history of n operations by clients of which up to six do something at a time, a part of them with
// unknown outcomes. In tight mode entries vanish.
func generate(seed uint64, mode history.Mode, n int) *history.Run {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &store{rng: rng, held: map[string]entry{}, miss: map[string]string{}, index: 1}
	r := &history.Run{Meta: history.Meta{Mode: mode}}
	type client struct {
		process int
		free    time.Duration
		seen    map[string]uint64
	}
	var clients []*client
	processes := 0
	for range 6 {
		processes++
		clients = append(clients, &client{process: processes, seen: map[string]uint64{}})
	}
	now := time.Duration(0)
	generation, unknowns := 0, 0
	kinds := []string{"r", "r", "c", "s", "t"}
	for i := range n {
		now += time.Duration(1 + rng.IntN(30_000_000))
		if i%120 == 119 || unknowns > 3 {
			generation, unknowns = generation+1, 0
		}
		c := clients[rng.IntN(len(clients))]
		flavor := rng.IntN(len(kinds))
		o := history.Operation{Process: c.process, Key: fmt.Sprintf("%s%d-%d", kinds[flavor], flavor, generation), Delta: int64(rng.IntN(9)) - 2}
		mix := mixes[kinds[flavor]]
		if o.Kind = mix[rng.IntN(len(mix))]; o.Kind != history.Incr {
			o.Delta = 0
		}
		if o.IfMatch = c.seen[o.Key]; o.Kind != history.Replace && o.Kind != history.DeleteIf {
			o.IfMatch = 0
		} else if o.IfMatch == 0 {
			o.Kind = history.Get
		}
		if o.Kind.Stores() {
			o.Value = fmt.Sprintf("%d;", i)
		}
		o.Invoke = max(c.free+1, now-time.Duration(rng.IntN(100_000_000)))
		if now <= o.Invoke {
			now = o.Invoke + 1
		}
		if s.now = now; kinds[flavor] == "t" && (o.Kind.Stores() || o.Kind == history.Expire) && rng.IntN(4) > 0 {
			o.TTL = time.Duration(500+rng.IntN(6000)) * time.Millisecond
		}
		if mode == history.Tight && rng.IntN(8) == 0 {
			if _, there := s.held[o.Key]; there {
				s.remove(o.Key, "evicted")
				s.index++ // by a write to another key
				s.evicted++
			}
		}
		if o.Kind.Write() && rng.IntN(25) == 0 {
			unknowns++
			if rng.IntN(2) == 0 {
				applied := o
				s.apply(&applied)
			}
			o.Outcome, o.Return = history.Unknown, now+time.Duration(rng.IntN(100_000_000))
			processes++
			*c = client{process: processes, free: o.Return, seen: map[string]uint64{}}
		} else {
			s.apply(&o)
			o.Return = now + 1 + time.Duration(rng.IntN(100_000_000))
			c.free = o.Return
			if c.seen[o.Key] = o.Version; !o.Kind.Changes() && !o.Kind.Read() {
				delete(c.seen, o.Key)
			}
		}
		r.Ops = append(r.Ops, o)
	}
	keys := map[string]bool{}
	for i := range r.Ops {
		keys[r.Ops[i].Key] = true
	}
	now += 10 * time.Second
	for _, key := range sortedKeys(keys) {
		processes++
		o := history.Operation{Process: processes, Key: key, Kind: history.Get, Invoke: now, Return: now + 1000}
		s.now = now
		s.apply(&o)
		now += 2000
		r.Ops, r.Final = append(r.Ops, o), append(r.Final, o)
	}
	r.Ends = []history.Sample{{Node: "a", Shard: 1, Applied: s.index, Checksum: "x", Evicted: s.evicted}, {Node: "b", Shard: 1, Applied: s.index, Checksum: "x", Evicted: s.evicted}}
	return r
}

// TestRandomHistories ensures that no check complains of what a store answered that is right, in either mode.
func TestRandomHistories(t *testing.T) {
	for _, mode := range []history.Mode{history.Strict, history.Tight} {
		for seed := range uint64(25) {
			r := generate(seed, mode, 1000)
			if v := Run(r, Options{KeyLimit: limit}); v.Verdict() != Valid {
				t.Fatalf("%s, seed %d: %s: %+v\n%v", mode, seed, v.Verdict(), v.Checks, v.Err())
			}
		}
	}
}

// mutations each make one answer of a history wrong, if they can.
var mutations = map[string]func(rng *rand.Rand, r *history.Run, o *history.Operation) bool{
	"a read shows an older value": func(rng *rand.Rand, r *history.Run, o *history.Operation) bool {
		if o.Kind != history.Get || !o.Found {
			return false
		}
		for i := range r.Ops {
			if w := &r.Ops[i]; w.Key == o.Key && w.Outcome == history.OK && !w.Conflict && w.Kind.Stores() && w.Kind != history.Append && w.Version < o.Version && w.Return < o.Invoke {
				o.Read, o.Version = w.Value, w.Version
				return true
			}
		}
		return false
	},
	"a read shows nothing": func(_ *rand.Rand, r *history.Run, o *history.Operation) bool {
		if o.Kind != history.Get || !o.Found || r.Meta.Mode == history.Tight {
			return false
		}
		o.Found, o.Read, o.Version = false, "", 0
		return true
	},
	"a read shows what was never stored": func(_ *rand.Rand, _ *history.Run, o *history.Operation) bool {
		if o.Kind != history.Get || !o.Found {
			return false
		}
		o.Read = "7777777;"
		return true
	},
	"a version is another": func(rng *rand.Rand, _ *history.Run, o *history.Operation) bool {
		if o.Version == 0 || o.Outcome != history.OK {
			return false
		}
		o.Version -= min(o.Version-1, 1+uint64(rng.IntN(3)))
		return true
	},
	"an increment is counted twice": func(_ *rand.Rand, _ *history.Run, o *history.Operation) bool {
		if o.Kind != history.Incr || o.Outcome != history.OK || o.Delta == 0 {
			return false
		}
		o.Number += o.Delta
		return true
	},
	"an acknowledged write is refused": func(_ *rand.Rand, r *history.Run, o *history.Operation) bool {
		if !o.Kind.Changes() || o.Outcome != history.OK || o.Conflict || r.Meta.Mode == history.Tight {
			return false
		}
		// Only what somebody was shown can be told from what did not happen.
		if !slices.ContainsFunc(r.Ops, func(p history.Operation) bool { return p.Kind == history.Get && p.Found && p.Version == o.Version }) {
			return false
		}
		o.Outcome = history.Refused
		return true
	},
	"a condition holds that does not": func(_ *rand.Rand, _ *history.Run, o *history.Operation) bool {
		if !o.Conflict || o.Kind != history.Replace {
			return false
		}
		o.Conflict, o.Existed = false, true
		return true
	},
	"two places are one": func(rng *rand.Rand, r *history.Run, o *history.Operation) bool {
		i := rng.IntN(len(r.Ops))
		p := &r.Ops[i]
		if o.Outcome != history.OK || p.Outcome != history.OK || !o.Kind.Write() || !p.Kind.Write() || p.Place == o.Place {
			return false
		}
		o.Place = p.Place
		return true
	},
	"a value without end is gone": func(_ *rand.Rand, r *history.Run, o *history.Operation) bool {
		if o.Kind != history.Get || !o.Found || o.Timed || o.Key[0] != 't' || r.Meta.Mode == history.Tight {
			return false
		}
		o.Found, o.Read, o.Version = false, "", 0
		return true
	},
	"a value is gone long before its time": func(_ *rand.Rand, r *history.Run, o *history.Operation) bool {
		w := writer(r, o)
		if w == nil || w.TTL < 4*time.Second || o.Invoke > w.Invoke+time.Second || r.Meta.Mode == history.Tight {
			return false
		}
		o.Found, o.Read, o.Version, o.Timed = false, "", 0, false
		return true
	},
	"a value is shown long after its time": func(rng *rand.Rand, r *history.Run, _ *history.Operation) bool {
		// What ended between the last request and the reads at the end.
		i := rng.IntN(len(r.Final))
		o := &r.Final[i]
		if o.Found || o.Miss != "expired" {
			return false
		}
		var last *history.Operation
		for j := range r.Ops {
			if w := &r.Ops[j]; w.Key == o.Key && w.Outcome == history.OK && w.Kind.Changes() && !w.Conflict && (last == nil || w.Version > last.Version) {
				last = w
			}
		}
		if last == nil || last.TTL == 0 || slices.ContainsFunc(r.Ops, func(p history.Operation) bool {
			return p.Key == o.Key && (p.Kind == history.Expire || p.Kind == history.Get && !p.Found && p.Return > last.Invoke && p.Invoke < o.Invoke)
		}) {
			return false
		}
		o.Found, o.Read, o.Version, o.Timed, o.Miss = true, last.Value, last.Version, true, ""
		r.Ops[len(r.Ops)-len(r.Final)+i] = *o
		return true
	},
	"a value without end has a time to live": func(_ *rand.Rand, r *history.Run, o *history.Operation) bool {
		if o.Kind != history.Get || !o.Found || o.Timed || o.Key[0] != 'r' {
			return false
		}
		o.Timed = true
		return true
	},
	"a miss has another reason": func(_ *rand.Rand, r *history.Run, o *history.Operation) bool {
		if o.Kind != history.Get || o.Found || o.Key[0] == 't' {
			return false
		}
		o.Miss = "expired"
		return true
	},
	"replicas differ": func(_ *rand.Rand, r *history.Run, _ *history.Operation) bool {
		r.Ends[1].Checksum = "y"
		return true
	},
}

// writer is the acknowledged write whose value o shows, nil where there is none.
func writer(r *history.Run, o *history.Operation) *history.Operation {
	if o.Kind != history.Get || !o.Found {
		return nil
	}
	for i := range r.Ops {
		if w := &r.Ops[i]; w.Kind.Stores() && w.Value == o.Read && w.Outcome == history.OK && !w.Conflict {
			return w
		}
	}
	return nil
}

// TestMutations ensures that one wrong answer in a thousand is found, for each way to be wrong, in either mode.
func TestMutations(t *testing.T) {
	const tries = 25
	for name, mutate := range mutations {
		for _, mode := range []history.Mode{history.Strict, history.Tight} {
			made, found := 0, 0
			for seed := range uint64(tries) {
				r := generate(seed, mode, 600)
				rng := rand.New(rand.NewPCG(seed, 2))
				did := false
				for range 2000 {
					if did = mutate(rng, r, &r.Ops[rng.IntN(len(r.Ops)-len(r.Final))]); did {
						break
					}
				}
				if !did {
					continue
				}
				made++
				if Run(r, Options{KeyLimit: limit}).Verdict() == Invalid {
					found++
				}
			}
			t.Logf("%s, %s: %d of %d found", name, mode, found, made)
			if made == 0 && mode == history.Strict {
				t.Errorf("%s was never made", name)
			}
			if found*10 < made*9 { // an operation of unknown outcome can explain a few
				t.Errorf("%s, %s: %d of %d found", name, mode, found, made)
			}
		}
	}
}

// TestLargeHistory ensures that a history of a soak is checked in a time that one waits for.
func TestLargeHistory(t *testing.T) {
	if testing.Short() {
		t.Skip("large")
	}
	const n = 200_000
	r := generate(1, history.Tight, n)
	v := Run(r, Options{KeyLimit: limit})
	t.Logf("%v: %.0f a second", v, float64(v.Operations)/v.Took.Seconds())
	if v.Verdict() != Valid {
		t.Errorf("%s: %+v", v.Verdict(), v.Checks)
	}
}
