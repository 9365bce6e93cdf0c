package report

import (
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

// script makes operations on one key, each from a second to the next but one where they overlap.
type script struct{ ops []history.Operation }

func (s *script) add(from, to int, o history.Operation) *history.Operation {
	o.Process, o.Key, o.Node, o.ServedBy = len(s.ops)+1, "k", "a", "b"
	o.Invoke, o.Return = time.Duration(from)*time.Second, time.Duration(to)*time.Second
	if o.Outcome == "" {
		o.Outcome, o.Status = history.OK, 200
	}
	s.ops = append(s.ops, o)
	return &s.ops[len(s.ops)-1]
}

func put(value string, version uint64) history.Operation {
	return history.Operation{Kind: history.Put, Value: value, Version: version}
}

func shown(value string, version uint64) history.Operation {
	return history.Operation{Kind: history.Get, Found: true, Read: value, Version: version}
}

func incr(delta, number int64) history.Operation {
	return history.Operation{Kind: history.Incr, Delta: delta, Number: number}
}

var (
	nothing = history.Operation{Kind: history.Get}
	removed = history.Operation{Kind: history.Delete, Existed: true}
)

func unknown(o history.Operation) history.Operation {
	o.Outcome, o.Version = history.Unknown, 0
	return o
}

// TestStory ensures that a counterexample is told by the operations that suffice to see it, and by them alone; and that where
// the answers could be explained, or clients' views do not suffice, nothing is claimed but what the check said.
func TestStory(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ops   func(s *script)
		mode  history.Mode
		steps int    // that are told
		why   string // "": no proof
	}{
		{"an old value after an acknowledged one", func(s *script) {
			s.add(0, 1, put("v1", 1))
			s.add(2, 3, put("v2", 2))
			s.add(3, 4, nothing) // of another's doing
			s.add(5, 6, shown("v1", 1))
		}, history.Strict, 3, "It cannot have come back"},
		{"an old value after one that was seen", func(s *script) {
			s.add(0, 1, put("v1", 1))
			s.add(2, 9, unknown(put("v2", 0)))
			s.add(3, 4, shown("v2", 2))
			s.add(5, 6, shown("v1", 1))
		}, history.Strict, 4, "by the answer of step 3, which shows it"},
		{"the change is still under way", func(s *script) {
			s.add(0, 1, put("v1", 1))
			s.add(2, 9, put("v2", 2))
			s.add(5, 6, shown("v1", 1))
		}, history.Strict, 3, ""},
		{"the changes are not ordered", func(s *script) {
			s.add(0, 3, put("v1", 1))
			s.add(2, 3, put("v2", 2))
			s.add(5, 6, shown("v1", 1))
		}, history.Strict, 3, ""},
		{"a condition held on what was replaced", func(s *script) {
			s.add(0, 1, put("v1", 1))
			s.add(2, 3, put("v2", 2))
			s.add(5, 6, history.Operation{Kind: history.Replace, Value: "v3", IfMatch: 1, Version: 3})
		}, history.Strict, 3, "No version is given twice"},
		{"an acknowledged value is not there", func(s *script) {
			s.add(0, 1, put("v1", 1))
			s.add(2, 3, nothing)
		}, history.Strict, 2, "something must stand there"},
		{"a number that lacks an increment", func(s *script) {
			s.add(0, 1, incr(5, 5))
			s.add(1, 9, unknown(incr(2, 0)))
			s.add(2, 3, incr(-1, 4))
			s.add(4, 5, incr(8, 11))
		}, history.Strict, 3, "must have found between 4 and 6"},
		{"a number that may be right", func(s *script) {
			s.add(0, 1, incr(5, 5))
			s.add(1, 9, unknown(incr(2, 0)))
			s.add(4, 5, incr(8, 15))
		}, history.Strict, 3, ""},
		{"where there is too little room it may be evicted", func(s *script) {
			s.add(0, 1, put("v1", 1))
			s.add(2, 3, nothing)
		}, history.Tight, 2, ""},
		{"somebody may have removed it", func(s *script) {
			s.add(0, 2, put("v1", 1))
			s.add(1, 2, unknown(removed))
			s.add(3, 4, nothing)
		}, history.Strict, 3, ""},
		{"its time may be over", func(s *script) {
			o := put("v1", 1)
			o.TTL = time.Second
			s.add(0, 1, o)
			s.add(4, 5, nothing)
		}, history.Strict, 2, ""},
	} {
		s := script{ops: make([]history.Operation, 0, 10)}
		tt.ops(&s)
		r := &history.Run{Meta: history.Meta{Mode: tt.mode}, Ops: s.ops, Faults: []history.Fault{
			{Name: "kill-one", Class: "crash", Targets: []string{"a"}, Start: time.Second / 2, Healed: time.Second, Effect: "it ended"},
			{Name: "kill-one", Class: "crash", Targets: []string{"a"}, Start: time.Minute, Healed: 2 * time.Minute},
		}}
		v := check.Report{Violations: []check.Violation{{Check: searched, What: "no order explains the answers; the shortest history that has none:", Ops: s.ops}}}
		told := tell(r, v, episodes(r), nil)
		steps, faults := 0, 0
		for _, s := range told.Steps {
			if s.Number > 0 {
				steps++
			} else {
				faults++
			}
		}
		if steps != tt.steps || faults != 1 || len(told.Rows) != len(s.ops) || told.Key != "k" || told.Plot.SVG == "" {
			t.Errorf("%s: %d steps, %d faults, %d rows, key %q", tt.name, steps, faults, len(told.Rows), told.Key)
		}
		why := plain(strings.Join(told.Why, " "))
		switch {
		case tt.why == "" && !strings.Contains(why, "the search went through all orders"):
			t.Errorf("%s: it claims %q", tt.name, why)
		case !strings.Contains(strings.ToLower(why), strings.ToLower(tt.why)):
			t.Errorf("%s: %q does not say %q", tt.name, why, tt.why)
		}
	}
}

