package integration

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// smallLogs makes members that were away, and new ones, meet a snapshot in some rounds, the log in others.
var smallLogs = []string{"--snapshot-threshold", "300", "--trailing-logs", "100"}

// byHand leaves members where an operator puts them: the directory would add those that he removed, remove those that he added, and move
// replicas to nodes that joined.
var byHand = []string{"--balance", "off"}

// startFour starts three nodes that form a cluster and d, which joins it.
func startFour(t *testing.T, shards int) *cluster.Cluster {
	t.Helper()
	c := cluster.Start(t, cluster.Config{
		Binary: builder.Binary(t), Shards: shards, Delay: 2 * time.Millisecond, Limit: 30 * time.Minute, Args: slices.Concat(smallLogs, byHand),
	})
	c.Join(t, c.Nodes[0])
	c.WaitReady(t, 60*time.Second)
	c.WaitKnown(t, "d", 30*time.Second)
	return c
}

// TestMembersUnderFire ensures that members come and go as asked for while clients work and nodes are
// killed in the middle, and that no client is told anything wrong: nothing acknowledged is lost, no read is
// stale on whichever member, and all members end with the same state.
func TestMembersUnderFire(t *testing.T) {
	processes(t)
	c := startFour(t, 3)
	r := startRun(t, c)
	stop := r.writeOnce(2)
	r.progress(200, 30*time.Second)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f := fire{run: r, operator: newOperator(t, c), rng: rand.New(rand.NewPCG(seed, 0)), shards: append(shards(t, c), 0)}
	for round := range rounds(t, 2) {
		f.round(round%2 == 1)
	}
	r.progress(200, 30*time.Second)
	stop()
	t.Logf("%d changes, %d nodes killed; answers to attempts %v, operations ended %v", f.changes, f.kills, f.operator.statuses, f.operator.ended)

	r.mark()
	r.readAll()
	r.readMembers()
	r.verify(500)
	at := quiesce(t, c)
	together(c.Nodes, func(n *cluster.Node) {
		if err := n.Terminate(within(t, 30*time.Second)); err != nil {
			t.Errorf("node %s, asked to end: %v", n.ID, err)
		}
	})
	compareOffline(t, builder.Binary(t), c, at)
}

// fire changes members of random shards and kills random nodes.
type fire struct {
	run      *run
	operator *operator
	rng      *rand.Rand
	shards   []uint64 // the directory's own among them

	shard          uint64 // of the last change
	node           string // that came or went by it
	changes, kills int
}

// round makes one change and, if asked to, kills a node while it is made.
func (f *fire) round(kill bool) {
	t := f.run.t
	t.Helper()
	m, node, add := f.choose()
	shard, leader := m.Shard, m.Leader
	if !kill {
		f.operator.change(shard, node, add, false)
		t.Logf("%s %s, shard %d", verb(add), node, shard)
	} else {
		// Who is hurt: the directory's leader, the shard's, the node concerned, anyone.
		names := []string{f.operator.members(0).Leader, leader, node, f.run.cluster.Nodes[f.rng.IntN(len(f.run.cluster.Nodes))].ID}
		victim := f.run.cluster.Node(names[f.rng.IntN(len(names))])
		early, away := time.Duration(f.rng.IntN(300))*time.Millisecond, time.Duration(200+f.rng.IntN(1500))*time.Millisecond
		t.Logf("%s %s, shard %d led by %s; %s is killed %v later, for %v", verb(add), node, shard, leader, victim.ID, early, away)
		var fault sync.WaitGroup
		fault.Go(func() {
			<-time.After(early)
			if err := victim.Kill(); err != nil {
				t.Error(err)
				return
			}
			<-time.After(away)
			if err := victim.Start(); err != nil {
				t.Error(err)
			}
		})
		f.operator.begin(f.operator.node(), shard, node, add, m.Conf)
		fault.Wait()
		f.kills++
		f.run.cluster.WaitReady(t, 60*time.Second)
		f.finish(shard, node, add)
	}
	f.operator.settled(shard, wantedMembers(m, node, add)) // nothing but what was asked for
	f.shard, f.node = shard, node
	f.changes++
	f.run.progress(50, 30*time.Second)
}

// finish ends a change that may or may not have begun.
func (f *fire) finish(shard uint64, node string, add bool) {
	p := f.operator
	if o, runs := p.running(shard); runs {
		p.follow(o.ID)
	}
	p.change(shard, node, add, true)
}

// choose picks a change that leaves a shard two to four voters, and returns the members that it is for.
func (f *fire) choose() (m cluster.Members, node string, add bool) {
	shard := f.shards[f.rng.IntN(len(f.shards))]
	if f.changes > 0 && f.rng.IntN(4) == 0 {
		shard = f.shard // and the same node again, the other way
	} else {
		f.node = ""
	}
	m = f.operator.members(shard)
	voters, _ := m.Voters()
	var absent []string
	for _, n := range f.run.cluster.Nodes {
		if !m.Has(n.ID) {
			absent = append(absent, n.ID)
		}
	}
	switch {
	case len(absent) == 0, len(voters) > 2 && f.rng.IntN(2) == 0:
		add, node = false, voters[f.rng.IntN(len(voters))]
		if f.rng.IntN(3) == 0 {
			node = m.Leader
		}
	default:
		add, node = true, absent[f.rng.IntN(len(absent))]
	}
	if again := f.node; again != "" && (!m.Has(again) || len(voters) > 2) {
		add, node = !m.Has(again), again
	}
	return m, node, add
}

