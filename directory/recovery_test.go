package directory

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// recoveryRig is a realRig of five founders, so that the directory outlives what costs a shard of three its quorum.
type recoveryRig struct {
	*realRig
	lost Shard // the shard that is to lose its quorum
	gone []string
	left string // its member that stays

	versions map[string]uint64 // acknowledged before the loss, by key, all in lost
}

// newRecoveryRig returns a rig that is ready, with keys in the shard that is to lose its quorum.
func newRecoveryRig(t *testing.T, change ...func(*recoveryRig, *Settings)) *recoveryRig {
	names := []string{"a", "b", "c", "d", "e"}
	r := &recoveryRig{realRig: newRealRig(t, names...), versions: map[string]uint64{}}
	dir := t.TempDir()
	r.configure = func(c *Config) {
		c.TableFile = filepath.Join(dir, c.Self.Raft[:1])
		c.Initial = map[string]string{}
		for _, name := range names {
			c.Initial[name] = name + ":1"
		}
		c.Settings = Settings{InitialShards: 5, Replicas: 3}
		for _, f := range change {
			f(r, &c.Settings)
		}
	}
	for _, name := range names {
		r.start(name)
	}
	r.form(names...)
	r.ready()
	r.lost = r.services["a"].Table().Shards[0]
	r.left, r.gone = r.lost.Members[0].Node, []string{r.lost.Members[1].Node, r.lost.Members[2].Node}
	for i := range 30 {
		key := r.key(i)
		resp, err := r.do(names[i%5], shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte("before")})
		if err != nil {
			t.Fatal(err)
		}
		r.versions[key] = resp.Version
	}
	return r
}

// key returns the n-th key of the shard that is to lose its quorum.
func (r *recoveryRig) key(n int) string {
	for i := 0; ; i++ {
		key := fmt.Sprint("key", i)
		if slot := fsm.Slot([]byte(key)); !r.lost.Range().Contains(slot) {
			continue
		}
		if n--; n < 0 {
			return key
		}
	}
}

func (r *recoveryRig) close() {
	for name := range r.services {
		r.stop(name)
	}
}

// crash ends a node as kill -9 does.
func (r *recoveryRig) crash(name string) {
	r.net.Kill(name)
	synctest.Wait()
	r.stop(name)
	r.net.Revive(name)
}

func (r *recoveryRig) restart(name string) {
	r.start(name)
	r.form(name)
}

