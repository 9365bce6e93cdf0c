package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// grantOf is what a generation of the test's shard is granted.
func (c *cluster) grantOf(generation uint64) fsm.Grant {
	return fsm.Grant{Range: c.owned, Epoch: 10 * generation, Generation: generation, VersionBits: uint32(generation), Limit: c.limit, TableVersion: 10 * generation}
}

// keepSpec is the replica that begins a generation on a node with the state of the one that is there, alone in its group.
func (c *cluster) keepSpec(node string, generation uint64) Spec {
	r := 10 * generation
	return Spec{Shard: testShard, R: r, Members: []Member{{node, r}}, Volatile: c.volatile, Campaign: true,
		Keep: Keep{R: c.replicaOn(node).R, Grant: c.grantOf(generation)}}
}

// keep opens that replica, and waits until it serves.
func (c *cluster) keep(node string, generation uint64) *Host {
	c.t.Helper()
	h, spec := c.hosts[node], c.keepSpec(node, generation)
	if err := h.OpenCache(spec); err != nil {
		c.t.Fatal(err)
	}
	c.r[node] = spec.R
	return c.leader(node)
}

// whole is what the snapshot and the log of a node's replica come to, and the index at which they end.
func (c *cluster) whole(node string) (*fsm.Machine, uint64) {
	c.t.Helper()
	r := c.memory[node].Crash().stores[c.replicaOn(node)]
	m, at := fsm.New(), uint64(0)
	if metas, err := r.snaps.List(); err != nil {
		c.t.Fatal(err)
	} else if len(metas) > 0 {
		_, content, err := r.snaps.Open(metas[0].ID)
		if err != nil {
			c.t.Fatal(err)
		}
		if m, err = fsm.Restore(content); err != nil {
			c.t.Fatal(err)
		}
		at = metas[0].Index
	}
	last, _ := r.store.LastIndex()
	for at < last {
		at++
		var entry raft.Log
		if err := r.store.GetLog(at, &entry); err != nil {
			c.t.Fatal(err)
		}
		if entry.Type != raft.LogCommand {
			continue
		}
		b, err := fsm.DecodeBatch(entry.Data)
		if err == nil {
			_, err = m.Apply(at, b)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return m, at
}

// TestKeepState ensures that a replica which keeps the state of the last one that is left begins with exactly what that one's snapshot and whole log come
// to and the new grant, also what was not committed; that it serves that alone, over restarts too, with versions above all before; that the
// former members say nothing in its group; and that others join it.
func TestKeepState(t *testing.T) {
	for _, compact := range []bool{false, true} {
		t.Run(fmt.Sprintf("compact=%v", compact), func(t *testing.T) {
			var tune func(string, *Config)
			if compact {
				tune = compacting
			}
			inBubble(t, 3, tune, func(c *cluster) {
				l := c.lead("a")
				versions := map[string]uint64{}
				for n := range 60 {
					key := fmt.Sprint("k", n)
					r, err := do(l, Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte(key), TTL: time.Duration(n%2) * time.Hour})
					if err != nil {
						t.Fatal(err)
					}
					versions[key] = r.Version
				}
				if _, err := do(l, incrRequest("n", 5, "once")); err != nil {
					t.Fatal(err)
				}
				for n := range 10 {
					c.wantGet(l, fmt.Sprint("k", n), fmt.Sprint("k", n)) // which moves it to the recent end
				}
				time.Sleep(3 * time.Second) // touches, and a snapshot, which is looked for each second
				c.mustPut(l, "k", "v")
				c.crash("b")
				c.crash("c")
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				_, err := l.Cache(testShard).Do(ctx, Request{Shard: testShard, Op: OpPut, Key: []byte("late"), Value: []byte("x")})
				cancel()
				if !errors.Is(err, ErrOutcomeUnknown) {
					t.Fatalf("%v, want a write that nobody else has", err)
				}
				synctest.Wait()
				want, last := c.whole("a")
				if metas, _ := l.Group(testShard).snaps.List(); (len(metas) > 0) != compact {
					t.Fatalf("%d snapshots", len(metas))
				}
				at, _ := want.Applied()
				if _, err := want.Apply(at+1, fsm.Batch{Commands: []fsm.Command{{Kind: fsm.KindGrant, Grant: c.grantOf(2)}}}); err != nil {
					t.Fatal(err)
				}
				former := c.replicaOn("a")
				if fate, err := l.Fate(former); err != nil || fate.Last != last || fate.LastTerm == 0 {
					t.Errorf("%+v, %v, want that its log ends at %d", fate, err, last)
				}
				l = c.keep("a", 2)
				metas, err := l.Group(testShard).snaps.List()
				if err != nil || len(metas) == 0 || metas[len(metas)-1].Index != at+1 {
					t.Fatalf("%+v, %v, want a snapshot that ends at %d", metas, err, at+1)
				}
				_, content, err := l.Group(testShard).snaps.Open(metas[len(metas)-1].ID)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := fsm.Restore(content); err != nil || got.Checksum() != want.Checksum() {
					t.Errorf("it begins with another state: %v\n%+v\n%+v", err, got.Stats(), want.Stats())
				}
				if here := l.Replicas(); len(here) != 1 || here[0] != c.replicaOn("a") {
					t.Errorf("replicas %v", here)
				}
				if fate, err := l.Fate(former); err != nil || !fate.Gone {
					t.Errorf("%+v, %v", fate, err)
				}
				check := func() {
					t.Helper()
					for key, version := range versions {
						if r, err := do(l, Request{Shard: testShard, Op: OpGet, Key: []byte(key)}); err != nil || !r.Found || r.Version != version {
							t.Errorf("%s: %+v, %v, want version %d", key, r, err, version)
						}
					}
					c.wantGet(l, "late", "x")
					if r, err := do(l, incrRequest("n", 5, "once")); err != nil || !r.Replayed || string(r.Value) != "5" {
						t.Errorf("repeated under its key: %+v, %v", r, err)
					}
					if r := c.mustPut(l, "new", "v"); r.Version>>44 != 2 || r.Epoch != 20 {
						t.Errorf("%+v, want a version and an epoch of the second generation", r)
					}
				}
				check()

				for _, name := range []string{"b", "c"} { // a majority of the former generation
					c.start(name)
				}
				c.leader("b", "c")
				time.Sleep(5 * time.Second)
				if s := l.Group(testShard).Status(); !s.Ready || !slices.Equal(s.Voters, []string{"a"}) {
					t.Errorf("%+v, want it to go on alone", s)
				}
				check()
				c.crash("a")
				c.start("a")
				l = c.leader("a")
				check()
				for _, name := range []string{"b", "c"} {
					must(t, c.hosts[name].Destroy(testShard, 1))
					c.r[name] = 30
					c.open(c.hosts[name])
					c.voter(c.replicaOn(name))
				}
				c.wantSameState()
				for _, name := range []string{"b", "c"} { // whose logs begin behind a snapshot
					if fate, err := c.hosts[name].Fate(c.replicaOn(name)); err != nil || fate.Last != c.hosts[name].Group(testShard).Status().Last || fate.LastTerm < 2 {
						t.Errorf("%+v, %v", fate, err)
					}
				}
				c.crash("a")
				l = c.leader("b", "c")
				check()
			})
		})
	}
}

// TestKeepNothing ensures that a replica which is to keep a state that can't be had never begins without one: it counts as lost, and says why, until the
// next generation takes its place.
func TestKeepNothing(t *testing.T) {
	for name, spoil := range map[string]func(c *cluster, spec *Spec){
		"the former never was here": func(c *cluster, spec *Spec) {
			spec.Keep.R = 5
			_ = c.memory["a"].destroy(c.replicaOn("a"))
		},
		"it is damaged": func(c *cluster, spec *Spec) {
			r := c.memory["a"].stores[c.replicaOn("a")]
			last, _ := r.store.LastIndex()
			r.store.memory.logs[last-3] = raft.Log{Index: last - 3, Term: 1, Type: raft.LogCommand, Data: []byte("damage")}
		},
		"it got nothing yet": func(c *cluster, spec *Spec) { // a learner may be that far
			h := c.startEmpty("a")
			_ = h.Destroy(testShard, 1)
			_ = h.OpenCache(Spec{Shard: testShard, R: 5})
			spec.Keep.R = 5
			c.crash("a")
		},
		"it has diverged": func(c *cluster, spec *Spec) {
			_ = c.memory["a"].diverged(c.replicaOn("a"), &Verdict{Outcome: OutcomeMinority})
		},
		"it was destroyed":                func(c *cluster, spec *Spec) { _ = c.memory["a"].destroy(c.replicaOn("a")) },
		"the grant is that of the former": func(c *cluster, spec *Spec) { spec.Keep.Grant = c.grantOf(1) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, nil, func(c *cluster) {
				l := c.lead("a")
				for n := range 10 {
					c.mustPut(l, fmt.Sprint("k", n), "v")
				}
				for _, name := range c.names {
					c.crash(name)
				}
				spec := c.keepSpec("a", 2)
				spoil(c, &spec)
				h := c.startEmpty("a")
				for range lossTries + 2 {
					if err := h.OpenCache(spec); !errors.Is(err, ErrDataLost) {
						t.Fatalf("%v, want that it is lost", err)
					}
				}
				id := ReplicaID{testShard, "a", 20}
				if v := h.lost(id); v == nil || h.Group(testShard) != nil {
					t.Errorf("%v, %v, want it lost and closed", v, h.Group(testShard))
				}
				for _, id := range h.Replicas() { // by the next table
					must(t, h.Destroy(testShard, id.R))
				}
				if all := h.Status(); len(all) > 0 {
					t.Errorf("%+v is told of for ever", all)
				}
				must(t, h.OpenCache(Spec{Shard: testShard, R: 30, Members: []Member{{"a", 30}}}))
			})
		})
	}
}

