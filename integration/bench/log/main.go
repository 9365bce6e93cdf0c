// Command log measures where replicas may keep their logs, side by side: a bbolt file each, the log that a node's replicas share, and
// hashicorp/raft-wal, which is here for comparison alone. Some replicas append at the same time, each one batch after the other, and each append waits
// until it is durable.
//
// Rounds of the stores alternate, each in an empty folder; what is told is the median of the rounds. CPU is that of the process, all
// of the store's own work included. Syncs are counted by strace, of a run of their own; without strace there are none.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/larder-cache/larder/integration/bench/report"
	"github.com/larder-cache/larder/shard"
)

// Stores that are compared.
var stores = []string{string(shard.LogBolt), "raft-wal", string(shard.LogShared)}

// entrySize is that of each entry's data, bytes.
const entrySize = 128

// segmentSize of raft-wal's files, bytes. Its default, 64 MiB for each replica, would fill the disk.
const segmentSize = 8 << 20

func main() {
	dir := flag.String("dir", "", "where files are made; default: a temporary folder")
	rounds := flag.Int("rounds", 5, "rounds of each store")
	length := flag.Duration("time", time.Second, "of a round")
	count := flag.String("count", "", "STORE,REPLICAS,BATCH,APPENDS: append so often, and tell nothing (for strace)")
	flag.Parse()
	if err := run(*dir, *rounds, *length, *count); err != nil {
		fmt.Fprintln(os.Stderr, "log:", err)
		os.Exit(1)
	}
}

func run(dir string, rounds int, length time.Duration, count string) error {
	if count != "" {
		store, rest, _ := strings.Cut(count, ",")
		var replicas, batch, appends int
		if _, err := fmt.Sscanf(rest, "%d,%d,%d", &replicas, &batch, &appends); err != nil {
			return err
		}
		_, err := measure(dir, store, replicas, batch, 0, appends)
		return err
	}
	r := report.New(os.Stdout)
	for _, batch := range []int{1, 16} {
		r.Section(fmt.Sprintf("appends of %d entries of %d bytes", batch, entrySize))
		var rows [][]string
		for _, replicas := range []int{1, 8, 64} {
			results := map[string][]result{}
			for range rounds {
				for _, store := range stores {
					one, err := measure(dir, store, replicas, batch, length, 0)
					if err != nil {
						return fmt.Errorf("%s: %w", store, err)
					}
					results[store] = append(results[store], one)
				}
			}
			for _, store := range stores {
				m := medians(results[store])
				rows = append(rows, []string{strconv.Itoa(replicas), store, micros(m.p50), micros(m.p99), fmt.Sprintf("%.0f", m.rate), fmt.Sprintf("%.0f", m.cpu), syncs(dir, store, replicas, batch)})
			}
		}
		r.Table([]string{"replicas", "store", "p50 us", "p99 us", "entries/s", "CPU us/append", "syncs/append"}, rows)
	}
	return nil
}

func micros(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

// result is what a round found.
type result struct {
	p50, p99 time.Duration // of an append
	rate     float64       // entries a second
	cpu      float64       // microseconds for each append
}

// medians are those of each figure.
func medians(all []result) result {
	duration := func(of func(result) time.Duration) time.Duration {
		return middle(all, func(r result) float64 { return float64(of(r)) }, func(f float64) time.Duration { return time.Duration(f) })
	}
	number := func(of func(result) float64) float64 {
		return middle(all, of, func(f float64) float64 { return f })
	}
	return result{
		p50: duration(func(r result) time.Duration { return r.p50 }), p99: duration(func(r result) time.Duration { return r.p99 }),
		rate: number(func(r result) float64 { return r.rate }), cpu: number(func(r result) float64 { return r.cpu }),
	}
}

func middle[T any](all []result, of func(result) float64, as func(float64) T) T {
	var values []float64
	for _, r := range all {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return as(values[len(values)/2])
}

// open makes the stores of some replicas in an empty folder.
func open(dir, store string, replicas int) (logs []raft.LogStore, closeAll func() error, err error) {
	if store != "raft-wal" {
		all, err := shard.OpenLogs(dir, shard.LogStore(store), replicas)
		if err != nil {
			return nil, nil, err
		}
		for n := range replicas {
			logs = append(logs, all.Replica(n))
		}
		return logs, all.Close, nil
	}
	closeAll = func() (err error) {
		for _, l := range logs {
			if e := l.(*wal.WAL).Close(); err == nil {
				err = e
			}
		}
		return err
	}
	for n := range replicas {
		folder := filepath.Join(dir, strconv.Itoa(n))
		if err := os.Mkdir(folder, 0o700); err != nil {
			return nil, nil, err
		}
		w, err := wal.Open(folder, wal.WithSegmentSize(segmentSize))
		if err != nil {
			return nil, nil, err
		}
		logs = append(logs, w)
	}
	return logs, closeAll, nil
}

// measure has each replica append for some time, or so often where that is not 0.
func measure(dir, store string, replicas, batch int, length time.Duration, appends int) (r result, err error) {
	folder, err := os.MkdirTemp(dir, "larder-bench-log-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(folder)
	logs, closeAll, err := open(folder, store, replicas)
	if err != nil {
		return r, err
	}
	took := make([][]time.Duration, replicas)
	failed := make([]error, replicas)
	var wg sync.WaitGroup
	before, began := cpuTime(), time.Now()
	for n, log := range logs {
		wg.Go(func() {
			next := uint64(1)
			for i := 0; appends > 0 && i < appends || appends == 0 && time.Since(began) < length; i++ {
				entries := make([]*raft.Log, batch)
				for k := range entries {
					entries[k] = &raft.Log{Index: next, Term: 1, Data: make([]byte, entrySize)}
					next++
				}
				start := time.Now()
				if failed[n] = log.StoreLogs(entries); failed[n] != nil {
					return
				}
				took[n] = append(took[n], time.Since(start))
			}
		})
	}
	wg.Wait()
	cpu, lasted := cpuTime()-before, time.Since(began)
	if err := closeAll(); err != nil {
		return r, err
	}
	for _, err := range failed {
		if err != nil {
			return r, err
		}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return result{p50: all[len(all)/2], p99: all[len(all)*99/100], rate: float64(len(all)*batch) / lasted.Seconds(), cpu: float64(cpu.Microseconds()) / float64(len(all))}, nil
}

// cpuTime is that of the process until now.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it does not fail for oneself
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// syncs counts the syncs of an append, with what opening takes taken off.
func syncs(dir, store string, replicas, batch int) string {
	const least, most = 1, 101
	few, err1 := traced(dir, store, replicas, batch, least)
	many, err2 := traced(dir, store, replicas, batch, most)
	if err1 != nil || err2 != nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(many-few)/float64((most-least)*replicas))
}

// traced counts all syncs of a process that does nothing else.
func traced(dir, store string, replicas, batch, appends int) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	f, err := os.CreateTemp("", "larder-bench-syncs-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	cmd := exec.Command("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", f.Name(),
		self, "-dir", dir, "-count", fmt.Sprintf("%s,%d,%d,%d", store, replicas, batch, appends))
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		return 0, err
	}
	// A call that another thread's interrupts has two lines, and its parenthesis is in the first.
	return strings.Count(string(data), "sync("), nil
}
