package shard

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOpenings ensures that one at a time is within for a shard, that others are beside it for other shards, and that close waits for
// those within, and lets in nobody who came before it or comes after it.
func TestOpenings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o openings
		var within, most, refused atomic.Int32
		for range 3 { // of the same shard
			go func() {
				if !o.begin(1) {
					refused.Add(1)
					return
				}
				defer o.end(1)
				most.Store(max(most.Load(), within.Add(1)))
				time.Sleep(time.Second)
				within.Add(-1)
			}()
		}
		time.Sleep(500 * time.Millisecond)
		if !o.begin(2) {
			t.Fatal("another shard is refused")
		}
		o.end(2)
		time.Sleep(time.Second) // the second one is within
		began := time.Now()
		if o.close(); time.Since(began) != 500*time.Millisecond {
			t.Errorf("close took %v, want the rest of who was within", time.Since(began))
		}
		synctest.Wait()
		if most.Load() != 1 || within.Load() != 0 || refused.Load() != 1 {
			t.Errorf("at most %d within, %d left, %d refused, want 1, 0 and 1", most.Load(), within.Load(), refused.Load())
		}
		if o.begin(1) || o.begin(3) {
			t.Error("it is closed, and lets in somebody")
		}
		if len(o.shards) != 0 {
			t.Errorf("%d shards are kept", len(o.shards))
		}
	})
}
