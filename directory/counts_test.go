package directory

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/shard"
)

// TestWantedEnds ensures that all that the directory wants, begun a few at a time, comes to an end from any table, with as many members as there are
// to be or can be; that of a shard one thing begins at a time; that none is removed that is not too many or leaves, or, where nothing presses, while
// another is down; and that nothing but what leaves its node moves where the setting balance is off.
func TestWantedEnds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table, v := anyScattered(rt, t)
		if rapid.IntRange(0, 4).Draw(rt, "off") == 0 {
			table.Settings.Balance = off
		}
		_, tooMany := table.tooManyGone(v.sights)
		leaves := func(node string) bool { return v.sights[node].gone > 0 && !tooMany || table.drained(node) }
		for round := 0; ; round++ {
			if round > 300 {
				rt.Fatal("it never ends")
			}
			began := map[shard.ID]bool{}
			for _, r := range table.wanted(v) {
				if r.waits != "" || len(began) == maxRelocations {
					continue
				}
				if began[r.shard] {
					rt.Fatalf("two things begin on shard %d", r.shard)
				}
				began[r.shard] = true
				if r.calm && r.to != "" && r.from != (Member{}) && (len(began) > 1 || len(table.relocations(v)) > 0) {
					rt.Fatalf("%+v begins beside what is more needed", r)
				}
				members, _ := table.Members(r.shard)
				adds, removes := r.to != "", r.from != Member{}
				switch {
				case r.calm == leaves(r.from.Node):
					rt.Fatalf("%+v: pressing or not", r)
				case r.calm && !table.Settings.Balanced():
					rt.Fatalf("%+v, though it is off", r)
				case adds && !table.takes(members, r.to, v.sights):
					rt.Fatalf("%+v comes to where it must not be", r)
				case adds && !removes && len(members) >= table.wants(r.shard):
					rt.Fatalf("%+v comes to %d of %d", r, len(members), table.wants(r.shard))
				case removes && !adds && !(len(members) > table.wants(r.shard)):
					rt.Fatalf("%+v leaves %d of %d", r, len(members), table.wants(r.shard))
				case removes && r.calm && down(members, v) != "":
					rt.Fatalf("%+v goes while %s is down", r, down(members, v))
				}
				table.make(r)
			}
			if len(began) == 0 {
				break
			}
		}
		for _, sh := range table.groups() {
			has, want, takers, sick := len(sh.Members), table.wants(sh.ID), 0, tooMany || !table.Settings.Balanced()
			for id := range table.Nodes {
				if table.takes(sh.Members, id, v.sights) {
					takers++
				}
			}
			for _, m := range sh.Members {
				sick = sick || leaves(m.Node) || !v.sights[m.Node].up
			}
			can := min(want, has+takers)
			if can < want && can%2 == 0 {
				can--
			}
			switch {
			case sick:
			case has < can:
				rt.Fatalf("shard %d has %d of %d, %d nodes take one", sh.ID, has, want, takers)
			case has > want && (sh.ID != shard.Directory || has%2 == 0):
				rt.Fatalf("shard %d has %d of %d", sh.ID, has, want)
			}
		}
	})
}

