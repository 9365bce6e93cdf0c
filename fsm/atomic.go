package fsm

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/zeebo/xxh3"
)

// validateTogether returns what keeps commands, each of which is valid by itself, from being those of one batch.
func validateTogether(commands []Command) error {
	inside := 0 // commands of the last KindAtomic to come
	idempotent := false
	for i := range commands {
		c := &commands[i]
		switch {
		case c.Kind == KindAtomic && inside > 0:
			return errors.New("an atomic within another")
		case c.Kind == KindAtomic:
			if inside, idempotent = int(c.Ops), c.IdempotencyKey != ""; inside >= len(commands)-i {
				return fmt.Errorf("an atomic of %d commands, %d follow", inside, len(commands)-i-1)
			}
			continue
		case inside == 0 && c.DefaultTTL && c.IdempotencyKey == "":
			return errors.New("a default that nothing depends on") // but in a fingerprint
		case inside == 0:
			continue
		case !c.keyed() || c.IdempotencyKey != "" || c.Cond.Kind == CondFill || c.Kind == KindGet && idempotent || c.DefaultTTL && !idempotent:
			return fmt.Errorf("a command of kind %d that can't be held together with others", c.Kind)
		}
		inside--
	}
	return nil
}

// applyAtomic applies commands that are held together by one of KindAtomic, all or none, and sets the results: of
// that one first, then theirs. What becomes of each is judged before anything changes, as if those before it were applied
// (outlook). Nothing is evicted between them, so that what was judged holds; room is made after the last.
//
// The order of refusals: not the owner of every key; the idempotency key's own; the first command that would be refused,
// which has its own status while the others have StatusAborted; no memory for the idempotency key. A get is never
// refused.
func (m *Machine) applyAtomic(c *Command, commands []Command, results []Result) {
	whole, parts := &results[0], results[1:]
	names := m.warming.names[m.warming.next : m.warming.next+len(commands)]
	refuse := func(with Status, others Status) {
		m.warming.next += len(commands)
		whole.Status = with
		for i := range parts {
			if parts[i].Status == 0 {
				parts[i].Status = others
			}
		}
	}
	for _, name := range names {
		if !m.owned.Contains(name.slot) {
			refuse(StatusNotOwner, StatusNotOwner)
			return
		}
	}
	for _, name := range names {
		if m.sealed(name.slot) {
			refuse(StatusSealed, StatusSealed)
			return
		}
	}
	var id keyID
	if c.IdempotencyKey != "" {
		var past Result
		switch id, past = m.recallIn(names[0].slot, c, m.fingerprintAll(c, commands)); past.Status {
		case 0:
		case StatusOK:
			if len(past.Value) != bitmapLen(len(commands)) { // another's, whose fingerprint was made to be the same
				refuse(StatusKeyReused, StatusAborted)
				return
			}
			m.warming.next += len(commands)
			replay(past, commands, results)
			return
		default:
			refuse(past.Status, StatusAborted)
			return
		}
	}
	o := outlook{m: m, seen: map[string]*standing{}}
	for i := range commands {
		if r := o.judge(&commands[i], names[i]); r.Status != StatusOK {
			parts[i] = r
			refuse(StatusAborted, StatusAborted)
			return
		}
	}
	if c.IdempotencyKey != "" && o.changes > 0 && !m.admitKey(&id) {
		refuse(StatusKeysFull, StatusAborted)
		return
	}
	m.held = true
	for i := range commands {
		if parts[i] = m.applyKeyed(&commands[i]); parts[i].Status != StatusOK {
			panic(fmt.Sprintf("fsm: a command of kind %d was judged to be applied, and got status %d", commands[i].Kind, parts[i].Status))
		}
	}
	m.held = false
	*whole = Result{Status: StatusOK, Version: m.version}
	if c.IdempotencyKey != "" && o.changes > 0 {
		m.remember(&id, &Result{Version: m.version, HasValue: true, Value: existed(parts)})
	}
	m.makeRoom()
}

