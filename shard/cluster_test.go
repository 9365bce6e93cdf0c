package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// cluster is a set of nodes on a memory network, inside a synctest bubble. Without more said it
// hosts one data shard (id 1) with a replica on each node, that owns all slots.
type cluster struct {
	t        testing.TB
	net      *MemoryNetwork
	names    []string
	voters   int // the first so many host a voter of the shard, the others hold a replica in reserve
	memory   map[string]*Memory
	r        map[string]uint64 // of each node's replica, where it is not the first
	cluster  string
	tune     func(node string, c *Config)
	wrong    bool // the test made replicas differ
	shards   int  // of the cluster, as its nodes are told
	low      bool // the shard stays at feature level 1
	volatile bool // replicas are kept in memory alone
	owned    fsm.Range
	limit    uint64        // of the shard, bytes
	look     time.Duration // how often until looks

	// The test's own goroutine alone changes what follows, and may read it without mu.
	mu     sync.Mutex
	hosts  map[string]*Host
	fatals map[string]error
	lost   int // entries that crashes took, as they were not synced
}

const testShard ID = 1

// inBubble runs a test on a cluster of n nodes in virtual time.
func inBubble(t *testing.T, n int, tune func(string, *Config), f func(c *cluster)) {
	t.Helper()
	inBubbleWithSpares(t, n, 0, tune, f)
}

// inBubbleWithSpares runs a test on n nodes, the last of which are no members at first (see addLearner).
func inBubbleWithSpares(t *testing.T, n, spares int, tune func(string, *Config), f func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, n, tune)
		c.voters = n - spares
		defer c.close()
		c.startAll()
		f(c)
	})
}

// inBubbleAtLevel1 is inBubble for a shard that no command has raised.
func inBubbleAtLevel1(t *testing.T, n int, tune func(string, *Config), f func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, n, tune)
		c.low = true
		defer c.close()
		c.startAll()
		f(c)
	})
}

