package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// memoryRig is three nodes of a cluster whose shards are in memory alone.
func memoryRig(t *testing.T) (r *realRig, names []string) {
	names = []string{"a", "b", "c"}
	r = newRealRig(t, names...)
	r.configure = func(c *Config) {
		c.Settings = smallSettings
		c.Settings.MemoryOnly = true
	}
	for _, name := range names {
		r.start(name)
	}
	r.form(names...)
	r.ready()
	return r, names
}

// mustDo is do, until the outcome is known.
func (r *realRig) mustDo(node string, req shard.Request) shard.Response {
	r.t.Helper()
	resp, err := r.do(node, req)
	for errors.Is(err, shard.ErrOutcomeUnknown) {
		resp, err = r.do(node, req)
	}
	if err != nil {
		r.t.Fatalf("%v %s through %s: %v", req.Op, req.Key, node, err)
	}
	return resp
}

// TestMemoryOnly ensures, on real Raft groups, that where shards are kept in memory alone a node that starts again gets all its replicas
// anew, by itself and one node after the other, and that nothing acknowledged is lost by it.
func TestMemoryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, names := memoryRig(t)
		defer r.stopAll()
		written := map[string]uint64{}
		for round, name := range names {
			for n := range 20 {
				key := fmt.Sprint("key", round, "-", n)
				written[key] = r.mustDo(name, shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(key)}).Version
			}
			before := r.services[name].Table()
			r.stop(name)
			r.start(name)
			r.form(name)
			if r.renewed(name, before); t.Failed() {
				return
			}
		}
		for key, version := range written {
			for _, name := range names {
				resp, err := r.do(name, shard.Request{Op: shard.OpGet, Key: []byte(key)})
				if err != nil || !resp.Found || resp.Version != version {
					t.Errorf("%s through %s: %+v, %v", key, name, resp, err)
				}
			}
		}
	})
}

// renewed waits until a node has, of each shard, another replica than in a table, and it votes.
func (r *realRig) renewed(name string, before *Table) {
	r.t.Helper()
	for again := true; again && !r.t.Failed(); r.services[name].pause(context.Background()) {
		r.ready()
		after := r.services[name].Table()
		again = false
		for _, sh := range before.Shards {
			was, _ := before.member(sh.ID, name)
			is, member := after.member(sh.ID, name)
			again = again || !member || is.R == was.R || is.Role != RoleVoter
		}
	}
}

func (r *realRig) stopAll() {
	for name := range r.services {
		r.stop(name)
	}
}

// TestReset ensures that shards in memory alone begin empty, by themselves, once a majority of their nodes has started again, that
// nothing of before comes back, no version either, and that the cluster is whole then.
func TestReset(t *testing.T) {
	for _, ends := range [][]string{{"a", "b", "c"}, {"b", "c"}} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, names := memoryRig(t)
				defer r.stopAll()
				keys, newest := map[string]bool{}, uint64(0)
				for n := range 20 {
					key := fmt.Sprint("key", n)
					keys[key] = true
					newest = max(newest, r.mustDo("a", shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(key)}).Version)
				}
				for _, name := range ends {
					r.stop(name)
				}
				for n, name := range ends {
					time.Sleep(time.Duration(n*n) * time.Second) // the last one is waited for
					r.start(name)
					r.form(name)
				}
				r.ready()
				for key := range keys {
					for _, name := range names {
						if resp := r.mustDo(name, shard.Request{Op: shard.OpGet, Key: []byte(key)}); resp.Found {
							t.Errorf("%s is there again through %s: %+v", key, name, resp)
						}
					}
					if v := r.mustDo("a", shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte("new")}).Version; v <= newest {
						t.Errorf("%s has version %d now, there was %d before", key, v, newest)
					}
				}
				for _, sh := range r.services["a"].Table().Shards {
					if sh.Generation != 2 || len(sh.Members) != 3 || len(sh.Bootstrap) != 3 {
						t.Errorf("shard %d: generation %d, members %v", sh.ID, sh.Generation, sh.Members)
					}
				}
			})
		})
	}
}

