package check

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// TestRunChecks ensures that each check which looks at more than operations finds what it is for, and says so as the verdict
// that it is.
func TestRunChecks(t *testing.T) {
	second := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	put := history.Operation{Process: 1, Kind: history.Put, Key: "k", Value: "v", TTL: 3 * time.Second, Invoke: second(1), Return: second(1.1),
		Outcome: history.OK, Version: 9, Place: history.Place{Shard: 1, Epoch: 1, Index: 5}}
	get := func(at float64, found bool) history.Operation {
		o := history.Operation{Process: 2, Kind: history.Get, Key: "k", Invoke: second(at), Return: second(at + .1), Outcome: history.OK,
			Place: history.Place{Shard: 1, Epoch: 1, Index: 7}}
		if o.Found = found; found {
			o.Read, o.Version = "v", 9
		}
		return o
	}
	expire := func(at float64, ttl time.Duration) history.Operation {
		return history.Operation{Process: 3, Kind: history.Expire, Key: "k", TTL: ttl, Invoke: second(at), Return: second(at + .1), Outcome: history.OK,
			Existed: true, Version: 9, Place: history.Place{Shard: 1, Epoch: 1, Index: 6}}
	}
	sample := func(node string, term, applied uint64, sum string) history.Sample {
		return history.Sample{Node: node, Shard: 1, Role: "leader", Term: term, Applied: applied, Checksum: sum}
	}
	fault := func(healed, recovered float64) history.Fault {
		return history.Fault{Name: "kill-one", Class: "crash", Healed: second(healed), Recovered: second(recovered), Effect: "it ended"}
	}
	for name, tt := range map[string]struct {
		change func(r *history.Run, o *Options)
		check  string
		want   Verdict
	}{
		"all well":               {func(*history.Run, *Options) {}, "coverage", Valid},
		"shown after its time":   {func(r *history.Run, _ *Options) { r.Ops[1] = get(6, true) }, "time to live", Invalid},
		"shown just after it":    {func(r *history.Run, _ *Options) { r.Ops[1] = get(5.2, true) }, "time to live", Valid},
		"after it, wrong clocks": {func(r *history.Run, _ *Options) { r.Ops[1] = get(6, true); r.Faults[0].Class = "clock" }, "time to live", Valid},
		"gone before its time":   {func(r *history.Run, _ *Options) { r.Ops[1] = get(1.5, false) }, "time to live", Invalid},
		"gone, and evicted": {func(r *history.Run, _ *Options) {
			r.Ops[1], r.Meta.Mode, r.Samples[0].Evicted = get(1.5, false), history.Tight, 1
		}, "time to live", Valid},
		"gone, and deleted": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(1.5, false)
			r.Ops = append(r.Ops, history.Operation{Process: 3, Kind: history.Delete, Key: "k", Invoke: second(1.2), Return: second(9), Outcome: history.Unknown})
		}, "time to live", Valid},
		"shown after a later end": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(9, true)
			r.Ops = append(r.Ops, expire(1.5, 2*time.Second), expire(2, 5*time.Second))
		}, "time to live", Invalid},
		"shown until a later end": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(7, true)
			r.Ops = append(r.Ops, expire(2, 5*time.Second))
		}, "time to live", Valid},
		"shown without an end": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(7, true)
			r.Ops = append(r.Ops, expire(2, 0))
		}, "time to live", Valid},
		"shown though an expire is unknown": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(7, true)
			e := expire(2, 5*time.Second)
			e.Outcome = history.Unknown
			r.Ops = append(r.Ops, e)
		}, "time to live", Valid},
		"gone before a later end": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(4.5, false)
			r.Ops = append(r.Ops, expire(2, 9*time.Second))
		}, "time to live", Invalid},
		"gone by an earlier end": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(1.5, false)
			r.Ops = append(r.Ops, expire(1.2, 100*time.Millisecond))
		}, "time to live", Valid},
		"two leaders in a term":     {func(r *history.Run, _ *Options) { r.Samples = append(r.Samples, sample("b", 2, 8, "")) }, "leaders", Invalid},
		"two leaders in two terms":  {func(r *history.Run, _ *Options) { r.Samples = append(r.Samples, sample("b", 3, 8, "")) }, "leaders", Valid},
		"states differ":             {func(r *history.Run, _ *Options) { r.Samples = append(r.Samples, sample("a", 2, 7, "y")) }, "replicas", Invalid},
		"one is behind at the end":  {func(r *history.Run, _ *Options) { r.Ends = append(r.Ends, sample("b", 2, 6, "")) }, "replicas", Invalid},
		"evictions in strict mode":  {func(r *history.Run, _ *Options) { r.Samples[0].Evicted = 3 }, "mode strict", NotProved},
		"no eviction in tight mode": {func(r *history.Run, _ *Options) { r.Meta.Mode = history.Tight }, "mode tight", NotProved},
		"more vanished than was evicted": {func(r *history.Run, _ *Options) {
			r.Meta.Mode, r.Ops[0].TTL, r.Samples[0].Evicted = history.Tight, 0, 1
			r.Ops[1] = get(2, false)
			for i := range 2 {
				o := put
				o.TTL, o.Value, o.Version, o.Place.Index, o.Invoke, o.Return = 0, string(rune('a'+i)), uint64(10+i), uint64(8+2*i), second(3+2*float64(i)), second(3.1+2*float64(i))
				g := get(4+2*float64(i), false)
				g.Place.Index = uint64(9 + 2*i)
				r.Ops = append(r.Ops, o, g)
			}
		}, "room", Invalid},
		"slow recovery":       {func(r *history.Run, _ *Options) { r.Faults[0] = fault(2, 12.5) }, "liveness", Invalid},
		"never undone":        {func(r *history.Run, _ *Options) { r.Faults[0].Healed = 0 }, "recovery", NotProved},
		"recovery not seen":   {func(r *history.Run, _ *Options) { r.Faults[0] = fault(2, 0) }, "recovery", NotProved},
		"recovery seen later": {func(r *history.Run, _ *Options) { r.Faults = append(r.Faults, fault(2, 0), fault(2.5, 3.5)) }, "recovery", Valid},
		"no state at the end": {func(r *history.Run, _ *Options) { r.Ends = nil }, "convergence", NotProved},
		"one replica's state": {func(r *history.Run, _ *Options) { r.Ends = r.Ends[:1] }, "convergence", NotProved},
		"no sums at the end": {func(r *history.Run, _ *Options) {
			r.Ends[0].Checksum, r.Ends[1].Checksum = "", ""
		}, "convergence", NotProved},
		"a shard without a state": {func(r *history.Run, _ *Options) { r.Meta.Shards = 2 }, "convergence", NotProved},
		"nodes that said nothing": {func(r *history.Run, _ *Options) { r.Meta.Nodes, r.Samples, r.Ends = []string{"a"}, nil, nil }, "convergence", NotProved},
		"a failure":               {func(r *history.Run, _ *Options) { r.Failures = []string{"no progress"} }, "liveness", Invalid},
		"a defect":                {func(r *history.Run, _ *Options) { r.Defects = []string{"said 500"} }, "interface", Invalid},
		"too slow":                {func(_ *history.Run, o *Options) { o.LeastRate = 100 }, "coverage", NotProved},
		"too few faults":          {func(_ *history.Run, o *Options) { o.LeastFaults = 2 }, "coverage", NotProved},
		"a fault of no avail":     {func(r *history.Run, _ *Options) { r.Faults[0].Effect = "" }, "coverage", NotProved},
		"no operation":            {func(r *history.Run, _ *Options) { r.Ops, r.Final = nil, nil }, "coverage", NotProved},
		"no read": {func(r *history.Run, o *Options) {
			r.Ops, r.Final, o.LeastRate = r.Ops[:1], nil, 0
		}, "coverage", NotProved},
		"too little of the workload": {func(r *history.Run, _ *Options) { r.Meta.Workload = "follower" }, "coverage", NotProved},
		"enough of the workload": {func(r *history.Run, _ *Options) {
			r.Meta.Workload = "ttl"
			for i := range 9 {
				o := put
				o.Value, o.Version, o.Place.Index = string(rune('a'+i)), uint64(10+i), uint64(8+i)
				o.Invoke, o.Return, o.Existed = second(2+float64(i)/10), second(2.05+float64(i)/10), true
				r.Ops = append(r.Ops, o)
			}
		}, "coverage", Valid},
		"deleted by nobody": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(7, false)
			r.Ops[1].Miss = "deleted"
		}, "misses", Invalid},
		"ended, as it may": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(7, false)
			r.Ops[1].Miss = "expired"
		}, "misses", Valid},
		"evicted, with room": {func(r *history.Run, _ *Options) {
			r.Ops[1] = get(7, false)
			r.Ops[1].Miss = "evicted"
		}, "misses", Invalid},
		"nothing but misses": {func(r *history.Run, _ *Options) {
			r.Ops = append(r.Ops[:0:0], get(1, false), get(2, false))
			r.Final = nil
		}, "coverage", NotProved},
	} {
		r := &history.Run{
			Meta: history.Meta{Mode: history.Strict}, Ops: []history.Operation{put, get(2, true)}, Faults: []history.Fault{fault(2, 3)},
			Samples: []history.Sample{sample("a", 2, 7, "x")}, Ends: []history.Sample{sample("a", 2, 7, "x"), sample("b", 2, 7, "x")},
		}
		final := get(8, false)
		final.Place.Index = 99
		r.Final = []history.Operation{final}
		o := Options{KeyLimit: limit, LeastRate: .1, LeastFaults: 1}
		tt.change(r, &o)
		v := Run(r, o)
		found := false
		for _, c := range v.Checks {
			if c.Name == tt.check {
				found = true
				if c.Verdict != tt.want {
					t.Errorf("%s: %s is %s, want %s: %+v", name, c.Name, c.Verdict, tt.want, v.Checks)
				}
			}
		}
		if !found {
			t.Errorf("%s: no check %s in %+v", name, tt.check, v.Checks)
		}
		if tt.want == Invalid && v.Verdict() != Invalid || name == "all well" && v.Verdict() != Valid {
			t.Errorf("%s: the whole is %s: %+v", name, v.Verdict(), v.Checks)
		}
	}
	if v := (Report{}).Verdict(); v != NotProved {
		t.Errorf("without a check a run is %s", v)
	}
}

