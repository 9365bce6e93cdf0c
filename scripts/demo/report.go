package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// report prints what a replay came to and where the entries are, and returns how many entries were evicted
// since the cluster began.
func report(ctx context.Context, out io.Writer, r result, nodes []*node) (evictions uint64, err error) {
	if err := summary(out, r); err != nil {
		return 0, err
	}
	shards, err := settled(ctx, nodes)
	if err != nil {
		return 0, err
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "shard\tleader\tentries\tbytes\tevictions\t")
	for _, s := range shards {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t\n", s.ID, s.Leader, thousands(int(s.Items)), thousands(int(s.Bytes)), thousands(int(s.Evictions)))
		evictions += s.Evictions
	}
	return evictions, w.Flush()
}

// compare prints what a replay came to beside an exact LRU that saw the same accesses.
func compare(out io.Writer, r result, evictions uint64, exact *lru) error {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s bytes\tevictions\thit ratio\t\n", thousands(int(exact.limit)))
	fmt.Fprintf(w, "Larder\t%s\t%.1f %%\t\n", thousands(int(evictions)), percent(r.hits, r.hits+r.misses))
	fmt.Fprintf(w, "exact LRU\t%s\t%.1f %%\t\n", thousands(exact.evictions), exact.ratio())
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nReads don't refresh an entry yet, so entries leave in the order in which they were written: the two meet once reads count.")
	return err
}

// summary prints the numbers of a replay.
func summary(out io.Writer, r result) error {
	slices.Sort(r.latencies)
	rate := 0.0
	if r.took > 0 {
		rate = float64(r.requests) / r.took.Seconds()
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "requests\trequests/s\tp50 ms\tp99 ms\thits\tmisses\thit ratio\tfailed\t")
	fmt.Fprintf(w, "%s\t%s\t%.2f\t%.2f\t%s\t%s\t%.1f %%\t%d\t\n", thousands(r.requests), thousands(int(rate)),
		milliseconds(percentile(r.latencies, 50)), milliseconds(percentile(r.latencies, 99)),
		thousands(r.hits), thousands(r.misses), percent(r.hits, r.hits+r.misses), r.failures)
	return w.Flush()
}

// percentile returns the smallest of sorted that p percent of them don't exceed, 0 of none.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// percent is part of whole in percent, 0 of none.
func percent(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// thousands prints n in groups of three digits.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// showProgress shows how much of total is done until finished is closed: a bar on a terminal, else
// a line every few seconds.
func showProgress(status io.Writer, done *atomic.Int64, total int, finished <-chan struct{}) {
	every, print := 3*time.Second, line
	if isTerminal(status) {
		every, print = 100*time.Millisecond, bar
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	start := time.Now()
	for {
		select {
		case <-tick.C:
			print(status, int(done.Load()), total, time.Since(start), false)
		case <-finished:
			print(status, int(done.Load()), total, time.Since(start), true)
			return
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// bar redraws the current line of a terminal; last ends it.
func bar(w io.Writer, done, total int, took time.Duration, last bool) {
	const width = 40
	full := width * done / total
	fmt.Fprintf(w, "\r[%s%s] %3d %%  %s/%s  %s/s ", strings.Repeat("=", full), strings.Repeat(" ", width-full),
		100*done/total, thousands(done), thousands(total), thousands(perSecond(done, took)))
	if last {
		fmt.Fprintln(w)
	}
}

// line prints a line of a log.
func line(w io.Writer, done, total int, took time.Duration, _ bool) {
	fmt.Fprintf(w, "%3d %%  %s of %s accesses, %s/s\n", 100*done/total, thousands(done), thousands(total), thousands(perSecond(done, took)))
}

func perSecond(n int, took time.Duration) int {
	if took <= 0 {
		return 0
	}
	return int(float64(n) / took.Seconds())
}
