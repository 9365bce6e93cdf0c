package fsm

import (
	"errors"
	"fmt"
	"math"
)

// Bounds on the work that one batch does beside its own commands.
const (
	// MaxReclaim is how many expired entries, and how many idempotency records, the end of a batch
	// removes at most.
	MaxReclaim = 256
	// MaxShrink is how many entries the end of a batch evicts at most to come down to a lowered
	// limit.
	MaxShrink = 1024
	// MaxLimit is the most that a machine takes for its limit, in bytes: as many large values as its arena can
	// name. From level 2 on.
	MaxLimit = 32 << 30
	// MaxRemoved is how many bytes of entries may be removed for either reason before the end of a batch
	// leaves the rest to those after it: what is removed is summed up, which takes time by length. From
	// level 2 on.
	MaxRemoved = 32 << 20
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
	store *store
	keys  keyMemory
	// bound is what bytes may not exceed: limit, except while a lowered limit is approached in steps.
	// Then it follows the bytes down. Between batches it is max(limit, bytes).
	bound uint64

	// Beside the state.
	observer Observer
	copying  *Copy
	recent   recentEnd
	scratch  []byte
	warming  warming
	spare    []Result // see alone
	held     bool     // between the commands of a KindAtomic: room is made after them
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
	recency      uint64 // the last recency stamp given (see stamp); level 2
	horizon      uint64 // idempotency keys of this time or before are too old, Unix milliseconds; level 2
	seed         uint64 // of the hashes of keys; level 2
	moves        moves  // of ranges; level 4
}

// New returns a machine that has applied nothing and owns nothing.
func New() *Machine { return newMachine(header{level: baseLevel}) }

func newMachine(h header) *Machine {
	m := &Machine{header: h, store: newStore(Slot), keys: newKeyMemory()}
	m.reseed(h.seed)
	m.own(h.stored())
	return m
}

func (m *Machine) reseed(seed uint64) {
	m.seed = seed
	for _, s := range []*store{m.store, m.keys.timed, m.keys.opaque} {
		s.reseed(seed)
	}
}

func (m *Machine) own(r Range) {
	m.store.own(r)
	m.keys.own(r)
}

// Apply applies the log entry at index and returns a result for each command, in order. The
// machine copies the keys and values that it keeps.
//
// An error means that the log and this machine don't go together, and that nothing was applied:
// ErrDivergence (index not above the last one, level unknown or not reached), also ErrMalformed for
// a command that has no encoding. The caller must stop the replica, not skip the entry.
//
// Beside the commands, an entry removes up to MaxReclaim expired entries and evicts up to MaxShrink
// ones above a lowered limit, and fewer when they are large (MaxRemoved). A put evicts at most one entry per Overhead bytes of its own cost. Only
// a grant that takes slots away walks over all entries, and a delete by prefix over those of its slots.
func (m *Machine) Apply(index uint64, b Batch) ([]Result, error) {
	m.warm(b.Commands)
	if err := m.admit(index, &b); err != nil {
		return nil, err
	}
	m.applied, m.position = index, 0
	m.clock = max(m.clock, b.Stamp)
	m.store.warmCells(m.warming.names)
	var results []Result
	switch n := len(b.Commands); n {
	case 0:
	case 1:
		results = m.alone(m.apply(&b.Commands[0]))
	default:
		m.position = uint32(n - 1)
		results = make([]Result, n)
		for i := 0; i < n; i++ {
			if ops := int(b.Commands[i].Ops); ops > 0 {
				m.applyAtomic(&b.Commands[i], b.Commands[i+1:i+1+ops], results[i:i+1+ops])
				i += ops
				continue
			}
			results[i] = m.apply(&b.Commands[i])
			if b.Commands[i].Kind == KindLevel {
				m.warm(b.Commands[i+1:]) // hashes may be others now
			}
		}
	}
	m.reclaim()
	m.dropSome()
	m.shrink()
	m.store.tidy()
	return results, nil
}

// spareResults is how many results are allocated together.
const spareResults = 32