// until waits for a condition.
func (r *recoveryRig) until(what string, holds func() bool) {
	r.t.Helper()
	for began := time.Now(); !holds(); <-time.After(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			r.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// recover recovers the lost shard at a node, for one generation, and repeats that until the outcome is certain.
func (r *recoveryRig) recover(at func() string, request Recovery) {
	r.t.Helper()
	for began := time.Now(); ; <-time.After(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := r.services[at()].RecoverShard(ctx, request)
		cancel()
		var conflict *ConflictError
		if err == nil || errors.As(err, &conflict) && strings.Contains(conflict.Reason, "has generation") {
			return
		}
		if time.Since(began) > time.Minute {
			r.t.Fatal(err)
		}
	}
}

// served waits until the lost shard takes writes at a node, in the generation.
func (r *recoveryRig) served(at string, generation uint64) {
	r.t.Helper()
	r.until("the shard serves", func() bool {
		sh, _ := r.services[at].Table().Shard(r.lost.ID)
		_, err := r.do(at, shard.Request{Op: shard.OpPut, Key: []byte("{" + r.key(0) + "}probe"), Value: []byte("x")})
		return sh.Generation == generation && err == nil
	})
}

// checkAfter ensures that nothing of the former generation is left, and that what is written now has higher versions.
func (r *recoveryRig) checkAfter(at string) {
	r.t.Helper()
	var highest uint64
	for _, v := range r.versions {
		highest = max(highest, v)
	}
	for key := range r.versions {
		resp, err := r.do(at, shard.Request{Op: shard.OpGet, Key: []byte(key)})
		if err != nil || resp.Found && string(resp.Value) == "before" {
			r.t.Errorf("%s at %s: %+v, %v, want a miss", key, at, resp, err)
		}
		resp, err = r.do(at, shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte("after")})
		if err != nil || resp.Version <= highest {
			r.t.Errorf("put %s at %s: %+v, %v, want a version above %d", key, at, resp, err, highest)
		}
	}
}

// TestRecoverShard ensures that a shard whose majority is destroyed has no service until it is recovered, and that it then misses what it held,
// takes writes with versions above all before, and that its former replicas are destroyed when their nodes return.
func TestRecoverShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecoveryRig(t)
		defer r.close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		plan, err := r.services[r.left].RecoverShard(ctx, Recovery{Shard: r.lost.ID})
		if err != nil || plan.Generation != 1 || plan.Against == "" || plan.Done {
			t.Fatalf("%+v, %v, want a plan that warns of a quorum", plan, err)
		}
		var conflict *ConflictError
		if _, err := r.services[r.left].RecoverShard(ctx, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1}); !errors.As(err, &conflict) {
			t.Fatalf("%v, want a refusal while there is a quorum", err)
		}
		for _, name := range r.gone {
			r.crash(name)
		}
		plan, err = r.services[r.left].RecoverShard(ctx, Recovery{Shard: r.lost.ID})
		if err != nil || len(plan.Nodes) == 0 || slices.ContainsFunc(r.gone, func(name string) bool { return slices.Contains(plan.Nodes, name) }) {
			t.Fatalf("%+v, %v, want a plan without nodes that have died just now", plan, err)
		}
		<-time.After(2 * softLife)
		plan, err = r.services[r.left].RecoverShard(ctx, Recovery{Shard: r.lost.ID})
		if err != nil || plan.Against != "" || len(plan.Nodes) != 3 || slices.Contains(plan.Nodes, r.gone[0]) || slices.Contains(plan.Nodes, r.gone[1]) {
			t.Fatalf("%+v, %v, want a plan on the nodes that are up", plan, err)
		}
		if _, err := r.services[r.left].RecoverShard(ctx, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 7}); !errors.As(err, &conflict) {
			t.Fatalf("%v, want a refusal of another generation", err)
		}
		if _, err := r.services[r.left].RecoverShard(ctx, Recovery{Shard: 99}); !errors.As(err, new(*UnknownError)) {
			t.Fatalf("%v, want that there is no such shard", err)
		}
		done, err := r.services[r.left].RecoverShard(ctx, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1})
		if err != nil || !done.Done {
			t.Fatalf("%+v, %v", done, err)
		}
		if _, err := r.services[r.left].RecoverShard(ctx, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1}); !errors.As(err, &conflict) {
			t.Fatalf("%v, want a refusal of a repeat", err)
		}
		r.served(r.left, 2)
		table := r.services[r.left].Table()
		sh, _ := table.Shard(r.lost.ID)
		if sh.Epoch != table.began(sh.ID) || sh.VersionBits <= r.lost.VersionBits || sh.VersionBits != table.VersionGrant {
			t.Errorf("%+v", sh)
		}
		if o, ok := table.Operation(done.Operation); !ok || o.Kind != RecoverGeneration || o.State != OperationDone {
			t.Errorf("%+v, %v, want what tells of the recovery", o, ok)
		}
		r.checkAfter(r.left)

		for _, name := range r.gone {
			r.restart(name)
		}
		r.until("the former replicas are destroyed", func() bool {
			for _, name := range r.gone {
				if slices.ContainsFunc(r.hosts[name].Replicas(), func(id shard.ReplicaID) bool { return id.Shard == sh.ID && id.R < sh.Epoch }) {
					return false
				}
			}
			return true
		})
		r.ready()
		for name := range r.services {
			resp, err := r.do(name, shard.Request{Op: shard.OpGet, Key: []byte(r.key(3))})
			if err != nil || string(resp.Value) != "after" {
				t.Errorf("at %s: %+v, %v", name, resp, err)
			}
		}
	})
}

