package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// lineageRig is a realRig whose nodes come, go and crash while members change, and what it saw.
type lineageRig struct {
	*realRig
	random *rand.Rand
	dir    string   // of the kept tables
	all    []string // nodes, founders and others
	down   map[string]bool
	cut    bool // a node is cut off

	confs    map[shard.ID]map[uint64]string // committed configurations that a leader told, by index
	alive    map[shard.ReplicaID]bool       // replicas that were seen; false: gone since
	versions map[string]uint64              // acknowledged, by key
}

// newLineageRig returns a rig of three founders and of nodes that join, all of them ready.
func newLineageRig(t *testing.T, seed uint64, joiners ...string) *lineageRig {
	r := &lineageRig{realRig: newRealRig(t, "a", "b", "c"), random: rand.New(rand.NewPCG(seed, 1)), down: map[string]bool{},
		confs: map[shard.ID]map[uint64]string{}, alive: map[shard.ReplicaID]bool{}, versions: map[string]uint64{}}
	r.dir = t.TempDir()
	r.configure = func(c *Config) {
		c.TableFile = filepath.Join(r.dir, c.Self.Raft[:1])
	}
	founders := []string{"a", "b", "c"}
	for _, name := range founders {
		r.start(name)
	}
	r.form(founders...)
	r.ready()
	r.join(joiners...)
	return r
}

// join has new nodes join and waits until all are ready.
func (r *lineageRig) join(names ...string) {
	for _, name := range names {
		r.memory[name] = shard.NewMemory(name)
		r.startAs(name, true)
		r.form(name)
	}
	r.all = slices.Sorted(maps.Keys(r.memory))
	r.ready()
}

// crash ends a node as kill -9 does.
func (r *lineageRig) crash(name string) {
	r.net.Kill(name)
	synctest.Wait()
	r.stop(name)
	r.net.Revive(name)
	r.down[name] = true
}

func (r *lineageRig) restart(name string) {
	delete(r.down, name)
	r.startAs(name, name > "c")
	r.form(name)
}

// heal lets all nodes reach each other, each pair with a delay of its own.
func (r *lineageRig) heal() {
	r.net.Heal()
	r.cut = false
	for _, from := range r.all {
		for _, to := range r.all {
			if from != to {
				r.net.SetFaults(from, to, shard.LinkFaults{Delay: time.Duration(r.random.IntN(40)) * time.Millisecond})
			}
		}
	}
}

// replace has a node that is down leave the cluster, and join again with an empty data folder. Where it
// can't leave, it stays down, and may come back as it was.
func (r *lineageRig) replace(name string) string {
	for range 40 {
		at := r.some()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		for _, id := range at.Table().hosted(name) {
			_, _ = at.ChangeMember(ctx, MemberChange{Shard: id, Node: name}) // seen by the next look
		}
		err := at.RemoveNode(ctx, name)
		cancel()
		if err == nil {
			r.memory[name] = shard.NewMemory(name)
			if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
				r.t.Error(err)
			}
			delete(r.down, name)
			r.startAs(name, true)
			r.form(name)
			return "replaced " + name
		}
		<-time.After(500 * time.Millisecond)
	}
	return "can't replace " + name
}

// some returns one of the nodes that run.
func (r *lineageRig) some() *Service {
	names := slices.Sorted(maps.Keys(r.services))
	return r.services[names[r.random.IntN(len(names))]]
}

// act does something at random.
func (r *lineageRig) act() string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	at := r.some()
	id := shard.ID(r.random.IntN(3)) // the directory and two more, so that changes meet
	node := r.all[r.random.IntN(len(r.all))]
	switch n := r.random.IntN(20); {
	case n < 6:
		o, err := at.ChangeMember(ctx, MemberChange{Shard: id, Node: node, Add: true})
		return fmt.Sprintf("add %s to %d: %d, %v", node, id, o.ID, err)
	case n < 11:
		o, err := at.ChangeMember(ctx, MemberChange{Shard: id, Node: node})
		return fmt.Sprintf("remove %s from %d: %d, %v", node, id, o.ID, err)
	case n < 13:
		for _, o := range at.Operations() {
			if o.State == string(OperationRunning) {
				_, err := at.CancelOperation(ctx, o.ID)
				return fmt.Sprintf("cancel %d: %v", o.ID, err)
			}
		}
		return "nothing to cancel"
	case n < 14:
		return fmt.Sprintf("transfer %d to %s: %v", id, node, at.TransferLeader(ctx, id, node))
	case n < 17:
		switch {
		case n == 15 && r.down[node] && !r.cut:
			return r.replace(node)
		case r.down[node], len(r.down) > 1:
			node = slices.Sorted(maps.Keys(r.down))[0]
			r.restart(node)
			return "restart " + node
		case n == 14 && !r.cut:
			r.cut = true
			r.net.Isolate(node, slices.DeleteFunc(slices.Clone(r.all), func(n string) bool { return n == node })...)
			return "isolate " + node
		case r.cut:
			r.heal()
			return "heal"
		}
		r.crash(node)
		return "crash " + node
	default:
		key := fmt.Sprint("key", r.random.IntN(20))
		resp, err := r.do(at.host.Node(), shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(key)})
		if err == nil {
			r.versions[key] = max(r.versions[key], resp.Version)
		} else if errors.Is(err, shard.ErrOutcomeUnknown) {
			err = errors.New("unknown")
		}
		return fmt.Sprintf("put %s: %v", key, err)
	}
}

