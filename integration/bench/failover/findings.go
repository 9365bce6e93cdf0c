package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/bench/report"
	"github.com/larder-cache/larder/integration/cluster"
)

// findings are all figures of a run.
type findings struct {
	Machine string      `json:"machine"`
	Args    []string    `json:"args"`
	Net     cluster.Net `json:"net"`
	Losses  []loss      `json:"losses"`
}

// loss is a round.
type loss struct {
	Fault  string             `json:"fault"`
	Round  int                `json:"round"`
	Node   string             `json:"node"`        // that was lost
	Rate   float64            `json:"writes_rate"` // a second, before the fault
	Shards map[uint64]float64 `json:"shards"`      // by shards that it led, seconds until one was written to again
}

// longest is the time until all shards were written to again, seconds.
func (l loss) longest() float64 {
	longest := 0.0
	for _, after := range l.Shards {
		longest = max(longest, after)
	}
	return longest
}

// of returns the times of a fault, seconds: of its rounds, and of all shards in them.
func (f *findings) of(fault string) (rounds, shards []float64) {
	for _, l := range f.Losses {
		if l.Fault == fault {
			rounds = append(rounds, l.longest())
			shards = slices.AppendSeq(shards, maps.Values(l.Shards))
		}
	}
	return rounds, shards
}

func (f *findings) print(r *report.Report, cfg config) {
	r.Section(fmt.Sprintf("%d shards, %d clients, network %s: seconds from the fault until each shard of the lost node was written to again", cfg.shards, cfg.writers, cfg.net))
	var rounds, shards [][]string
	for _, x := range cfg.faults {
		ofRounds, ofShards := f.of(x.name)
		if len(ofRounds) == 0 {
			continue
		}
		rounds = append(rounds, row(x.name, ofRounds, 0, 50, 100))
		shards = append(shards, row(x.name, ofShards, 0, 25, 50, 75, 90, 100))
	}
	r.Table([]string{"all shards", "rounds", "min", "median", "max"}, rounds)
	r.Table([]string{"each shard", "shards", "min", "p25", "median", "p75", "p90", "max"}, shards)
}

// row is a name, how many times there are, and percentiles of them.
func row(name string, seconds []float64, percents ...float64) []string {
	cells := []string{name, fmt.Sprint(len(seconds))}
	for _, p := range percents {
		cells = append(cells, fmt.Sprintf("%.2f", percentile(seconds, p)))
	}
	return cells
}

// percentile is the value that so many percent of the values do not exceed, the median that of report.Median.
func percentile(values []float64, percent float64) float64 {
	if percent == 50 {
		return report.Median(values)
	}
	sorted := slices.Sorted(slices.Values(values))
	at := int(percent*float64(len(sorted))+99) / 100 // rounded up, from 1
	return sorted[max(at, 1)-1]
}

// judge notes for each fault whether its median is as wanted.
func (f *findings) judge(r *report.Report) {
	for _, x := range allFaults {
		rounds, _ := f.of(x.name)
		if len(rounds) == 0 {
			continue
		}
		median := time.Duration(report.Median(rounds) * float64(time.Second))
		r.Bar(median <= x.goal, fmt.Sprintf("%s: all shards written to again in %s (median of %d rounds)", x.name, x.goal, len(rounds)), median.Round(10*time.Millisecond).String())
	}
}