// TestRecoverCommand ensures that a recovery is refused where its preconditions don't hold, and that it gives the shard new replicas, new version bits and a
// new epoch, and ends what runs on it.
func TestRecoverCommand(t *testing.T) {
	apply := func(c Command, to *Table) (*Table, Result) {
		c.Kind = c.kind()
		return c.apply(to)
	}
	founded, _ := apply(testInit(t, 4, smallSettings), &Table{})
	first := founded.Shards[0]
	conf := StartOperation{Kind: RemoveMember, Shard: first.ID, Node: first.Members[0].Node, Conf: 1}
	table, result := apply(Command{Start: &conf}, founded)
	if result.Outcome != OutcomeApplied {
		t.Fatal(result)
	}
	drained, _ := apply(Command{DrainNode: &DrainNode{ID: "d", Drain: true}}, table)
	young := *table
	young.Level = placementLevel
	spent := *table
	spent.VersionGrant = maxVersionBits
	for name, row := range map[string]struct {
		table *Table
		c     RecoverShard
	}{
		"an early level":              {&young, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"a"}}},
		"an unknown shard":            {table, RecoverShard{Shard: 77, Generation: 1, Nodes: []string{"a"}}},
		"the directory":               {table, RecoverShard{Shard: shard.Directory, Generation: 1, Nodes: []string{"a"}}},
		"another generation":          {table, RecoverShard{Shard: first.ID, Generation: 2, Nodes: []string{"a"}}},
		"another table":               {table, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"a"}, Expect: table.Version - 1}},
		"no node":                     {table, RecoverShard{Shard: first.ID, Generation: 1, Nodes: nil}},
		"an unknown node":             {table, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"a", "z"}}},
		"a node twice":                {table, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"a", "a"}}},
		"a drained node":              {drained, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"d"}}},
		"no version bits":             {&spent, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"a"}}},
		"data of no member":           {table, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{first.Members[1].Node}, Keep: first.Members[1].R + 1}},
		"data for two nodes":          {table, RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"a", "b"}, Keep: first.Members[1].R}},
		"more nodes than are allowed": {table, RecoverShard{Shard: first.ID, Generation: 1, Nodes: make([]string, maxReplicas+1)}},
	} {
		if next, result := apply(Command{Recover: &row.c}, row.table); next != nil || result.Outcome != OutcomeRefused || result.Reason == "" {
			t.Errorf("%s: %+v", name, result)
		}
	}
	c := Command{Recover: &RecoverShard{Shard: first.ID, Generation: 1, Nodes: []string{"d", "b"}}}
	next, result := apply(c, table)
	if next == nil || next.Validate() != nil {
		t.Fatalf("%+v, %v", result, next.Validate())
	}
	sh, _ := next.Shard(first.ID)
	want := []Member{{Node: "d", R: next.Version, Role: RoleVoter}, {Node: "b", R: next.Version, Role: RoleVoter}}
	if sh.Generation != 2 || sh.Epoch != next.Version || sh.VersionBits != table.VersionGrant+1 || next.VersionGrant != sh.VersionBits ||
		sh.Range() != first.Range() || !slices.Equal(sh.Members, want) || !slices.Equal(sh.Bootstrap, want) {
		t.Errorf("%+v", sh)
	}
	if o := next.Operations[0]; o.State != OperationFailed || o.Phase != "" || o.Error == "" {
		t.Errorf("%+v, want it failed", o)
	}
	if o, ok := next.Operation(result.Operation); !ok || o.Kind != RecoverGeneration || o.Shard != first.ID {
		t.Errorf("%+v, %v", o, ok)
	}
	if again, result := apply(c, next); again != nil || result.Outcome != OutcomeRefused {
		t.Errorf("a repeat: %+v", result)
	}
	if c.level() != recoveryLevel {
		t.Errorf("level %d", c.level())
	}
}

