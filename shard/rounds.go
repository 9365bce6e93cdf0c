package shard

import (
	"sync"
	"time"
)

const (
	// fewWrites is how many writes a node may have in flight without its shards waiting for each other.
	fewWrites = 3
	// roundPatience is how long a round may hold up the next: a shard without a majority keeps its entries in flight for as long as their
	// clients wait.
	roundPatience = 20 * time.Millisecond
	// What an entry takes is long if it is longTimes the pace of the node's entries, and more than longTime, in which a busy processor
	// may delay any.
	longTimes = 3
	longTime  = 2 * time.Millisecond
	// The pace falls by 1/paceFall of itself with an entry that takes less, and rises by 1/paceRise with one that takes more: about a ninth
	// of the entries beat it. So it stays that of the quick ones, also where others hold them up.
	paceFall, paceRise = 8, 64
)

// rounds has the shards of a node propose at the same time. What an entry costs is hardly in its writes, but in what is done once for each:
// a frame to each follower, their answers, a sync on each node, and the goroutines that all of them wake. Entries that set out together
// share those (outbox, sharedLog). So while a round of entries is in flight, what comes for other shards gathers as what comes for
// the same shards does, and the next round takes it all. Nothing waits where nothing is in flight, or little: then an
// entry of its own costs nobody anything.
//
// A round begins with those who waited for it and ends with the last of its entries, or by roundPatience. It is no bound
// on what is in flight: touches, and entries that are full, are not part of any. Nor does it wait for the entries of a shard whose
// last one took far longer than others do, as where its followers are farther away: the node's other shards would go at its pace.
type rounds struct {
	mu      sync.Mutex // guards all, and what is in each round
	current *round     // the one in flight; nil: none
	waiting []chan *round
	limit   *time.Timer   // ends a round that others wait for
	pace    time.Duration // that few entries beat
}

// round is what set out together. A nil round is none: it is not waited for.
type round struct {
	began           time.Time
	entries, writes int // in flight
}

// enter waits until an entry may set out, and counts it in the round that it belongs to; false once stop is closed.
func (r *rounds) enter(stop <-chan struct{}) (*round, bool) {
	r.mu.Lock()
	if r.current == nil {
		r.current = &round{began: time.Now()}
	}
	if c := r.current; c.writes < fewWrites && len(r.waiting) == 0 { // nobody passes those who wait
		c.entries++
		r.mu.Unlock()
		return c, true
	}
	turn := make(chan *round, 1)
	if len(r.waiting) == 0 {
		r.limitLocked()
	}
	r.waiting = append(r.waiting, turn)
	r.mu.Unlock()
	select {
	case c := <-turn:
		return c, true
	case <-stop:
	}
	r.mu.Lock()
	for i, other := range r.waiting {
		if other == turn {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			r.mu.Unlock()
			return nil, false
		}
	}
	r.mu.Unlock()
	r.leave(<-turn, 0) // it came meanwhile
	return nil, false
}

// add counts the writes that an entry of c has.
func (r *rounds) add(c *round, writes int) {
	if c == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.writes += writes
}

// leave counts an entry of c, and its writes, as in flight no more.
func (r *rounds) leave(c *round, writes int) {
	if c == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.entries--
	c.writes -= writes
	if c.entries == 0 && c == r.current {
		r.nextLocked()
	}
}

// long takes in how long an entry took until it was applied, and reports whether that is far longer than others take.
func (r *rounds) long(took time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.pace == 0:
		r.pace = took
	case took < r.pace:
		r.pace -= r.pace / paceFall
	default:
		r.pace += r.pace / paceRise
	}
	return took > max(longTimes*r.pace, longTime)
}

// limitLocked sees to the end of the current round.
func (r *rounds) limitLocked() {
	c := r.current
	r.limit = time.AfterFunc(time.Until(c.began.Add(roundPatience)), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if c == r.current {
			r.nextLocked()
		}
	})
}

// nextLocked ends the current round, and begins another with those who wait.
func (r *rounds) nextLocked() {
	r.current = nil
	if len(r.waiting) == 0 {
		return
	}
	r.limit.Stop()
	r.current = &round{began: time.Now(), entries: len(r.waiting)}
	for _, turn := range r.waiting {
		turn <- r.current
	}
	r.waiting = r.waiting[:0]
}