// alone returns r as the only result of an entry. What refers to no memory comes out of an allocation that such
// results share, as one for each would cost more than what is allocated. It is never used again.
func (m *Machine) alone(r Result) []Result {
	if r.HasValue {
		return []Result{r}
	}
	if len(m.spare) == 0 {
		m.spare = make([]Result, spareResults)
	}
	results := m.spare[:1:1]
	m.spare = m.spare[1:]
	results[0] = r
	return results
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
		if c.needs() > m.level {
			return fmt.Errorf("%w: index %d: command %d of level %d on a machine of level %d", ErrDivergence, index, i, c.needs(), m.level)
		}
		if c.Level > MaxLevel {
			return fmt.Errorf("%w: index %d: command %d: raise to level %d, this build knows %d",
				ErrDivergence, index, i, c.Level, MaxLevel)
		}
	}
	if err := validateTogether(b.Commands); err != nil {
		return fmt.Errorf("%w: index %d: %w: %w", ErrDivergence, index, ErrMalformed, err)
	}
	return nil
}

func (m *Machine) apply(c *Command) Result {
	switch c.Kind {
	case KindPut, KindDelete, KindIncr, KindAppend, KindExpire, KindTouch, KindGet:
		return m.applyKeyed(c)
	case KindTouches:
		return m.touchAll(c.Touches)
	case KindFlush:
		return m.flush()
	case KindDeletePrefix:
		return m.deletePrefix(c)
	case KindGrant:
		return m.grant(&c.Grant)
	case KindLimit:
		return m.setLimit(c.Limit, c.TableVersion)
	case KindLevel:
		return m.raise(c.Level, c.Seed)
	case KindBegin:
		return m.begin(c.Transfer)
	case KindChunk:
		return m.stage(c.Transfer, c.Value)
	case KindSeal:
		return m.seal(c.Transfer)
	case KindAccept:
		return m.accept(c.Transfer)
	case KindRefuse:
		return m.refuse(c.Transfer.ID)
	case KindSettle:
		return m.settle(c.Transfer)
	case KindVoid:
		return m.void(c.Transfer.ID)
	case KindClose:
		return m.closeTransfer(c.Transfer)
	}
	panic("fsm: a kind that validate admits and apply does not know")
}

// exhausted reports whether no further change can be numbered under the present grant.
func (m *Machine) exhausted() bool { return m.version&maxCounter == maxCounter }

// stamp returns the next recency stamp: log milliseconds over 20 bits of counter, above all before it, so
// that two orders can be merged (R5). Level 1 has no stamps of its own; there the version stands in.
func (m *Machine) stamp() uint64 {
	if m.level < 2 {
		return m.version
	}
	const counter = 20
	const latest = 1 << (63 - counter) // a clock gone mad must not use up the numbers
	m.recency = max(m.recency+1, min(m.clock, latest)<<counter)
	return m.recency
}

func (m *Machine) grant(g *Grant) Result {
	first := m.owned == Range{}
	if m.level >= 4 {
		first = m.generation == 0 && m.epoch == 0 && m.version == 0 // else it may have given all away
		if g.Range != m.owned && m.moving() {
			return Result{Status: StatusStale}
		}
	}
	newer := g.Generation > m.generation || g.Generation == m.generation &&
		(g.Epoch > m.epoch || g.Epoch == m.epoch && uint64(g.VersionBits) > m.version>>counterBits)
	if !newer || !first && uint64(g.VersionBits) <= m.version>>counterBits {
		return Result{Status: StatusStale}
	}
	if g.Generation > max(m.generation, 1) && m.level >= 2 {
		m.loseKeys()
	}
	if m.level >= 4 && (g.Generation != m.generation || g.Range != m.owned) {
		m.moves.Tokens = uint64(g.VersionBits) << counterBits // what became of these slots before may not be known here
	}
	m.generation, m.epoch = g.Generation, g.Epoch
	m.version = uint64(g.VersionBits) << counterBits
	if g.Range != m.owned {
		m.owned = g.Range
		// What was there lives on in another shard: it counts as neither evicted nor expired.
		m.own(g.Range)
	}
	m.setLimit(g.Limit, g.TableVersion) // if stale, a newer limit is there already: the grant stands
	return Result{Status: StatusOK}
}

