package shard

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// Recency through the log (R5). A read goes past the log, so nobody but the replica that served it knows that
// an entry was used. Each replica gathers touches of what its reads found; on the leader they head the next
// entry with clients' commands, which then evicts as if the reads had gone through the log too, or make an
// entry of their own after a while. A follower sends its own to the leader (touchrelay.go).
//
// Recency is worth a little, never a read or a write: where there is no room, no leader, no time or no budget
// for a touch, it is dropped and counted. A batch that was proposed and lost is not proposed again.

const (
	// touchLevel is the feature level that touches need.
	touchLevel = 2
	// maxTouches bounds what a replica gathers between two entries.
	maxTouches = 16384
	// entryTouches bounds those of one entry, whose Apply they hold up for a microsecond or two each. More take several: before
	// the next write, or one after the other within the interval.
	entryTouches = 1024
	// touchBytes is what a touch takes in the log.
	touchBytes = 5
	// The budget of a replica's touches, by which they take a bounded share of the log: 1/touchShare of the
	// bytes of clients' commands that it proposes, and touchRate bytes for each second. What was not used is
	// kept, up to one full buffer. A touch is paid for when it is gathered; what is earned meanwhile counts
	// from the next entry on.
	touchShare = 4
	touchRate  = 256 << 10
	// touchPatience is how long the library may take to begin with an entry of touches alone.
	touchPatience = 100 * time.Millisecond
)

// TouchStats says what became of the touches of a replica since it opened. What a follower collected and sent
// counts again at the leader, where all that is replicated was collected before.
type TouchStats struct {
	Collected    uint64 `json:"collected"`    // gathered for the log
	Deduplicated uint64 `json:"deduplicated"` // of what was gathered already: it counts as used last now
	Skipped      uint64 `json:"skipped"`      // of entries near the recent end: nothing to gain
	Replicated   uint64 `json:"replicated"`   // proposed by this replica, and applied
	Dropped      uint64 `json:"dropped"`      // no room, budget, leader or feature level, or proposed and lost
}

// touches are what a replica gathered. Any goroutine adds; the batcher alone takes. Adding waits for nobody
// but others who add.
type touches struct {
	mono     func() time.Duration
	interval *atomic.Int64 // nanoseconds; 0 = nothing is gathered
	due      *time.Timer   // runs while something is gathered
	skipped  atomic.Uint64
	rest     []byte // the batcher's: encoded ones that were taken, and go with the next entries

	mu     sync.Mutex // guards following
	list   touchList
	spare  touchList     // empty, while the other is being written out
	budget float64       // bytes
	paid   time.Duration // monotonic time up to which touchRate is in budget
	counts TouchStats    // Skipped apart
}

func newTouches(mono func() time.Duration, interval *atomic.Int64) *touches {
	t := &touches{mono: mono, interval: interval, due: time.NewTimer(time.Hour), budget: maxTouches * touchBytes, paid: mono()}
	t.due.Stop()
	return t
}

func (t *touches) stats() TouchStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.counts
	s.Skipped = t.skipped.Load()
	return s
}

// wanted reports whether recency is replicated at all.
func (t *touches) wanted() bool { return t.interval.Load() > 0 }

// add gathers the touch of what was used just now.
func (t *touches) add(k fsm.Touch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.list.renew(k) {
		t.counts.Deduplicated++
		return
	}
	n := t.list.len()
	if n == 0 { // not each time: reading the clock costs more than the rest
		t.earnLocked()
	}
	if n == maxTouches || t.budget < touchBytes {
		t.counts.Dropped++
		return
	}
	t.budget -= touchBytes
	t.counts.Collected++
	t.list.push(k)
	if n == 0 {
		t.due.Reset(untilNext(time.Duration(max(t.interval.Load(), 1))))
	}
}

// earnLocked adds to the budget what time gives.
func (t *touches) earnLocked() {
	now := t.mono()
	t.budget = min(t.budget+touchRate*(now-t.paid).Seconds(), maxTouches*touchBytes)
	t.paid = now
}

// credit adds to the budget what bytes of clients' commands give.
func (t *touches) credit(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.budget = min(t.budget+float64(bytes)/touchShare, maxTouches*touchBytes)
}

// take ends the gathering of what is there; what comes later is gathered anew. The list is given back by
// reuse.
func (t *touches) take() touchList {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.list.len() == 0 {
		return touchList{}
	}
	t.due.Stop()
	t.earnLocked()
	list := t.list
	t.list, t.spare = t.spare, touchList{}
	return list
}

// reuse takes back a list that was taken.
func (t *touches) reuse(list touchList) {
	list.clear()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spare = list
}

// discard drops what was gathered.
func (t *touches) discard() {
	t.discardRest()
	list := t.take()
	if n := list.len(); n > 0 {
		t.drop(n)
		t.reuse(list)
	}
}

// many reports whether one entry can't take all that was gathered.
func (t *touches) many() bool {
	n := len(t.rest) / touchBytes
	if n <= entryTouches {
		t.mu.Lock()
		n += t.list.len()
		t.mu.Unlock()
	}
	return n > entryTouches
}

// discardRest drops what was taken, and not sent yet.
func (t *touches) discardRest() {
	if len(t.rest) > 0 {
		t.drop(len(t.rest) / touchBytes)
		t.rest = nil
	}
}

