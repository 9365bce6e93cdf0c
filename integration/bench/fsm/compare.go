package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/bench/report"
)

// What is promised of ours.
const (
	overheadBar = 80   // live heap bytes of an entry beyond key and value
	gcBar       = 0.02 // share of CPU in a read-mostly run
)

// series are the results of one operation, per subject one value a round; nanoseconds per operation.
type series struct {
	name   string
	values map[string][]float64
}

// compare measures all subjects at one number of entries.
func compare(ctx context.Context, cfg config, entries int, r *report.Report, status io.Writer) error {
	var all []*process
	defer func() {
		for _, p := range all {
			p.close()
		}
	}()
	for _, name := range subjectNames {
		p, err := startChild(ctx, name)
		if err != nil {
			return err
		}
		all = append(all, p)
		fmt.Fprintf(status, "%s: filling %d entries\n", name, entries)
		if _, err := p.do("fill", entries); err != nil {
			return err
		}
	}
	if slices.Contains(cfg.only, "heap") {
		if err := heaps(ctx, cfg, entries, all, r, status); err != nil {
			return err
		}
	}
	if slices.Contains(cfg.only, "speed") {
		return speeds(cfg, entries, all, r, status)
	}
	return nil
}

// speeds lets the subjects take turns at each operation.
func speeds(cfg config, entries int, all []*process, r *report.Report, status io.Writer) error {
	var results []series
	measure := func(name string, subjects []*process, words ...any) error {
		fmt.Fprintf(status, "%d entries: %s\n", entries, name)
		s := series{name, map[string][]float64{}}
		for round := range cfg.rounds {
			for i := range subjects {
				p := subjects[(i+round)%len(subjects)] // another one begins each round
				a, err := p.do(words...)
				if err != nil {
					return err
				}
				s.values[p.name] = append(s.values[p.name], a.NS)
			}
		}
		results = append(results, s)
		return nil
	}
	ours := all[:1]
	// Reads move entries in the other two, so that their oldest key is no longer known: puts go first.
	for _, m := range []struct {
		name     string
		subjects []*process
		words    []any
	}{
		{"put, a new key that evicts, 1 per entry", all, []any{"put", cfg.ops, 1}},
		{"put, a new key that evicts, 64 per entry", all, []any{"put", cfg.ops, 64}},
		{"get, a present key at random", all, []any{"get", cfg.ops}},
		{"touch, 256 per entry", ours, []any{"touch", cfg.ops, 256}},
		{"encode a put, 1 per entry", ours, []any{"encode", cfg.ops, 1}},
		{"encode a put, 64 per entry", ours, []any{"encode", cfg.ops, 64}},
		{"decode a put, 1 per entry", ours, []any{"decode", cfg.ops, 1}},
		{"decode a put, 64 per entry", ours, []any{"decode", cfg.ops, 64}},
	} {
		if err := measure(m.name, m.subjects, m.words...); err != nil {
			return err
		}
	}

	r.Section(fmt.Sprintf("Speed at %d entries", entries))
	r.Textf("Nanoseconds of CPU per operation on the thread that runs it, medians of %d interleaved rounds of %d operations. Ratios are "+
		"medians of the rounds' ratios: above 1, ours is faster.", cfg.rounds, cfg.ops)
	header := append([]string{"operation"}, subjectNames...)
	for _, other := range subjectNames[1:] {
		header = append(header, other+" / ours")
	}
	ratio := func(s series, other string) float64 {
		return report.Median(report.Ratios(s.values[other], s.values[subjectNames[0]]))
	}
	var rows [][]string
	for _, s := range results {
		row := []string{s.name}
		for _, name := range subjectNames {
			cell := ""
			if v := s.values[name]; len(v) > 0 {
				cell = fmt.Sprintf("%.0f", report.Median(v))
			}
			row = append(row, cell)
		}
		for _, other := range subjectNames[1:] {
			cell := ""
			if len(s.values[other]) > 0 {
				cell = fmt.Sprintf("%.2fx", ratio(s, other))
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	r.Table(header, rows)
	for i, what := range []string{"Apply of puts, 1 per entry, at least as fast as golang-lru's Add", "Apply of puts, 64 per entry, at least as fast as golang-lru's Add", "Get at least as fast as golang-lru's"} {
		x := ratio(results[i], "golang-lru")
		r.Bar(x >= 1, fmt.Sprintf("%s (%d entries)", what, entries), fmt.Sprintf("%.2fx", x))
	}
	return nil
}

// heaps measures memory and collection of each subject, one after the other, and Redis beside.
func heaps(ctx context.Context, cfg config, entries int, all []*process, r *report.Report, status io.Writer) error {
	perEntry := func(bytes uint64) float64 { return float64(bytes)/float64(entries) - keySize - valueSize }
	var rows [][]string
	for _, p := range all {
		fmt.Fprintf(status, "%s: heap, and %v of reads and writes\n", p.name, cfg.mixed)
		h, err := p.do("heap")
		if err != nil {
			return err
		}
		a, err := p.do("mixed", cfg.mixed.Milliseconds())
		if err != nil {
			return err
		}
		m := a.Mixed
		rows = append(rows, []string{p.name, fmt.Sprintf("%.1f", perEntry(h.Heap)), fmt.Sprintf("%.1f", perEntry(h.RSS)),
			fmt.Sprintf("%.2f", m.OpsPerSecond/1e6), fmt.Sprintf("%.2f %%", 100*m.GCShare), fmt.Sprintf("%.2f", m.Cycles),
			m.Pause.Round(time.Microsecond).String(), m.LongestOp.Round(10 * time.Microsecond).String()})
		if p.name == subjectNames[0] {
			r.Bar(perEntry(h.Heap) <= overheadBar, fmt.Sprintf("at most %d bytes of heap per entry beyond key and value (%d entries)", overheadBar, entries), fmt.Sprintf("%.1f", perEntry(h.Heap)))
			r.Bar(m.GCShare < gcBar, fmt.Sprintf("garbage collection under %g %% of CPU, read-mostly (%d entries)", 100*gcBar, entries), fmt.Sprintf("%.2f %%", 100*m.GCShare))
		}
	}
	fmt.Fprintf(status, "redis: filling %d entries\n", entries)
	rss, version, err := redisRSS(ctx, cfg.dir, entries)
	switch {
	case errors.Is(err, errNoRedis):
	case err != nil:
		return err
	default:
		rows = append(rows, []string{"Redis " + version, "", fmt.Sprintf("%.1f", perEntry(rss)), "", "", "", "", ""})
	}
	r.Section(fmt.Sprintf("Memory at %d entries", entries))
	r.Textf("Bytes per entry beyond its %d bytes of key and %d of value. Live heap is what a collection leaves; RSS is the whole "+
		"process after filling, garbage included. The read-mostly run (95:5, as fast as it goes) overwrites; ours "+
		"sends the touches of its reads ahead of its puts. GC is the collector's share of the CPU that was used; "+
		"collections are those that the run saw, or that its garbage was worth. The longest stop of the world is the end of its bucket. A group is %d "+
		"reads and %d puts.", keySize, valueSize, mixedReads, mixedWrites)
	r.Table([]string{"subject", "live heap", "RSS", "Mops per CPU s", "GC", "collections", "longest stop", "longest group"}, rows)
	if errors.Is(err, errNoRedis) {
		r.Textf("Redis: SKIPPED, %v.", err)
	}
	return nil
}
