package fsm

import (
	"fmt"
	"runtime"
	"testing"
)

// TestCost ensures that the cost of an entry is what the limit has always been counted in: replicas of
// different builds must evict alike.
func TestCost(t *testing.T) {
	for _, c := range []struct {
		key, value, contentType int
		want                    uint64
	}{{1, 0, 0, 105}, {3, 100, 10, 217}, {MaxKey, 1 << 20, MaxContentType, 1<<20 + 2152}} {
		if got := Cost(c.key, c.value, c.contentType); got != c.want {
			t.Errorf("Cost(%d, %d, %d) = %d, want %d", c.key, c.value, c.contentType, got, c.want)
		}
	}
}

// TestOverheadPaysForTheHeap ensures that entries take no more memory than they cost, and not much less,
// with a snapshot under way and every entry expiring, at several fill levels of the hash tables. What a machine
// takes for its slots, however few entries there are, is not the entries' to pay.
func TestOverheadPaysForTheHeap(t *testing.T) {
	if testing.Short() {
		t.Skip("fills the heap for seconds")
	}
	const slotTables = Slots * (40 + 64 + 64) // of the index and sums, the sums once more in the snapshot
	for _, n := range []int{40_000, 60_000, 100_000} {
		for _, size := range []int{0, 100, 1000} {
			before := liveHeap()
			d := &driver{t: t, Machine: New()}
			must := func(index uint64, c ...Command) {
				if _, err := d.Apply(index, Batch{Stamp: 1, Level: 1, Commands: c}); err != nil {
					t.Fatal(err)
				}
			}
			must(1, Command{Kind: KindLevel, Level: MaxLevel})
			must(2, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 1 << 40, TableVersion: 1}})
			value := make([]byte, size)
			for i := range n {
				must(uint64(i+3), Command{Kind: KindPut, Key: fmt.Appendf(nil, "key:%08d", i), Value: value, TTL: 1000})
			}
			s := d.Snapshot()
			used := (float64(liveHeap()-before) - slotTables) / float64(n)
			cost := float64(d.Stats().Bytes) / float64(n)
			t.Logf("%d entries with values of %d bytes: %.0f bytes each, cost %.0f", n, size, used, cost)
			if used > cost*1.03 || used < cost*0.6 {
				t.Errorf("%d entries with values of %d bytes take %.0f bytes each and cost %.0f", n, size, used, cost)
			}
			runtime.KeepAlive(s)
			runtime.KeepAlive(d)
		}
	}
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
