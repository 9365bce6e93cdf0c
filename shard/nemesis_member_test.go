package shard

import (
	"context"
	"slices"
	"time"
)

// changeMembers takes one to three steps: a node outside becomes a learner, a learner a voter, and of more
// voters than there were at first one leaves, which is then destroyed and may come again as another replica.
func (n *nemesis) changeMembers() (took func() bool) {
	before := n.conf()
	for range 1 + n.rnd.IntN(3) {
		if h := n.c.hosts[n.leader()]; h != nil {
			n.changeMember(h)
		}
		n.sleep(400)
	}
	return func() bool { return n.conf() > before }
}

// conf is the highest index of a committed configuration that a node knows of.
func (n *nemesis) conf() (index uint64) {
	for _, h := range n.c.hosts {
		index = max(index, h.Group(testShard).Status().Conf)
	}
	return index
}

// changeMember takes the next step that the configuration allows; it may well fail under the other faults.
func (n *nemesis) changeMember(leader *Host) {
	g := leader.Group(testShard)
	conf, err := g.Configuration()
	if err != nil {
		return
	}
	n.retire(conf)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	switch {
	case len(conf.Learners) > 0:
		if n.rnd.IntN(2) == 0 {
			return // it stays one for a while
		}
		learner := conf.Learners[0]
		for range 20 { // it must have caught up
			if learner.Recent && learner.Match >= conf.Commit {
				n.note("promote " + learner.Replica.String())
				_ = g.Promote(ctx, learner.Replica, conf.Index)
				return
			}
			time.Sleep(50 * time.Millisecond)
			if conf, err = g.Configuration(); err != nil || len(conf.Learners) == 0 {
				return
			}
			learner = conf.Learners[0]
		}
	case len(conf.Voters) > n.s.nodes:
		id := conf.Voters[n.rnd.IntN(len(conf.Voters))].Replica
		if id == g.id {
			n.note("transfer from " + id.Node)
			_ = g.TransferLeadership(ctx, n.other(id.Node))
			return
		}
		n.note("remove " + id.String())
		n.leaving[id.Node] = conf.Index
		_ = g.Remove(ctx, id, conf.Index)
	default:
		for _, name := range n.shuffled() {
			id := n.c.replicaOn(name)
			_, leaving := n.leaving[name]
			if _, _, member := conf.Find(id); !member && !leaving && n.c.hosts[name] != nil {
				n.note("add " + id.String())
				_ = g.AddLearner(ctx, id, conf.Index)
				return
			}
		}
	}
}

// retire replaces what has left: a later configuration than the one that its removal was planned from is without
// it, so that it never counts again.
func (n *nemesis) retire(conf Configuration) {
	for name, planned := range n.leaving {
		if conf.Index <= planned || n.c.hosts[name] == nil {
			continue
		}
		delete(n.leaving, name)
		if _, _, member := conf.Find(n.c.replicaOn(name)); !member {
			n.note("renew " + name)
			n.c.renew(name)
		}
	}
}

// settleMembers makes an end of all that is under way, and returns the nodes of the members. No fault may be.
func (n *nemesis) settleMembers() (nodes []string) {
	n.c.until("members settled", func() bool {
		g := n.c.leader().Group(testShard)
		conf, err := g.Configuration()
		if err != nil {
			return false
		}
		n.retire(conf)
		if len(n.leaving) > 0 { // a removal may still take effect
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = g.Fence(ctx, conf.Index)
			return false
		}
		nodes = nil
		for _, p := range slices.Concat(conf.Voters, conf.Learners) {
			nodes = append(nodes, p.Replica.Node)
		}
		return true
	})
	return nodes
}
