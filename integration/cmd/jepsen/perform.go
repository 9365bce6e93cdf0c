package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
	"github.com/larder-cache/larder/integration/workload"
)

// runner is one run.
type runner struct {
	o        options
	plan     nemesis.Plan
	dir      string
	cluster  *cluster.Cluster
	system   *system
	recorder *history.Recorder
	load     *workload.Load
	done     func() int64 // the load's successes
	nemesis  *nemesis.Nemesis
	samples  *sampler
	pulses   pulses

	remove func() error // of the binary

	run  history.Run
	rate float64 // of the clients' successes a second when all is well
}

const (
	// readyTime bounds the start of the cluster, warmTime what the clients may take to reach their rate, finalTime
	// the reads of all keys at the end: there may be many.
	readyTime = 60 * time.Second
	warmTime  = 20 * time.Second
	finalTime = 5 * time.Minute
	// limitMore is how much longer than its faults a run may take before its cluster is killed.
	limitMore = 10 * time.Minute
)

// perform makes a run and returns its verdict and its folder.
func perform(ctx context.Context, o options) (check.Verdict, string, error) {
	r := &runner{o: o}
	if err := r.prepare(); err != nil {
		return "", r.dir, err
	}
	if err := r.open(ctx); err != nil {
		return "", r.dir, err
	}
	r.fire(ctx)
	if err := errors.Join(r.cluster.Close(), r.remove()); err != nil {
		r.fail("closing the cluster: %v", err)
	}
	r.lookForPanics()
	if err := r.run.Write(r.dir); err != nil {
		return "", r.dir, err
	}
	verdict, err := judge(r.dir, &r.run, o.say)
	if err == nil && verdict == check.Valid && !o.keep {
		err = r.removeData()
	}
	return verdict, r.dir, err
}

// prepare makes the plan, prints it, and writes it to the run's folder.
func (r *runner) prepare() error {
	o := &r.o
	have := resolve(o)
	var err error
	planned := nemesis.Options{
		Have: have, Nodes: o.nodes, Replicas: o.replicas, Shards: o.shards, Delay: o.delay,
		Faults: o.nemesis, Rounds: o.rounds, MemoryOnly: o.memoryOnly,
	}
	if o.workload == "admin" {
		// Where no node is free operators can only take members away, and who is cut off then may be one too many.
		planned.Nodes, planned.Replicas = cmp.Or(o.nodes, 5), cmp.Or(o.replicas, 3)
	}
	if o.roomMode() == history.Tight {
		planned.Shards = cmp.Or(o.shards, tightShards)
	}
	if planned.Rounds == 0 {
		planned.Rounds = int(o.time/shortestRound) + 1
	}
	if len(o.nemesis) == 1 && o.nemesis[0] == noFaults {
		planned.Faults, planned.Rounds = nil, 0
	}
	if r.plan, err = nemesis.NewPlan(o.seed, planned); err != nil {
		return err
	}
	if r.dir, err = filepath.Abs(filepath.Join(o.out, fmt.Sprintf("%s-%s-%d", time.Now().Format("20060102-150405"), o.workload, o.seed))); err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r.plan, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(o.say, "%s, %s, net %s, disk %s, reads by %s, logs %s\n%v", o.workload, o.roomMode(), o.net, o.disk, o.reads(), o.logs(), r.plan)
	return os.WriteFile(filepath.Join(r.dir, "plan.json"), append(data, '\n'), 0o644)
}

// shortestRound is about what a round takes at least.
const shortestRound = 2 * time.Second

// open builds the binary, starts the cluster and all that watches it.
func (r *runner) open(ctx context.Context) error {
	o, k := r.o, r.plan.Knobs
	binary, remove, err := binaryOf(o, o.bug != "" || wantsBuild(r.plan.Enabled))
	if err != nil {
		return err
	}
	r.remove = remove
	args := k.Flags()
	if o.roomMode() == history.Tight {
		args = append(args, "--shard-bytes", strconv.Itoa(tightBytes))
	}
	args = append(args, "--read-mode", o.reads())
	if o.memoryOnly {
		args = append(args, "--memory-only")
	}
	if movesMembers(r.plan.Enabled) { // the directory would give each shard its number of members back
		args = append(args, "--balance", "off")
	}
	var env []string
	if o.bug != "" {
		env = append(env, "LARDER_FAULTS="+o.bug)
	}
	r.cluster, err = cluster.Open(cluster.Config{
		Binary: binary, Nodes: k.Nodes, Replicas: k.Replicas, Shards: k.Shards,
		Net: cluster.Net(o.net), Disk: cluster.Disk(o.disk), Delay: k.Delay, Jitter: k.Jitter, Seed: o.seed,
		Args: args, StartArgs: o.logFlags, Env: env, Limit: o.time + limitMore, Dir: filepath.Join(r.dir, "nodes"),
	})
	if err != nil {
		return errors.Join(err, remove())
	}
	if err := r.begin(ctx, binary); err != nil {
		return errors.Join(err, r.cluster.Close(), remove())
	}
	return nil
}

