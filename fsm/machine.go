package fsm

import (
	"errors"
	"fmt"
	"math"
)

// Bounds on the work that one batch does beside its own commands.
const (
	// MaxReclaim is how many expired entries the end of a batch removes at most.
	MaxReclaim = 256
	// MaxShrink is how many entries the end of a batch evicts at most to come down to a lowered
	// limit.
	MaxShrink = 1024
)

// largestShare is the part of the limit that one entry may cost: an eighth (R4).
const largestShare = 8

// counterBits are the low bits of a version, which the machine counts; the high ones are granted.
const counterBits = 44

// maxCounter is the last count under one grant.
const maxCounter = 1<<counterBits - 1

// ErrDivergence is returned by Apply for an entry that this machine can't apply as every other
// replica does. The caller must stop the replica.
var ErrDivergence = errors.New("state machine diverges from its log")

// Machine is the state machine of one shard. See the package's documentation for who may call what
// when.
type Machine struct {
	header
	lru *lru
	// bound is what bytes may not exceed: limit, except while a lowered limit is approached in steps.
	// Then it follows the bytes down. Between batches it is max(limit, bytes).
	bound uint64
}

// header is the state beside the entries. A snapshot begins with it.
type header struct {
	level        uint8
	position     uint32 // place of the last command in the last applied batch
	applied      uint64 // log index of the last applied batch
	clock        uint64 // log clock, Unix milliseconds
	version      uint64 // of the last change: granted bits above counterBits counted ones
	generation   uint64
	epoch        uint64
	owned        Range
	tableVersion uint64 // of limit
	limit        uint64 // bytes
	evictions    uint64
	expirations  uint64
}

// New returns a machine that has applied nothing and owns nothing.
func New() *Machine {
	return &Machine{header: header{level: baseLevel}, lru: newLRU()}
}

// Apply applies the log entry at index and returns a result for each command, in order. The
// machine copies the keys and values that it keeps.
//
// An error means that the log and this machine don't go together, and that nothing was applied:
// ErrDivergence (index not above the last one, level unknown or not reached), also ErrMalformed for
// a command that has no encoding. The caller must stop the replica, not skip the entry.
//
// Beside the commands, an entry removes up to MaxReclaim expired entries and evicts up to MaxShrink
// ones above a lowered limit. A put evicts at most one entry per Overhead bytes of its own cost. Only
// a grant that takes slots away walks over all entries.
func (m *Machine) Apply(index uint64, b Batch) ([]Result, error) {
	if err := m.admit(index, &b); err != nil {
		return nil, err
	}
	m.applied, m.position = index, 0
	m.clock = max(m.clock, b.Stamp)
	var results []Result
	if len(b.Commands) > 0 {
		m.position = uint32(len(b.Commands) - 1)
		results = make([]Result, len(b.Commands))
	}
	for i := range b.Commands {
		results[i] = m.apply(&b.Commands[i])
	}
	m.reclaim()
	m.shrink()
	return results, nil
}

// admit returns why b can't be applied at index. It comes before any change, so that a refused batch
// leaves no trace.
func (m *Machine) admit(index uint64, b *Batch) error {
	if index <= m.applied {
		return fmt.Errorf("%w: index %d after %d", ErrDivergence, index, m.applied)
	}
	if b.Level > m.level {
		return fmt.Errorf("%w: index %d: batch of level %d on a machine of level %d", ErrDivergence, index, b.Level, m.level)
	}
	if uint64(len(b.Commands)) > math.MaxUint32 {
		return fmt.Errorf("%w: index %d: %d commands", ErrDivergence, index, len(b.Commands))
	}
	for i := range b.Commands {
		c := &b.Commands[i]
		if err := c.validate(); err != nil {
			return fmt.Errorf("%w: index %d: command %d: %w: %w", ErrDivergence, index, i, ErrMalformed, err)
		}
		if c.Level > MaxLevel {
			return fmt.Errorf("%w: index %d: command %d: raise to level %d, this build knows %d",
				ErrDivergence, index, i, c.Level, MaxLevel)
		}
	}
	return nil
}

