package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

// devPorts is the distance between the HTTP ports of two nodes of a dev cluster.
const devPorts = 10

func newDevCmd() *cobra.Command {
	var cfg nodeConfig
	var maxMemory, limit, level string
	var nodes int
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster in one process on loopback, to try things out",
		Long: `Run a whole cluster in one process on loopback, to try things out.

Node i listens on the HTTP port + 10*i, and for its peers one port above. Data goes to a
temporary folder, which is removed at the end, unless --data-dir is given. ^C ends it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if nodes < 1 || nodes > 26 {
				return usageError{fmt.Errorf("--nodes %d: 1 to 26", nodes)}
			}
			if !cmd.Flags().Changed("replicas") {
				cfg.settings.Replicas = min(cfg.settings.Replicas, nodes)
			}
			var err error
			if cfg.maxMemory, err = directory.ParseSize(maxMemory); err != nil {
				return usageError{fmt.Errorf("--max-memory: %w", err)}
			}
			log, logLevel, err := newLogger(cmd.ErrOrStderr(), level)
			if err != nil {
				return err
			}
			if cfg.heap, err = newHeapLimit(limit, cfg.maxMemory, nodes); err != nil {
				return err
			}
			cfgs, err := devNodes(cfg, nodes)
			if err != nil {
				return err
			}
			defer cfg.heap.set()()
			if cfg.dataDir == "" {
				dir, err := os.MkdirTemp("", "larder-dev-")
				if err != nil {
					return err
				}
				defer os.RemoveAll(dir)
				for i := range cfgs {
					cfgs[i].dataDir = filepath.Join(dir, cfgs[i].dataDir)
				}
			}
			return runDev(cfgs, log, logLevel, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&nodes, "nodes", 3, "nodes")
	f.StringVar(&cfg.http, "http", "127.0.0.1:7070", "address of the first node for clients")
	f.StringVar(&cfg.dataDir, "data-dir", "", "keep the data here, a folder per node")
	clusterFlags(f, &cfg, &maxMemory)
	memoryLimitFlags(f, &limit)
	f.Lookup("initial-shards").DefValue = "4"
	cfg.settings.InitialShards = 4
	f.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// devNodes spells out the nodes of a dev cluster. Without a data folder in base, those of the nodes are
// relative to one that is to be made.
func devNodes(base nodeConfig, nodes int) ([]nodeConfig, error) {
	host, port, err := splitAddr("--http", base.http)
	if err != nil {
		return nil, err
	}
	initial := map[string]string{}
	var cfgs []nodeConfig
	for i := range nodes {
		cfg := base
		cfg.id = string(rune('a' + i))
		cfg.dataDir = filepath.Join(base.dataDir, cfg.id)
		cfg.http = net.JoinHostPort(host, strconv.Itoa(port+devPorts*i))
		cfg.raft = net.JoinHostPort(host, strconv.Itoa(port+devPorts*i+1))
		cfg.initial = initial
		initial[cfg.id] = cfg.raft
		cfgs = append(cfgs, cfg)
	}
	for i := range cfgs {
		if err := cfgs[i].complete(); err != nil {
			return nil, err
		}
	}
	return cfgs, nil
}

// runDev runs nodes until a signal comes. level is that of log.
func runDev(cfgs []nodeConfig, log *slog.Logger, level *slog.LevelVar, out io.Writer) (err error) {
	began := time.Now()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	// What nodes say of each other's end, when all of them end, is of no use to anybody.
	hush := func() { level.Set(slog.LevelError + 1) }
	var nodes []*node
	defer func() { err = errors.Join(err, stopOrSignal(signals, nodes...)) }()
	failed := make(chan error, len(cfgs))
	for _, cfg := range cfgs {
		n, err := startNode(cfg, log)
		if err != nil {
			return fmt.Errorf("node %s: %w", cfg.id, err)
		}
		nodes = append(nodes, n)
		go func() { failed <- <-n.failed }() // ends with the process
	}
	ready := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { ready <- waitReady(ctx, cfgs) }()
	select {
	case err = <-ready:
	case err = <-failed:
	case <-signals:
		hush()
		return nil
	}
	if err != nil {
		return err
	}
	welcome(out, cfgs, time.Since(began))
	select {
	case err := <-failed:
		return err
	case <-signals:
		hush()
		fmt.Fprintln(out, "\nstopping")
		return nil
	}
}

// waitReady waits until each node says that it is ready.
func waitReady(ctx context.Context, cfgs []nodeConfig) error {
	for _, cfg := range cfgs {
		for {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+cfg.advertiseHTTP+"/readyz", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					break
				}
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func welcome(out io.Writer, cfgs []nodeConfig, took time.Duration) {
	first, last := "http://"+cfgs[0].advertiseHTTP, "http://"+cfgs[len(cfgs)-1].advertiseHTTP
	fmt.Fprintf(out, "Larder is ready: %d nodes, %d shards, after %.1f s. Try, in another terminal:\n\n", len(cfgs), cfgs[0].settings.InitialShards, took.Seconds())
	for _, line := range []string{
		"curl -i -X PUT --data-binary hello " + first + "/v1/kv/greeting",
		"curl -i " + last + "/v1/kv/greeting",
		"curl -i -X PUT --data-binary bye -H 'If-None-Match: *' " + first + "/v1/kv/greeting   # 412: it is there",
		"curl -i -X PUT --data-binary soon '" + first + "/v1/kv/gone?ttl=10s'",
		"curl -i -X DELETE " + last + "/v1/kv/greeting",
		"curl -s " + first + "/v1/directory",
	} {
		fmt.Fprintln(out, "  "+line)
	}
	fmt.Fprintln(out, "\n^C ends it.")
}