// look records what can be seen now, and compares it with what was seen before.
func (r *lineageRig) look() {
	r.t.Helper()
	for name, h := range r.hosts {
		here := h.Replicas()
		for _, id := range here {
			if alive, seen := r.alive[id]; seen && !alive {
				r.t.Errorf("%s is here again", id)
			}
			r.alive[id] = true
			g := h.Group(id.Shard)
			if g == nil {
				continue
			}
			conf, err := g.Configuration()
			if err != nil {
				continue
			}
			text := membersText(conf)
			known := r.confs[id.Shard]
			if known == nil {
				known = map[uint64]string{}
				r.confs[id.Shard] = known
			}
			if before, seen := known[conf.Index]; seen && before != text {
				r.t.Errorf("configuration %d of shard %d is %s and %s", conf.Index, id.Shard, before, text)
			}
			known[conf.Index] = text
		}
		for id, alive := range r.alive {
			if alive && id.Node == name && !slices.Contains(here, id) {
				r.alive[id] = false
			}
		}
	}
}

func membersText(conf shard.Configuration) string {
	var all []string
	for _, p := range conf.Voters {
		all = append(all, p.Replica.String()+" voter")
	}
	for _, p := range conf.Learners {
		all = append(all, p.Replica.String()+" learner")
	}
	slices.Sort(all)
	return fmt.Sprint(all)
}

// settled waits until no operation runs, and checks that table, configurations and hosts agree then.
func (r *lineageRig) settled() {
	r.t.Helper()
	wrong := ""
	for began := time.Now(); time.Since(began) < time.Minute; <-time.After(100 * time.Millisecond) {
		r.look()
		if wrong = r.disagreement(); wrong == "" {
			return
		}
	}
	r.t.Errorf("a minute after all nodes came back: %s", wrong)
}

func (r *lineageRig) disagreement() string {
	newest := &Table{}
	for _, s := range r.services {
		if t := s.Table(); t.Version > newest.Version {
			newest = t
		}
	}
	for _, o := range newest.Operations {
		if o.State == OperationRunning {
			return fmt.Sprintf("operation runs: %+v", o)
		}
	}
	hosted := map[shard.ReplicaID]bool{}
	for _, id := range []shard.ID{0, 1, 2, 3, 4} {
		members, _ := newest.Members(id)
		var text []string
		for _, m := range members {
			text = append(text, m.id(id).String()+" "+string(m.Role))
			hosted[m.id(id)] = true
		}
		slices.Sort(text)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conf, _, _, err := r.services["a"].ask(ctx, id)
		cancel()
		if err != nil {
			return fmt.Sprintf("shard %d: %v", id, err)
		}
		if table, group := fmt.Sprint(text), membersText(conf); table != group {
			return fmt.Sprintf("members of shard %d: %s in the table, %s in the group", id, table, group)
		}
	}
	for name, h := range r.hosts {
		if v := r.services[name].Table().Version; v != newest.Version {
			return fmt.Sprintf("%s has table version %d, not %d", name, v, newest.Version)
		}
		for _, id := range h.Replicas() {
			if !hosted[id] {
				return fmt.Sprintf("%s was not destroyed", id)
			}
			delete(hosted, id)
		}
	}
	for id := range hosted {
		return fmt.Sprintf("%s is not there", id)
	}
	return ""
}

// TestLineage ensures that whatever is asked, cancelled, replaced and crashes, each shard's configurations are
// one line; every operation ends once all nodes are up; the table then lists the members of the
// committed configurations and the nodes host exactly these; no replica that was destroyed comes back;
// and no acknowledged write is lost.
func TestLineage(t *testing.T) {
	seeds := 5
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newLineageRig(t, uint64(seed), "d", "e", "f")
				r.heal()
				defer func() {
					for name := range r.services {
						r.stop(name)
					}
				}()
				for range 60 {
					did := r.act()
					t.Log(did)
					<-time.After(time.Duration(r.random.IntN(r.random.IntN(1500)+1)) * time.Millisecond)
					r.look()
				}
				r.heal()
				for name := range r.down {
					r.restart(name)
				}
				r.settled()
				for _, name := range r.all {
					r.crash(name)
				}
				for _, name := range r.all {
					r.restart(name)
				}
				r.settled()
				r.ready()
				for key, version := range r.versions {
					resp, err := r.do("a", shard.Request{Op: shard.OpGet, Key: []byte(key)})
					if err != nil || !resp.Found || resp.Version < version {
						t.Errorf("%s: %+v, %v, want version %d or later", key, resp, err, version)
					}
				}
			})
		})
	}
}

// TestStaleTable ensures that a node whose kept table and flags name nobody who is still there finds the
// cluster again, by the pings of those who know it.
func TestStaleTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLineageRig(t, 1, "f")
		defer func() {
			for name := range r.services {
				r.stop(name)
			}
		}()
		r.crash("f")
		r.join("d", "e")
		for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
			for _, c := range []MemberChange{{Node: "d", Add: true}, {Node: "e", Add: true}, {Node: "a"}, {Node: "b"}, {Node: "c"}} {
				c.Shard = id
				if o := r.change(c, nil); o.State != string(OperationDone) {
					t.Fatalf("%+v", o)
				}
			}
		}
		for _, name := range []string{"a", "b", "c"} {
			r.crash(name)
			for began := time.Now(); ; <-time.After(100 * time.Millisecond) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				err := r.services["d"].RemoveNode(ctx, name)
				cancel()
				if err == nil {
					break
				}
				if time.Since(began) > time.Minute {
					t.Fatal(err)
				}
			}
		}
		r.restart("f")
		want := r.services["d"].Table().Version
		if had := r.services["f"].Table(); !had.Founded() || had.Version >= want {
			t.Fatalf("f begins with version %d", had.Version)
		}
		for began := time.Now(); r.services["f"].Table().Version < want; <-time.After(100 * time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatalf("f knows version %d after a minute, want %d", r.services["f"].Table().Version, want)
			}
		}
		r.ready()
	})
}
