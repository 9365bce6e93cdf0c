package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
	"github.com/larder-cache/larder/integration/report"
	"github.com/larder-cache/larder/integration/workload"
)

// nightly is many runs, one after the other: over all workloads, with and without room for all, each with a seed and a random
// half of the faults of its own.
type nightly struct {
	time, each time.Duration
	seed       uint64
	args       []string // of jepsen run, for all
	out        string
	least      struct{ checked, effective int }
	say        io.Writer
}

func nightlyCommand() *cobra.Command {
	var n nightly
	var rate, clients int
	var network string
	c := &cobra.Command{
		Use: "nightly", Short: "Run cluster after cluster, over all workloads, with and without room for all", Args: cobra.NoArgs,
		Long: `Run cluster after cluster, over all workloads, with and without room for all, each with a seed of its own.
An invalid run ends nothing: the others may show more. An index.html of all runs is written to the folder. What is proved is the
least that one of the runs proves; those in which too little happened count for nothing. It is not proved where they were
the only ones of a workload in a mode, or some class of faults had no effect in strict or in tight runs: once time is up, such
workloads and classes have one more run of their own.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("seed") {
				n.seed = uint64(rand.Uint32())
			}
			n.say = c.OutOrStdout()
			n.args = []string{"--net=" + network, "--time=" + n.each.String(), fmt.Sprint("--rate=", rate), fmt.Sprint("--clients=", clients)}
			verdict, err := n.run(c.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(n.say, "%s: %s\n", verdict, n.out)
			return asError(verdict)
		},
	}
	f := c.Flags()
	f.DurationVar(&n.time, "time", time.Hour, "how long, all together; what begins in time is finished")
	f.DurationVar(&n.each, "each", 2*time.Minute, "how long faults are done in each run")
	f.Uint64Var(&n.seed, "seed", 0, "of the first run, and of the order of workloads (default random)")
	f.IntVar(&rate, "rate", 2000, "as in jepsen run")
	f.IntVar(&clients, "clients", 20, "as in jepsen run")
	f.StringVar(&network, "net", "auto", "as in jepsen run")
	f.StringVar(&n.out, "out", "out", "folder in which the runs' folders are made")
	f.IntVar(&n.least.checked, "least-checked", 0, "checked operations below which nothing is proved")
	f.IntVar(&n.least.effective, "least-faults", 0, "faults that took effect below which nothing is proved")
	return c
}

// kind is a sort of run.
type kind struct {
	workload string
	mode     history.Mode
}

// kinds are those that can prove something. Without room counters start anew, and what is durable is not there: no verdict could
// tell that from a loss; settings and members need no room.
func kinds() (all []kind) {
	for _, name := range workload.Names() {
		if name != "evict" {
			all = append(all, kind{name, history.Strict})
		}
		if !slices.Contains([]string{"counter", "durable", "directory", "admin"}, name) {
			all = append(all, kind{name, history.Tight})
		}
	}
	return all
}

// order returns the kinds of as many runs as there may be, in rounds over all of them.
func (n nightly) order() func() kind {
	rng, left := rand.New(rand.NewPCG(n.seed, 0)), []kind(nil)
	return func() kind {
		if len(left) == 0 {
			left = kinds()
			rng.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		}
		next := left[0]
		left = left[1:]
		return next
	}
}

// run makes the runs and returns what they prove together.
func (n nightly) run(ctx context.Context) (check.Verdict, error) {
	if err := os.MkdirAll(n.out, 0o755); err != nil {
		return "", err
	}
	var builds [2]string // what users run, and the build with the tag faults
	for i := range builds {
		binary, remove, err := binaryOf(options{}, i == 1)
		if err != nil {
			return "", err
		}
		defer remove()
		builds[i] = binary
	}
	n.args = append(n.args, "--out="+n.out)
	t := newTally()
	seed := n.seed
	one := func(k kind, faults ...string) error {
		dir, err := n.one(ctx, k, seed, builds, faults)
		if err != nil {
			return err
		}
		s, err := summaryOf(dir)
		if err != nil {
			return err
		}
		seed++
		t.add(dir, s)
		fmt.Fprintln(n.say, line(s, dir))
		return nil
	}
	for next, end := n.order(), time.Now().Add(n.time); ctx.Err() == nil && time.Now().Before(end); {
		if err := one(next()); err != nil {
			return "", err
		}
	}
	for _, k := range t.lacking() {
		if ctx.Err() == nil {
			if err := one(k); err != nil {
				return "", err
			}
		}
	}
	for _, mode := range modes {
		if missing := t.missing(mode); len(missing) > 0 && ctx.Err() == nil {
			if err := one(kind{"mixed", mode}, missing...); err != nil {
				return "", err
			}
		}
	}
	if _, err := report.Index(n.out, t.dirs...); err != nil {
		return "", err
	}
	fmt.Fprint(n.say, t.String())
	return t.verdict(n), nil
}

// one makes a run and returns its folder. What it says goes to a file beside that. faults are those it is about, none: its
// seed draws them.
func (n nightly) one(ctx context.Context, k kind, seed uint64, builds [2]string, faults []string) (dir string, err error) {
	log, err := os.Create(filepath.Join(n.out, fmt.Sprintf("%s-%s-%d.txt", k.workload, k.mode, seed)))
	if err != nil {
		return "", err
	}
	defer log.Close()
	o := options{say: log}
	args := append([]string{"--workload=" + k.workload, "--mode=" + string(k.mode), fmt.Sprintf("--seed=%d", seed)}, n.args...)
	if len(faults) > 0 {
		args = append(args, "--nemesis="+strings.Join(faults, ","))
	}
	c := newRunCommand(&o)
	if err := c.ParseFlags(args); err != nil {
		return "", err
	}
	if err := o.validate(); err != nil {
		return "", err
	}
	o.given, o.binary = given(c), builds[0]
	if o.takesBuild() {
		o.binary = builds[1]
	}
	_, dir, err = perform(ctx, o)
	return dir, err
}

func summaryOf(dir string) (s report.Summary, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// line tells of a run.
func line(s report.Summary, dir string) string {
	effects, slowest := 0, 0.0
	for _, f := range s.Faults {
		effects += f.Effective
		slowest = max(slowest, f.Longest)
	}
	text := fmt.Sprintf("%-10s %-11s %-6s seed %d: %d checked, %.0f a second, %d faults that took effect, slowest recovery %.1f s  %s",
		s.Verdict, s.Meta.Workload, s.Meta.Mode, s.Meta.Seed, s.Checked, s.Rate, effects, slowest, filepath.Base(dir))
	return strings.Join(append([]string{text}, s.Reasons...), "\n    ")
}

// tally is what the runs come to.
type tally struct {
	dirs                                       []string
	worst                                      check.Verdict
	checked, effective, keys, undecided, valid int
	slowest                                    float64
	effects                                    map[history.Mode]map[string]int // faults that took effect, by class
	proved                                     map[kind]bool                   // whether some run of it was one in which enough happened
}

func newTally() *tally {
	return &tally{worst: check.Valid, effects: map[history.Mode]map[string]int{}, proved: map[kind]bool{}}
}

func (t *tally) add(dir string, s report.Summary) {
	t.dirs = append(t.dirs, dir)
	k := kind{s.Meta.Workload, s.Meta.Mode}
	t.proved[k] = t.proved[k] || s.Verdict != check.NotProved
	if s.Verdict == check.NotProved {
		return
	}
	t.worst = worse(t.worst, s.Verdict)
	if s.Verdict == check.Valid {
		t.valid++
	}
	t.checked += s.Checked
	t.keys += s.Keys
	t.undecided += s.Undecided
	for _, f := range s.Faults {
		if t.effects[s.Meta.Mode] == nil {
			t.effects[s.Meta.Mode] = map[string]int{}
		}
		t.effects[s.Meta.Mode][f.Class] += f.Effective
		t.effective += f.Effective
		t.slowest = max(t.slowest, f.Longest)
	}
}

// worse is the verdict of two that proves less.
func worse(a, b check.Verdict) check.Verdict {
	order := []check.Verdict{check.Valid, check.NotProved, check.Undecided, check.Invalid}
	return slices.MaxFunc([]check.Verdict{a, b}, func(a, b check.Verdict) int {
		return cmp.Compare(slices.Index(order, a), slices.Index(order, b))
	})
}

// verdict is what all of it proves.
func (t *tally) verdict(n nightly) check.Verdict {
	lacks := t.checked < n.least.checked || t.effective < n.least.effective || len(t.lacking()) > 0
	for _, mode := range modes {
		lacks = lacks || len(t.missing(mode)) > 0
	}
	if lacks {
		return worse(t.worst, check.NotProved)
	}
	return t.worst
}

// lacking names the kinds of runs that all saw too little.
func (t *tally) lacking() (all []kind) {
	for _, k := range kinds() {
		if proved, done := t.proved[k]; done && !proved {
			all = append(all, k)
		}
	}
	return all
}

var modes = []history.Mode{history.Strict, history.Tight}

// missing names the classes of faults that had no effect in a mode.
func (t *tally) missing(mode history.Mode) (classes []string) {
	for _, class := range nemesis.Classes() {
		if t.effects[mode][string(class)] == 0 {
			classes = append(classes, string(class))
		}
	}
	return classes
}

func (t *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d runs are valid: %d operations checked, %d faults that took effect, %d of %d keys undecided, slowest recovery %.1f s\n",
		t.valid, len(t.dirs), t.checked, t.effective, t.undecided, t.keys, t.slowest)
	for _, mode := range slices.Sorted(maps.Keys(t.effects)) {
		var parts []string
		for _, class := range slices.Sorted(maps.Keys(t.effects[mode])) {
			parts = append(parts, fmt.Sprintf("%s %d", class, t.effects[mode][class]))
		}
		fmt.Fprintf(&b, "faults that took effect in %s mode: %s\n", mode, strings.Join(parts, ", "))
	}
	for _, k := range t.lacking() {
		fmt.Fprintf(&b, "not proved: too little happened in the runs of %s in %s mode\n", k.workload, k.mode)
	}
	for _, mode := range modes {
		if missing := t.missing(mode); len(missing) > 0 {
			fmt.Fprintf(&b, "not proved: in %s mode no effect of faults of class %s\n", mode, strings.Join(missing, ", "))
		}
	}
	return b.String()
}