// TestStartOfAFormerGeneration ensures that no operation begins on a group from a configuration of the one before it, whose number it
// might never come to: it would run for ever, and could not even be cancelled.
func TestStartOfAFormerGeneration(t *testing.T) {
	apply := func(c Command, to *Table) (*Table, Result) {
		c.Kind = c.kind()
		return c.apply(to)
	}
	founded, _ := apply(testInit(t, 4, smallSettings), &Table{})
	id := founded.Shards[0].ID
	nodes := []string{"a", "b", "c"}
	recovered, result := apply(Command{Recover: &RecoverShard{Shard: id, Generation: 1, Nodes: nodes}}, founded)
	if recovered == nil {
		t.Fatal(result)
	}
	rebuilt := *founded
	rebuilt.Version, rebuilt.Rebuilt, rebuilt.Directory = 9, 9, rebuilt.Directory[:3]
	for _, group := range []struct {
		shard shard.ID
		table *Table
	}{{id, recovered}, {shard.Directory, &rebuilt}} {
		members, _ := group.table.Members(group.shard)
		out := slices.IndexFunc(group.table.NodeIDs(), func(node string) bool {
			return !slices.ContainsFunc(members, func(m Member) bool { return m.Node == node })
		})
		start := StartOperation{Kind: AddMember, Shard: group.shard, Node: group.table.NodeIDs()[out], Conf: 5000, Table: group.table.Version - 1}
		if next, result := apply(Command{Start: &start}, group.table); next != nil || result.Outcome != OutcomeRefused {
			t.Errorf("shard %d: planned before the group began: %+v", group.shard, result)
		}
		early := *group.table
		early.Level = placementLevel
		for _, row := range []struct {
			table   *Table
			planned uint64
		}{{group.table, group.table.Version}, {group.table, 0}, {&early, start.Table}} {
			start.Table = row.planned
			if next, result := apply(Command{Start: &start}, row.table); next == nil || result.Outcome != OutcomeApplied {
				t.Errorf("shard %d, level %d: planned by table %d: %+v", group.shard, row.table.Level, row.planned, result)
			}
		}
	}
}

// namesTables fails the test where an operation began that names no table.
func (r *testRig) namesTables() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, data := range r.log {
		if c, err := DecodeCommand(data); err != nil || c.Start != nil && c.Start.Table == 0 {
			r.t.Errorf("%s, %v", data, err)
		}
	}
}

// TestRouterNamesReplica ensures that requests for a shard that was recovered name the replica that the table lists, writes too: one of the former
// generation on the same node takes none.
func TestRouterNamesReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newRouterRig(t)
		recovered := rig.latest.Table().clone()
		recovered.Version = 9
		sh := &recovered.Shards[0]
		sh.Generation = 2
		for i := range sh.Members {
			sh.Members[i].R = 9
		}
		rig.latest.Publish(recovered)
		for _, op := range []shard.Op{shard.OpPut, shard.OpDelete, shard.OpGet} {
			if _, err := rig.Do(context.Background(), shard.Request{Op: op, Key: []byte("k")}); err != nil {
				t.Fatal(err)
			}
		}
		for _, former := range []string{"z", "b"} { // one that the table does not list, and one that it does
			rig.believed = former
			if _, err := rig.Do(context.Background(), shard.Request{Op: shard.OpPut, Key: []byte("k")}); err != nil {
				t.Fatal(err)
			}
		}
		if slices.Contains(rig.asked, "z") {
			t.Error("a node without a replica of this generation was asked")
		}
		for _, req := range rig.requests {
			if req.R != 9 {
				t.Errorf("operation %d names replica %d, want 9", req.Op, req.R)
			}
		}
	})
}

// TestFormerGenerationIsNotAsked ensures that the configuration of a group whose generation has ended counts for nothing, and that a step that was planned
// before a group began is not made on it, though it names the index of a configuration that the new one has too.
func TestFormerGenerationIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecoveryRig(t)
		defer r.close()
		at := r.services[r.left]
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		former := at.Table().Version
		r.recover(func() string { return r.left }, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1, Force: true})
		r.served(r.left, 2)
		conf, leader, err := at.configuration(ctx, r.lost.ID)
		if err != nil {
			t.Fatal(err)
		}
		early := memberStep{Shard: r.lost.ID, Step: stepAddLearner, Prev: conf.Index, Table: former,
			Replica: shard.ReplicaID{Shard: r.lost.ID, Node: r.gone[0], R: former}.String()}
		if err := at.stepAt(ctx, leader, early); !errors.Is(err, shard.ErrConfChanged) {
			t.Errorf("%v, want that the step is not made", err)
		}
		if now, _, err := at.configuration(ctx, r.lost.ID); err != nil || now.Index != conf.Index {
			t.Errorf("configuration %d, %v, want %d still", now.Index, err, conf.Index)
		}
		later := at.Table().clone()
		later.Version++
		for i := range later.Shards {
			later.Shards[i].Bootstrap[0].R = later.Version
		}
		knows := &Service{host: at.host, latest: NewLatest()} // that another generation has begun
		knows.latest.Publish(later)
		if conf, err := knows.configurationAt(ctx, leader, r.lost.ID); !errors.Is(err, shard.ErrNoLeader) {
			t.Errorf("%+v, %v, want that the former generation counts for nothing", conf, err)
		}
	})
}

