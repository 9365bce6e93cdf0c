package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// clock tells the time of operations.
type clock interface{ Now() time.Duration }

// tally is what became of the writes of a round:
//
//	        begin      complete                                end
//	----------+-----------+--------------------------------------+---->
//	          |           .   [--- first write to a shard ---]
//	     [----+-----------.----- one that says nothing ---]  |
//	          |<--------- the time of the shard ------------>|
//
// From complete to end the lost node can serve nothing that began meanwhile. If it does, the fault was none, or a write was acknowledged
// by mistake.
type tally struct {
	mu        sync.Mutex // guards what follows
	count     int
	served    map[uint64]string // by shard, the node that served the last write
	lost      string            // the node, "" before begin and after end
	began     time.Duration
	effective time.Duration // since complete; 0 before
	back      map[uint64]time.Duration
	missing   map[uint64]bool // shards that were not written to again
	over      chan struct{}   // closed when there are none
	wrong     error
}

func newTally() *tally { return &tally{served: map[uint64]string{}} }

// leaders returns for each shard who served its last write.
func (t *tally) leaders() map[uint64]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.served)
}

// rate is the number of writes that succeeded in a second, until now.
func (t *tally) rate(now time.Duration) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return float64(t.count) / now.Seconds()
}

// begin says that a fault begins, and which shards its node leads. The channel is closed once all of these were written to again.
func (t *tally) begin(node string, shards []uint64, c clock) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost, t.began = node, c.Now()
	t.back, t.missing, t.over = map[uint64]time.Duration{}, map[uint64]bool{}, make(chan struct{})
	for _, shard := range shards {
		t.missing[shard] = true
	}
	return t.over
}

// complete says that the fault has its effect from now on.
func (t *tally) complete(c clock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.effective = c.Now()
}

// end says that the fault is about to be undone, and returns after how many seconds each shard was written to again, and which were not.
func (t *tally) end() (back map[uint64]float64, missing []uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	back = map[uint64]float64{}
	for shard, after := range t.back {
		back[shard] = after.Seconds()
	}
	t.lost = ""
	return back, slices.Sorted(maps.Keys(t.missing)), t.wrong
}

// note counts a write that is over.
func (t *tally) note(shard uint64, o history.Operation) {
	if o.Outcome != history.OK {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	t.served[shard] = o.ServedBy
	if t.lost == "" || t.effective == 0 || o.Invoke < t.effective {
		return
	}
	if o.ServedBy == t.lost && t.wrong == nil {
		t.wrong = fmt.Errorf("%s, which was lost %s before, served a write to shard %d", t.lost, o.Invoke-t.effective, shard)
	}
	if t.missing[shard] {
		delete(t.missing, shard)
		t.back[shard] = o.Return - t.began
		if len(t.missing) == 0 {
			close(t.over)
		}
	}
}
