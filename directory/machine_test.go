package directory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// testMachine is a machine that keeps what it published.
type testMachine struct {
	*Machine
	published []*Table
	index     uint64
}

func newTestMachine() *testMachine {
	m := &testMachine{}
	m.Machine = NewMachine(func(t *Table) { m.published = append(m.published, t) })
	return m
}

func (m *testMachine) do(t testing.TB, c Command) Result {
	t.Helper()
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.index++
	return m.Apply(m.index, data).(Result)
}

func snapshotBytes(t testing.TB, m *Machine) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := m.Snapshot().WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo = %d, %v, wrote %d", n, err, b.Len())
	}
	return b.Bytes()
}

// anyCommand draws a command that may or may not fit the table.
func anyCommand(t *rapid.T, tb testing.TB, table *Table) Command {
	id := shard.ID(rapid.Uint64Range(0, 6).Draw(t, "shard"))
	node := func() string { return rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "node id") }
	switch rapid.SampledFrom([]Kind{KindInit, KindRegisterNode, KindSetLimits, KindSetLevel, KindRegrant, KindAddNode, KindRemoveNode, KindStart, KindStart, KindAdvance, KindAdvance, KindAdvance, KindCancel, KindSetSettings, KindDrainNode, KindRecover}).Draw(t, "kind") {
	case KindDrainNode:
		return Command{DrainNode: &DrainNode{ID: node(), Drain: rapid.Bool().Draw(t, "drain")}}
	case KindAddNode:
		return Command{AddNode: &AddNode{Node: testNodes(6)[rapid.IntRange(0, 5).Draw(t, "node")],
			Level: uint8(rapid.IntRange(0, 3).Draw(t, "level")), ShardLevel: uint8(rapid.IntRange(0, 3).Draw(t, "shard level"))}}
	case KindRemoveNode:
		return Command{RemoveNode: &RemoveNode{ID: node()}}
	case KindStart:
		c := &StartOperation{Kind: rapid.SampledFrom([]OperationKind{AddMember, RemoveMember, RebuildMember, ReplaceMember}).Draw(t, "op"),
			Shard: id, Node: node(), Conf: rapid.Uint64Range(1, 3).Draw(t, "conf")}
		if m, ok := table.member(id, c.Node); ok && c.Kind == RebuildMember {
			c.R, c.Reason = m.R+rapid.Uint64Range(0, 4).Draw(t, "other r")/4, reasonDiverged
		}
		if c.Kind == ReplaceMember {
			if c.From = node(); rapid.Bool().Draw(t, "member") {
				m, _ := table.member(id, c.From)
				c.R = m.R
			}
		}
		return Command{Start: c}
	case KindAdvance:
		// Mostly of an operation that runs, on a way that it may go.
		c := &AdvanceOperation{ID: rapid.Uint64Range(0, table.NextOperation+1).Draw(t, "operation"), State: OperationRunning}
		if o, ok := table.Operation(c.ID); ok {
			c.From, c.FromConf, c.Conf = o.Phase, o.Conf, o.Conf+rapid.Uint64Range(0, 2).Draw(t, "later")
		}
		c.State = rapid.SampledFrom([]OperationState{OperationRunning, OperationRunning, OperationDone, OperationFailed, OperationCancelled}).Draw(t, "state")
		if c.State == OperationRunning {
			c.Phase = rapid.SampledFrom([]Phase{PhaseAdding, PhaseCatchingUp, PhasePromoting, PhaseBackingOut, PhaseHandingOver, PhaseRemoving}).Draw(t, "phase")
		}
		return Command{Advance: c}
	case KindCancel:
		return Command{Cancel: &CancelOperation{ID: rapid.Uint64Range(0, table.NextOperation+1).Draw(t, "operation"),
			R: rapid.SampledFrom([]uint64{0, 0, 1, table.Version}).Draw(t, "replica")}}
	case KindInit:
		c := testInit(tb, rapid.IntRange(3, 5).Draw(t, "nodes"), smallSettings)
		c.Init.Level = uint8(rapid.IntRange(1, MaxLevel).Draw(t, "level"))
		if c.Init.Level == 1 {
			c.Init.ShardLevel = 0
		}
		if rapid.Bool().Draw(t, "damaged") {
			c.Init.Shards[1].Start++
		}
		return c
	case KindRegisterNode:
		n := testNodes(6)[rapid.IntRange(0, 5).Draw(t, "node")]
		n.Zone = rapid.SampledFrom([]string{"", "east"}).Draw(t, "zone")
		n.Capacity = rapid.Uint64Range(0, 1<<30).Draw(t, "capacity")
		if rapid.IntRange(0, 4).Draw(t, "other") == 0 {
			n.Incarnation = fmt.Sprintf("%032x", 99)
		}
		if rapid.IntRange(0, 4).Draw(t, "moved") == 0 {
			n.Raft = rapid.SampledFrom([]string{"127.0.0.1:7101", "127.0.0.1:9"}).Draw(t, "raft")
		}
		return Command{RegisterNode: &RegisterNode{Node: n}}
	case KindSetLimits:
		return Command{SetLimits: &SetLimits{
			Expect: table.Version - rapid.Uint64Range(0, 1).Draw(t, "stale"),
			Limits: []ShardLimit{{Shard: id, Limit: rapid.Uint64Range(0, 3).Draw(t, "limit")}},
		}}
	case KindSetLevel:
		return Command{SetLevel: &SetLevel{Level: uint8(rapid.IntRange(0, MaxLevel).Draw(t, "level")),
			ShardLevel: uint8(rapid.IntRange(0, fsm.MaxLevel).Draw(t, "shard level")), Expect: table.Version - rapid.Uint64Range(0, 1).Draw(t, "stale")}}
	case KindSetSettings:
		s := table.Settings
		s.CacheMemory = rapid.SampledFrom([]string{"60%", "1MiB", "much"}).Draw(t, "memory")
		s.ShardBytes = rapid.Uint64Range(0, 2).Draw(t, "bytes")
		s.DefaultTTL = rapid.SampledFrom([]string{"", "1h", "soon"}).Draw(t, "ttl")
		s.TouchInterval = rapid.SampledFrom([]string{"", "0s", "1h"}).Draw(t, "touch")
		return Command{SetSettings: &SetSettings{Expect: table.Version - rapid.Uint64Range(0, 1).Draw(t, "stale"), Settings: s}}
	case KindRecover:
		c := &RecoverShard{Shard: id, Generation: 1, Nodes: []string{"a", "b", "c", "d"}[:rapid.IntRange(0, 4).Draw(t, "hosts")]}
		if sh, ok := table.Shard(id); ok {
			c.Generation = sh.Generation - rapid.Uint64Range(0, 1).Draw(t, "stale")
			if m := rapid.SampledFrom(sh.Members).Draw(t, "kept"); rapid.Bool().Draw(t, "keep") {
				c.Nodes, c.Keep = []string{m.Node}, m.R
			}
		}
		return Command{Recover: c}
	default:
		return Command{Regrant: &Regrant{Shard: id, Expect: rapid.Uint32Range(1, 8).Draw(t, "expect")}}
	}
}