// TestFormerMajorityReturns ensures that a majority that was given up and is there after all serves nobody what it held, on whatever node and with
// whatever consistency a client asks, where its nodes start while those that know the new table can be reached.
func TestFormerMajorityReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecoveryRig(t)
		defer r.close()
		for _, name := range r.gone {
			r.crash(name)
		}
		<-time.After(2 * softLife)
		r.recover(func() string { return r.left }, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1})
		r.served(r.left, 2)
		r.checkAfter(r.left)
		ends := time.Now().Add(20 * time.Second)
		go func() {
			for _, name := range r.gone {
				r.start(name)
			}
			r.form(r.gone...)
		}()
		synctest.Wait()
		asked := 0
		for time.Now().Before(ends) {
			for _, name := range r.gone {
				for _, consistency := range []shard.Consistency{shard.Linearizable, shard.Any} {
					ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
					resp, err := r.services[name].Router().Local(ctx, shard.Request{Op: shard.OpGet, Key: []byte(r.key(2)), Consistency: consistency})
					cancel()
					asked++
					if err == nil && string(resp.Value) != "after" {
						t.Fatalf("%s serves %q with consistency %d", name, resp.Value, consistency)
					}
				}
			}
			<-time.After(5 * time.Millisecond)
		}
		if asked == 0 {
			t.Error("nobody was asked")
		}
		r.ready()
	})
}

// TestRecoverAgainstLivingMajority ensures that a majority that was cut off all the time, and recovered from by force, does not reach those that know of it:
// their clients see the new generation alone, also while the others still claim to lead, and these give up their replicas once they hear.
func TestRecoverAgainstLivingMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecoveryRig(t)
		defer r.close()
		for other := range r.services {
			if !slices.Contains(r.gone, other) {
				r.net.Isolate(other, r.gone...)
			}
		}
		<-time.After(2 * softLife)
		r.recover(func() string { return r.left }, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1})
		r.served(r.left, 2)
		r.checkAfter(r.left)
		if resp, err := r.do(r.gone[0], shard.Request{Op: shard.OpGet, Key: []byte(r.key(1))}); err != nil || string(resp.Value) != "before" {
			t.Logf("the former generation does not serve while it is cut off: %+v, %v", resp, err)
		}
		r.net.Heal()
		var acknowledged []string
		for began := time.Now(); time.Since(began) < 10*time.Second; <-time.After(5 * time.Millisecond) {
			for name := range r.services {
				if slices.Contains(r.gone, name) {
					continue
				}
				key := fmt.Sprintf("{%s}%s%d", r.key(0), name, len(acknowledged))
				if _, err := r.do(name, shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte("after")}); err == nil {
					acknowledged = append(acknowledged, key)
				}
				for i := range 3 {
					resp, err := r.do(name, shard.Request{Op: shard.OpGet, Key: []byte(r.key(i))})
					if err == nil && string(resp.Value) != "after" {
						t.Fatalf("at %s %v after the nodes met: %+v, want what the new generation holds", name, time.Since(began), resp)
					}
				}
			}
		}
		r.ready()
		for _, key := range acknowledged {
			if resp, err := r.do(r.left, shard.Request{Op: shard.OpGet, Key: []byte(key)}); err != nil || !resp.Found {
				t.Errorf("%s, acknowledged by a node that knew the new generation: %+v, %v", key, resp, err)
			}
		}
		for _, name := range r.gone {
			if resp, err := r.do(name, shard.Request{Op: shard.OpGet, Key: []byte(r.key(1))}); err != nil || string(resp.Value) != "after" {
				t.Errorf("at %s: %+v, %v", name, resp, err)
			}
		}
	})
}

