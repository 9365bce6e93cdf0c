package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/integration/client"
)

// Cluster is the nodes, those that joined included, and the network between them.
type Cluster struct {
	Nodes []*Node
	Links Links

	cfg     Config
	dir     string
	network network
	state   *state
	// asking is for questions about the cluster, operating the client of operators, which waits longer than a server does
	// by default.
	asking, operating *http.Client

	watchdog *time.Timer
	expired  atomic.Bool // the limit is over: nothing may start any more
	closing  sync.Once
	closed   error
}

// ErrLimit is returned by Close, and by Start of a node, when the cluster lived longer than its limit.
var ErrLimit = errors.New("the cluster lived longer than its limit")

// names of the nodes: those that form the cluster come first.
var names = strings.Split("abcdefg", "")

// temporaryPrefix begins the names of folders that go with their cluster.
const temporaryPrefix = "larder-cluster-"

// Open prepares a cluster and starts none of its nodes. Close must be called; its resources are gone too when this process dies, but
// for disks, which Clean removes.
func Open(cfg Config) (*Cluster, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Disk == Loop {
		// Of those that could not close theirs.
		if _, err := Clean(); err != nil {
			return nil, err
		}
	}
	c := &Cluster{cfg: cfg, dir: cfg.Dir}
	if err := c.open(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// open makes the parts of a cluster. What it made when it fails is for Close.
func (c *Cluster) open() error {
	var err error
	if c.dir == "" {
		c.dir, err = os.MkdirTemp("", temporaryPrefix)
	} else if c.dir, err = filepath.Abs(c.dir); err == nil {
		err = os.MkdirAll(c.dir, 0o755)
	}
	if err != nil {
		return err
	}
	if c.state, err = newState(c.dir, c.cfg.Dir == "", c.cfg.Binary); err != nil {
		return err
	}
	if c.network, err = newNetwork(c.cfg); err != nil {
		return err
	}
	c.Links = c.network
	c.asking, c.operating = c.client(askingTime), c.client(operatingTime)
	var initial []string
	for range c.cfg.Nodes {
		n, err := c.add()
		if err != nil {
			return err
		}
		initial = append(initial, n.ID+"="+n.advertised)
	}
	for _, n := range c.Nodes {
		n.args = slices.Concat(n.flags(), []string{
			"--initial-cluster", strings.Join(initial, ","),
			"--initial-shards", strconv.Itoa(c.cfg.Shards), "--replicas", strconv.Itoa(c.cfg.Replicas),
		}, c.cfg.Args)
	}
	c.watchdog = time.AfterFunc(c.cfg.Limit, func() {
		c.expired.Store(true)
		c.kill() // Close does it again, and tells its error
	})
	return nil
}

const askingTime, operatingTime = 2 * time.Second, 8 * time.Second

// client is one of the harness's own, where clients are.
func (c *Cluster) client(limit time.Duration) *http.Client {
	return &http.Client{
		Timeout:       limit,
		Transport:     &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}, // a node that was killed leaves none behind
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Dial connects to an address as clients do: within their network.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return c.network.dial(ctx, network, addr)
}

// Dir is the folder that the nodes' folders lie in.
func (c *Cluster) Dir() string { return c.dir }

// add makes the next node, without flags of its first start.
func (c *Cluster) add() (*Node, error) {
	i := len(c.Nodes)
	if i == c.cfg.Nodes+maxJoiners {
		return nil, fmt.Errorf("cluster: %d nodes are all", i)
	}
	id := names[i]
	dir := filepath.Join(c.dir, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	at, err := c.network.add(id, i)
	if err != nil {
		return nil, err
	}
	n := &Node{
		ID: id, IP: at.ip, URL: "http://" + at.http,
		DataDir: filepath.Join(dir, dataName), LogFile: filepath.Join(dir, logName),
		cluster: c, binary: c.cfg.Binary, env: c.cfg.Env,
		raft: at.raft, advertised: at.advertised, needed: at.flags,
	}
	if c.cfg.Disk == Loop {
		image, mount := filepath.Join(dir, imageName), filepath.Join(dir, mountName)
		if err := c.state.addDisk(image, mount); err != nil {
			return nil, err
		}
		if n.volume, err = newLoop(image, mount); err != nil {
			return nil, fmt.Errorf("the disk of %s: %w", id, err)
		}
		n.DataDir = filepath.Join(mount, dataName)
	}
	c.Nodes = append(c.Nodes, n)
	return n, nil
}

// StartAll starts all nodes and waits until they are ready.
func (c *Cluster) StartAll(ctx context.Context, limit time.Duration) error {
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.Ready(ctx)
}

// Add starts a further node that joins by the node via. It waits for nothing. What the others learn of
// it from the table is where faults can reach it.
func (c *Cluster) Add(via *Node) (*Node, error) {
	n, err := c.Spare()
	if err != nil {
		return nil, err
	}
	return n, c.Rejoin(n, via)
}

// Spare makes a further node, which Rejoin starts.
func (c *Cluster) Spare() (*Node, error) { return c.add() }

// Rejoin starts a node, which does not run, as one that joins by via, from now on.
func (c *Cluster) Rejoin(n, via *Node) error {
	n.args = slices.Concat(n.flags(), []string{"--join", via.URL}, c.cfg.Args)
	return n.Start()
}

// Live returns the nodes that run.
func (c *Cluster) Live() []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return !n.Running() })
}

// Ready waits until /readyz of each node that runs is 200, until ctx ends or a node that was to become ready does.
func (c *Cluster) Ready(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ready is Ready for one node.
func (n *Node) ready(ctx context.Context) error {
	p := n.running()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
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
		return status == http.StatusOK
	})
	switch {
	case err == nil:
		return nil
	case !n.Running():
		return fmt.Errorf("node %s ended (%v) before it was ready", n.ID, p.err)
	default:
		return fmt.Errorf("node %s is not ready: %w: %s", n.ID, err, said)
	}
}

// Known waits until all nodes that run have the node of that id in their tables, and up: they learn of
// one that joined some moments after each other.
func (c *Cluster) Known(ctx context.Context, id string) error {
	for _, n := range c.Live() {
		if err := Poll(ctx, func() bool {
			d, err := n.Directory(ctx)
			return err == nil && d.Nodes[id].State == "up"
		}); err != nil {
			return fmt.Errorf("node %s does not know %s: %w", n.ID, id, err)
		}
	}
	return nil
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
func (c *Cluster) kill() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.stop())
	}
	return errors.Join(errs...)
}

// Close ends all processes, then their disks and the network. Logs and data stay in Config.Dir. The error says what makes
// a run worthless too: that the limit was over, or that something went around the faults.
func (c *Cluster) Close() error {
	c.closing.Do(func() { c.closed = c.close() })
	return c.closed
}

func (c *Cluster) close() error {
	var errs []error
	if c.watchdog != nil {
		c.watchdog.Stop()
	}
	over := c.expired.Swap(true) // nothing starts any more
	if over {
		errs = append(errs, fmt.Errorf("%w of %v", ErrLimit, c.cfg.Limit))
	}
	owed := []error{c.kill()}
	for _, n := range c.Nodes {
		owed = append(owed, n.giveUp())
	}
	if c.network != nil {
		errs = append(errs, c.network.close())
	}
	if err := errors.Join(owed...); err != nil {
		return errors.Join(append(errs, err)...) // Clean may do better later
	}
	if c.cfg.Dir == "" && c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	if c.state != nil {
		errs = append(errs, c.state.remove())
	}
	return errors.Join(errs...)
}
