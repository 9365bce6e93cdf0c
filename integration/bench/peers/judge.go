package main

import (
	"fmt"
	"math"

	"github.com/larder-cache/larder/integration/bench/report"
)

// bar is how one system is to stand beside another.
type bar struct {
	above, below string
	mix          string
	conns        int
	latency      bool    // of p50, which is at most limit; else of the rate, which is at least limit
	limit        float64 // of above over below
}

// bars are what Larder is to reach. Those of systems or connections that a run left out are not judged.
var bars = []bar{
	{"larder-8", "etcd-E1", "read", 64, false, 4},
	{"larder-8", "etcd-E1", "read", 256, false, 4},
	{"larder-8", "etcd-E16", "read", 64, false, 2.5},
	{"larder-8", "etcd-E16", "read", 256, false, 2.5},
	{"larder-8", "etcd-E1", "read", 1, true, 0.3},
	{"larder-8", "bare", "read", 64, false, 1},
	{"larder-8", "bare", "read", 256, false, 1},
	{"larder-1", "etcd-E1", "write", 64, false, 3.5},
	{"larder-1", "etcd-E1", "write", 256, false, 3.5},
	{"larder-1", "etcd-E16", "write", 64, false, 2.5},
	{"larder-1", "etcd-E16", "write", 256, false, 2.5},
	{"larder-8", "etcd-E1", "write", 64, false, 2.5},
	{"larder-8", "etcd-E1", "write", 256, false, 3},
	{"larder-1", "etcd-E1", "write", 1, true, 0.6},
	{"larder-8", "etcd-E1", "95:5", 64, false, 4},
	{"larder-8", "etcd-E1", "95:5", 256, false, 4},
	{"larder-8", "larder-1", "write", 256, false, 0.7},
	{"larder-64", "larder-1", "write", 256, false, 0.35},
}

// maxItemBytes is what an entry of 16 + 128 bytes may take in a node's memory, all of the process divided by its entries.
const maxItemBytes = 250

// judge notes for each bar whether it was met.
func (f *findings) judge(r *report.Report) {
	for _, b := range bars {
		figure, what, least := rateOf, "requests/s", ">="
		if b.latency {
			figure, what, least = p50Of, "p50", "<="
		}
		got := f.ratio(b.above, b.below, b.conns, b.mix, figure)
		if math.IsNaN(got) {
			continue
		}
		met := got >= b.limit
		if b.latency {
			met = got <= b.limit
		}
		said := fmt.Sprintf("%.2f", got)
		if !b.latency {
			// Where processors are all used, the rate is the inverse of this, and others on the machine disturb it less.
			said += fmt.Sprintf(" (by processor time of servers and client %.2f)", f.ratio(b.below, b.above, b.conns, b.mix, cpuOf))
		}
		r.Bar(met, fmt.Sprintf("%s, %d connections, %s of %s / %s %s %g", b.mix, b.conns, what, b.above, b.below, least, b.limit), said)
	}
	for _, w := range f.Memory {
		if w.System == "larder-8" {
			r.Bar(w.perItem() <= maxItemBytes, fmt.Sprintf("memory of a node of %s <= %d B/entry", w.System, maxItemBytes), fmt.Sprintf("%.0f", w.perItem()))
		}
	}
}
