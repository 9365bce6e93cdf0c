package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// A guest is a node that is none of the plan's: it joins for as long as a fault lasts, so that there is a node to move replicas to, and
// leaves when it is undone. Nodes leave and enter here as operators have them do it; what is lost on the way is asked for again.

const (
	// repairAfter is how soon a fault has the directory replace what is on a node that is gone: the least that it takes.
	repairAfter = 5 * time.Second
	// patientTime is for requests that wait for the directory's leader.
	patientTime = 5 * time.Second
)

// invite has the guest join, and the directory move nothing to it, nor leaders, by itself: what moves is the fault's doing. It
// remembers the members of all shards, which part restores.
func (a *Act) invite(ctx context.Context) error {
	former := map[uint64][]string{}
	for shard := range uint64(a.n.cfg.Knobs.Shards + 1) {
		voters, err := a.votersOf(ctx, shard)
		if err != nil {
			return err
		}
		former[shard] = voters
	}
	a.former = former
	if err := a.set(ctx, "balance", "off"); err != nil {
		return err
	}
	a.guest = a.n.sys.Spare()
	if err := a.enter(ctx, a.guest); err != nil {
		return fmt.Errorf("%s was to join: %w", a.guest, err)
	}
	a.n.host(a.guest, true)
	return nil
}

// part has the guest leave, and gives all shards the members that they had.
func (a *Act) part(ctx context.Context) error {
	if a.former == nil {
		return nil
	}
	var err error
	if a.guest != "" {
		err = a.dismiss(ctx)
	}
	for shard := range uint64(a.n.cfg.Knobs.Shards + 1) {
		err = errors.Join(err, a.settle(ctx, shard, a.former[shard]))
	}
	return errors.Join(err, a.set(ctx, "balance", ""))
}

// dismiss drains the guest, stops it and takes it out of the table.
func (a *Act) dismiss(ctx context.Context) error {
	if a.n.sys.Running(a.guest) {
		err := a.drain(ctx, a.guest)
		if err == nil {
			err = a.untilEmpty(ctx, a.guest)
		}
		if err != nil && !errors.Is(err, errUnknown) { // one that never got into the table hosts nothing
			return err
		}
		a.n.host(a.guest, false)
		if err := a.stop(ctx, a.guest); err != nil {
			return err
		}
	} else {
		a.n.host(a.guest, false)
	}
	return errors.Join(a.expel(ctx, a.guest), a.n.sys.Wipe(a.guest))
}

// host says that a guest must run from now on, or need not.
func (n *Nemesis) host(guest string, must bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.guests, guest)
	if must {
		n.guests[guest] = true
	}
}

// stop asks a node to end in order, and makes an end of it where it does not.
func (a *Act) stop(ctx context.Context, node string) error {
	const limit = 15 * time.Second
	asked, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := a.n.sys.Terminate(asked, node)
	if a.n.sys.Running(node) {
		err = a.n.sys.Kill(node)
	}
	return err
}

// enter starts a node, whose data folder is empty, as one that joins, and waits until it is up in the tables of all that run. It is
// started again where it ended, unless another fault keeps it from running.
func (a *Act) enter(ctx context.Context, node string) error {
	last := errors.New("nobody is there to join by")
	for i := 0; ; i++ {
		vias := slices.DeleteFunc(a.others(node), func(n string) bool { return !a.n.sys.Running(n) })
		if !a.n.sys.Running(node) && !a.keptByOthers(node) && len(vias) > 0 {
			if err := a.n.sys.Rejoin(node, vias[i%len(vias)]); err != nil {
				last = err
			}
		}
		if a.everyone(ctx, func(ctx context.Context, via string) (bool, error) {
			s, err := a.n.sys.Node(ctx, via, node)
			return s.State == "up", err
		}) {
			return nil
		}
		if wait(ctx, sleep); ctx.Err() != nil {
			return errors.Join(ctx.Err(), last)
		}
	}
}

