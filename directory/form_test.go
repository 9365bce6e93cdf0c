package directory

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/larder-cache/larder/shard"
)

// formWorld runs the core of forming on a few nodes, one event at a time: questions and answers that
// travel at any speed and get lost, crashes at any point, and data folders that are wiped.
type formWorld struct {
	names   []string
	nodes   map[string]*formNode
	born    int                        // incarnations so far
	made    map[string]bool            // cluster ids that were ever persisted
	members map[string][]shard.Founder // by cluster id
	trace   []string
}

// formNode is a node: its data folder, and the process, if it runs.
type formNode struct {
	incarnation string
	disk        *founding
	core        *former              // nil while down
	stopped     error                // the process ended itself
	asked       map[string]*question // of the running round, nil: none runs
	decided     *founding            // being persisted
}

// question is one question of a round: unanswered, on its way back, or done with.
type question struct {
	answer *FormReport
	done   bool
}

func newFormWorld(n int) *formWorld {
	w := &formWorld{nodes: make(map[string]*formNode), made: make(map[string]bool), members: make(map[string][]shard.Founder)}
	for i := range n {
		name := string(rune('a' + i))
		w.names = append(w.names, name)
		w.nodes[name] = &formNode{}
		w.wipe(name)
	}
	return w
}

func (w *formWorld) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *formWorld) wipe(name string) {
	w.born++
	w.nodes[name] = &formNode{incarnation: fmt.Sprintf("%032x", w.born)}
}

func (w *formWorld) start(name string) {
	n := w.nodes[name]
	n.core = newFormer(FormReport{
		Node:  Node{ID: name, Incarnation: n.incarnation},
		Names: w.names,
	}, n.disk)
}

func (w *formWorld) crash(name string) {
	n := w.nodes[name]
	w.nodes[name] = &formNode{incarnation: n.incarnation, disk: n.disk}
}

// begin starts a round.
func (w *formWorld) begin(name string) {
	n := w.nodes[name]
	n.core.begin()
	n.asked = make(map[string]*question)
	for _, other := range w.names {
		if other != name {
			n.asked[other] = &question{}
		}
	}
}

// hear lets other answer the question of name, if it runs.
func (w *formWorld) hear(name, other string) {
	if core := w.nodes[other].core; core != nil {
		r := core.report()
		w.nodes[name].asked[other].answer = &r
	} else {
		w.nodes[name].asked[other].done = true
	}
}

// deliver hands the answer of other to name.
func (w *formWorld) deliver(name, other string) {
	n := w.nodes[name]
	q := n.asked[other]
	q.done = true
	d, err := n.core.answer(other, *q.answer)
	if err != nil {
		n.stopped, n.core, n.asked = err, nil, nil
		return
	}
	if d != nil {
		n.decided = d
	}
}

// end ends the round.
func (w *formWorld) end(name string) {
	n := w.nodes[name]
	n.asked = nil
	if d := n.core.end(); d != nil {
		n.decided = d
	}
}

// write puts the decision on disk; the process does not know yet.
func (w *formWorld) write(name string) {
	n := w.nodes[name]
	n.disk = n.decided
	w.made[n.disk.cluster] = true
	w.members[n.disk.cluster] = n.disk.list
}

// events returns what can happen now. Faults are offered as long as faulty is set.
func (w *formWorld) events(faulty bool) (names []string, run map[string]func()) {
	run = make(map[string]func())
	add := func(f func(), format string, args ...any) {
		name := fmt.Sprintf(format, args...)
		names = append(names, name)
		run[name] = f
	}
	for _, name := range w.names {
		n := w.nodes[name]
		if faulty {
			add(func() { w.wipe(name) }, "wipe %s", name)
		}
		if n.core == nil {
			if n.stopped == nil || faulty {
				add(func() { n.stopped = nil; w.start(name) }, "start %s", name)
			}
			continue
		}
		if faulty {
			add(func() { w.crash(name) }, "crash %s", name)
		}
		switch {
		case n.asked != nil:
			open := false
			for _, other := range slices.Sorted(maps.Keys(n.asked)) {
				q := n.asked[other]
				switch {
				case q.done:
					continue
				case q.answer == nil:
					add(func() { w.hear(name, other) }, "%s asks %s", name, other)
				default:
					add(func() { w.deliver(name, other) }, "%s hears %s", name, other)
				}
				open = true
				if faulty {
					add(func() { q.done = true }, "%s gives up on %s", name, other)
				}
			}
			if !open {
				add(func() { w.end(name) }, "%s ends its round", name)
			}
		case n.decided != nil && n.disk == nil:
			add(func() { w.write(name) }, "%s writes", name)
		case n.decided != nil && !n.core.formed():
			add(func() { n.core.persisted(n.disk); n.decided = nil }, "%s has written", name)
		case !n.core.formed():
			add(func() { w.begin(name) }, "%s begins", name)
		}
	}
	return names, run
}

