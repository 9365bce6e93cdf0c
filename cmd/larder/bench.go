package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/httpapi/client/load"
)

func newBenchCmd() *cobra.Command {
	var c client
	var cfg load.Config
	var route, valueSize string
	var fill bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how a cluster answers under load",
		Long: `Measure how a cluster answers under load. It writes to keys of its own, from bench-0000000000 on, and
leaves them there. What failed is counted: refused is what was certainly not applied, unknown what may have been.

With --rate requests are due at even distances, and a latency counts from when its request was due: a server that
stalls shows in all that would have come meanwhile. What could not be sent before the end is counted as
unsent. Without --rate each client sends its next request when the one before is answered, as fast as the cluster
can; those latencies are of clients that wait for each other.

Requests go to the leader of each key's shard. With --route any each client sends all to one of the
servers that --server names, in turn, which forwards.

With --batch N each request is a POST /v1/batch of N operations, all reads or all writes as --reads says, on keys that
are chosen one by one. It goes to the leader of its first key's shard, which forwards what others lead. Rates, --rate
too, and what missed or failed are then counted in operations; latencies are those of requests.

The exit code is 0 when no request failed; else it is that of what failed, unknown outcomes (6) first.`,
		Example: `  larder bench --load                            95 % reads of 100,000 keys by 16 clients for 10 s
  larder bench --load --zipf 0.99 --clients 64   some keys far more popular than others, as in YCSB
  larder bench --rate 2000 --reads 50            2,000 requests a second, half of them writes
  larder bench --reads 0 --value-size 100-4000   writes of 100 to 4,000 bytes
  larder bench --load --batch 100                requests of 100 operations
  larder bench -o json --duration 1m             for a program`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			if err := benchConfig(&cfg, valueSize); err != nil {
				return usageError{err}
			}
			if route != string(load.RouteLeader) && route != string(load.RouteAny) {
				return usageError{fmt.Errorf("--route %q is not leader or any", route)}
			}
			servers, err := parseServers(c.servers)
			if err != nil {
				return usageError{err}
			}
			target := load.HTTP{Route: load.Route(route), Timeout: c.timeout}
			for _, s := range servers {
				if s.Port() == "" || s.Scheme != servers[0].Scheme {
					return usageError{fmt.Errorf("--server %q: each has a port, and all are http or all https", c.servers)}
				}
				target.Addrs = append(target.Addrs, s.String())
			}
			b := bench{out: cmd.OutOrStdout(), status: cmd.ErrOrStderr(), output: c.output, cfg: cfg, target: target, fill: fill}
			return b.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	c.adminFlags(f)
	f.Float64Var(&cfg.Rate, "rate", 0, "operations a second, of all clients together; 0: as many as are answered")
	f.IntVar(&cfg.Clients, "clients", 16, "clients, each with one request at a time")
	f.Float64Var(&cfg.Reads, "reads", 95, "percent of the requests that are reads; the others are writes")
	f.IntVar(&cfg.Batch, "batch", 0, "operations in each request, by POST /v1/batch; 0: each request is a GET or PUT")
	f.Uint64Var(&cfg.Keys, "keys", 100_000, "keys, of 16 bytes")
	f.Float64Var(&cfg.Zipf, "zipf", 0, "popularity of keys: the one of rank i in proportion to 1/i^ZIPF (YCSB has 0.99); 0: all alike")
	f.StringVar(&valueSize, "value-size", "128", "length of values in bytes, or MIN-MAX")
	f.DurationVar(&cfg.Duration, "duration", 10*time.Second, "how long to measure")
	f.DurationVar(&cfg.Warmup, "warmup", time.Second, "how long to send requests before that")
	f.BoolVar(&fill, "load", false, "store all keys first; reads of missing ones are misses")
	f.StringVar(&route, "route", string(load.RouteLeader), "leader: to the leader of each key; any: to a server that forwards")
	f.Uint64Var(&cfg.Seed, "seed", 0, "of the choice of requests, for the same ones again; 0: another one each time")
	return cmd
}

// benchConfig completes cfg, and checks what flags gave it.
func benchConfig(cfg *load.Config, valueSize string) error {
	low, high, isRange := strings.Cut(valueSize, "-")
	if !isRange {
		high = low
	}
	var err error
	if cfg.MinValue, err = strconv.Atoi(low); err == nil {
		cfg.MaxValue, err = strconv.Atoi(high)
	}
	if err != nil {
		return fmt.Errorf("--value-size %q is not a number of bytes, nor MIN-MAX", valueSize)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	return cfg.Validate()
}

// bench is a run, with what it needs.
type bench struct {
	out, status io.Writer
	output      string
	cfg         load.Config
	target      load.HTTP
	fill        bool
}

func (b *bench) run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	target, err := load.Open(ctx, b.target)
	if err != nil {
		return exitError{exitUnavailable, err}
	}
	defer target.Close() // it always succeeds
	if b.fill {
		if err := b.load(ctx, target); err != nil {
			return err
		}
	}
	line := newProgressLine(b.status)
	b.cfg.Progress = func(p load.Progress) {
		text := fmt.Sprintf("%s of %s: %.0f %s/s", p.Elapsed.Round(time.Second), p.Total, p.Rate, b.counted())
		if p.Failed > 0 {
			text += fmt.Sprintf(", %d failed", p.Failed)
		}
		line.show(text)
	}
	result, err := load.Run(ctx, b.cfg, target.Dial)
	line.end()
	if err != nil {
		return unreached(err)
	}
	if err := b.print(result); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: the figures are of the time until then")
	}
	return failuresOf(result)
}

