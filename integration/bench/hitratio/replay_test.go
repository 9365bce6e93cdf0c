package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/larder-cache/larder/integration/bench/report"
)

// made returns a trace of accesses by Zipf's law, whose popular keys change in the middle: recency matters in it.
func made(accesses, keys int) trace {
	pick, rnd := zipf(keys, 0.8), rand.New(rand.NewPCG(5, 6))
	tr := trace{name: "made"}
	for i := range accesses {
		id := pick(rnd)
		if i > accesses/3 {
			id = uint64(keys) - id
		}
		tr.keys = append(tr.keys, fmt.Sprint("k", id))
	}
	return tr
}

// TestMeasure ensures that a replay through three replicas keeps the hit ratio of an exact LRU, also with its
// leader killed half way, where a FIFO's is another.
func TestMeasure(t *testing.T) {
	x, err := measure(context.Background(), made(6000, 500), 0.1)
	if err != nil {
		t.Fatal(err)
	}
	if x.exact < 10 || x.exact > 90 || difference(x.exact, x.fifo) < 2*hitBar {
		t.Fatalf("the trace tells nothing: exact LRU %.2f %%, FIFO %.2f %%", x.exact, x.fifo)
	}
	if difference(x.ours, x.exact) > hitBar || difference(x.failover, x.exact) > hitBar {
		t.Errorf("exact LRU %.2f %%, ours %.2f %%, with a failover %.2f %%", x.exact, x.ours, x.failover)
	}
	if x.shards <= 0 {
		t.Errorf("eight shards hit %.2f %%", x.shards)
	}
}

// TestTouchCosts ensures that the shares of touches are measured and reported.
func TestTouchCosts(t *testing.T) {
	var out bytes.Buffer
	r := report.New(&out)
	load := touchLoad{keys: 2000, ops: 4000, clients: 4, rounds: 1, reads: 500}
	if err := touchCosts(context.Background(), load, r, io.Discard); err != nil {
		t.Fatal(err)
	}
	_ = r.Close() // so few reads may miss a bar
	for _, want := range []string{"| Zipf 0.99 |", "| uniform", "of the bytes of all requests", "touch=false"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &out)
		}
	}
}

// TestZipf ensures that popularity follows the law: the first key is picked as often as its weight says.
func TestZipf(t *testing.T) {
	pick, rnd := zipf(100, 0.99), rand.New(rand.NewPCG(1, 1))
	counts := make([]int, 100)
	for range 100_000 {
		counts[pick(rnd)]++
	}
	if ratio := float64(counts[0]) / float64(counts[9]); ratio < 8.5 || ratio > 11 { // 10^0.99 = 9.77
		t.Errorf("the first key is picked %.2f times as often as the tenth", ratio)
	}
}
