package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/integration/check"
)

// seeded is a bug of the server (fault.go of shard and directory says what each does wrong) and a run that finds it.
type seeded struct {
	bug  string   // "": none, the run must be valid
	args []string // of jepsen run
	// finds are the checks of which at least one must find something.
	finds []string
}

// The checks that see what a client was told wrong.
var answers = []string{"linearizable", "certificate", "durable"}

// virtualBugs are found by the schedules in virtual time, or by tests that arrange what they take, in packages shard and directory
// (TestSeededBugs, TestSeededBugsShow). On real processes what they take is too rare: one pause of a leader in twenty shows
// verify-leader-reads, for which TestPauseQueuedReadsFindsVerifyLeader has the patience. checksum-silent does no harm by itself.
var virtualBugs = []string{"verify-leader-reads", "late-join", "self-counted", "learners-counted", "ack-unknown", "checksum-silent", "no-prev-index",
	"promise-forgotten", "promise-broken", "promise-overruled", "lease-over-handover", "apply-unsynced", "tell-unsynced", "ack-unsynced"}

// seededBugs are the bugs that runs on real processes must find.
//
// Bugs of transfers and watches get their rows with the features: a source that is not fenced, deletes made during the
// copy that are forgotten, events dropped silently.
var seededBugs = []seeded{
	{"", []string{"--workload=register", "--nemesis=pause-leader,kill-one,partition-leader,transfer-leader,clock-jump"}, nil},
	{"local-reads", []string{"--workload=register", "--nemesis=pause-leader-with-queued-reads,partition-leader", "--read-mode=probe"}, answers},
	{"lease-endless", []string{"--workload=register", "--nemesis=pause-leader-with-queued-reads,partition-leader", "--read-mode=lease"}, answers},
	{"lease-long", []string{"--workload=register", "--nemesis=pause-leader-with-queued-reads,partition-leader", "--read-mode=lease"}, answers},
	{"stale-owner", []string{"--workload=register", "--nemesis=partition-leader,pause-leader"}, answers},
	{"follower-local", []string{"--workload=follower", "--nemesis=partition-minority,pause-follower"}, answers},
	{"no-read-index", []string{"--workload=follower", "--nemesis=delay,partition-leader"}, answers},
	{"ready-at-election", []string{"--workload=register", "--nemesis=kill-one,pause-leader"}, answers},
	{"condition-outside", []string{"--workload=register", "--nemesis=partition-leader"}, answers},
	{"bounded-age", []string{"--workload=bounded", "--nemesis=partition-minority,pause-follower"}, []string{"bounded"}},
	{"ack-early", []string{"--workload=durable", "--nemesis=partition-leader,kill-one"}, answers},
	{"unknown-refused", []string{"--workload=register", "--nemesis=partition-leader,kill-one"}, answers},
	{"no-dedup", []string{"--workload=idempotency", "--nemesis=pause-leader,partition-leader"}, nil},
	{"no-sync", []string{"--workload=durable", "--nemesis=power-loss-all,power-loss-majority", "--log-store=bolt"}, nil},
	{"no-sync", []string{"--workload=durable", "--nemesis=power-loss-all,power-loss-majority", "--log-store=shared"}, nil},
	{"volatile-log", []string{"--workload=durable", "--nemesis=kill-all,kill-majority"}, answers},
	{"returns-wiped", []string{"--workload=durable", "--nemesis=kill-majority"}, answers},
	{"same-incarnation", []string{"--workload=durable", "--nemesis=wipe-and-replace"}, nil},
	{"two-changes", []string{"--workload=register", "--nemesis=two-operators"}, nil},
	{"ttl-by-own-clock", []string{"--workload=ttl", "--nemesis=clock-jump,transfer-leader"}, nil},
	{"expire-blindly", []string{"--workload=ttl", "--nemesis=delay", "--clients=40", "--rate=2000"}, nil}, // it takes two at one key
	{"own-clock", []string{"--workload=ttl", "--nemesis=clock-jump"}, nil},
	{"own-recency", []string{"--workload=evict", "--nemesis=transfer-leader,kill-one"}, nil},
	{"own-evictions", []string{"--workload=evict", "--nemesis=transfer-leader,kill-one"}, nil},
	{"restore-no-order", []string{"--workload=evict", "--nemesis=force-snapshot,kill-one"}, nil},
	{"restore-no-keys", []string{"--workload=idempotency", "--nemesis=force-snapshot,kill-one,pause-leader"}, nil},
	{"restore-merges", []string{"--workload=register", "--nemesis=force-snapshot"}, nil},
}

// name tells the row from the others.
func (b seeded) name() string {
	name := cmp.Or(b.bug, noBug)
	for _, arg := range b.args {
		if store, ok := strings.CutPrefix(arg, "--log-store="); ok {
			name += "-" + store
		}
	}
	return name
}

// selftest is how the bugs are looked for.
type selftest struct {
	bugs  []string // none: all
	tries int
	args  []string // of jepsen run, for all
	out   string
	seed  uint64
	say   io.Writer
}

