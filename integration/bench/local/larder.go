package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/port"
)

// Config says what cluster of Larder to run.
type Config struct {
	Binary string
	Dir    string // of data and logs; made where it is missing
	Nodes  int
	Shards int
	Args   []string // added to each node's flags
}

// Node is one process of Larder.
type Node struct {
	*Process
	ID   string
	Addr string // HOST:PORT for clients
	Peer string // HOST:PORT for other nodes
	args []string
	bin  string
}

// Larder is a cluster of nodes.
type Larder struct{ Nodes []*Node }

var asking = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// StartLarder starts a cluster. Ready waits until it serves; Close ends it.
func StartLarder(cfg Config) (*Larder, error) {
	l := &Larder{}
	var initial []string
	for i := range cfg.Nodes {
		addr, addrErr := port.Free("127.0.0.1")
		peer, peerErr := port.Free("127.0.0.1")
		if err := errors.Join(addrErr, peerErr); err != nil {
			return nil, err
		}
		n := &Node{ID: string(rune('a' + i)), Addr: addr, Peer: peer, bin: cfg.Binary}
		l.Nodes = append(l.Nodes, n)
		initial = append(initial, n.ID+"="+peer)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	for _, n := range l.Nodes {
		n.args = append([]string{
			"server", "--id", n.ID, "--data-dir", filepath.Join(cfg.Dir, n.ID), "--http", n.Addr, "--raft", n.Peer,
			"--initial-cluster", strings.Join(initial, ","), "--initial-shards", strconv.Itoa(cfg.Shards), "--log-level", "warn",
		}, cfg.Args...)
		p, err := Start("larder "+n.ID, filepath.Join(cfg.Dir, n.ID+".log"), n.bin, n.args...)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		n.Process = p
	}
	return l, nil
}

// Close ends all nodes.
func (l *Larder) Close() error {
	var errs []error
	for _, n := range l.Nodes {
		if n.Process != nil {
			errs = append(errs, n.Process.Kill()) // its data is thrown away
		}
	}
	return errors.Join(errs...)
}

// Ready waits until all nodes are ready.
func (l *Larder) Ready(ctx context.Context) error {
	for _, n := range l.Nodes {
		if err := n.Await(ctx, "ready", func() bool {
			_, err := n.Ask(ctx, "/readyz")
			return err == nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Ask returns what the node answers to a path, with the status 200.
func (n *Node) Ask(ctx context.Context, path string) (string, error) {
	return Fetch(ctx, "http://"+n.Addr+path)
}

// Fetch returns what a server answers to a GET, with the status 200.
func Fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := asking.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

// Leaders returns the leader of each data shard by the node's view, "" where it knows of none.
func (n *Node) Leaders(ctx context.Context) (map[uint64]string, error) {
	body, err := n.Ask(ctx, "/v1/directory")
	if err != nil {
		return nil, err
	}
	var table cluster.Directory
	if err := json.Unmarshal([]byte(body), &table); err != nil {
		return nil, err
	}
	leaders := map[uint64]string{}
	for _, sh := range table.Shards {
		leaders[sh.ID] = sh.Leader
	}
	return leaders, nil
}

// Spread waits until the nodes lead equally many shards, but for one, which they bring about by themselves.
func (l *Larder) Spread(ctx context.Context) error {
	var nodes []string
	for _, n := range l.Nodes {
		nodes = append(nodes, n.ID)
	}
	return l.Nodes[0].Await(ctx, "leading its part", func() bool {
		leaders, err := l.Nodes[0].Leaders(ctx)
		return err == nil && Spread(leaders, nodes)
	})
}

// Metric returns the sum of a metric over its labels, and false where the node has none of that name.
func (n *Node) Metric(ctx context.Context, name string) (sum float64, found bool, err error) {
	text, err := n.Ask(ctx, "/metrics")
	if err != nil {
		return 0, false, err
	}
	return Metric(text, name)
}

// Metric returns the sum of a metric over its labels in an exposition of Prometheus, and false where there is none of that name.
func Metric(text, name string) (sum float64, found bool, err error) {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndexByte(rest, '}')+1:])
		if len(fields) == 0 {
			return 0, false, fmt.Errorf("metric %q has no value", lines.Text())
		}
		value, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, false, fmt.Errorf("metric %q: %w", lines.Text(), err)
		}
		sum, found = sum+value, true
	}
	return sum, found, lines.Err()
}