// TestKeepShrinks ensures that a kept state that is larger than the new limit comes down to it, the oldest entries first.
func TestKeepShrinks(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		const n = 3000 // more than one log entry evicts
		for k := range n {
			c.mustPut(l, fmt.Sprint("k", k), "v")
		}
		for _, name := range []string{"b", "c"} {
			c.crash(name)
		}
		c.limit = c.stats(l).Bytes / 10
		l = c.keep("a", 2)
		c.until("it is within its limit", func() bool { s := c.stats(l); return s.Bytes <= s.Limit && s.Limit == c.limit })
		c.wantGet(l, fmt.Sprint("k", n-1), "v")
		if r, err := do(l, Request{Shard: testShard, Op: OpGet, Key: []byte("k0")}); err != nil || r.Found {
			t.Errorf("%+v, %v, want the oldest evicted", r, err)
		}
	})
}

// TestKeepVolatile ensures that a state in memory alone is kept also where the former replica can't be noted as destroyed at once, as on a full disk:
// nothing of it can be read again.
func TestKeepVolatile(t *testing.T) {
	grant := func(generation uint64) fsm.Grant {
		return fsm.Grant{Range: fsm.Range{End: fsm.Slots}, Generation: generation, Epoch: generation, VersionBits: uint32(generation), Limit: 1 << 20, TableVersion: generation}
	}
	k := &keepHost{t: t, dir: t.TempDir()}
	k.restart()
	defer func() { k.Close() }()
	must(t, k.OpenCache(Spec{Shard: 7, R: 1, Volatile: true, Campaign: true, Members: []Member{{"a", 1}}}))
	for began := time.Now(); k.Cache(7).Grant(t.Context(), grant(1)) != nil; time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("no leader")
		}
	}
	k.do(1, Request{Op: OpPut, Key: []byte("k"), Value: []byte("v")})
	fails := &failingStorage{storage: k.storage, destroying: true}
	k.storage = fails
	must(t, k.OpenCache(Spec{Shard: 7, R: 5, Volatile: true, Campaign: true, Members: []Member{{"a", 5}}, Keep: Keep{R: 1, Grant: grant(2)}}))
	if resp := k.do(5, Request{Op: OpGet, Key: []byte("k")}); string(resp.Value) != "v" {
		t.Errorf("%+v", resp)
	}
	fails.destroying = false
	must(t, k.Destroy(7, 1))
	if here := k.Replicas(); len(here) != 1 || here[0].R != 5 {
		t.Errorf("replicas %v", here)
	}
	if resp := k.do(5, Request{Op: OpGet, Key: []byte("k")}); string(resp.Value) != "v" {
		t.Errorf("%+v", resp)
	}
}

