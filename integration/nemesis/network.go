package nemesis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

var networkFaults = []Fault{
	{
		Name: "partition-leader", Class: Network, Weight: 3, About: "a shard's leader hears nobody, and nobody hears it",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = []string{a.leader()}
			return a.cut(a.around(a.Targets[0]))
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "partition-minority", Class: Network, Weight: 2, About: "as many nodes as a shard can do without are apart from the others",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order[:a.n.cfg.Knobs.Tolerates()]
			return a.cut(apart(a.Targets, a.others(a.Targets...)))
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "partition-majority", Class: Network, Weight: 2, About: "no two nodes hear each other: there is no majority",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			return a.cut(a.all())
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "bridge", Class: Network, Weight: 1, About: "two halves, and one node that hears both",
		Do: func(_ context.Context, a *Act) error {
			rest := a.Order[1:]
			a.Targets = a.Order[:1]
			return a.cut(apart(rest[:len(rest)/2], rest[len(rest)/2:]))
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "ring", Class: Network, Weight: 1, Needs: Five, About: "each node hears its two neighbours only: every node sees another majority",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			var links []pair
			for i, x := range a.Order {
				for j, y := range a.Order {
					if apart := (j - i + len(a.Order)) % len(a.Order); apart > 1 && apart < len(a.Order)-1 {
						links = append(links, pair{x, y})
					}
				}
			}
			return a.cut(links)
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "oneway-in", Class: Network, Weight: 2, About: "a node, more often a leader, hears nobody but is heard",
		Do: func(_ context.Context, a *Act) error { return a.oneWay(false) }, Undo: undoCut, Effect: hurt,
	},
	{
		Name: "oneway-out", Class: Network, Weight: 2, About: "a node, more often a leader, hears all but nobody hears it",
		Do: func(_ context.Context, a *Act) error { return a.oneWay(true) }, Undo: undoCut, Effect: hurt,
	},
	{
		Name: "flap", Class: Network, Weight: 1, Hold: seconds(2, 8), About: "a leader is cut off and heard again, each for 0.3 to 1 s",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = []string{a.leader()}
			links := a.around(a.Targets[0])
			a.goOn(func(ctx context.Context) {
				for cut := true; ctx.Err() == nil; cut = !cut {
					now := links
					if !cut {
						now = nil
					}
					if err := a.cut(now); err != nil {
						return // Undo meets it too
					}
					wait(ctx, 300*time.Millisecond+time.Duration(a.rng.IntN(700))*time.Millisecond)
				}
			})
			return nil
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "swizzle", Class: Network, Weight: 1, Hold: seconds(3, 8), About: "nodes are cut off one by one, then heard again in another order",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			back := a.rng.Perm(len(a.Order))
			a.goOn(func(ctx context.Context) {
				// Each of the steps but the last, which is the undo, has its share of the time.
				step := a.Hold / time.Duration(2*len(a.Order))
				cut := map[string]bool{}
				apply := func() bool {
					var links []pair
					for _, node := range a.Order {
						if cut[node] {
							links = append(links, a.around(node)...)
						}
					}
					err := a.cut(links)
					wait(ctx, step)
					return err == nil && ctx.Err() == nil
				}
				for _, node := range a.Order {
					cut[node] = true
					if !apply() {
						return
					}
				}
				for _, i := range back {
					delete(cut, a.Order[i])
					if !apply() {
						return
					}
				}
			})
			return nil
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "dir-vs-data", Class: Network, Weight: 1, About: "the directory's leader and the nodes that lead data shards don't hear each other",
		Do: func(_ context.Context, a *Act) error {
			directory := a.Order[0]
			if r, ok := a.before[0]; ok {
				directory = r.Leader
			}
			var data []string
			for shard, r := range a.before {
				if shard != 0 && r.Leader != directory {
					data = append(data, r.Leader)
				}
			}
			if len(data) == 0 { // it leads all
				data = a.others(directory)
			}
			a.Targets = []string{directory}
			return a.cut(apart(a.Targets, data))
		},
		Undo: undoCut, Effect: hurt,
	},
	{
		Name: "client-cut", Class: Network, Weight: 1, Needs: Clients, About: "a node, more often a leader, and its clients don't hear each other",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = []string{a.someone()}
			return a.cut(apart(a.Targets, []string{cluster.Clients}))
		},
		Undo: undoCut, Effect: func(ctx context.Context, a *Act) string { return a.unable(ctx) },
	},
	{
		Name: "delay", Class: Network, Weight: 1, About: "all that a node sends or gets takes 50 to 200 ms",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = []string{a.someone()}
			return each(a.around(a.Targets[0]), func(from, to string) error { return a.n.sys.SetDelay(from, to, a.burst()) })
		},
		Undo: undoLinks,
		Effect: func(ctx context.Context, a *Act) string {
			if s := a.slower(ctx, a.burst()*3/4); s != "" {
				return s
			}
			return hurt(ctx, a)
		},
	},
	{
		Name: "lossy", Class: Network, Weight: 1, Needs: Packets, About: "1 to 10 % of all packets are lost",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			return each(a.all(), func(from, to string) error { return a.n.sys.SetLoss(from, to, 0.01+0.09*a.Size) })
		},
		Undo: undoLinks,
		Effect: func(_ context.Context, a *Act) string {
			return rose("lost", a.counts.Lost, a.n.sys.Counts().Lost)
		},
	},
	{
		Name: "duplicate", Class: Network, Weight: 1, Needs: Packets, About: "2 to 20 % of all packets come twice",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			return each(a.all(), func(from, to string) error { return a.n.sys.SetDuplicate(from, to, 0.02+0.18*a.Size) })
		},
		Undo: undoLinks,
		Effect: func(_ context.Context, a *Act) string {
			return rose("repeated", a.counts.Repeated, a.n.sys.Counts().Repeated)
		},
	},
	{
		Name: "reorder", Class: Network, Weight: 1, Needs: Packets, About: "5 to 30 % of all packets are overtaken by others",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			return each(a.all(), func(from, to string) error { return a.n.sys.SetReorder(from, to, 0.05+0.25*a.Size) })
		},
		Undo: undoLinks,
		Effect: func(_ context.Context, a *Act) string {
			return rose("reordered", a.counts.Reordered, a.n.sys.Counts().Reordered)
		},
	},
	{
		Name: "thin", Class: Network, Weight: 1, Needs: Packets, About: "each link carries 8 to 64 KiB a second",
		Do: func(_ context.Context, a *Act) error {
			a.Targets = a.Order
			return each(a.all(), func(from, to string) error {
				return a.n.sys.SetRate(from, to, 8<<10+int(a.Size*(56<<10)))
			})
		},
		Undo: undoLinks,
		Effect: func(ctx context.Context, a *Act) string {
			if s := a.slower(ctx, 20*time.Millisecond); s != "" {
				return s
			}
			return hurt(ctx, a)
		},
	},
}

func undoCut(_ context.Context, a *Act) error { return a.uncut() }

func undoLinks(_ context.Context, a *Act) error {
	return errors.Join(a.uncut(), a.plainLinks(a.all()))
}

// someone is the leader in two cases of three, else the first of the order.
func (a *Act) someone() string {
	if a.Size < 0.66 {
		return a.leader()
	}
	return a.Order[0]
}

// oneWay cuts all that a node sends, or all that it gets.
func (a *Act) oneWay(out bool) error {
	node := a.someone()
	var links []pair
	for _, other := range a.others(node) {
		l := pair{other, node}
		if out {
			l = pair{node, other}
		}
		links = append(links, l)
		a.Targets = append(a.Targets, l.String())
	}
	return a.cut(links)
}

// burst is the delay of a burst.
func (a *Act) burst() time.Duration {
	return 50*time.Millisecond + time.Duration(a.Size*float64(150*time.Millisecond))
}

func rose(what string, before, now uint64) string {
	if now <= before {
		return ""
	}
	return fmt.Sprintf("%d packets were %s", now-before, what)
}
