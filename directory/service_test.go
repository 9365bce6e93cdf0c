package directory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// TestServiceFoundsCluster ensures that three fresh nodes found one cluster, agree on its table, open
// exactly the replicas that it gives them, hurry the election on the first member, and grant each
// shard its range, all within seconds.
func TestServiceFoundsCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		if took := r.ready(); took > 2*time.Second {
			t.Errorf("ready after %v", took)
		}
		table := r.services["a"].Table()
		if err := table.Validate(); err != nil || table.Version != 1 || len(table.Shards) != 4 {
			t.Fatalf("%+v, %v", table, err)
		}
		for id, s := range r.services {
			if cluster, list, ok := r.identities[id].Formed(); !ok || cluster != table.Cluster || len(list) != 3 {
				t.Errorf("%s formed %s %v", id, cluster, list)
			}
			if !reflect.DeepEqual(s.Table(), table) {
				t.Errorf("%s has %+v", id, s.Table())
			}
			if want := s.self; table.Nodes[id] != want {
				t.Errorf("%s stands as %+v, want %+v", id, table.Nodes[id], want)
			}
		}
		for _, sh := range table.Shards {
			if len(r.opened[sh.ID]) != 3 {
				t.Errorf("shard %d has %d replicas", sh.ID, len(r.opened[sh.ID]))
			}
			for _, spec := range r.opened[sh.ID] {
				if spec.R != 1 || len(spec.Members) != 3 {
					t.Errorf("shard %d opened as %+v", sh.ID, spec)
				}
			}
			if got := r.leaders[sh.ID]; got != sh.Members[0].Node {
				t.Errorf("shard %d is led by %s, meant for %s", sh.ID, got, sh.Members[0].Node)
			}
			st := r.caches[sh.ID]
			if st.Range != sh.Range() || st.Epoch != 1 || st.Generation != 1 || st.VersionBits() != sh.VersionBits || st.Limit != sh.Limit {
				t.Errorf("shard %d was granted %+v of %+v", sh.ID, st, sh)
			}
		}
		for _, spec := range []string{"a", "b", "c"} {
			if got := r.hosts[spec].specs[0]; got.R != 0 || got.Campaign != (spec == "a") || len(got.Members) != 3 {
				t.Errorf("%s opened the directory as %+v", spec, got)
			}
		}
		before := r.changed
		<-time.After(time.Minute)
		if r.changed != before {
			t.Errorf("%d proposals while nothing changed", r.changed-before)
		}
	})
}

// TestServiceWithoutDirectory ensures that requests are served, and new leaders found, while the
// directory has no quorum; and that a restarted node gets the table from a peer then.
func TestServiceWithoutDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		key := []byte("k")
		l, err := r.services["a"].Router().Locate(key)
		if err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		r.frozen = true
		delete(r.leaders, shard.Directory)
		r.mu.Unlock()
		r.lead(l.Shard, "c")
		for id, s := range r.services {
			if resp, err := s.Router().Do(t.Context(), shard.Request{Op: shard.OpPut, Key: key}); err != nil || resp.ServedBy != "c" {
				t.Errorf("through %s: %+v, %v", id, resp, err)
			}
		}
		r.stop("b")
		r.startAll("b")
		r.until("b has the table again", func() bool { return r.services["b"].Table().Founded() })
		if resp, err := r.services["b"].Router().Do(t.Context(), shard.Request{Op: shard.OpGet, Key: key}); err != nil || resp.ServedBy != "c" || resp.ForwardedTo != "c" {
			t.Errorf("through b: %+v, %v", resp, err)
		}
	})
}

// TestServiceRegisters ensures that a node which comes back at other addresses, or with another zone
// or capacity, is known by them soon, through any leader of the directory, and that limits follow.
func TestServiceRegisters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		limit := r.services["a"].Table().Shards[0].Limit
		r.stop("c")
		r.configure = func(cfg *Config) {
			if cfg.Self.ID == "c" {
				cfg.Self.Raft, cfg.Self.HTTP, cfg.Self.Zone, cfg.Self.Capacity = "127.0.0.9:1", "127.0.0.9:2", "west", 1<<29
			}
		}
		r.startAll("c")
		r.until("c is known as it is", func() bool { return r.services["a"].Table().Nodes["c"] == r.services["c"].self })
		r.until("limits fit c", func() bool { return r.services["a"].Table().Shards[0].Limit == limit/2 })
		r.until("limits are in force", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.caches[1].Limit == limit/2
		})
		r.until("peers dial c there", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.hosts["a"].peers["c"].Addr == "127.0.0.9:1"
		})
		if got := r.hosts["a"].peers["c"].Incarnation; got != r.identities["c"].incarnation {
			t.Errorf("c is recognised by %q", got)
		}
	})
}

