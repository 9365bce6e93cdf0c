package integration

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// operator changes members as a person would: he looks, asks on condition of what he saw, waits, and
// looks again.
type operator struct {
	t       *testing.T
	cluster *cluster.Cluster

	asked    int         // requests for a change
	statuses map[int]int // answers to them, 0 for none
	ended    map[string]int
}

func newOperator(t *testing.T, c *cluster.Cluster) *operator {
	return &operator{t: t, cluster: c, statuses: map[int]int{}, ended: map[string]int{}}
}

const (
	// changeLimit bounds one change of members, with all its attempts, from when all nodes run.
	changeLimit = 90 * time.Second
	// operationLimit bounds one operation.
	operationLimit = 40 * time.Second
)

// node returns one of the nodes that run, by turns.
func (p *operator) node() *cluster.Node {
	live := p.cluster.Live()
	if len(live) == 0 {
		p.t.Fatal("no node runs")
	}
	p.asked++
	return live[p.asked%len(live)]
}

// broken fails the test when err says that the server broke its interface.
func (p *operator) broken(err error) {
	p.t.Helper()
	if errors.Is(err, cluster.ErrInterface) {
		p.t.Fatal(err)
	}
}

// members waits for a shard's members, as its leader has them.
func (p *operator) members(shard uint64) cluster.Members {
	p.t.Helper()
	var m cluster.Members
	var err error
	ctx := within(p.t, operationLimit)
	if cluster.Poll(ctx, func() bool {
		m, err = p.node().Members(ctx, shard)
		p.broken(err)
		return err == nil
	}) != nil {
		p.t.Fatalf("nobody tells the members of shard %d: %v", shard, err)
	}
	return m
}

// begin sends a change through n on condition of conf and returns what became of it; ok: an operation
// began. No answer and an unknown outcome are resolved by a look at what runs on the shard.
func (p *operator) begin(n *cluster.Node, shard uint64, node string, add bool, conf string) (o cluster.Operation, a cluster.Answer, ok bool) {
	p.t.Helper()
	a, o, err := n.ChangeMember(within(p.t, operationLimit), shard, node, add, conf)
	p.broken(err)
	p.statuses[a.Status]++
	switch {
	case err != nil || a.Status == 504:
		o, ok = p.running(shard)
		return o, a, ok
	case a.Status == 202:
		return o, a, true
	case a.Status == 404 || a.Status == 428:
		p.t.Fatalf("a change of %s in shard %d at %s: %s", node, shard, n.ID, a)
	}
	return o, a, false
}

// running returns the operation that runs on a shard.
func (p *operator) running(shard uint64) (cluster.Operation, bool) {
	p.t.Helper()
	var found cluster.Operation
	ctx := within(p.t, operationLimit)
	if err := cluster.Poll(ctx, func() bool {
		all, err := p.node().Operations(ctx)
		if i := slices.IndexFunc(all, func(o cluster.Operation) bool { return o.Shard == shard && !o.Over() }); i >= 0 {
			found = all[i]
		}
		return err == nil
	}); err != nil {
		p.t.Fatalf("nobody tells of the operations: %v", err)
	}
	return found, found.ID != 0
}

// follow waits until an operation is over, at whichever node runs.
func (p *operator) follow(id uint64) cluster.Operation {
	p.t.Helper()
	var o cluster.Operation
	ctx := within(p.t, operationLimit)
	if err := cluster.Poll(ctx, func() bool {
		now, err := p.node().Operation(ctx, id)
		if err == nil {
			o = now
		}
		return err == nil && o.Over()
	}); err != nil {
		p.t.Fatalf("operation %d is not over after %v, last seen: %s", id, operationLimit, o)
	}
	p.ended[o.State]++
	return o
}

// change adds node to a shard or removes it, and repeats what was refused, failed or got lost until the
// shard has the members that it had before, and node or not. It returns once the leader and the tables of all
// nodes that run agree on that. blamed: a node was hurt meanwhile, so an attempt may fail.
func (p *operator) change(shard uint64, node string, add, blamed bool) {
	t := p.t
	t.Helper()
	before := p.members(shard)
	wanted := wantedMembers(before, node, add)
	ctx := within(t, changeLimit)
	attempts, last := 0, ""
	if err := cluster.Poll(ctx, func() bool {
		if o, runs := p.running(shard); runs {
			last = p.follow(o.ID).String()
		}
		m := p.members(shard)
		if voters, all := m.Voters(); all && sameNodes(voters, wanted) {
			return true
		}
		o, a, began := p.begin(p.node(), shard, node, add, m.Conf)
		attempts++
		if !began {
			last = a.String()
			if !blamed && a.Status != 503 && a.Status != 0 {
				t.Errorf("%s of %s in shard %d was refused, with all nodes up: %s", verb(add), node, shard, a)
				blamed = true // say it once
			}
			return false
		}
		o = p.follow(o.ID)
		last = o.String()
		if o.State != "done" && !blamed {
			t.Errorf("with all nodes up: %s", o)
		}
		return false
	}); err != nil {
		t.Fatalf("%s of %s in shard %d did not come about in %v and %d attempts: %s", verb(add), node, shard, changeLimit, attempts, last)
	}
	p.settled(shard, wanted)
}

// settled waits until the leader of a shard and the tables of all nodes that run have exactly these
// voters and no learner.
func (p *operator) settled(shard uint64, wanted []string) {
	p.t.Helper()
	said := ""
	ctx := within(p.t, operationLimit)
	if err := cluster.Poll(ctx, func() bool {
		m, err := p.node().Members(ctx, shard)
		p.broken(err)
		if voters, all := m.Voters(); err != nil || !all || !sameNodes(voters, wanted) {
			said = fmt.Sprintf("the leader has %+v, %v", m, err)
			return false
		}
		for _, n := range p.cluster.Live() {
			s, err := n.Shard(ctx, shard)
			var voters []string
			for _, member := range s.Members {
				if member.Role == "voter" {
					voters = append(voters, member.Node)
				}
			}
			if err != nil || len(voters) != len(s.Members) || !sameNodes(voters, wanted) {
				said = fmt.Sprintf("the table of %s has %+v, %v", n.ID, s, err)
				return false
			}
		}
		return true
	}); err != nil {
		p.t.Fatalf("shard %d was to have the members %v: %s", shard, wanted, said)
	}
}

// wantedMembers is who votes after node was added to m or removed.
func wantedMembers(m cluster.Members, node string, add bool) []string {
	voters, _ := m.Voters()
	voters = slices.DeleteFunc(voters, func(v string) bool { return v == node })
	if add {
		voters = append(voters, node)
	}
	return voters
}

// sameNodes reports whether a and b name the same nodes in whatever order.
func sameNodes(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func verb(add bool) string {
	if add {
		return "adding"
	}
	return "removing"
}
