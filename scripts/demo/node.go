package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// node is one server process.
type node struct {
	id      string
	url     string
	logFile string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process is gone
	err     error         // of its end; set before ended is closed
}

// How long to wait for the cluster to form, and for a node to end before it is killed.
const (
	readyLimit = 60 * time.Second
	stopLimit  = 10 * time.Second
)

// startNodes starts three nodes with their data below dir and waits until they are ready. The
// nodes that it started are returned with an error too.
func startNodes(ctx context.Context, cfg config, dir string) ([]*node, error) {
	ids := []string{"a", "b", "c"}
	addresses, err := freeAddresses(2 * len(ids))
	if err != nil {
		return nil, err
	}
	var initial []string
	for i, id := range ids {
		initial = append(initial, id+"="+addresses[2*i+1])
	}
	var nodes []*node
	for i, id := range ids {
		args := []string{
			"server", "--id", id, "--data-dir", filepath.Join(dir, id),
			"--http", addresses[2*i], "--raft", addresses[2*i+1],
			"--initial-cluster", strings.Join(initial, ","),
			"--initial-shards", strconv.Itoa(cfg.shards), "--replicas", strconv.Itoa(len(ids)),
		}
		if cfg.maxMemory != "" {
			args = append(args, "--max-memory", cfg.maxMemory)
		}
		if cfg.cacheMemory != "" {
			args = append(args, "--cache-memory", cfg.cacheMemory)
		}
		n := &node{id: id, url: "http://" + addresses[2*i], logFile: filepath.Join(dir, id+".log"), ended: make(chan struct{})}
		if err := n.start(cfg.larder, args); err != nil {
			return nodes, err
		}
		nodes = append(nodes, n)
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for _, n := range nodes {
		if err := n.waitReady(ctx); err != nil {
			return nodes, err
		}
	}
	return nodes, nil
}

// freeAddresses returns n addresses on loopback that nobody listens on now.
func freeAddresses(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // when all are found, so that they differ
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

func (n *node) start(binary string, args []string) error {
	log, err := os.Create(n.logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(binary, args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("starting node %s: %w", n.id, err)
	}
	go func() {
		n.err = n.cmd.Wait()
		close(n.ended)
	}()
	return nil
}

// waitReady waits until the node says that it is ready.
func (n *node) waitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, _, err := n.get(ctx, "/readyz"); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case <-n.ended:
			return fmt.Errorf("node %s ended: %v; its log ends with\n%s", n.id, n.err, tail(n.logFile))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("node %s is not ready after %v; its log ends with\n%s", n.id, readyLimit, tail(n.logFile))
			}
			return ctx.Err()
		}
	}
}

// alive reports whether the process runs.
func (n *node) alive() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// stopNodes ends all processes, first by asking.
func stopNodes(nodes []*node) {
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() {
			n.cmd.Process.Signal(syscall.SIGTERM)
			limit := time.NewTimer(stopLimit)
			defer limit.Stop()
			select {
			case <-n.ended:
			case <-limit.C:
				n.cmd.Process.Kill()
				<-n.ended
			}
		})
	}
	all.Wait()
}

// asking is the client for questions about the cluster.
var asking = &http.Client{Timeout: 2 * time.Second}

func (n *node) get(ctx context.Context, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := asking.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// shardInfo is what a node tells of a shard.
type shardInfo struct {
	ID        uint64
	Leader    string
	Items     uint64
	Bytes     uint64
	Evictions uint64
}

// shards returns the data shards as the node sees them.
func (n *node) shards(ctx context.Context) ([]shardInfo, error) {
	status, body, err := n.get(ctx, "/v1/shards")
	if err != nil {
		return nil, err
	}
	var list struct{ Shards []shardInfo }
	if err := json.Unmarshal(body, &list); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("/v1/shards at node %s answered %d: %s", n.id, status, body)
	}
	return list.Shards, nil
}

func urls(nodes []*node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.url)
	}
	return strings.Join(all, " ")
}

// tail returns the last lines of a log.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const lines = 10
	all := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