// TestMachine ensures, for any log: the version grows by one with each applied command and never
// otherwise, what was published is valid and never changes afterwards, a refusal has a reason, and a
// machine that is snapshotted and restored on the way ends in the same bytes.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, twin := newTestMachine(), newTestMachine()
		var frozen []string
		for range rapid.IntRange(1, 30).Draw(rt, "commands") {
			before, published := m.table, len(m.published)
			c := anyCommand(rt, t, before)
			r := m.do(t, c)
			if other := twin.do(t, c); other != r {
				rt.Fatalf("%+v, after a restore %+v", r, other)
			}
			switch r.Outcome {
			case OutcomeApplied:
				if m.table.Version != before.Version+1 || len(m.published) != published+1 || m.published[published] != m.table {
					rt.Fatalf("version %d after %d, %d published", m.table.Version, before.Version, len(m.published)-published)
				}
				if err := m.table.Validate(); err != nil {
					rt.Fatalf("%+v makes an invalid table: %v", c, err)
				}
			case OutcomeUnchanged, OutcomeRefused:
				if m.table != before || len(m.published) != published || (r.Outcome == OutcomeRefused) != (r.Reason != "") {
					rt.Fatalf("%+v changed the table or gives no reason", r)
				}
			default:
				rt.Fatalf("outcome %q", r.Outcome)
			}
			if r.Version != m.table.Version {
				rt.Fatalf("result has version %d, the table %d", r.Version, m.table.Version)
			}
			if len(m.published) > len(frozen) {
				frozen = append(frozen, fmt.Sprintf("%+v", *m.published[len(frozen)]))
			}
			if rapid.IntRange(0, 3).Draw(rt, "restore") == 0 {
				restored := newTestMachine()
				restored.index = twin.index
				if err := restored.Restore(bytes.NewReader(snapshotBytes(t, twin.Machine))); err != nil {
					rt.Fatal(err)
				}
				twin = restored
			}
			if !bytes.Equal(snapshotBytes(t, m.Machine), snapshotBytes(t, twin.Machine)) || !reflect.DeepEqual(m.table, twin.table) {
				rt.Fatalf("twins differ:\n%+v\n%+v", m.table, twin.table)
			}
		}
		for i, want := range frozen {
			if got := fmt.Sprintf("%+v", *m.published[i]); got != want {
				rt.Fatalf("table %d was changed after it was published:\n%s\nwas\n%s", i, got, want)
			}
		}
	})
}

