package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

var operatorFaults = []Fault{
	{
		Name: "two-operators", Class: Members, Weight: 1, Needs: Guest | Settings, Hold: seconds(4, 10),
		About: "two operators add, remove, drain, hand over and cancel at once, on the same shards and nodes, and first on the same condition",
		Do:    twoOperators, Undo: undoOperators, Effect: ended,
	},
}

// operator is one of two who work at once.
type operator struct {
	a      *Act
	rng    *rand.Rand
	via    int      // whom it asks next
	shards []uint64 // that both work on
	tally  map[string]int
	seen   map[uint64]bool // shards of which two changes were seen at once: once is enough
}

// twoOperators has two operators ask for different changes of one shard on one condition, and then go on at random.
func twoOperators(ctx context.Context, a *Act) error {
	if err := a.invite(ctx); err != nil {
		return err
	}
	if err := a.sameCondition(ctx); err != nil {
		return err
	}
	// The shard that both changed already, and two others at most.
	shards := []uint64{a.Shard}
	for range 2 {
		shards = append(shards, uint64(a.rng.IntN(a.n.cfg.Knobs.Shards+1)))
	}
	slices.Sort(shards)
	shards = slices.Compact(shards)
	for i := range uint64(2) {
		o := &operator{a: a, rng: rand.New(rand.NewPCG(a.Seed, 1+i)), via: int(i), shards: shards, tally: map[string]int{}, seen: map[uint64]bool{}}
		a.operators = append(a.operators, o)
		a.goOn(o.work)
	}
	return nil
}

// sameCondition asks for two changes on one condition. That both are accepted is a violation.
func (a *Act) sameCondition(ctx context.Context) error {
	m, err := a.membersOf(ctx, a.Shard)
	if err != nil {
		return err
	}
	now := a.change(m)
	type wish struct {
		node string
		add  bool
	}
	wishes := []wish{{now.follower, false}, {m.Leader, false}}
	if len(now.spare) > 0 {
		wishes[1] = wish{now.spare[0], true}
	}
	accepted := make([]bool, len(wishes))
	var all sync.WaitGroup
	for i, w := range wishes {
		via := a.Order[i]
		a.Targets = append(a.Targets, w.node)
		all.Go(func() {
			answer, _, err := a.n.sys.ChangeMember(ctx, via, a.Shard, w.node, w.add, m.Conf)
			accepted[i] = err == nil && answer.Status == 202
			a.broken(err)
		})
	}
	all.Wait()
	if accepted[0] && accepted[1] {
		a.n.violated(fmt.Sprintf("both of two changes of shard %d on condition %s were accepted: %+v", a.Shard, m.Conf, wishes))
	}
	if accepted[0] || accepted[1] {
		a.show(fmt.Sprintf("of two changes of shard %d, %+v, asked for at once through %s and %s, were accepted: %v", a.Shard, wishes, a.Order[0], a.Order[1], accepted))
	}
	return nil
}

// work gives commands until ctx ends.
func (o *operator) work(ctx context.Context) {
	for ctx.Err() == nil {
		wait(ctx, 20*time.Millisecond+time.Duration(o.rng.IntN(200))*time.Millisecond)
		if o.a.n.sys.Running(o.next()) && ctx.Err() == nil {
			o.command(ctx)
			o.look(ctx)
		}
	}
}

// next is the node that is asked next, the other operator mostly asks another one.
func (o *operator) next() string {
	nodes := o.a.Order
	o.via++
	return nodes[o.via%len(nodes)]
}

// command gives a command, and gives it again, by what is known then, where it met with a conflict.
func (o *operator) command(ctx context.Context) {
	shard := o.shards[o.rng.IntN(len(o.shards))]
	nodes := append(slices.Clone(o.a.Order), o.a.guest)
	node := nodes[o.rng.IntN(len(nodes))]
	var what string
	var give func(ctx context.Context, via string) (cluster.Answer, error)
	switch n := o.rng.IntN(10); {
	case n < 5:
		what, give = "change", func(ctx context.Context, via string) (cluster.Answer, error) {
			return o.changeMember(ctx, via, shard, node)
		}
	case n < 6:
		what, give = "drain", func(ctx context.Context, via string) (cluster.Answer, error) {
			return o.a.n.sys.Drain(ctx, via, node, true)
		}
	case n < 7:
		what, give = "undrain", func(ctx context.Context, via string) (cluster.Answer, error) {
			return o.a.n.sys.Drain(ctx, via, node, false)
		}
	case n < 9:
		what, give = "transfer", func(ctx context.Context, via string) (cluster.Answer, error) {
			return o.a.n.sys.Transfer(ctx, via, shard, node)
		}
	default:
		what, give = "cancel", o.cancel
	}
	const tries = 3
	for range tries {
		asked, cancel := context.WithTimeout(ctx, patientTime)
		answer, err := give(asked, o.next())
		cancel()
		o.a.broken(err)
		switch {
		case err == nil && answer.Status != 0 && answer.Status < 300:
			o.tally[what]++
			return
		case err == nil && answer.Status != 409 && answer.Status != 412:
			return // there was nothing to do, or it may have been done
		case err != nil || ctx.Err() != nil:
			return
		}
		o.tally["conflict"]++
		wait(ctx, time.Duration(o.rng.IntN(100))*time.Millisecond)
	}
}

