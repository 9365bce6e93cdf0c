package main

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/bench/report"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// TestRun ensures that a run of real nodes loses one in each way, and finds after how long its shards were written to again.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts three processes")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "out", "x.json")
	var out, status strings.Builder
	args := []string{"-rounds", "1", "-shards", "4", "-writers", "6", "-dir", dir, "-json", file}
	if err := run(t.Context(), args, &out, &status); err != nil && !strings.Contains(err.Error(), "bars missed") {
		t.Fatalf("%v\n%s%s", err, &out, &status)
	}
	if got := strings.Count(out.String(), "bar: "); got != 3 {
		t.Errorf("got %d bars, want 3:\n%s", got, &out)
	}
	var f findings
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil || len(f.Losses) != 3 {
		t.Fatalf("got %+v, %v, want three losses", f, err)
	}
	for _, l := range f.Losses {
		// Four shards on three nodes, spread: who leads most leads two.
		if len(l.Shards) != 2 || l.Rate <= 0 {
			t.Errorf("got %+v", l)
		}
		for shard, after := range l.Shards {
			if after <= 0 || after > time.Minute.Seconds() {
				t.Errorf("%s: shard %d was written to again after %v s", l.Fault, shard, after)
			}
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// hand is a clock that is set by hand.
type hand time.Duration

func (h hand) Now() time.Duration { return time.Duration(h) }

// done is a write that was answered by a node.
func done(invoked, returned time.Duration, by string) history.Operation {
	return history.Operation{Outcome: history.OK, Invoke: invoked, Return: returned, ServedBy: by}
}

// TestTally ensures that a shard's time is that of the first write which succeeded and began after the fault was complete, counted
// from when it began.
func TestTally(t *testing.T) {
	const ms = time.Millisecond
	w := newTally()
	w.note(1, done(1*ms, 2*ms, "a"))
	w.note(2, done(1*ms, 2*ms, "b"))
	w.note(2, done(3*ms, 4*ms, "a"))
	w.note(3, history.Operation{Outcome: history.Unknown, ServedBy: "c"})
	if got := w.leaders(); !maps.Equal(got, map[uint64]string{1: "a", 2: "a"}) {
		t.Errorf("got leaders %v", got)
	}
	if got := w.rate(500 * ms); got != 6 {
		t.Errorf("got %v writes a second, want 6", got)
	}
	w.begin("a", []uint64{1, 2, 4}, hand(100*ms))
	w.note(1, done(101*ms, 102*ms, "b"))
	w.complete(hand(110 * ms))
	w.note(1, done(90*ms, 111*ms, "a"))  // was under way
	w.note(2, done(109*ms, 112*ms, "b")) // so was this
	w.note(1, history.Operation{Outcome: history.Refused, Invoke: 120 * ms, Return: 121 * ms})
	w.note(1, history.Operation{Outcome: history.Unknown, Invoke: 120 * ms, Return: 121 * ms})
	w.note(3, done(115*ms, 116*ms, "c")) // not led by a
	if back, missing, err := w.end(); len(back) != 0 || !slices.Equal(missing, []uint64{1, 2, 4}) || err != nil {
		t.Errorf("got %v back, %v missing, %v", back, missing, err)
	}

	w = newTally()
	over := w.begin("a", []uint64{1, 2}, hand(100*ms))
	w.complete(hand(110 * ms))
	w.note(1, done(110*ms, 350*ms, "b"))
	w.note(1, done(120*ms, 900*ms, "b"))
	select {
	case <-over:
		t.Error("it is over, and a shard was not written to")
	default:
	}
	w.note(2, done(200*ms, 600*ms, "c"))
	select {
	case <-over:
	default:
		t.Error("it is not over, and all shards were written to")
	}
	w.note(2, done(700*ms, 800*ms, "c"))
	back, missing, err := w.end()
	if want := map[uint64]float64{1: 0.25, 2: 0.5}; !maps.Equal(back, want) || len(missing) != 0 || err != nil {
		t.Errorf("got %v back, %v missing, %v; want %v", back, missing, err, want)
	}
}

// TestLostNodeServes ensures that a write which a lost node serves is told, and one that it serves before or after is not.
func TestLostNodeServes(t *testing.T) {
	for what, tt := range map[string]struct {
		o     history.Operation
		ended bool
		wrong bool
	}{
		"by the lost one": {done(20, 30, "a"), false, true},
		"by another one":  {done(20, 30, "b"), false, false},
		"begun before":    {done(9, 30, "a"), false, false},
		"after the end":   {done(20, 30, "a"), true, false},
	} {
		w := newTally()
		w.begin("a", []uint64{1}, hand(5))
		w.complete(hand(10))
		if tt.ended {
			w.end()
		}
		w.note(2, tt.o)
		if _, _, err := w.end(); (err != nil) != tt.wrong {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// TestBusiest ensures that the node is lost that leads most shards, another one of several in each round.
func TestBusiest(t *testing.T) {
	nodes := []*cluster.Node{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	leaders := map[uint64]string{1: "a", 2: "b", 3: "c", 4: "a", 5: "c"}
	lost := map[string]bool{}
	for round := range 3 {
		n, led := busiest(leaders, nodes, round)
		lost[n.ID] = true
		slices.Sort(led)
		if want := map[string][]uint64{"a": {1, 4}, "c": {3, 5}}[n.ID]; !slices.Equal(led, want) {
			t.Errorf("%s leads %v, want %v", n.ID, led, want)
		}
	}
	if len(lost) != 2 {
		t.Errorf("got %v, want a and c in turn", lost)
	}
}

// TestJudge ensures that medians of the longest times are held against what is wanted, and shown beside those of all shards.
func TestJudge(t *testing.T) {
	f := findings{}
	for round, longest := range []float64{1, 1.9, 9} {
		f.Losses = append(f.Losses, loss{Fault: "kill", Round: round, Shards: map[uint64]float64{1: 0.5, 2: longest}})
		f.Losses = append(f.Losses, loss{Fault: "cut", Round: round, Shards: map[uint64]float64{1: 2 * longest, 2: 1}})
	}
	var out strings.Builder
	r := report.New(&out)
	f.print(r, config{faults: allFaults})
	f.judge(r)
	if err := r.Close(); err == nil {
		t.Error("a missed bar was passed over")
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"| kill | 3 | 1.00 | 1.90 | 9.00 |", "| cut | 3 | 2.00 | 3.80 | 18.00 |",
		"| kill | 6 | 0.50 | 0.50 | 0.75 | 1.90 | 9.00 | 9.00 |",
		"1.9s, met", "3.8s, MISSED",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, &out)
		}
	}
	if strings.Contains(text, "stop") {
		t.Errorf("what was not measured is shown:\n%s", &out)
	}
}

// TestFlags ensures that what makes no sense is refused.
func TestFlags(t *testing.T) {
	if cfg, err := parse([]string{"-faults", "cut,kill"}, io.Discard); err != nil || len(cfg.faults) != 2 || cfg.faults[0].name != "cut" {
		t.Errorf("got %+v, %v", cfg, err)
	}
	for _, args := range [][]string{{"-faults", "flood"}, {"-rounds", "0"}, {"-shards", "0"}, {"-writers", "7"}, {"-net", "wire"}, {"-timeout", "0s"}, {"-limit", "0s"}, {"more"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
