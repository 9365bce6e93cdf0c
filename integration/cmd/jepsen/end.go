package main

import (
	"context"
	"errors"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

const (
	// brokenTime is how long all is broken at the end.
	brokenTime = 2 * time.Second
	// progressTime is within what every shard must serve once a majority is mended; convergeTime within what all
	// replicas must be equal once all are.
	progressTime = 10 * time.Second
	convergeTime = 30 * time.Second
)

// end breaks everything, mends a majority, which must make progress, and mends the rest.
func (r *runner) end(ctx context.Context) {
	if ctx.Err() != nil {
		r.note("interrupted: the run ends here")
		if err := r.nemesis.Mend(); err != nil {
			r.fail("mending: %v", err)
		}
		return
	}
	if err := r.whole(ctx); err != nil && ctx.Err() == nil {
		r.fail("before the last fault, after %v: %v", convergeTime, err)
	}
	last := r.plan.Last
	f := history.Fault{Name: "heal-majority", Class: "network", Targets: last.Away, Start: r.recorder.Now()}
	if err := r.nemesis.Break(last); err != nil {
		r.fail("breaking everything: %v", err)
	}
	sleep(ctx, brokenTime)
	if r.system.servedBy(ctx, last.Away) == 0 {
		f.Effect = "no shard could be read when no two nodes heard each other"
	}
	mended := r.recorder.Now()
	if err := r.nemesis.MendMost(last); err != nil {
		r.fail("mending a majority: %v", err)
	}
	f.Recovered = r.progress(ctx, last.Away)
	if f.Recovered == 0 && ctx.Err() == nil {
		r.fail("no progress in %v after a majority was mended (%s %s): %s", progressTime, last.Away, last.How, r.system.describe(ctx))
	}
	if f.Recovered != 0 {
		r.note("everything broken, then a majority mended (%s %s): all shards served after %.1f s", last.Away, last.How, (f.Recovered - mended).Seconds())
	}
	if err := r.nemesis.MendRest(last); err != nil {
		r.fail("mending the rest: %v", err)
	}
	f.Healed = r.recorder.Now()
	r.run.Faults = append(r.run.Faults, f)
	if _, ok := r.recover(ctx, f.Healed); !ok && ctx.Err() == nil {
		r.fail("after all was mended the clients' successes were not back in %v: %s", recoverTime, r.system.describe(ctx))
	}
}

// whole waits until each shard has all its voters: what is away in the last fault is then a minority of each, which
// it may not be of one that a member has yet to join.
func (r *runner) whole(ctx context.Context) error {
	want := r.replicas()
	if want == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, convergeTime)
	defer cancel()
	for shard := range uint64(r.plan.Knobs.Shards) {
		for {
			err := r.system.voters(ctx, shard+1, want)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return err
			}
			sleep(ctx, 200*time.Millisecond)
		}
	}
	return nil
}

// progress waits until every shard is read at nodes that are not away, and clients have had successes since, and returns
// when that was so, or 0.
func (r *runner) progress(ctx context.Context, away []string) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, progressTime)
	defer cancel()
	const successes = 20
	done := r.done()
	for ctx.Err() == nil {
		if r.system.servedBy(ctx, away) == r.plan.Knobs.Shards && r.done() >= done+successes {
			return r.recorder.Now()
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return 0
}

// converge waits until all replicas of each shard have the same state at the same place of its log.
func (r *runner) converge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, convergeTime)
	defer cancel()
	for shard := range uint64(r.plan.Knobs.Shards) {
		var ends []history.Sample
		err := errors.New("not asked")
		for ctx.Err() == nil && err != nil {
			if ends, err = r.system.checksums(ctx, shard+1, r.replicas()); err != nil {
				sleep(ctx, 200*time.Millisecond)
			}
		}
		for i := range ends {
			ends[i].At = r.recorder.Now()
		}
		r.run.Ends = append(r.run.Ends, ends...)
		if err != nil {
			r.fail("the replicas of shard %d did not converge in %v: %v", shard+1, convergeTime, err)
		}
	}
	r.note("%d replicas of %d shards compared", len(r.run.Ends), r.plan.Knobs.Shards)
}

// replicas is how many each shard must have at the end, 0 where clients change that.
func (r *runner) replicas() int {
	if r.o.workload == "admin" {
		return 0
	}
	return r.plan.Knobs.Replicas
}
