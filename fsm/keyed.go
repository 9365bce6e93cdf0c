package fsm

import (
	"math"
	"slices"
	"strconv"
	"unsafe"
)

// target is the key of a command, and what is stored under it.
type target struct {
	slot    uint16
	hash    uint32
	ref     ref    // 0: nothing is stored
	version uint64 // of what is stored, dead or alive
	live    bool
}

func (m *Machine) find(key []byte, name hashed) target {
	t := target{slot: name.slot, hash: name.hash}
	if t.ref = m.store.find(t.slot, t.hash, key); t.ref != 0 {
		version, expireAt, _ := m.store.meta(t.ref)
		t.version, t.live = version, !deadAt(expireAt, m.clock)
	}
	return t
}

// change is what a command that isn't refused does to its key.
type change struct {
	kind        changeKind
	contentType []byte
	value, more []byte // the value is their concatenation
	expireAt    uint64
}

type changeKind uint8

const (
	changeNothing changeKind = iota
	changeSet
	changeRemove
	changeExpiry // expiry and recency
	changeRecency
)

// numbered reports whether the change takes a version.
func (k changeKind) numbered() bool { return k == changeSet || k == changeRemove }

// applyKeyed applies a command on one key. The order of refusals is fixed: not the owner, idempotency key,
// too large (put), condition, not found, no integer or too large (incr, append), versions used up, memory
// for idempotency keys full. Only a change is remembered under its idempotency key (R7).
func (m *Machine) applyKeyed(c *Command) Result {
	name := m.warming.names[m.warming.next]
	m.warming.next++
	if !m.owned.Contains(name.slot) {
		return Result{Status: StatusNotOwner}
	}
	if m.sealed(name.slot) {
		return Result{Status: StatusSealed}
	}
	var id keyID
	if c.IdempotencyKey != "" {
		var past Result
		if id, past = m.recall(c); past.Status != 0 {
			return past
		}
	}
	if c.Kind == KindPut && m.tooLarge(len(c.Key)+len(c.ContentType)+len(c.Value)) {
		return Result{Status: StatusTooLarge}
	}
	if c.Kind == KindPut && c.Cond.Kind == CondAlways && !c.extended() && !m.exhausted() {
		return m.put(c, name)
	}
	t := m.find(c.Key, name)
	result := m.judge(c.Cond, &t)
	if result.Status != StatusOK {
		return result
	}
	ch := m.plan(c, &t, &result)
	if result.Status != StatusOK || ch.kind == changeNothing {
		return result
	}
	if ch.kind.numbered() && m.exhausted() {
		return Result{Status: StatusExhausted}
	}
	if c.IdempotencyKey != "" && !m.admitKey(&id) {
		return Result{Status: StatusKeysFull}
	}
	if c.ReturnOld && t.live {
		old := m.store.at(t.ref)
		result.HasValue, result.Value, result.ContentType = true, old.value, string(old.contentType)
	}
	result.Version = m.perform(c.Key, &t, &ch)
	if c.Kind == KindIncr || c.Kind == KindAppend {
		now := m.store.at(m.store.find(t.slot, t.hash, c.Key))
		result.HasValue, result.Value, result.ContentType = true, now.value, string(now.contentType)
	}
	if c.IdempotencyKey != "" {
		m.remember(&id, &result)
	}
	m.makeRoom()
	return result
}

// put is the rest of a put that nothing can refuse any more, as most are. Its block is written out before it is known
// what is stored, as to know means to wait for memory. It does what perform does, without the detours.
func (m *Machine) put(c *Command, name hashed) Result {
	m.version++
	expireAt := m.expiry(c.TTL)
	contentType := unsafe.Slice(unsafe.StringData(c.ContentType), len(c.ContentType)) // without a copy, to be copied from
	l := m.store.lay(c.Key, contentType, c.Value, nil, m.version, expireAt)
	t := m.find(c.Key, name)
	if t.ref != 0 && !t.live { // set drops what is dead first
		m.store.discard(&l)
		m.drop(t.ref, ReasonExpired)
		t.ref = 0
		l = m.store.lay(c.Key, contentType, c.Value, nil, m.version, expireAt)
	}
	m.setLaid(&t, &l)
	m.makeRoom()
	return Result{Status: StatusOK, Existed: t.live, Version: m.version}
}

