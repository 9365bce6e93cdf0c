// Command demo shows a Larder cluster at work on a real trace of accesses.
//
// It starts three `larder server` processes on loopback and replays a trace over REST the way a
// program uses a cache beside a database: GET, and on a miss PUT. Before the last part of the trace it kills a
// leader with kill -9, shows how long it takes until that shard is written to through another
// node, and goes on. At the end, or at ^C, it stops the processes and removes their data.
//
// Memory is tight: the nodes have room for a tenth of the trace's keys (--fill), so entries are evicted,
// and the hit ratio is shown beside that of an exact LRU of the same bytes.
//
//	go run ./scripts/demo --larder bin/larder --trace accesses.txt.gz
//
// A trace has one key per line, in order of access, plain or gzip. Without one, --synthetic makes
// up accesses whose popularity follows Zipf's law, as that of web pages does.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	larder      string
	trace       string
	synthetic   bool
	clients     int
	shards      int
	valueSize   int
	fill        float64
	maxMemory   string
	cacheMemory string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; the nodes are stopped and their data is removed")
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// run is the whole demo. Results go to out, progress and complaints to status.
func run(ctx context.Context, args []string, out, status io.Writer) error {
	cfg, err := parse(args, status)
	if err != nil {
		return err
	}
	keys, name, err := accesses(cfg)
	if err != nil {
		return err
	}
	var memory *room
	if cfg.fill > 0 {
		r, err := roomFor(keys, cfg.fill, cfg.shards, cfg.valueSize, cmp.Or(cfg.maxMemory, maxMemory))
		if err != nil {
			return err
		}
		memory, cfg.cacheMemory = &r, strconv.FormatUint(r.node, 10)
	}
	dir, err := os.MkdirTemp("", "larder-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	started := time.Now()
	nodes, err := startNodes(ctx, cfg, dir)
	defer stopNodes(nodes)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d nodes, %d shards, ready after %.1f s: %s\n", len(nodes), cfg.shards, time.Since(started).Seconds(), urls(nodes))
	if memory != nil {
		fmt.Fprintf(out, "%s bytes for entries in %d shards: room for %.3g %% of %s keys\n",
			thousands(int(memory.all)), cfg.shards, 100*cfg.fill, thousands(memory.keys))
	}
	fmt.Fprintf(out, "replaying %s accesses of %s with %d clients\n\n", thousands(len(keys)), name, cfg.clients)
	return show(ctx, cfg, keys, memory, nodes, out, status)
}

// show replays most of the trace, kills a leader, replays the rest, and reports; beside an exact LRU of the
// same memory, where that is known.
func show(ctx context.Context, cfg config, keys []string, memory *room, nodes []*node, out, status io.Writer) error {
	const before = 0.8 // the part of the trace that comes before the kill
	cut := int(float64(len(keys)) * before)
	r := newReplay(nodes, cfg.valueSize)

	first, err := r.run(ctx, keys[:cut], cfg.clients, status)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "\nall three nodes:")
	if _, err := report(ctx, out, first, nodes); err != nil {
		return err
	}

	victim, shard, err := leaderOfBusiest(ctx, nodes)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nkill -9 of node %s, leader of shard %d\n", victim.id, shard)
	took, through, err := killAndWrite(ctx, victim, shard, nodes)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "first write to shard %d succeeded through node %s after %.2f s\n\n", shard, through, took.Seconds())

	second, err := r.run(ctx, keys[cut:], cfg.clients, status)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nthe rest of the trace, without node %s:\n", victim.id)
	evictions, err := report(ctx, out, second, nodes)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "\nall of it:")
	all := first.add(second)
	if err := summary(out, all); err != nil || memory == nil {
		return err
	}
	exact := newLRU(memory.all)
	for _, key := range keys {
		exact.access(key, cost(key, cfg.valueSize))
	}
	return compare(out, all, evictions, exact)
}

// parse reads the flags.
func parse(args []string, status io.Writer) (config, error) {
	cfg := config{}
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.SetOutput(status)
	f.StringVar(&cfg.larder, "larder", "bin/larder", "the larder binary (make build)")
	f.StringVar(&cfg.trace, "trace", "", "file with one key per line, plain or .gz")
	f.BoolVar(&cfg.synthetic, "synthetic", false, "make up accesses instead")
	f.IntVar(&cfg.clients, "clients", 8, "clients at once")
	f.IntVar(&cfg.shards, "shards", 4, "shards that the keys are divided among")
	f.IntVar(&cfg.valueSize, "value-size", 400, "bytes of a value")
	f.Float64Var(&cfg.fill, "fill", 0.1, "part of the trace's keys that fits into memory, 0 to 1; 0 leaves the memory to the server")
	f.StringVar(&cfg.maxMemory, "max-memory", "", "memory of each node, for example 64MiB (default the server's)")
	f.StringVar(&cfg.cacheMemory, "cache-memory", "", "part of it for entries, for example 8MiB or 60%, instead of --fill")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	given := make(map[string]bool)
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if cfg.cacheMemory != "" && !given["fill"] {
		cfg.fill = 0
	}
	switch {
	case cfg.cacheMemory != "" && cfg.fill != 0:
		return cfg, errors.New("--fill and --cache-memory exclude each other")
	case !(cfg.fill >= 0 && cfg.fill <= 1):
		return cfg, fmt.Errorf("--fill is %g, want 0 to 1", cfg.fill)
	case f.NArg() > 0:
		return cfg, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case cfg.clients < 1 || cfg.shards < 1 || cfg.valueSize < 1:
		return cfg, errors.New("--clients, --shards and --value-size must be above 0")
	case cfg.synthetic && cfg.trace != "":
		return cfg, errors.New("--synthetic and --trace exclude each other")
	}
	if _, err := os.Stat(cfg.larder); err != nil {
		return cfg, fmt.Errorf("no larder binary at %s: run make build, or give its path with --larder", cfg.larder)
	}
	absolute, err := filepath.Abs(cfg.larder)
	cfg.larder = absolute
	return cfg, err
}