func (m *Machine) apply(c *Command) Result {
	switch c.Kind {
	case KindPut:
		return m.put(c)
	case KindDelete:
		return m.delete(c)
	case KindGrant:
		return m.grant(&c.Grant)
	case KindLimit:
		return m.setLimit(c.Limit, c.TableVersion)
	case KindLevel:
		return m.raise(c.Level)
	}
	panic("fsm: a kind that validate admits and apply does not know")
}

func (m *Machine) put(c *Command) Result {
	if !m.owned.Contains(Slot(c.Key)) {
		return Result{Status: StatusNotOwner}
	}
	cost := Cost(len(c.Key), len(c.Value), len(c.ContentType))
	if cost > m.limit/largestShare {
		return Result{Status: StatusTooLarge}
	}
	stored := m.lru.get(c.Key)
	result := m.judge(c.Cond, stored)
	if result.Status != StatusOK {
		return result
	}
	if m.exhausted() {
		return Result{Status: StatusExhausted}
	}

	m.version++
	result.Version = m.version
	it := &item{contentType: c.ContentType, version: m.version}
	if len(c.Value) > 0 {
		// No spare capacity: readers share the value, and one who appends to it must not write there.
		it.value = append(make([]byte, 0, len(c.Value)), c.Value...)
	}
	if c.TTL > 0 {
		it.expireAt = m.clock + c.TTL
		if it.expireAt < m.clock {
			it.expireAt = math.MaxUint64
		}
	}
	if stored != nil {
		it.key = stored.key // one copy of the key stays alive, not two
		if stored.deadAt(m.clock) {
			m.expirations++
		}
	} else {
		it.key = string(c.Key)
	}
	m.lru.put(it)
	// The new entry stands at the recent end and costs at most an eighth of what is allowed here, so
	// the loop ends before it reaches it.
	for m.lru.bytes > m.bound {
		m.evictOldest()
	}
	return result
}

func (m *Machine) delete(c *Command) Result {
	if !m.owned.Contains(Slot(c.Key)) {
		return Result{Status: StatusNotOwner}
	}
	stored := m.lru.get(c.Key)
	result := m.judge(c.Cond, stored)
	if result.Status != StatusOK || !result.Existed {
		// A dead entry may still be stored; it is left to reclaim, as nothing is deleted here.
		return result
	}
	if m.exhausted() {
		return Result{Status: StatusExhausted}
	}
	m.version++
	m.lru.remove(stored)
	result.Version = m.version
	return result
}

// exhausted reports whether no further change can be numbered under the present grant.
func (m *Machine) exhausted() bool { return m.version&maxCounter == maxCounter }

// judge decides a condition against the entry stored under the key, if any; a dead one counts as
// none. StatusOK tells the caller to go on.
func (m *Machine) judge(c Cond, stored *item) Result {
	live := stored != nil && !stored.deadAt(m.clock)
	var current uint64
	if live {
		current = stored.version
	}
	holds := false
	switch c.Kind {
	case CondAlways:
		holds = true
	case CondAbsent:
		holds = !live
	case CondPresent:
		holds = live
	case CondVersion:
		holds = live && current == c.Version
	}
	if !holds {
		return Result{Status: StatusCondition, Existed: live, Version: current}
	}
	return Result{Status: StatusOK, Existed: live}
}

func (m *Machine) grant(g *Grant) Result {
	first := m.owned == Range{}
	newer := g.Generation > m.generation || g.Generation == m.generation &&
		(g.Epoch > m.epoch || g.Epoch == m.epoch && uint64(g.VersionBits) > m.version>>counterBits)
	if !newer || !first && uint64(g.VersionBits) <= m.version>>counterBits {
		return Result{Status: StatusStale}
	}
	m.generation, m.epoch = g.Generation, g.Epoch
	m.version = uint64(g.VersionBits) << counterBits
	if g.Range != m.owned {
		m.owned = g.Range
		m.dropForeign()
	}
	m.setLimit(g.Limit, g.TableVersion) // if stale, a newer limit is there already: the grant stands
	return Result{Status: StatusOK}
}