// TestMissingMeetsOperations ensures that what an operation makes good is not wanted twice, and that nothing else of its shard begins; and that builds
// below the level keep no reason of an addition.
func TestMissingMeetsOperations(t *testing.T) {
	table := testTable(t, 5, smallSettings).clone()
	v := outlook{sights: map[string]sight{}}
	for _, id := range table.NodeIDs() {
		v.sights[id] = sight{up: true}
	}
	sh := table.Shards[1]
	free := slices.DeleteFunc(table.NodeIDs(), func(id string) bool { _, member := sh.Member(id); return member })
	four := append(slices.Clone(sh.Members), Member{Node: free[0], R: 1, Role: RoleVoter})
	m := sh.Members[0]
	for name, c := range map[string]struct {
		o       Operation
		members []Member
		want    string // what is wanted of it
	}{
		"none":                       {members: four, want: "[]"},
		"its removal":                {Operation{Kind: RemoveMember, Node: m.Node, R: m.R}, four, "none"},
		"its removal, taken back":    {Operation{Kind: RemoveMember, Node: m.Node, R: m.R, Phase: PhaseBackingOut}, four, "[operation 0 runs on shard 2]"},
		"another one's replacement":  {Operation{Kind: ReplaceMember, Node: free[0], R: 1, From: m.Node, FromR: m.R}, four, "none"},
		"its removal, which is more": {Operation{Kind: RemoveMember, Node: m.Node, R: m.R}, sh.Members, "[operation 0 runs on shard 2]"},
		"its addition":               {Operation{Kind: AddMember, Node: m.Node, R: m.R}, sh.Members, "none"},
		"its rebuild":                {Operation{Kind: RebuildMember, Node: m.Node, R: m.R}, sh.Members, "none"},
	} {
		with := table.clone()
		with.setMembers(2, c.members)
		if c.o.Kind != "" {
			c.o.State, c.o.Shard = OperationRunning, 2
			with.Operations = []Operation{c.o}
		}
		got := "none"
		for _, r := range with.missing(v, nil) {
			if r.shard == 2 {
				got = fmt.Sprintf("[%s]", r.waits)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	add := &StartOperation{Kind: AddMember, Shard: 2, Node: free[0], Conf: 1, Reason: "it has 2 of 3 members"}
	if next, why := add.apply(table); next == nil || next.Operations[0].Reason != add.Reason {
		t.Errorf("%s: %+v", why, next)
	}
	if (Command{Start: add}).level() != countLevel {
		t.Error("an addition with a reason is for any build")
	}
	add.Reason = strings.Repeat("x", maxDetail+1)
	if next, _ := add.apply(table); next != nil {
		t.Error("a reason of any length")
	}
	table.Level = countLevel - 1
	if next, why := add.apply(table); next == nil || next.Operations[0].Reason != "" {
		t.Errorf("%s: %+v", why, next)
	}
}

// TestMissingGoesToRoom ensures that a member which is missing comes to the node that holds least, and that a member beyond the number that there is to be leaves a
// drained node though no other takes it.
func TestMissingGoesToRoom(t *testing.T) {
	table := testTable(t, 5, Settings{InitialShards: 2, Replicas: 1, CacheMemory: "60%"}).clone()
	table.Settings.Replicas = 2
	v := outlook{sights: map[string]sight{}}
	for _, id := range table.NodeIDs() {
		v.sights[id] = sight{up: true}
	}
	on := func(nodes ...string) (members []Member) {
		for _, id := range nodes {
			members = append(members, Member{Node: id, R: 1, Role: RoleVoter})
		}
		return members
	}
	table.setMembers(1, on("a"))
	table.setMembers(2, on("b", "c"))
	if all := table.missing(v, nil); len(all) != 1 || all[0].to != "d" {
		t.Errorf("%+v", all)
	}
	table.Draining = []string{"e"}
	for _, r := range table.wanted(v) {
		if r.shard == shard.Directory && (r.from.Node != "e" || r.to != "" || r.waits != "") {
			t.Errorf("%+v", r)
		}
	}
}

// TestMissing ensures how many members groups are to have, and what is said where that can't be.
func TestMissing(t *testing.T) {
	all := func(n int) (ids []string) {
		for _, node := range testNodes(n) {
			ids = append(ids, node.ID)
		}
		return ids
	}
	for name, c := range map[string]struct {
		nodes, replicas   int
		members           int // of shard 0 or 1, on the first nodes
		directory         bool
		down, drained     string
		gone              int    // so many of the last nodes
		from, to, waiting string // what is wanted
	}{
		"enough":                          {nodes: 5, replicas: 3, members: 3},
		"one short":                       {nodes: 5, replicas: 3, members: 2, to: "c"},
		"three short":                     {nodes: 5, replicas: 4, members: 1, to: "b"},
		"one short, drained":              {nodes: 4, replicas: 3, members: 2, drained: "c", to: "d"},
		"one short, down":                 {nodes: 4, replicas: 3, members: 2, down: "c", to: "d"},
		"one short, nobody":               {nodes: 3, replicas: 3, members: 2, down: "c", waiting: "no other node takes one: each is down, is drained, or has one of that shard"},
		"an even number that was asked":   {nodes: 4, replicas: 4, members: 3, to: "d"},
		"an even number that was not":     {nodes: 4, replicas: 5, members: 3, waiting: "only one other node takes one, and an even number outlives no more failures"},
		"to an odd number, if not all":    {nodes: 3, replicas: 5, members: 2, to: "c"},
		"half way":                        {nodes: 4, replicas: 5, members: 4, waiting: "no other node takes one: each is down, is drained, or has one of that shard"},
		"too many":                        {nodes: 5, replicas: 3, members: 5, from: "a"},
		"too many, one down":              {nodes: 5, replicas: 3, members: 5, down: "b", waiting: "node b is down"},
		"a directory of one":              {nodes: 1, replicas: 1, members: 1, directory: true},
		"a directory of one of two":       {nodes: 2, replicas: 1, members: 1, directory: true},
		"a directory of two":              {nodes: 2, replicas: 1, members: 2, directory: true},
		"a directory that grows":          {nodes: 3, replicas: 1, members: 1, directory: true, to: "b"},
		"a directory half way":            {nodes: 3, replicas: 1, members: 2, directory: true, to: "c"},
		"a directory for even numbers":    {nodes: 5, replicas: 4, members: 3, directory: true},
		"a directory for five":            {nodes: 5, replicas: 5, members: 3, directory: true, to: "d"},
		"a directory for five, of four":   {nodes: 4, replicas: 5, members: 3, directory: true},
		"a directory of five founders":    {nodes: 5, replicas: 3, members: 5, directory: true},
		"a directory of four founders":    {nodes: 4, replicas: 3, members: 4, directory: true, from: "a"},
		"a rebuilt directory, many gone":  {nodes: 5, replicas: 3, members: 1, directory: true, gone: 2, to: "b"},
		"one short, many gone":            {nodes: 5, replicas: 3, members: 2, gone: 2, waiting: "too many nodes look gone"},
		"a directory for five, many gone": {nodes: 5, replicas: 5, members: 3, directory: true, gone: 2, waiting: "too many nodes look gone"},
		"a directory that can't grow now": {nodes: 3, replicas: 3, members: 1, directory: true, down: "b", waiting: "only one other node takes one, and an even number outlives no more failures"},
	} {
		t.Run(name, func(t *testing.T) {
			table := testTable(t, c.nodes, Settings{InitialShards: 1, Replicas: 1, CacheMemory: "60%"}).clone()
			table.Settings.Replicas = c.replicas
			id := shard.ID(1)
			if c.directory {
				id = shard.Directory
			}
			for _, sh := range table.groups() { // the other group has what it is to have, or all
				var members []Member
				for _, node := range all(c.nodes)[:min(c.nodes, table.wants(sh.ID))] {
					members = append(members, Member{Node: node, R: 1, Role: RoleVoter})
				}
				if sh.ID == id {
					members = nil
					for _, node := range all(c.nodes)[:c.members] {
						members = append(members, Member{Node: node, R: 1, Role: RoleVoter})
					}
				}
				table.setMembers(sh.ID, members)
			}
			v := outlook{sights: map[string]sight{}}
			for _, node := range all(c.nodes) {
				v.sights[node] = sight{up: node != c.down}
			}
			for _, node := range all(c.nodes)[c.nodes-c.gone:] {
				v.sights[node] = sight{gone: time.Hour}
			}
			if c.drained != "" {
				table.Draining = []string{c.drained}
			}
			got, want := "", ""
			for _, r := range table.missing(v, nil) {
				if r.shard == id {
					got = fmt.Sprint(r.from.Node, ",", r.to, ",", r.waits)
				}
			}
			if c.from+c.to+c.waiting != "" {
				want = fmt.Sprint(c.from, ",", c.to, ",", c.waiting)
			}
			if got != want {
				t.Errorf("wants %q, want %q", got, want)
			}
			table.Level = countLevel - 1
			if all := table.missing(v, nil); len(all) > 0 {
				t.Errorf("below its level: %+v", all)
			}
		})
	}
}

// TestHands ensures that a member that an operator added stays for a while though it is one too many, so that another can be added or
// removed, and that one the directory added does not.
func TestHands(t *testing.T) {
	began := time.Unix(1000, 0)
	added := Operation{ID: 7, Kind: AddMember, Shard: 2, State: OperationDone}
	wanted, running, removed := added, added, added
	wanted.Reason, running.State = "it has 2 of 3 members", OperationRunning
	removed.ID, removed.Kind = 8, RemoveMember
	for name, c := range map[string]struct {
		operations []Operation
		want       bool
	}{
		"added":           {[]Operation{added}, true},
		"by itself":       {[]Operation{wanted}, false},
		"not yet":         {[]Operation{running}, false},
		"removed since":   {[]Operation{removed, added}, false},
		"another shard's": {[]Operation{{ID: 9, Kind: AddMember, Shard: 3, State: OperationDone}}, false},
	} {
		var h hands
		if got := h.at(&Table{Operations: c.operations}, began)[2]; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	var h hands
	table := &Table{Operations: []Operation{added}}
	for after, want := range map[time.Duration]bool{0: true, handsOff - 1: true, handsOff: false} {
		h.at(table, began)
		if got := h.at(table, began.Add(after))[2]; got != want {
			t.Errorf("%v later: %v, want %v", after, got, want)
		}
	}
	again := added
	again.ID = 9
	if table.Operations = append(table.Operations, again); !h.at(table, began.Add(2*handsOff))[2] {
		t.Error("a second addition does not count")
	}
}

// TestHandsOff ensures that nothing is removed from a group that an operator is at.
func TestHandsOff(t *testing.T) {
	table := testTable(t, 5, smallSettings).clone()
	v := outlook{sights: map[string]sight{}}
	for _, id := range table.NodeIDs() {
		v.sights[id] = sight{up: true}
	}
	sh := table.Shards[1]
	free := slices.DeleteFunc(table.NodeIDs(), func(id string) bool { _, member := sh.Member(id); return member })
	table.setMembers(2, append(slices.Clone(sh.Members), Member{Node: free[0], R: 1, Role: RoleVoter}))
	for _, at := range []bool{true, false} {
		v.hands = map[shard.ID]bool{2: at}
		all := table.missing(v, nil)
		if len(all) != 1 || (all[0].waits == handsWait) != at || (all[0].from == Member{}) != at {
			t.Errorf("an operator is at it: %v: %+v", at, all)
		}
	}
}
