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
	index   uint64
	version uint64
	evicted uint64
}

type entry struct {
	text    string
	version uint64
}

// apply performs o at this moment, which is its place in the order.
func (s *store) apply(o *history.Operation) {
	e, there := s.held[o.Key]
	place := func() {
		s.index++
		o.Place = history.Place{Shard: 1, Epoch: 1, Index: s.index}
	}
	set := func(text string) {
		s.version++
		s.held[o.Key] = entry{text, s.version}
		o.Version = s.version
	}
	o.Outcome, o.Existed = history.OK, there
	switch o.Kind {
	case history.Get:
		o.Place = history.Place{Shard: 1, Epoch: 1, Index: s.index}
		o.Existed, o.Found, o.Read, o.Version = false, there, e.text, e.version
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
			delete(s.held, o.Key)
		}
	case history.Delete:
		if there {
			s.version++
			o.Version = s.version
			delete(s.held, o.Key)
		}
	case history.Incr:
		n, _ := strconv.ParseInt(e.text, 10, 64)
		o.Number = n + o.Delta
		set(strconv.FormatInt(o.Number, 10))
	case history.Append:
		set(e.text + o.Value)
		o.Found, o.Read = true, e.text+o.Value
	case history.Touch:
		if o.Version = 0; there {
			o.Version = e.version
		}
	}
	place()
}

var mixes = map[string][]history.Kind{
	"r": {history.Get, history.Get, history.Get, history.Put, history.Put, history.Create, history.Replace, history.Swap, history.Delete, history.DeleteIf, history.Touch},
	"c": {history.Get, history.Incr, history.Incr},
	"s": {history.Get, history.Append, history.Append},
}

// generate makes a history of n operations by clients of which up to six do something at a time, a part of them with
// unknown outcomes. In tight mode entries vanish.
func generate(seed uint64, mode history.Mode, n int) *history.Run {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &store{rng: rng, held: map[string]entry{}, index: 1}
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
	kinds := []string{"r", "r", "c", "s"}
	for i := range n {
		now += time.Duration(1 + rng.IntN(300_000))
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
		o.Invoke = max(c.free+1, now-time.Duration(rng.IntN(1_000_000)))
		if now <= o.Invoke {
			now = o.Invoke + 1
		}
		if mode == history.Tight && rng.IntN(8) == 0 {
			if _, there := s.held[o.Key]; there {
				delete(s.held, o.Key)
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
			o.Outcome, o.Return = history.Unknown, now+time.Duration(rng.IntN(1_000_000))
			processes++
			*c = client{process: processes, free: o.Return, seen: map[string]uint64{}}
		} else {
			s.apply(&o)
			o.Return = now + 1 + time.Duration(rng.IntN(1_000_000))
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
	now += time.Second
	for _, key := range sortedKeys(keys) {
		processes++
		o := history.Operation{Process: processes, Key: key, Kind: history.Get, Invoke: now, Return: now + 1000}
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
	"replicas differ": func(_ *rand.Rand, r *history.Run, _ *history.Operation) bool {
		r.Ends[1].Checksum = "y"
		return true
	},
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
