// Command peers measures Larder beside etcd, Redis and a bare HTTP handler: in one run, by one client program
// (httpapi/client/load), with as many connections, the same requests and values.
//
// Systems are:
//
//	larder-1, larder-8, larder-64  three processes with so many shards, durable as they are by default, over REST; any number goes
//	larder-8-lease                 the same with --read-mode lease
//	larder-8-bolt                  the same with --log-store bolt; larder-8-lease-bolt has both
//	etcd-E1                        three processes, durable as they are by default; a connection per client
//	etcd-E16                       the same ones; 16 clients share a connection
//	redis                          redis-server alone, which writes nothing to disk: what consistency costs
//	bare                           a handler of net/http and gorilla/mux that keeps values in a map: what HTTP costs
//
// Clients go straight to leaders, Larder's and etcd's. All reads are linearizable. Each round runs each system on its own, from an empty
// folder, through all numbers of connections and all mixes; figures are medians over rounds, ratios medians
// over the ratios of a round. On a noisy machine an absolute figure says little.
//
//	make bench                       (from the root; less than 20 minutes)
//	make bench ARGS=-quick           (up to 4 minutes: orientation)
//	make bench ARGS='-only rss'      memory per entry
//	make bench ARGS='-systems larder-8,etcd-E1 -conns 64 -mixes read -rounds 9'
//
// It is a module of its own, since etcd's libraries would raise the versions of some that the server shares with
// integration's other benchmarks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/bench/local"
	"github.com/larder-cache/larder/integration/bench/report"
)

// Keys have 16 bytes (load.KeySize).
const valueSize = 128

type config struct {
	only     []string
	systems  []string
	conns    []int
	mixes    []mix
	rounds   int
	warmup   time.Duration
	duration time.Duration
	keys     uint64
	items    uint64
	binary   string
	dir      string
	json     string
	plots    string
	args     []string
}

// mix is a kind of load.
type mix struct {
	name  string
	reads float64 // percent
}

var (
	allParts = []string{"speed", "rss"}
	allMixes = []mix{{"read", 100}, {"write", 0}, {"95:5", 95}}
)

func main() {
	local.Main("peers", func(ctx context.Context, args []string, out, status io.Writer) error {
		if len(args) > 0 && args[0] == "child" {
			return child(ctx, args[1:])
		}
		return run(ctx, args, out, status)
	})
}

func parse(args []string, status io.Writer) (config, error) {
	cfg := config{}
	var only, systems, conns, mixes, extra string
	var quick bool
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.SetOutput(status)
	f.StringVar(&only, "only", strings.Join(allParts, ","), "what to measure")
	f.StringVar(&systems, "systems", strings.Join(defaultSystems, ","), "which systems")
	f.StringVar(&conns, "conns", "1,16,64,256", "numbers of connections")
	f.StringVar(&mixes, "mixes", "read,write,95:5", "kinds of load")
	f.IntVar(&cfg.rounds, "rounds", 3, "rounds")
	f.DurationVar(&cfg.warmup, "warmup", 500*time.Millisecond, "time before each measurement")
	f.DurationVar(&cfg.duration, "duration", 1500*time.Millisecond, "length of each measurement")
	f.Uint64Var(&cfg.keys, "keys", 5_000, "keys, all of which have a value")
	f.Uint64Var(&cfg.items, "items", 1_000_000, "entries of which memory is measured")
	f.StringVar(&cfg.binary, "larder", "", "the server; default: built from the sources")
	f.StringVar(&cfg.dir, "dir", os.TempDir(), "folder for data")
	f.StringVar(&cfg.json, "json", "", "file for all figures")
	f.StringVar(&cfg.plots, "plots", "", "folder for plots (SVG)")
	f.StringVar(&extra, "larder-args", "", "flags for the nodes of Larder, for example --memory-only")
	f.BoolVar(&quick, "quick", false, "as -only speed -rounds 1 -conns 1,64,256 -duration 1s -keys 2000, where those are not given")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	if quick {
		for name, value := range map[string]string{"only": "speed", "rounds": "1", "conns": "1,64,256", "duration": "1s", "keys": "2000"} {
			given := false
			f.Visit(func(x *flag.Flag) { given = given || x.Name == name })
			if !given {
				if err := f.Set(name, value); err != nil {
					return cfg, err
				}
			}
		}
	}
	var err error
	if cfg.only, err = some("only", only, allParts); err != nil {
		return cfg, err
	}
	cfg.systems = strings.Split(systems, ",")
	for _, name := range cfg.systems {
		if err := checkSystem(name); err != nil {
			return cfg, fmt.Errorf("-systems: %w", err)
		}
	}
	var names []string
	for _, m := range allMixes {
		names = append(names, m.name)
	}
	if names, err = some("mixes", mixes, names); err != nil {
		return cfg, err
	}
	for _, m := range allMixes {
		if slices.Contains(names, m.name) {
			cfg.mixes = append(cfg.mixes, m)
		}
	}
	for text := range strings.SplitSeq(conns, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return cfg, fmt.Errorf("-conns %q: want numbers above 0", text)
		}
		cfg.conns = append(cfg.conns, n)
	}
	cfg.args = strings.Fields(extra)
	if cfg.rounds < 1 || cfg.duration <= 0 || cfg.warmup < 0 || cfg.keys < 1 || cfg.items < 1 || f.NArg() > 0 {
		return cfg, errors.New("-rounds, -duration, -keys and -items are above 0, and there are no arguments")
	}
	return cfg, nil
}

// some splits a list of names, each of which is one of all.
func some(flag, list string, all []string) ([]string, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("-%s %q: want some of %s", flag, name, strings.Join(all, ","))
		}
	}
	return names, nil
}

func run(ctx context.Context, args []string, out, status io.Writer) error {
	cfg, err := parse(args, status)
	if err != nil {
		return err
	}
	began := time.Now()
	b, err := newBench(cfg, status)
	if err != nil {
		return err
	}
	defer b.close()
	r := report.New(out)
	found := findings{Machine: local.Machine(), Args: args}
	r.Textf("%s", found.Machine)
	if slices.Contains(cfg.only, "speed") {
		if err := b.speed(ctx, &found); err != nil {
			return err
		}
		found.printSpeed(r, cfg)
	}
	if slices.Contains(cfg.only, "rss") {
		if err := b.memory(ctx, &found); err != nil {
			return err
		}
		found.printMemory(r)
	}
	for _, word := range found.Skipped {
		r.Textf("%s", word)
	}
	if cfg.json != "" {
		if err := report.Save(cfg.json, found); err != nil {
			return err
		}
	}
	if cfg.plots != "" {
		if err := found.plot(cfg.plots); err != nil {
			return err
		}
	}
	found.judge(r)
	fmt.Fprintf(status, "it took %s\n", time.Since(began).Round(time.Second))
	return r.Close()
}