// TestResetByAnOldTable ensures that a shard is not reset on what became of the replicas of an old table, all of which were replaced meanwhile: a
// leader of the directory may have stood still between its look and its proposal, which another leader takes.
func TestResetByAnOldTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, names := memoryRig(t)
		defer r.stopAll()
		old := r.services["a"].Table()
		version := r.mustDo("a", shard.Request{Op: shard.OpPut, Key: []byte("k"), Value: []byte("v")}).Version
		for _, name := range names {
			r.stop(name)
			r.start(name)
			r.form(name)
			r.renewed(name, old)
		}
		for _, sh := range old.Shards {
			if err := r.services["a"].resetShard(context.Background(), old, sh); err == nil {
				t.Errorf("shard %d: a reset by an old table is not refused", sh.ID)
			}
		}
		for _, sh := range r.services["a"].Table().Shards {
			if sh.Generation != 1 {
				t.Errorf("shard %d was reset", sh.ID)
			}
		}
		if resp := r.mustDo("c", shard.Request{Op: shard.OpGet, Key: []byte("k")}); !resp.Found || resp.Version != version {
			t.Errorf("%+v, want version %d", resp, version)
		}
	})
}

// TestNoReset ensures that a shard is not reset while a majority of its replicas may come back: one is lost, another is on a node that nobody
// hears.
func TestNoReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := memoryRig(t)
		defer r.stopAll()
		version := r.mustDo("a", shard.Request{Op: shard.OpPut, Key: []byte("k"), Value: []byte("v")}).Version
		r.net.Isolate("b", "a", "c")
		r.stop("c")
		r.start("c")
		r.form("c")
		time.Sleep(2 * time.Minute)
		for _, sh := range r.services["a"].Table().Shards {
			if sh.Generation != 1 {
				t.Errorf("shard %d was reset", sh.ID)
			}
		}
		r.net.Heal()
		r.ready()
		if resp := r.mustDo("c", shard.Request{Op: shard.OpGet, Key: []byte("k")}); !resp.Found || resp.Version != version {
			t.Errorf("%+v, want version %d", resp, version)
		}
	})
}

// TestResetThoughOneIsAway ensures that a shard is reset where a majority of its replicas is gone, though another is on a node that nobody hears and
// may have all that it had; and that nothing of that comes back when the node does.
func TestResetThoughOneIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := memoryRig(t)
		defer r.stopAll()
		version := r.mustDo("a", shard.Request{Op: shard.OpPut, Key: []byte("k"), Value: []byte("v")}).Version
		r.net.Isolate("a", "b", "c")
		r.stop("b")
		r.stop("c")
		r.start("b")
		r.start("c")
		r.form("b", "c")
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			table := r.services["b"].Table()
			if len(table.Shards) > 0 && !slices.ContainsFunc(table.Shards, func(sh Shard) bool { return sh.Generation != 2 }) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("not reset: %+v", table.Shards)
			}
		}
		for _, key := range []string{"k", "other"} {
			if resp := r.mustDo("c", shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte("new")}); resp.Version <= version {
				t.Errorf("version %d of %s after %d", resp.Version, key, version)
			}
		}
		r.net.Heal()
		r.ready()
		for _, name := range []string{"a", "b", "c"} {
			if resp := r.mustDo(name, shard.Request{Op: shard.OpGet, Key: []byte("k")}); string(resp.Value) != "new" {
				t.Errorf("through %s: %+v", name, resp)
			}
		}
	})
}

