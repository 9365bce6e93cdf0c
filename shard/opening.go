package shard

import "sync"

// openings lets one at a time open or destroy replicas of a shard, disk writes and the end of an instance included, and replicas of
// different shards be opened beside each other: a thousand of them wait for a disk together, whose syncs they share.
type openings struct {
	mu     sync.Mutex // guards following
	shards map[ID]*opening
	closed bool
	open   sync.WaitGroup // those that are within; Add only with mu, and not once closed
}

// opening is the turn of those who wait for a shard. It is held over waits: a channel of one, so that tests in virtual time go on
// while somebody waits for it.
type opening struct {
	turn  chan struct{}
	users int // who holds or waits for it
}

// begin returns once nobody else opens or destroys replicas of the shard; false: close was called. The caller calls end after it returned true.
func (o *openings) begin(id ID) bool {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return false
	}
	s := o.shards[id]
	if s == nil {
		s = &opening{turn: make(chan struct{}, 1)}
		if o.shards == nil {
			o.shards = map[ID]*opening{}
		}
		o.shards[id] = s
	}
	s.users++
	o.open.Add(1)
	o.mu.Unlock()
	s.turn <- struct{}{}
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		o.end(id)
	}
	return !closed
}

// end lets the next one in.
func (o *openings) end(id ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.shards[id]
	if s.users--; s.users == 0 {
		delete(o.shards, id)
	}
	<-s.turn
	o.open.Done()
}

// close refuses whoever comes from now on, and returns once nobody is within; false: it was called before.
func (o *openings) close() bool {
	o.mu.Lock()
	first := !o.closed
	o.closed = true
	o.mu.Unlock()
	o.open.Wait()
	return first
}