func (m *Machine) tooLarge(size int) bool { return uint64(size)+m.overhead() > m.limit/largestShare }

// judge decides a condition against what is stored under the key; a dead entry counts as none. StatusOK
// tells the caller to go on.
func (m *Machine) judge(c Cond, t *target) Result {
	var current uint64
	if t.live {
		current = t.version
	}
	holds := false
	switch c.Kind {
	case CondAlways:
		holds = true
	case CondAbsent:
		holds = !t.live
	case CondPresent:
		holds = t.live
	case CondVersion:
		holds = t.live && current == c.Version
	case CondFill:
		holds = t.version <= c.Version && m.store.gone(t.slot) <= c.Version &&
			m.oldestToken() <= c.Version && c.Version <= m.version
	}
	if !holds {
		return Result{Status: StatusCondition, Existed: t.live, Version: current}
	}
	return Result{Status: StatusOK, Existed: t.live}
}

// oldestToken is the least version that counts as a fill token: what became of slots before may not be known here.
func (m *Machine) oldestToken() uint64 {
	if m.level >= 4 {
		return m.moves.Tokens
	}
	return m.version &^ maxCounter
}

// plan decides what a command changes, or sets the status that refuses it.
func (m *Machine) plan(c *Command, t *target, result *Result) change {
	switch c.Kind {
	case KindPut:
		return change{kind: changeSet, contentType: []byte(c.ContentType), value: c.Value, expireAt: m.expiry(c.TTL)}
	case KindDelete:
		if t.live { // a dead entry may still be stored; it is left to reclaim, as nothing is deleted here
			return change{kind: changeRemove}
		}
	case KindIncr:
		return m.planIncr(c, t, result)
	case KindAppend:
		return m.planAppend(c, t, result)
	case KindExpire:
		if t.live {
			return change{kind: changeExpiry, expireAt: m.expiry(c.TTL)}
		}
		result.Status = StatusNotFound
	case KindTouch:
		if t.live {
			return change{kind: changeRecency}
		}
		result.Status = StatusNotFound
	case KindGet:
		m.show(t, result)
	}
	return change{}
}

// show fills in the result of a get.
func (m *Machine) show(t *target, result *Result) {
	if !t.live {
		return
	}
	e := m.store.at(t.ref)
	result.Version, result.HasValue, result.Value, result.ContentType = e.version, true, e.value, string(e.contentType)
	if e.expireAt != 0 {
		result.TTL = e.expireAt - m.clock
	}
}

func (m *Machine) planIncr(c *Command, t *target, result *Result) change {
	ch := change{kind: changeSet, expireAt: m.expiry(c.TTL)}
	sum := c.Delta
	if t.live {
		e := m.store.at(t.ref)
		ch.contentType, ch.expireAt = e.contentType, e.expireAt
		n, ok := integer(e.value)
		sum += n
		if !ok || n > 0 && c.Delta > math.MaxInt64-n || n < 0 && c.Delta < math.MinInt64-n {
			result.Status = StatusNotInteger
			return change{}
		}
	}
	m.scratch = strconv.AppendInt(m.scratch[:0], sum, 10)
	ch.value = m.scratch
	if m.tooLarge(len(c.Key) + len(ch.contentType) + len(ch.value)) {
		result.Status = StatusTooLarge
	}
	return ch
}