// TestServiceWipedNode ensures that a founder which comes back with an empty data folder stops with
// the error that tells what happened, whether the others still form or run for long.
func TestServiceWipedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		r.stop("c")
		r.identities["c"] = &fakeIdentity{incarnation: fmt.Sprintf("%032x", 77)}
		err := r.prepare("c").Start(t.Context())
		if !errors.Is(err, shard.ErrDataLost) || !strings.Contains(err.Error(), "the data of c was wiped") {
			t.Errorf("wiped node: %v", err)
		}
		if _, _, ok := r.identities["c"].Formed(); ok {
			t.Error("wiped node formed")
		}
	})
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// TestServiceWaits ensures that forming waits for all initial nodes and says for which, in its log, in
// its readiness and to whoever asks for a key; that it ends with its context, and resumes with what
// was persisted.
func TestServiceWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		var log lockedBuffer
		r.configure = func(cfg *Config) {
			if cfg.Self.ID == "a" {
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			}
		}
		var wg sync.WaitGroup
		for _, id := range []string{"a", "b"} {
			s := r.prepare(id)
			if got := s.Ready()[0].Detail; !strings.Contains(got, "waits for") {
				t.Errorf("%s is not ready, and does not say why: %q", id, got)
			}
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if err := s.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s started alone: %v", id, err)
				}
			})
		}
		<-time.After(time.Second)
		a := r.services["a"]
		if got := a.Ready()[0]; got.OK || !strings.HasSuffix(got.Detail, "it waits for c") {
			t.Errorf("while c is missing: %+v", got)
		}
		if err := a.Known(); !errors.Is(err, ErrNoTable) || !errors.Is(err, shard.ErrNoLeader) || !strings.HasSuffix(err.Error(), "it waits for c") {
			t.Errorf("while c is missing: %v", err)
		}
		if d, ok := a.ShardView(shard.Directory); ok {
			t.Errorf("a directory before the cluster formed: %+v", d)
		}
		if _, err := a.Router().Do(t.Context(), shard.Request{Op: shard.OpGet, Key: []byte("k")}); !errors.Is(err, ErrNoTable) || !strings.Contains(err.Error(), "the cluster is not formed yet") {
			t.Errorf("a key while c is missing: %v", err)
		}
		wg.Wait()
		// In the very first round b may not answer yet.
		all, alone := strings.Count(log.String(), `msg="waiting for all initial nodes"`), strings.Count(log.String(), `msg="waiting for all initial nodes" missing="c: `)
		if all != 12 || alone < 11 {
			t.Errorf("%d lines in a minute, %d name c alone, want one at the start and one each 5 s:\n%s", all, alone, log.String())
		}
		r.stop("a")
		r.stop("b")
		r.startAll("a", "b", "c")
		r.ready()
		if err := r.services["a"].Known(); err != nil {
			t.Errorf("once ready: %v", err)
		}
		cluster := r.services["b"].Table().Cluster
		for _, id := range []string{"a", "b", "c"} {
			r.stop(id)
		}
		r.startAll("b") // a member alone: starts, but has no quorum
		if got, _, _ := r.identities["b"].Formed(); got != cluster {
			t.Errorf("b is in cluster %s, was in %s", got, cluster)
		}
	})
}