// tightBytes is the room of a shard that has too little of it, tightShards how many shards the clients can fill.
const (
	tightBytes  = 64 << 10
	tightShards = 2
)

// begin waits until all nodes are ready, and starts clients, sampler and nemesis.
func (r *runner) begin(ctx context.Context, binary string) error {
	if err := r.cluster.StartAll(ctx, readyTime); err != nil {
		return err
	}
	r.recorder = history.NewRecorder()
	var err error
	if r.system, err = newSystem(ctx, r.cluster, r.plan.Knobs, r.plan.Invites()); err != nil {
		return err
	}
	r.run.Meta = r.meta(binary)
	r.nemesis = nemesis.New(r.system, nemesis.Config{
		Recorder: r.recorder, Knobs: r.plan.Knobs,
		Done:   func() int64 { return r.done() },
		Writes: r.writes,
		Queue:  r.queue,

		Operated: r.o.workload == "admin", MemoryOnly: r.o.memoryOnly,
	})
	o := r.o
	nodes := len(r.system.founders)
	pinned := max(1, o.clients*2/3/nodes)
	// The load goes on when the run is interrupted: its end is a part of the run.
	r.load = workload.Start(context.WithoutCancel(ctx), r.recorder, workload.Config{
		Workload: o.workload, Targets: cluster.Targets(r.system.founders), Dial: r.cluster.Dial, Nodes: r.system.founders,
		Pinned: pinned, Roaming: max(0, o.clients-pinned*nodes), Keys: keysFor(o.clients), Prefix: "k",
		Timeout: clientTimeout, Rate: o.rate, Seed: o.seed, Tight: o.roomMode() == history.Tight,
		SteadyClocks: !wantsBuild(r.plan.Enabled),
	})
	r.done = r.load.Done
	r.samples = watch(r.system, r.recorder, r.nemesis)
	return nil
}

// clientTimeout is about what a client waits for an answer: above what a write takes on a slow disk, below an
// election, so that outcomes become unknown.
const clientTimeout = 600 * time.Millisecond

// keysFor keeps about three clients on a key, so that there are conflicts and an order can be found.
func keysFor(clients int) int { return max(4, clients) }

// fire warms up, does the rounds and ends the run.
func (r *runner) fire(ctx context.Context) {
	stopLoad := sync.OnceFunc(r.load.Stop)
	defer stopLoad()
	taking, stopTaking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTaking()
	go r.pulses.take(taking, r)
	if !r.warm(ctx) {
		r.note("the clients did not reach %.0f successes a second in %v", r.o.least, warmTime)
	} else {
		r.rounds(ctx)
	}
	r.end(ctx)
	stopLoad()
	r.converge(context.WithoutCancel(ctx))
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalTime)
	defer cancel()
	var err error
	if r.run.Final, err = r.load.Finish(final); err != nil {
		r.fail("the final reads: %v", err)
	}
	r.run.Ops = r.recorder.Operations()
	for _, d := range r.recorder.Defects() {
		r.run.Defects = append(r.run.Defects, d.Error())
	}
	for _, v := range r.nemesis.Violations() {
		r.fail("%s", v)
	}
	var failures []string
	r.run.Samples, failures = r.samples.stop()
	r.run.Failures = append(r.run.Failures, failures...)
	if r.o.logs() == mixedLogs {
		r.run.Meta.Flags["log-stores"] = r.o.logsOf(r.cluster.Nodes)
	}
	r.run.Meta.Flags[leastFaults] = strconv.Itoa((len(r.run.Faults) + 1) / 2)
}

// warm waits until the clients have their rate, and measures it.
func (r *runner) warm(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, warmTime)
	defer cancel()
	rates := newMeter(r.done)
	for ctx.Err() == nil {
		sleep(ctx, meterTime)
		before := r.rate
		r.rate = rates.rate()
		// While connections are opened each second is faster than the one before.
		if before > 0 && r.rate >= r.o.least && r.rate < 1.3*before {
			r.rate = min(r.rate, before)
			break
		}
	}
	r.note("%.0f successes a second", r.rate)
	return r.rate >= r.o.least
}