// counted is what rates are of.
func (b *bench) counted() string {
	if b.cfg.Batch > 0 {
		return "operations"
	}
	return "requests"
}

// load stores all keys.
func (b *bench) load(ctx context.Context, target *load.Target) error {
	line := newProgressLine(b.status)
	cfg := b.cfg
	cfg.Progress = func(p load.Progress) {
		line.show(fmt.Sprintf("storing keys: %d/%d (%d%%), %.0f/s", p.Keys, p.AllKeys, 100*p.Keys/p.AllKeys, p.Rate))
	}
	err := load.Fill(ctx, cfg, target.Dial)
	line.end()
	var failure *load.Failure
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.New("interrupted while keys were stored")
	case errors.As(err, &failure):
		return exitError{failureCode(failure.Kind), fmt.Errorf("storing the keys: %w", err)}
	}
	return unreached(err)
}

// unreached is the error where connections can't be made.
func unreached(err error) error {
	return exitError{exitUnavailable, fmt.Errorf("%w: is a server running there (try \"larder dev\"), is --server right?", err)}
}

// failureCode is the exit code that other commands have for such a failure.
func failureCode(kind load.Kind) int {
	switch kind {
	case load.Unknown:
		return exitUnknown
	case load.Denied:
		return exitUnauthorised
	case load.Rejected:
		return exitFailed
	}
	return exitUnavailable
}

// failuresOf is the error for requests that failed: of several kinds, the first of these.
func failuresOf(r *load.Result) error {
	for _, kind := range []load.Kind{load.Unknown, load.Denied, load.Rejected, load.Unavailable} {
		if r.Failures(kind) > 0 {
			return exitError{failureCode(kind), fmt.Errorf("%d were refused and %d have an unknown outcome: %s", r.Refused, r.Unknown, reasons(r))}
		}
	}
	return nil
}

// reasons are those of failures, the most frequent first.
func reasons(r *load.Result) string {
	type reason struct {
		text  string
		count uint64
	}
	var all []reason
	for text, count := range r.Reasons {
		all = append(all, reason{text, count})
	}
	slices.SortFunc(all, func(a, b reason) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.text, b.text))
	})
	var texts []string
	for _, x := range all {
		texts = append(texts, fmt.Sprintf("%s (%d)", oneLine(x.text), x.count))
	}
	return strings.Join(texts, ", ")
}

// benchReport is a run with -o json.
type benchReport struct {
	Servers      []string   `json:"servers"`
	Route        load.Route `json:"route"`
	Clients      int        `json:"clients"`
	Batch        int        `json:"batch"`        // operations in each request; 0: each is a GET or PUT
	RatesOf      string     `json:"rates_of"`     // and all counts but those of latencies
	LatenciesOf  string     `json:"latencies_of"` // with their counts
	TargetRate   float64    `json:"target_rate"`  // 0: closed loop
	ReadPercent  float64    `json:"read_percent"`
	Keys         uint64     `json:"keys"`
	Zipf         float64    `json:"zipf"`
	MinValueSize int        `json:"min_value_size"`
	MaxValueSize int        `json:"max_value_size"`
	Seed         uint64     `json:"seed"`
	*load.Result
}

func (b *bench) print(r *load.Result) error {
	if b.output == "json" {
		return printValue(b.out, benchReport{
			Servers: b.target.Addrs, Route: b.target.Route, Clients: b.cfg.Clients,
			Batch: b.cfg.Batch, RatesOf: "operations", LatenciesOf: "requests", TargetRate: b.cfg.Rate,
			ReadPercent: b.cfg.Reads, Keys: b.cfg.Keys, Zipf: b.cfg.Zipf,
			MinValueSize: b.cfg.MinValue, MaxValueSize: b.cfg.MaxValue, Seed: b.cfg.Seed, Result: r,
		})
	}
	in := ""
	if b.cfg.Batch > 0 {
		in = fmt.Sprintf(" in requests of %d", b.cfg.Batch)
	}
	fmt.Fprintf(b.out, "%.1f s: %.0f %s answered a second%s, %d misses, %d refused, %d unknown, %d unsent. Milliseconds:\n\n",
		r.Seconds, r.Rate, b.counted(), in, r.Misses, r.Refused, r.Unknown, r.Unsent)
	t := newTable(b.out, "REQUESTS", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "P99.99", "MAX")
	for _, part := range []struct {
		name string
		load.Latencies
	}{{"read", r.Reads}, {"write", r.Writes}, {"all", r.All}} {
		if part.Count > 0 {
			t.row(part.name, part.Count, ms(part.Mean), ms(part.P50), ms(part.P90), ms(part.P99), ms(part.P999), ms(part.P9999), ms(part.Max))
		}
	}
	return t.flush()
}

// ms is microseconds as milliseconds.
func ms(us float64) string { return strconv.FormatFloat(us/1000, 'f', 3, 64) }
