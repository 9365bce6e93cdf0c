// Command idle measures what many shards cost that nobody uses: how long a cluster of three takes to be up, what each node takes of a
// processor and of memory, how many TCP connections there are between nodes, and how long it takes until all
// shards have leaders again after a node is killed.
//
//	make bench-idle                     (from the root; a minute or two)
//	make bench-idle ARGS='-shards 100'
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/bench/local"
	"github.com/larder-cache/larder/integration/bench/report"
)

// What a cluster with that many idle shards is to keep to.
const (
	maxUp      = 10 * time.Second
	maxCPU     = 25.0 // percent of one processor, of each node
	maxRSS     = 250.0
	maxLinks   = 2 // of each pair of nodes
	maxElected = 10 * time.Second
)

type config struct {
	shards int
	settle time.Duration
	window time.Duration
	limit  time.Duration
	binary string
	dir    string
	args   []string
}

func main() { local.Main("idle", run) }

func parse(args []string, status io.Writer) (config, error) {
	cfg := config{}
	var extra string
	f := flag.NewFlagSet("idle", flag.ContinueOnError)
	f.SetOutput(status)
	f.IntVar(&cfg.shards, "shards", 1000, "shards, each with a replica on each of three nodes")
	f.DurationVar(&cfg.settle, "settle", 10*time.Second, "time between start and measurement")
	f.DurationVar(&cfg.window, "window", 15*time.Second, "time over which processor time is measured")
	f.DurationVar(&cfg.limit, "limit", 2*time.Minute, "how long to wait until nodes are up, and until leaders are elected")
	f.StringVar(&cfg.binary, "larder", "", "the server; default: built from the sources")
	f.StringVar(&cfg.dir, "dir", os.TempDir(), "folder for data")
	f.StringVar(&extra, "larder-args", "--max-memory 4GiB", "flags for the nodes")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	cfg.args = strings.Fields(extra)
	if cfg.shards < 1 || cfg.window <= 0 || cfg.settle < 0 || cfg.limit <= 0 || f.NArg() > 0 {
		return cfg, errors.New("-shards, -window and -limit are above 0, and there are no arguments")
	}
	return cfg, nil
}

func run(ctx context.Context, args []string, out, status io.Writer) (err error) {
	cfg, err := parse(args, status)
	if err != nil {
		return err
	}
	site, err := local.OpenSite("idle", cfg.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if cfg.binary, err = site.Larder(cfg.binary, status); err != nil {
		return err
	}

	began := time.Now()
	l, err := local.StartLarder(local.Config{Binary: cfg.binary, Dir: filepath.Join(site.Dir, "nodes"), Nodes: 3, Shards: cfg.shards, Args: cfg.args})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	limited, cancel := context.WithTimeout(ctx, cfg.limit)
	defer cancel()
	if err := l.Ready(limited); err != nil {
		return err
	}
	up := time.Since(began)
	start, err := local.CPU(l.Nodes)
	if err != nil {
		return err
	}
	fmt.Fprintf(status, "up after %s, which took the nodes %s of processors\n", up.Round(time.Millisecond), start.Round(time.Millisecond))

	if err := pass(ctx, cfg.settle); err != nil {
		return err
	}
	usage, err := measure(ctx, l, cfg.window)
	if err != nil {
		return err
	}
	elected, election, err := reelect(ctx, l, cfg)
	if err != nil {
		return err
	}

	r := report.New(out)
	r.Section(fmt.Sprintf("%d idle shards on three nodes", cfg.shards))
	var rows [][]string
	for i, n := range l.Nodes {
		rows = append(rows, []string{n.ID, fmt.Sprintf("%.1f", usage.cpu[i]), fmt.Sprintf("%.0f", usage.rss[i])})
	}
	r.Table([]string{"node", "CPU %", "RSS MB"}, rows)
	r.Textf("The nodes together took %s of processors until they were up, and %s to elect leaders again.", start.Round(time.Millisecond), election.Round(time.Millisecond))
	r.Bar(up <= maxUp, fmt.Sprintf("up in %s", maxUp), up.Round(time.Millisecond).String())
	r.Bar(slices.Max(usage.cpu) < maxCPU, fmt.Sprintf("less than %g %% of a processor on each node", maxCPU), fmt.Sprintf("%.1f %%", slices.Max(usage.cpu)))
	r.Bar(slices.Max(usage.rss) < maxRSS, fmt.Sprintf("less than %g MB on each node", maxRSS), fmt.Sprintf("%.0f MB", slices.Max(usage.rss)))
	r.Bar(usage.links <= maxLinks, fmt.Sprintf("at most %d connections between two nodes", maxLinks), fmt.Sprint(usage.links))
	r.Bar(elected <= maxElected, fmt.Sprintf("all shards led again in %s after a node was killed", maxElected), elected.Round(time.Millisecond).String())
	return r.Close()
}

// pass waits.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// usage is what nodes take, by node.
type usage struct {
	cpu   []float64 // percent of one processor
	rss   []float64 // MB
	links int       // TCP connections, of the pair of nodes that has most
}

func measure(ctx context.Context, l *local.Larder, window time.Duration) (u usage, err error) {
	var before []time.Duration
	began := time.Now()
	for _, n := range l.Nodes {
		cpu, err := n.CPU()
		if err != nil {
			return u, err
		}
		before = append(before, cpu)
	}
	if err := pass(ctx, window); err != nil {
		return u, err
	}
	for i, n := range l.Nodes {
		cpu, err := n.CPU()
		if err != nil {
			return u, err
		}
		rss, err := n.RSS()
		if err != nil {
			return u, err
		}
		u.cpu = append(u.cpu, 100*float64(cpu-before[i])/float64(time.Since(began)))
		u.rss = append(u.rss, float64(rss)/1e6)
	}
	for i, a := range l.Nodes {
		for _, b := range l.Nodes[:i] {
			links, err := local.Connections(a.Pid(), b.Pid())
			if err != nil {
				return u, err
			}
			u.links = max(u.links, links)
		}
	}
	return u, nil
}

// reelect kills the node that leads most shards, and returns how long it takes until both others know of leaders of all shards, and
// how long these used processors for it.
func reelect(ctx context.Context, l *local.Larder, cfg config) (took, cpu time.Duration, err error) {
	leaders, err := l.Nodes[0].Leaders(ctx)
	if err != nil {
		return 0, 0, err
	}
	count := local.Leads(leaders)
	victim := slices.MaxFunc(l.Nodes, func(a, b *local.Node) int { return count[a.ID] - count[b.ID] })
	rest := slices.DeleteFunc(slices.Clone(l.Nodes), func(n *local.Node) bool { return n == victim })
	before, err := local.CPU(rest)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := victim.Kill(); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.limit)
	defer cancel()
	for _, n := range rest {
		if err := n.Await(ctx, "aware of leaders of all shards", func() bool {
			leaders, err := n.Leaders(ctx)
			return err == nil && allLed(leaders, victim.ID, cfg.shards)
		}); err != nil {
			return 0, 0, err
		}
	}
	took = time.Since(began)
	after, err := local.CPU(rest)
	return took, after - before, err
}

// allLed reports whether all shards have leaders, and none of them is on the node that is gone.
func allLed(leaders map[uint64]string, gone string, shards int) bool {
	for _, leader := range leaders {
		if leader == "" || leader == gone {
			return false
		}
	}
	return len(leaders) >= shards
}