func (t *touches) drop(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Dropped += uint64(n)
}

func (t *touches) replicated(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Replicated += uint64(n)
}

// touchesDue handles touches that no write has carried away within the interval. On the leader it reports
// true: they make an entry of their own.
func (b *batcher) touchesDue() bool {
	i := b.group.instance()
	switch {
	case i == nil || !b.touches.wanted():
		b.touches.discard()
	case i.ready.Load() != 0:
		return true
	default:
		b.relayTouches(i)
	}
	return false
}

// takeTouches makes one command of what was gathered, to go with size bytes of clients' commands, and says
// how many there are, 0 for no command. There may be more, for the next one. Where writes are refused for want of room, there is none for touches.
func (b *batcher) takeTouches(i *instance, size int64) (command fsm.Command, n int) {
	b.touches.credit(size)
	if b.crowded.Swap(false) || !b.touches.wanted() || i.fsm.machine.(*cacheMachine).featureLevel() < touchLevel {
		b.touches.discard()
		return fsm.Command{}, 0
	}
	t := b.touches
	if len(t.rest) < entryTouches*touchBytes {
		if list := t.take(); list.len() > 0 {
			t.rest = slices.Grow(t.rest, list.len()*touchBytes)
			for k := range list.all() {
				t.rest = fsm.AppendTouch(t.rest, k)
			}
			t.reuse(list)
		}
	}
	if n = min(len(t.rest)/touchBytes, entryTouches); n == 0 {
		return fsm.Command{}, 0
	}
	encoded := t.rest[: n*touchBytes : n*touchBytes]
	if t.rest = t.rest[n*touchBytes:]; len(t.rest) > 0 {
		t.due.Reset(time.Duration(t.interval.Load()) * entryTouches / maxTouches)
	} else {
		t.rest = nil // and all that were encoded with them
	}
	return fsm.Command{Kind: fsm.KindTouches, Touches: encoded}, n
}

// touchList holds distinct touches in the order of their last use. The zero value is empty.
type touchList struct {
	nodes []touchNode // a ring: the first is its sentinel, prev of which was used last
	index []uint32    // places in nodes by hash, open addressing; 0 = free. A power of two, half full at most
}

type touchNode struct {
	touch      fsm.Touch
	prev, next uint32 // towards the oldest, towards the last used
}

// minTouchIndex is the least length of an index that is not empty.
const minTouchIndex = 256

func (l *touchList) len() int { return max(len(l.nodes), 1) - 1 }

// slot is where k is in the index, or would be.
func (l *touchList) slot(k fsm.Touch) uint32 {
	mask := uint32(len(l.index) - 1)
	for at := uint32(uint64(k)*0x9E3779B97F4A7C15>>32) & mask; ; at = (at + 1) & mask {
		if n := l.index[at]; n == 0 || l.nodes[n].touch == k {
			return at
		}
	}
}

// renew makes k the last used; false when it is not there.
func (l *touchList) renew(k fsm.Touch) bool {
	if len(l.nodes) == 0 {
		return false
	}
	if last := l.nodes[0].prev; last != 0 && l.nodes[last].touch == k {
		return true
	}
	n := l.index[l.slot(k)]
	if n == 0 {
		return false
	}
	prev, next := l.nodes[n].prev, l.nodes[n].next
	l.nodes[prev].next, l.nodes[next].prev = next, prev
	l.link(n)
	return true
}

// push adds k, which is not there, as the last used.
func (l *touchList) push(k fsm.Touch) {
	if len(l.nodes) == cap(l.nodes) {
		l.resize(max(2*len(l.index), minTouchIndex))
	}
	n := uint32(len(l.nodes))
	l.nodes = append(l.nodes, touchNode{touch: k})
	l.index[l.slot(k)] = n
	l.link(n)
}

// link puts the node n at the end that was used last.
func (l *touchList) link(n uint32) {
	last := l.nodes[0].prev
	l.nodes[n].prev, l.nodes[n].next = last, 0
	l.nodes[last].next, l.nodes[0].prev = n, n
}

// resize gives the list an index of that length, and room for half as many touches.
func (l *touchList) resize(length int) {
	nodes := make([]touchNode, max(len(l.nodes), 1), length/2+1)
	copy(nodes, l.nodes)
	l.nodes, l.index = nodes, make([]uint32, length)
	for n := 1; n < len(nodes); n++ {
		l.index[l.slot(nodes[n].touch)] = uint32(n)
	}
}

// all yields the touches, the last used last.
func (l *touchList) all() iter.Seq[fsm.Touch] {
	return func(yield func(fsm.Touch) bool) {
		if len(l.nodes) == 0 {
			return
		}
		for n := l.nodes[0].next; n != 0 && yield(l.nodes[n].touch); n = l.nodes[n].next {
		}
	}
}

// clear empties the list. It keeps its room, but half where little was used: a shard that was busy once
// does not hold on to it.
func (l *touchList) clear() {
	if length := len(l.index); length > minTouchIndex && l.len() < length/8 {
		*l = touchList{}
		l.resize(length / 2)
		return
	}
	if len(l.nodes) > 0 {
		l.nodes = l.nodes[:1]
		l.nodes[0] = touchNode{}
		clear(l.index)
	}
}
