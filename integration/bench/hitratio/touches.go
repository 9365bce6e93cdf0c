package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/integration/bench/report"
	"github.com/larder-cache/larder/shard"
)

// What is promised of touches.
const (
	touchBar = 0.05 // of the key and value bytes of all requests
	readBar  = 1.10 // time of a read, in that of one with touch=false
)

// touchLoad is a load of reads and puts in which touches are counted.
type touchLoad struct {
	keys    int // all of them fit
	ops     int
	clients int
	rounds  int // pairs of rounds of reads
	reads   int // of a round
}

var standard = touchLoad{keys: 100_000, ops: 200_000, clients: 32, rounds: 15, reads: 10_000}

// Keys and values of a touchLoad, and which part of the requests reads are.
const (
	touchKey   = 16
	touchValue = 128
	readPart   = 0.95
)

// picker chooses the key of a request.
type picker struct {
	name string
	pick func(rnd *rand.Rand) uint64
}

func pickers(keys int) []picker {
	return []picker{
		{"Zipf 0.99", zipf(keys, 0.99)},
		{"uniform", func(rnd *rand.Rand) uint64 { return rnd.Uint64N(uint64(keys)) }},
	}
}

// zipf picks the n-th of keys with a weight of 1/n^exponent, which the standard library has for exponents
// above 1 only.
func zipf(keys int, exponent float64) func(rnd *rand.Rand) uint64 {
	upTo, sum := make([]float64, keys), 0.0
	for i := range upTo {
		sum += math.Pow(float64(i+1), -exponent)
		upTo[i] = sum
	}
	return func(rnd *rand.Rand) uint64 {
		return uint64(min(sort.SearchFloat64s(upTo, rnd.Float64()*sum), keys-1))
	}
}

// loadKey is the id-th key.
func loadKey(id uint64) []byte {
	var raw [touchKey / 2]byte
	binary.BigEndian.PutUint64(raw[:], id*0x9e3779b97f4a7c15)
	return hex.AppendEncode(nil, raw[:])
}

// touchCosts measures which part of the log touches are, and what they cost a read.
func touchCosts(ctx context.Context, load touchLoad, r *report.Report, status io.Writer) error {
	c, err := startCluster(ctx, 1, 2*uint64(load.keys)*fsm.Cost(touchKey, touchValue, 0))
	if err != nil {
		return err
	}
	defer c.close()
	leader := c.leaderCache(1)
	if leader == nil {
		return errors.New("the leader is gone")
	}
	fmt.Fprintln(status, "touches: filling")
	if err := load.fill(ctx, leader); err != nil {
		return err
	}
	var rows [][]string
	for _, p := range pickers(load.keys) {
		fmt.Fprintln(status, "touches:", p.name)
		t, err := load.share(ctx, leader, p)
		if err != nil {
			return err
		}
		ratio, err := load.slowdown(ctx, leader, p)
		if err != nil {
			return err
		}
		rows = append(rows, []string{p.name, fmt.Sprint(t.reads), fmt.Sprint(t.replicated), fmt.Sprint(t.dropped),
			fmt.Sprintf("%.2f %%", 100*t.share()), fmt.Sprintf("%.2f %%", 100*float64(t.bytes)/float64(t.sent)), fmt.Sprintf("%.3f", ratio)})
		r.Bar(t.replicated > 0 && t.share() <= touchBar, fmt.Sprintf("touches at most %g %% of the bytes of all requests (%s)", 100*touchBar, p.name), fmt.Sprintf("%.2f %%", 100*t.share()))
		r.Bar(ratio <= readBar, fmt.Sprintf("a read takes at most %.2f times one with touch=false (%s)", readBar, p.name), fmt.Sprintf("%.3f times", ratio))
	}
	r.Section("Touches")
	r.Textf("%d requests, %g %% of them reads, over %d keys of %d bytes with values of %d, by %d clients at once as fast as they go. "+
		"Bytes in the log are an upper bound: 5 for each touch, and the headers of every log entry as though it held touches alone. Their "+
		"share is that of keys and values of all requests, those that reads return included; beside it that of what clients send. The last "+
		"column is the time of reads in that of reads with touch=false: the median of %d pairs of rounds of %d reads.",
		load.ops, 100*readPart, load.keys, touchKey, touchValue, load.clients, load.rounds, load.reads)
	r.Table([]string{"reads", "count", "touches in the log", "dropped", "share", "of what is sent", "time of a read"}, rows)
	return nil
}

