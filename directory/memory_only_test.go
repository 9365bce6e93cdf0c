package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
			for again := true; again; { // of each shard there is another replica now, that votes
				r.ready()
				after := r.services[name].Table()
				again = false
				for _, sh := range before.Shards {
					was, _ := before.member(sh.ID, name)
					is, member := after.member(sh.ID, name)
					again = again || !member || is.R == was.R || is.Role != RoleVoter
				}
				if r.services[name].pause(context.Background()); t.Failed() {
					return
				}
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

// TestMayRecur ensures that a shard counts as gone only where no configuration that it may have has a quorum left.
func TestMayRecur(t *testing.T) {
	member := func(node string, role Role) Member { return Member{Node: node, R: 1, Role: role} }
	three := []Member{member("a", RoleVoter), member("b", RoleVoter), member("c", RoleVoter)}
	with := func(o Operation) []Operation {
		o.ID, o.Shard, o.State = 1, 1, OperationRunning
		return []Operation{o}
	}
	for _, tc := range []struct {
		name    string
		members []Member
		runs    []Operation
		gone    string
		want    bool
	}{
		{"all there", three, nil, "", true},
		{"one of three gone", three, nil, "a", true},
		{"two of three gone", three, nil, "ab", false},
		{"two of three gone, one may be no voter any more", three, with(Operation{Kind: RemoveMember, Node: "b", R: 1}), "ab", false},
		{"two of four gone", append([]Member{member("d", RoleVoter)}, three...), nil, "ab", false},
		{"two of four gone, one of which may be no voter any more", append([]Member{member("d", RoleVoter)}, three...),
			with(Operation{Kind: RemoveMember, Node: "b", R: 1}), "ab", true},
		{"one of two gone", three[:2], nil, "a", false},
		{"one of two gone, and it may be no voter any more", three[:2], with(Operation{Kind: RemoveMember, Node: "a", R: 1}), "a", true},
		{"a learner is no voter", append([]Member{member("d", RoleLearner)}, three[:2]...), nil, "a", false},
		{"a learner may be one", append([]Member{member("d", RoleLearner)}, three[:2]...), with(Operation{Kind: AddMember, Node: "d", R: 1}), "a", true},
		{"two of three gone, the third is replaced", append([]Member{member("d", RoleLearner)}, three...),
			with(Operation{Kind: ReplaceMember, Node: "d", R: 1, From: "c", FromR: 1}), "ab", false},
		{"two of three gone, one is replaced", append([]Member{member("d", RoleLearner)}, three...),
			with(Operation{Kind: ReplaceMember, Node: "d", R: 1, From: "a", FromR: 1}), "ab", true},
		{"both of what is replaced", append([]Member{member("d", RoleLearner)}, three...),
			with(Operation{Kind: ReplaceMember, Node: "d", R: 1, From: "c", FromR: 1}), "abd", false},
	} {
		table := &Table{Shards: []Shard{{ID: 1, Members: tc.members}}, Operations: tc.runs}
		if got := table.mayRecur(1, func(id shard.ReplicaID) bool { return strings.Contains(tc.gone, id.Node) }); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
