// Command fsm measures the state machine against golang-lru, a plain map with a list, and Redis.
//
// It tells what Apply of decoded puts, Get and touches cost, what an entry costs in memory, what the
// garbage collector takes, how long a snapshot holds Apply up, and what becomes of memory under churn.
// Each subject runs in a child process of its own, so that heaps don't mix. Rounds are interleaved, and
// ratios are medians over pairs of rounds: on a noisy machine an absolute time says little.
//
//	go run ./bench/fsm                   (from the folder integration)
//	go run ./bench/fsm -only speed,heap -entries 1000000
//
// It needs about 8 GiB of memory, and redis-server in PATH for the comparison with Redis.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/larder-cache/larder/integration/bench/report"
)

// Keys have keySize bytes and values valueSize, unless said otherwise.
const (
	keySize   = 16
	valueSize = 128
)

// parts are what can be measured, in order.
var parts = []string{"speed", "heap", "snapshot", "churn"}

type config struct {
	only     []string
	entries  []int
	rounds   int
	ops      int
	mixed    time.Duration
	snapshot snapshotConfig
	churn    churnConfig
	dir      string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "child" {
		err = child(os.Args[2:], os.Stdin, os.Stdout)
	} else {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "fsm:", err)
		os.Exit(1)
	}
}

func parse(args []string, status io.Writer) (config, error) {
	cfg := config{}
	var only, entries string
	f := flag.NewFlagSet("fsm", flag.ContinueOnError)
	f.SetOutput(status)
	f.StringVar(&only, "only", strings.Join(parts, ","), "what to measure")
	f.StringVar(&entries, "entries", "1000000,5000000", "entries of a subject, for speed and heap")
	f.IntVar(&cfg.rounds, "rounds", 9, "rounds of each operation")
	f.IntVar(&cfg.ops, "ops", 500_000, "operations of a round")
	f.DurationVar(&cfg.mixed, "mixed", 15*time.Second, "length of the read-mostly run")
	f.Uint64Var(&cfg.snapshot.Bytes, "snapshot-bytes", 1<<30, "state of which snapshots are taken")
	f.IntVar(&cfg.snapshot.Rate, "snapshot-rate", 20_000, "puts per second meanwhile")
	f.IntVar(&cfg.snapshot.Runs, "snapshot-runs", 5, "snapshots")
	f.Uint64Var(&cfg.churn.Bound, "churn-bound", 512<<20, "bound of the state under churn, bytes")
	f.Uint64Var(&cfg.churn.Times, "churn-times", 24, "how many times the bound is written")
	f.Float64Var(&cfg.churn.Share, "churn-heap", 0.75, "part of a server's memory that its heap is limited to")
	f.StringVar(&cfg.dir, "dir", os.TempDir(), "folder for snapshots and sockets")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	for name := range strings.SplitSeq(only, ",") {
		if !slices.Contains(parts, name) {
			return cfg, fmt.Errorf("-only %q: want some of %s", name, strings.Join(parts, ","))
		}
		cfg.only = append(cfg.only, name)
	}
	for text := range strings.SplitSeq(entries, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return cfg, fmt.Errorf("-entries %q: want numbers above 0", text)
		}
		cfg.entries = append(cfg.entries, n)
	}
	if cfg.rounds < 1 || cfg.ops < 64 || cfg.snapshot.Rate < 1 || cfg.snapshot.Runs < 1 || f.NArg() > 0 {
		return cfg, errors.New("-rounds, -snapshot-rate and -snapshot-runs start at 1, -ops at 64, and there are no arguments")
	}
	return cfg, nil
}

func run(ctx context.Context, args []string, out, status io.Writer) error {
	cfg, err := parse(args, status)
	if err != nil {
		return err
	}
	r := report.New(out)
	if slices.Contains(cfg.only, "speed") || slices.Contains(cfg.only, "heap") {
		for _, n := range cfg.entries {
			if err := compare(ctx, cfg, n, r, status); err != nil {
				return err
			}
		}
	}
	if slices.Contains(cfg.only, "snapshot") {
		if err := snapshots(ctx, cfg, r, status); err != nil {
			return err
		}
	}
	if slices.Contains(cfg.only, "churn") {
		if err := churned(ctx, cfg, r, status); err != nil {
			return err
		}
	}
	return r.Close()
}
