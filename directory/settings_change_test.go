package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// values makes the values of a change out of names and texts in turns; the text "null" is the default.
func values(pairs ...string) map[string]*string {
	m := make(map[string]*string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &pairs[i+1]
		if pairs[i+1] == "null" {
			m[pairs[i]] = nil
		}
	}
	return m
}

// TestChangeSettings ensures that a change through any node is seen there when it returns and reaches the
// data path of all nodes; that one which was decided for other settings is refused, and so is what can't
// work; and that a change of nothing changes nothing.
func TestChangeSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.configure = func(cfg *Config) { cfg.Memory = 1 << 30 }
		r.startAll("a", "b", "c")
		r.ready()
		first := SettingsView{Version: 1, CacheMemory: "60%", DefaultTTL: "none", TouchInterval: "100ms", RepairAfter: "1m", Balance: "on", SnapshotBandwidth: "32MiB", MemoryOnly: "off", InitialShards: 4, Replicas: 3}
		if got := r.services["b"].Settings(); got != first || r.services["b"].DefaultTTL() != 0 {
			t.Errorf("at first %+v", got)
		}
		r.until("all capacities are registered", r.limitsSettled)

		ctx := t.Context()
		change := func(node string, version uint64, pairs ...string) (SettingsView, error) {
			return r.services[node].ChangeSettings(ctx, SettingsChange{Values: values(pairs...), Version: version})
		}
		got, err := change("b", 1, "default-ttl", "60m", "touch-interval", "1s", "snapshot-bandwidth", "16MiB")
		want := first
		want.Version, want.DefaultTTL, want.TouchInterval, want.SnapshotBandwidth = got.Version, "1h", "1s", "16MiB"
		if err != nil || got != want || got.Version < 2 || r.services["b"].DefaultTTL() != time.Hour {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		r.until("all nodes apply the change", func() bool {
			for id, h := range r.hosts {
				r.mu.Lock()
				intervals, bandwidth := slices.Clone(h.touchIntervals), h.bandwidth
				r.mu.Unlock()
				if !slices.Equal(intervals, []time.Duration{100 * time.Millisecond, time.Second}) || r.services[id].DefaultTTL() != time.Hour || bandwidth != 16<<20 {
					return false
				}
			}
			return true
		})

		version := r.services["c"].Table().Version
		var old *SettingsVersionError
		if _, err := change("c", 1, "default-ttl", "2h"); !errors.As(err, &old) || old.Version != want.Version {
			t.Errorf("for settings of version 1: %v", err)
		}
		began := time.Now()
		if _, err := change("c", 99, "default-ttl", "2h"); !errors.As(err, &old) || time.Since(began) > 2*time.Second {
			t.Errorf("for settings of version 99: %v after %v", err, time.Since(began))
		}
		if got, err := change("c", want.Version, "default-ttl", "1h"); err != nil || got != want {
			t.Errorf("nothing changed: %+v, %v", got, err)
		}
		for _, row := range []struct{ name, value, reason string }{
			{"colour", "red", "no such setting"},
			{"initial-shards", "5", "founded"},
			{"replicas", "0", "want 1 to 9"},
			{"replicas", "many", "want 1 to 9"},
			{"cache-memory", "none", "none"},
			{"cache-memory", "2GiB", "more than the 1073741824 bytes of memory that node a has"},
			{"cache-memory", "4KiB", "16384 are the least"},
			{"shard-bytes", "16383", "16384 are the least"},
			{"shard-bytes", "1GiB", "node a has 644245094 bytes for entries"},
			{"shard-bytes", "33GiB", "34359738368 are the most that a shard can hold"},
			{"touch-interval", "1h", "from 10ms to 1m"},
		} {
			var refused *SettingError
			if _, err := change("a", 0, row.name, row.value); !errors.As(err, &refused) || refused.Name != row.name || !strings.Contains(refused.Reason, row.reason) {
				t.Errorf("%s=%s: %v, want %q", row.name, row.value, err, row.reason)
			}
		}
		if got := r.services["c"].Table().Version; got != version {
			t.Errorf("refused changes took the table from version %d to %d", version, got)
		}
		if got, err := change("a", 0, "default-ttl", "null", "touch-interval", "null"); err != nil || got.DefaultTTL != "none" || got.TouchInterval != "100ms" {
			t.Errorf("back to the defaults: %+v, %v", got, err)
		}
	})
}