// rounds does the plan's rounds, one after the other, as long as there is time.
func (r *runner) rounds(ctx context.Context) {
	end := time.Now().Add(r.o.time)
	if len(r.plan.Rounds) == 0 {
		sleep(ctx, r.o.time)
	}
	for i, round := range r.plan.Rounds {
		if ctx.Err() != nil || r.o.rounds == 0 && time.Now().After(end) {
			return
		}
		if r.o.memoryOnly { // what the last round made its members forget is to be with them again before another can be lost for good
			if err := r.whole(ctx); err != nil && ctx.Err() == nil {
				r.fail("before round %d, after %v: %v", i+1, convergeTime, err)
			}
		}
		faults := make([]history.Fault, len(round.Steps))
		var all sync.WaitGroup
		for j, step := range round.Steps {
			all.Go(func() { faults[j] = r.nemesis.Do(ctx, step) })
		}
		all.Wait()
		if err := r.nemesis.Mend(); err != nil {
			r.fail("mending round %d: %v", i+1, err)
		}
		last := slices.MaxFunc(faults, func(f, g history.Fault) int { return cmp.Compare(f.Healed, g.Healed) }).Healed
		back, ok := r.recover(ctx, cmp.Or(last, r.recorder.Now()))
		for j := range faults {
			if faults[j].Healed == last { // whoever was undone before was not alone
				faults[j].Recovered = back
			}
			r.tell(i+1, faults[j], ok)
		}
		r.run.Faults = append(r.run.Faults, faults...)
		for _, f := range faults {
			if strings.Contains(f.Err, nemesis.NotUndone) {
				r.fail("round %d, %s: %s", i+1, f.Name, f.Err)
			}
		}
		if !ok && ctx.Err() == nil {
			r.fail("after round %d (%s) the clients' successes were not back in %v: %s", i+1, names(faults), recoverTime, r.system.describe(context.WithoutCancel(ctx)))
		}
	}
}

// tell prints a line about a fault; ok: the clients' successes are back.
func (r *runner) tell(round int, f history.Fault, ok bool) {
	what := f.Effect
	switch {
	case f.Err != "":
		what = "failed: " + f.Err
	case what == "":
		what = "no effect seen"
	}
	end := ""
	switch {
	case !ok:
		end = "; the clients' successes are not back"
	case f.Recovered != 0:
		end = fmt.Sprintf("; back after %.1f s", (f.Recovered - f.Healed).Seconds())
	}
	fmt.Fprintf(r.o.say, "%6.1f s  %d  %s %s, %.1f s: %s%s\n", f.Start.Seconds(), round, f.Name, strings.Join(f.Targets, " "), (f.Healed - f.Start).Seconds(), what, end)
}

func names(faults []history.Fault) string {
	var all []string
	for _, f := range faults {
		all = append(all, f.Name)
	}
	return strings.Join(all, " and ")
}

// note prints a line.
func (r *runner) note(format string, args ...any) {
	at := 0.0
	if r.recorder != nil {
		at = r.recorder.Now().Seconds()
	}
	fmt.Fprintf(r.o.say, "%6.1f s  %s\n", at, fmt.Sprintf(format, args...))
}

// fail records why the run could not be carried through, which no verdict survives.
func (r *runner) fail(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	r.run.Failures = append(r.run.Failures, s)
	r.note("FAILURE: %s", s)
}

// meta is what the run was asked to do.
func (r *runner) meta(binary string) history.Meta {
	o, k := r.o, r.plan.Knobs
	m := history.Meta{
		Workload: o.workload, Nemeses: r.plan.Enabled, Mode: o.roomMode(), Seed: o.seed, Shards: k.Shards,
		Net: o.net, Disk: o.disk, Bug: o.bug, Time: o.time, Started: time.Now(), Version: versionOf(binary), Given: o.given,
		Flags: map[string]string{
			leastRate: strconv.FormatFloat(o.least, 'g', -1, 64), leastFaults: "1",
			"replicas": strconv.Itoa(k.Replicas), "delay": k.Delay.String(), "jitter": k.Jitter.String(),
			"clients": strconv.Itoa(o.clients), "rate": strconv.Itoa(o.rate),
		},
	}
	flags := k.Flags()
	for i := 0; i+1 < len(flags); i += 2 {
		m.Flags[strings.TrimPrefix(flags[i], "--")] = flags[i+1]
	}
	if o.roomMode() == history.Tight {
		m.Flags["shard-bytes"] = strconv.Itoa(tightBytes)
	}
	m.Flags["read-mode"] = o.reads()
	if o.memoryOnly {
		m.Flags["memory-only"] = "true"
	}
	m.Flags["log-store"] = o.logs()
	for _, n := range r.cluster.Nodes {
		m.Nodes = append(m.Nodes, n.ID)
	}
	return m
}

// sleep returns after d or when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
