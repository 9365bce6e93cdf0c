package nemesis

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// replaceFaults are those in which the directory moves replicas from node to node by itself.
var replaceFaults = []Fault{
	{
		Name: "replace", Class: Members, Weight: 1, Needs: Guest | Settings, Alone: []Class{Disk}, Hold: noTime,
		About: "a node ends for good, what it hosts is made anew on others, one of which joined; later it is removed, and joins as a new one",
		Do:    loseNode, Undo: undoReplace, Effect: replaced,
	},
	{
		Name: "drain", Class: Members, Weight: 1, Needs: Guest | Settings, Alone: []Class{Disk}, Hold: noTime,
		About: "a node, more often a leader, gives up all that it hosts; it gets some back, or is stopped, removed, and joins as a new one",
		Do:    drainNode, Undo: undoDrain, Effect: ended,
	},
}

// loseNode ends a node for good, and waits until the directory has replaced what it hosts.
func loseNode(ctx context.Context, a *Act) error {
	node := a.someone()
	a.Targets = []string{node}
	if err := a.invite(ctx); err != nil {
		return err
	}
	a.Targets = append(a.Targets, a.guest)
	if err := a.set(ctx, "repair-after", repairAfter.String()); err != nil {
		return err
	}
	if err := a.endBroken(node); err != nil {
		return err
	}
	a.show("")
	a.lost = time.Now()
	return a.untilReplaced(ctx)
}

// untilReplaced waits until the directory has replaced all that a lost node hosted. What is not replaced when ctx ends may be later.
func (a *Act) untilReplaced(ctx context.Context) error {
	err := poll(ctx, func() bool {
		effect := replaced(ctx, a)
		if effect != "" {
			a.show(effect)
		}
		return effect != ""
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// replaced says that a lost node hosts nothing any more, by the directory's doing.
func replaced(ctx context.Context, a *Act) string {
	if a.lost.IsZero() || len(a.killed) == 0 {
		return ""
	}
	s, err := a.nodeState(ctx, a.Targets[0])
	if err != nil || s.Replicas > 0 || s.Directory {
		return ""
	}
	return fmt.Sprintf("%s ended for good, and was replaced within %.1f s", a.Targets[0], time.Since(a.lost).Seconds())
}

// undoReplace removes the lost node by force, and has it join as a new one.
func undoReplace(ctx context.Context, a *Act) error {
	if a.former == nil {
		return nil
	}
	node := a.Targets[0]
	if a.n.isBroken(node) {
		const patience = 30 * time.Second
		more, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if a.shown() == "" {
			_ = a.untilReplaced(more) // what it does not replace is moved by force
		}
		if err := a.anew(ctx, node); err != nil {
			return err
		}
		a.n.setBroken(node, false)
	}
	return errors.Join(a.set(ctx, "repair-after", ""), a.part(ctx), undoEnd(ctx, a))
}

// anew takes a node that does not run out of the table, and has it join with an empty data folder.
func (a *Act) anew(ctx context.Context, node string) error {
	if err := a.expel(ctx, node); err != nil {
		return err
	}
	if err := a.n.sys.Wipe(node); err != nil {
		return err
	}
	return a.enter(ctx, node)
}

// drainNode drains a node and waits until it is empty.
func drainNode(ctx context.Context, a *Act) error {
	node := a.someone()
	a.Targets = []string{node}
	if err := a.invite(ctx); err != nil {
		return err
	}
	a.Targets = append(a.Targets, a.guest)
	before, err := a.nodeState(ctx, node)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := a.drain(ctx, node); err != nil {
		return err
	}
	if err := a.untilEmpty(ctx, node); err != nil {
		return err
	}
	if before.Directory {
		before.Replicas++
	}
	a.show(fmt.Sprintf("%s was drained: its %d replicas were elsewhere after %.1f s", node, before.Replicas, time.Since(began).Seconds()))
	return nil
}

// undoDrain ends the draining, or, as often, has the node that is empty leave and join anew.
func undoDrain(ctx context.Context, a *Act) error {
	if a.former == nil {
		return nil
	}
	node, effect := a.Targets[0], a.shown()
	leaves := effect != "" && a.Seed%2 == 0
	if leaves {
		err := a.end(func(nodes ...string) error { return a.stop(ctx, nodes[0]) }, node)
		a.show(effect)
		leaves = err == nil // another fault may have ended it just now: then it stays
	}
	if leaves {
		if err := a.anew(ctx, node); err != nil {
			return err
		}
		a.show(effect + "; it left, and joined anew")
	} else if err := a.setDrain(ctx, node, false); err != nil {
		return err
	}
	return errors.Join(a.part(ctx), undoEnd(ctx, a))
}
