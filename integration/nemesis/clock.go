package nemesis

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var clockFaults = []Fault{
	{
		Name: "clock-jump", Class: Clock, Weight: 1, Needs: Build, About: "the clocks of a minority jump by up to a minute, back or forth",
		Do: func(ctx context.Context, a *Act) error {
			return a.clocks(ctx, jump(a), 1)
		},
		Undo: undoClocks, Effect: ended,
	},
	{
		Name: "clock-strobe", Class: Clock, Weight: 1, Needs: Build, About: "the clocks of a minority jump by 2 s, back and forth, several times a second",
		Do: func(ctx context.Context, a *Act) error {
			const by = 2 * time.Second
			if err := a.clocks(ctx, by, 1); err != nil {
				return err
			}
			a.goOn(func(ctx context.Context) {
				for offset := -by; ctx.Err() == nil; offset = -offset {
					wait(ctx, 100*time.Millisecond+time.Duration(a.rng.IntN(200))*time.Millisecond)
					if a.clocks(ctx, offset, 1) != nil {
						return // the node is away, or Undo meets it
					}
				}
			})
			return nil
		},
		Undo: undoClocks, Effect: ended,
	},
	{
		Name: "clock-rate", Class: Clock, Weight: 1, Needs: Build, About: "the clocks of a minority run at 0.5 to 2 times the speed",
		Do: func(ctx context.Context, a *Act) error {
			return a.clocks(ctx, 0, 0.5+1.5*a.Size)
		},
		Undo: undoClocks, Effect: ended,
	},
}

// jump is up to a minute, back or forth.
func jump(a *Act) time.Duration {
	return time.Duration((2*a.Size - 1) * float64(time.Minute))
}

// clocks sets the clocks of as many nodes as the promise about time allows to be wrong, the shard's leader first.
func (a *Act) clocks(ctx context.Context, offset time.Duration, rate float64) error {
	if len(a.Targets) == 0 {
		leader := a.leader()
		a.Targets = append([]string{leader}, a.others(leader)...)[:a.n.cfg.Knobs.Tolerates()]
	}
	set := 0
	var err error
	for _, node := range a.Targets {
		failed := a.n.sys.SetClock(ctx, node, offset, rate)
		if failed == nil {
			set++
		}
		err = errors.Join(err, failed)
	}
	if set > 0 {
		a.show(fmt.Sprintf("the clocks of %v were set %v off, at %.2f times the speed", a.Targets, offset, rate))
	}
	return err
}

// undoClocks sets the clocks of all targets right. A node that was started meanwhile has a clock that is right.
func undoClocks(ctx context.Context, a *Act) error {
	const limit = 20 * time.Second // a node may stand still, or be on its way up
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if a.shown() == "" { // no clock was set
		return nil
	}
	var err error
	for _, node := range a.Targets {
		err = errors.Join(err, poll(ctx, func() bool {
			return !a.n.sys.Running(node) || a.n.sys.SetClock(ctx, node, 0, 1) == nil
		}))
	}
	return err
}
