package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

var directoryFaults = []Fault{
	{
		Name: "directory-loss", Class: Crash, Weight: 1, Needs: Spare | Settings, Alone: []Class{Members, Disk}, Hold: noTime,
		About: "two of the directory's three members are killed or stand still: nothing changes any more, and shards go on as far as they have a majority",
		Do: func(ctx context.Context, a *Act) error {
			return a.loseDirectory(ctx, a.Size >= 0.5)
		},
		Undo: undoDirectory, Effect: ended,
	},
	{
		Name: "directory-rebuild", Class: Crash, Weight: 1, Needs: Spare | Settings, Alone: []Class{Members, Disk}, Hold: noTime,
		About: "two of the directory's three members are killed, and it is rebuilt on another node; they start again later, with what they had, and fall in line",
		Do:    rebuildDirectory, Undo: undoDirectory, Effect: func(context.Context, *Act) string { return "" }, // Do knows
	},
}

// directoryMembers is how many the directory keeps for the fault, so that its majority is not that of all nodes.
const directoryMembers = 3

// loseDirectory takes the directory's quorum away, by killing two of its members or by having them stand still, and sees that shards which have theirs go on.
func (a *Act) loseDirectory(ctx context.Context, kill bool) error {
	former := map[uint64][]string{}
	for shard := range uint64(a.n.cfg.Knobs.Shards + 1) {
		voters, err := a.votersOf(ctx, shard)
		if err != nil {
			return err
		}
		former[shard] = voters
	}
	a.former = former
	victims := a.victims()
	keep := victims
	for _, node := range a.Order {
		if len(keep) < directoryMembers && !slices.Contains(keep, node) && a.n.sys.Running(node) {
			keep = append(keep, node)
		}
	}
	if err := a.set(ctx, "balance", "off"); err != nil {
		return err
	}
	if err := a.settle(ctx, 0, keep); err != nil {
		return err
	}
	if !kill {
		if err := a.pause(victims...); err != nil {
			return err
		}
	} else if err := a.end(a.kill, victims...); err != nil {
		return err
	}
	a.show("")
	if err := a.goesOn(ctx); err != nil {
		return err
	}
	a.show(a.leaderless(ctx))
	wait(ctx, time.Duration(a.rng.IntN(5000))*time.Millisecond)
	return nil
}

// victims are the two nodes that share the fewest shards, the first of the order among equals.
func (a *Act) victims() []string {
	var best []string
	least := -1
	for i, x := range a.Order {
		for _, y := range a.Order[i+1:] {
			both := 0
			for shard, voters := range a.former {
				if shard != 0 && slices.Contains(voters, x) && slices.Contains(voters, y) {
					both++
				}
			}
			if least < 0 || both < least {
				best, least = []string{x, y}, both
			}
		}
	}
	return best
}

// own returns the shards of which a majority runs.
func (a *Act) own() (shards []uint64) {
	for shard := range uint64(a.n.cfg.Knobs.Shards) {
		voters, there := a.former[shard+1], 0
		for _, v := range voters {
			if !slices.Contains(a.Targets, v) {
				there++
			}
		}
		if 2*there > len(voters) {
			shards = append(shards, shard+1)
		}
	}
	return shards
}

// goesOn waits until all shards that have a majority were read at nodes that run. Where nothing else is under way, that they are
// not is a violation: data needs no directory.
func (a *Act) goesOn(ctx context.Context) error {
	const limit = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a.served = nil
	alone := !a.n.cfg.Operated
	err := poll(ctx, func() bool {
		alone = alone && a.n.acting() == 1
		for _, shard := range a.own() {
			if slices.Contains(a.served, shard) {
				continue
			}
			for _, node := range a.others(a.Targets...) {
				asked, cancel := context.WithTimeout(ctx, probeTime)
				if a.n.sys.Running(node) && a.n.sys.Probe(asked, node, shard) == nil && !slices.Contains(a.served, shard) {
					a.served = append(a.served, shard)
				}
				cancel()
			}
		}
		return len(a.served) == len(a.own())
	})
	if errors.Is(err, context.DeadlineExceeded) {
		if alone {
			a.n.violated(fmt.Sprintf("without the directory's members %v only the shards %v were served in %v, of %v which have a majority", a.Targets, a.served, limit, a.own()))
		}
		return nil
	}
	return err
}

// leaderless says that nobody who runs finds a leader of the directory.
func (a *Act) leaderless(ctx context.Context) string {
	if a.everyone(ctx, func(ctx context.Context, via string) (bool, error) {
		if slices.Contains(a.Targets, via) {
			return false, errors.New("it stands still")
		}
		_, err := a.n.sys.Members(ctx, via, 0)
		return err != nil, nil
	}) {
		return fmt.Sprintf("nobody found a leader of the directory without %v; of %d shards %d had a majority, and %d of them were read meanwhile",
			a.Targets, a.n.cfg.Knobs.Shards, len(a.own()), len(a.served))
	}
	return ""
}

// rebuildDirectory has the directory begin anew on a node that runs, the third of its former members or another, and waits until it takes changes.
func rebuildDirectory(ctx context.Context, a *Act) error {
	if err := a.loseDirectory(ctx, true); err != nil {
		return err
	}
	lost := a.shown()
	a.show("")
	if lost == "" {
		return nil // somebody has started them again
	}
	if a.n.cfg.MemoryOnly && len(a.own()) < a.n.cfg.Knobs.Shards {
		a.show(lost) // a shard that forgot what it held would wait for an operator
		return nil
	}
	began := time.Now()
	running := slices.DeleteFunc(a.others(a.Targets...), func(node string) bool { return !a.n.sys.Running(node) })
	if len(running) == 0 {
		return errors.New("no node runs")
	}
	via := running[a.rng.IntN(len(running))]
	last := errors.New("not asked yet")
	if err := poll(ctx, func() bool {
		asked, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		answer, err := a.n.sys.Rebuild(asked, via)
		if err != nil || answer.Status != 202 {
			last = errors.Join(errors.New(answer.String()), err)
			// An answer may have been lost, and what it told of been done.
			m, err := a.n.sys.Members(asked, via, 0)
			voters, _ := m.Voters()
			return err == nil && slices.Equal(voters, []string{via})
		}
		return true
	}); err != nil {
		return fmt.Errorf("the directory was to be rebuilt on %s: %w: %w", via, err, last)
	}
	if err := a.set(ctx, "repair-after", "2m"); err != nil {
		return err
	}
	a.show(fmt.Sprintf("%s; it was rebuilt on %s, and took changes after %.1f s", lost, via, time.Since(began).Seconds()))
	return nil
}

// undoDirectory brings the directory's members back.
func undoDirectory(ctx context.Context, a *Act) error {
	if a.former == nil {
		return nil
	}
	return errors.Join(undoPause(ctx, a), undoEnd(ctx, a), a.settle(ctx, 0, a.former[0]), a.set(ctx, "repair-after", ""), a.set(ctx, "balance", ""))
}