func newCluster(t testing.TB, n int, tune func(string, *Config)) *cluster {
	c := &cluster{t: t, voters: n, net: NewMemoryNetwork(1), memory: map[string]*Memory{}, r: map[string]uint64{}, hosts: map[string]*Host{}, tune: tune, fatals: map[string]error{},
		owned: fsm.Range{Start: 0, End: fsm.Slots}, limit: 64 << 20, look: time.Millisecond}
	var founders []Founder
	for i := range n {
		name := string(rune('a' + i))
		c.names = append(c.names, name)
		c.memory[name] = NewMemory(name)
		founders = append(founders, Founder{name, c.memory[name].Identity().Incarnation})
	}
	c.cluster = ClusterID(founders)
	for _, m := range c.memory {
		if err := m.Form(c.cluster, founders); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func addrOf(node string) string { return node + ":1" }

func (c *cluster) members() []Member {
	var ms []Member
	for _, n := range c.names[:c.voters] {
		ms = append(ms, Member{n, 1})
	}
	return ms
}

// addLearner makes the replica on a spare node a learner and waits until it has caught up.
func (c *cluster) addLearner(leader *Host, node string) {
	c.t.Helper()
	id := ReplicaID{testShard, node, 1}.String()
	if err := raftOf(leader).AddNonvoter(raft.ServerID(id), raft.ServerAddress(id), 0, 0).Error(); err != nil {
		c.t.Fatalf("adding learner %s: %v", node, err)
	}
	c.until("learner caught up", func() bool {
		return c.hosts[node].Group(testShard).Status().Applied >= leader.Group(testShard).Status().Applied
	})
}

// raftOf is the Raft instance of the shard's replica on a node.
func raftOf(h *Host) *raft.Raft { return h.Group(testShard).instance().raft }

func (c *cluster) startAll() {
	for _, n := range c.names {
		c.start(n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	leader := c.leader()
	err := leader.Cache(testShard).Grant(ctx, fsm.Grant{Range: c.owned, Epoch: 1, Generation: 1,
		VersionBits: 1, Limit: c.limit, TableVersion: 1})
	if err != nil {
		c.t.Fatalf("grant: %v", err)
	}
	if !c.low {
		c.raise()
	}
}

func (c *cluster) start(name string) *Host {
	c.t.Helper()
	h := c.launch(name)
	c.open(h)
	c.add(h)
	return h
}

// startEmpty starts a node and opens nothing on it.
func (c *cluster) startEmpty(name string) *Host {
	c.t.Helper()
	h := c.launch(name)
	c.add(h)
	return h
}

func (c *cluster) add(h *Host) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hosts[h.Node()] = h
}

// launch starts a host.
func (c *cluster) launch(name string) *Host {
	c.t.Helper()
	cfg := Config{Node: name, Memory: c.memory[name], Network: c.net.From(name), Addr: addrOf(name),
		CheckInterval: 500 * time.Millisecond, // in all tests: nothing that they do may pass for a difference of states
		Fatal: func(err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.fatals[name] = err
		}}
	if os.Getenv("LARDER_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if c.tune != nil {
		c.tune(name, &cfg)
	}
	h, err := NewHost(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	h.SetShards(c.shards)
	if err := h.Start(); err != nil {
		c.t.Fatal(err)
	}
	peers := map[string]Peer{}
	for _, n := range c.names {
		peers[n] = Peer{Addr: addrOf(n), Incarnation: c.memory[n].Identity().Incarnation}
	}
	h.SetPeers(peers)
	return h
}

// replicaOn is the id of a node's replica.
func (c *cluster) replicaOn(name string) ReplicaID {
	return ReplicaID{testShard, name, max(c.r[name], 1)}
}

// open opens a node's replica.
func (c *cluster) open(h *Host) {
	c.t.Helper()
	id := c.replicaOn(h.Node())
	members := c.members()
	if !slices.Contains(members, Member{id.Node, id.R}) {
		members = nil // it joins
	}
	if err := h.OpenCache(Spec{Shard: testShard, R: id.R, Members: members, Volatile: c.volatile, Campaign: id.Node == "a"}); err != nil {
		c.t.Fatal(err)
	}
}

// renew destroys a node's replica and opens another, which is no member yet.
func (c *cluster) renew(name string) {
	c.t.Helper()
	id := c.replicaOn(name)
	if err := c.hosts[name].Destroy(testShard, id.R); err != nil {
		c.t.Fatal(err)
	}
	c.r[name] = id.R + 1
	c.open(c.hosts[name])
}

// host returns the host of a node, nil while it is down. Any goroutine may ask.
func (c *cluster) host(name string) *Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts[name]
}

// fatal returns what a node reported as its end, nil when it did not.
func (c *cluster) fatal(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fatals[name]
}

// crash stops a node as kill -9 does: what it had not made durable at this moment is gone. Nothing that
// the doomed process does after the copy of its disk reaches anybody.
func (c *cluster) crash(name string) {
	c.t.Helper()
	c.mu.Lock()
	h := c.hosts[name]
	delete(c.hosts, name)
	c.mu.Unlock()
	c.net.Kill(name)
	synctest.Wait()
	for _, r := range c.memory[name].stores {
		if r.store != nil {
			c.lost += len(r.store.memory.ahead)
		}
	}
	c.memory[name] = c.memory[name].Crash()
	if err := h.Close(); err != nil {
		c.t.Errorf("closing %s: %v", name, err)
	}
	c.net.Revive(name)
}

func (c *cluster) close() {
	for n, h := range c.hosts {
		if g := h.Group(testShard); g != nil && !c.wrong && g.serves() != nil {
			c.t.Errorf("false alarm: the replica on %s: %v", n, g.serves())
		}
		if err := h.Close(); err != nil {
			c.t.Errorf("closing %s: %v", n, err)
		}
	}
}

// others are the names of all nodes but one.
func (c *cluster) others(but string) []string {
	var out []string
	for _, n := range c.names {
		if n != but {
			out = append(out, n)
		}
	}
	return out
}

// until waits, in virtual time, until f holds.
func (c *cluster) until(what string, f func() bool) {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(c.look) {
		if f() {
			return
		}
	}
	var states strings.Builder
	for n, h := range c.hosts {
		if g := h.Group(testShard); g != nil {
			fmt.Fprintf(&states, "\n%s: %+v", n, g.Status())
		}
	}
	c.t.Fatalf("not within a virtual minute: %s%s", what, &states)
}

// lead makes the replica on a node the leader and waits until it is ready.
func (c *cluster) lead(node string) *Host {
	c.t.Helper()
	c.until(node+" leads", func() bool {
		l := c.leader()
		if l.Node() == node {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.Group(testShard).TransferLeadership(ctx, node) // seen by the next look
		return false
	})
	return c.hosts[node]
}

// leader waits for a ready leader among the given nodes (all running ones when none are given).
func (c *cluster) leader(among ...string) *Host {
	c.t.Helper()
	if len(among) == 0 {
		among = c.names
	}
	var found *Host
	c.until("a ready leader", func() bool {
		for _, n := range among {
			if h := c.hosts[n]; h != nil {
				if s := h.Group(testShard).Status(); s.Ready {
					found = h
					return true
				}
			}
		}
		return false
	})
	return found
}

func put(h *Host, key, value string) (Response, error) {
	return do(h, Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte(value)})
}

func get(h *Host, key string) (Response, error) {
	return do(h, Request{Shard: testShard, Op: OpGet, Key: []byte(key)})
}

func do(h *Host, req Request) (Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return h.Do(ctx, h.Node(), req)
}

func (c *cluster) mustPut(h *Host, key, value string) Response {
	c.t.Helper()
	r, err := put(h, key, value)
	if err != nil || r.Status != fsm.StatusOK {
		c.t.Fatalf("put %s on %s: %+v, %v", key, h.Node(), r, err)
	}
	return r
}

func (c *cluster) wantGet(h *Host, key, want string) {
	c.t.Helper()
	r, err := get(h, key)
	if err != nil {
		c.t.Fatalf("get %s on %s: %v", key, h.Node(), err)
	}
	if got := string(r.Value); got != want || r.Found != (want != "") {
		c.t.Fatalf("get %s on %s: got %q (found %v), want %q", key, h.Node(), got, r.Found, want)
	}
}

// wantSameState waits until all running replicas applied the same index and compares their states.
func (c *cluster) wantSameState() {
	c.t.Helper()
	c.wantSameStateOn(slices.DeleteFunc(slices.Clone(c.names), func(n string) bool { return c.hosts[n] == nil })...)
}

// wantSameStateOn is wantSameState for the replicas on some nodes.
func (c *cluster) wantSameStateOn(nodes ...string) {
	c.t.Helper()
	machine := func(h *Host) *cacheMachine {
		if i := h.Group(testShard).instance(); i != nil {
			return i.fsm.machine.(*cacheMachine)
		}
		return nil // being replaced
	}
	sums := map[string]string{}
	c.until("equal applied indexes", func() bool {
		clear(sums)
		indexes := map[uint64]bool{}
		for _, n := range nodes {
			m := machine(c.hosts[n])
			if m == nil {
				return false
			}
			_, at, _ := m.look([]byte("k"))
			indexes[at.index] = true
		}
		if len(indexes) != 1 {
			return false
		}
		for _, n := range nodes {
			m := machine(c.hosts[n])
			if m == nil {
				return false
			}
			m.mu.RLock()
			at, _ := m.m.Applied()
			sums[n] = fmt.Sprintf("%d %x", at, m.m.Checksum())
			m.mu.RUnlock()
			if !indexes[at] {
				return false
			}
		}
		return true
	})
	want := ""
	for n, s := range sums {
		if want == "" {
			want = s
		}
		if s != want {
			c.t.Errorf("replica on %s has state %s, another %s", n, s, want)
		}
	}
}

// TestClusterServes ensures that a fresh group elects at once, reads its own writes, and that the
// loss of a leader loses nothing.
func TestClusterServes(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		began := time.Now()
		first := c.leader()
		if took := time.Since(began); took > time.Second {
			t.Errorf("the first election took %v of virtual time: it was not hurried", took)
		}
		r := c.mustPut(first, "k", "v1")
		if r.Version == 0 || r.Shard != testShard || r.Epoch != 1 || r.Existed {
			t.Errorf("answer of the first put: %+v", r)
		}
		c.wantGet(first, "k", "v1")
		for _, n := range c.others(first.Node()) {
			_, err := put(c.hosts[n], "k", "x")
			var nl *NotLeaderError
			if !errors.As(err, &nl) || nl.Leader != first.Node() {
				t.Errorf("put on follower %s: %v, want NotLeaderError naming %s", n, err, first.Node())
			}
			fr, err := c.hosts[n].Do(context.Background(), first.Node(), Request{Shard: testShard, Op: OpGet, Key: []byte("k")})
			if err != nil || string(fr.Value) != "v1" || fr.ServedBy != first.Node() {
				t.Errorf("get forwarded from %s: %+v, %v", n, fr, err)
			}
		}
		c.crash(first.Node())
		next := c.leader()
		c.wantGet(next, "k", "v1")
		c.mustPut(next, "k", "v2")
		c.start(first.Node())
		c.wantSameState()
		c.wantGet(c.leader(), "k", "v2")
	})
}

// TestAllCrash ensures that what was acknowledged is there after all nodes crash at once.
func TestAllCrash(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		for i := range 100 {
			c.mustPut(l, fmt.Sprint("k", i), fmt.Sprint("v", i))
		}
		for _, n := range c.names {
			c.crash(n)
		}
		for _, n := range c.names {
			c.start(n)
		}
		l = c.leader()
		for i := range 100 {
			c.wantGet(l, fmt.Sprint("k", i), fmt.Sprint("v", i))
		}
		c.wantSameState()
	})
}

// raise brings the shard to the highest feature level, on all replicas.
func (c *cluster) raise() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o, err := c.leader().Cache(testShard).batches.submit(ctx, &fsm.Command{Kind: fsm.KindLevel, Level: fsm.MaxLevel})
	if err != nil || o.result.Status != fsm.StatusOK {
		c.t.Fatalf("raising the level: %+v, %v", o.result, err)
	}
	c.until("all replicas are at the level", func() bool {
		return !slices.ContainsFunc(c.names[:c.voters], func(n string) bool { return c.hosts[n] != nil && c.level(n) < fsm.MaxLevel })
	})
}

// level is the feature level of the replica on a node.
func (c *cluster) level(node string) uint8 {
	if i := c.hosts[node].Group(testShard).instance(); i != nil {
		return i.fsm.machine.(*cacheMachine).featureLevel()
	}
	return 0 // being replaced
}