// leaderCache returns the replica that leads a shard, nil while there is none.
func (c *cluster) leaderCache(id shard.ID) *shard.Cache {
	h := c.hosts[c.findLeader(id)]
	if h == nil {
		return nil
	}
	return h.Cache(id)
}

// each runs f for every number below n, clients at a time, and returns the first error.
func (load touchLoad) each(n int, f func(rnd *rand.Rand, i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, load.clients)
	for client := range load.clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), uint64(client)))
			for i := client; i < n && errs[client] == nil; i += load.clients {
				errs[client] = f(rnd, i)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // when a leader is lost, all clients say the same
		}
	}
	return nil
}

func (load touchLoad) fill(ctx context.Context, leader *shard.Cache) error {
	return load.each(load.keys, func(_ *rand.Rand, i int) error { return put(ctx, leader, loadKey(uint64(i))) })
}

func put(ctx context.Context, leader *shard.Cache, key []byte) error {
	r, err := leader.Do(ctx, shard.Request{Shard: 1, Op: shard.OpPut, Key: key, Value: make([]byte, touchValue)})
	if err == nil && r.Status != fsm.StatusOK {
		err = fmt.Errorf("put: status %d", r.Status)
	}
	return err
}

func get(ctx context.Context, leader *shard.Cache, key []byte, noTouch bool) error {
	r, err := leader.Do(ctx, shard.Request{Shard: 1, Op: shard.OpGet, Key: key, NoTouch: noTouch})
	if err == nil && (!r.Found || len(r.Value) != touchValue) {
		err = fmt.Errorf("get of %s: found %t, %d bytes", key, r.Found, len(r.Value))
	}
	return err
}

// touched is what a load came to.
type touched struct {
	reads               int
	replicated, dropped uint64
	bytes               uint64 // of touches in the log, at most
	requested, sent     uint64 // bytes of keys and values, with and without what reads return
}

func (t touched) share() float64 { return float64(t.bytes) / float64(t.requested) }

// Most bytes that touches take beside their own 5: the command's header, and that of a log entry.
const (
	touchBytes      = 5
	touchEntryBytes = 4 + 1 + 1 + 7 + 3
)

func (load touchLoad) share(ctx context.Context, leader *shard.Cache, p picker) (t touched, err error) {
	before := leader.Status()
	var mu sync.Mutex // guards t
	err = load.each(load.ops, func(rnd *rand.Rand, _ int) error {
		read, key := rnd.Float64() < readPart, loadKey(p.pick(rnd))
		mu.Lock()
		t.requested += touchKey + touchValue
		t.sent += touchKey
		if read {
			t.reads++
		} else {
			t.sent += touchValue
		}
		mu.Unlock()
		if read {
			return get(ctx, leader, key, false)
		}
		return put(ctx, leader, key)
	})
	if err != nil {
		return t, err
	}
	after := leader.Status()
	t.replicated = after.Touches.Replicated - before.Touches.Replicated
	t.dropped = after.Touches.Dropped - before.Touches.Dropped
	t.bytes = t.replicated*touchBytes + (after.Applied-before.Applied)*touchEntryBytes
	return t, nil
}

// slowdown returns the time of reads in that of reads with touch=false. Which come first changes with
// each pair of rounds.
func (load touchLoad) slowdown(ctx context.Context, leader *shard.Cache, p picker) (float64, error) {
	var times [2][]float64 // with touches, without
	for round := range load.rounds {
		for turn := range 2 {
			without := (round + turn) % 2
			began := time.Now()
			err := load.each(load.reads, func(rnd *rand.Rand, _ int) error { return get(ctx, leader, loadKey(p.pick(rnd)), without == 1) })
			if err != nil {
				return 0, err
			}
			times[without] = append(times[without], time.Since(began).Seconds())
		}
	}
	return report.Median(report.Ratios(times[0], times[1])), nil
}
