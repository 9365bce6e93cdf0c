package shard

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Reads on the strength of a lease (R12; Gray and Cheriton 1989, "Leases"; Ongaro 2014, 6.4.1 for Raft).
//
// Where the node's read mode is a lease, the probes that confirm a leader (probe.go) also ask each voter for a promise: to take part
// in no election for promiseTime (promise.go). With promises of a quorum of voters the leader knows, without asking
// again, that nobody else has come to lead, until leaseTime after it asked for the one that it needs least. A linearizable read
// then loads CommitIndex and looks at the lease, both after it came, and waits until the state machine has applied the visible
// index: it sees all that was acknowledged before it came, by this leader, or by an earlier one (ready), for there is no later
// one. Where the lease has run out meanwhile, or there is none, it goes with a probe. Reads renew it; a shard that nobody reads
// has none, and costs nothing.
//
// Two majorities of voters meet, so whoever wins an election had the vote of one that promised, and that one does not vote,
// nor stand, while its promise binds. What could break that, and what closes it:
//
//	the voter forgets, as its process starts again      it begins with a promise to whom it may concern: promise.begin
//	it has voted already, or does at the same time      give looks for votes under way and at the term, in this order to them
//	it stands itself                                    asked for votes first: its term gives it away; later: ask forbids
//	the leader hands over, which needs no time to pass  the lease ends, for the rest of the term, before TimeoutNow leaves;
//	                                                    votes on that leader's word, in the term that follows, pass. Those of
//	                                                    succession.go, for whoever misses its leader, do not
//	members change                                      no lease from before the change is proposed until it is committed;
//	                                                    who votes is looked up at each promise; learners never count
//	this node is one of the voters                      it needs no promise of itself: before it votes or stands it persists
//	                                                    a later term, at which the lease looks too
//	the answer was long on its way                      the lease counts from before the question left
//	the clocks' rates differ                            the lease is a fifth shorter than the promise, and the leader asks for
//	                                                    no more than the voter knows of: a voter with another leaseTime gives none
//	the leader stands still between look and answer     the read belongs at the look: what its state has later is no older, and
//	                                                    all of it came before anything that another leader acknowledged
//	a former generation of the shard, or incarnation    promises are between replicas, by their ids; founders of a next
//	of a voter                                          generation begin with one, and an only one, which asks nobody for
//	                                                    votes, does not serve before it is over
//
// What is left is time itself. The clock is the system's monotonic one, which goes on while a process is stopped, and does not
// while the machine, or the virtual one, is suspended. A leader that is suspended within its lease and resumed may answer, for
// what was left of it, with a state that others have changed meanwhile. That is why the read mode is a choice, and why a
// probe is the default.

// readLease is what a leader knows of its voters' promises. It belongs to an instance.
type readLease struct {
	inst *instance
	// valid is the lease as it stands; nil: there is none.
	valid atomic.Pointer[leaseEnd]

	mu       sync.Mutex                  // guards following
	term     uint64                      // that asked is of
	asked    map[ReplicaID]time.Duration // when the newest promise of each voter was asked for
	ended    uint64                      // the latest term that hands over: it has no lease any more
	changing int                         // changes of members under way
}

// leaseEnd says until when, on the host's monotonic clock, nobody but the leader of term leads.
type leaseEnd struct {
	term  uint64
	until time.Duration
}

// holds reports whether the leader of term holds the lease at a time after the call began, and whether it is to be renewed.
func (l *readLease) holds(term uint64) (ok, renew bool) {
	end := l.valid.Load()
	if end == nil || end.term != term || l.inst.group.store.Term() != term {
		return false, false
	}
	left := end.until - l.inst.group.host.mono()
	if bugLeaseEndless.on() {
		left = max(left, leaseTime/4)
	}
	return left > 0, left < leaseTime/2
}

// promised counts the promise of a voter to the leader of term, which was asked for at a time.
func (l *readLease) promised(voter ReplicaID, term uint64, asked time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term < l.term || term <= l.ended && !bugLeaseOverHandover.on() || l.changing > 0 {
		return
	}
	if term > l.term {
		l.term, l.asked = term, map[ReplicaID]time.Duration{}
	}
	l.asked[voter] = max(l.asked[voter], asked)
	voters, self := l.inst.voters()
	var times []time.Duration // of the others' promises
	for _, v := range l.inst.confirmers(voters) {
		if at, ok := l.asked[v]; ok && v != l.inst.group.id {
			times = append(times, at)
		}
	}
	need := len(voters)/2 + 1
	if self {
		need--
	}
	if need < 1 || len(times) < need {
		return
	}
	slices.Sort(times)
	slices.Reverse(times)
	d := leaseTime
	if bugLeaseLong.on() {
		d = 20 * promiseTime
	}
	l.valid.Store(&leaseEnd{term, times[need-1] + d})
}

// end ends the lease, and all of that term.
func (l *readLease) end(term uint64) {
	if bugLeaseOverHandover.on() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = max(l.ended, term)
	l.valid.Store(nil)
}

// suspend ends the lease, and there is none until resume was called as often.
func (l *readLease) suspend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changing++
	l.asked = map[ReplicaID]time.Duration{}
	l.valid.Store(nil)
}

func (l *readLease) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changing--
}

// leases reports whether reads of this replica may rely on a lease. Those of the directory are few, and decide for all others. A leader that is
// silent as its disk is stuck asks for no promises, which would forbid the election of another.
func (i *instance) leases() bool {
	return i.group.host.cfg.Leases && i.group.id.Shard != Directory && !i.silent()
}

// leased returns the index that a read which began before the call must have applied, if a lease tells that this replica leads.
func (i *instance) leased() (visible uint64, ok bool) {
	term := i.ready.Load()
	if term == 0 || !i.leases() {
		return 0, false
	}
	commit := i.commit()
	ok, renew := i.lease.holds(term)
	if renew {
		i.reads.renew()
	}
	if !ok || i.ready.Load() != term {
		return 0, false
	}
	return i.visible(commit), true
}

// confirm waits until this replica is known to have led at a time after the call, and returns the index that the
// state machine must have applied for a read that began before it to be linearizable. probe: a lease is no ground.
func (i *instance) confirm(ctx context.Context, probe bool) (visible uint64, path ReadPath, err error) {
	if !probe {
		if visible, ok := i.leased(); ok {
			return visible, ReadLease, nil
		}
	}
	visible, err = i.reads.join(ctx)
	return visible, ReadProbe, err
}
