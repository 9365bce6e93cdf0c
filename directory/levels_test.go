package directory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// TestLevel1Snapshot ensures that a table of the first builds stays readable, keeps its bytes while nothing
// changes it, and can be raised and changed from there.
func TestLevel1Snapshot(t *testing.T) {
	old, err := os.ReadFile("testdata/level1.snapshot")
	if err != nil {
		t.Fatal(err)
	}
	m := newTestMachine()
	if err := m.Restore(bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	if again := snapshotBytes(t, m.Machine); !bytes.Equal(again, old) {
		t.Errorf("its bytes are\n%q, were\n%q", again, old)
	}
	if m.table.Level != 1 || m.table.Version != 3 || len(m.table.Nodes) != 4 || m.table.settingsVersion() != 1 || m.table.Settings.Touch() != DefaultTouchInterval {
		t.Errorf("table %+v", m.table)
	}
	version := m.table.Version
	next := m.table.Settings
	next.CacheMemory, next.DefaultTTL = "50%", "1h"
	change := func(expect uint64) Command { return Command{SetSettings: &SetSettings{Expect: expect, Settings: next}} }
	raise := func(level, shards uint8, expect uint64) Command {
		return Command{SetLevel: &SetLevel{Level: level, ShardLevel: shards, Expect: expect}}
	}
	elsewhere := next
	elsewhere.InitialShards = 1
	fewer := next
	fewer.Replicas = 1
	bad := next
	bad.TouchInterval = "1h"
	add := func(level, shards uint8) Command {
		return Command{AddNode: &AddNode{Node: testNodes(5)[4], Level: level, ShardLevel: shards}}
	}
	for _, step := range []struct {
		name    string
		c       Command
		outcome Outcome
		reason  string
	}{
		{"settings at level 1", change(version), OutcomeRefused, "level is 1"},
		{"raised from an older table", raise(2, 2, version-1), OutcomeRefused, "not 2"},
		{"raised without the shards", raise(2, 0, version), OutcomeRefused, "of shards is 0"},
		{"shards alone", raise(1, 2, version), OutcomeRefused, "at level 1"},
		{"raised", raise(2, 1, version), OutcomeApplied, ""},
		{"as it is", raise(2, 1, 0), OutcomeUnchanged, ""},
		{"shards", raise(2, 2, version+1), OutcomeApplied, ""},
		{"lowered", raise(1, 2, version+2), OutcomeRefused, "never lowered"},
		{"shards lowered", raise(2, 1, version+2), OutcomeRefused, "never lowered"},
		{"an old node", add(0, 0), OutcomeRefused, "feature levels 1 and 1"},
		{"a node with old shards", add(2, 1), OutcomeRefused, "feature levels 2 and 1"},
		{"settings of an older table", change(version + 1), OutcomeRefused, "not 4"},
		{"settings of the first start", Command{SetSettings: &SetSettings{Expect: version + 2, Settings: elsewhere}}, OutcomeRefused, "first start"},
		{"another number of replicas", Command{SetSettings: &SetSettings{Expect: version + 2, Settings: fewer}}, OutcomeRefused, "from 4 on"},
		{"settings out of bounds", Command{SetSettings: &SetSettings{Expect: version + 2, Settings: bad}}, OutcomeRefused, "touch-interval"},
		{"settings", change(version + 2), OutcomeApplied, ""},
		{"settings as they are", change(version + 3), OutcomeUnchanged, ""},
		{"a node", add(2, 2), OutcomeApplied, ""},
		{"a later node", Command{AddNode: &AddNode{Node: testNodes(6)[5], Level: 9, ShardLevel: 9}}, OutcomeApplied, ""},
	} {
		r := m.do(t, step.c)
		if r.Outcome != step.outcome || !strings.Contains(r.Reason, step.reason) {
			t.Errorf("%s: %+v, want %s %q", step.name, r, step.outcome, step.reason)
		}
	}
	if m.table.Settings != next || m.table.SettingsVersion != version+3 || m.table.settingsVersion() != version+3 {
		t.Errorf("settings %+v of version %d", m.table.Settings, m.table.SettingsVersion)
	}
	if err := m.Restore(bytes.NewReader(snapshotBytes(t, m.Machine))); err != nil {
		t.Error(err)
	}
}

// TestLaterTable ensures that a table of a level which this build does not know is not taken for one that
// it knows.
func TestLaterTable(t *testing.T) {
	for _, l := range []levels{{MaxLevel + 1, fsm.MaxLevel}, {MaxLevel, fsm.MaxLevel + 1}} {
		table := testTable(t, 3, smallSettings).clone()
		table.Level, table.ShardLevel = l.directory, l.shards
		data, err := json.Marshal(table)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeTable(data); !errors.Is(err, ErrNewer) || errors.Is(err, shard.ErrDataLost) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if _, err := decodeTable([]byte(`{"later":1}`)); !errors.Is(err, ErrNewer) {
		t.Errorf("an unknown field: %v", err)
	}
}

// TestFoundedAtHighestLevel ensures that a cluster of this build begins with all that it knows, its
// shards too, with no change of the table after the first.
func TestFoundedAtHighestLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		r.until("the shards are raised", func() bool { return r.shardLevels(fsm.MaxLevel) })
		if table := r.services["a"].Table(); table.Level != MaxLevel || table.ShardLevel != fsm.MaxLevel || table.Version != 1 {
			t.Errorf("table version %d, levels %d and %d", table.Version, table.Level, table.ShardLevel)
		}
	})
}

// shardLevels reports whether all shards have a feature level.
func (r *testRig) shardLevels(level uint8) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, st := range r.caches {
		if max(st.Level, 1) != level {
			return false
		}
	}
	return len(r.caches) > 0
}

