package directory

import (
	"slices"
	"strings"
	"testing"

	"github.com/larder-cache/larder/shard"
)

// conf7 is the configuration of index 7: voters a (leads), b and c, of which silent do not answer; with
// learner d/9 when match > 0.
func conf7(index uint64, learner, voter bool, match uint64, silent ...string) shard.Configuration {
	c := shard.Configuration{Index: index, Last: 1000, Generation: 1}
	recent := func(node string) bool { return !strings.Contains(strings.Join(silent, " "), node) }
	for _, n := range []string{"a", "b", "c"} {
		c.Voters = append(c.Voters, shard.Progress{Replica: shard.ReplicaID{Shard: 1, Node: n, R: 1}, Match: 1000, Recent: recent(n)})
	}
	d := shard.Progress{Replica: shard.ReplicaID{Shard: 1, Node: "d", R: 9}, Match: match, Recent: recent("d")}
	if learner {
		c.Learners = append(c.Learners, d)
	}
	if voter {
		c.Voters = append(c.Voters, d)
	}
	return c
}

// TestNext ensures that each phase of an operation is followed by the one step that is safe for what the
// shard's leader says, and by none where it tells the past or the quorum is at stake.
func TestNext(t *testing.T) {
	add := func(phase Phase, conf uint64) Operation {
		return Operation{ID: 5, Kind: AddMember, Shard: 1, Node: "d", R: 9, State: OperationRunning, Phase: phase, Conf: conf}
	}
	remove := func(node string, phase Phase, conf uint64) Operation {
		return Operation{ID: 5, Kind: RemoveMember, Shard: 1, Node: node, R: 1, State: OperationRunning, Phase: phase, Conf: conf}
	}
	rebuild := func(node string, r uint64, phase Phase, conf uint64) Operation {
		o := Operation{ID: 5, Kind: RebuildMember, Shard: 1, Node: node, R: r, State: OperationRunning, Phase: phase, Conf: conf}
		if r == 9 { // the new one
			o.Removed = true
		}
		return o
	}
	for _, tc := range []struct {
		name string
		o    Operation
		conf shard.Configuration
		want string
	}{
		{"rebuild", rebuild("c", 1, PhaseHandingOver, 7), stopped(conf7(7, false, false, 0), "c"), "running removing from 7"},
		{"rebuild, remove", rebuild("c", 1, PhaseRemoving, 7), stopped(conf7(7, false, false, 0), "c"), "step remove 1/c/1 upon 7"},
		{"rebuild, another is silent", rebuild("c", 1, PhaseRemoving, 7), stopped(conf7(7, false, false, 0, "b"), "c"), "running removing from 7: only 1 of the other 2 voters answer and have the log: without it there would be no quorum"},
		{"rebuild, removed", rebuild("c", 1, PhaseRemoving, 7), without(conf7(8, false, false, 0), "c"), "running adding from 8"},
		{"rebuild, removed by a step that nobody reported", rebuild("c", 1, PhaseHandingOver, 7), without(conf7(8, false, false, 0), "c"), "running adding from 8"},
		{"rebuild, changed before the removal", rebuild("c", 1, PhaseRemoving, 7), conf7(8, false, false, 0), "failed"},
		{"back out of a rebuild", rebuild("c", 1, PhaseBackingOut, 7), conf7(7, false, false, 0), "step fence  upon 7"},
		{"back out of a rebuild, fenced", rebuild("c", 1, PhaseBackingOut, 7), conf7(8, false, false, 0), "cancelled"},
		{"back out of a rebuild, removed all the same", rebuild("c", 1, PhaseBackingOut, 7), without(conf7(8, false, false, 0), "c"), "running adding from 8"},
		{"rebuild, add", rebuild("d", 9, PhaseAdding, 7), conf7(7, false, false, 0), "step add-learner 1/d/9 upon 7"},
		{"rebuild, changed before the addition", rebuild("d", 9, PhaseAdding, 7), conf7(8, false, false, 0), "running adding from 8"},
		{"rebuild, added", rebuild("d", 9, PhaseAdding, 7), conf7(8, true, false, 0), "running catching-up from 8"},
		{"rebuild, caught up", rebuild("d", 9, PhaseCatchingUp, 8), conf7(8, true, false, 990), "running promoting from 8"},
		{"rebuild, caught up and wrong again", rebuild("d", 9, PhasePromoting, 8), stopped(conf7(8, true, false, 990), "d"), "running promoting from 8: the replica on d has diverged"},
		{"rebuild, promoted", rebuild("d", 9, PhasePromoting, 8), conf7(9, false, true, 990), "done"},
		{"back out of a rebuild's second half", rebuild("d", 9, PhaseBackingOut, 8), conf7(8, true, false, 990), "step remove 1/d/9 upon 8"},
		{"remove the leader, b has diverged", remove("a", PhaseHandingOver, 7), stopped(conf7(7, false, false, 0), "b"), "running handing-over from 7: only 1 of the other 2 voters answer and have the log: without it there would be no quorum"},
		{"add, one has diverged and one is silent", add(PhaseCatchingUp, 8), stopped(conf7(8, true, false, 990, "b"), "c"), "running catching-up from 8: only 1 of 3 voters answer and have the log: one more would cost the quorum"},
		{"the past", add(PhaseAdding, 8), conf7(7, false, false, 0), "wait"},
		{"the past, of a removal", remove("b", PhaseRemoving, 8), conf7(7, false, false, 0), "wait"},
		{"add", add(PhaseAdding, 7), conf7(7, false, false, 0), "step add-learner 1/d/9 upon 7"},
		{"added", add(PhaseAdding, 7), conf7(8, true, false, 0), "running catching-up from 8"},
		{"added, by a step that nobody reported", add(PhaseAdding, 7), conf7(8, false, true, 1000), "done"},
		{"changed before", add(PhaseAdding, 7), conf7(8, false, false, 0), "failed"},
		{"behind", add(PhaseCatchingUp, 8), conf7(8, true, false, 900), "wait"},
		{"empty, in a group as young", add(PhaseCatchingUp, 8), young(conf7(8, true, false, 7)), "wait"},
		{"caught up, in a young group", add(PhaseCatchingUp, 8), young(conf7(8, true, false, 8)), "running promoting from 8"},
		{"not heard yet", add(PhaseCatchingUp, 8), conf7(8, true, false, 0, "d"), "running catching-up from 8: the leader, a, waits for the first answer of d"},
		{"silent", add(PhaseCatchingUp, 8), conf7(8, true, false, 1000, "d"), "running catching-up from 8: the leader, a, gets no answer of d"},
		{"caught up", add(PhaseCatchingUp, 8), conf7(8, true, false, 990), "running promoting from 8"},
		{"caught up, one voter silent", add(PhaseCatchingUp, 8), conf7(8, true, false, 990, "b"), "running promoting from 8"},
		{"caught up, two voters silent", add(PhaseCatchingUp, 8), conf7(8, true, false, 990, "b", "c"), "running catching-up from 8: only 1 of 3 voters answer and have the log: one more would cost the quorum"},
		{"gone while it caught up", add(PhaseCatchingUp, 8), conf7(9, false, false, 0), "failed"},
		{"promote", add(PhasePromoting, 8), conf7(8, true, false, 990), "step promote 1/d/9 upon 8"},
		{"promote, silent again", add(PhasePromoting, 8), conf7(8, true, false, 990, "d"), "running promoting from 8: the leader, a, gets no answer of d"},
		{"promote, planned anew", add(PhasePromoting, 8), conf7(9, true, false, 990), "running promoting from 9"},
		{"promoted", add(PhasePromoting, 8), conf7(9, false, true, 990), "done"},
		{"back out, never added", add(PhaseBackingOut, 7), conf7(7, false, false, 0), "step fence 1/d/9 upon 7"},
		{"back out, fenced", add(PhaseBackingOut, 7), conf7(8, false, false, 0), "cancelled"},
		{"back out, added", add(PhaseBackingOut, 7), conf7(8, true, false, 0), "running backing-out from 8"},
		{"back out, remove", add(PhaseBackingOut, 8), conf7(8, true, false, 0), "step remove 1/d/9 upon 8"},
		{"back out, removed", add(PhaseBackingOut, 8), conf7(9, false, false, 0), "cancelled"},
		{"back out, promoted all the same", add(PhaseBackingOut, 8), conf7(9, false, true, 990), "done"},
		{"back out of a promotion", add(PhaseBackingOut, 8), conf7(8, true, false, 990, "d"), "step remove 1/d/9 upon 8"},
		{"remove a follower", remove("b", PhaseHandingOver, 7), conf7(7, false, false, 0), "running removing from 7"},
		{"remove it", remove("b", PhaseRemoving, 7), conf7(7, false, false, 0), "step remove 1/b/1 upon 7"},
		{"remove the leader", remove("a", PhaseHandingOver, 7), conf7(7, false, false, 0), "step transfer to b"},
		{"remove one who leads again", remove("a", PhaseRemoving, 7), conf7(7, false, false, 0), "step transfer to b"},
		{"remove the leader, b silent", remove("a", PhaseHandingOver, 7), conf7(7, false, false, 0, "b"), "running handing-over from 7: only 1 of the other 2 voters answer and have the log: without it there would be no quorum"},
		{"remove a silent one", remove("c", PhaseRemoving, 7), conf7(7, false, false, 0, "c"), "step remove 1/c/1 upon 7"},
		{"remove one, another silent", remove("b", PhaseRemoving, 7), conf7(7, false, false, 0, "c"), "running removing from 7: only 1 of the other 2 voters answer and have the log: without it there would be no quorum"},
		{"remove one, another takes nothing", remove("b", PhaseRemoving, 7), behind(conf7(7, false, false, 0), "c"), "running removing from 7: only 1 of the other 2 voters answer and have the log: without it there would be no quorum"},
		{"remove the one that takes nothing", remove("c", PhaseRemoving, 7), behind(conf7(7, false, false, 0), "c"), "step remove 1/c/1 upon 7"},
		{"changed before the removal", remove("b", PhaseHandingOver, 7), conf7(8, false, false, 0), "failed"},
		{"back out of a removal", remove("b", PhaseBackingOut, 7), conf7(7, false, false, 0, "c"), "step fence  upon 7"},
		{"back out of a removal, fenced", remove("b", PhaseBackingOut, 7), conf7(8, false, false, 0, "c"), "cancelled"},
		{"back out of a removal, made all the same", Operation{ID: 5, Kind: RemoveMember, Shard: 1, Node: "d", R: 9, State: OperationRunning, Phase: PhaseBackingOut, Conf: 7},
			conf7(8, false, false, 0), "done"},
		{"removed", Operation{ID: 5, Kind: RemoveMember, Shard: 1, Node: "d", R: 9, State: OperationRunning, Phase: PhaseRemoving, Conf: 7},
			conf7(8, false, false, 0), "done"},
	} {
		if got := describeMove(tc.o.next(tc.conf, "a")); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.name, got, tc.want)
		}
	}
	// What is waited for is recorded once.
	o := add(PhaseCatchingUp, 8)
	o.Detail = "the leader, a, gets no answer of d"
	if got := describeMove(o.next(conf7(8, true, false, 1000, "d"), "a")); got != "wait" {
		t.Errorf("recorded again: %s", got)
	}
}