// TestRecoverAcrossCrashes ensures that a recovery is made once and whole wherever the directory's leader, or a new member, dies in the middle of it:
// one generation begins, it serves, and what it acknowledges stays.
func TestRecoverAcrossCrashes(t *testing.T) {
	for _, victim := range []string{"leader", "member"} {
		for step := range 8 {
			t.Run(fmt.Sprint(victim, step), func(t *testing.T) {
				if testing.Short() && step%3 != 0 {
					t.Skip("short")
				}
				synctest.Test(t, func(t *testing.T) {
					r := newRecoveryRig(t)
					defer r.close()
					for _, name := range r.gone {
						r.crash(name)
					}
					<-time.After(2 * softLife)
					r.until("the directory has a leader", func() bool { leader, _ := r.services[r.left].Leader(shard.Directory); return leader != "" })
					leader, _ := r.services[r.left].Leader(shard.Directory)
					done := make(chan struct{})
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					defer cancel()
					at := r.services[r.other(leader)]
					go func() {
						_, _ = at.RecoverShard(ctx, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1})
						close(done)
					}()
					<-time.After(time.Duration(step*step) * 700 * time.Microsecond)
					died := leader
					if victim == "member" {
						died = r.left
					}
					r.crash(died)
					cancel()
					<-done
					r.restart(died)
					r.recover(func() string { return r.other(died) }, Recovery{Shard: r.lost.ID, Unsafe: true, Generation: 1})
					r.served(died, 2)
					r.checkAfter(died)
					for _, name := range r.gone {
						r.restart(name)
					}
					r.ready()
					for name := range r.services {
						if sh, _ := r.services[name].Table().Shard(r.lost.ID); sh.Generation != 2 {
							t.Errorf("%s knows generation %d", name, sh.Generation)
						}
						for key := range r.versions {
							if resp, err := r.do(name, shard.Request{Op: shard.OpGet, Key: []byte(key)}); err != nil || string(resp.Value) != "after" {
								t.Errorf("%s at %s: %+v, %v", key, name, resp, err)
							}
						}
					}
				})
			})
		}
	}
}

// other returns a node that runs and is not the one named.
func (r *recoveryRig) other(than string) string {
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if name != than && r.services[name] != nil {
			return name
		}
	}
	return ""
}

// checkKept ensures that a node answers with all that was written before, with the versions that it had then, and that what is written now has
// higher versions.
func (r *recoveryRig) checkKept(at string) {
	r.t.Helper()
	var highest uint64
	for _, v := range r.versions {
		highest = max(highest, v)
	}
	for key, version := range r.versions {
		resp, err := r.do(at, shard.Request{Op: shard.OpGet, Key: []byte(key)})
		if err != nil || !resp.Found || resp.Version != version || string(resp.Value) != "before" {
			r.t.Errorf("%s at %s: %+v, %v, want version %d", key, at, resp, err, version)
		}
	}
	resp, err := r.do(at, shard.Request{Op: shard.OpPut, Key: []byte("{" + r.key(0) + "}new"), Value: []byte("x")})
	if err != nil || resp.Version <= highest {
		r.t.Errorf("a put at %s: %+v, %v, want a version above %d", at, resp, err, highest)
	}
}