// TestPreconditions ensures that each command is refused where its precondition does not hold, is
// unchanged where there is nothing to do, and else changes exactly what it names.
func TestPreconditions(t *testing.T) {
	m := newTestMachine()
	node := testNodes(3)[0]
	want := func(name string, c Command, outcome Outcome, version uint64, reason string) {
		t.Helper()
		r := m.do(t, c)
		if r.Outcome != outcome || r.Version != version || !strings.Contains(r.Reason, reason) {
			t.Errorf("%s: %+v, want %s at %d %q", name, r, outcome, version, reason)
		}
	}
	register := func(change func(*Node)) Command {
		n := node
		change(&n)
		return Command{RegisterNode: &RegisterNode{Node: n}}
	}
	limits := func(expect uint64, id shard.ID, limit uint64) Command {
		return Command{SetLimits: &SetLimits{Expect: expect, Limits: []ShardLimit{{id, limit}}}}
	}
	regrant := func(id shard.ID, expect uint32) Command {
		return Command{Regrant: &Regrant{Shard: id, Expect: expect}}
	}
	want("register before init", register(func(*Node) {}), OutcomeRefused, 0, "unknown")
	want("level before init", Command{SetLevel: &SetLevel{Level: 1}}, OutcomeRefused, 0, "not founded")
	twice := testInit(t, 3, smallSettings)
	twice.Init.Nodes = append(twice.Init.Nodes, node)
	want("init with a node twice", twice, OutcomeRefused, 0, "twice")
	want("init", oldInit(t, 3, smallSettings), OutcomeApplied, 1, "")
	want("init again", oldInit(t, 3, smallSettings), OutcomeRefused, 1, "already")
	if m.table.NextShard != 5 || m.table.VersionGrant != 4 {
		t.Errorf("next shard %d, version grant %d", m.table.NextShard, m.table.VersionGrant)
	}

	want("register as it is", register(func(*Node) {}), OutcomeUnchanged, 1, "")
	want("register an unknown node", register(func(n *Node) { n.ID = "z" }), OutcomeRefused, 1, "unknown")
	want("register another incarnation", register(func(n *Node) { n.Incarnation = fmt.Sprintf("%032x", 9) }), OutcomeRefused, 1, "incarnation")
	want("register at another's address", register(func(n *Node) { n.Raft = "127.0.0.1:7102" }), OutcomeRefused, 1, "same Raft address")
	want("register without capacity", register(func(n *Node) { n.Capacity = 0 }), OutcomeRefused, 1, "capacity")
	want("register a move", register(func(n *Node) { n.Raft, n.Zone = "127.0.0.1:9", "east" }), OutcomeApplied, 2, "")
	if n := m.table.Nodes["a"]; n.Raft != "127.0.0.1:9" || n.Zone != "east" {
		t.Errorf("node a is %+v", n)
	}

	want("limits of an older table", limits(1, 1, 7), OutcomeRefused, 2, "not 1")
	want("limit of no shard", limits(2, 9, 7), OutcomeRefused, 2, "unknown")
	want("limit 0", limits(2, 1, 0), OutcomeRefused, 2, "0 bytes")
	want("same limit", limits(2, 1, m.table.Shards[0].Limit), OutcomeUnchanged, 2, "")
	want("limit", limits(2, 1, 7), OutcomeApplied, 3, "")
	if s := m.table.Shards[0]; s.Limit != 7 || s.LimitVersion != 3 || s.Epoch != 1 || m.table.Shards[1].LimitVersion != 1 {
		t.Errorf("shard 1 is %+v", s)
	}

	want("level lowered", Command{SetLevel: &SetLevel{Level: 0}}, OutcomeRefused, 3, "never lowered")
	want("level as it is", Command{SetLevel: &SetLevel{Level: 1}}, OutcomeUnchanged, 3, "")

	want("regrant of no shard", regrant(9, 1), OutcomeRefused, 3, "unknown")
	want("regrant", regrant(2, 2), OutcomeApplied, 4, "")
	want("regrant repeated", regrant(2, 2), OutcomeRefused, 4, "not 2")
	if s := m.table.Shards[1]; s.VersionBits != 5 || m.table.VersionGrant != 5 || s.Epoch != 1 {
		t.Errorf("shard 2 is %+v", s)
	}
	m.table = m.table.clone()
	m.table.VersionGrant = maxVersionBits
	want("regrant beyond the last", regrant(2, 5), OutcomeRefused, 4, "all version bits")
}