// TestWholeState ensures that the state of a replica is what its newest snapshot and the log behind it come to, that a log which the snapshot has
// overtaken counts for nothing, as an installation that a death cut off leaves it, and that a gap between them, or no grant, is a loss.
func TestWholeState(t *testing.T) {
	entries := func(term uint64, indexes ...uint64) (logs []*raft.Log) { // each that is no command leaves the state alone
		for _, index := range indexes {
			c := fsm.Command{Kind: fsm.KindPut, Key: fmt.Appendf(nil, "%d", index), Value: []byte("v")}
			if index == 2 {
				c = fsm.Command{Kind: fsm.KindGrant, Grant: fsm.Grant{Range: fsm.Range{End: fsm.Slots}, Epoch: 1, Generation: 1, VersionBits: 1, Limit: 1 << 20, TableVersion: 1}}
			}
			data, err := fsm.Batch{Stamp: index, Level: 1, Commands: []fsm.Command{c}}.AppendBinary(nil)
			must(t, err)
			entry := &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: data}
			switch index {
			case 1, 4:
				entry.Type, entry.Data = raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{})
			case 5:
				entry.Type, entry.Data = raft.LogBarrier, nil
			}
			logs = append(logs, entry)
		}
		return logs
	}
	at := func(logs []*raft.Log) *fsm.Machine {
		m := fsm.New()
		for _, l := range logs {
			if l.Type == raft.LogCommand {
				b, err := fsm.DecodeBatch(l.Data)
				must(t, err)
				_, err = m.Apply(l.Index, b)
				must(t, err)
			}
		}
		return m
	}
	whole := entries(1, 1, 2, 3, 4, 5, 6, 7, 8)
	for _, row := range []struct {
		name     string
		log      []*raft.Log
		snapshot int    // how many of whole it covers; 0: there is none
		term     uint64 // of its last entry
		want     int    // how many of whole the state covers; 0: lost
	}{
		{"the log alone", whole, 0, 0, 8},
		{"snapshot and log", whole, 6, 1, 8},
		{"a compacted log", whole[6:], 6, 1, 8},
		{"the snapshot alone", nil, 6, 1, 6},
		{"the log ends before the snapshot", whole[:3], 6, 1, 6},
		{"the log is another one at the snapshot", whole, 6, 2, 6},
		{"a gap", whole[7:], 6, 1, 0},
		{"a log that does not begin at the beginning", whole[2:], 0, 0, 0},
		{"no grant", whole[:1], 0, 0, 0},
		{"nothing", nil, 0, 0, 0},
	} {
		store, snaps := newMemoryStore(), newMemorySnapshots()
		must(t, store.StoreLogs(row.log))
		if row.snapshot > 0 {
			sink, err := snaps.Create(1, uint64(row.snapshot), row.term, raft.Configuration{}, 1, nil)
			must(t, err)
			_, err = at(whole[:row.snapshot]).Snapshot().WriteTo(sink)
			must(t, err)
			must(t, sink.Close())
		}
		got, err := wholeState(store, snaps)
		if row.want == 0 {
			if !errors.Is(err, ErrDataLost) {
				t.Errorf("%s: %v, want that it is lost", row.name, err)
			}
		} else if err != nil || got.Checksum() != at(whole[:row.want]).Checksum() {
			t.Errorf("%s: %v, want the state at %d", row.name, err, row.want)
		}
	}
}

// TestMemoryKeep ensures that a data folder in memory lets a replica be made beside the one that it keeps, and beside no other, as one on disk does.
func TestMemoryKeep(t *testing.T) {
	begin := func(replicaStore, raft.SnapshotStore) error { return nil }
	for _, row := range []struct {
		id      ReplicaID
		r, keep uint64
		want    bool
	}{
		{ReplicaID{3, "a", 17}, 20, 17, true},
		{ReplicaID{3, "a", 17}, 20, 16, false},
		{ReplicaID{3, "a", 17}, 20, 0, false},
		{ReplicaID{Directory, "a", 0}, 20, 0, false}, // a founder's
	} {
		m := NewMemory("a")
		if _, _, err := m.open(row.id, false, 0, nil, nil, begin); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.open(ReplicaID{row.id.Shard, "a", row.r}, false, row.keep, nil, nil, begin); (err == nil) != row.want {
			t.Errorf("%+v: %v", row, err)
		}
		if m.retired(row.id) != row.want {
			t.Errorf("%+v: retired %v", row, m.retired(row.id))
		}
	}
}
