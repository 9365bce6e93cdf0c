// Command failover measures how long writes stand still when a node is lost: three nodes, clients that write to all shards without
// a pause, and one of three faults to the node that leads most shards:
//
//	kill   its process is ended as kill -9 does, and started again later
//	stop   its process stands still (SIGSTOP), and goes on later
//	cut    the others don't hear it, nor it them; its clients still reach it
//
// Root has nodes in namespaces of their own (-net tap). Without, there are TCP proxies between them, which hide that
// an address refuses connections: a node that is killed is then missed no sooner than one that is silent.
//
// Of each shard that the node led the time is measured from the fault to the first write that succeeded and began after
// it; a write that was under way may be acknowledged late, and says nothing. A round has the longest of these times. Then the fault is
// undone, and the next one waits until all is as it was, the leaders spread evenly.
//
//	make bench-failover                     (from the root; about ten minutes)
//	make bench-failover ARGS='-rounds 3 -faults cut -larder-args "--log-store bolt"'
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
	"github.com/larder-cache/larder/integration/cluster"
)

type config struct {
	faults  []fault
	rounds  int
	shards  int
	writers int
	timeout time.Duration // of an attempt
	limit   time.Duration // of each wait
	net     cluster.Net
	binary  string
	dir     string
	json    string
	args    []string
}

func main() { local.Main("failover", run) }

const netAuto = "auto"

func parse(args []string, status io.Writer) (config, error) {
	cfg := config{}
	var names []string
	for _, f := range allFaults {
		names = append(names, f.name)
	}
	var faults, net, extra string
	f := flag.NewFlagSet("failover", flag.ContinueOnError)
	f.SetOutput(status)
	f.StringVar(&faults, "faults", strings.Join(names, ","), "how nodes are lost")
	f.IntVar(&cfg.rounds, "rounds", 10, "rounds of each fault")
	f.IntVar(&cfg.shards, "shards", 8, "shards, each with a replica on each of three nodes")
	f.IntVar(&cfg.writers, "writers", 64, "clients that write, each to one shard, one request at a time")
	f.DurationVar(&cfg.timeout, "timeout", 500*time.Millisecond, "how long a client waits for an answer until it asks another node")
	f.DurationVar(&cfg.limit, "limit", 2*time.Minute, "how long to wait for writes, and until all is as it was")
	f.StringVar(&net, "net", netAuto, "tap: namespaces and a switch, for root; proxy: TCP proxies between nodes; auto: tap where it can be")
	f.StringVar(&cfg.binary, "larder", "", "the server; default: built from the sources")
	f.StringVar(&cfg.dir, "dir", os.TempDir(), "folder for data")
	f.StringVar(&cfg.json, "json", "", "file for all figures")
	f.StringVar(&extra, "larder-args", "", "flags for the nodes, for example --log-store bolt")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	for name := range strings.SplitSeq(faults, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return cfg, fmt.Errorf("-faults %q: want some of %s", name, strings.Join(names, ","))
		}
		cfg.faults = append(cfg.faults, allFaults[i])
	}
	if net == netAuto {
		if net = string(cluster.Tap); cluster.CanTap() != nil {
			net = string(cluster.Proxy)
		}
	}
	cfg.net, cfg.args = cluster.Net(net), strings.Fields(extra)
	switch {
	case cfg.net != cluster.Tap && cfg.net != cluster.Proxy:
		return cfg, fmt.Errorf("-net %q: want %s, %s or %s", net, netAuto, cluster.Tap, cluster.Proxy)
	case cfg.rounds < 1 || cfg.shards < 1 || cfg.timeout <= 0 || cfg.limit <= 0 || f.NArg() > 0:
		return cfg, errors.New("-rounds, -shards, -timeout and -limit are above 0, and there are no arguments")
	case cfg.writers < cfg.shards:
		return cfg, fmt.Errorf("%d writers do not write to all of %d shards", cfg.writers, cfg.shards)
	}
	return cfg, nil
}

func run(ctx context.Context, args []string, out, status io.Writer) (err error) {
	cfg, err := parse(args, status)
	if err != nil {
		return err
	}
	site, err := local.OpenSite("failover", cfg.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if cfg.binary, err = site.Larder(cfg.binary, status); err != nil {
		return err
	}
	found := findings{Machine: local.Machine(), Args: args, Net: cfg.net}
	measured := measure(ctx, cfg, filepath.Join(site.Dir, "nodes"), status, &found)

	// What was measured until something went wrong is told all the same.
	r := report.New(out)
	r.Textf("%s", found.Machine)
	found.print(r, cfg)
	if cfg.json != "" {
		if err := report.Save(cfg.json, found); err != nil {
			return errors.Join(measured, err)
		}
	}
	if measured != nil {
		return measured
	}
	found.judge(r)
	return r.Close()
}

// measure goes through all rounds, the faults in turn, so that what changes on the machine meets all of them.
func measure(ctx context.Context, cfg config, dir string, status io.Writer, found *findings) (err error) {
	began := time.Now()
	b, err := start(ctx, cfg, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.Close()) }()
	for round := 1; round <= cfg.rounds; round++ {
		for _, f := range cfg.faults {
			l, err := b.round(ctx, f, round)
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", round, f.name, err)
			}
			found.Losses = append(found.Losses, l)
			fmt.Fprintf(status, "round %d/%d, %s of %s, which led %d of %d shards: written again after %.2f s; %.0f writes/s before\n",
				round, cfg.rounds, f.name, l.Node, len(l.Shards), cfg.shards, l.longest(), l.Rate)
		}
	}
	fmt.Fprintf(status, "it took %s\n", time.Since(began).Round(time.Second))
	return nil
}