// check returns what must never be.
func (w *formWorld) check() error {
	holders := make(map[string]string)
	for _, name := range w.names {
		n := w.nodes[name]
		if n.disk != nil {
			holders[n.disk.cluster] = name
			if n.disk.cluster != shard.ClusterID(n.disk.list) || !slices.Contains(n.disk.list, shard.Founder{Node: name, Incarnation: n.incarnation}) {
				return fmt.Errorf("%s holds %+v, incarnation %s", name, n.disk, n.incarnation)
			}
		}
		if n.stopped == nil {
			continue
		}
		// A node may only stop because a cluster was founded without its incarnation.
		lost := false
		for cluster := range w.made {
			lost = lost || !slices.Contains(w.members[cluster], shard.Founder{Node: name, Incarnation: n.incarnation})
		}
		if !lost || !errors.Is(n.stopped, shard.ErrDataLost) {
			return fmt.Errorf("%s stopped: %w", name, n.stopped)
		}
	}
	if len(holders) > 1 {
		return fmt.Errorf("two clusters: %v", holders)
	}
	return nil
}

// formRun plays one random history: faults first, then none until nothing is left to happen.
func formRun(seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 0))
	w := newFormWorld(2 + int(seed%3))
	faults := r.IntN(120)
	for step := 0; ; step++ {
		if step == faults {
			// Nothing is lost from now on: whoever stopped, perhaps for the last word of a folder that
			// was wiped since, is started once more, and such words that are still on their way get lost.
			for _, n := range w.nodes {
				n.stopped = nil
				for _, q := range n.asked {
					q.done = true
				}
			}
		}
		names, run := w.events(step < faults && r.IntN(4) == 0)
		if len(names) == 0 {
			break
		}
		if step > 4000+faults {
			return fmt.Errorf("seed %d: no end in sight: %s", seed, strings.Join(w.trace[len(w.trace)-50:], ", "))
		}
		name := names[r.IntN(len(names))]
		w.note("%s", name)
		run[name]()
		if err := w.check(); err != nil {
			return fmt.Errorf("seed %d: %w\n%s", seed, err, strings.Join(w.trace, "\n"))
		}
	}
	// Without further faults each node ends as a member or knows that its data is lost.
	for _, name := range w.names {
		if n := w.nodes[name]; n.disk == nil && n.stopped == nil {
			return fmt.Errorf("seed %d: %s neither formed nor stopped\n%s", seed, name, strings.Join(w.trace, "\n"))
		}
	}
	return nil
}