// keptByOthers reports whether other acts keep a node from running.
func (a *Act) keptByOthers(node string) bool {
	own := 0
	if slices.Contains(a.killed, node) {
		own = 1
	}
	a.n.mu.Lock()
	defer a.n.mu.Unlock()
	return a.n.stopped[node] > own
}

// errUnknown is where the table knows no such node.
var errUnknown = errors.New("no such node")

// drain has all replicas of a node move to others, as soon as there are nodes that take them.
func (a *Act) drain(ctx context.Context, node string) error { return a.setDrain(ctx, node, true) }

func (a *Act) setDrain(ctx context.Context, node string, drain bool) error {
	const tries = 20 // a node that joined a moment ago is not known to all
	unknown := 0
	err := a.ask(ctx, func(ctx context.Context, via string) error {
		ctx, cancel := context.WithTimeout(ctx, patientTime)
		defer cancel()
		answer, err := a.n.sys.Drain(ctx, via, node, drain)
		if err == nil && answer.Status == 404 {
			unknown++
		}
		if err != nil || answer.Status < 300 || unknown == tries {
			return err
		}
		return fmt.Errorf("draining %s: %s", node, answer)
	})
	if err == nil && unknown == tries {
		return fmt.Errorf("draining %s: %w", node, errUnknown)
	}
	return err
}

// untilEmpty waits until a node hosts nothing.
func (a *Act) untilEmpty(ctx context.Context, node string) error {
	last := errors.New("nobody tells")
	if err := poll(ctx, func() bool {
		s, err := a.nodeState(ctx, node)
		if err != nil {
			last = err
			return false
		}
		last = fmt.Errorf("it has %d replicas, of the directory: %t, waiting: %q", s.Replicas, s.Directory, s.Waits)
		return s.Replicas == 0 && !s.Directory
	}); err != nil {
		return fmt.Errorf("%s is not empty: %w: %w", node, err, last)
	}
	return nil
}

// nodeState asks nodes by turns what they know of one.
func (a *Act) nodeState(ctx context.Context, node string) (s cluster.NodeState, err error) {
	err = errors.New("nobody is there to ask")
	for _, via := range a.via() {
		if via == node || !a.n.sys.Running(via) {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, askTime)
		s, err = a.n.sys.Node(asked, via, node)
		cancel()
		if err == nil {
			return s, nil
		}
	}
	return s, err
}

// expel takes a node that does not run out of the table; one that hosts something is drained for that, as node remove --force does.
func (a *Act) expel(ctx context.Context, node string) error {
	for {
		var last cluster.Answer
		err := a.ask(ctx, func(ctx context.Context, via string) (err error) {
			ctx, cancel := context.WithTimeout(ctx, patientTime)
			defer cancel()
			last, err = a.n.sys.Forget(ctx, via, node)
			return err
		})
		switch {
		case err != nil:
			return fmt.Errorf("removing node %s: %w", node, err)
		case last.Status == 204 || last.Status == 404:
			return nil
		}
		if s, err := a.nodeState(ctx, node); err == nil && (s.Replicas > 0 || s.Directory) && !s.Draining {
			if err := a.drain(ctx, node); err != nil && !errors.Is(err, errUnknown) {
				return fmt.Errorf("removing node %s: %w", node, err)
			}
		}
		if wait(ctx, sleep); ctx.Err() != nil {
			return fmt.Errorf("removing node %s: %w: %s", node, ctx.Err(), last)
		}
	}
}

// set changes a setting of the cluster; "" is its default.
func (a *Act) set(ctx context.Context, name, value string) error {
	if err := a.ask(ctx, func(ctx context.Context, via string) error {
		ctx, cancel := context.WithTimeout(ctx, patientTime)
		defer cancel()
		answer, err := a.n.sys.Set(ctx, via, name, value)
		if err == nil && answer.Status != 200 {
			err = errors.New(answer.String())
		}
		return err
	}); err != nil {
		return fmt.Errorf("setting %s to %q: %w", name, value, err)
	}
	return nil
}