// TestRecoverKeepsData ensures that a shard that is recovered with the data of the replica that is left has all of it, with the versions that it had,
// serves from that one alone, gets its other replicas again, and that former ones are destroyed when they return. Where shards are in memory alone too.
func TestRecoverKeepsData(t *testing.T) {
	for _, memoryOnly := range []bool{false, true} {
		t.Run(fmt.Sprint("memory-only=", memoryOnly), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRecoveryRig(t, func(r *recoveryRig, s *Settings) { r.balanced, s.MemoryOnly = true, memoryOnly })
				defer r.close()
				ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
				defer cancel()
				for _, name := range r.gone {
					r.crash(name)
				}
				<-time.After(2 * softLife)
				keep := Recovery{Shard: r.lost.ID, KeepData: true}
				plan, err := r.services[r.left].RecoverShard(ctx, keep)
				if err != nil || plan.Done || !slices.Equal(plan.Nodes, []string{r.left}) || plan.Kept != r.lost.Members[0].id(r.lost.ID).String() {
					t.Fatalf("%+v, %v, want a plan that keeps what %s has", plan, err, r.left)
				}
				keep.Unsafe, keep.Generation = true, 1
				r.recover(func() string { return r.left }, keep)
				r.served(r.left, 2)
				for name := range r.services {
					r.checkKept(name)
				}
				r.until("there are three replicas again", func() bool {
					sh, _ := r.services[r.left].Table().Shard(r.lost.ID)
					return voters(sh.Members) == 3
				})
				if replicas := r.hosts[r.left].Replicas(); slices.Contains(replicas, r.lost.Members[0].id(r.lost.ID)) {
					t.Errorf("%v: the former one is there still", replicas)
				}
				for _, name := range r.gone {
					r.restart(name)
				}
				r.until("the former replicas are destroyed", func() bool {
					for _, m := range r.lost.Members {
						if slices.Contains(r.hosts[m.Node].Replicas(), m.id(r.lost.ID)) {
							return false
						}
					}
					return true
				})
				r.ready()
				r.crash(r.left) // the others have it too
				r.until("the shard has another leader", func() bool {
					leader, _ := r.services[r.other(r.left)].Leader(r.lost.ID)
					return leader != "" && leader != r.left
				})
				r.checkKept(r.other(r.left))
			})
		})
	}
}

// TestNewestIsKept ensures that of the replicas that run the one is kept which an election would take, by term before index; that nothing is kept of
// one that has nothing, as it is not open yet; and that no other is taken in place of one that may be the newest and does not tell.
func TestNewestIsKept(t *testing.T) {
	type fates map[string]shard.Fate
	for _, row := range []struct {
		name  string
		fates fates  // by node; absent: it can't be told
		want  string // node; "": refused
	}{
		{"the higher index", fates{"a": {LastTerm: 3, Last: 7}, "b": {LastTerm: 3, Last: 9}, "c": {LastTerm: 3, Last: 8}}, "b"},
		{"the higher term", fates{"a": {LastTerm: 4, Last: 7}, "b": {LastTerm: 3, Last: 9}, "c": {LastTerm: 3, Last: 8}}, "a"},
		{"those that have something", fates{"a": {}, "b": {Gone: true}, "c": {LastTerm: 1, Last: 1}}, "c"},
		{"nobody has anything", fates{"a": {}, "b": {}, "c": {Gone: true}}, ""},
		{"one does not tell", fates{"a": {LastTerm: 4, Last: 7}, "b": {LastTerm: 3, Last: 9}}, ""},
		{"nobody tells", nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTestRig(t, 3)
				r.startAll("a", "b", "c")
				r.ready()
				for node, fate := range row.fates {
					id, err := shard.ParseReplicaID(r.replicaOn(node, 2))
					if err != nil {
						t.Fatal(err)
					}
					r.mu.Lock()
					r.fates[id] = fate
					r.mu.Unlock()
				}
				plan, err := r.services["b"].RecoverShard(context.Background(), Recovery{Shard: 2, KeepData: true, Force: true})
				if row.want == "" {
					if !errors.As(err, new(*ConflictError)) {
						t.Errorf("%+v, %v, want a refusal", plan, err)
					}
				} else if err != nil || plan.Kept != r.replicaOn(row.want, 2) || !slices.Equal(plan.Nodes, []string{row.want}) {
					t.Errorf("%+v, %v, want that what %s has is kept", plan, err, row.want)
				}
			})
		})
	}
}

// undeadHost is a host that destroys nothing while undead is set.
type undeadHost struct {
	host
	undead *atomic.Bool
}

func (h undeadHost) Destroy(id shard.ID, r uint64) error {
	if h.undead.Load() {
		return errors.New("not now")
	}
	return h.host.Destroy(id, r)
}

