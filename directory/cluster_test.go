package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

const (
	// pingEvery is the time between two pings of a node.
	pingEvery = 500 * time.Millisecond
	// pollEvery is how often until looks.
	pollEvery = 10 * time.Millisecond
	// rigPatience is how long a rig waits for anything before the test fails.
	rigPatience = time.Minute
	// rigConf is the index of every group's configuration.
	rigConf = 7
)

// testRig runs services on fake hosts in one synctest bubble. Its network and its groups take no
// time. A shard is led by whoever opened it to campaign, until lead says otherwise or the leader
// stops: nobody else is ever elected. The fields below mu may be read without it while no service
// runs a step, as after until and ready.
type testRig struct {
	t          *testing.T
	initial    map[string]string        // Raft addresses of the initial nodes
	identities map[string]*fakeIdentity // outlive a stop, as data folders do
	services   map[string]*Service      // that were prepared and not stopped
	configure  func(*Config)            // changes the configuration of nodes prepared from now on
	balanced   bool                     // nodes prepared from now on balance the leaders

	mu       sync.Mutex                // guards all below, and the fields of hosts
	hosts    map[string]*fakeHost      // that can be reached
	cut      map[[2]string]bool        // pairs of nodes, in either order, without a link
	leaders  map[shard.ID]string       // absent: nobody leads
	terms    map[shard.ID]uint64       // count the elections
	opened   map[shard.ID][]shard.Spec // every opening of a data shard's replica
	caches   map[shard.ID]fsm.Stats    // what all replicas of a data shard hold
	log      [][]byte                  // of the directory
	frozen   bool                      // the directory has no quorum
	confs    map[shard.ID]*shard.Configuration
	disks    map[string]map[shard.ReplicaID]bool // replicas that nodes noted; false: destroyed
	lagging  map[string]bool                     // nodes whose replicas have not caught up
	diverged map[shard.ReplicaID]*shard.Verdict  // replicas that have stopped
	fates    map[shard.ReplicaID]shard.Fate      // what is told of replicas
	steps    []memberStep                        // all that were asked for

	old       map[string]bool // nodes whose builds know feature level 1 alone
	holdSteps bool            // no step is made
	holdStep  stepKind        // no step of this kind is made; "": all are
	changed   int             // proposals that were accepted, in all groups
}

// newTestRig returns a rig of n initial nodes a, b, c, ..., none of which runs.
func newTestRig(t *testing.T, n int) *testRig {
	r := &testRig{
		t:          t,
		initial:    make(map[string]string),
		identities: make(map[string]*fakeIdentity),
		services:   make(map[string]*Service),
		hosts:      make(map[string]*fakeHost),
		cut:        make(map[[2]string]bool),
		leaders:    make(map[shard.ID]string),
		terms:      make(map[shard.ID]uint64),
		opened:     make(map[shard.ID][]shard.Spec),
		caches:     make(map[shard.ID]fsm.Stats),
		confs:      make(map[shard.ID]*shard.Configuration),
		disks:      make(map[string]map[shard.ReplicaID]bool),
		lagging:    make(map[string]bool),
		old:        make(map[string]bool),
		diverged:   make(map[shard.ReplicaID]*shard.Verdict),
		fates:      make(map[shard.ReplicaID]shard.Fate),
	}
	for _, node := range testNodes(n) {
		r.initial[node.ID] = node.Raft
		r.identities[node.ID] = &fakeIdentity{incarnation: node.Incarnation}
	}
	t.Cleanup(func() {
		for _, id := range slices.Sorted(maps.Keys(r.services)) {
			r.stop(id)
		}
	})
	return r
}