// TestFormNeverSplits ensures that whatever is lost, late, crashed or wiped while a cluster forms, no
// two data folders ever hold different founders, no node stops without cause, and all come to an end.
func TestFormNeverSplits(t *testing.T) {
	histories := uint64(5000)
	if testing.Short() {
		histories = 1000
	}
	for seed := range histories {
		if err := formRun(seed); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFormAgreesInOneRound ensures that a list is made only when each other node reported just it in
// one and the same round: not over several rounds, not with one missing, not after a change.
func TestFormAgreesInOneRound(t *testing.T) {
	id := func(i int) string { return fmt.Sprintf("%032x", i) }
	list := func(c int) []shard.Founder {
		return []shard.Founder{{Node: "a", Incarnation: id(1)}, {Node: "b", Incarnation: id(2)}, {Node: "c", Incarnation: id(c)}}
	}
	names := []string{"a", "b", "c"}
	f := newFormer(FormReport{Node: Node{ID: "a", Incarnation: id(1)}, Names: names}, nil)
	round := func(answers ...FormReport) *founding {
		t.Helper()
		f.begin()
		for _, r := range answers {
			if d, err := f.answer(r.Node.ID, r); d != nil || err != nil {
				t.Fatalf("%+v, %v", d, err)
			}
		}
		return f.end()
	}
	b := FormReport{Node: Node{ID: "b", Incarnation: id(2)}, Names: names, List: list(3)}
	c := FormReport{Node: Node{ID: "c", Incarnation: id(3)}, Names: names, List: list(3)}
	reborn := FormReport{Node: Node{ID: "c", Incarnation: id(4)}, Names: names, List: list(4)}
	behind := FormReport{Node: Node{ID: "c", Incarnation: id(3)}, Names: names, List: list(3)[2:]}
	for i, answers := range [][]FormReport{
		{b, c},      // learns them
		{b},         // c does not answer
		{c},         // b does not answer
		{b, behind}, // c knows nobody yet
		{b, reborn}, // c changed
		{b, c},      // and was somebody else at the start of this round
	} {
		if d := round(answers...); d != nil {
			t.Fatalf("round %d made %+v", i, d)
		}
	}
	d := round(b, c)
	if d == nil || !slices.Equal(d.list, list(3)) || d.cluster != shard.ClusterID(list(3)) {
		t.Fatalf("agreed, but made %+v", d)
	}
	if _, err := f.answer("c", reborn); err != nil || !slices.Equal(f.report().List, d.list) || f.report().Cluster != "" {
		t.Errorf("while it is being persisted, reports %+v, %v", f.report(), err)
	}
	f.persisted(d)
	f.begin()
	if _, err := f.answer("c", reborn); err != nil || f.end() != nil || !slices.Equal(f.report().List, d.list) || f.report().Cluster != d.cluster {
		t.Errorf("formed, but reports %+v, %v", f.report(), err)
	}
}

// TestFormWithoutFaults ensures that undisturbed nodes form one cluster of all of them.
func TestFormWithoutFaults(t *testing.T) {
	for n := 1; n <= 5; n++ {
		w := newFormWorld(n)
		for step := 0; ; step++ {
			names, run := w.events(false)
			if len(names) == 0 {
				break
			}
			if step > 1000*n {
				t.Fatalf("%d nodes never form", n)
			}
			run[names[step%len(names)]]()
		}
		for _, name := range w.names {
			if d := w.nodes[name].disk; d == nil || len(d.list) != n {
				t.Errorf("%d nodes: %s holds %+v", n, name, d)
			}
		}
		if len(w.made) != 1 {
			t.Errorf("%d nodes made %d clusters", n, len(w.made))
		}
	}
}

// TestFormRefuses ensures that nodes which were started differently, or lost their data, stop with an
// error that names both values.
func TestFormRefuses(t *testing.T) {
	report := func() FormReport {
		return FormReport{
			Node:     Node{ID: "b", Incarnation: fmt.Sprintf("%032x", 2)},
			Names:    []string{"a", "b"},
			Settings: smallSettings,
			List:     []shard.Founder{{Node: "b", Incarnation: fmt.Sprintf("%032x", 2)}},
		}
	}
	for name, row := range map[string]struct {
		change func(*FormReport)
		want   []string
	}{
		"other names":          {func(r *FormReport) { r.Names = []string{"a", "b", "c"} }, []string{"a,b here", "a,b,c on b"}},
		"other initial-shards": {func(r *FormReport) { r.Settings.InitialShards = 9 }, []string{"initial-shards is 4 here, 9 on b"}},
		"other replicas":       {func(r *FormReport) { r.Settings.Replicas = 1 }, []string{"replicas is 3 here, 1 on b"}},
		"other cache-memory":   {func(r *FormReport) { r.Settings.CacheMemory = "1GiB" }, []string{"cache-memory is 60% here, 1GiB on b"}},
		"other shard-bytes":    {func(r *FormReport) { r.Settings.ShardBytes = 5 }, []string{"shard-bytes is 0 here, 5 on b"}},
		"another node":         {func(r *FormReport) { r.Node.ID = "x" }, []string{"calls itself x"}},
		"founded without this one": {func(r *FormReport) {
			r.List = append(r.List, shard.Founder{Node: "a", Incarnation: fmt.Sprintf("%032x", 7)})
			r.Cluster = shard.ClusterID(r.List)
		}, []string{"data lost, rejoin as new", fmt.Sprintf("knows node a by the data folder with incarnation %032x", 7), fmt.Sprintf("this folder has incarnation %032x", 1), "goes on with its other members", "--join"}},
		"joined a cluster": {func(r *FormReport) {
			r.Names, r.List, r.Cluster = []string{"b", "c", "d"}, nil, testCluster
		}, []string{testCluster, "joined after that was formed", "If a was a member there", "larder node remove --force", "--join"}},
		"founded, but the id is another's": {func(r *FormReport) {
			r.List = append(r.List, shard.Founder{Node: "a", Incarnation: fmt.Sprintf("%032x", 1)})
			r.Cluster = testCluster
		}, []string{testCluster}},
	} {
		f := newFormer(FormReport{Node: Node{ID: "a", Incarnation: fmt.Sprintf("%032x", 1)}, Names: []string{"b", "a"}, Settings: smallSettings}, nil)
		f.begin()
		r := report()
		row.change(&r)
		_, err := f.answer("b", r)
		for _, want := range row.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", name, err, want)
			}
		}
	}
}
