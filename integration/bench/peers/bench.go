package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/local"
)

// bench starts systems and measures them.
type bench struct {
	cfg    config
	status io.Writer
	self   string // this program
	larder string // the server
	site   *local.Site
}

func newBench(cfg config, status io.Writer) (*bench, error) {
	b := &bench{cfg: cfg, status: status}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if b.site, err = local.OpenSite("peers", cfg.dir); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(cfg.systems, isLarder) {
		if b.larder, err = b.site.Larder(cfg.binary, status); err != nil {
			return nil, errors.Join(err, b.site.Close())
		}
	}
	return b, nil
}

func (b *bench) close() error { return b.site.Close() }

// start starts a system in a new folder, which close of the system leaves for clean.
func (b *bench) start(ctx context.Context, name string) (s system, clean func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	dir, err := os.MkdirTemp(b.site.Dir, name+"-")
	if err != nil {
		return nil, nil, err
	}
	kind, variant, _ := strings.Cut(name, "-")
	switch kind {
	case "larder":
		s, err = startLarder(ctx, b.cfg, b.larder, dir, name, b.status)
	case "etcd":
		shared, _ := strconv.Atoi(strings.TrimPrefix(variant, "E"))
		s, err = startEtcd(ctx, b.self, dir, shared)
	case "redis":
		s, err = startRedis(ctx, dir)
	case "bare":
		s, err = startBare(ctx, b.self, dir)
	}
	if err != nil {
		return nil, nil, err
	}
	return s, func() error { return errors.Join(s.close(), os.RemoveAll(dir)) }, nil
}

// speed measures all systems, one after the other, in each round: in the other direction every second time, so that a
// machine that gets slower or faster favours none.
func (b *bench) speed(ctx context.Context, f *findings) error {
	systems := slices.Clone(b.cfg.systems)
	for round := 1; round <= b.cfg.rounds; round++ {
		for _, name := range systems {
			err := b.measure(ctx, f, name, round)
			switch {
			case errors.Is(err, errSkip):
				f.skip(err)
			case err != nil:
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		slices.Reverse(systems)
	}
	return nil
}

// values are what all requests have in common.
func (b *bench) values(keys uint64, clients int) load.Config {
	return load.Config{Clients: clients, Keys: keys, MinValue: valueSize, MaxValue: valueSize, Duration: b.cfg.duration, Warmup: b.cfg.warmup, Seed: 1}
}

// fillers is how many clients store the first values, manyFillers where there are many.
const (
	fillers     = 64
	manyFillers = 256
)

// measure has one system go through all numbers of connections and all mixes.
func (b *bench) measure(ctx context.Context, f *findings, name string, round int) (err error) {
	s, clean, err := b.start(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clean()) }()
	if err := b.fill(ctx, s, b.cfg.keys, fillers); err != nil {
		return err
	}
	for _, conns := range b.cfg.conns {
		for _, m := range b.cfg.mixes {
			x, err := b.sample(ctx, s, conns, m)
			if err != nil {
				return err
			}
			x.System, x.Round = name, round
			if v, err := parseVariant(name, b.cfg.args); err == nil {
				x.ReadMode, x.LogStore = v.readMode, v.logStore
			}
			f.Samples = append(f.Samples, x)
			fmt.Fprintf(b.status, "round %d/%d, %s, %d connections, %s: %.0f/s, p50 %.2f ms\n", round, b.cfg.rounds, name, conns, m.name, x.Rate, x.P50/1000)
		}
	}
	return nil
}

// fill gives all keys a value.
func (b *bench) fill(ctx context.Context, s system, keys uint64, clients int) error {
	dial, end, err := s.open(ctx)
	if err != nil {
		return err
	}
	cfg := b.values(keys, clients)
	next := keys / 10 // a line for each tenth
	cfg.Progress = func(p load.Progress) {
		if p.Keys >= next {
			fmt.Fprintf(b.status, "stored %d of %d\n", p.Keys, p.AllKeys)
			next = p.Keys + keys/10
		}
	}
	return errors.Join(load.Fill(ctx, cfg, dial), end())
}

// sample measures one number of connections and one mix.
func (b *bench) sample(ctx context.Context, s system, conns int, m mix) (x sample, err error) {
	dial, end, err := s.open(ctx)
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, end()) }()
	cfg := b.values(b.cfg.keys, conns)
	cfg.Reads = m.reads
	// What it costs to be asked for counters is taken off again.
	first, err := s.counters(ctx)
	if err != nil {
		return x, err
	}
	before, err := s.counters(ctx)
	if err != nil {
		return x, err
	}
	servers, err := local.CPU(s.processes())
	if err != nil {
		return x, err
	}
	client := ownCPU()
	r, err := load.Run(ctx, cfg, dial)
	if err != nil {
		return x, err
	}
	if ctx.Err() != nil {
		return x, ctx.Err()
	}
	client = ownCPU() - client
	afterCPU, err := local.CPU(s.processes())
	if err != nil {
		return x, err
	}
	after, err := s.counters(ctx)
	if err != nil {
		return x, err
	}
	if r.Misses > 0 {
		return x, fmt.Errorf("%d of the keys that were stored are missing", r.Misses)
	}
	sent := float64(r.Sent)
	x = sample{
		Conns: conns, Mix: m.name,
		Rate: r.Rate, P50: r.All.P50, P99: r.All.P99, P999: r.All.P999, Failed: r.Refused + r.Unknown, Reasons: r.Reasons,
		ServerCPU: us(afterCPU-servers) / sent, ClientCPU: us(client) / sent,
	}
	if before.hasMallocs {
		x.Allocs = pointer((after.mallocs - before.mallocs - (before.mallocs - first.mallocs)) / sent)
	}
	if writes := sent * (1 - m.reads/100); before.hasSyncs && writes > 0 {
		x.Syncs = pointer((after.syncs - before.syncs) / writes)
	}
	return x, nil
}

func pointer(f float64) *float64 { return &f }

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// ownCPU is the processor time of this program.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// memorySystems are those of which memory is measured.
var memorySystems = []string{"larder-8", "redis"}

// settle is how long servers get to give memory back after entries were stored.
const settle = 15 * time.Second

// memory measures what entries take in the servers' memory.
func (b *bench) memory(ctx context.Context, f *findings) error {
	for _, name := range memorySystems {
		if !slices.Contains(b.cfg.systems, name) {
			continue
		}
		err := b.weigh(ctx, f, name)
		switch {
		case errors.Is(err, errSkip):
			f.skip(err)
		case err != nil:
			return fmt.Errorf("memory of %s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) weigh(ctx context.Context, f *findings, name string) (err error) {
	s, clean, err := b.start(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clean()) }()
	empty, err := rss(s, (*local.Process).RSS)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, s, b.cfg.items, manyFillers); err != nil {
		return err
	}
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	full, err := rss(s, (*local.Process).RSS)
	if err != nil {
		return err
	}
	mapped, err := rss(s, (*local.Process).MappedRSS)
	if err != nil {
		return err
	}
	most := slices.Index(full, slices.Max(full))
	f.Memory = append(f.Memory, weight{System: name, Items: b.cfg.items, Empty: empty[most], Full: full[most], Mapped: mapped[most]})
	return nil
}

// rss is the memory of each server, by kind, bytes.
func rss(s system, kind func(*local.Process) (uint64, error)) ([]uint64, error) {
	var all []uint64
	for _, p := range s.processes() {
		n, err := kind(p)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}