// join puts a node on the network and returns its host, which has no replicas yet.
func (r *testRig) join(id string) *fakeHost {
	h := &fakeHost{
		rig:      r,
		id:       id,
		change:   make(chan struct{}, 1),
		stopped:  make(chan struct{}),
		handlers: make(map[string]shard.Handler),
		heard:    make(map[string]time.Time),
		hits:     make(map[shard.ID]uint64),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[id] = h
	return h
}

// prepare makes the service of a node, on a host that pings. The caller starts it.
func (r *testRig) prepare(id string) *Service {
	r.t.Helper()
	nodes := testNodes(int(id[0]-'a') + 1)
	cfg := Config{Identity: r.identities[id], Self: nodes[len(nodes)-1], Initial: r.initial, Settings: smallSettings}
	if r.configure != nil {
		r.configure(&cfg)
	}
	h := r.join(id)
	s, err := newService(cfg, h)
	if err != nil {
		r.t.Fatal(err)
	}
	s.balanceAfter = math.MaxInt64
	if r.balanced {
		s.balanceAfter = balanceAfter
	}
	h.pings.Go(h.ping)
	r.services[id] = s
	return s
}

// startAll prepares nodes and starts their services together.
func (r *testRig) startAll(ids ...string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), rigPatience)
	defer cancel()
	for _, id := range ids {
		r.prepare(id)
	}
	errs := make(chan error)
	for _, id := range ids {
		s := r.services[id]
		go func() {
			err := s.Start(ctx)
			if err != nil {
				err = fmt.Errorf("starting %s: %w", id, err)
			}
			errs <- err
		}()
	}
	var failed error
	for range ids {
		failed = errors.Join(failed, <-errs)
	}
	if failed != nil {
		r.t.Fatal(failed)
	}
}

// stop ends a node. What it led has no leader then.
func (r *testRig) stop(id string) {
	h := r.hosts[id]
	r.mu.Lock()
	delete(r.hosts, id)
	maps.DeleteFunc(r.leaders, func(_ shard.ID, leader string) bool { return leader == id })
	r.mu.Unlock()
	close(h.stopped)
	h.pings.Wait()
	r.services[id].Close()
	delete(r.services, id)
}

// lead makes a node the leader of a shard, in a new term.
func (r *testRig) lead(id shard.ID, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leadLocked(id, node)
}

func (r *testRig) leadLocked(id shard.ID, node string) {
	before := r.leaders[id]
	r.leaders[id] = node
	r.terms[id]++
	for _, concerned := range []string{before, node} {
		if h := r.hosts[concerned]; h != nil {
			select {
			case h.change <- struct{}{}:
			default: // a token is there already
			}
		}
	}
	if id == shard.Directory {
		r.replicateLocked()
	}
}

// replicateLocked brings the directory's log to all replicas that its leader reaches.
func (r *testRig) replicateLocked() {
	leader, leads := r.leaders[shard.Directory]
	if !leads || r.frozen {
		return
	}
	for id, h := range r.hosts {
		if h.machine != nil && r.linkedLocked(leader, id) {
			h.catchUpLocked()
		}
	}
}

// linkedLocked reports whether frames pass between two nodes.
func (r *testRig) linkedLocked(a, b string) bool {
	return r.hosts[a] != nil && r.hosts[b] != nil && !r.cut[[2]string{a, b}] && !r.cut[[2]string{b, a}]
}

// until waits for a condition, named by what, and returns how long that took. Whenever it looks, all
// services have finished what they had to do at that time.
func (r *testRig) until(what string, holds func() bool) time.Duration {
	r.t.Helper()
	began := time.Now()
	for {
		synctest.Wait()
		if holds() {
			return time.Since(began)
		}
		if time.Since(began) > rigPatience {
			r.t.Fatalf("not within %v: %s", rigPatience, what)
		}
		<-time.After(pollEvery)
	}
}

// ready waits until all nodes are ready and returns how long that took.
func (r *testRig) ready() time.Duration {
	r.t.Helper()
	return r.until("all nodes are ready", func() bool {
		for _, s := range r.services {
			if slices.ContainsFunc(s.Ready(), func(c Check) bool { return !c.OK }) {
				return false
			}
		}
		return true
	})
}