// TestServiceNonMember ensures that a node without a replica of the directory gets the table, follows
// its changes by long poll, and routes; also when the node it polled goes away.
func TestServiceNonMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		cluster, list, _ := r.identities["a"].Formed()
		r.identities["d"] = &fakeIdentity{incarnation: fmt.Sprintf("%032x", 4), formed: &founding{cluster, list}}
		r.startAll("d")
		d := r.services["d"]
		r.until("d has the table", func() bool { return d.Table().Version == 1 })
		if resp, err := d.Router().Do(t.Context(), shard.Request{Op: shard.OpPut, Key: []byte("k")}); err != nil || resp.ForwardedTo == "" {
			t.Errorf("through d: %+v, %v", resp, err)
		}
		for _, gone := range []string{"", "b"} {
			if gone != "" {
				r.stop(gone)
			}
			sh, ok := r.services["a"].Table().Shard(2)
			if !ok {
				t.Fatal("no shard 2")
			}
			var result Result
			r.until("d finds the directory's leader", func() bool {
				var err error
				result, err = d.Propose(t.Context(), Command{Regrant: &Regrant{Shard: 2, Expect: sh.VersionBits}})
				return err == nil
			})
			if result.Outcome != OutcomeApplied {
				t.Fatalf("without %q: %+v", gone, result)
			}
			took := r.until("d has the change", func() bool { return d.Table().Version == result.Version })
			if gone == "" && took > time.Second {
				t.Errorf("d learned of a change after %v", took)
			}
		}
		if d.group != nil || len(r.hosts["d"].specs) != 0 {
			t.Errorf("d hosts %v", r.hosts["d"].specs)
		}
	})
}

// TestServiceFetchesAcrossACut ensures that a member whose replica does not hear from its group's
// leader fetches the table from a peer that is ahead.
func TestServiceFetchesAcrossACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		r.mu.Lock()
		r.cut[[2]string{"a", "c"}] = true
		r.mu.Unlock()
		if result, err := r.services["b"].Propose(t.Context(), Command{Regrant: &Regrant{Shard: 1, Expect: 1}}); err != nil || result.Version != 2 {
			t.Fatalf("%+v, %v", result, err)
		}
		took := r.until("c has the change", func() bool { return r.services["c"].Table().Version == 2 })
		if took > patience+2*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

// TestServiceRegrants ensures that a shard whose version counter is nearly used up gets new bits in
// time, and only then.
func TestServiceRegrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		r.mu.Lock()
		st := r.caches[3]
		st.Version = 3<<44 | counterMask - counterReserve
		r.caches[3] = st
		r.mu.Unlock()
		r.until("shard 3 has new bits", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			st := r.caches[3]
			return st.VersionBits() == 5
		})
		if table := r.services["a"].Table(); table.Version != 2 || table.VersionGrant != 5 {
			t.Errorf("version %d, grant %d", table.Version, table.VersionGrant)
		}
	})
}

