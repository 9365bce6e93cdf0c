package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/larder-cache/larder/integration/bench/report"
)

// findings are all figures of a run.
type findings struct {
	Machine string   `json:"machine"`
	Args    []string `json:"args"`
	Samples []sample `json:"samples"`
	Memory  []weight `json:"memory"`
	Skipped []string `json:"skipped"`
}

// sample is one measurement. Times are microseconds.
type sample struct {
	System    string            `json:"system"`
	ReadMode  string            `json:"read_mode,omitempty"` // this and the next: of Larder
	LogStore  string            `json:"log_store,omitempty"`
	Round     int               `json:"round"`
	Conns     int               `json:"connections"`
	Mix       string            `json:"mix"`
	Rate      float64           `json:"rate"`
	P50       float64           `json:"p50_us"`
	P99       float64           `json:"p99_us"`
	P999      float64           `json:"p99_9_us"`
	ServerCPU float64           `json:"server_cpu_us"` // of all servers, per request
	ClientCPU float64           `json:"client_cpu_us"` // per request
	Allocs    *float64          `json:"allocations"`   // of all servers, per request; nil: not told
	Syncs     *float64          `json:"syncs"`         // of all servers, per write; nil: not told
	Failed    uint64            `json:"failed"`
	Reasons   map[string]uint64 `json:"reasons,omitempty"`
}

// weight is the memory of the server that has most of it, bytes.
type weight struct {
	System string `json:"system"`
	Items  uint64 `json:"items"`
	Empty  uint64 `json:"empty"` // before anything was stored
	Full   uint64 `json:"full"`
	Mapped uint64 `json:"mapped"` // part of Full that is of mapped files
}

// skip notes once why something was left out.
func (f *findings) skip(err error) {
	if word := err.Error(); !slices.Contains(f.Skipped, word) {
		f.Skipped = append(f.Skipped, word)
	}
}

// of returns a figure of all rounds, in order; none where a round has not told it.
func (f *findings) of(system string, conns int, mix string, figure func(sample) *float64) []float64 {
	var all []sample
	for _, x := range f.Samples {
		if x.System == system && x.Conns == conns && x.Mix == mix {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b sample) int { return a.Round - b.Round })
	var values []float64
	for _, x := range all {
		if v := figure(x); v != nil {
			values = append(values, *v)
		}
	}
	return values
}

func rateOf(x sample) *float64 { return &x.Rate }
func p50Of(x sample) *float64  { return &x.P50 }
func cpuOf(x sample) *float64  { return pointer(x.ServerCPU + x.ClientCPU) }

// columns of the tables of speed, each a median over rounds.
var columns = []struct {
	title  string
	digits int
	figure func(sample) *float64
}{
	{"requests/s", 0, rateOf},
	{"p50 ms", 3, func(x sample) *float64 { return pointer(x.P50 / 1000) }},
	{"p99 ms", 3, func(x sample) *float64 { return pointer(x.P99 / 1000) }},
	{"p99.9 ms", 3, func(x sample) *float64 { return pointer(x.P999 / 1000) }},
	{"server CPU µs", 1, func(x sample) *float64 { return &x.ServerCPU }},
	{"client CPU µs", 1, func(x sample) *float64 { return &x.ClientCPU }},
	{"allocations", 1, func(x sample) *float64 { return x.Allocs }},
	{"syncs/write", 2, func(x sample) *float64 { return x.Syncs }},
	{"failed", 0, func(x sample) *float64 { return pointer(float64(x.Failed)) }},
}

func (f *findings) printSpeed(r *report.Report, cfg config) {
	for _, m := range cfg.mixes {
		r.Section(fmt.Sprintf("%s, values of %d bytes, medians of %d rounds", m.name, valueSize, cfg.rounds))
		header := []string{"connections, system", "reads, log"}
		for _, c := range columns {
			header = append(header, c.title)
		}
		var rows [][]string
		for _, conns := range cfg.conns {
			for _, system := range cfg.systems {
				row := []string{fmt.Sprintf("%d, %s", conns, system), f.kind(system)}
				for _, c := range columns {
					row = append(row, cell(f.of(system, conns, m.name, c.figure), c.digits))
				}
				if row[2] != "" {
					rows = append(rows, row)
				}
			}
		}
		r.Table(header, rows)
	}
	r.Textf("CPU and allocations are per request, of all servers together; syncs are fsyncs of all servers' logs, where the servers count them.")
}

// kind says how a Larder confirms reads and where its logs are.
func (f *findings) kind(system string) string {
	for _, x := range f.Samples {
		if x.System == system && x.ReadMode != "" {
			return x.ReadMode + ", " + x.LogStore
		}
	}
	return ""
}

// cell is a median as a table has it, empty where nothing was measured.
func cell(values []float64, digits int) string {
	if len(values) == 0 {
		return ""
	}
	return strconv.FormatFloat(report.Median(values), 'f', digits, 64)
}

func (f *findings) printMemory(r *report.Report) {
	if len(f.Memory) == 0 {
		return
	}
	r.Section(fmt.Sprintf("memory of a server (RSS), keys of 16 bytes, values of %d", valueSize))
	var rows [][]string
	for _, w := range f.Memory {
		rows = append(rows, []string{w.System, fmt.Sprint(w.Items), mib(w.Empty), mib(w.Full), mib(w.Mapped), fmt.Sprintf("%.0f", w.perItem()), fmt.Sprintf("%.0f", w.growth())})
	}
	r.Table([]string{"system", "entries", "empty MiB", "full MiB", "of it files", "B/entry", "B/entry without empty"}, rows)
}

func (w weight) perItem() float64 { return float64(w.Full) / float64(w.Items) }
func (w weight) growth() float64  { return (float64(w.Full) - float64(w.Empty)) / float64(w.Items) }

func mib(bytes uint64) string { return fmt.Sprintf("%.0f", float64(bytes)/(1<<20)) }

// ratio is the median of a figure of one system over that of another in the same round, NaN where either was not measured.
func (f *findings) ratio(above, below string, conns int, mix string, figure func(sample) *float64) float64 {
	ratios := report.Ratios(f.of(above, conns, mix, figure), f.of(below, conns, mix, figure))
	if len(ratios) == 0 {
		return math.NaN()
	}
	return report.Median(ratios)
}