func selftestCommand() *cobra.Command {
	var s selftest
	var network string
	var limit time.Duration
	c := &cobra.Command{
		Use: "selftest", Short: "Run clusters with seeded bugs, each of which must be found, and one without", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s.say = c.OutOrStdout()
			s.args = []string{"--net=" + network, "--time=" + limit.String()}
			return s.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringSliceVar(&s.bugs, "bug", nil, "bugs to look for, none for the run without any (default all)")
	f.IntVar(&s.tries, "tries", 3, "runs in which a bug must be found")
	f.DurationVar(&limit, "time", 30*time.Second, "how long faults are done in each run")
	f.StringVar(&network, "net", "auto", "as in jepsen run")
	f.StringVar(&s.out, "out", "out", "folder in which the runs' folders are made")
	f.Uint64Var(&s.seed, "seed", 1, "of the first try")
	return c
}

// noBug names the run without a bug.
const noBug = "none"

// run looks for all bugs and tells of each; an error names those that were not found.
func (s selftest) run(ctx context.Context) error {
	for _, name := range s.bugs {
		switch {
		case slices.ContainsFunc(seededBugs, func(b seeded) bool { return cmp.Or(b.bug, noBug) == name }):
		case slices.Contains(virtualBugs, name):
			fmt.Fprintf(s.say, "%s is not looked for on real processes\n", name)
		default:
			return fmt.Errorf("there is no bug %q", name)
		}
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	binary, remove, err := binaryOf(options{}, true)
	if err != nil {
		return err
	}
	s.args = append(s.args, "--binary="+binary, "--out="+s.out)
	var missed []string
	table := tabwriter.NewWriter(s.say, 18, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BUG\tFOUND BY\tTRIES\tTIME\t")
	for _, b := range seededBugs {
		if len(s.bugs) > 0 && !slices.Contains(s.bugs, cmp.Or(b.bug, noBug)) {
			continue
		}
		name := b.name()
		begun := time.Now()
		what, tries, err := s.hunt(ctx, b)
		if err != nil {
			missed = append(missed, name)
			what = err.Error()
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%.0f s\t\n", name, what, tries, time.Since(begun).Seconds())
		err = errors.Join(table.Flush(), ctx.Err())
		if err != nil {
			return errors.Join(err, remove())
		}
	}
	if len(missed) > 0 {
		err = fmt.Errorf("not as it must be: %s", strings.Join(missed, ", "))
	}
	return errors.Join(err, remove())
}

// hunt runs b's run until it finds the bug, and returns what found it and in how many tries. The run without a bug is
// done once.
func (s selftest) hunt(ctx context.Context, b seeded) (found string, tries int, err error) {
	verdict := check.NotProved
	for tries < s.tries && ctx.Err() == nil {
		tries++
		var dir string
		if verdict, dir, err = s.try(ctx, b, s.seed+uint64(tries-1)); err != nil {
			return "", tries, err
		}
		by, err := foundBy(dir)
		switch {
		case err != nil:
			return "", tries, err
		case b.bug == "" && verdict == check.Valid:
			return "nothing, as it must be", tries, nil
		case b.bug == "":
			return "", tries, fmt.Errorf("%s without a bug: %s (%s)", verdict, strings.Join(by, ", "), dir)
		case verdict == check.Invalid && b.found(by):
			return strings.Join(by, ", "), tries, nil
		}
	}
	return "", tries, fmt.Errorf("NOT FOUND, the last verdict is %s", verdict)
}

// found reports whether these checks are a find of b.
func (b seeded) found(by []string) bool {
	return len(b.finds) == 0 || slices.ContainsFunc(by, func(name string) bool { return slices.Contains(b.finds, name) })
}

// try does one run. What it says goes to a file beside its folder.
func (s selftest) try(ctx context.Context, b seeded, seed uint64) (check.Verdict, string, error) {
	log, err := os.Create(filepath.Join(s.out, fmt.Sprintf("selftest-%s-%d.txt", b.name(), seed)))
	if err != nil {
		return "", "", err
	}
	defer log.Close()
	o := options{say: log}
	c := newRunCommand(&o)
	// Three nodes of few shards: more of the clients meet each fault.
	args := append([]string{"--nodes=3", "--shards=2", fmt.Sprintf("--seed=%d", seed), "--bug=" + b.bug}, b.args...)
	if err := c.ParseFlags(append(args, s.args...)); err != nil {
		return "", "", err
	}
	if err := o.validate(); err != nil {
		return "", "", err
	}
	o.given = given(c)
	return perform(ctx, o)
}

// foundBy returns the names of the checks that found something wrong in the run of a folder.
func foundBy(dir string) (names []string, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "verdict.json"))
	if err != nil {
		return nil, err
	}
	var v check.Report
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	for _, c := range v.Checks {
		if c.Verdict == check.Invalid {
			names = append(names, c.Name)
		}
	}
	return names, nil
}