// TestServiceReady ensures that readiness names what is missing: the table, a replica that can't be
// opened, a leader, a grant, entries to apply.
func TestServiceReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		want := func(s *Service, name string, ok bool, detail string) {
			t.Helper()
			for _, c := range s.Ready() {
				if c.Name == name {
					if c.OK != ok || !strings.Contains(c.Detail, detail) || ok != (c.Detail == "") {
						t.Errorf("%+v, want %v %q", c, ok, detail)
					}
					return
				}
			}
			t.Errorf("no check %s in %+v", name, s.Ready())
		}
		c := r.prepare("c")
		want(c, "directory", false, "not known")
		r.hosts["c"].failOpen = errors.New("disk full")
		for _, id := range []string{"a", "b"} {
			r.prepare(id)
		}
		var wg sync.WaitGroup
		for _, s := range r.services {
			wg.Go(func() {
				if err := s.Start(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		r.until("c tried to open its replicas", func() bool {
			for _, check := range c.Ready() {
				if strings.Contains(check.Detail, "disk full") {
					return true
				}
			}
			return false
		})
		want(c, "directory", true, "")
		want(c, "shard/0", true, "")
		want(c, "shard/1", false, "disk full")
		r.mu.Lock()
		r.hosts["c"].failOpen = nil
		r.mu.Unlock()
		r.ready()

		behind := shard.Status{Shard: 1, Role: shard.RoleFollower, Leader: "a", Term: 1, Commit: 2001, Applied: 1000}
		sh, _ := c.Table().Shard(1)
		problem := func(st shard.Status) string {
			c.soft.refresh([]shard.Status{st}, 1, "", "")
			return c.problem(1, &sh)
		}
		if got := problem(behind); got != "1001 entries behind" {
			t.Errorf("behind: %q", got)
		}
		behind.Applied++
		if got := problem(behind); got != "" {
			t.Errorf("hardly behind: %q", got)
		}
		ahead := report{replicas: []replicaReport{{shard: 1, leader: true, commit: 5000, term: 1}}}
		c.soft.receive("a", ahead.encode())
		if got := problem(behind); got != "3999 entries behind" {
			t.Errorf("behind what the leader reports: %q", got)
		}
		for detail, st := range map[string]shard.Status{
			"no leader":   {Shard: 1, Role: shard.RoleCandidate},
			"stopped":     {Shard: 1, Role: shard.RoleStopped},
			"of its term": {Shard: 1, Role: shard.RoleLeader, Leader: "c"},
			"not granted": {Shard: 1, Role: shard.RoleLeader, Leader: "c", Ready: true},
			"not running": {Shard: 2},
		} {
			if got := problem(st); !strings.Contains(got, detail) {
				t.Errorf("%+v: %q, want %q", st, got, detail)
			}
		}
	})
}

// TestServiceViews ensures that the views have the documented shape, the leaders that are believed in,
// numbers from the local replica or else from reports, and the hits and misses of all members.
func TestServiceViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 4)
		r.startAll("a", "b", "c", "d")
		r.ready()
		a := r.services["a"]
		r.until("all nodes are heard", func() bool {
			for _, n := range a.View().Nodes {
				if n.State != NodeUp {
					return false
				}
			}
			return true
		})
		r.until("a knows all leaders", func() bool {
			for _, sh := range a.Shards() {
				if sh.Leader == "" || sh.Source == "" {
					return false
				}
			}
			return true
		})
		data, err := json.Marshal(a.View())
		if err != nil {
			t.Fatal(err)
		}
		cluster, _, _ := r.identities["a"].Formed()
		sh := a.Table().Shards[0]
		first := fmt.Sprintf(`{"cluster":%q,"version":1,"shards":[{"id":1,"start":0,"end":4096,"epoch":1,"conf":"1-7","leader":%q,"members":[{"node":%q,"role":"voter"},`,
			cluster, sh.Members[0].Node, sh.Members[0].Node)
		if !strings.HasPrefix(string(data), first) || !strings.Contains(string(data), `"nodes":{"a":{"http":"127.0.0.1:7001","state":"up"},`) {
			t.Errorf("got  %s\nwant %s...", data, first)
		}
		for key := 0; slices.ContainsFunc(a.Shards(), func(d ShardDetail) bool { return d.Hits == 0 }); key++ {
			if key == 1000 {
				t.Fatalf("1000 reads, but shards without a hit: %+v", a.Shards())
			}
			leader := a.View().Shards[key%4].Leader
			if _, err := r.services[leader].Router().Do(t.Context(), shard.Request{Op: shard.OpGet, Key: fmt.Append(nil, key)}); err != nil {
				t.Fatal(err)
			}
			for _, s := range r.services {
				l, err := s.Router().Locate(fmt.Append(nil, key))
				if err != nil {
					t.Fatal(err)
				}
				d, _ := s.ShardView(l.Shard)
				if l.Leader == s.self.ID && d.Hits != r.hosts[l.Leader].hits[l.Shard] {
					t.Errorf("%s leads shard %d and tells of %d hits at once, not %d", l.Leader, l.Shard, d.Hits, r.hosts[l.Leader].hits[l.Shard])
				}
			}
			<-time.After(pingEvery)
		}
		local, reported := 0, 0
		for _, d := range a.Shards() {
			want := "a"
			if _, member := a.Table().Shards[d.ID-1].Member("a"); !member {
				want = d.Leader
				reported++
			} else {
				local++
			}
			if d.Source != want || d.Term != 1 || d.Limit == 0 {
				t.Errorf("%+v, want numbers of %s", d, want)
			}
		}
		if local == 0 || reported == 0 {
			t.Errorf("%d local, %d reported: nothing tested", local, reported)
		}
		dir, ok := a.ShardView(shard.Directory)
		if !ok || dir.Leader != "a" || len(dir.Members) != 4 || dir.End != 0 {
			t.Errorf("directory: %+v", dir)
		}
		if d, ok := a.ShardView(99); ok {
			t.Errorf("shard 99: %+v", d)
		}
		r.stop("d")
		r.until("d is down", func() bool { n, ok := a.Node("d"); return ok && n.State == NodeDown && !n.LastSeen.IsZero() })
		if n, ok := a.Node("z"); ok {
			t.Errorf("node z: %+v", n)
		}
		replicas, leads := 0, 0
		for _, n := range a.Nodes() {
			replicas += n.Replicas
			leads += n.Leads
		}
		if replicas != 12 || leads > 4 || leads < 3 {
			t.Errorf("%d replicas, %d leaders on %+v", replicas, leads, a.Nodes())
		}
	})
}