// TestCommandBytes pins the encoding of each kind: a change of it breaks existing logs.
func TestCommandBytes(t *testing.T) {
	for want, c := range map[string]Command{
		`{"v":1,"kind":"register-node","register_node":{"node":{"id":"a","incarnation":"i","raft":"r","http":"h","zone":"z","capacity":5}}}`: {RegisterNode: &RegisterNode{Node{"a", "i", "r", "h", "z", 5}}},
		`{"v":1,"kind":"set-limits","set_limits":{"expect":3,"limits":[{"shard":1,"limit":2}]}}`:                                             {SetLimits: &SetLimits{3, []ShardLimit{{1, 2}}}},
		`{"v":1,"kind":"set-level","set_level":{"level":1}}`:                                                                                 {SetLevel: &SetLevel{Level: 1}},
		`{"v":1,"kind":"regrant","regrant":{"shard":4,"expect":18446}}`:                                                                      {Regrant: &Regrant{4, 18446}},
		`{"v":1,"kind":"init","init":{"cluster":"c","level":1,"settings":{"initial-shards":1,"replicas":1,"cache-memory":"60%"},"nodes":null,` +
			`"shards":[{"id":1,"start":0,"end":2,"epoch":1,"generation":1,"version_bits":1,"limit":9,"limit_version":1,"members":[{"node":"a","r":1,"role":"voter"}],"bootstrap":[{"node":"b","r":1,"role":"voter"}]}],"directory":[{"node":"a","r":0,"role":"voter"}]}}`: {
			Init: &Init{"c", 1, 0, Settings{InitialShards: 1, Replicas: 1, CacheMemory: "60%"}, nil,
				[]Shard{{1, 0, 2, 1, 1, 1, 9, 1, []Member{{"a", 1, RoleVoter}}, []Member{{"b", 1, RoleVoter}}, 0, false}}, []Member{{"a", 0, RoleVoter}}}},
		`{"v":1,"kind":"add-node","add_node":{"node":{"id":"a","incarnation":"i","raft":"r","http":"h","capacity":5}}}`: {AddNode: &AddNode{Node: Node{"a", "i", "r", "h", "", 5}}},
		`{"v":1,"kind":"settle-members","settle_members":{"shard":3,"generation":1,"voters":[{"node":"a","r":1,"role":"voter"}],"has":{"start":0,"end":9,"epoch":4,"generation":2,"version_bits":5},"leader":"a"}}`: {
			Settle: &SettleMembers{3, 1, []Member{{"a", 1, RoleVoter}}, HeldGrant{0, 9, 4, 2, 5}, "a"}},
		`{"v":1,"kind":"rebuild-table","rebuild_table":{"table":{"cluster":"","version":7,"rebuilt":7,"level":4,"settings":{"initial-shards":0,"replicas":0,"cache-memory":""},"nodes":null,"shards":null,"directory":null,"next_shard":0,"version_grant":0}}}`: {
			RebuildTable: &RebuildTable{&Table{Version: 7, Rebuilt: 7, Level: 4}}},
		`{"v":1,"kind":"remove-node","remove_node":{"id":"a"}}`:                                                                                                       {RemoveNode: &RemoveNode{"a"}},
		`{"v":1,"kind":"start-operation","start_operation":{"kind":"add-member","shard":3,"node":"d","conf":7}}`:                                                      {Start: &StartOperation{Kind: AddMember, Shard: 3, Node: "d", Conf: 7}},
		`{"v":1,"kind":"advance-operation","advance_operation":{"id":2,"from":"adding","from_conf":7,"state":"running","phase":"catching-up","conf":8,"detail":"x"}}`: {Advance: &AdvanceOperation{2, PhaseAdding, 7, OperationRunning, PhaseCatchingUp, 8, "x", ""}},
		`{"v":1,"kind":"add-node","add_node":{"node":{"id":"a","incarnation":"i","raft":"r","http":"h","capacity":5},"level":2,"shard_level":3}}`:                     {AddNode: &AddNode{Node{"a", "i", "r", "h", "", 5}, 2, 3}},
		`{"v":1,"kind":"set-level","set_level":{"level":2,"shard_level":2,"expect":7}}`:                                                                               {SetLevel: &SetLevel{2, 2, 7}},
		`{"v":1,"kind":"set-settings","set_settings":{"expect":7,"settings":{"initial-shards":1,"replicas":2,"cache-memory":"60%","shard-bytes":3,"default-ttl":"1h","touch-interval":"0s","repair-after":"0s","balance":"off","memory-only":true,"snapshot-bandwidth":"0"}}}`: {
			SetSettings: &SetSettings{7, Settings{1, 2, "60%", 3, "1h", "0s", "0s", "off", true, "0"}}},
		`{"v":1,"kind":"recover-shard","recover_shard":{"shard":3,"generation":1,"nodes":["a","b"],"expect":9}}`: {Recover: &RecoverShard{3, 1, []string{"a", "b"}, 0, 9}},
		`{"v":1,"kind":"recover-shard","recover_shard":{"shard":3,"generation":1,"nodes":["a"],"keep":7}}`:       {Recover: &RecoverShard{3, 1, []string{"a"}, 7, 0}},
		`{"v":1,"kind":"cancel-operation","cancel_operation":{"id":2}}`:                                          {Cancel: &CancelOperation{ID: 2}},
		`{"v":1,"kind":"cancel-operation","cancel_operation":{"id":2,"again":true,"r":5}}`:                       {Cancel: &CancelOperation{ID: 2, Again: true, R: 5}},
		`{"v":1,"kind":"drain-node","drain_node":{"id":"a","drain":true}}`:                                       {DrainNode: &DrainNode{"a", true}},
		`{"v":1,"kind":"start-operation","start_operation":{"kind":"replace-member","shard":3,"node":"d","conf":7,"r":5,"reason":"x","from":"c"}}`: {
			Start: &StartOperation{Kind: ReplaceMember, Shard: 3, Node: "d", Conf: 7, R: 5, Reason: "x", From: "c"}},
		`{"v":1,"kind":"start-operation","start_operation":{"kind":"add-member","shard":3,"node":"d","conf":7,"table":9}}`: {
			Start: &StartOperation{Kind: AddMember, Shard: 3, Node: "d", Conf: 7, Table: 9}},
		`{"v":1,"kind":"start-operation","start_operation":{"kind":"rebuild-member","shard":3,"node":"d","conf":7,"r":5,"reason":"diverged"}}`: {Start: &StartOperation{RebuildMember, 3, "d", 7, 5, "diverged", "", 0}},
	} {
		got, err := c.Encode()
		if err != nil || string(got) != want {
			t.Errorf("got  %s, %v\nwant %s", got, err, want)
		}
		if _, err := DecodeCommand(got); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
}

// TestApplyPanics ensures that an entry which this build can't read stops the replica, and says where.
func TestApplyPanics(t *testing.T) {
	for name, entry := range map[string]string{
		"no JSON":           `x`,
		"nothing":           ``,
		"another version":   `{"v":2,"kind":"set-level","set_level":{"level":1}}`,
		"unknown kind":      `{"v":1,"kind":"abolish"}`,
		"unknown field":     `{"v":1,"kind":"set-level","set_level":{"level":1},"soon":1}`,
		"unknown sub-field": `{"v":1,"kind":"set-level","set_level":{"level":1,"soon":1}}`,
		"another's field":   `{"v":1,"kind":"set-level","regrant":{"shard":1,"expect":1}}`,
		"two fields":        `{"v":1,"kind":"set-level","set_level":{"level":1},"regrant":{"shard":1,"expect":1}}`,
		"no field":          `{"v":1,"kind":"init"}`,
		"trailing bytes":    `{"v":1,"kind":"set-level","set_level":{"level":1}} {}`,
		"level of tomorrow": `{"v":1,"kind":"set-level","set_level":{"level":99}}`,
		"later shards":      `{"v":1,"kind":"set-level","set_level":{"level":2,"shard_level":99}}`,
		"later init":        `{"v":1,"kind":"init","init":{"level":2,"shard_level":99}}`,
		"unknown setting":   `{"v":1,"kind":"set-settings","set_settings":{"expect":1,"settings":{"soon":1}}}`,
	} {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "entry 42") {
					t.Errorf("%s: recovered %v, want a panic that names the index", name, p)
				}
			}()
			newTestMachine().Apply(42, []byte(entry))
		}()
	}
	for _, c := range []SetLevel{{Level: MaxLevel + 1, ShardLevel: 1}, {Level: MaxLevel, ShardLevel: fsm.MaxLevel + 1}} {
		if _, err := (Command{SetLevel: &c}).Encode(); err == nil {
			t.Errorf("levels that would stop the replicas can be proposed: %+v", c)
		}
	}
}