// TestFormerIsNotGranted ensures that a leader of the former generation, which hears of the next one and is not destroyed yet, is not granted what that
// one is: it would number what it still takes as the next one numbers other values, and the state of a replica that is kept would not take the grant again.
func TestFormerIsNotGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var undead atomic.Bool
		r := newRecoveryRig(t, func(r *recoveryRig, _ *Settings) { r.wrap = func(h host) host { return undeadHost{h, &undead} } })
		defer r.close()
		undead.Store(true)
		r.recover(func() string { return r.left }, Recovery{Shard: r.lost.ID, Unsafe: true, Force: true, Generation: 1})
		<-time.After(5 * time.Second)
		for _, m := range r.lost.Members {
			st := r.hosts[m.Node].Cache(r.lost.ID).Status()
			if st.Replica != m.id(r.lost.ID).String() || st.Cache == nil || st.Cache.Generation != 1 {
				t.Errorf("%s: %+v, %+v, want it to be of the first generation still", m.Node, st, st.Cache)
			}
		}
		undead.Store(false)
		r.served(r.left, 2)
	})
}

// TestKeepAgain ensures that a state that was kept can be kept again, with what was written since, also on a node that is drained; and that it then moves off that one.
func TestKeepAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecoveryRig(t, func(r *recoveryRig, _ *Settings) { r.balanced = true })
		defer r.close()
		at := r.services[r.left]
		for _, name := range r.gone {
			r.crash(name)
		}
		<-time.After(2 * softLife)
		if result, err := at.Propose(context.Background(), Command{DrainNode: &DrainNode{ID: r.left, Drain: true}}); err != nil || result.Outcome != OutcomeApplied {
			t.Fatal(result, err)
		}
		for generation := uint64(1); generation <= 2; generation++ {
			r.recover(func() string { return r.left }, Recovery{Shard: r.lost.ID, Unsafe: true, Force: true, Generation: generation, KeepData: true})
			key := "{" + r.key(0) + "}" + fmt.Sprint(generation)
			r.until("it serves", func() bool {
				resp, err := r.do(r.left, shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte("before")})
				r.versions[key] = resp.Version
				sh, _ := at.Table().Shard(r.lost.ID)
				return err == nil && sh.Generation == generation+1
			})
			r.checkKept(r.other(r.left))
		}
		r.until("the replica has left the drained node", func() bool {
			sh, _ := at.Table().Shard(r.lost.ID)
			_, member := sh.Member(r.left)
			return !member
		})
		r.checkKept(r.other(r.left))
	})
}

// TestKeepAcrossCrashes ensures that the node whose replica is kept may die at any moment of it: its shard has all that it had afterwards. Where it is in
// memory alone it is lost then, and begins empty.
func TestKeepAcrossCrashes(t *testing.T) {
	for _, memoryOnly := range []bool{false, true} {
		for step := range 8 {
			t.Run(fmt.Sprint("memory-only=", memoryOnly, " ", step), func(t *testing.T) {
				if testing.Short() && step%3 != 0 {
					t.Skip("short")
				}
				synctest.Test(t, func(t *testing.T) {
					r := newRecoveryRig(t, func(_ *recoveryRig, s *Settings) { s.MemoryOnly = memoryOnly })
					defer r.close()
					for _, name := range r.gone {
						r.crash(name)
					}
					<-time.After(2 * softLife)
					at := r.other(r.left)
					keep := Recovery{Shard: r.lost.ID, KeepData: true, Unsafe: true, Generation: 1}
					r.recover(func() string { return at }, keep)
					<-time.After(time.Duration(step*step) * 500 * time.Microsecond)
					r.crash(r.left)
					r.restart(r.left)
					if !memoryOnly {
						r.served(at, 2)
						r.checkKept(at)
						r.until("the former one is destroyed", func() bool {
							return !slices.Contains(r.hosts[r.left].Replicas(), r.lost.Members[0].id(r.lost.ID))
						})
						return
					}
					r.until("the shard serves", func() bool {
						_, err := r.do(at, shard.Request{Op: shard.OpPut, Key: []byte("{" + r.key(0) + "}probe"), Value: []byte("x")})
						return err == nil
					})
					if sh, _ := r.services[at].Table().Shard(r.lost.ID); sh.Generation == 2 {
						r.checkKept(at) // it had gone to others
					} else {
						r.checkAfter(at)
					}
				})
			})
		}
	}
}