// integer parses a decimal integer in the one form that incr writes.
func integer(b []byte) (n int64, ok bool) {
	const longest = len("-9223372036854775808")
	if len(b) > longest {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	var again [longest]byte
	return n, err == nil && string(strconv.AppendInt(again[:0], n, 10)) == string(b)
}

func (m *Machine) planAppend(c *Command, t *target, result *Result) change {
	ch := change{kind: changeSet, contentType: []byte(c.ContentType), more: c.Value, expireAt: m.expiry(c.TTL)}
	if t.live {
		e := m.store.at(t.ref)
		ch.contentType, ch.value, ch.expireAt = e.contentType, e.value, e.expireAt
	}
	length := len(ch.value) + len(ch.more)
	if length > MaxValue || m.tooLarge(len(c.Key)+len(ch.contentType)+length) {
		result.Status = StatusTooLarge
	}
	return ch
}

// expiry is when something ends that lives for ttl from now on.
func (m *Machine) expiry(ttl uint64) uint64 {
	if ttl == 0 {
		return 0
	}
	if m.clock > math.MaxUint64-ttl {
		return math.MaxUint64
	}
	return m.clock + ttl
}

// perform makes a change and returns the version that the key's entry, or its removal, has now.
func (m *Machine) perform(key []byte, t *target, ch *change) uint64 {
	if ch.kind.numbered() {
		m.version++
	}
	switch ch.kind {
	case changeSet:
		m.set(key, t, ch)
	case changeRemove:
		m.drop(t.ref, ReasonDeleted)
		if m.level >= 2 {
			m.store.raiseGone(t.slot, m.version)
		}
	case changeExpiry:
		m.store.expire(t.ref, t.slot, ch.expireAt, m.used())
		return t.version
	case changeRecency:
		m.store.touch(t.ref, t.slot, m.used())
		return t.version
	}
	return m.version
}

func (m *Machine) set(key []byte, t *target, ch *change) {
	if t.ref != 0 && !t.live {
		m.drop(t.ref, ReasonExpired)
		t.ref = 0
	}
	l := m.store.lay(key, ch.contentType, ch.value, ch.more, m.version, ch.expireAt)
	m.setLaid(t, &l)
}

func (m *Machine) setLaid(t *target, l *laid) {
	r := m.store.setLaid(t.ref, t.slot, t.hash, l, m.used())
	if m.observer != nil {
		m.observer.Stored(touchOf(t.slot, t.hash), m.costOf(r))
	}
}

// used returns the stamp of an entry that moves to the recent end.
func (m *Machine) used() uint64 {
	s := m.stamp()
	m.recent.moved(s, m.store.len())
	return s
}

// touchAll moves the entries that touches name to the recent end, in that order.
func (m *Machine) touchAll(touches []byte) Result {
	const ahead = 64 // touches
	for chunk := range slices.Chunk(touches, ahead*touchSize) {
		m.warmTouches(chunk)
		for ; len(chunk) > 0; chunk = chunk[touchSize:] {
			t := touchAt(chunk)
			r := m.store.findTouch(t)
			if r == 0 || !m.owned.Contains(t.slot()) || m.sealed(t.slot()) {
				continue
			}
			if _, expireAt, _ := m.store.meta(r); !deadAt(expireAt, m.clock) {
				m.store.touch(r, t.slot(), m.used())
			}
		}
	}
	return Result{Status: StatusOK}
}

// recentEnd knows which stamps are near the recent end, by the stamps given some moves ago: an entry whose
// stamp is at least that has at most so many before it.
type recentEnd struct {
	newest uint64
	marks  [recentMarks]uint64 // a ring of stamps, one each step moves; 0: none yet
	next   int
	moves  int // since the last mark
	step   int
}

const (
	recentMarks = 8
	// recentShare is the part of the entries that counts as the recent end: 1/64. So an entry whose touches
	// were skipped is evicted as if the shard had 1/64 less room, at the earliest.
	recentShare = 64
)

func (e *recentEnd) moved(stamp uint64, entries int) {
	e.newest = stamp
	if e.moves++; e.moves < e.step {
		return
	}
	e.step = entries / (recentShare * recentMarks) // 0: too few to tell ends apart
	e.marks[e.next], e.moves = stamp, 0
	e.next = (e.next + 1) % recentMarks
}

// holds reports whether an entry of that stamp is at the recent end of so many.
func (e *recentEnd) holds(stamp uint64, entries int) bool {
	oldest := e.marks[e.next]
	// When many entries have gone, the marks of old reach too far.
	return stamp == e.newest || e.step > 0 && oldest != 0 && stamp >= oldest && entries >= e.step*recentShare*recentMarks/2
}