// limitsSettled reports whether the directory's table, on all nodes, has the limits that follow from its
// nodes and settings, and the nodes the capacity that follows from their memory.
func (r *testRig) limitsSettled() bool {
	for _, s := range r.services {
		t := s.Table()
		changes, err := limitChanges(t)
		if err != nil || len(changes) > 0 || t.Version != r.services["a"].Table().Version {
			return false
		}
		for _, n := range t.Nodes {
			if n.Capacity != t.Settings.Capacity(1<<30) {
				return false
			}
		}
	}
	return true
}

// TestSettingsMoveLimits ensures that the limits of shards follow the settings, in the table and on the
// shards: down, up again, and to a size of their own.
func TestSettingsMoveLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		var told [3]uint64 // to the nodes, what they have for entries
		nodes := 0
		r.configure = func(cfg *Config) {
			capacity := &told[nodes]
			nodes++
			cfg.Memory = 1 << 30
			cfg.OnCapacity = func(bytes uint64) {
				r.mu.Lock()
				defer r.mu.Unlock()
				*capacity = bytes
			}
		}
		r.startAll("a", "b", "c")
		r.ready()
		for _, row := range []struct {
			name, value string
			want        uint64 // of each shard: a node has 4 replicas
		}{
			{"cache-memory", "60%", share(644245094, 4)},
			{"cache-memory", "30%", share(322122547, 4)},
			{"cache-memory", "512MiB", share(512<<20, 4)},
			{"shard-bytes", "1MiB", 1 << 20},
			{"cache-memory", "90%", 1 << 20},
			{"shard-bytes", "0", share(966367641, 4)},
		} {
			if _, err := r.services["c"].ChangeSettings(t.Context(), SettingsChange{Values: values(row.name, row.value)}); err != nil {
				t.Fatalf("%s=%s: %v", row.name, row.value, err)
			}
			took := r.until(fmt.Sprintf("%s=%s moves all limits to %d", row.name, row.value, row.want), func() bool {
				if !r.limitsSettled() {
					return false
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				for _, st := range r.caches {
					if st.Limit != row.want {
						return false
					}
				}
				for _, capacity := range told {
					if capacity != r.services["a"].Table().Settings.Capacity(1<<30) {
						return false
					}
				}
				return true
			})
			if took > 3*time.Second {
				t.Errorf("%s=%s took %v", row.name, row.value, took)
			}
		}
	})
}

// TestChangeSettingsMeetsChanges ensures that a change of settings is made though the table changes
// meanwhile, and is judged again then.
func TestChangeSettingsMeetsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		b := r.services["b"]
		stale := b.Table()
		if _, err := b.Propose(t.Context(), Command{Regrant: &Regrant{Shard: 1, Expect: 1}}); err != nil {
			t.Fatal(err)
		}
		result, err := b.Propose(t.Context(), Command{SetSettings: &SetSettings{Expect: stale.Version, Settings: smallSettings}})
		if err != nil || result.Outcome != OutcomeRefused {
			t.Fatalf("%+v, %v", result, err)
		}
		errs := make(chan error)
		ttls := []string{"1m", "2m", "3m", "4m", "5m", "6m"}
		for i, ttl := range ttls {
			go func() {
				_, err := r.services[[]string{"a", "b", "c"}[i%3]].ChangeSettings(t.Context(), SettingsChange{Values: values("default-ttl", ttl)})
				errs <- err
			}()
		}
		for range ttls {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if table := r.services["a"].Table(); table.Version != 2+uint64(len(ttls)) {
			t.Errorf("table version %d after %d changes", table.Version, 1+len(ttls))
		}
	})
}