// TestRestoreRefusesDamage ensures that no flipped bit, no cut and nothing appended passes, and that a
// refused snapshot leaves the machine as it was.
func TestRestoreRefusesDamage(t *testing.T) {
	m := newTestMachine()
	m.do(t, testInit(t, 3, smallSettings))
	good := snapshotBytes(t, m.Machine)
	refuse := func(what string, in []byte) {
		t.Helper()
		before := m.table
		if err := m.Restore(bytes.NewReader(in)); !errors.Is(err, ErrCorrupt) || m.table != before {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			refuse(fmt.Sprintf("bit %d of byte %d", bit, i), bad)
		}
		refuse(fmt.Sprintf("cut at %d", i), good[:i])
	}
	refuse("appended", append(bytes.Clone(good), 0))
	invalid := newTestMachine()
	invalid.table = m.table.clone()
	invalid.table.Shards[0].End++
	refuse("whole, but no valid table", snapshotBytes(t, invalid.Machine))
	broken := errors.New("disk on fire")
	if err := m.Restore(io.MultiReader(bytes.NewReader(good[:9]), errReader{broken})); !errors.Is(err, broken) {
		t.Errorf("reader's error: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// TestLatest ensures that the newest table wins whoever publishes it, and that waiting ends with it.
func TestLatest(t *testing.T) {
	l := NewLatest()
	first, changed := l.Changed()
	if first.Founded() {
		t.Fatal("not empty")
	}
	l.Publish(&Table{Version: 3})
	<-changed
	l.Publish(&Table{Version: 2})
	if got := l.Table().Version; got != 3 {
		t.Errorf("went back to %d", got)
	}
	if got, err := l.Newer(t.Context(), 2); err != nil || got.Version != 3 {
		t.Errorf("newer than 2: %v, %v", got, err)
	}
	done := make(chan uint64)
	go func() {
		got, err := l.Newer(t.Context(), 3)
		if err != nil {
			t.Error(err)
		}
		done <- got.Version
	}()
	l.Publish(&Table{Version: math.MaxUint64})
	if got := <-done; got != math.MaxUint64 {
		t.Errorf("woken with %d", got)
	}
}

// TestDescribe ensures that each command has a name for the log, also one that was not encoded yet.
func TestDescribe(t *testing.T) {
	for want, c := range map[string]Command{
		"init":                     {Init: &Init{}},
		"register-node b":          {RegisterNode: &RegisterNode{Node: Node{ID: "b"}}},
		"set-limits 1,2":           {SetLimits: &SetLimits{Limits: []ShardLimit{{Shard: 1}, {Shard: 2}}}},
		"set-level 2, of shards 3": {SetLevel: &SetLevel{Level: 2, ShardLevel: 3}},
		"set-settings":             {SetSettings: &SetSettings{}},
		"regrant 3":                {Regrant: &Regrant{Shard: 3}},
	} {
		if got := c.describe(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
