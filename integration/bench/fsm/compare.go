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
	operation
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
	heap, speed := slices.Contains(cfg.only, "heap"), slices.Contains(cfg.only, "speed")
	var sizes []answer // heap and RSS of each subject, as filling left them
	if heap {
		for _, p := range all {
			a, err := p.do("heap")
			if err != nil {
				return err
			}
			sizes = append(sizes, a)
		}
	}
	// Each part leaves the subjects as the next one needs them. In the order of insertion, the oldest entry
	// lies beside the one before; what comes last scatters the order over memory.
	var results []series
	if speed {
		s, err := takeTurns(cfg, status, orderly(cfg, all))
		if err != nil {
			return err
		}
		results = s
	}
	if heap {
		if err := heaps(ctx, cfg, entries, all, sizes, r, status); err != nil {
			return err
		}
	}
	if speed {
		s, err := takeTurns(cfg, status, scattered(entries, all))
		if err != nil {
			return err
		}
		speeds(cfg, entries, append(results, s...), r)
	}
	return nil
}

// operation is what subjects take turns at.
type operation struct {
	name     string
	bar      string // of ours against golang-lru's, "" for none
	subjects []*process
	words    []any
	before   []any // what is done before each round, if anything
}

// takeTurns measures operations, all subjects in each round.
func takeTurns(cfg config, status io.Writer, operations []operation) ([]series, error) {
	var results []series
	for _, o := range operations {
		fmt.Fprintln(status, o.name)
		s := series{operation: o, values: map[string][]float64{}}
		for round := range cfg.rounds {
			for i := range o.subjects {
				p := o.subjects[(i+round)%len(o.subjects)] // another one begins each round
				if o.before != nil {
					if _, err := p.do(o.before...); err != nil {
						return nil, err
					}
				}
				a, err := p.do(o.words...)
				if err != nil {
					return nil, err
				}
				s.values[p.name] = append(s.values[p.name], a.NS)
			}
		}
		results = append(results, s)
	}
	return results, nil
}

// orderly are the operations on subjects as filling leaves them. Reads move entries in two of them, so that
// their oldest key is no longer known: puts go first.
func orderly(cfg config, all []*process) []operation {
	ours := all[:1]
	return []operation{
		{name: "put, a new key that evicts, 1 per entry", bar: "Apply of puts, 1 per entry, at least as fast as golang-lru's Add", subjects: all, words: []any{"put", cfg.ops, 1}},
		{name: "put, a new key that evicts, 64 per entry", bar: "Apply of puts, 64 per entry, at least as fast as golang-lru's Add", subjects: all, words: []any{"put", cfg.ops, 64}},
		{name: "get, a present key at random", bar: "Get at least as fast as golang-lru's", subjects: all, words: []any{"get", cfg.ops}},
		{name: "touch, 256 per entry", subjects: ours, words: []any{"touch", cfg.ops, 256}},
		{name: "encode a put, 1 per entry", subjects: ours, words: []any{"encode", cfg.ops, 1}},
		{name: "encode a put, 64 per entry", subjects: ours, words: []any{"encode", cfg.ops, 64}},
		{name: "decode a put, 1 per entry", subjects: ours, words: []any{"decode", cfg.ops, 1}},
		{name: "decode a put, 64 per entry", subjects: ours, words: []any{"decode", cfg.ops, 64}},
	}
}

// scattered are puts that evict all entries there are, whose order was mixed before each round.
func scattered(entries int, all []*process) []operation {
	put := func(batch int) operation {
		return operation{
			name:     fmt.Sprintf("put that evicts from a mixed order, %d per entry", batch),
			bar:      fmt.Sprintf("Apply of puts in a mixed order, %d per entry, at least as fast as golang-lru's Add", batch),
			subjects: all, words: []any{"put", entries, batch}, before: []any{"mix"},
		}
	}
	return []operation{put(1), put(64)}
}

// speeds reports what operations took.
func speeds(cfg config, entries int, results []series, r *report.Report) {
	r.Section(fmt.Sprintf("Speed at %d entries", entries))
	r.Textf("Nanoseconds of CPU per operation on the thread that runs it, medians of %d interleaved rounds of %d operations; from a mixed "+
		"order, as many as there are entries, all of which were renewed in a random order just before. Ratios are medians of the "+
		"rounds' ratios: above 1, ours is faster.", cfg.rounds, cfg.ops)
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
	for _, s := range results {
		if s.bar != "" {
			x := ratio(s, "golang-lru")
			r.Bar(x >= 1, fmt.Sprintf("%s (%d entries)", s.bar, entries), fmt.Sprintf("%.2fx", x))
		}
	}
}

// heaps measures collection in each subject, one after the other, and Redis beside; sizes are what they hold.
func heaps(ctx context.Context, cfg config, entries int, all []*process, sizes []answer, r *report.Report, status io.Writer) error {
	perEntry := func(bytes uint64) float64 { return float64(bytes)/float64(entries) - keySize - valueSize }
	var rows [][]string
	for i, p := range all {
		fmt.Fprintf(status, "%s: %v of reads and writes\n", p.name, cfg.mixed)
		h := sizes[i]
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