func (m *Machine) setLimit(limit, tableVersion uint64) Result {
	if tableVersion <= m.tableVersion {
		return Result{Status: StatusStale}
	}
	if m.level >= 2 {
		limit = min(limit, MaxLimit)
	}
	m.limit, m.tableVersion = limit, tableVersion
	m.bound = max(m.bound, limit)
	return Result{Status: StatusOK}
}

func (m *Machine) raise(level uint8, seed uint64) Result {
	if level <= m.level {
		return Result{Status: StatusStale}
	}
	if m.level < 2 {
		m.reseed(seed)
		m.limit = min(m.limit, MaxLimit)
		m.recency = m.version // level 1 has used versions for stamps
		m.forgetTokens()
		if m.generation > 1 {
			m.loseKeys()
		}
	}
	if m.level < 4 && level >= 4 {
		m.moves.Tokens = m.version &^ maxCounter
	}
	m.level = level
	return Result{Status: StatusOK}
}

// forgetTokens makes every fill token up to now one that is refused, in time proportional to the slots. Level 1
// does not know what is gone: its snapshots didn't say, so a replica restored from one could not.
func (m *Machine) forgetTokens() {
	if m.version&maxCounter == 0 {
		return // nothing was stored under this grant, and thus nothing removed
	}
	for slot := m.owned.Start; slot < m.owned.End; slot++ {
		m.store.raiseGone(uint16(slot), m.version)
	}
}

// bytes is what counts against the limit.
func (m *Machine) bytes() uint64 {
	return m.store.payload() + uint64(m.store.len())*m.overhead() + m.keys.bytes()
}

// overhead is what an entry costs beside its bytes. It has changed with level 2.
func (m *Machine) overhead() uint64 {
	if m.level < 2 {
		return overheadLevel1
	}
	return Overhead
}

// reclaim removes what has expired, the first to expire first, MaxReclaim entries and records at most.
func (m *Machine) reclaim() {
	removed := 0
	for range MaxReclaim {
		r := m.store.firstToExpire()
		if r == 0 || m.enough(removed) {
			break
		}
		if _, expireAt, _ := m.store.meta(r); expireAt > m.clock {
			break
		}
		removed += m.store.sizeOf(r)
		m.drop(r, ReasonExpired)
	}
	m.forgetKeys()
}

// shrink evicts down to the limit, MaxShrink entries at most, and lets the bound follow. Puts never
// exceed the bound and it never rises but with the limit, so each batch that ends above the limit
// leaves the machine smaller than the one before did.
func (m *Machine) shrink() {
	m.shrinkKeys(m.keyLimit(), MaxShrink)
	removed := 0
	for range MaxShrink {
		if m.bytes() <= m.limit || m.store.len() == 0 || m.enough(removed) {
			break
		}
		removed += m.store.sizeOf(m.store.oldest())
		m.evictOldest()
	}
	m.bound = max(m.limit, m.bytes())
}

// enough reports whether the end of a batch has removed so many bytes that it should stop. Level 1 counts
// entries alone.
func (m *Machine) enough(removed int) bool { return m.level >= 2 && removed >= MaxRemoved }

// makeRoom evicts until the bound is kept. What was just stored stands at the recent end. It costs at most an
// eighth of what is allowed here and records a sixteenth, so the loop ends before it reaches it; unless the
// limit was lowered so far that records which are still protected fill it.
func (m *Machine) makeRoom() {
	if m.held {
		return
	}
	for m.bytes() > m.bound && m.store.len() > 0 {
		m.evictOldest()
	}
}

// evictOldest makes room. What was dead anyway counts as expired.
func (m *Machine) evictOldest() {
	m.store.foresee()
	r := m.store.oldest()
	if _, expireAt, _ := m.store.meta(r); deadAt(expireAt, m.clock) {
		m.drop(r, ReasonExpired)
	} else {
		m.drop(r, ReasonEvicted)
	}
}