// TestServiceRefusesConfig ensures that a service is not made from what can't work.
func TestServiceRefusesConfig(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"no identity":                    func(c *Config) { c.Identity = nil },
		"not 32 hex digits":              func(c *Config) { c.Identity = &fakeIdentity{incarnation: "x"} },
		"no memory":                      func(c *Config) { c.Self.Capacity = 0 },
		"Raft address":                   func(c *Config) { c.Self.Raft = "nowhere" },
		"HTTP address":                   func(c *Config) { c.Self.HTTP = "" },
		"initial-shards":                 func(c *Config) { c.Settings.InitialShards = -1 },
		"not among the initial nodes":    func(c *Config) { c.Initial = map[string]string{"b": "b:1"} },
		"there are only 3 initial nodes": func(c *Config) { c.Settings.Replicas = 4 },
	} {
		r := newTestRig(t, 3)
		cfg := Config{Identity: r.identities["a"], Self: testNodes(1)[0], Initial: r.initial}
		change(&cfg)
		if _, err := newService(cfg, r.join("a")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a service without a host")
	}
}

// TestProposeFromAfar ensures that what a node sends to the directory's leader is checked before it
// reaches the log, and that a name in a refusal is followed.
func TestProposeFromAfar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRig(t, 3)
		r.startAll("a", "b", "c")
		r.ready()
		entries := len(r.log)
		if _, err := r.hosts["b"].Call(t.Context(), "a", methodPropose, []byte(`{"v":9}`)); !errors.Is(err, errCommand) || len(r.log) != entries {
			t.Errorf("unreadable command: %v, %d entries more", err, len(r.log)-entries)
		}
		// b still believes in a, which sends it on to c.
		r.lead(shard.Directory, "c")
		result, err := r.services["b"].Propose(t.Context(), Command{SetLevel: &SetLevel{Level: MaxLevel, ShardLevel: fsm.MaxLevel}})
		if err != nil || result.Outcome != OutcomeUnchanged {
			t.Errorf("%+v, %v", result, err)
		}
		result, err = r.services["b"].Propose(t.Context(), Command{Regrant: &Regrant{Shard: 9, Expect: 1}})
		if err != nil || result.Outcome != OutcomeRefused || result.Reason == "" {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

// TestMetrics ensures that the metrics show the service's state under their documented names.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		r := newTestRig(t, 3)
		r.configure = func(cfg *Config) {
			if cfg.Self.ID == "a" {
				cfg.Registry = registry
			}
		}
		r.startAll("a", "b", "c")
		r.ready()
		state := func(id string) string { n, _ := r.services["a"].Node(id); return n.State }
		r.until("all are up", func() bool { return state("b") == NodeUp && state("c") == NodeUp })
		r.stop("c")
		r.until("c is down", func() bool { return state("c") == NodeDown })
		r.services["a"].soft.receive("b", nil)
		r.services["a"].metrics.retried("no_leader")
		got := make(map[string]float64)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				name := family.GetName()
				for _, l := range m.GetLabel() {
					name += "/" + l.GetValue()
				}
				got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		for name, want := range map[string]float64{
			"larder_directory_is_leader":              1,
			"larder_directory_shard_generation/4":     1,
			"larder_directory_nodes/up":               2,
			"larder_directory_nodes/down":             1,
			"larder_directory_reports_dropped_total":  1,
			"larder_directory_version":                1,
			"larder_router_retries_total/no_leader":   1,
			"larder_router_retries_total/unreachable": 0,
		} {
			if value, ok := got[name]; !ok || value != want {
				t.Errorf("%s is %v, %v, want %v", name, value, ok, want)
			}
		}
		if known, unknown := got["larder_directory_shards/known"], got["larder_directory_shards/unknown"]; known+unknown != 4 || unknown == 0 {
			t.Errorf("%v shards with a leader, %v without", known, unknown)
		}
	})
}
