package directory

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// testNodes returns n nodes a, b, c, ... with distinct addresses and incarnations.
func testNodes(n int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		id := string(rune('a' + i))
		nodes[i] = Node{
			ID:          id,
			Incarnation: fmt.Sprintf("%032x", i+1),
			Raft:        fmt.Sprintf("127.0.0.1:%d", 7101+i),
			HTTP:        fmt.Sprintf("127.0.0.1:%d", 7001+i),
			Capacity:    1 << 30,
		}
	}
	return nodes
}

const testCluster = "00112233445566778899aabbccddeeff"

// testInit returns the founding of a cluster of n nodes.
func testInit(t testing.TB, n int, settings Settings) Command {
	t.Helper()
	nodes := testNodes(n)
	shards, err := PlanInitial(nodes, settings)
	if err != nil {
		t.Fatal(err)
	}
	var directory []Member
	for _, n := range nodes {
		directory = append(directory, Member{Node: n.ID, Role: RoleVoter})
	}
	return Command{Init: &Init{Cluster: testCluster, Level: MaxLevel, ShardLevel: fsm.MaxLevel, Settings: settings, Nodes: nodes, Shards: shards, Directory: directory}}
}

// oldInit is testInit as the builds wrote it that knew level 1 alone.
func oldInit(t testing.TB, n int, settings Settings) Command {
	t.Helper()
	c := testInit(t, n, settings)
	c.Init.Level, c.Init.ShardLevel = 1, 0
	return c
}

// testTable returns the first table of a cluster of n nodes.
func testTable(t testing.TB, n int, settings Settings) *Table {
	t.Helper()
	table, result := mustDecode(t, testInit(t, n, settings)).apply(&Table{})
	if result.Outcome != OutcomeApplied {
		t.Fatalf("init: %+v", result)
	}
	return table
}

