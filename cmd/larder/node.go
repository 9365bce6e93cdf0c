package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/httpapi"
	"github.com/larder-cache/larder/shard"
)

// nodeConfig is what one node is started with: `larder server` has one, `larder dev` several.
type nodeConfig struct {
	id            string
	dataDir       string
	http          string
	raft          string
	advertiseHTTP string
	advertiseRaft string
	initial       map[string]string // node -> Raft address
	join          string            // URL of a node of the cluster; "" for an initial node
	zone          string
	maxMemory     uint64
	settings      directory.Settings
	route         string
	readMode      string
	logStore      string
	insecure      bool
	heap          *heapLimit // of the process

	maxConnections int // of clients; 0: as many as descriptors allow

	snapshotEntries uint64
	trailingLogs    uint64
}

// Read modes.
const (
	readProbe = "probe"
	readLease = "lease"
)

// complete fills in what follows from other settings, and refuses what can't work.
func (c *nodeConfig) complete() error {
	if c.id == "" {
		return usageError{errors.New("--id is missing: the name of this node in its cluster, such as a")}
	}
	if err := shard.ValidNode(c.id); err != nil {
		return usageError{err}
	}
	if c.dataDir == "" {
		return usageError{errors.New("--data-dir is missing: where the node keeps its data")}
	}
	host, port, err := splitAddr("--http", c.http)
	if err != nil {
		return err
	}
	if c.raft == "" {
		c.raft = net.JoinHostPort(host, strconv.Itoa(port+1))
	}
	raftHost, _, err := splitAddr("--raft", c.raft)
	if err != nil {
		return err
	}
	for _, l := range []struct{ flag, addr, host string }{{"--http", c.http, host}, {"--raft", c.raft, raftHost}} {
		if !c.insecure && !loopback(l.host) {
			return usageError{fmt.Errorf("%s %s is reachable from other machines, and nothing protects it yet: use a loopback address, or say --insecure where the network itself is trusted", l.flag, l.addr)}
		}
	}
	if err := advertise("--advertise-http", &c.advertiseHTTP, c.http); err != nil {
		return err
	}
	if err := advertise("--advertise-raft", &c.advertiseRaft, c.raft); err != nil {
		return err
	}
	if mode := httpapi.Mode(c.route); mode != httpapi.Forward && mode != httpapi.Redirect {
		return usageError{fmt.Errorf("--route %q is not %s or %s", c.route, httpapi.Forward, httpapi.Redirect)}
	}
	if c.readMode != readProbe && c.readMode != readLease {
		return usageError{fmt.Errorf("--read-mode %q is not %s or %s", c.readMode, readProbe, readLease)}
	}
	if err := httpapi.CheckMaxConnections(c.maxConnections); err != nil {
		return usageError{fmt.Errorf("--max-connections %w", err)}
	}
	if _, err := shard.ParseLogStore(c.logStore); err != nil {
		return usageError{fmt.Errorf("--log-store %w", err)}
	}
	if c.join != "" {
		_, err := parseServers(c.join)
		if err != nil {
			return usageError{fmt.Errorf("--join %q is not http://HOST:PORT", c.join)}
		}
		return nil // the cluster has its settings
	}
	if len(c.initial) == 0 {
		return usageError{errors.New("--initial-cluster or --join is missing: the nodes that form the cluster, as a=HOST:PORT,b=HOST:PORT, or a node of the cluster to join, as http://HOST:PORT")}
	}
	if _, ok := c.initial[c.id]; !ok {
		return usageError{fmt.Errorf("--initial-cluster does not name this node, %s", c.id)}
	}
	return c.checkSettings()
}

// checkSettings refuses settings that no cluster of the initial nodes could be founded with.
func (c *nodeConfig) checkSettings() error {
	if err := c.settings.Validate(); err != nil {
		return usageError{fmt.Errorf("--%w", err)} // it begins with the setting's name
	}
	if c.settings.Replicas > len(c.initial) {
		return usageError{fmt.Errorf("--replicas is %d, but there are only %d nodes", c.settings.Replicas, len(c.initial))}
	}
	// A node hosts at least this many replicas if they are spread evenly, and gives each its share.
	replicas := (c.settings.InitialShards*c.settings.Replicas + len(c.initial) - 1) / len(c.initial)
	if bytes := c.settings.ShardBytes; bytes > 0 {
		if most := c.capacity() / uint64(replicas); bytes < directory.LeastShard || bytes > most {
			return usageError{fmt.Errorf("--shard-bytes is %d, want at least %d, and at most the %d that --max-memory and --cache-memory leave each of %d replicas on a node", bytes, directory.LeastShard, most, replicas)}
		}
		return nil
	}
	if share := float64(c.capacity()) / (float64(replicas) + 1.5); share < directory.LeastShard {
		return usageError{fmt.Errorf("--max-memory and --cache-memory leave each of %d replicas on a node %.0f bytes for entries, %d are the least", replicas, share, directory.LeastShard)}
	}
	return nil
}

// capacity is the part of the node's memory that is for entries. The settings are valid.
func (c *nodeConfig) capacity() uint64 {
	return c.settings.Capacity(c.maxMemory)
}

