package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// electionTimeout is that of the server, which has no flag for it.
const electionTimeout = time.Second

// elections draws a half, two or ten election timeouts.
func elections(rng *rand.Rand) time.Duration {
	return []time.Duration{electionTimeout / 2, electionTimeout / 2, 2 * electionTimeout, 2 * electionTimeout, 10 * electionTimeout}[rng.IntN(5)]
}

var pauseFaults = []Fault{
	{
		Name: "pause-leader", Class: Pause, Weight: 3, Hold: elections, About: "a shard's leader stands still for 0.5, 2 or 10 election timeouts",
		Do:   func(_ context.Context, a *Act) error { return a.pause(a.leader()) },
		Undo: undoPause, Effect: stands,
	},
	{
		Name: "pause-leader-with-queued-reads", Class: Pause, Weight: 3, Alone: []Class{Crash, Disk, Network},
		Hold:  func(*rand.Rand) time.Duration { return 0 },
		About: "a leader stands still until another has acknowledged writes, and goes on with reads waiting in its sockets",
		Do:    pauseForReads,
		Undo: func(ctx context.Context, a *Act) error {
			if a.queue != nil {
				defer a.queue.Close()
			}
			if len(a.Targets) == 0 {
				return nil
			}
			const lie = 30 * time.Millisecond // how long the reads lie there
			sent, answered := a.queue.Send(ctx, a.led, a.paused)
			wait(ctx, lie)
			err := undoPause(ctx, a)
			answered()
			if sent > 0 {
				a.show(fmt.Sprintf("%d reads of newer values waited at %s, which had led shards %v, when it went on", sent, a.Targets[0], a.led))
			}
			return err
		},
		Effect: func(context.Context, *Act) string { return "" }, // Undo knows
	},
	{
		Name: "pause-follower", Class: Pause, Weight: 1, Hold: elections, About: "a node that does not lead the shard stands still",
		Do:   func(_ context.Context, a *Act) error { return a.pause(a.follower()) },
		Undo: undoPause, Effect: stands,
	},
	{
		Name: "starve-cpu", Class: Pause, Weight: 1, Hold: seconds(2, 8), About: "a node, more often a leader, runs for a tenth of the time or less, some milliseconds at once",
		Do: func(_ context.Context, a *Act) error {
			node := a.someone()
			if err := a.pause(node); err != nil {
				return err
			}
			a.goOn(func(ctx context.Context) {
				for ctx.Err() == nil {
					wait(ctx, time.Duration(50+a.rng.IntN(100))*time.Millisecond)
					if a.n.sys.Resume(node) != nil { // somebody has killed it
						return
					}
					wait(ctx, 5*time.Millisecond)
					if ctx.Err() == nil && a.n.sys.Pause(node) != nil {
						return
					}
				}
			})
			return nil
		},
		Undo: undoPause,
		Effect: func(ctx context.Context, a *Act) string {
			if s := a.unable(ctx); s != "" {
				return s
			}
			return a.slower(ctx, 40*time.Millisecond)
		},
	},
	{
		Name: "pause-majority", Class: Pause, Weight: 1, About: "so many nodes stand still that no shard has a majority",
		Do:   func(_ context.Context, a *Act) error { return a.pause(a.Order[:a.majority()]...) },
		Undo: undoPause, Effect: stands,
	},
}