// TestDerived ensures that numbers and lists are held against what was acknowledged, without an order.
func TestDerived(t *testing.T) {
	op := func(kind history.Kind, outcome history.Outcome, delta int64, value string) history.Operation {
		return history.Operation{Kind: kind, Key: "k", Outcome: outcome, Delta: delta, Value: value}
	}
	final := func(read string) []history.Operation {
		return []history.Operation{{Kind: history.Get, Key: "k", Outcome: history.OK, Found: read != "", Read: read}}
	}
	numbers := []history.Operation{
		op(history.Incr, history.OK, 5, ""), op(history.Incr, history.Unknown, 3, ""), op(history.Incr, history.Unknown, -1, ""), op(history.Incr, history.Refused, 100, ""),
	}
	for read, want := range map[string]int{"5": 0, "8": 0, "4": 0, "7": 0, "3": 1, "9": 1, "105": 1, "": 1, "x": 1} {
		if got := Counters(numbers, final(read), history.Strict); len(got) != want {
			t.Errorf("%q: %v", read, got)
		}
	}
	lists := []history.Operation{
		op(history.Append, history.OK, 0, "1;"), op(history.Append, history.Unknown, 0, "2;"), op(history.Append, history.Refused, 0, "3;"), op(history.Append, history.OK, 0, "4;"),
	}
	for read, want := range map[string]int{"1;4;": 0, "1;2;4;": 0, "4;2;1;": 0, "1;": 1, "1;4;1;": 1, "1;3;4;": 1, "1;4;5;": 1, "": 2} {
		end := final(read)
		if got := Sets(append(lists, end...), end, history.Strict); len(got) != want {
			t.Errorf("%q: %v", read, got)
		}
	}
	if got := Sets(lists, final(""), history.Tight); len(got) != 0 {
		t.Errorf("a list that may vanish: %v", got)
	}
}

// TestPage ensures that the page of a bad key shows its operations and the faults of the time.
func TestPage(t *testing.T) {
	s := &script{}
	s.put("a", 10, 5)
	s.get("b", 11, 6)
	r := &history.Run{Meta: history.Meta{Mode: history.Strict}, Ops: s.ops, Faults: []history.Fault{
		{Name: "pause-leader", Class: "pause", Targets: []string{"n2"}, Start: tick, Healed: 2 * tick},
		{Name: "kill-one", Class: "crash", Targets: []string{"n1"}, Start: time.Hour, Healed: 2 * time.Hour},
	}}
	v := Run(r, Options{KeyLimit: limit})
	if keys := v.BadKeys(); len(keys) != 1 || keys[0] != "k" {
		t.Fatalf("bad keys %q", keys)
	}
	var b bytes.Buffer
	if err := Page(&b, r, "k", Options{KeyLimit: limit}); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); !strings.Contains(text, "pause-leader of n2") || strings.Contains(text, "kill-one") || !strings.Contains(text, "process 1") {
		t.Error("the page lacks the operations or the fault, or has one of another time")
	}
	if err := Page(&b, r, "none", Options{KeyLimit: limit}); err == nil {
		t.Error("a page of a key that nobody used")
	}
}
