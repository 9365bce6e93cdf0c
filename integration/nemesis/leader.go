package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

var leaderFaults = []Fault{
	{
		Name: "transfer-leader", Class: Leaders, Weight: 2, Hold: seconds(3, 8), About: "an operator hands leadership of a shard over, again and again",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			a.goOn(func(ctx context.Context) {
				for i := 0; ctx.Err() == nil; i++ {
					asked, cancel := context.WithTimeout(ctx, 3*time.Second)
					// Whether it was done shows in who leads.
					_, _ = a.n.sys.Transfer(asked, a.Order[a.rng.IntN(len(a.Order))], a.Shard, a.Order[i%len(a.Order)])
					cancel()
					wait(ctx, 200*time.Millisecond+time.Duration(a.rng.IntN(800))*time.Millisecond)
				}
			})
			return nil
		},
		Undo: nothing, Effect: func(ctx context.Context, a *Act) string { return a.moved(ctx) },
	},
	{
		Name: "transfer-under-cut", Class: Leaders, Weight: 1, Alone: []Class{Network, Pause, Crash}, Hold: seconds(2, 6),
		About: "an operator hands leadership over to a node that can't be reached, and the leader is cut off while it tries",
		Do: func(ctx context.Context, a *Act) error {
			leader, to := a.leader(), a.follower()
			a.Targets = []string{leader, to}
			if err := a.cut(a.around(to)); err != nil {
				return err
			}
			a.goOn(func(ctx context.Context) {
				asked, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				answer, err := a.n.sys.Transfer(asked, leader, a.Shard, to)
				said := answer.String()
				if err != nil {
					said = "no answer"
				}
				if ctx.Err() == nil {
					a.show(fmt.Sprintf("%s was asked to hand shard %d over to %s, which it could not reach: %s", leader, a.Shard, to, said))
				}
			})
			wait(ctx, 200*time.Millisecond+time.Duration(a.rng.IntN(500))*time.Millisecond)
			return a.cut(append(a.around(to), a.around(leader)...))
		},
		Undo: undoCut, Effect: hurt,
	},
}

var snapshotFaults = []Fault{
	{
		Name: "force-snapshot", Class: Snapshot, Weight: 2, Hold: noTime, Alone: []Class{Crash, Disk, Pause, Network},
		About: "a follower is cut off until the others have dropped the log that it needs",
		Do:    func(ctx context.Context, a *Act) error { return a.outrun(ctx, a.follower()) },
		Undo:  undoCut, Effect: installed,
	},
	{
		Name: "snapshot-after-divergence", Class: Snapshot, Weight: 2, Hold: noTime, Alone: []Class{Crash, Disk, Pause, Network},
		About: "a leader, with entries that nobody else has, is cut off until the others have dropped the log that it needs",
		Do:    func(ctx context.Context, a *Act) error { return a.outrun(ctx, a.leader()) },
		Undo:  undoCut, Effect: installed,
	},
}

func nothing(context.Context, *Act) error { return nil }

// noTime is for faults whose Do waits for what matters.
func noTime(*rand.Rand) time.Duration { return 0 }

// snapshotLine is what a node logs of a replica whose log was replaced by a snapshot.
const snapshotLine = "log replaced by snapshot"

// outrun cuts a node off until the others have written so much that they keep no entry which it needs next.
func (a *Act) outrun(ctx context.Context, node string) error {
	const limit = 15 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a.Targets = []string{node}
	var err error
	if a.lines, err = a.n.sys.Logged(node, snapshotLine); err != nil {
		return err
	}
	if err := a.cut(a.around(node)); err != nil {
		return err
	}
	// A snapshot is taken within a while of its threshold, at twice of it at the latest.
	k := a.n.cfg.Knobs
	enough := uint64(2*k.SnapshotThreshold + k.TrailingLogs)
	if err := poll(ctx, func() bool {
		wait(ctx, 2*sleep)
		for shard, applied := range a.n.applied(ctx, node) {
			was, known := a.before[shard]
			if known && shard != 0 && slices.Contains(was.Members, node) && applied > was.Applied+enough {
				return true
			}
		}
		return false
	}); err != nil {
		return fmt.Errorf("no shard got %d entries further without %s in %v", enough, node, limit)
	}
	return nil
}

// applied returns how far each shard is at any node but one.
func (n *Nemesis) applied(ctx context.Context, but string) map[uint64]uint64 {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	most := map[uint64]uint64{}
	for _, node := range n.sys.Nodes() {
		if node == but || !n.sys.Running(node) {
			continue
		}
		replicas, err := n.sys.Replicas(ctx, node)
		if err != nil {
			continue
		}
		for _, r := range replicas {
			most[r.Shard] = max(most[r.Shard], r.Applied)
		}
	}
	return most
}

// installed waits, once the target is back, until it has a snapshot of the others.
func installed(ctx context.Context, a *Act) string {
	if len(a.n.cutBy(a)) > 0 {
		return ""
	}
	const limit = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	lines := a.lines
	if err := poll(ctx, func() bool {
		now, err := a.n.sys.Logged(a.Targets[0], snapshotLine)
		lines = now
		return err == nil && now > a.lines
	}); err != nil {
		return ""
	}
	return fmt.Sprintf("%d replicas of %s got a snapshot when it was back", lines-a.lines, a.Targets[0])
}

// cutBy returns the links that an act has cut.
func (n *Nemesis) cutBy(a *Act) []pair {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts[a]
}
