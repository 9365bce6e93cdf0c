package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

var memberFaults = []Fault{
	{
		Name: "add-member", Class: Members, Weight: 1, Needs: Spare, About: "a shard gets one member more, and gives it up later",
		Do: func(ctx context.Context, a *Act) error {
			return a.members(ctx, func(m change) change {
				return change{to: append(slices.Clone(m.to), m.spare...)[:len(m.to)+1]}
			})
		},
		Undo: undoMembers, Effect: ended,
	},
	{
		Name: "remove-member", Class: Members, Weight: 1, About: "a shard gives up a member that does not lead, and gets it back later",
		Do: func(ctx context.Context, a *Act) error {
			return a.members(ctx, func(m change) change { return m.without(m.follower) })
		},
		Undo: undoMembers, Effect: ended,
	},
	{
		Name: "remove-leader", Class: Members, Weight: 1, About: "a shard gives up its leader, and gets it back later",
		Do: func(ctx context.Context, a *Act) error {
			return a.members(ctx, func(m change) change { return m.without(m.leader) })
		},
		Undo: undoMembers, Effect: ended,
	},
	{
		Name: "replace-member", Class: Members, Weight: 1, Needs: Spare, About: "a shard gets another member instead of one that it has, and the other way round later",
		Do: func(ctx context.Context, a *Act) error {
			return a.members(ctx, func(m change) change {
				m.to = append(slices.Clone(m.to), m.spare[0])
				return m.without(m.follower)
			})
		},
		Undo: undoMembers, Effect: ended,
	},
}

// change is what the members of a shard are, and what they shall be.
type change struct {
	to               []string
	leader, follower string
	spare            []string // nodes that host no replica of it
}

// without returns the change that also gives up node.
func (c change) without(node string) change {
	c.to = slices.DeleteFunc(slices.Clone(c.to), func(v string) bool { return v == node })
	return c
}

// members changes the members of the step's shard, and remembers what they were.
func (a *Act) members(ctx context.Context, choose func(change) change) error {
	m, err := a.membersOf(ctx, a.Shard)
	if err != nil {
		return err
	}
	a.voters, _ = m.Voters()
	now := a.change(m)
	if len(now.spare) == 0 && a.fault.Needs&Spare != 0 {
		return errors.New("no node is free")
	}
	want := choose(now)
	for _, node := range slices.Concat(a.voters, want.to) {
		if slices.Contains(a.voters, node) != slices.Contains(want.to, node) {
			a.Targets = append(a.Targets, node)
		}
	}
	if err := a.settle(ctx, a.Shard, want.to); err != nil {
		return err
	}
	a.show(fmt.Sprintf("the members of shard %d were %v and became %v", a.Shard, a.voters, want.to))
	return nil
}

// change describes m with the nodes to choose from in the step's order.
func (a *Act) change(m cluster.Members) change {
	voters, _ := m.Voters()
	c := change{to: voters, leader: m.Leader}
	for _, node := range a.Order {
		switch {
		case !m.Has(node):
			c.spare = append(c.spare, node)
		case c.follower == "" && node != m.Leader:
			c.follower = node
		}
	}
	return c
}

// undoMembers gives the shard the members that it had.
func undoMembers(ctx context.Context, a *Act) error {
	if len(a.voters) == 0 {
		return nil
	}
	return a.settle(ctx, a.Shard, a.voters)
}

// membersOf asks until somebody tells the members of a shard.
func (a *Act) membersOf(ctx context.Context, shard uint64) (m cluster.Members, err error) {
	err = a.ask(ctx, func(ctx context.Context, via string) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 2*askTime)
		defer cancel()
		m, err = a.n.sys.Members(ctx, via, shard)
		return err
	})
	if err != nil {
		err = fmt.Errorf("nobody tells the members of shard %d: %w", shard, err)
	}
	return m, err
}

func (a *Act) votersOf(ctx context.Context, shard uint64) ([]string, error) {
	m, err := a.membersOf(ctx, shard)
	voters, _ := m.Voters()
	return voters, err
}

// settle changes the members of a shard, one at a time, until its leader has exactly these, all voters, and no
// change of it is under way.
func (a *Act) settle(ctx context.Context, shard uint64, wanted []string) error {
	last := errors.New("not asked yet")
	if err := poll(ctx, func() bool {
		if a.busy(ctx, shard) {
			return false
		}
		m, err := a.membersOf(ctx, shard)
		if err != nil {
			last = err
			return false
		}
		voters, all := m.Voters()
		node, add, change := a.nextChange(m, wanted)
		if !change {
			return all && len(voters) == len(wanted) && a.agreed(ctx, shard, m.Conf)
		}
		if err := a.ask(ctx, func(ctx context.Context, via string) error {
			asked, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			answer, _, err := a.n.sys.ChangeMember(asked, via, shard, node, add, m.Conf)
			if err == nil && answer.Status != 202 {
				last = fmt.Errorf("%s in shard %d was answered %s", node, shard, answer)
			}
			return err
		}); err != nil {
			last = err
		}
		return false
	}); err != nil {
		return fmt.Errorf("shard %d was to have the members %v: %w: %w", shard, wanted, err, last)
	}
	return nil
}

// nextChange returns the next change on the way from m to wanted: first who is to come and runs, since he may
// be needed, then who is to go.
func (a *Act) nextChange(m cluster.Members, wanted []string) (node string, add, change bool) {
	for _, node := range wanted {
		if !m.Has(node) && a.n.sys.Running(node) {
			return node, true, true
		}
	}
	for _, member := range m.Members {
		if !slices.Contains(wanted, member.Node) {
			return member.Node, false, true
		}
	}
	for _, node := range wanted {
		if !m.Has(node) {
			return node, true, true
		}
	}
	return "", false, false
}

// busy reports whether a change of the shard is under way, as far as anyone tells; it is as long as nobody answers.
func (a *Act) busy(ctx context.Context, shard uint64) bool {
	return !a.everyone(ctx, func(ctx context.Context, via string) (bool, error) {
		all, err := a.n.sys.Operations(ctx, via)
		return !slices.ContainsFunc(all, func(o cluster.Operation) bool { return o.Shard == shard && !o.Over() }), err
	})
}

// agreed reports whether nobody knows the shard by another configuration.
func (a *Act) agreed(ctx context.Context, shard uint64, conf string) bool {
	return a.everyone(ctx, func(ctx context.Context, via string) (bool, error) {
		m, err := a.n.sys.Members(ctx, via, shard)
		return m.Conf == conf, err
	})
}

// everyone asks all nodes that run, and reports whether some answer and all of these say yes. One that was away may not know
// yet what the others do.
func (a *Act) everyone(ctx context.Context, ask func(ctx context.Context, via string) (bool, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	var all sync.WaitGroup
	var yes, no atomic.Int64
	for _, node := range a.n.sys.Nodes() {
		if !a.n.sys.Running(node) {
			continue
		}
		all.Go(func() {
			switch ok, err := ask(ctx, node); {
			case err != nil:
			case ok:
				yes.Add(1)
			default:
				no.Add(1)
			}
		})
	}
	all.Wait()
	return yes.Load() > 0 && no.Load() == 0
}