// TestOutlived ensures that a shard counts as gone by the table only where a majority is of each configuration that its group can have.
func TestOutlived(t *testing.T) {
	id := func(node string, r uint64) shard.ReplicaID { return shard.ReplicaID{Shard: 1, Node: node, R: r} }
	for _, tc := range []struct {
		name    string
		members string // voters, and behind a comma learners
		o       *Operation
		gone    []shard.ReplicaID
		want    bool
	}{
		{"none of three", "abc", nil, nil, false},
		{"one of three", "abc", nil, []shard.ReplicaID{id("a", 1)}, false},
		{"two of three", "abc", nil, []shard.ReplicaID{id("a", 1), id("b", 1)}, true},
		{"two former ones of three", "abc", nil, []shard.ReplicaID{id("a", 0), id("b", 0)}, false},
		{"one of two", "ab", nil, []shard.ReplicaID{id("a", 1)}, true},
		{"two of four", "abcd", nil, []shard.ReplicaID{id("a", 1), id("b", 1)}, true},
		{"two of five", "abcde", nil, []shard.ReplicaID{id("a", 1), id("b", 1)}, false},
		{"two of three and a learner that nobody makes a voter", "abc,d", nil, []shard.ReplicaID{id("a", 1), id("b", 1)}, true},
		{"the only one, beside learners that nobody makes voters", "a,bc", nil, []shard.ReplicaID{id("a", 1)}, true},
		{"two of three, and a fourth that may vote", "abc,d", &Operation{Kind: AddMember, Shard: 1, Node: "d", R: 1}, []shard.ReplicaID{id("a", 1), id("b", 1)}, true},
		{"one of two, and a third that may vote", "ab,c", &Operation{Kind: AddMember, Shard: 1, Node: "c", R: 1}, []shard.ReplicaID{id("a", 1)}, false},
		{"one of three, which leaves", "abc", &Operation{Kind: RebuildMember, Shard: 1, Node: "a", R: 1}, []shard.ReplicaID{id("a", 1)}, false},
		{"two of three, one of which leaves", "abc", &Operation{Kind: RebuildMember, Shard: 1, Node: "a", R: 1}, []shard.ReplicaID{id("a", 1), id("b", 1)}, true},
		{"two of three, and the third leaves", "abc", &Operation{Kind: RemoveMember, Shard: 1, Node: "c", R: 1}, []shard.ReplicaID{id("a", 1), id("b", 1)}, true},
		{"one of three, and another leaves", "abc", &Operation{Kind: RemoveMember, Shard: 1, Node: "c", R: 1}, []shard.ReplicaID{id("a", 1)}, false},
		{"one of two, and the other leaves", "ab", &Operation{Kind: RemoveMember, Shard: 1, Node: "b", R: 1}, []shard.ReplicaID{id("b", 1)}, false},
	} {
		sh, role := Shard{ID: 1}, RoleVoter
		for _, node := range tc.members {
			if node == ',' {
				role = RoleLearner
				continue
			}
			sh.Members = append(sh.Members, Member{Node: string(node), R: 1, Role: role})
		}
		table := &Table{Shards: []Shard{sh}}
		if tc.o != nil {
			tc.o.State = OperationRunning
			table.Operations = []Operation{*tc.o}
		}
		gone := map[shard.ReplicaID]bool{}
		for _, g := range tc.gone {
			gone[g] = true
		}
		if got := table.outlived(sh, gone); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// TestResetInRebuild ensures that a shard comes back, with what it had or empty, where another of its replicas is lost while one is being made
// anew, whatever that is at.
func TestResetInRebuild(t *testing.T) {
	for _, phase := range []Phase{PhaseRemoving, PhaseAdding, PhaseCatchingUp, PhasePromoting} {
		t.Run(string(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, names := memoryRig(t)
				defer r.stopAll()
				r.mustDo("a", shard.Request{Op: shard.OpPut, Key: []byte("k"), Value: []byte("v")})
				for _, from := range names { // a phase lasts as long as its commit takes at least
					for _, to := range names {
						r.net.SetFaults(from, to, shard.LinkFaults{Delay: 2 * time.Millisecond})
					}
				}
				r.stop("c")
				r.start("c")
				formed := make(chan error, 1)
				go func(c *Service) { formed <- c.Start(context.Background()) }(r.services["c"])
				at := func(name string) bool {
					return slices.ContainsFunc(r.services[name].Table().Operations, func(o Operation) bool { return o.Phase == phase })
				}
				for end := time.Now().Add(time.Minute); !at("a") && !at("b"); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("no operation is %s", phase)
					}
				}
				r.stop("b")
				time.Sleep(time.Second)
				r.start("b")
				r.form("b")
				if err := <-formed; err != nil {
					t.Error(err)
				}
				r.ready()
				if resp := r.mustDo("b", shard.Request{Op: shard.OpGet, Key: []byte("k")}); resp.Found && string(resp.Value) != "v" {
					t.Errorf("%+v", resp)
				}
				for n := range 20 {
					r.mustDo("c", shard.Request{Op: shard.OpPut, Key: fmt.Append(nil, "key", n), Value: []byte("new")})
				}
			})
		})
	}
}

