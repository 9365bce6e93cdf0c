package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/workload"
)

// TestExitStatus ensures that each verdict has the exit status that is documented for it.
func TestExitStatus(t *testing.T) {
	for verdict, want := range map[check.Verdict]int{
		check.Invalid: 1, check.Undecided: 2, check.NotProved: 3,
	} {
		var v verdictError
		if !errors.As(asError(verdict), &v) || v.status() != want {
			t.Errorf("%s: status %d, want %d", verdict, v.status(), want)
		}
	}
	if err := asError(check.Valid); err != nil {
		t.Errorf("valid is an error: %v", err)
	}
}

// defaults are the options that jepsen run has without any flag.
func defaults(t *testing.T, args ...string) options {
	t.Helper()
	o := options{say: io.Discard}
	c := newRunCommand(&o)
	if err := c.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestOptions ensures that the defaults are accepted, and that what makes no sense is refused before anything starts.
func TestOptions(t *testing.T) {
	if err := defaults(t).validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for _, tt := range []struct{ args, want string }{
		{"--workload=nap", "nap"}, {"--nemesis=rain", "rain"}, {"--mode=loose", "loose"}, {"--net=pigeon", "pigeon"},
		{"--disk=floppy", "floppy"}, {"--log-store=shelf", "shelf"}, {"--time=0s", "time"}, {"--rate=0", "rate"}, {"--clients=0", "clients"},
	} {
		if err := defaults(t, tt.args).validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error about %s", tt.args, err, tt.want)
		}
	}
	if m := defaults(t, "--workload=evict").roomMode(); m != history.Tight {
		t.Errorf("evict is %s by default", m)
	}
	if m := defaults(t, "--workload=evict", "--mode=strict").roomMode(); m != history.Strict {
		t.Errorf("evict is %s though strict was asked for", m)
	}
	if m := defaults(t, "--memory-only").roomMode(); m != history.Tight {
		t.Errorf("what is in memory alone is %s", m)
	}
	if err := defaults(t, "--memory-only", "--mode=strict").validate(); err == nil {
		t.Error("what a majority forgets counts as lost")
	}
}

// TestList ensures that jepsen list names every workload and a fault of each class.
func TestList(t *testing.T) {
	var out bytes.Buffer
	c := listCommand()
	c.SetOut(&out)
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range append(workload.Names(), "partition-leader", "pause-leader", "kill-all", "disk-full", "clock-jump", "remove-leader", "transfer-leader", "force-snapshot") {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not listed:\n%s", want, &out)
		}
	}
}

// TestGiven ensures that a run records the flags that its plan follows from, and no others.
func TestGiven(t *testing.T) {
	o := options{}
	c := newRunCommand(&o)
	if err := c.ParseFlags([]string{"--nemesis=pause,kill-one", "--seed=4", "--out=somewhere", "--nodes=5", "--delay=3ms", "--memory-only"}); err != nil {
		t.Fatal(err)
	}
	if got, want := given(c), []string{"--nemesis=pause,kill-one", "--nodes=5", "--delay=3ms", "--memory-only=true"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := given(newRunCommand(&o)); got == nil || len(got) > 0 {
		t.Errorf("of nothing: %#v", got)
	}
}

// TestIndex ensures that jepsen index makes a page over the runs in a folder, and fails where there are none.
func TestIndex(t *testing.T) {
	out := t.TempDir()
	var told bytes.Buffer
	index := func() error {
		c := indexCommand()
		c.SetOut(&told)
		c.SetErr(io.Discard)
		c.SetArgs([]string{out})
		return c.Execute()
	}
	if err := index(); err == nil {
		t.Error("a folder without runs has an index")
	}
	r := history.Run{Meta: history.Meta{Workload: "register", Mode: history.Strict, Flags: map[string]string{leastRate: "1", leastFaults: "1"}}}
	dir := filepath.Join(out, "run")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := judge(dir, &r, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := index(); err != nil || !strings.Contains(told.String(), "0 of 1 run valid") {
		t.Errorf("%v, told %q", err, &told)
	}
	if page, err := os.ReadFile(filepath.Join(out, "index.html")); err != nil || !strings.Contains(string(page), `href="run/index.html"`) {
		t.Errorf("page %s, %v", page, err)
	}
}

// TestRun ensures that a short run on real processes has a fault that took effect, is valid, leaves the files that it
// promises and no data, and that its record gives the same verdict when it is checked again.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: it starts real processes")
	}
	t.Chdir("../..") // where the server is built from
	var out bytes.Buffer
	o := defaults(t, "--nemesis=kill-one", "--rounds=1", "--shards=2", "--seed=5", "--net=proxy", "--disk=folder", "--out="+t.TempDir())
	o.say = &out
	verdict, dir, err := perform(t.Context(), o)
	t.Logf("%s", &out)
	if err != nil || verdict != check.Valid {
		t.Fatalf("%s, %v", verdict, err)
	}
	for _, name := range []string{"plan.json", "run.json", "history.jsonl", "verdict.json", "nodes/a/log", "nodes/b/log", "nodes/c/log"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	r, err := history.ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(r.Faults, func(f history.Fault) bool { return f.Name == "kill-one" && f.Effect != "" && f.Recovered > 0 }); i < 0 {
		t.Errorf("no kill that took effect: %+v", r.Faults)
	}
	if len(r.Samples) == 0 || len(r.Ends) != 2*3 || len(r.Final) == 0 || r.Meta.Seed != 5 {
		t.Errorf("%d samples, %d ends, %d final reads, %+v", len(r.Samples), len(r.Ends), len(r.Final), r.Meta)
	}
	if data, err := filepath.Glob(filepath.Join(dir, "nodes", "*", "data")); err != nil || len(data) > 0 {
		t.Errorf("data left: %v, %v", data, err)
	}
	c := checkCommand()
	c.SetOut(io.Discard)
	c.SetArgs([]string{dir})
	if err := c.Execute(); err != nil {
		t.Errorf("checked again: %v", err)
	}
}

// TestInterrupted ensures that a run which is interrupted ends soon, in good order and with a record.
func TestInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: it starts real processes")
	}
	t.Chdir("../..")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watched{when: "successes a second", then: func() { time.AfterFunc(time.Second, cancel) }}
	o := defaults(t, "--nemesis=kill-majority", "--shards=1", "--seed=3", "--net=proxy", "--disk=folder", "--time=10m", "--out="+t.TempDir())
	o.say = w
	begun := time.Now()
	_, dir, err := perform(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 2*time.Minute {
		t.Errorf("it took %v", took)
	}
	r, err := history.ReadRun(dir)
	if err != nil || len(r.Failures) > 0 || len(r.Ends) != 3 {
		t.Errorf("%v, failures %q, %d replicas compared", err, r.Failures, len(r.Ends))
	}
}

// watched calls then once, when something is written.
type watched struct {
	when string
	then func()
}

func (w *watched) Write(p []byte) (int, error) {
	if w.then != nil && strings.Contains(string(p), w.when) {
		w.then()
		w.then = nil
	}
	return len(p), nil
}
