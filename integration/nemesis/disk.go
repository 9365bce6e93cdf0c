package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

var diskFaults = []Fault{
	{
		Name: "disk-full", Class: Disk, Weight: 1, Needs: Loop, Hold: seconds(2, 8), About: "a node, more often a leader, has no space left",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = []string{a.someone()}
			a.n.keep(a.Targets[0]) // it may end itself: a write that failed is never tried again
			a.n.setDamaged(a.Targets[0])
			return a.n.sys.FillDisk(a.Targets[0])
		},
		Undo: func(_ context.Context, a *Act) error {
			node := a.Targets[0]
			err := a.n.sys.FreeDisk(node)
			if !a.n.sys.Running(node) {
				a.show(fmt.Sprintf("%s ended when its disk was full", node))
				err = errors.Join(err, a.n.sys.Start(node))
			}
			a.n.release(node)
			return err
		},
		Effect: func(ctx context.Context, a *Act) string {
			if !a.n.sys.Running(a.Targets[0]) {
				return fmt.Sprintf("%s ended when its disk was full", a.Targets[0])
			}
			return hurt(ctx, a)
		},
	},
	{
		Name: "disk-slow", Class: Disk, Weight: 1, Needs: Loop, About: "each sync of a node, more often a leader, takes 20 to 200 ms",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = []string{a.someone()}
			return a.n.sys.SlowDisk(a.Targets[0], a.syncTime())
		},
		Undo:   func(_ context.Context, a *Act) error { return a.n.sys.SlowDisk(a.Targets[0], 0) },
		Effect: func(ctx context.Context, a *Act) string { return a.slowSync(ctx, a.syncTime()/2) },
	},
	damage("damage-log-tail", DamageLogTail, 1, "the end of a stopped node's log is damaged"),
	damage("damage-snapshot", DamageSnapshot, 1, "a snapshot of a stopped node is damaged"),
	damage("truncate-log", TruncateLog, 1, "the end of a stopped node's log is missing"),
	damage("damage-log", DamageLogFile, 1, "a file of a stopped node's logs is damaged somewhere"),
	damage("lose-log", LoseLog, 1, "a file of a stopped node's logs is gone"),
	{
		Name: "wipe-and-replace", Class: Disk, Weight: 1, Needs: Guest | Settings, Breaks: true, Alone: []Class{Crash, Members, Pause, Leaders},
		About: "a node loses its disk, comes back without and is refused, is removed by an operator, and joins anew; with and without a node to spare",
		Do:    loseDisk, Undo: undoLostDisk, Effect: ended,
	},
}

// refusals are what a node logs that ends as its cluster knows it by another data folder: a founder that asked one, a founder
// that asked one that joined, and one that joined.
var refusals = []string{"data lost", "joined after that was formed", "known by another data folder"}

// loseDisk wipes a node and starts it as if nothing was: nobody may take it for who it was.
func loseDisk(ctx context.Context, a *Act) error {
	node := a.Order[0]
	if a.Seed%2 == 0 {
		if err := a.invite(ctx); err != nil {
			return err
		}
	}
	if err := a.breakDisk(node); err != nil {
		return err
	}
	if err := a.n.sys.Wipe(node); err != nil {
		return err
	}
	before := a.refused(node)
	if err := a.n.sys.Start(node); err != nil {
		return err
	}
	const limit = 8 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ready := false
	err := poll(ctx, func() bool {
		ready = a.n.sys.Ready(ctx, node)
		return ready || !a.n.sys.Running(node)
	})
	switch {
	case ready:
		a.n.violated(fmt.Sprintf("%s lost its disk, and came back under its old id as if it had not", node))
		return nil // it goes on until it is replaced: somebody may be told something wrong
	case err == nil && a.refused(node) > before:
		a.show(fmt.Sprintf("%s lost its disk, came back without and was refused", node))
	case err == nil:
		return fmt.Errorf("%s lost its disk, and ended without a word of that", node)
	default: // it is cut off, and waits
		a.show(fmt.Sprintf("%s lost its disk, came back without and met nobody", node))
		if a.n.sys.Running(node) {
			return a.n.sys.Kill(node)
		}
	}
	return nil
}

