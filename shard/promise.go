package shard

import (
	"sync"
	"time"
)

// promise is what a voter has promised a leader: until a time, on its own monotonic clock, it takes part in no election, neither
// with its vote nor as a candidate, but for one that the leader of that term asked for (readlease.go says what for). It
// belongs to the replica and outlives its Raft instances.
//
// It is not kept on disk. A replica that is opened again has forgotten what it promised, so it begins as if it had
// promised right then: what it did promise, earlier, is over before. So does one that its group's next generation
// begins with: a voter of the former one may have promised to a leader that does not know of the end of that. Nobody but the
// founders of a group that never was can do without.
type promise struct {
	mu    sync.Mutex // guards following
	term  uint64     // of the leader that it was given to last; 0 = none
	until time.Duration
	votes int // requests for votes that the Raft instance has and did not answer yet
}

const (
	// promiseTime is how long a promise binds. It is a constant: a restart must outlast what an earlier process promised.
	promiseTime = 300 * time.Millisecond
	// leaseTime is how long the leader counts on one, from when it asked for it, and by its own clock. The rates of two
	// clocks may differ by the fifth that it is less: those of real ones differ by less than a thousandth.
	leaseTime = promiseTime * 4 / 5
)

// begin makes p a promise to an unknown leader, from now on.
func (p *promise) begin(now time.Duration) {
	if bugPromiseForgotten.on() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = now + promiseTime
}

// give promises the leader of term, and reports whether that holds: not where this replica knows of a later term, as persisted
// says, or may be about to vote in one. A promise that does not hold binds all the same, which does no harm.
func (p *promise) give(now time.Duration, term uint64, persisted func() uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if bugPromiseBroken.on() {
		return persisted() == term
	}
	p.term, p.until = max(p.term, term), max(p.until, now+promiseTime)
	// A vote in a later term is either counted here, or its term is persisted, or it has yet to come and is refused (enter). A
	// candidate persists its term before it asks for votes (ask).
	return p.votes == 0 && persisted() == term
}

// bindsLocked reports whether p forbids an election in term. handed: the leader of the term before asked for it, and counts on no
// promise any more. Nor does any leader of an earlier term: nobody could have been elected after him while he did.
func (p *promise) bindsLocked(now time.Duration, term uint64, handed bool) bool {
	return now < p.until && !(handed && p.term < term)
}

// left is for how long p binds.
func (p *promise) left(now time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until - now
}

// ask reports whether this replica may ask for votes in term.
func (p *promise) ask(now time.Duration, term uint64, handed bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.bindsLocked(now, term, handed)
}

// enter lets a candidate's request through to the Raft instance, which is over when leave was called; false: it is to be refused.
func (p *promise) enter(now time.Duration, term uint64, handed bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bindsLocked(now, term, handed) {
		return false
	}
	p.votes++
	return true
}

func (p *promise) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.votes--
}