// drop removes an entry, and counts it. The end of Apply tidies up.
func (m *Machine) drop(r ref, why Reason) {
	if m.level >= 4 && !m.owned.Contains(m.store.slotOf(r)) {
		m.dropForeign(kindEntry, r)
		return
	}
	switch why {
	case ReasonEvicted:
		m.evictions++
	case ReasonExpired:
		m.expirations++
	}
	version, expireAt, stamp := m.store.meta(r)
	if m.observer != nil {
		m.observer.Removed(m.store.touchOf(r), m.costOf(r), why, m.idle(stamp), expireAt)
	}
	if m.level >= 2 { // what is gone is known from there on
		m.store.raiseGone(m.store.slotOf(r), version)
	}
	m.store.drop(r)
}

func (m *Machine) costOf(r ref) uint64 { return uint64(m.store.sizeOf(r)) + m.overhead() }

// idle is the log time since a stamp was given, in milliseconds.
func (m *Machine) idle(stamp uint64) uint64 {
	if at := stamp >> 20; m.level >= 2 && at < m.clock {
		return m.clock - at
	}
	return 0
}

// deadAt reports whether what expires at expireAt (0: never) is dead at clock.
func deadAt(expireAt, clock uint64) bool { return expireAt != 0 && expireAt <= clock }

// Entry is a stored value with its metadata. Value is shared with the machine, which never writes to
// it: it may be used for as long as wanted, also after the entry is gone, and must not be written to. It
// keeps a block of up to a megabyte alive: what is to last for long should be a copy.
type Entry struct {
	Value       []byte
	ContentType string
	Version     uint64
	ExpireAt    uint64 // log clock, milliseconds; 0 = lives until removed
}

// Lookup is what a machine knows about a key at one place of its log.
type Lookup struct {
	Owned bool // the machine owns the key's slot, and answers for it
	// Sealed: not Owned, but it may be again soon: the slot is about to go to another shard.
	Sealed bool
	Found  bool // there is an entry, and it is alive at Clock
	// Expired: not Found, and there is an entry that was not alive at Clock any more; it is not removed yet.
	Expired bool
	Entry   Entry  // zero unless Found
	Clock   uint64 // log clock, Unix milliseconds
	Epoch   uint64

	Version uint64 // of the shard: on a miss the fill token (R8)
	Touch   Touch  // the key's
	Cost    uint64 // of the entry, when Found
	Recent  bool   // Found, and so near the recent end that a touch would not change much
}

// Lookup looks key up without touching its recency. Found is judged by the log clock alone; whether
// the entry is due by a later stamp is the caller's question, to be asked of Entry.ExpireAt.
func (m *Machine) Lookup(key []byte) (l Lookup) {
	slot, hash := Slot(key), m.store.hash(key)
	l.Owned, l.Clock, l.Epoch, l.Version, l.Touch = m.owned.Contains(slot), m.clock, m.epoch, m.version, touchOf(slot, hash)
	if l.Owned && m.sealed(slot) {
		l.Owned, l.Sealed = false, true
	}
	if !l.Owned {
		return l
	}
	r := m.store.find(slot, hash, key)
	if r == 0 {
		return l
	}
	rec := m.store.records.read(r)
	expireAt := m.store.records.expiry(r)
	if deadAt(expireAt, m.clock) {
		l.Expired = true
		return l
	}
	block := blockAt(m.store.arena.segments, rec.block())
	keyLen, typeLen, _ := blockLens(block)
	value := blockHeader + keyLen + typeLen
	l.Found = true
	l.Entry.Value, l.Entry.Version, l.Entry.ExpireAt = block[value:], rec.version, expireAt
	if typeLen > 0 {
		l.Entry.ContentType = string(block[blockHeader+keyLen : value])
	}
	l.Cost = uint64(len(block)-blockHeader) + m.overhead()
	l.Recent = m.recent.holds(rec.stamp, m.store.len())
	return l
}

// Observe makes o hear of entries from now on, nil nobody.
func (m *Machine) Observe(o Observer) { m.observer = o }

// Applied returns the log index of the last applied batch and the place of its last command in it, 0
// for a batch without commands. Together they name the last effect that a read now can see.
func (m *Machine) Applied() (index uint64, position uint32) {
	return m.applied, m.position
}
