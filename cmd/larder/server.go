package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

func newServerCmd() *cobra.Command {
	var cfg nodeConfig
	var initial, maxMemory, limit, level string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a node of a cluster",
		Long: `Run a node of a cluster.

The first start of the first nodes names them all, by their peer addresses:

  larder server --id a --data-dir /var/lib/larder --http 127.0.0.1:7070 \
    --initial-cluster a=127.0.0.1:7071,b=127.0.0.1:7081,c=127.0.0.1:7091

The cluster forms once all of them run. Any later node joins by a node that runs:

  larder server --id d --data-dir /var/lib/larder --http 127.0.0.1:7100 \
    --join http://127.0.0.1:7070

It hosts nothing until it is made a member of shards (larder member add). Later starts
need the same flags; the data folder remembers the rest. SIGTERM and SIGINT hand leaderships over before the node
stops; a second signal stops it at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.initial, err = parseInitialCluster(initial); err != nil {
				return usageError{err}
			}
			if cfg.maxMemory, err = directory.ParseSize(maxMemory); err != nil {
				return usageError{fmt.Errorf("--max-memory: %w", err)}
			}
			if cfg.join != "" && initial != "" {
				return usageError{errors.New("--join and --initial-cluster exclude each other: the first nodes form the cluster, all others join it")}
			}
			if !cmd.Flags().Changed("replicas") {
				cfg.settings.Replicas = max(1, min(cfg.settings.Replicas, len(cfg.initial)))
			}
			if err := cfg.complete(); err != nil {
				return err
			}
			log, _, err := newLogger(cmd.ErrOrStderr(), level)
			if err != nil {
				return err
			}
			if cfg.heap, err = newHeapLimit(limit, cfg.maxMemory, 1); err != nil {
				return err
			}
			defer cfg.heap.set()()
			return runServer(cfg, log, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.id, "id", "", "this node's id (required)")
	f.StringVar(&cfg.dataDir, "data-dir", "", "where the node keeps its data (required)")
	f.StringVar(&cfg.http, "http", "127.0.0.1:7070", "address for clients")
	f.StringVar(&cfg.raft, "raft", "", "address for peers (default: the HTTP port + 1)")
	f.StringVar(&cfg.advertiseHTTP, "advertise-http", "", "address that clients reach this node at (default: --http)")
	f.StringVar(&cfg.advertiseRaft, "advertise-raft", "", "address that peers reach this node at (default: --raft)")
	f.StringVar(&initial, "initial-cluster", "", "the nodes that form the cluster: ID=PEER-ADDRESS,...")
	f.StringVar(&cfg.join, "join", "", "first start of a later node: the HTTP address of any node of the cluster, as http://HOST:PORT")
	clusterFlags(f, &cfg, &maxMemory)
	memoryLimitFlags(f, &limit)
	f.StringVar(&cfg.zone, "zone", "", "failure zone: replicas of a shard are spread over zones")
	f.IntVar(&cfg.maxConnections, "max-connections", 0, "connections of clients at the same time; further ones are closed at once. 0: half of the file descriptors that the process\nmay have, 32768 at most")
	f.BoolVar(&cfg.insecure, "insecure", false, "allow addresses beyond loopback though nothing protects them")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.Uint64Var(&cfg.snapshotEntries, "snapshot-threshold", 0, "log entries between snapshots")
	f.Uint64Var(&cfg.trailingLogs, "trailing-logs", 0, "log entries kept behind a snapshot")
	_ = f.MarkHidden("snapshot-threshold")
	_ = f.MarkHidden("trailing-logs")
	return cmd
}

// clusterFlags are those that server and dev share. Those of the cluster seed its first start only;
// afterwards larder settings changes them.
func clusterFlags(f *pflag.FlagSet, cfg *nodeConfig, maxMemory *string) {
	f.StringVar(maxMemory, "max-memory", "1GiB", "memory of the process, all included")
	cfg.settings = directory.Settings{}.WithDefaults()
	for _, o := range directory.Options() {
		switch {
		case o.Name == "cache-memory":
			f.Var(settingFlag{&cfg.settings, o}, o.Name, "first start: the part of --max-memory for entries, as a percentage or a size; each shard gets it\ndivided by the node's replicas + 1.5, which leaves room for a spare replica and half a staged shard")
		case !o.Fixed && o.Name != "replicas":
			f.Var(settingFlag{&cfg.settings, o}, o.Name, "first start: "+o.Meaning)
		}
	}
	f.IntVar(&cfg.settings.InitialShards, "initial-shards", directory.DefaultInitialShards, "first start: shards that the keys are divided among")
	f.IntVar(&cfg.settings.Replicas, "replicas", directory.DefaultReplicas, "first start: members of each shard")
	f.BoolVar(&cfg.settings.MemoryOnly, "memory-only", false, "first start: keep shards in memory alone: no write waits for a disk, and what a majority of a shard's\nnodes forgets at the same time is gone. Of --cache-memory two fifths are for entries, the rest for logs and snapshots")
	f.StringVar(&cfg.readMode, "read-mode", readProbe, "how leaders here confirm a linearizable read: probe (ask a quorum), or lease (while a quorum's promise not to\nelect another binds, ask nobody: it trusts that no machine is suspended and resumed unnoticed)")
	f.StringVar(&cfg.logStore, "log-store", string(shard.DefaultLogStore), "where replicas that are made from now on keep their logs: bolt (a file each) or shared (one log for all of\nthe node, whose writes share syncs). Those that are there keep theirs")
	f.StringVar(&cfg.route, "route", "forward", "what to do with a key of another node: forward or redirect")
}

func parseInitialCluster(s string) (map[string]string, error) {
	nodes := map[string]string{}
	if s == "" {
		return nodes, nil
	}
	for _, item := range strings.Split(s, ",") {
		id, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok || id == "" {
			return nil, fmt.Errorf("--initial-cluster: %q is not ID=HOST:PORT", item)
		}
		host, _, err := splitAddr("--initial-cluster", addr)
		if err != nil {
			return nil, err
		}
		if unspecified(host) {
			return nil, fmt.Errorf("--initial-cluster: nobody can be reached at %s", addr)
		}
		if nodes[id] != "" {
			return nil, fmt.Errorf("--initial-cluster names %s twice", id)
		}
		nodes[id] = addr
	}
	return nodes, nil
}

// newLogger returns a logger, and its level, to be changed while it is in use.
func newLogger(w io.Writer, level string) (*slog.Logger, *slog.LevelVar, error) {
	var l slog.LevelVar
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, usageError{fmt.Errorf("--log-level %q is not debug, info, warn or error", level)}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: &l})), &l, nil
}

func runServer(cfg nodeConfig, log *slog.Logger, out io.Writer) error {
	if cfg.insecure {
		fmt.Fprintln(out, "WARNING: --insecure: anybody who reaches these addresses can read and change everything")
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	n, err := startNode(cfg, log)
	if err != nil {
		return err
	}
	select {
	case err := <-n.failed:
		return errors.Join(err, stopOrSignal(signals, n))
	case <-signals:
		log.Info("stopping", "node", cfg.id)
		return stopOrSignal(signals, n)
	}
}

// stopOrSignal stops nodes, all at once; a further signal gives up waiting.
func stopOrSignal(signals <-chan os.Signal, nodes ...*node) error {
	done := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() { done <- n.stop() }()
	}
	var errs error
	for range nodes {
		select {
		case err := <-done:
			errs = errors.Join(errs, err)
		case <-signals:
			return errors.Join(errs, context.Canceled)
		}
	}
	return errs
}
