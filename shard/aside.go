package shard

import (
	"github.com/larder-cache/larder/fsm"
)

// MissReason says why a read found nothing. It is a hint of the replica that served the read: what was
// removed too long ago, or before its last snapshot came in, counts as absent.
type MissReason string

const (
	// MissEvicted: the entry made room for others.
	MissEvicted MissReason = "evicted"
	// MissExpired: its time to live ended.
	MissExpired MissReason = "expired"
	// MissDeleted: it was deleted.
	MissDeleted MissReason = "deleted"
	// MissAbsent: it never was there, as far as is known.
	MissAbsent MissReason = "absent"
)

// missReasons are all reasons; those that a machine tells stand at the place of their fsm.Reason.
var missReasons = [...]MissReason{0: MissAbsent, fsm.ReasonEvicted: MissEvicted, fsm.ReasonExpired: MissExpired, fsm.ReasonDeleted: MissDeleted}

// miss is what is known about a read that found nothing.
type miss struct {
	why    fsm.Reason // 0: absent
	size   int        // the smallest larger size that would have hit, see fsm.Sizing.Look
	weight uint64
}

// aside is what a replica keeps beside the state of its machine, in no snapshot and no checksum. The lock
// of the machine guards it: written where that is held for writing.
type aside struct {
	level  uint8 // of the machine, after the last log entry
	ghosts fsm.Ghosts
	sizing fsm.Sizing
	ages   ages
}

var _ fsm.Observer = (*aside)(nil)

// Stored implements fsm.Observer.
func (a *aside) Stored(key fsm.Touch, _ uint64) {
	a.ghosts.Stored(key)
	a.sizing.Stored(key)
}

// Removed implements fsm.Observer.
func (a *aside) Removed(key fsm.Touch, cost uint64, why fsm.Reason, idle, expireAt uint64) {
	a.ghosts.Removed(key, why)
	a.sizing.Removed(key, cost, why, expireAt)
	if why == fsm.ReasonEvicted && a.level >= 2 { // below, an entry does not know when it was used
		a.ages.observe(idle)
	}
}

// applied hears of a log entry that m has applied.
func (a *aside) applied(m *fsm.Machine, b *fsm.Batch, results []fsm.Result, s fsm.Stats) {
	a.level = s.Level
	if a.sizing.Samples() > 0 {
		for i := range b.Commands {
			a.forget(m, &b.Commands[i], results[i])
		}
	}
	a.ghosts.Fit(s.Limit)
	a.sizing.Fit(s.Limit, s.Bytes)
}

// forget makes a larger machine lose, too, what a command would have deleted there and did not find here.
func (a *aside) forget(m *fsm.Machine, c *fsm.Command, r fsm.Result) {
	switch {
	case r.Status != fsm.StatusOK:
	case c.Kind == fsm.KindDelete && !r.Existed:
		a.sizing.Removed(m.TouchOf(c.Key), 0, fsm.ReasonDeleted, 0)
	case c.Kind == fsm.KindFlush:
		a.sizing.Clear()
	}
}

// restored begins anew, for another state: what became of entries on the way to it is not known.
func (a *aside) restored(s fsm.Stats) {
	a.level = s.Level
	a.ghosts.Clear()
	a.sizing.Clear()
	a.ghosts.Fit(s.Limit)
	a.sizing.Fit(s.Limit, s.Bytes)
}

// look tells about a read that found nothing.
func (a *aside) look(l *fsm.Lookup) miss {
	if l.Expired {
		return miss{why: fsm.ReasonExpired, size: fsm.Extras, weight: a.sizing.Weight(l.Touch)}
	}
	m := miss{why: a.ghosts.Why(l.Touch)}
	m.size, m.weight = a.sizing.Look(l.Touch, l.Clock)
	return m
}

// ageBounds are the upper bounds of a histogram of ages, in milliseconds: a second to a month.
var ageBounds = [...]uint64{1e3, 5e3, 15e3, 60e3, 300e3, 900e3, 3600e3, 4 * 3600e3, 12 * 3600e3, 24 * 3600e3, 3 * 24 * 3600e3,
	7 * 24 * 3600e3, 30 * 24 * 3600e3}

// ages is a histogram of how long evicted entries had not been used.
type ages struct {
	count   uint64
	sum     uint64                 // milliseconds
	buckets [len(ageBounds)]uint64 // by bound, without those in lower ones
}

func (a *ages) observe(ms uint64) {
	a.count++
	a.sum += ms
	for i, bound := range ageBounds {
		if ms <= bound {
			a.buckets[i]++
			return
		}
	}
}

// cumulative returns the buckets as Prometheus wants them: in seconds, each with those below.
func (a *ages) cumulative() map[float64]uint64 {
	buckets := make(map[float64]uint64, len(ageBounds))
	sum := uint64(0)
	for i, n := range a.buckets {
		sum += n
		buckets[float64(ageBounds[i])/1000] = sum
	}
	return buckets
}

// evicted tells how long evicted entries had not been used, and what the memory of why keys are gone takes.
func (c *Cache) evicted() (a ages, ghostBytes uint64) {
	i := c.group.instance()
	if i == nil {
		return a, 0
	}
	m := i.fsm.machine.(*cacheMachine)
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.aside.ages, m.aside.ghosts.Bytes()
}