// mark ends the load and writes to each data shard once more, so that the last entry of its log is one that
// the offline check can see, and not a change of members.
func (r *run) mark() {
	r.t.Helper()
	r.load.Stop()
	live := r.cluster.Live()
	for _, shard := range shards(r.t, r.cluster) {
		key := keyIn(r.t, live[0], "mark", shard)
		r.probes = append(r.probes, key)
		r.write(key, live)
	}
}

// readMembers reads every key at each member of its shard, which must not pass the read on. The load
// must have ended.
func (r *run) readMembers() {
	t := r.t
	t.Helper()
	d, err := r.cluster.Live()[0].Directory(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	hosts := func(key string) []string {
		for _, s := range d.Shards {
			if slot := slotOf(key); s.Start <= slot && slot < s.End {
				var nodes []string
				for _, m := range s.Members {
					nodes = append(nodes, m.Node)
				}
				return nodes
			}
		}
		t.Fatalf("no shard owns slot %d", slotOf(key))
		return nil
	}
	c := client.New(client.Config{Recorder: r.recorder, Timeout: 2 * time.Second})
	defer c.Close()
	process := r.recorder.NewProcess()
	paths := map[string]int{}
	ctx := within(t, 2*time.Minute)
	for _, key := range r.keys() {
		for _, host := range hosts(key) {
			target := cluster.Targets([]*cluster.Node{r.cluster.Node(host)})[0]
			var o history.Operation
			if err := cluster.Poll(ctx, func() bool {
				o = c.Do(ctx, target, history.Operation{Process: process, Kind: history.Get, Key: key, Local: true})
				return o.Outcome == history.OK
			}); err != nil {
				t.Fatalf("%s hosts a replica of key %q and does not serve it: %s", host, key, o)
			}
			paths[o.Path]++
			r.final = append(r.final, o)
		}
	}
	if paths["follower"] == 0 {
		t.Errorf("not proved: no follower served a read: %v", paths)
	}
	t.Logf("all keys read at all members of their shards: %v", paths)
}

// TestTwoOperators ensures that of two different changes of one shard, asked for at the same moment
// through two nodes and on the same condition, at most one is made, and never a mix of both.
func TestTwoOperators(t *testing.T) {
	processes(t)
	c := startFour(t, 2)
	r := startRun(t, c)
	p := newOperator(t, c)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	all := append(shards(t, c), 0)
	accepted := 0
	n := 5 * rounds(t, 2)
	for range n {
		shard := all[rng.IntN(len(all))]
		m := p.members(shard)
		changes := twoChanges(rng, c, m)
		nodes := rng.Perm(len(c.Nodes))
		var replies [2]cluster.Answer
		var errs [2]error
		var ops [2]cluster.Operation
		var both sync.WaitGroup
		for i, ch := range changes {
			via := c.Nodes[nodes[i]]
			both.Go(func() {
				replies[i], ops[i], errs[i] = via.ChangeMember(t.Context(), shard, ch.node, ch.add, m.Conf)
			})
		}
		both.Wait()
		before, _ := m.Voters()
		wanted := before
		winners := 0
		for i, ch := range changes {
			switch {
			case errs[i] != nil:
				t.Fatalf("%s %s: %v", verb(ch.add), ch.node, errs[i])
			case replies[i].Status == 202:
				winners++
				accepted++
				wanted = wantedMembers(m, ch.node, ch.add)
				if o := p.follow(ops[i].ID); o.State != "done" {
					t.Errorf("with all nodes up: %s", o)
				}
			case replies[i].Status != 409 && replies[i].Status != 412:
				t.Errorf("%s %s was answered %s, want 202, 409 or 412", verb(ch.add), ch.node, replies[i])
			}
		}
		if winners > 1 {
			t.Fatalf("both of two changes of shard %d at conf %s were accepted: %+v, %v", shard, m.Conf, changes, replies)
		}
		p.settled(shard, wanted)
	}
	if accepted < n/2 {
		t.Errorf("not proved: of %d pairs only %d had a change accepted", n, accepted)
	}
	t.Logf("%d pairs of changes, one was accepted in %d", n, accepted)
	r.progress(100, 30*time.Second)
	r.verify(100)
}

// memberChange is a change of one member.
type memberChange struct {
	node string
	add  bool
}

// twoChanges picks two different changes, each of which leaves two voters at least.
func twoChanges(rng *rand.Rand, c *cluster.Cluster, m cluster.Members) [2]memberChange {
	voters, _ := m.Voters()
	var possible []memberChange
	for _, n := range c.Nodes {
		if add := !slices.Contains(voters, n.ID); add || len(voters) > 2 {
			possible = append(possible, memberChange{n.ID, add})
		}
	}
	order := rng.Perm(len(possible))
	return [2]memberChange{possible[order[0]], possible[order[1]]}
}