// refused counts the times that a node ended as its cluster knows it by another data folder.
func (a *Act) refused(node string) (times int) {
	for _, line := range refusals {
		n, err := a.n.sys.Logged(node, line)
		if err == nil {
			times += n
		}
	}
	return times
}

// undoLostDisk replaces the node: by force where there is a guest for what it hosted, else by hand.
func undoLostDisk(ctx context.Context, a *Act) error {
	switch {
	case len(a.killed) == 0: // it lost nothing
	case a.former == nil:
		return a.replaceNode(ctx)
	default:
		node := a.Targets[0]
		if a.n.sys.Running(node) {
			if err := a.n.sys.Kill(node); err != nil {
				return err
			}
		}
		if err := a.anew(ctx, node); err != nil {
			return err
		}
		a.n.setBroken(node, false)
		a.show(a.shown() + "; it was removed by force, and replaced")
	}
	return errors.Join(a.part(ctx), undoEnd(ctx, a))
}

// syncTime is how long a sync takes of a disk that is slow.
func (a *Act) syncTime() time.Duration {
	return 20*time.Millisecond + time.Duration(a.Size*float64(180*time.Millisecond))
}

// slowSync says that writes take longer than they did, by at least that.
func (a *Act) slowSync(ctx context.Context, by time.Duration) string {
	before, now := a.n.cfg.Writes(0, a.begun), a.n.cfg.Writes(a.begun, a.n.cfg.Recorder.Now())
	wait(ctx, askTime) // it is a look at all operations
	if before == 0 || now < before+by {
		return ""
	}
	return fmt.Sprintf("half of the writes took %v or more, before %v", now.Round(time.Millisecond), before.Round(time.Millisecond))
}

// damage is a row that hurts the files of a node which was stopped. A server that notices leaves the replica out, and the cluster makes
// it anew; where it can't be told whose the damage is it does not run, and says so. One that did not run, did not notice, or came to no end, is
// replaced by an operator. Whatever it did, a majority of each shard is undamaged, and may lose nothing: no check makes an exception.
func damage(name string, d Damage, weight int, about string) Fault {
	return Fault{
		Name: name, Class: Disk, Weight: weight, Breaks: true, Alone: []Class{Crash, Members, Pause, Leaders},
		Hold: seconds(0, 3), About: about,
		Do: func(_ context.Context, a *Act) error {
			if err := a.breakDisk(a.Order[0]); err != nil {
				return err
			}
			a.show("")
			did, err := a.n.sys.Damage(a.Targets[0], d, a.Seed)
			if err != nil {
				// Nothing is broken: it comes back as it was.
				a.n.setBroken(a.Targets[0], false)
				return err
			}
			a.show(fmt.Sprintf("%s: %s", a.Targets[0], did))
			return nil
		},
		Undo: func(ctx context.Context, a *Act) error {
			if len(a.Targets) == 0 || !a.n.isBroken(a.Targets[0]) {
				return undoEnd(ctx, a)
			}
			node := a.Targets[0]
			before, err := a.n.sys.Logged(node, lostLine)
			said, err2 := a.n.sys.Logged(node, lostReason)
			if err := errors.Join(err, err2, a.n.sys.Start(node)); err != nil {
				return err
			}
			serves := a.serves(ctx, node)
			now, err := a.n.sys.Logged(node, lostLine)
			ended := !a.n.sys.Running(node)
			says, err2 := a.n.sys.Logged(node, lostReason)
			switch {
			case ended && err2 == nil && says > said:
				a.show(a.shown() + "; it refused to run")
			case ended:
				a.n.violated(fmt.Sprintf("%s, whose disk was damaged, ended and did not say that its data is lost", node))
				a.show(a.shown() + "; it ended without a word of that")
			case err == nil && now > before && serves && a.settled(ctx):
				a.show(a.shown() + "; it was found, and the cluster made the replica anew")
				a.n.setBroken(node, false)
				return undoEnd(ctx, a)
			case serves:
				a.show(a.shown() + "; it served with that")
				a.watchDamaged(ctx, node)
			default:
				a.show(a.shown() + "; it refused to serve some shard")
			}
			// Whatever it is like, its disk is not what it acknowledged: the next one must not break beside it.
			return a.replaceNode(ctx)
		},
		Effect: ended,
	}
}