var crashFaults = []Fault{
	{
		Name: "kill-one", Class: Crash, Weight: 2, About: "kill -9 of a node, more often a leader, and a start later",
		Do:   func(_ context.Context, a *Act) error { return a.end(a.kill, a.someone()) },
		Undo: undoEnd, Effect: ended,
	},
	{
		Name: "kill-majority", Class: Crash, Weight: 1, About: "kill -9 of so many nodes at once that no shard has a majority",
		Do:   func(_ context.Context, a *Act) error { return a.end(a.kill, a.Order[:a.majority()]...) },
		Undo: undoEnd, Effect: ended,
	},
	{
		Name: "kill-all", Class: Crash, Weight: 1, Hold: seconds(0, 2), About: "kill -9 of all nodes at once",
		Do:   func(_ context.Context, a *Act) error { return a.end(a.kill, a.Order...) },
		Undo: undoEnd, Effect: ended,
	},
	{
		Name: "restart-storm", Class: Crash, Weight: 1, Hold: seconds(3, 8), About: "one node after another is killed and started again after a moment",
		Do: func(_ context.Context, a *Act) error {
			a.goOn(func(ctx context.Context) {
				for ctx.Err() == nil {
					node := a.Order[a.rng.IntN(len(a.Order))]
					if a.end(a.kill, node) != nil {
						return // Undo starts what does not run
					}
					wait(ctx, time.Duration(a.rng.IntN(600))*time.Millisecond)
					if undoEnd(ctx, a) != nil {
						return
					}
					wait(ctx, 300*time.Millisecond+time.Duration(a.rng.IntN(900))*time.Millisecond)
				}
			})
			return nil
		},
		Undo: undoEnd, Effect: ended,
	},
	{
		Name: "power-loss-one", Class: Crash, Weight: 2, Needs: Loop, About: "a node, more often a leader, loses power: what it did not sync is gone",
		Do:   func(_ context.Context, a *Act) error { return a.end(a.n.sys.PowerLoss, a.someone()) },
		Undo: undoEnd, Effect: ended,
	},
	{
		Name: "power-loss-majority", Class: Crash, Weight: 2, Needs: Loop, About: "so many nodes lose power at once that no shard has a majority",
		Do:   func(_ context.Context, a *Act) error { return a.end(a.n.sys.PowerLoss, a.Order[:a.majority()]...) },
		Undo: undoEnd, Effect: ended,
	},
	{
		Name: "rolling-restart", Class: Crash, Weight: 1, Hold: noTime, Alone: []Class{Disk},
		About: "an operator ends one node after another in order and starts it again, each once the one before is whole again",
		Do:    rollingRestart, Undo: undoEnd, Effect: ended,
	},
	{
		Name: "power-loss-all", Class: Crash, Weight: 2, Needs: Loop, Hold: seconds(0, 2), About: "all nodes lose power at once",
		Do:   func(_ context.Context, a *Act) error { return a.end(a.n.sys.PowerLoss, a.Order...) },
		Undo: undoEnd, Effect: ended,
	},
}

// rollingRestart restarts all nodes, one after the other. Where another fault keeps one from being whole, it goes on after a while.
func rollingRestart(ctx context.Context, a *Act) error {
	const patience = 10 * time.Second
	began := time.Now()
	var late []string
	for i, node := range a.Order {
		err := a.end(func(nodes ...string) error { return a.stop(ctx, nodes[0]) }, node)
		if errors.Is(err, cluster.ErrNotRunning) {
			continue // another fault has ended it
		}
		if err := errors.Join(err, undoEnd(ctx, a)); err != nil {
			return err
		}
		whole, cancel := context.WithTimeout(ctx, patience)
		if poll(whole, func() bool { return a.n.sys.Ready(whole, node) }) != nil {
			late = append(late, node)
		}
		cancel()
		a.show(fmt.Sprintf("%d of %d nodes were restarted in %.1f s", i+1, len(a.Order), time.Since(began).Seconds()))
		if ctx.Err() != nil {
			return nil
		}
	}
	if len(late) > 0 {
		a.show(fmt.Sprintf("%s; %v were not whole after %v", a.shown(), late, patience))
	}
	return nil
}