// advertise completes the address by which others reach a listener, and refuses one that says nothing
// to another machine.
func advertise(flag string, advertised *string, listen string) error {
	what := *advertised
	if what == "" {
		what = listen
	}
	host, _, err := splitAddr(flag, what)
	if err != nil {
		return err
	}
	if unspecified(host) {
		return usageError{fmt.Errorf("%s is needed: nobody can be reached at %s", flag, what)}
	}
	*advertised = what
	return nil
}

// unspecified reports whether host stands for all addresses of a machine, rather than for one.
func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// splitAddr takes HOST:PORT apart. Port 0, which leaves the choice to the system, is refused: peers and
// clients have to know it.
func splitAddr(flag, addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 1 || port > 65535 {
		return "", 0, usageError{fmt.Errorf("%s %q is not HOST:PORT, with a port from 1 to 65535", flag, addr)}
	}
	return host, port, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// node is a running node. Start and stop orders are each other's reverse: data folder, peer links,
// directory, REST.
type node struct {
	cfg    nodeConfig
	log    *slog.Logger
	host   *shard.Host
	dir    *directory.Service
	server *httpapi.Server
	cancel context.CancelFunc
	work   sync.WaitGroup // forming the cluster, serving REST
	failed chan error     // one error: the node can't go on
}

// startNode starts a node and returns once its listeners are open. It is ready when /readyz says so.
func startNode(cfg nodeConfig, log *slog.Logger) (*node, error) {
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{cfg: cfg, log: log, cancel: cancel, failed: make(chan error, 1)}
	fail := func(err error) {
		select {
		case n.failed <- err:
		default:
		}
	}
	// Links leave from the address that peers know, so that what stands between (a firewall, a
	// test's proxy) sees which node calls. A wildcard address leaves it to the system.
	network := shard.TCP{}
	raftHost, _, _ := net.SplitHostPort(cfg.raft)
	if ip := net.ParseIP(raftHost); ip != nil && !ip.IsUnspecified() {
		network.Source = ip
	}
	var err error
	now, control := faultClock()
	n.host, err = shard.NewHost(shard.Config{
		Node: cfg.id, Dir: cfg.dataDir, LogStore: shard.LogStore(cfg.logStore), Network: network, Addr: cfg.raft, Log: log, Now: now, Leases: cfg.readMode == readLease,
		SnapshotEntries: cfg.snapshotEntries, TrailingLogs: cfg.trailingLogs,
		Fatal: func(err error) {
			fmt.Fprintf(os.Stderr, "larder: node %s can't go on: %v\n", cfg.id, err)
			os.Exit(exitFailed)
		},
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.http)
	if err != nil {
		n.host.Close()
		return nil, fmt.Errorf("REST address: %w", err)
	}
	if cfg.join != "" {
		cfg.initial, err = findPeers(ctx, cfg.join)
		if _, _, formed := n.host.Formed(); err != nil && !formed {
			listener.Close()
			n.host.Close()
			return nil, err
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), n.host.Collector())
	var handler http.Handler
	n.dir, err = directory.New(directory.Config{
		Host: n.host, Identity: n.host, Initial: cfg.initial, Settings: cfg.settings,
		Self: directory.Node{Raft: cfg.advertiseRaft, HTTP: cfg.advertiseHTTP, Zone: cfg.zone, Capacity: cfg.capacity()},
		Join: cfg.join != "", Memory: cfg.maxMemory, TableFile: filepath.Join(cfg.dataDir, "table"),
		OnCapacity: func(bytes uint64) { cfg.heap.follow(cfg.id, bytes) },
		Logger:     log, Registry: registry,
	})
	if err == nil {
		handler, err = httpapi.New(httpapi.Config{Node: cfg.id, Data: n.dir.Router(), Directory: n.dir, Admin: n.dir, Metrics: registry, Log: log, Route: httpapi.Mode(cfg.route)})
	}
	if err == nil {
		err = n.host.Start()
	}
	if err != nil {
		listener.Close()
		n.host.Close()
		return nil, err
	}
	n.work.Go(func() {
		// Forming waits for the other nodes; REST answers meanwhile, /readyz with 503.
		if err := n.dir.Start(ctx); err != nil && ctx.Err() == nil {
			fail(err)
		}
	})
	n.server = httpapi.NewServer(control(handler), cfg.maxConnections)
	registry.MustRegister(n.server.Collector())
	n.work.Go(func() {
		if err := n.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("REST: %w", err))
		}
	})
	log.Info("listening", "node", cfg.id, "http", listener.Addr().String(), "raft", cfg.raft, "data", cfg.dataDir)
	return n, nil
}

const (
	drainTime    = 2 * time.Second // for requests under way when a node stops
	handoverTime = 3 * time.Second // for giving away leaderships
)

// stop ends a node in order: it gives its leaderships away first, while it still serves, so that no
// client waits for an election.
func (n *node) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), handoverTime)
	n.host.Handover(ctx)
	cancel()
	ctx, cancel = context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := n.server.Shutdown(ctx); err != nil {
		n.server.Close()
	}
	n.cancel()
	n.dir.Close()
	n.work.Wait()
	return n.host.Close()
}
