package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/integration/bench/report"
)

// What is promised of snapshots.
const (
	applyBar   = 5 * time.Millisecond // p99.9 of Apply meanwhile
	applyTimes = 3                    // or so many times that without a snapshot
	restoreBar = 200                  // MB/s
)

type snapshotConfig struct {
	Bytes      uint64
	Rate, Runs int
}

// shot is one snapshot under load.
type shot struct {
	Without, With latencies
	Hold          time.Duration // for which taking the view held Apply up
	Write         time.Duration // until the file was there
	Size          int64
	Restore       time.Duration
	Entries       int
}

// latencies of Apply, waiting for its lock included.
type latencies struct {
	P50, P99, P999, Max time.Duration
	Count               int
	Rate                float64 // per second, as it came to be
}

func summarize(all []time.Duration, took time.Duration) latencies {
	slices.Sort(all)
	at := func(q float64) time.Duration {
		if len(all) == 0 {
			return 0
		}
		return all[min(int(q*float64(len(all))), len(all)-1)]
	}
	return latencies{at(0.50), at(0.99), at(0.999), at(1), len(all), float64(len(all)) / took.Seconds()}
}

// loaded is a machine as shard keeps it: behind a lock that Apply and the making of a snapshot take.
type loaded struct {
	mu sync.Mutex // guards m
	m  *machine

	keys []byte
	next uint64
	rate int
}

// puts applies puts of new keys at the rate until done is closed, and returns how long each took. They
// come in bursts each millisecond, as fine as a sleep is.
func (l *loaded) puts(done <-chan struct{}) ([]time.Duration, time.Duration, error) {
	var all []time.Duration
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for due := int(time.Since(began).Seconds() * float64(l.rate)); len(all) < due; {
			keyAt(l.keys, l.next)
			l.next++
			start := time.Now()
			l.mu.Lock()
			err := l.m.put(l.keys, 1)
			l.mu.Unlock()
			if err != nil {
				return nil, 0, err
			}
			all = append(all, time.Since(start))
		}
		select {
		case <-done:
			return all, time.Since(began), nil
		case <-tick.C:
		}
	}
}

// takeSnapshots is the child's part. Its arguments are bytes, rate, runs and a folder.
func takeSnapshots(words []string) (answer, error) {
	if len(words) != 4 {
		return answer{}, errors.New("want bytes, rate, runs and a folder")
	}
	bytes, _ := strconv.ParseUint(words[0], 10, 64)
	rate, _ := strconv.Atoi(words[1])
	runs, _ := strconv.Atoi(words[2])
	m, err := newMachine(bytes)
	if err != nil {
		return answer{}, err
	}
	l := &loaded{m: m, keys: make([]byte, keySize), rate: rate}
	for full := bytes / fsm.Cost(keySize, valueSize, 0); l.next < full; l.next++ {
		keyAt(l.keys, l.next)
		if err := m.put(l.keys, 1); err != nil {
			return answer{}, err
		}
	}
	var a answer
	for range runs {
		s, err := l.shoot(words[3], watched)
		if err != nil {
			return a, err
		}
		a.Result = append(a.Result, s)
	}
	return a, nil
}

// watched is how long Apply is watched without a snapshot.
const watched = 5 * time.Second

func (l *loaded) shoot(dir string, baseline time.Duration) (shot, error) {
	var s shot
	done := make(chan struct{})
	time.AfterFunc(baseline, func() { close(done) })
	all, took, err := l.puts(done)
	if err != nil {
		return s, err
	}
	s.Without = summarize(all, took)

	f, err := os.CreateTemp(dir, "larder-snapshot-")
	if err != nil {
		return s, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	done = make(chan struct{})
	written := make(chan error, 1)
	go func() {
		written <- func() error {
			defer close(done)
			start := time.Now()
			l.mu.Lock()
			view := l.m.m.Snapshot()
			l.mu.Unlock()
			s.Hold = time.Since(start)
			var err error
			s.Size, err = view.WriteTo(f)
			s.Write = time.Since(start)
			return err
		}()
	}()
	all, took, err = l.puts(done)
	if err := errors.Join(err, <-written); err != nil {
		return s, err
	}
	s.With = summarize(all, took)

	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return s, err
	}
	start := time.Now()
	restored, err := fsm.Restore(bufio.NewReaderSize(f, 256<<10))
	if err != nil {
		return s, err
	}
	s.Restore = time.Since(start)
	if s.Entries = restored.Stats().Entries; s.Entries == 0 {
		return s, errors.New("nothing was restored")
	}
	return s, nil
}