// leastVoters are left to a shard by operators: one more may be away.
const leastVoters = 2

// changeMember has a shard gain or lose node, whichever is possible.
func (o *operator) changeMember(ctx context.Context, via string, shard uint64, node string) (cluster.Answer, error) {
	m, err := o.a.n.sys.Members(ctx, via, shard)
	if err != nil {
		return cluster.Answer{}, err
	}
	if voters, _ := m.Voters(); m.Has(node) && len(voters) <= leastVoters {
		return cluster.Answer{}, nil
	}
	answer, _, err := o.a.n.sys.ChangeMember(ctx, via, shard, node, !m.Has(node), m.Conf)
	return answer, err
}

// cancel asks for the end of an operation that runs, mostly the other operator's or the directory's.
func (o *operator) cancel(ctx context.Context, via string) (cluster.Answer, error) {
	all, err := o.a.n.sys.Operations(ctx, via)
	all = slices.DeleteFunc(all, cluster.Operation.Over)
	if err != nil || len(all) == 0 {
		return cluster.Answer{}, err
	}
	return o.a.n.sys.Cancel(ctx, via, all[o.rng.IntN(len(all))].ID)
}

// look looks for what no operators may bring about: two changes of a shard that are under way at once.
func (o *operator) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	all, err := o.a.n.sys.Operations(ctx, o.next())
	o.a.broken(err)
	if err != nil {
		return
	}
	runs := map[uint64]cluster.Operation{}
	for _, op := range all {
		if op.Over() {
			continue
		}
		if other, two := runs[op.Shard]; two && !o.seen[op.Shard] {
			o.seen[op.Shard] = true
			o.a.n.violated(fmt.Sprintf("two changes of shard %d are under way at once: %s; %s", op.Shard, other, op))
		}
		runs[op.Shard] = op
	}
}

// broken records an answer that the interface does not allow.
func (a *Act) broken(err error) {
	if errors.Is(err, cluster.ErrInterface) {
		a.n.violated(err.Error())
	}
}

// undoOperators takes back what they left under way, and gives all shards and nodes back what they had.
func undoOperators(ctx context.Context, a *Act) error {
	if a.former == nil {
		return nil
	}
	if effect := tell(a.operators); effect != "" {
		a.show(strings.TrimPrefix(a.shown()+"; "+effect, "; "))
	}
	var err error
	for _, node := range a.Order {
		if undrained := a.setDrain(ctx, node, false); !errors.Is(undrained, errUnknown) {
			err = errors.Join(err, undrained)
		}
	}
	a.cancelAll(ctx)
	return errors.Join(err, a.part(ctx))
}

// cancelAll asks for the end of all operations that run. Those that can't be taken back end by themselves.
func (a *Act) cancelAll(ctx context.Context) {
	_ = a.ask(ctx, func(ctx context.Context, via string) error {
		ctx, cancel := context.WithTimeout(ctx, 2*patientTime)
		defer cancel()
		all, err := a.n.sys.Operations(ctx, via)
		for _, o := range all {
			if !o.Over() {
				_, again := a.n.sys.Cancel(ctx, via, o.ID)
				err = errors.Join(err, again)
			}
		}
		return err
	})
}

// tell says what operators came to, "" for nothing.
func tell(operators []*operator) string {
	sum, accepted := map[string]int{}, 0
	for _, o := range operators {
		for what, n := range o.tally {
			sum[what] += n
			if what != "conflict" {
				accepted += n
			}
		}
	}
	if accepted == 0 {
		return ""
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(sum)) {
		parts = append(parts, fmt.Sprintf("%s %d", what, sum[what]))
	}
	return "accepted of both: " + strings.Join(parts, ", ")
}