// existed has a bit for each result, the first one in the lowest bit of the first byte.
func existed(results []Result) []byte {
	bits := make([]byte, bitmapLen(len(results)))
	for i := range results {
		if results[i].Existed {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return bits
}

// bitmapLen is the length of a bitmap of n bits, in bytes.
func bitmapLen(n int) int { return (n + 7) / 8 }

// replay answers commands that were applied before from what is remembered: the last version that they made, and which
// keys had entries. Versions were given one after the other. That of an entry which only got another time to live is not
// remembered, nor is any value.
func replay(past Result, commands []Command, results []Result) {
	results[0] = Result{Status: StatusOK, Version: past.Version, Replayed: true}
	version := past.Version
	for i := len(commands) - 1; i >= 0; i-- {
		r := Result{Status: StatusOK, Replayed: true, Existed: past.Value[i/8]>>(i%8)&1 != 0}
		switch kind := commands[i].Kind; {
		case kind == KindPut, kind == KindIncr, kind == KindAppend, kind == KindDelete && r.Existed:
			r.Version = version
			version--
		}
		results[1+i] = r
	}
}

// fingerprintAll tells commands that c holds together from others under the same idempotency key, and one from the command
// by itself.
func (m *Machine) fingerprintAll(c *Command, commands []Command) xxh3.Uint128 {
	h := xxh3.New()
	for i := -1; i < len(commands); i++ {
		if i >= 0 {
			c = &commands[i]
		}
		b := appendPlain(m.scratch[:0], c)
		h.Write(b)
		if cap(b) <= 64<<10 {
			m.scratch = b
		}
	}
	return h.Sum128()
}

// outlook is what commands would find, each after those before it, without their being applied.
type outlook struct {
	m        *Machine
	seen     map[string]*standing // never walked over
	numbered uint64               // versions taken so far
	changes  int
}

// standing is what is known of an entry, as far as a command can depend on it.
type standing struct {
	live    bool
	version uint64
	typeLen int
	length  int    // of the value
	number  []byte // the value, where it may be an integer
}

// longestInteger is the length of the longest value that is one.
const longestInteger = len("-9223372036854775808")

func (s *standing) set(typeLen int, value, more []byte, version uint64) {
	*s = standing{live: true, version: version, typeLen: typeLen, length: len(value) + len(more)}
	if s.length <= longestInteger {
		s.number = append(append(make([]byte, 0, s.length), value...), more...)
	}
}

func (o *outlook) find(c *Command, name hashed) *standing {
	s := o.seen[string(c.Key)]
	if s == nil {
		s = &standing{}
		if t := o.m.find(c.Key, name); t.live {
			e := o.m.store.at(t.ref)
			s.set(len(e.contentType), e.value, nil, t.version)
		}
		o.seen[string(c.Key)] = s
	}
	return s
}

// judge returns what applyKeyed would, of a refusal in full and of anything else the status, and takes c for applied. A
// condition that does not hold tells of what stands there: a version that a command before it would have made never was.
func (o *outlook) judge(c *Command, name hashed) Result {
	r := o.foretell(c, name)
	if r.Status == StatusCondition {
		t := o.m.find(c.Key, name)
		if r.Existed, r.Version = t.live, 0; t.live {
			r.Version = t.version
		}
	}
	return r
}

func (o *outlook) foretell(c *Command, name hashed) Result {
	m := o.m
	if c.Kind == KindPut && m.tooLarge(len(c.Key)+len(c.ContentType)+len(c.Value)) {
		return Result{Status: StatusTooLarge}
	}
	s := o.find(c, name)
	result := m.judge(c.Cond, &target{slot: name.slot, live: s.live, version: s.version})
	if result.Status != StatusOK {
		return result
	}
	after := *s
	version := m.version + o.numbered + 1
	numbered := true
	switch c.Kind {
	case KindPut:
		after.set(len(c.ContentType), c.Value, nil, version)
	case KindDelete:
		numbered, after = s.live, standing{}
	case KindIncr:
		result.Status = o.addTo(&after, c, version)
	case KindAppend:
		typeLen := len(c.ContentType)
		if s.live {
			typeLen = s.typeLen
		}
		if s.length <= longestInteger {
			after.set(typeLen, s.number, c.Value, version)
		} else {
			after = standing{live: true, version: version, typeLen: typeLen, length: s.length + len(c.Value)}
		}
		if after.length > MaxValue || m.tooLarge(len(c.Key)+typeLen+after.length) {
			result.Status = StatusTooLarge
		}
	case KindExpire, KindTouch:
		if numbered = false; !s.live {
			result.Status = StatusNotFound
		}
	case KindGet:
		return result
	}
	if result.Status != StatusOK {
		return result
	}
	if numbered && m.version&maxCounter+o.numbered == maxCounter {
		return Result{Status: StatusExhausted}
	}
	if numbered {
		o.numbered++
	}
	if numbered || c.Kind != KindDelete {
		o.changes++
	}
	if after.live && (!s.live || c.Kind == KindPut || c.Kind == KindExpire) && deadAt(m.expiry(c.TTL), m.clock) {
		after = standing{} // the clock is at its end
	}
	*s = after
	return result
}

// addTo is an increment.
func (o *outlook) addTo(s *standing, c *Command, version uint64) Status {
	sum := c.Delta
	if s.live {
		n, ok := integer(s.number)
		if sum += n; !ok || n > 0 && c.Delta > math.MaxInt64-n || n < 0 && c.Delta < math.MinInt64-n {
			return StatusNotInteger
		}
	}
	typeLen := s.typeLen
	s.set(typeLen, strconv.AppendInt(nil, sum, 10), nil, version)
	if o.m.tooLarge(len(c.Key) + typeLen + s.length) {
		return StatusTooLarge
	}
	return StatusOK
}