// snapshots is the parent's part.
func snapshots(ctx context.Context, cfg config, r *report.Report, status io.Writer) error {
	c := cfg.snapshot
	fmt.Fprintf(status, "snapshots of %d bytes under %d puts/s\n", c.Bytes, c.Rate)
	p, err := startChild(ctx, "larder")
	if err != nil {
		return err
	}
	defer p.close()
	a, err := p.do("snapshot", c.Bytes, c.Rate, c.Runs, cfg.dir)
	if err != nil {
		return err
	}
	of := func(f func(shot) float64) float64 {
		var values []float64
		for _, s := range a.Result {
			values = append(values, f(s))
		}
		return report.Median(values)
	}
	micros := func(f func(shot) time.Duration) string {
		return fmt.Sprintf("%.1f", of(func(s shot) float64 { return float64(f(s)) / float64(time.Microsecond) }))
	}
	var rows [][]string
	for _, phase := range []struct {
		name string
		of   func(shot) latencies
	}{{"without a snapshot", func(s shot) latencies { return s.Without }}, {"while one is written", func(s shot) latencies { return s.With }}} {
		rows = append(rows, []string{phase.name,
			micros(func(s shot) time.Duration { return phase.of(s).P50 }),
			micros(func(s shot) time.Duration { return phase.of(s).P99 }),
			micros(func(s shot) time.Duration { return phase.of(s).P999 }),
			micros(func(s shot) time.Duration { return phase.of(s).Max }),
			fmt.Sprintf("%.0f", of(func(s shot) float64 { return phase.of(s).Rate })),
			fmt.Sprintf("%.0f", of(func(s shot) float64 { return float64(phase.of(s).Count) })),
		})
	}
	seconds := of(func(s shot) float64 { return s.Restore.Seconds() })
	megabytes := of(func(s shot) float64 { return float64(s.Size) / 1e6 })
	speed := of(func(s shot) float64 { return float64(s.Size) / 1e6 / s.Restore.Seconds() })
	r.Section("Snapshot under load")
	r.Textf("Apply of one put each, its wait for the lock included, in microseconds: medians of %d runs. The state counts for %d bytes "+
		"and has %.0f entries; the snapshot has %.0f MB, took %.2f s to write to a file, and its making held Apply up for %s µs. "+
		"Restoring it took %.2f s: %.0f MB/s.", len(a.Result), c.Bytes, of(func(s shot) float64 { return float64(s.Entries) }), megabytes,
		of(func(s shot) float64 { return s.Write.Seconds() }), micros(func(s shot) time.Duration { return s.Hold }), seconds, speed)
	r.Table([]string{"Apply", "p50", "p99", "p99.9", "max", "puts/s", "puts"}, rows)
	with := of(func(s shot) float64 { return float64(s.With.P999) })
	without := of(func(s shot) float64 { return float64(s.Without.P999) })
	r.Bar(with < float64(applyBar) || with < applyTimes*without,
		fmt.Sprintf("p99.9 of Apply under %v, or under %d times that without, while a snapshot is written", applyBar, applyTimes),
		fmt.Sprintf("%v, %.1f times", time.Duration(with).Round(time.Microsecond), with/without))
	r.Bar(speed > restoreBar, fmt.Sprintf("restore faster than %d MB/s", restoreBar), fmt.Sprintf("%.0f MB/s", speed))
	return nil
}