// TestAllFates ensures that replicas are asked again where another is gone that was there when they were asked before: it led until then, and has
// given them a configuration by which they can lead.
func TestAllFates(t *testing.T) {
	id := func(node string) shard.ReplicaID { return shard.ReplicaID{Shard: 1, Node: node, R: 1} }
	var asked []string
	fates, err := allFates([]shard.ReplicaID{id("a"), id("b"), id("c")}, func(of shard.ReplicaID) (shard.Fate, error) {
		asked = append(asked, of.Node)
		switch {
		case of.Node == "b", of.Node == "c": // c has led until it was asked, and has put d in the place of b
			return shard.Fate{Gone: true}, nil
		case of.Node == "a" && !slices.Contains(asked, "c"):
			return shard.Fate{Voters: []shard.ReplicaID{id("a"), id("b"), id("c")}}, nil
		}
		return shard.Fate{Voters: []shard.ReplicaID{id("a"), id("c"), id("d")}}, nil
	})
	if err != nil || !mayLead(fates) {
		t.Errorf("asked %v: a and d can't lead by %v, %v", asked, fates, err)
	}
	if n := len(slices.DeleteFunc(asked, func(node string) bool { return node == "a" || node == "d" })); n != 2 {
		t.Errorf("replicas that are gone were asked %d times, not each once", n)
	}
}

// TestMayLead ensures that a shard counts as gone only where nobody leads it and none of the replicas that are left could win by the
// configuration that it has.
func TestMayLead(t *testing.T) {
	voters := func(nodes string) (ids []shard.ReplicaID) {
		for _, n := range nodes {
			ids = append(ids, shard.ReplicaID{Shard: 1, Node: string(n), R: 1})
		}
		return ids
	}
	for _, tc := range []struct {
		name   string
		gone   string
		leads  string
		others map[string]string // configurations of those that are left
		want   bool
	}{
		{"all there", "", "", map[string]string{"a": "abc", "b": "abc", "c": "abc"}, true},
		{"one of three gone", "a", "", map[string]string{"b": "abc", "c": "abc"}, true},
		{"two of three gone", "ab", "", map[string]string{"c": "abc"}, false},
		{"two of three gone, and one leads still", "ab", "c", map[string]string{"c": "abc"}, true},
		{"all gone", "abc", "", nil, false},
		{"one of two gone", "b", "", map[string]string{"c": "bc"}, false},
		{"one of two gone, the third is a learner", "b", "", map[string]string{"c": "bc", "a": "bc"}, false},
		{"one of two gone, the third has come to vote", "b", "", map[string]string{"c": "bc", "a": "abc"}, true},
		{"one of two gone, the third knows nothing yet", "b", "", map[string]string{"c": "bc", "a": ""}, false},
		{"one of two gone, and it was removed", "b", "", map[string]string{"c": "c"}, true},
		{"two of four gone", "ab", "", map[string]string{"c": "abcd", "d": "abcd"}, false},
		{"two of four gone, of which one was removed", "ab", "", map[string]string{"c": "abcd", "d": "acd"}, true},
	} {
		fates := map[shard.ReplicaID]shard.Fate{}
		for _, id := range voters(tc.gone) {
			fates[id] = shard.Fate{Gone: true}
		}
		for n, conf := range tc.others {
			fates[voters(n)[0]] = shard.Fate{Leads: n == tc.leads, Voters: voters(conf)}
		}
		if got := mayLead(fates); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
