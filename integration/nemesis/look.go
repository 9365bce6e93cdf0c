package nemesis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// probe is a read of a shard at a node.
type probe struct {
	node  string
	shard uint64
}

const (
	// probeTime is how long a probe may take; askTime any other question.
	probeTime = 400 * time.Millisecond
	askTime   = time.Second
	// probed is how many shards are probed.
	probed = 3
)

// look remembers how the cluster is before the fault.
func (a *Act) look(ctx context.Context) {
	a.before = a.n.leaders(ctx)
	a.counts = a.n.sys.Counts()
	a.probes = a.probe(ctx)
}

// leaders asks all nodes, but those named, who leads, and believes the highest term; Applied is the highest of any.
func (n *Nemesis) leaders(ctx context.Context, but ...string) map[uint64]Replica {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var mu sync.Mutex
	newest := map[uint64]Replica{}
	var all sync.WaitGroup
	for _, node := range n.sys.Nodes() {
		if !n.sys.Running(node) || slices.Contains(but, node) {
			continue
		}
		all.Go(func() {
			replicas, err := n.sys.Replicas(ctx, node)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, r := range replicas {
				old, ok := newest[r.Shard]
				r.Applied = max(r.Applied, old.Applied)
				if r.Leader != "" && (!ok || r.Term > old.Term) {
					newest[r.Shard] = r
				} else if ok {
					old.Applied = r.Applied
					newest[r.Shard] = old
				}
			}
		})
	}
	all.Wait()
	return newest
}

// probe reads a few shards at all nodes that run, and returns how long those took that were answered.
func (a *Act) probe(ctx context.Context) map[probe]time.Duration {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var mu sync.Mutex
	took := map[probe]time.Duration{}
	var all sync.WaitGroup
	for i := range min(probed, a.n.cfg.Knobs.Shards) {
		first := max(int(a.Shard), 1)
		shard := uint64((first-1+i)%a.n.cfg.Knobs.Shards + 1)
		for _, node := range a.n.sys.Nodes() {
			if !a.n.sys.Running(node) {
				continue
			}
			all.Go(func() {
				begun := time.Now()
				if a.n.sys.Probe(ctx, node, shard) == nil {
					mu.Lock()
					defer mu.Unlock()
					took[probe{node, shard}] = time.Since(begun)
				}
			})
		}
	}
	all.Wait()
	return took
}

// leader returns who led the step's shard before the fault, or the first of the order.
func (a *Act) leader() string {
	if r, ok := a.before[a.Shard]; ok && slices.Contains(a.n.sys.Nodes(), r.Leader) {
		return r.Leader
	}
	return a.Order[0]
}

// follower returns the first of the order that was a member of the step's shard and did not lead it.
func (a *Act) follower() string {
	leader, members := a.leader(), a.before[a.Shard].Members
	i := slices.IndexFunc(a.Order, func(n string) bool {
		return n != leader && (len(members) == 0 || slices.Contains(members, n))
	})
	if i < 0 { // it has no other member
		return a.Order[0]
	}
	return a.Order[i]
}

// moved says that another term began for some shard.
func (a *Act) moved(ctx context.Context) string {
	now := a.n.leaders(ctx)
	for _, shard := range slices.Sorted(maps.Keys(now)) {
		if was, ok := a.before[shard]; ok && now[shard].Term > was.Term {
			return fmt.Sprintf("shard %d was led by %s in term %d, then by %s in term %d", shard, was.Leader, was.Term, now[shard].Leader, now[shard].Term)
		}
	}
	return ""
}

// unable says that a node, at which a shard could be read before, can't read it now.
func (a *Act) unable(ctx context.Context) string {
	first := a.failed(ctx)
	if len(first) == 0 || ctx.Err() != nil {
		return ""
	}
	again := a.failed(ctx) // once may be bad luck
	if ctx.Err() != nil {
		return ""
	}
	for _, p := range again {
		if slices.Contains(first, p) {
			return fmt.Sprintf("a read of shard %d at %s got no answer in %v, before in %v", p.shard, p.node, probeTime, a.probes[p].Round(100*time.Microsecond))
		}
	}
	return ""
}

// failed returns the probes that were answered before the fault and are not now.
func (a *Act) failed(ctx context.Context) []probe {
	now := a.probe(ctx)
	var failed []probe
	for p := range a.probes {
		if _, ok := now[p]; !ok {
			failed = append(failed, p)
		}
	}
	slices.SortFunc(failed, func(p, q probe) int { return cmp.Or(cmp.Compare(p.node, q.node), cmp.Compare(p.shard, q.shard)) })
	return failed
}

// slower says that some read takes at least by longer than it did.
func (a *Act) slower(ctx context.Context, by time.Duration) string {
	for p, now := range a.probe(ctx) {
		if before, ok := a.probes[p]; ok && now >= before+by {
			return fmt.Sprintf("a read of shard %d at %s took %v, before %v", p.shard, p.node, now.Round(100*time.Microsecond), before.Round(100*time.Microsecond))
		}
	}
	return ""
}

// hurt is the evidence of cuts: what somebody noticed, or, when it is over, that something was lost.
func hurt(ctx context.Context, a *Act) string {
	if s := a.moved(ctx); s != "" {
		return s
	}
	if s := a.unable(ctx); s != "" {
		return s
	}
	const few = 20
	if lost := a.n.sys.Counts().Cut - a.counts.Cut; lost >= few && len(a.n.cutBy(a)) == 0 {
		return fmt.Sprintf("%d packets were lost, which nobody noticed", lost)
	}
	return ""
}

// via returns the nodes to ask something of, those that were not hurt first.
func (a *Act) via() []string {
	return slices.Concat(a.others(a.Targets...), a.Targets)
}

// ask calls f with nodes by turns until one answers, or ctx ends.
func (a *Act) ask(ctx context.Context, f func(ctx context.Context, via string) error) error {
	var last error
	for i := 0; ; i++ {
		nodes := slices.DeleteFunc(a.via(), func(n string) bool { return !a.n.sys.Running(n) })
		if len(nodes) > 0 {
			if last = f(ctx, nodes[i%len(nodes)]); last == nil {
				return nil
			}
		}
		if wait(ctx, sleep); ctx.Err() != nil {
			return errors.Join(ctx.Err(), last)
		}
	}
}