// TestChangeSettingsWithoutQuorum ensures that a change which nobody can take is refused when its time is
// over, as one that certainly was not made.
func TestChangeSettingsWithoutQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		r.mu.Lock()
		r.frozen = true
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.services["b"].ChangeSettings(ctx, SettingsChange{Values: values("default-ttl", "1m")}); !shard.Refused(err) {
			t.Errorf("%v, want a refusal", err)
		}
	})
}

// TestSettingsOnRealHosts ensures, on real Raft groups, that halving cache-memory brings the limit and the
// bytes of each shard down on all its replicas alike, with the same entries left, that raising it again
// gives the room back, and that shards are at the highest feature level as soon as they serve.
func TestSettingsOnRealHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a", "b", "c"}
		r := newRealRig(t, names...)
		r.configure = func(cfg *Config) { cfg.Memory, cfg.Self.Capacity = 2<<20, Memory{permille: 600}.Of(2<<20) }
		defer func() {
			for name := range r.services {
				r.stop(name)
			}
		}()
		for _, name := range names {
			r.start(name)
		}
		r.form(names...)
		r.ready()

		// stats returns those of a shard's replicas.
		stats := func(id shard.ID) []fsm.Stats {
			var all []fsm.Stats
			for _, h := range r.hosts {
				for _, st := range h.Status() {
					if st.Shard == id && st.Cache != nil {
						all = append(all, *st.Cache)
					}
				}
			}
			return all
		}
		settle := func(what string, holds func(fsm.Stats) bool) {
			t.Helper()
			for began := time.Now(); ; <-time.After(50 * time.Millisecond) {
				alike := true
				for _, sh := range r.services["a"].Table().Shards {
					replicas := stats(sh.ID)
					for _, st := range replicas {
						alike = alike && len(replicas) == 3 && holds(st) &&
							st.Entries == replicas[0].Entries && st.Bytes == replicas[0].Bytes && st.Evictions == replicas[0].Evictions && st.Version == replicas[0].Version
					}
				}
				if alike {
					return
				}
				if time.Since(began) > 20*time.Second {
					t.Fatalf("%s: not within 20 s: %+v", what, stats(1))
				}
			}
		}
		put := func(round string) {
			t.Helper()
			for i := range 1500 {
				req := shard.Request{Op: shard.OpPut, Key: fmt.Appendf(nil, "key%d", i), Value: []byte(strings.Repeat(round, 1000))}
				if _, err := r.do(names[i%3], req); err != nil {
					t.Fatal(err)
				}
			}
		}
		whole := share(Memory{permille: 600}.Of(2<<20), 4)
		half := share(Memory{permille: 300}.Of(2<<20), 4)
		full := func(limit uint64) func(fsm.Stats) bool {
			return func(st fsm.Stats) bool { return st.Limit == limit && st.Bytes <= limit && st.Bytes > limit/2 }
		}
		settle("raised", func(st fsm.Stats) bool { return st.Level == fsm.MaxLevel })
		put("a")
		settle("filled", full(whole))
		if _, err := r.services["b"].ChangeSettings(t.Context(), SettingsChange{Values: values("cache-memory", "30%")}); err != nil {
			t.Fatal(err)
		}
		settle("halved", full(half))
		if _, err := r.services["c"].ChangeSettings(t.Context(), SettingsChange{Values: values("cache-memory", "60%")}); err != nil {
			t.Fatal(err)
		}
		settle("raised again", func(st fsm.Stats) bool { return st.Limit == whole && st.Bytes <= half })
		put("b")
		settle("filled again", func(st fsm.Stats) bool { return full(whole)(st) && st.Bytes > half })
	})
}