// TestRaise ensures that nothing is raised, and no setting changes, while the build of one node knows level
// 1 alone, is down, or is not known to be another by now; and that all follows once it is replaced.
func TestRaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.old["c"] = true
		r.startAll("a", "b", "c")
		r.ready()
		memory := "40%"
		stays := func(when string) {
			t.Helper()
			<-time.After(10 * time.Second)
			synctest.Wait()
			if table := r.services["a"].Table(); table.Level != 1 || table.ShardLevel != 0 || !r.shardLevels(1) {
				t.Fatalf("%s: table version %d, levels %d and %d", when, table.Version, table.Level, table.ShardLevel)
			}
			_, err := r.services["a"].ChangeSettings(t.Context(), SettingsChange{Values: map[string]*string{"cache-memory": &memory}})
			var conflict *ConflictError
			if !errors.As(err, &conflict) {
				t.Errorf("%s: changing a setting: %v, want a conflict", when, err)
			}
		}
		stays("with an old node")
		r.stop("c")
		stays("while the old node is down")
		r.mu.Lock()
		r.old["c"] = false
		r.mu.Unlock()
		stays("while nobody knows what it will come back with")
		r.startAll("c")
		r.until("the table is raised", func() bool {
			table := r.services["b"].Table()
			return table.Level == MaxLevel && table.ShardLevel == fsm.MaxLevel
		})
		for _, sh := range r.services["a"].Table().Shards {
			r.lead(sh.ID, "b") // c, which stopped, led some
		}
		r.until("the shards are raised", func() bool { return r.shardLevels(fsm.MaxLevel) })
		if _, err := r.services["b"].ChangeSettings(t.Context(), SettingsChange{Values: map[string]*string{"cache-memory": &memory}}); err != nil {
			t.Error(err)
		}
	})
}

// TestOldNodeIsRefused ensures that a node whose build is too old for the cluster is told so when it joins,
// and leaves no trace.
func TestOldNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		request, err := json.Marshal(joinRequest{Node: testNodes(4)[3], Memory: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		payload, err := r.services["b"].handleJoin(t.Context(), "d", request)
		if err != nil {
			t.Fatal(err)
		}
		var answer joinAnswer
		if err := json.Unmarshal(payload, &answer); err != nil || !strings.Contains(answer.Refusal, "newer build") || answer.Table != nil {
			t.Errorf("%s, %v", payload, err)
		}
		if table := r.services["a"].Table(); len(table.Nodes) != 3 {
			t.Errorf("nodes %v", table.NodeIDs())
		}
	})
}

// TestJoinAtLevel1 ensures that a node of this build is taken by a cluster of level 1 with a command that
// old replicas can read.
func TestJoinAtLevel1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.old["c"] = true
		r.startAll("a", "b", "c")
		r.ready()
		request, err := json.Marshal(joinRequest{Node: testNodes(4)[3], Memory: 1 << 30, Level: MaxLevel, ShardLevel: fsm.MaxLevel})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.services["b"].handleJoin(t.Context(), "d", request); err != nil {
			t.Fatal(err)
		}
		last := string(r.log[len(r.log)-1])
		if !strings.Contains(last, `"add-node"`) || strings.Contains(last, "level") {
			t.Errorf("the last command is %s", last)
		}
	})
}

// TestNothingAboveTheLevel ensures that what a build of today could write, and one that takes part can't read, is refused and not written
// into the log.
func TestNothingAboveTheLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 4)
		r.old["d"] = true // which knows level 1 alone
		r.startAll("a", "b", "c", "d")
		r.ready()
		ctx := context.Background()
		entries := func() int {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.log)
		}
		before := entries()
		var conflict *ConflictError
		if _, err := r.services["b"].DrainNode(ctx, "c", true); !errors.As(err, &conflict) || !strings.Contains(conflict.Reason, "feature level") {
			t.Errorf("drained: %v", err)
		}
		off := off
		if _, err := r.services["b"].ChangeSettings(ctx, SettingsChange{Values: map[string]*string{"balance": &off}}); !errors.As(err, &conflict) {
			t.Errorf("settings: %v", err)
		}
		slow := "1MiB"
		if _, err := r.services["b"].ChangeSettings(ctx, SettingsChange{Values: map[string]*string{"snapshot-bandwidth": &slow}}); !errors.As(err, &conflict) {
			t.Errorf("settings: %v", err)
		}
		for _, c := range []Command{
			{DrainNode: &DrainNode{ID: "c", Drain: true}},
			{SetSettings: &SetSettings{Expect: 1, Settings: Settings{InitialShards: 4, Replicas: 3, CacheMemory: "60%", SnapshotBandwidth: "1MiB"}}},
			{SetSettings: &SetSettings{Expect: 1, Settings: Settings{InitialShards: 4, Replicas: 3, CacheMemory: "60%", RepairAfter: "30s"}}},
			{Cancel: &CancelOperation{ID: 1, R: 2}},
			{Cancel: &CancelOperation{ID: 1, Again: true}},
			{Start: &StartOperation{Kind: ReplaceMember, Shard: 1, Node: "d", From: "a", R: 1}},
			{Start: &StartOperation{Kind: RemoveMember, Shard: 1, Node: "a", R: 1, Reason: "x"}},
			{Start: &StartOperation{Kind: RebuildMember, Shard: 1, Node: "a", R: 1, Reason: "x"}},
		} {
			if result, err := r.services["b"].Propose(ctx, c); err != nil || result.Outcome != OutcomeRefused || !strings.Contains(result.Reason, "feature level") {
				t.Errorf("%s: %+v, %v", c.describe(), result, err)
			}
		}
		if after := entries(); after != before {
			t.Errorf("%d entries were written", after-before)
		}
	})
}
