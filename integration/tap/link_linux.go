package tap

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// mode is what a link does with packets.
type mode int

const (
	pass mode = iota
	hold      // keep them until the mode changes
	cut       // lose them
)

// Counts are packets that something was done to.
type Counts struct {
	Passed    uint64
	Cut       uint64 // lost since the link was cut
	Lost      uint64 // lost by chance, or since too many waited
	Repeated  uint64
	Reordered uint64 // held back so that later ones overtake
}

// add adds c.
func (a *Counts) add(c Counts) {
	a.Passed += c.Passed
	a.Cut += c.Cut
	a.Lost += c.Lost
	a.Repeated += c.Repeated
	a.Reordered += c.Reordered
}

// conditions are what a link does to packets that it passes.
type conditions struct {
	delay, jitter            time.Duration
	loss, duplicate, reorder float64
	rate                     int // bytes a second, 0 for no bound
}

// maxQueue bounds what waits on a link, as the memory of a switch does; maxBacklog what waits since the link is thin.
const (
	maxQueue   = 8192
	maxBacklog = time.Second
)

// link is one direction between two members.
type link struct {
	write func(frame []byte) // to the other end
	base  conditions         // those of the start

	mu     sync.Mutex // guards what follows
	now    conditions
	mode   mode
	queue  queue
	busy   bool      // serve is writing what it took from the queue
	last   time.Time // when the last one in order is due
	free   time.Time // when all that was sent is through a thin link
	serial uint64
	counts Counts
	rng    *rand.Rand
	closed bool

	wake chan struct{} // capacity 1: something is due earlier than was known
}

func newLink(base conditions, seed uint64, write func([]byte)) *link {
	return &link{base: base, now: base, write: write, rng: rand.New(rand.NewPCG(seed, 0)), wake: make(chan struct{}, 1)}
}

// send takes a frame, which is the caller's again on return.
func (l *link) send(frame []byte) {
	l.mu.Lock()
	if l.mode == cut || l.closed {
		l.counts.Cut++
		l.mu.Unlock()
		return
	}
	c := l.now
	if l.mode == pass && c == (conditions{}) && len(l.queue) == 0 && !l.busy {
		l.counts.Passed++
		l.mu.Unlock()
		l.write(frame)
		return
	}
	defer l.mu.Unlock()
	if c.loss > 0 && l.rng.Float64() < c.loss || len(l.queue) >= maxQueue {
		l.counts.Lost++
		return
	}
	start := time.Now()
	if c.rate > 0 {
		if l.free.Before(start) {
			l.free = start
		}
		if l.free.Sub(start) > maxBacklog {
			l.counts.Lost++
			return
		}
		l.free = l.free.Add(time.Duration(len(frame)) * time.Second / time.Duration(c.rate))
		start = l.free
	}
	frame = append([]byte(nil), frame...)
	l.addLocked(frame, start)
	if c.duplicate > 0 && l.rng.Float64() < c.duplicate {
		l.counts.Repeated++
		l.addLocked(frame, start)
	}
}

// overtaken is how much longer a packet takes that others shall overtake, beside its delay.
const overtaken = 2 * time.Millisecond

// addLocked puts a frame that was sent at start into the queue, l.mu being held.
func (l *link) addLocked(frame []byte, start time.Time) {
	c := l.now
	due := start.Add(c.delay)
	if c.jitter > 0 {
		due = due.Add(time.Duration((2*l.rng.Float64() - 1) * float64(min(c.jitter, c.delay))))
	}
	if c.reorder > 0 && l.rng.Float64() < c.reorder {
		l.counts.Reordered++
		due = due.Add(time.Duration((1 + l.rng.Float64()) * float64(c.delay+overtaken)))
	} else {
		// The others stay in order.
		if due.Before(l.last) {
			due = l.last
		}
		l.last = due
	}
	l.serial++
	heap.Push(&l.queue, packet{due, l.serial, frame})
	if l.queue[0].serial == l.serial {
		l.wakeUp()
	}
}

func (l *link) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// serve writes packets when they are due, until the link is closed.
func (l *link) serve() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due [][]byte
	for {
		l.mu.Lock()
		l.counts.Passed += uint64(len(due))
		due = due[:0]
		if l.closed {
			l.mu.Unlock()
			return
		}
		wait := time.Duration(-1) // for ever
		if l.mode == pass {
			now := time.Now()
			for len(l.queue) > 0 && !l.queue[0].due.After(now) {
				due = append(due, heap.Pop(&l.queue).(packet).frame)
			}
			if len(l.queue) > 0 {
				wait = l.queue[0].due.Sub(now)
			}
		}
		l.busy = len(due) > 0
		l.mu.Unlock()
		for _, frame := range due {
			l.write(frame)
		}
		if len(due) > 0 {
			continue // more may be due by now
		}
		var ready <-chan time.Time
		if wait >= 0 {
			timer.Reset(wait)
			ready = timer.C
		}
		select {
		case <-ready:
		case <-l.wake:
		}
	}
}

// setMode changes what happens to packets. A cut loses those that are under way too.
func (l *link) setMode(m mode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m == cut {
		l.counts.Cut += uint64(len(l.queue))
		l.queue = nil
	}
	l.mode = m
	l.wakeUp()
}

// set changes the conditions, for packets from now on.
func (l *link) set(change func(now *conditions, base conditions)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.now, l.base)
	// What was sent before under a longer delay must not hold up what comes now.
	if l.last.After(time.Now().Add(l.now.delay + l.now.jitter)) {
		l.last = time.Time{}
	}
	if l.now.rate == 0 {
		l.free = time.Time{}
	}
}

func (l *link) count() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// close ends serve.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.wakeUp()
}

// packet is a frame that waits.
type packet struct {
	due    time.Time
	serial uint64
	frame  []byte
}

// queue is a heap of packets, the next one first.
type queue []packet

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].serial < q[j].serial
}

func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *queue) Push(x any) { *q = append(*q, x.(packet)) }

func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = packet{}
	*q = old[:len(old)-1]
	return last
}