// dropForeign drops the entries of slots that are not owned. They count as neither evicted nor
// expired: they live on in another shard.
func (m *Machine) dropForeign() {
	for _, it := range m.lru.items() {
		if !m.owned.Contains(Slot([]byte(it.key))) {
			m.lru.remove(it)
		}
	}
}

func (m *Machine) setLimit(limit, tableVersion uint64) Result {
	if tableVersion <= m.tableVersion {
		return Result{Status: StatusStale}
	}
	m.limit, m.tableVersion = limit, tableVersion
	m.bound = max(m.bound, limit)
	return Result{Status: StatusOK}
}

func (m *Machine) raise(level uint8) Result {
	if level <= m.level {
		return Result{Status: StatusStale}
	}
	m.level = level
	return Result{Status: StatusOK}
}

// reclaim removes entries that have expired, the first to expire first, MaxReclaim at most.
func (m *Machine) reclaim() {
	for range MaxReclaim {
		it := m.lru.firstToExpire()
		if it == nil || !it.deadAt(m.clock) {
			return
		}
		m.lru.remove(it)
		m.expirations++
	}
}

// shrink evicts down to the limit, MaxShrink entries at most, and lets the bound follow. Puts never
// exceed the bound and it never rises but with the limit, so each batch that ends above the limit
// leaves the machine smaller than the one before did.
func (m *Machine) shrink() {
	for range MaxShrink {
		if m.lru.bytes <= m.limit {
			break
		}
		m.evictOldest()
	}
	m.bound = max(m.limit, m.lru.bytes)
}

// evictOldest makes room. What was dead anyway counts as expired.
func (m *Machine) evictOldest() {
	it := m.lru.oldest()
	m.lru.remove(it)
	if it.deadAt(m.clock) {
		m.expirations++
	} else {
		m.evictions++
	}
}

// Entry is a stored value with its metadata. Value is shared with the machine, which never writes to
// it: it may be used for as long as wanted, also after the entry is gone, and must not be written to.
type Entry struct {
	Value       []byte
	ContentType string
	Version     uint64
	ExpireAt    uint64 // log clock, milliseconds; 0 = lives until removed
}

// Lookup is what a machine knows about a key at one place of its log.
type Lookup struct {
	Owned bool   // the machine owns the key's slot
	Found bool   // there is an entry, and it is alive at Clock
	Entry Entry  // zero unless Found
	Clock uint64 // log clock, Unix milliseconds
	Epoch uint64

	Version uint64 // of the shard: on a miss the fill token (R8)
	Touch   Touch  // the key's
	Recent  bool   // Found, and so near the recent end that a touch would not change much
}

// Lookup looks key up without touching its recency. Found is judged by the log clock alone; whether
// the entry is due by a later stamp is the caller's question, to be asked of Entry.ExpireAt.
func (m *Machine) Lookup(key []byte) Lookup {
	l := Lookup{Owned: m.owned.Contains(Slot(key)), Clock: m.clock, Epoch: m.epoch, Version: m.version, Touch: TouchOf(key)}
	if it := m.lru.get(key); it != nil && !it.deadAt(m.clock) {
		l.Found = true
		l.Entry = Entry{Value: it.value, ContentType: it.contentType, Version: it.version, ExpireAt: it.expireAt}
	}
	return l
}

// Observe makes o hear of entries from now on, nil nobody.
func (m *Machine) Observe(o Observer) {}

// PlanDelete appends to dst the KindDeletePrefix commands that together remove the entries of the present
// state whose key begins with prefix, each of which walks over about span entries at most.
func (m *Machine) PlanDelete(dst []Command, prefix []byte, span int) []Command { return dst }

// Applied returns the log index of the last applied batch and the place of its last command in it, 0
// for a batch without commands. Together they name the last effect that a read now can see.
func (m *Machine) Applied() (index uint64, position uint32) {
	return m.applied, m.position
}
