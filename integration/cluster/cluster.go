package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/port"
	"github.com/larder-cache/larder/integration/proxy"
)

// Config describes a cluster that three nodes form.
type Config struct {
	Binary string
	Shards int
	// Delay of each link between two nodes, one way.
	Delay time.Duration
	// Args and Env are added to each node's flags and environment.
	Args, Env []string
	// Limit is how long the cluster may live before everything is killed. Default 5 minutes.
	Limit time.Duration
}

// Cluster is the nodes, those that joined included, and the network between them.
type Cluster struct {
	Nodes   []*Node
	Network *proxy.Network

	cfg Config
	dir string
}

// ids of the nodes that form the cluster, and of those that may join it; node i listens on
// 127.0.0.(11+i).
var (
	ids     = []string{"a", "b", "c"}
	joiners = []string{"d", "e"}
)

// New prepares a cluster and starts none of its nodes. Everything is gone when the test ends.
func New(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "larder-"+strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Network: proxy.New(cfg.Delay), cfg: cfg, dir: dir}
	t.Cleanup(func() { c.close(t) })

	var initial []string
	for i := range ids {
		n := c.add(t, i)
		initial = append(initial, n.ID+"="+n.advertised)
	}
	for _, n := range c.Nodes {
		n.args = append(n.flags(),
			"--initial-cluster", strings.Join(initial, ","),
			"--initial-shards", strconv.Itoa(cfg.Shards), "--replicas", strconv.Itoa(len(ids)))
		n.args = append(n.args, cfg.Args...)
	}

	limit := cfg.Limit
	if limit == 0 {
		limit = 5 * time.Minute
	}
	watchdog := time.AfterFunc(limit, func() {
		t.Errorf("the cluster lives longer than %v: killing it", limit)
		c.kill(t)
	})
	t.Cleanup(func() { watchdog.Stop() })
	return c
}

// Start is New, and starts all nodes and waits until they are ready.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	c := New(t, cfg)
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitReady(t, 60*time.Second)
	return c
}

// add makes the node of index i, without flags of its first start.
func (c *Cluster) add(t testing.TB, i int) *Node {
	t.Helper()
	id := slices.Concat(ids, joiners)[i]
	ip := fmt.Sprintf("127.0.0.%d", 11+i)
	http, httpErr := port.Free(ip)
	peer, peerErr := port.Free(ip)
	if httpErr != nil || peerErr != nil {
		t.Fatal(httpErr, peerErr)
	}
	front, err := c.Network.Listen(id, ip, peer)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{
		ID: id, IP: ip, URL: "http://" + http,
		DataDir: filepath.Join(c.dir, id), LogFile: filepath.Join(c.dir, id+".log"),
		binary: c.cfg.Binary, env: c.cfg.Env, raft: peer, advertised: front,
	}
	c.Nodes = append(c.Nodes, n)
	return n
}

// Join starts a further node that joins by the node via. It waits for nothing. What the others learn of
// it from the table is its proxy.
func (c *Cluster) Join(t testing.TB, via *Node) *Node {
	t.Helper()
	n := c.add(t, len(c.Nodes))
	c.Rejoin(t, n, via)
	return n
}

// Rejoin starts a node, which does not run, as one that joins by via, from now on.
func (c *Cluster) Rejoin(t testing.TB, n, via *Node) {
	t.Helper()
	n.args = slices.Concat(n.flags(), []string{"--join", via.URL}, c.cfg.Args)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
}

// Wipe removes the data folder of a node that does not run.
func (n *Node) Wipe() error {
	if n.Running() {
		return fmt.Errorf("wiping %s: %w", n.ID, ErrRunning)
	}
	return os.RemoveAll(n.DataDir)
}

// Live returns the nodes that run.
func (c *Cluster) Live() []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return !n.Running() })
}

// WaitReady waits until /readyz of each node that runs is 200, and fails the test after limit, or
// as soon as a node that was to become ready ends.
func (c *Cluster) WaitReady(t testing.TB, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, n := range c.Nodes {
		p := n.running()
		if p == nil {
			continue
		}
		var said string
		err := Poll(ctx, func() bool {
			select {
			case <-p.ended:
				cancel()
				return false
			default:
			}
			status, body, err := n.Get(ctx, "/readyz")
			if err == nil {
				said = string(body)
			}
			return status == 200
		})
		if err != nil {
			if !n.Running() {
				t.Fatalf("node %s ended (%v) before it was ready", n.ID, p.err)
			}
			t.Fatalf("node %s is not ready after %v: %s", n.ID, limit, said)
		}
	}
}

// WaitKnown waits until all nodes that run have the node of that id in their tables, and up: they learn of
// one that joined some moments after each other.
func (c *Cluster) WaitKnown(t testing.TB, id string, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, n := range c.Live() {
		if err := Poll(ctx, func() bool {
			d, err := n.Directory(ctx)
			return err == nil && d.Nodes[id].State == "up"
		}); err != nil {
			t.Fatalf("node %s does not know %s after %v", n.ID, id, limit)
		}
	}
}

// Poll asks again and again, every few milliseconds, until done says so or ctx ends.
func Poll(ctx context.Context, done func() bool) error {
	const every = 20 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Node returns the node of that id; there must be one.
func (c *Cluster) Node(id string) *Node {
	i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.ID == id })
	return c.Nodes[i]
}

// Others returns all nodes but the one of that id.
func (c *Cluster) Others(id string) []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return n.ID == id })
}

// Targets returns the nodes as clients see them.
func Targets(nodes []*Node) []client.Target {
	var targets []client.Target
	for _, n := range nodes {
		targets = append(targets, client.Target{Node: n.ID, URL: n.URL})
	}
	return targets
}

// kill ends all processes.
func (c *Cluster) kill(t testing.TB) {
	for _, n := range c.Nodes {
		if err := n.stop(); err != nil {
			t.Error(err)
		}
	}
}

// close ends everything, shows the logs of a test that failed, and removes the data.
func (c *Cluster) close(t testing.TB) {
	c.kill(t)
	c.Network.Close()
	if s := c.Network.Strangers(); len(s) > 0 {
		t.Errorf("connections that did not come from a node's own address, so that no fault could reach them: %v", s)
	}
	if t.Failed() {
		for _, n := range c.Nodes {
			t.Logf("end of the log of %s:\n%s", n.ID, logTail(n.LogFile))
		}
	}
	if os.Getenv("LARDER_KEEP") != "" {
		t.Logf("kept: %s", c.dir)
		return
	}
	if err := os.RemoveAll(c.dir); err != nil {
		t.Error(err)
	}
}