// pauseForReads pauses a leader until others lead all that it led and have acknowledged writes.
func pauseForReads(ctx context.Context, a *Act) error {
	ctx, cancel := context.WithTimeout(ctx, 12*electionTimeout)
	defer cancel()
	a.Shard = max(a.Shard, 1) // clients read nothing of the directory's
	leader := a.leader()
	a.gather(ctx, leader)
	for shard, r := range a.before {
		if shard != 0 && r.Leader == leader {
			a.led = append(a.led, shard)
		}
	}
	slices.Sort(a.led)
	a.queue = a.n.cfg.Queue(ctx, leader)
	if err := a.pause(leader); err != nil {
		return err
	}
	a.paused = a.n.cfg.Recorder.Now()
	// Soon, without a question to who can't answer: after some seconds its peers give up their links, and with
	// them goes what is old in its sockets.
	if err := poll(ctx, func() bool {
		now := a.n.leaders(ctx, leader)
		return !slices.ContainsFunc(a.led, func(shard uint64) bool { return now[shard].Leader == leader })
	}); err != nil {
		return fmt.Errorf("nobody took over: %w", err)
	}
	const writes = 30
	done := a.n.cfg.Done()
	if err := poll(ctx, func() bool { return a.n.cfg.Done() >= done+writes }); err != nil {
		return fmt.Errorf("no successes beside the paused leader: %w", err)
	}
	return nil
}

// gather has a node lead all data shards that it can, since each of them may confirm a read with what is old.
func (a *Act) gather(ctx context.Context, node string) {
	const limit = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all sync.WaitGroup
	for shard, r := range a.before {
		if shard != 0 && r.Leader != node && slices.Contains(r.Members, node) {
			// Whether it was done shows in who leads.
			all.Go(func() { _, _ = a.n.sys.Transfer(ctx, r.Leader, shard, node) })
		}
	}
	all.Wait()
	if now := a.n.leaders(context.WithoutCancel(ctx)); len(now) == len(a.before) {
		a.before = now
	}
}

// majority is how many nodes must be away so that a shard with all its members among them, or all nodes, has no majority.
func (a *Act) majority() int { return len(a.Order) - (len(a.Order)-1)/2 }

// pause stops nodes where they are, those that run.
func (a *Act) pause(nodes ...string) error {
	var err error
	for _, node := range nodes {
		if a.n.sys.Running(node) {
			a.Targets = append(a.Targets, node)
			err = errors.Join(err, a.n.sys.Pause(node))
		}
	}
	if len(a.Targets) == 0 {
		return fmt.Errorf("%v: %w", nodes, cluster.ErrNotRunning)
	}
	return err
}

// undoPause lets the targets go on. One that was killed meanwhile has nothing to go on with.
func undoPause(_ context.Context, a *Act) error {
	var err error
	for _, node := range a.Targets {
		if a.n.sys.Running(node) {
			err = errors.Join(err, a.n.sys.Resume(node))
		}
	}
	return err
}

// stands says that none of the targets answers.
func stands(ctx context.Context, a *Act) string {
	asked, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	silent := 0
	for _, node := range a.Targets {
		if a.n.sys.Running(node) && a.n.sys.Alive(asked, node) != nil {
			silent++
		}
	}
	if silent < len(a.Targets) || ctx.Err() != nil {
		return ""
	}
	return fmt.Sprintf("%v stood still: no answer of any kind", a.Targets)
}

// kill ends nodes as kill -9 does, all at once.
func (a *Act) kill(nodes ...string) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() { errs[i] = a.n.sys.Kill(node) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// end ends nodes, those that run, by how.
func (a *Act) end(how func(...string) error, nodes ...string) error {
	var running []string
	for _, node := range nodes {
		if !a.n.sys.Running(node) {
			continue
		}
		running = append(running, node)
		a.n.keep(node)
		a.killed = append(a.killed, node)
		if !slices.Contains(a.Targets, node) {
			a.Targets = append(a.Targets, node)
		}
	}
	if len(running) == 0 {
		return fmt.Errorf("%v: %w", nodes, cluster.ErrNotRunning)
	}
	if err := how(running...); err != nil {
		return err
	}
	a.show(fmt.Sprintf("the processes of %v ended", running))
	return nil
}

// undoEnd starts what end ended, unless another act has ended it for good meanwhile.
func undoEnd(_ context.Context, a *Act) error {
	var err error
	for _, node := range a.killed {
		if !a.n.sys.Running(node) && !a.n.isBroken(node) {
			err = errors.Join(err, a.n.sys.Start(node))
		}
		a.n.release(node)
	}
	a.killed = nil
	return err
}

func ended(_ context.Context, a *Act) string { return a.shown() }
