// Command hitratio measures what replicated recency is worth, and what it costs.
//
// It replays traces of accesses the way a program uses a cache beside a database (get, and on a miss put)
// against an exact LRU of as many bytes, a shard of three replicas, the same shard with its leader killed
// half way, a cache that forgets recency at such a failover, and eight shards. Then it measures which
// share of the log touches take, and what they cost a read.
//
//	go run ./bench/hitratio -traces ../../shared/traces     (from the folder integration)
//	go run ./bench/hitratio -trace accesses.txt.gz
//
// The replicas run in this process, over a network and stores in memory: the groups, the log, the touches
// and the failover are the server's, disks and sockets are not there. Each size is a share of what all
// keys of the trace cost together. A value's size follows from its key, so that all see the same sizes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/bench/report"
)

// shares are the sizes of a cache, as parts of what all keys of its trace cost.
var shares = []float64{0.01, 0.10, 0.30}

// hitBar is how far, in percentage points, a shard's hit ratio may be from the exact LRU's.
const hitBar = 0.5

type config struct {
	traces string // folder
	trace  string // file, instead of the folder
	svg    string
	limit  int  // accesses of a trace; 0 = all
	touch  bool // measure what touches cost
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "hitratio:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, status io.Writer) error {
	var cfg config
	f := flag.NewFlagSet("hitratio", flag.ContinueOnError)
	f.SetOutput(status)
	f.StringVar(&cfg.traces, "traces", os.Getenv("LARDER_TRACES"), "folder of traces (*.txt, *.txt.gz; one key per line)")
	f.StringVar(&cfg.trace, "trace", "", "one trace, instead of a folder of them")
	f.StringVar(&cfg.svg, "svg", filepath.Join(os.TempDir(), "larder-hitratio.svg"), "where the plot goes")
	f.IntVar(&cfg.limit, "limit", 0, "replay only so many accesses of each trace (0: all)")
	f.BoolVar(&cfg.touch, "touches", true, "measure what touches cost, too")
	if err := f.Parse(args); err != nil {
		return err
	}
	r := report.New(out)
	files, err := tracesOf(cfg)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		r.Textf("hit ratios: SKIPPED, there are no traces: name a folder by LARDER_TRACES or -traces, or a file by TRACE or -trace.")
	} else if err := hitRatios(ctx, cfg, files, r, status); err != nil {
		return err
	}
	if cfg.touch {
		// It is about one leader: where a busy machine makes that lose its lead, nothing was measured.
		if err := touchCosts(ctx, standard, r, status); err != nil {
			return errors.Join(fmt.Errorf("touches: not measured: %w", err), r.Close())
		}
	}
	return r.Close()
}

// tracesOf names the files to replay. A folder that isn't there has none; a file must be there.
func tracesOf(cfg config) ([]string, error) {
	if cfg.trace != "" {
		_, err := os.Stat(cfg.trace)
		return []string{cfg.trace}, err
	}
	if cfg.traces == "" {
		return nil, nil
	}
	var files []string
	for _, pattern := range []string{"*.txt", "*.txt.gz"} {
		found, err := filepath.Glob(filepath.Join(cfg.traces, pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	return files, nil
}

// hitRatios replays every trace at every size.
func hitRatios(ctx context.Context, cfg config, files []string, r *report.Report, status io.Writer) error {
	var all []result
	for _, file := range files {
		tr, err := readTrace(file, cfg.limit)
		if err != nil {
			return err
		}
		for _, share := range shares {
			began := time.Now()
			res, err := measure(ctx, tr, share)
			if err != nil {
				return fmt.Errorf("%s at %g %%: %w", tr.name, 100*share, err)
			}
			fmt.Fprintf(status, "%s at %g %%: %d accesses, %.1f s\n", tr.name, 100*share, len(tr.keys), time.Since(began).Seconds())
			all = append(all, res)
		}
	}
	r.Section("Hit ratios")
	r.Textf("Percent of accesses. Sizes are shares of what all keys of the trace cost, by bytes. Values have %d to %d bytes. "+
		"Failovers are half way. Forgotten: an LRU whose order becomes that of insertion then, as where replicas do not "+
		"know what was read. FIFO: reads never count. Eight shards share the same bytes.", leastValue, largestValue)
	var rows [][]string
	worst, worstFail := 0.0, 0.0
	for _, x := range all {
		rows = append(rows, x.row())
		worst = max(worst, difference(x.ours, x.exact))
		worstFail = max(worstFail, difference(x.failover, x.exact))
	}
	r.Table(resultHeader, rows)
	for _, x := range all {
		if x.refused > 0 {
			r.Textf("%s at %g %%: %d accesses were of entries above an eighth of the limit; nobody stores those.", x.trace, 100*x.share, x.refused)
		}
		if x.shardsRefused > x.refused {
			r.Textf("%s at %g %%: eight shards refused %d puts as above an eighth of a shard's limit.", x.trace, 100*x.share, x.shardsRefused)
		}
	}
	r.Bar(worst <= hitBar, fmt.Sprintf("hit ratio of one shard within %g points of the exact LRU's", hitBar), fmt.Sprintf("at most %.2f points away", worst))
	r.Bar(worstFail <= hitBar, fmt.Sprintf("the same with the leader killed half way, within %g points", hitBar), fmt.Sprintf("at most %.2f points away", worstFail))
	if err := os.WriteFile(cfg.svg, plot(all), 0o644); err != nil {
		return err
	}
	r.Textf("Plot: %s", cfg.svg)
	return nil
}