// stopped makes a member's state known to have diverged.
func stopped(c shard.Configuration, node string) shard.Configuration {
	for _, members := range [][]shard.Progress{c.Voters, c.Learners} {
		for i := range members {
			members[i].Stopped = members[i].Stopped || members[i].Replica.Node == node
		}
	}
	return c
}

// without takes a voter out of a configuration.
func without(c shard.Configuration, node string) shard.Configuration {
	c.Voters = slices.DeleteFunc(c.Voters, func(p shard.Progress) bool { return p.Replica.Node == node })
	return c
}

// behind makes a voter lack what is committed, though it answers.
func behind(c shard.Configuration, node string) shard.Configuration {
	c.Last, c.Commit = 5000, 5000
	for i := range c.Voters {
		if c.Voters[i].Replica.Node != node {
			c.Voters[i].Match = 5000
		}
	}
	return c
}

// young makes the log of a configuration's group short.
func young(c shard.Configuration) shard.Configuration {
	c.Last = 10
	return c
}

func describeMove(m move) string {
	switch {
	case m.step != nil && m.step.Step == stepTransfer:
		return "step transfer to " + m.step.Node
	case m.step != nil:
		return strings.Join([]string{"step", string(m.step.Step), m.step.Replica, "upon", uintText(m.step.Prev)}, " ")
	case m.advance == nil:
		return "wait"
	case m.advance.State != OperationRunning:
		return string(m.advance.State)
	}
	text := string(m.advance.State) + " " + string(m.advance.Phase) + " from " + uintText(m.advance.Conf)
	if m.advance.Detail != "" {
		text += ": " + m.advance.Detail
	}
	return text
}
