package directory

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// replicaOf is a replica that runs and holds what a shard of a table was granted.
func replicaOf(s Shard, node string, change func(*shard.Holding)) shard.Holding {
	h := shard.Holding{Replica: shard.ReplicaID{Shard: s.ID, Node: node, R: 1}, Runs: true, Term: 2, Last: 10,
		Cache: &fsm.Stats{Range: s.Range(), Epoch: s.Epoch, Generation: s.Generation, Version: uint64(s.VersionBits)<<44 | 7}}
	for _, m := range s.Members {
		h.Voters = append(h.Voters, m.id(s.ID))
	}
	if change != nil {
		change(&h)
	}
	return h
}

// TestRebuiltTable ensures that a rebuilt table has the ranges, epochs and generations of the newest table that was found, and of shards that have newer ones; members as a leader
// has them, else as the longest log of the newest generation; and no bits, limits or operations that the lost lineage could have given out; and that what makes
// no whole is refused.
func TestRebuiltTable(t *testing.T) {
	apply := func(c Command, to *Table) *Table {
		t.Helper()
		c.Kind = c.kind()
		next, r := c.apply(to)
		if r.Outcome != OutcomeApplied {
			t.Fatalf("%+v", r)
		}
		return next
	}
	base := apply(testInit(t, 4, smallSettings), &Table{})
	first := base.Shards[0]
	free := slices.DeleteFunc(base.NodeIDs(), func(id string) bool { _, member := first.Member(id); return member })[0]
	base = apply(Command{Start: &StartOperation{Kind: AddMember, Shard: first.ID, Node: free, Conf: 1}}, base)
	at, version := first.Members[0].Node, uint64(1000)<<lineageBits
	of := func(change func(*shard.Holding)) found {
		return found{at, []shard.Holding{replicaOf(first, at, change)}}
	}

	same, err := base.rebuilt(at, version, []found{of(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if same.Version != version || same.Rebuilt != version || same.SettingsVersion != version || !slices.Equal(same.Directory, []Member{{at, version, RoleVoter}}) ||
		same.VersionGrant < base.VersionGrant+100 || same.NextOperation <= base.NextOperation+100 {
		t.Errorf("%+v", same)
	}
	for i, sh := range same.Shards {
		was := base.Shards[i]
		if sh.Range() != was.Range() || sh.Epoch != was.Epoch || sh.Generation != was.Generation || sh.VersionBits != was.VersionBits || sh.Limit != was.Limit || sh.LimitVersion != version || !sh.Unsettled {
			t.Errorf("%+v, was %+v", sh, was)
		}
	}
	if o, _ := same.Operation(1); o.State != OperationFailed || o.Error == "" {
		t.Errorf("%+v", o)
	}
	if o := same.Operations[len(same.Operations)-1]; o.Kind != RebuildDirectory || o.State != OperationDone {
		t.Errorf("%+v", o)
	}
	if sh := same.Shards[0]; len(sh.Members) != 3 || voters(sh.Members) != 3 {
		t.Errorf("members %+v, want those of the configuration, without the learner of the table", sh.Members)
	}
	if base.Shards[0].Unsettled || base.Rebuilt != 0 || base.Operations[0].State != OperationRunning {
		t.Error("the table that it was made from changed")
	}
	for _, c := range []struct {
		name  string
		all   []found
		check func(Shard) bool
	}{
		{"version bits that the lost lineage gave", []found{of(func(h *shard.Holding) { h.Cache.Version = 900 << 44 })},
			func(s Shard) bool { return s.VersionBits > 900+grantMargin && s.Generation == 1 && s.Epoch == 1 }},
		{"a generation that it began", []found{of(nil), {free, []shard.Holding{replicaOf(first, free, func(h *shard.Holding) {
			h.Replica.R, h.Voters, h.Last = 9, []shard.ReplicaID{{Shard: first.ID, Node: free, R: 9}}, 2
			h.Cache.Generation, h.Cache.Epoch, h.Cache.Version = 2, 9, 77<<44
		})}}},
			func(s Shard) bool {
				return s.Generation == 2 && s.Epoch == 9 && s.VersionBits > 77 && s.Bootstrap[0] == Member{free, 9, RoleVoter} && len(s.Members) == 1 && s.Members[0] == Member{free, 9, RoleVoter}
			}},
		{"an older grant", []found{of(func(h *shard.Holding) { h.Cache = &fsm.Stats{} })}, func(s Shard) bool { return s.Epoch == 1 && s.VersionBits == first.VersionBits }},
		{"who leads, against a longer log", []found{of(func(h *shard.Holding) { h.Leads = true; h.Voters = h.Voters[:2] }), {free, []shard.Holding{replicaOf(first, free, func(h *shard.Holding) { h.Last = 99 })}}},
			func(s Shard) bool { return len(s.Members) == 2 }},
		{"the longer log", []found{of(func(h *shard.Holding) { h.Voters = h.Voters[:2] }), {free, []shard.Holding{replicaOf(first, free, func(h *shard.Holding) { h.Last = 99 })}}},
			func(s Shard) bool { return len(s.Members) == 3 }},
		{"a leader of an older term", []found{of(func(h *shard.Holding) { h.Leads = true; h.Voters = h.Voters[:2] }),
			{free, []shard.Holding{replicaOf(first, free, func(h *shard.Holding) { h.Leads, h.Term, h.Last = true, 3, 1 })}}},
			func(s Shard) bool { return len(s.Members) == 3 }},
		{"an unknown node, and one that has no replica", []found{of(func(h *shard.Holding) {
			h.Voters[1].Node = "z"
			h.Learners = []shard.ReplicaID{{Shard: first.ID, Node: free, R: 2}}
		})}, func(s Shard) bool { return len(s.Members) == 3 && voters(s.Members) == 2 }},
		{"nobody known", []found{of(func(h *shard.Holding) { h.Voters = []shard.ReplicaID{{Shard: first.ID, Node: "z", R: 2}} })},
			func(s Shard) bool { return len(s.Members) == 4 }},
		{"one that does not run", []found{of(func(h *shard.Holding) { h.Runs, h.Voters = false, h.Voters[:1] })}, func(s Shard) bool { return len(s.Members) == 4 }},
	} {
		got, err := base.rebuilt(at, version, c.all)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !c.check(got.Shards[0]) {
			t.Errorf("%s: %+v", c.name, got.Shards[0])
		}
	}
	recovered := apply(Command{Recover: &RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{free}}}, base)
	if got, err := recovered.rebuilt(at, version, []found{of(nil)}); err != nil || len(got.Shards[0].Members) != 1 || got.Shards[0].Members[0].Node != free {
		t.Errorf("%+v, %v, want the members of the generation that the table has begun, though only a replica of the former one is found", got.Shards[0], err)
	}
	low := *base
	low.Level, low.Operations = 3, nil
	if _, err := low.rebuilt(at, version, nil); err == nil || !strings.Contains(err.Error(), "level 3") {
		t.Errorf("%v, want a refusal for the level", err)
	}
	for name, h := range map[string]shard.Holding{
		"makes no whole":    replicaOf(first, at, func(h *shard.Holding) { h.Cache.Epoch, h.Cache.Range.End = 2, first.End+1 }),
		"no table that was": replicaOf(first, at, func(h *shard.Holding) { h.Replica.Shard = 99 }),
		"bits are granted":  replicaOf(first, at, func(h *shard.Holding) { h.Cache.Version = maxVersionBits << 44 }),
	} {
		if _, err := base.rebuilt(at, version, []found{{at, []shard.Holding{h}}}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want that %s", err, name)
		}
	}
	m := newTestMachine()
	if r := m.do(t, Command{RebuildTable: &RebuildTable{Table: base}}); r.Outcome != OutcomeRefused {
		t.Errorf("a table that no lineage begins with: %+v", r)
	}
	if r := m.do(t, Command{RebuildTable: &RebuildTable{Table: same}}); r.Outcome != OutcomeApplied || r.Version != version {
		t.Errorf("%+v", r)
	}
	if r := m.do(t, Command{RebuildTable: &RebuildTable{Table: same}}); r.Outcome != OutcomeRefused {
		t.Errorf("a second one: %+v", r)
	}
	if r := m.do(t, Command{Start: &StartOperation{Kind: AddMember, Shard: first.ID, Node: free, Conf: 1}}); r.Outcome != OutcomeRefused || !strings.Contains(r.Reason, "settled") {
		t.Errorf("an operation on a shard that is unsettled: %+v", r)
	}
}

// TestSettleMembers ensures that a shard is settled once, for its generation and range, with voters on nodes that are known, and with what it was granted that is newer.
func TestSettleMembers(t *testing.T) {
	m := newTestMachine()
	m.do(t, testInit(t, 4, smallSettings))
	version := uint64(1000) << lineageBits
	rebuilt, err := m.table.rebuilt("a", version, nil)
	if err != nil {
		t.Fatal(err)
	}
	sh := rebuilt.Shards[0]
	has := HeldGrant{sh.Start, sh.End, sh.Epoch, sh.Generation, sh.VersionBits}
	settle := func(change func(*SettleMembers)) Command {
		c := &SettleMembers{Shard: sh.ID, Generation: sh.Generation, Voters: []Member{{"b", 5, RoleVoter}, {"c", 6, RoleVoter}}, Has: has, Leader: "b"}
		change(c)
		return Command{Settle: c}
	}
	again := func() *testMachine {
		m := newTestMachine()
		m.do(t, Command{RebuildTable: &RebuildTable{Table: rebuilt}})
		return m
	}
	for name, change := range map[string]func(*SettleMembers){
		"unknown":      func(c *SettleMembers) { c.Shard = 99 },
		"generation":   func(c *SettleMembers) { c.Generation = 2 },
		"slots":        func(c *SettleMembers) { c.Has.End++ },
		"no voter":     func(c *SettleMembers) { c.Voters = nil },
		"which is unk": func(c *SettleMembers) { c.Voters[0].Node = "z" },
		"bits are gra": func(c *SettleMembers) { c.Has.Epoch, c.Has.VersionBits = 2, maxVersionBits },
	} {
		if r := again().do(t, settle(change)); r.Outcome != OutcomeRefused || !strings.Contains(r.Reason, name) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, c := range map[string]struct {
		change func(*SettleMembers)
		check  func(Shard) bool
	}{
		"as it is":       {func(*SettleMembers) {}, func(s Shard) bool { return s.VersionBits == sh.VersionBits && s.Epoch == sh.Epoch }},
		"never granted":  {func(c *SettleMembers) { c.Has = HeldGrant{} }, func(s Shard) bool { return s.VersionBits == sh.VersionBits }},
		"other bits":     {func(c *SettleMembers) { c.Has.VersionBits = 5000 }, func(s Shard) bool { return s.VersionBits > 5000 }},
		"a generation":   {func(c *SettleMembers) { c.Has.Generation, c.Has.Epoch = 2, 5 }, func(s Shard) bool { return s.Generation == 2 && s.Bootstrap[0] == Member{"b", 5, RoleVoter} }},
		"an older grant": {func(c *SettleMembers) { c.Has.VersionBits, c.Has.Epoch = 0, 0 }, func(s Shard) bool { return s.VersionBits == sh.VersionBits && s.Epoch == sh.Epoch }},
	} {
		m := again()
		r := m.do(t, settle(c.change))
		got := m.table.Shards[0]
		if r.Outcome != OutcomeApplied || got.Unsettled || !slices.Equal(got.Members, []Member{{"b", 5, RoleVoter}, {"c", 6, RoleVoter}}) || !c.check(got) {
			t.Errorf("%s: %+v, %+v", name, r, got)
		}
		if err := m.table.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r := m.do(t, settle(c.change)); r.Outcome != OutcomeRefused {
			t.Errorf("%s, again: %+v", name, r)
		}
	}
	m = again()
	if r := m.do(t, Command{Recover: &RecoverShard{Shard: sh.ID, Generation: sh.Generation, Nodes: []string{"a"}}}); r.Outcome != OutcomeApplied || m.table.Shards[0].Unsettled {
		t.Errorf("a recovery: %+v, %+v, want that it settles the shard", r, m.table.Shards[0])
	}
}

// TestSettleStep ensures that learners leave first, then voters on nodes that are unknown as long as a quorum stays, a leader among them handing over; and that a fence
// follows.
func TestSettleStep(t *testing.T) {
	table := &Table{Nodes: map[string]Node{"a": {}, "b": {}, "c": {}}}
	conf := func(voters, learners string) shard.Configuration {
		c := shard.Configuration{Index: 7, Last: 50, Commit: 50}
		for _, n := range voters {
			c.Voters = append(c.Voters, shard.Progress{Replica: shard.ReplicaID{Shard: 3, Node: string(n), R: 1}, Match: 50, Recent: n != 'c'})
		}
		for _, n := range learners {
			c.Learners = append(c.Learners, shard.Progress{Replica: shard.ReplicaID{Shard: 3, Node: string(n), R: 4}})
		}
		return c
	}
	for _, c := range []struct {
		voters, learners, leader string
		want                     memberStep
		why                      string
	}{
		{"abc", "", "a", memberStep{Shard: 3, Step: stepFence, Prev: 7}, ""},
		{"abc", "xy", "a", memberStep{Shard: 3, Step: stepRemove, Prev: 7, Replica: "3/x/4"}, ""},
		{"abz", "", "a", memberStep{Shard: 3, Step: stepRemove, Prev: 7, Replica: "3/z/1"}, ""},
		{"abz", "", "z", memberStep{Shard: 3, Step: stepTransfer, Node: "a"}, ""},
		{"acz", "", "a", memberStep{}, "no quorum"},
		{"z", "", "z", memberStep{}, "last voter"},
	} {
		step, why := table.settleStep(3, conf(c.voters, c.learners), c.leader)
		if c.why != "" != (why != "") || !strings.Contains(why, c.why) || why == "" && step != c.want {
			t.Errorf("%s, %s, led by %s: %+v, %q, want %+v, %q", c.voters, c.learners, c.leader, step, why, c.want, c.why)
		}
	}
}

// TestNextLineage ensures that the versions of a lineage are above all that were seen and above those of all lineages that began a second earlier, whatever the clock
// shows, that they fit in the integers of a float, and that two that begin at once differ.
func TestNextLineage(t *testing.T) {
	now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	next := func(seen uint64, at time.Time) uint64 {
		t.Helper()
		v, err := nextLineage(seen, at)
		if err != nil || v <= seen || v >= 1<<53 {
			t.Fatalf("%d, %v after %d at %v", v, err, seen, at)
		}
		return v
	}
	for range 100 {
		v := next(5, now)
		if later := next(5, now.Add(time.Second)); later < v+1<<(lineageBits-1) {
			t.Errorf("%d a second after %d", later, v)
		}
		if later := next(v+12345, now.Add(-time.Hour)); later < v+1<<lineageBits {
			t.Errorf("%d by a clock that is behind, after %d", later, v)
		}
		for _, at := range []time.Time{{}, time.Unix(-1, 0), time.Unix(1<<60, 0)} {
			if later := next(v, at); later > v+4<<lineageBits {
				t.Errorf("%d by a clock that shows %v, after %d", later, at, v)
			}
		}
	}
	if a, b := next(5, now), next(5, now); a == b {
		t.Errorf("twice %d", a)
	}
	if v, err := nextLineage(1<<53-1, now); err == nil {
		t.Errorf("%d, want that there are no more", v)
	}
}

// TestValidateRebuilt ensures that a table is unsettled in none but a lineage that began anew, at its feature level.
func TestValidateRebuilt(t *testing.T) {
	m := newTestMachine()
	m.do(t, testInit(t, 4, smallSettings))
	good, err := m.table.rebuilt("a", 99<<lineageBits, nil)
	if err != nil || good.Validate() != nil {
		t.Fatal(err, good.Validate())
	}
	for i, harm := range []func(*Table){
		func(t *Table) { t.Rebuilt = 0 },
		func(t *Table) { t.Rebuilt = t.Version + 1 },
		func(t *Table) { t.Level = 3 },
	} {
		bad := good.clone()
		if harm(bad); bad.Validate() == nil {
			t.Error(fmt.Sprint("harm ", i, " passes"))
		}
	}
	if (&Table{Rebuilt: 1}).Validate() == nil {
		t.Error("an empty table was rebuilt")
	}
}