// watchDamaged lets a node serve with damage for longer than the servers take to compare their replicas, and lets them
// finish what they do about it.
func (a *Act) watchDamaged(ctx context.Context, node string) {
	const comparison = 7 * time.Second
	before, err := a.n.sys.Logged(node, divergedLine)
	wait(ctx, comparison)
	if now, again := a.n.sys.Logged(node, divergedLine); err == nil && again == nil && now > before {
		a.show(a.shown() + " until it was found to differ")
	}
	a.settled(ctx) // what is not over by then is waited for when the node is replaced
}

// settled waits for the end of all changes of members, and reports whether it came soon.
func (a *Act) settled(ctx context.Context) bool {
	const limit = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for shard := range uint64(a.n.cfg.Knobs.Shards + 1) {
		if poll(ctx, func() bool { return !a.busy(ctx, shard) }) != nil {
			return false
		}
	}
	return true
}

// divergedLine is what a node logs of a replica that was found to differ from the others, lostLine of one whose data is damaged. lostReason is
// in what it says of either, and of damage of which it can't be told whose it is, for which it ends.
const (
	lostReason   = "data lost"
	divergedLine = "its state has diverged"
	lostLine     = "its data is lost"
)

// breakDisk ends a node whose disk is going to lose what it acknowledged. It refuses while another one is broken.
func (a *Act) breakDisk(node string) error {
	err := a.endBroken(node)
	if err == nil {
		a.n.setDamaged(node)
	}
	return err
}

// endBroken ends a node that is not going to come back as it was. It refuses while another one is broken.
func (a *Act) endBroken(node string) error {
	n := a.n
	n.mu.Lock()
	for other, broken := range n.broken {
		if broken {
			n.mu.Unlock()
			return fmt.Errorf("%s is still broken: no shard may lose more", other)
		}
	}
	n.broken[node] = true
	n.mu.Unlock()
	if err := a.end(a.kill, node); err != nil {
		n.setBroken(node, false)
		return err
	}
	return nil
}

func (n *Nemesis) setBroken(node string, broken bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken[node] = broken
}

func (n *Nemesis) setDamaged(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.damaged[node] = true
}

func (n *Nemesis) isBroken(node string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broken[node]
}

// serves waits until a node that was just started says that all its replicas serve. It gives up when the node ends, and
// after a while: it may run and refuse to open a replica.
func (a *Act) serves(ctx context.Context, node string) bool {
	const limit = 8 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return poll(ctx, func() bool {
		if !a.n.sys.Running(node) {
			cancel()
			return false
		}
		return a.n.sys.Ready(ctx, node)
	}) == nil
}

// replaceNode lets an operator replace the target, which lost what it knew: out of all shards and the table, then back as
// a new one.
func (a *Act) replaceNode(ctx context.Context) error {
	node := a.Targets[0]
	if a.n.sys.Running(node) {
		if err := a.n.sys.Kill(node); err != nil {
			return err
		}
	}
	if err := a.n.sys.Wipe(node); err != nil {
		return err
	}
	var hosted []uint64
	for shard := range uint64(a.n.cfg.Knobs.Shards + 1) {
		voters, err := a.votersOf(ctx, shard)
		if err != nil {
			return err
		}
		if !slices.Contains(voters, node) {
			continue
		}
		hosted = append(hosted, shard)
		if err := a.settle(ctx, shard, slices.DeleteFunc(voters, func(v string) bool { return v == node })); err != nil {
			return err
		}
	}
	if err := a.ask(ctx, func(ctx context.Context, via string) error {
		answer, err := a.n.sys.Forget(ctx, via, node)
		if err == nil && answer.Status != 204 && answer.Status != 404 {
			err = fmt.Errorf("removing node %s: %s", node, answer)
		}
		return err
	}); err != nil {
		return err
	}
	if err := a.n.sys.Rejoin(node, a.others(node)[0]); err != nil {
		return err
	}
	for _, shard := range hosted {
		voters, err := a.votersOf(ctx, shard)
		if err != nil {
			return err
		}
		if !slices.Contains(voters, node) {
			voters = append(voters, node)
		}
		if err := a.settle(ctx, shard, voters); err != nil {
			return err
		}
	}
	a.n.setBroken(node, false)
	a.show(a.shown() + "; it was replaced")
	return undoEnd(ctx, a)
}