func mustDecode(t testing.TB, c Command) Command {
	t.Helper()
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err = DecodeCommand(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var smallSettings = Settings{InitialShards: 4, Replicas: 3, CacheMemory: "60%"}

// TestValidate ensures that a planned table passes, and that breaking any one guarantee is noticed.
func TestValidate(t *testing.T) {
	if err := (&Table{}).Validate(); err != nil {
		t.Errorf("empty table: %v", err)
	}
	if err := testTable(t, 3, smallSettings).Validate(); err != nil {
		t.Errorf("first table: %v", err)
	}
	node := func(id string, change func(*Node)) func(*Table) {
		return func(t *Table) { n := t.Nodes[id]; change(&n); t.Nodes[id] = n }
	}
	for name, breakIt := range map[string]func(*Table){
		"1 version 0 with content":      func(t *Table) { t.Version = 0 },
		"2 cluster id":                  func(t *Table) { t.Cluster = strings.ToUpper(t.Cluster) },
		"2 short cluster id":            func(t *Table) { t.Cluster = "abc" },
		"2 level":                       func(t *Table) { t.Level = 0 },
		"2 level of shards":             func(t *Table) { t.ShardLevel = 0 },
		"2 level of shards at level 1":  func(t *Table) { t.Level = 1 },
		"2 setting above level 1":       func(t *Table) { t.Level, t.ShardLevel, t.Settings.DefaultTTL = 1, 0, "1h" },
		"2 settings version at level 1": func(t *Table) { t.Level, t.ShardLevel, t.SettingsVersion = 1, 0, 1 },
		"2 settings of the future":      func(t *Table) { t.SettingsVersion = 2 },
		"2 default ttl":                 func(t *Table) { t.Settings.DefaultTTL = "none" },
		"2 touch interval":              func(t *Table) { t.Settings.TouchInterval = "1ms" },
		"2 settings":                    func(t *Table) { t.Settings.Replicas = 0 },
		"3 node under another id":       node("a", func(n *Node) { n.ID = "z" }),
		"3 incarnation":                 node("a", func(n *Node) { n.Incarnation = "x" }),
		"3 same incarnation":            node("a", func(n *Node) { n.Incarnation = fmt.Sprintf("%032x", 2) }),
		"3 no raft address":             node("a", func(n *Node) { n.Raft = "" }),
		"3 no http address":             node("a", func(n *Node) { n.HTTP = "" }),
		"3 same raft address":           node("a", func(n *Node) { n.Raft = "127.0.0.1:7102" }),
		"3 no capacity":                 node("a", func(n *Node) { n.Capacity = 0 }),
		"4 gap":                         func(t *Table) { t.Shards[1].Start++ },
		"4 overlap":                     func(t *Table) { t.Shards[1].Start-- },
		"4 empty range":                 func(t *Table) { t.Shards[0].End = 0; t.Shards[1].Start = 0 },
		"4 last slot missing":           func(t *Table) { t.Shards[3].End-- },
		"4 beyond the last slot":        func(t *Table) { t.Shards[3].End++ },
		"4 shard missing":               func(t *Table) { t.Shards = t.Shards[:3] },
		"4 no shards":                   func(t *Table) { t.Shards = nil },
		"4 order":                       func(t *Table) { t.Shards[0], t.Shards[1] = t.Shards[1], t.Shards[0] },
		"5 same id":                     func(t *Table) { t.Shards[0].ID = 2 },
		"5 id of the directory":         func(t *Table) { t.Shards[0].ID = shard.Directory },
		"5 id not allotted":             func(t *Table) { t.NextShard = 4 },
		"6 epoch 0":                     func(t *Table) { t.Shards[0].Epoch = 0 },
		"6 epoch of the future":         func(t *Table) { t.Shards[0].Epoch = 2 },
		"6 generation 0":                func(t *Table) { t.Shards[0].Generation = 0 },
		"6 limit 0":                     func(t *Table) { t.Shards[0].Limit = 0 },
		"6 limit version 0":             func(t *Table) { t.Shards[0].LimitVersion = 0 },
		"6 limit version of the future": func(t *Table) { t.Shards[0].LimitVersion = 2 },
		"7 same version bits":           func(t *Table) { t.Shards[0].VersionBits = 2 },
		"7 version bits 0":              func(t *Table) { t.Shards[0].VersionBits = 0 },
		"7 version bits never granted":  func(t *Table) { t.VersionGrant = 3 },
		"7 version bits beyond 20":      func(t *Table) { t.VersionGrant = 1 << 20 },
		"8 unknown node":                func(t *Table) { t.Shards[0].Members[0].Node = "z" },
		"8 node removed":                func(t *Table) { delete(t.Nodes, "a") },
		"8 two replicas on a node":      func(t *Table) { t.Shards[0].Members[0] = t.Shards[0].Members[1] },
		"8 r 0":                         func(t *Table) { t.Shards[0].Members[0].R = 0 },
		"8 r of the future":             func(t *Table) { t.Shards[0].Members[0].R = 2 },
		"8 role":                        func(t *Table) { t.Shards[0].Members[0].Role = "king" },
		"8 no members":                  func(t *Table) { t.Shards[0].Members = nil },
		"8 learners only":               func(t *Table) { t.Shards[0].Members = []Member{{"a", 1, RoleLearner}} },
		"8 directory without members":   func(t *Table) { t.Directory = nil },
		"8 directory on no node":        func(t *Table) { t.Directory[0].Node = "z" },
		"9 began with nobody":           func(t *Table) { t.Shards[0].Bootstrap = nil },
		"9 began with a learner":        func(t *Table) { t.Shards[0].Bootstrap[0].Role = RoleLearner },
		"9 began twice on a node":       func(t *Table) { t.Shards[0].Bootstrap[0] = t.Shards[0].Bootstrap[1] },
		"10 never begun":                func(t *Table) { t.NextOperation = 0 },
		"10 order":                      func(t *Table) { t.Operations[0].ID = 3 },
		"10 of no member":               func(t *Table) { t.Operations[1].R = 9 },
		"10 two on a shard":             func(t *Table) { t.Operations[0] = t.Operations[1]; t.Operations[0].ID = 1 },
		"10 in no phase":                func(t *Table) { t.Operations[1].Phase = "" },
	} {
		table := testTable(t, 3, smallSettings).clone()
		if name[0] == '1' && name[1] == '0' {
			table.NextOperation = 2
			over := Operation{ID: 1, Kind: AddMember, Shard: 1, Node: "z", R: 1, State: OperationDone}
			runs := Operation{ID: 2, Kind: RemoveMember, Shard: 1, Node: "a", R: 1, State: OperationRunning, Phase: PhaseRemoving, Conf: 1}
			table.Operations = []Operation{over, runs}
			if err := table.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		breakIt(table)
		if err := table.Validate(); err == nil {
			t.Errorf("%s: passes", name)
		}
	}
}

// TestLookup ensures that each slot is found in the one shard whose range contains it, and that an
// empty table has none.
func TestLookup(t *testing.T) {
	if s, ok := (&Table{}).Lookup(0); ok {
		t.Errorf("empty table: slot 0 in %+v", s)
	}
	for _, shards := range []int{1, 3, 7, 16384} {
		table := testTable(t, 3, Settings{InitialShards: shards, Replicas: 1, CacheMemory: "60%"})
		at := 0
		for slot := range fsm.Slots {
			if !table.Shards[at].Range().Contains(uint16(slot)) {
				at++
			}
			if s, ok := table.Lookup(uint16(slot)); !ok || s.ID != table.Shards[at].ID {
				t.Fatalf("%d shards: slot %d in shard %d, %v, want %d", shards, slot, s.ID, ok, table.Shards[at].ID)
			}
		}
		if s, ok := table.Lookup(math.MaxUint16); ok {
			t.Errorf("%d shards: no slot, but found in %d", shards, s.ID)
		}
	}
}

// TestTableJSON ensures that a table survives its JSON, and that equal tables have equal bytes.
func TestTableJSON(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := testTable(t, rapid.IntRange(3, 9).Draw(rt, "nodes"), Settings{
			InitialShards: rapid.IntRange(1, 40).Draw(rt, "shards"), Replicas: 3, CacheMemory: "60%"})
		data, err := json.Marshal(table)
		if err != nil {
			rt.Fatal(err)
		}
		back, err := decodeTable(data)
		if err != nil || !reflect.DeepEqual(back, table) {
			rt.Fatalf("got %+v, %v\nwant %+v", back, err, table)
		}
		if again, _ := json.Marshal(back); string(again) != string(data) {
			rt.Fatalf("%s\nis not\n%s", again, data)
		}
	})
}
