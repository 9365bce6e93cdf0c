package shard

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkReadTouch measures what touches cost reads, of entries with 128 bytes, on the leader of one node
// and of three in this process, over the network in memory: linearizable reads and such as ask nobody, by
// many clients at once. Rounds with and without touches take turns; told are the medians of the processor
// time per read, which other processes disturb less than the clock, and by how much touches raise it.
func BenchmarkReadTouch(b *testing.B) {
	const keys, clients, rounds = 20_000, 32, 21
	for _, nodes := range []int{1, 3} {
		calm := func(_ string, c *Config) { c.HeartbeatTimeout, c.ElectionTimeout = time.Minute, time.Minute } // also on a busy machine
		c := newCluster(b, nodes, calm)
		defer c.close()
		c.startAll()
		l := c.leader()
		for k := range keys {
			c.mustPut(l, lruKey(k), string(make([]byte, 128)))
		}
		read := func(n int, consistency Consistency, noTouch bool) {
			req := Request{Shard: testShard, Op: OpGet, Key: []byte(lruKey(n % keys)), Consistency: consistency, NoTouch: noTouch}
			if r, err := l.Do(context.Background(), l.Node(), req); err != nil || !r.Found {
				b.Errorf("%s: %+v, %v", req.Key, r, err)
			}
		}
		for _, bc := range []struct {
			name        string
			consistency Consistency
			each        int
		}{{"linearizable", Linearizable, 100}, {"any", Any, 1000}} {
			b.Run(fmt.Sprintf("%d nodes/%s", nodes, bc.name), func(b *testing.B) {
				run := func(noTouch bool) float64 {
					began := cpuTime(b)
					var wg sync.WaitGroup
					for client := range clients {
						wg.Go(func() {
							for n := range bc.each {
								read(client*1234+n*7919, bc.consistency, noTouch)
							}
						})
					}
					wg.Wait()
					return float64(cpuTime(b)-began) / float64(clients*bc.each)
				}
				for range b.N {
					var with, without, share []float64
					for range rounds {
						a, b := run(false), run(true)
						with, without, share = append(with, a), append(without, b), append(share, 100*(a/b-1))
					}
					for _, s := range [][]float64{with, without, share} {
						slices.Sort(s)
					}
					b.ReportMetric(with[rounds/2], "cpu-ns/read")
					b.ReportMetric(without[rounds/2], "cpu-ns/read-without")
					b.ReportMetric(share[rounds/2], "%more")
				}
			})
		}
		b.Logf("%d nodes: %+v", nodes, touchStats(l))
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