// TestPauses ensures that operations which are far apart are drawn so that they can be seen, in order, and that the axis tells
// what was cut.
func TestPauses(t *testing.T) {
	s := script{ops: make([]history.Operation, 0, 10)}
	bars := []bar{{s.add(1, 2, put("v1", 1)), 1}, {s.add(2, 3, nothing), 0}, {s.add(63, 64, nothing), 2}}
	idle, squeezed := pauses(bars)
	if len(idle) != 1 || idle[0].start < 3*time.Second || idle[0].end > 63*time.Second || squeezed >= idle[0].end-idle[0].start {
		t.Fatalf("%+v, drawn as %v", idle, squeezed)
	}
	p := newPlot("", 100, time.Minute, 0, 1, false)
	p.end, p.idle, p.squeezed = 65*time.Second, idle, squeezed
	last := p.left
	for _, at := range []time.Duration{1, 2, 3, 30, 63, 64} {
		x := p.x(at * time.Second)
		if x <= last {
			t.Errorf("%d s is drawn at %.1f, what came before at %.1f", at, x, last)
		}
		last = x
	}
	if w := p.x(64*time.Second) - p.x(63*time.Second); w < 100 {
		t.Errorf("a second is drawn as %.1f", w)
	}
	if f := lanes(bars); !strings.Contains(plain(string(f.SVG)), ">59.4 s</text>") || !strings.Contains(f.Caption, "cut short") {
		t.Errorf("the cut is not told: %s %s", f.SVG, f.Caption)
	}
	if idle, _ := pauses(bars[:2]); len(idle) > 0 {
		t.Errorf("a pause where there is none: %+v", idle)
	}
}

// TestStoryOfOthers ensures that a violation that is not of the search is told in its check's words, and one without
// operations at all.
func TestStoryOfOthers(t *testing.T) {
	r := forged(100)
	for _, v := range []check.Violation{
		{Check: "certificate", What: "two requests have one place in the log", Ops: []history.Operation{r.Ops[1], r.Ops[4]}},
		{Check: "leaders", What: "a and b both lead shard 1 in term 2"},
	} {
		told := tell(r, check.Report{Violations: []check.Violation{v}}, nil, nil)
		if len(told.Why) != 1 || told.Why[0] != sentenceOf(v.What) || len(told.Rows) != len(v.Ops) {
			t.Errorf("%s: %q, %d rows", v.Check, told.Why, len(told.Rows))
		}
	}
	if told := tell(r, check.Report{}, nil, nil); told != nil {
		t.Errorf("a story of nothing: %+v", told)
	}
}

// TestWords ensures that numbers are written for people.
func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		count(0): "0", count(999): "999", count(1000): "1,000", count(1234567): "1,234,567", count(-1000): "-1,000", count(-100): "-100",
		some(1, "key"): "1 key", some(0, "reply"): "0 replies", some(2, "miss with a reason"): "2 misses with a reason", some(3, "key"): "3 keys",
		span(0): "0 s", span(150 * time.Microsecond): "0.15 ms", span(1500 * time.Microsecond): "1.5 ms", span(999_600 * time.Microsecond): "1.00 s",
		span(10 * time.Second): "10 s", span(12_340 * time.Millisecond): "12.3 s", span(2 * time.Minute): "2 min", span(125 * time.Second): "2 min 5 s",
		share(0, 0): "0 %", share(1, 3): "33 %", share(1, 1000): "0.10 %", share(999_999, 1_000_000): "99.99 %", share(5, 5): "100 %",
		label("short"): "“short”", label("1788 of k xxxxxxxxxxxxxxxx"): "“1788 of k…”", label("1788 of k xxx"): "“1788 of k…”", label("a value of many different signs"): "“a value of many diff…”",
		short(time.Minute): "1m", short(90 * time.Second): "1m30s", short(time.Hour): "1h", short(12 * time.Second): "12s",
		list([]string{"a", "b", "c"}): "a, b and c", bytesOf(1_500_000): "1.5 MB", bytesOf(12): "12 bytes",
	} {
		if plain(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestRepeat ensures that the command to repeat a run has all that was given and nothing that follows from the seed, and that of a
// record which does not tell what was given the faults are named.
func TestRepeat(t *testing.T) {
	m := history.Meta{Workload: "set", Mode: history.Strict, Seed: 7, Time: time.Minute, Net: "proxy", Disk: "folder", Nemeses: []string{"flap", "kill-one"}, Bug: "no-sync"}
	if got, want := repeat(m), "make jepsen WORKLOAD=set MODE=strict SEED=7 TIME=1m NET=proxy NEMESIS=flap,kill-one BUG=no-sync ARGS='--disk=folder'"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	m.Bug, m.Given = "", []string{"--nemesis=pause,kill-one", "--nodes=5", "--rounds=3"}
	if got, want := repeat(m), "make jepsen WORKLOAD=set MODE=strict SEED=7 TIME=1m NET=proxy NEMESIS=pause,kill-one NODES=5 ARGS='--disk=folder --rounds=3'"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	m.Given = []string{}
	if got, want := repeat(m), "make jepsen WORKLOAD=set MODE=strict SEED=7 TIME=1m NET=proxy ARGS='--disk=folder'"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
