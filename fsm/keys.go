package fsm

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"

	"github.com/zeebo/xxh3"
)

const (
	// IdempotencyWindow is how long an applied change is remembered under its idempotency key, in
	// milliseconds of log clock: from the time in the key on, for a key of the form <unix-ms>-<random>, else
	// from the change on.
	IdempotencyWindow = 30_000
	// IdempotencyAhead is how far the time in a key may be ahead of the log clock, in milliseconds.
	IdempotencyAhead = 10_000
	// keysShare is the part of the limit that the memory for idempotency keys may take: a sixteenth.
	keysShare = 16
	// maxRemembered is the longest value that is remembered with a change.
	maxRemembered = 64
)

// keyMemory remembers changes by their idempotency keys (R7). Records lie in stores as entries do, so that
// they are listed, summed up and copied for snapshots in the same way. A record's key is
//
//	slot u16 | length of caller u8 | caller | idempotency key
//
// its value
//
//	fingerprint 16 bytes | flags u8 | content type length u16 | content type | value
//
// its version that of the change, and its expiry the time at which it is forgotten.
type keyMemory struct {
	timed  *store // keys with a time
	opaque *store // all others
}

const (
	recordExisted  = 1
	recordHasValue = 2
)

func newKeyMemory() keyMemory {
	return keyMemory{newStore(slotOfRecord), newStore(slotOfRecord)}
}

func slotOfRecord(key []byte) uint16 { return binary.BigEndian.Uint16(key) }

func (k *keyMemory) own(r Range) {
	k.timed.own(r)
	k.opaque.own(r)
}

// bytes is what the records cost, like entries.
func (k *keyMemory) bytes() uint64 { return recordBytes(k.timed) + recordBytes(k.opaque) }

func recordBytes(s *store) uint64 { return s.payload() + uint64(s.len())*Overhead }

func (k *keyMemory) len() int { return k.timed.len() + k.opaque.len() }

// forgetKeys removes the records that are forgotten by now, MaxReclaim of each kind at most.
func (m *Machine) forgetKeys() {
	for k := kindTimed; k <= kindOpaque; k++ {
		s := m.storeOf(k)
		for range MaxReclaim {
			r := s.firstToExpire()
			if r == 0 {
				break
			}
			if _, until, _ := s.meta(r); until > m.clock {
				break
			}
			m.removeRecord(k, r)
		}
	}
}

// removeRecord removes a record, of an own slot or not.
func (m *Machine) removeRecord(k storeKind, r ref) {
	s := m.storeOf(k)
	if m.level >= 4 && !m.owned.Contains(s.slotOf(r)) {
		m.dropForeign(k, r)
		s.tidy()
		return
	}
	s.remove(r)
}

// keyID is an idempotency key on its way to a record.
type keyID struct {
	key         []byte // of the record
	hash        uint32
	slot        uint16
	timed       bool
	time        uint64 // of a timed key, Unix milliseconds
	fingerprint xxh3.Uint128
	forgotten   bool // a timed key older than all that there is room for
}

// keyTime returns the time in a key of the form <unix-ms>-<random>: 13 digits, a hyphen and something more.
func keyTime(key string) (ms uint64, ok bool) {
	const digits = 13 // the years 2001 to 2286
	if len(key) < digits+2 || key[digits] != '-' || key[0] == '0' {
		return 0, false
	}
	for _, c := range []byte(key[:digits]) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	ms, err := strconv.ParseUint(key[:digits], 10, 64)
	return ms, err == nil
}

// recall looks for the change that was made under c's idempotency key. A result with a status is the
// answer to c.
func (m *Machine) recall(c *Command) (id keyID, past Result) {
	return m.recallIn(Slot(c.Key), c, m.fingerprint(c))
}

// recallIn is recall for a command whose record is in a slot.
func (m *Machine) recallIn(slot uint16, c *Command, fingerprint xxh3.Uint128) (id keyID, past Result) {
	id.slot = slot
	id.key = binary.BigEndian.AppendUint16(make([]byte, 0, 3+len(c.Caller)+len(c.IdempotencyKey)), id.slot)
	id.key = append(append(append(id.key, byte(len(c.Caller))), c.Caller...), c.IdempotencyKey...)
	id.hash = m.keys.timed.hash(id.key) // opaque ones have the same seed
	id.fingerprint = fingerprint
	s := m.keys.opaque
	if id.time, id.timed = keyTime(c.IdempotencyKey); id.timed {
		s = m.keys.timed
		switch {
		case id.time > m.clock && id.time-m.clock > IdempotencyAhead:
			return id, Result{Status: StatusKeyTooNew}
		case id.time <= m.horizon || id.time+IdempotencyWindow <= m.clock:
			return id, Result{Status: StatusKeyTooOld}
		}
	}
	r := s.find(id.slot, id.hash, id.key)
	if r == 0 {
		return id, Result{}
	}
	e := s.at(r)
	if deadAt(e.expireAt, m.clock) {
		s.remove(r)
		return id, Result{}
	}
	fingerprint, result, err := decodeRecord(e.value)
	if err != nil {
		panic("fsm: " + err.Error()) // restore admits no such record
	}
	if fingerprint != id.fingerprint {
		return id, Result{Status: StatusKeyReused}
	}
	result.Status, result.Version, result.Replayed = StatusOK, e.version, true
	return id, result
}

// fingerprint tells a command from another under the same idempotency key. A TTL that is a default is none of the
// request's: each node fills it in by the settings that it knows.
func (m *Machine) fingerprint(c *Command) xxh3.Uint128 {
	b := appendPlain(m.scratch[:0], c)
	if cap(b) <= 64<<10 {
		m.scratch = b
	}
	return xxh3.Hash128(b)
}

// appendPlain appends what a fingerprint of c is made of.
func appendPlain(dst []byte, c *Command) []byte {
	plain := *c
	plain.Caller, plain.IdempotencyKey, plain.DefaultTTL = "", "", false
	if c.DefaultTTL {
		plain.TTL = 0
	}
	b, err := AppendCommand(dst, &plain)
	if err != nil {
		panic("fsm: " + err.Error()) // validated before
	}
	if c.DefaultTTL {
		b = append(b, flagDefaultTTL) // not the same as to ask for none
	}
	return b
}

func (m *Machine) keyLimit() uint64 { return m.limit / keysShare }

// admitKey makes room for a record of the longest kind, the oldest timed ones going first. It may not find
// any for an opaque key, and then leaves all as it is. A timed key that would be the first to go is not
// remembered, as the horizon then speaks for it.
func (m *Machine) admitKey(id *keyID) bool {
	cost := uint64(len(id.key)+recordHeader+maxRemembered+MaxContentType) + Overhead
	limit := m.keyLimit()
	// Above a limit that was lowered, shrinkKeys comes first. Below it, few have to go, and they make the room.
	if m.keys.bytes() <= limit && recordBytes(m.keys.opaque)+cost <= limit {
		for m.keys.bytes()+cost > limit {
			r := m.keys.timed.firstToExpire()
			if id.timed && id.time <= timeOfRecord(m.keys.timed, r) {
				break
			}
			m.dropKey(r)
		}
		if m.keys.bytes()+cost <= limit {
			return true
		}
	}
	if id.timed {
		m.horizon, id.forgotten = max(m.horizon, id.time), true
	}
	return id.timed
}

// timeOfRecord is the time in a timed record's key.
func timeOfRecord(s *store, r ref) uint64 {
	_, until, _ := s.meta(r)
	return until - IdempotencyWindow
}

// dropKey drops a timed record before its time: the horizon rises.
func (m *Machine) dropKey(r ref) {
	m.horizon = max(m.horizon, timeOfRecord(m.keys.timed, r))
	m.removeRecord(kindTimed, r)
}

// loseKeys raises the horizon to now: an earlier life of the shard made changes, and some of their records are not here. A
// repetition of one of them must not be made again.
func (m *Machine) loseKeys() { m.horizon = max(m.horizon, m.clock) }

// shrinkKeys brings the records down to limit, as far as timed ones and most steps allow.
func (m *Machine) shrinkKeys(limit uint64, most int) {
	for range most {
		if m.keys.bytes() <= limit || m.keys.timed.len() == 0 {
			return
		}
		m.dropKey(m.keys.timed.firstToExpire())
	}
}

const recordHeader = 16 + 1 + 2

func (m *Machine) remember(id *keyID, result *Result) {
	if id.forgotten {
		return
	}
	b := binary.BigEndian.AppendUint64(nil, id.fingerprint.Hi)
	b = binary.BigEndian.AppendUint64(b, id.fingerprint.Lo)
	flags := byte(0)
	if result.Existed {
		flags |= recordExisted
	}
	var contentType string
	var value []byte
	if result.HasValue && len(result.Value) <= maxRemembered {
		flags |= recordHasValue
		contentType, value = result.ContentType, result.Value
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(len(contentType)))
	b = append(append(b, contentType...), value...)
	s, until := m.keys.opaque, m.clock+IdempotencyWindow
	if id.timed {
		s, until = m.keys.timed, id.time+IdempotencyWindow
	}
	if until < IdempotencyWindow {
		until = math.MaxUint64
	}
	s.set(0, id.slot, id.hash, id.key, nil, b, nil, result.Version, until, m.stamp())
}

var errBadRecord = errors.New("malformed idempotency record")

func decodeRecord(b []byte) (fingerprint xxh3.Uint128, r Result, err error) {
	if len(b) < recordHeader || b[16] > recordExisted|recordHasValue {
		return fingerprint, r, errBadRecord
	}
	fingerprint = xxh3.Uint128{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
	r.Existed, r.HasValue = b[16]&recordExisted != 0, b[16]&recordHasValue != 0
	n := int(binary.BigEndian.Uint16(b[17:]))
	rest := b[recordHeader:]
	if n > len(rest) || !r.HasValue && len(rest) > 0 || len(rest)-n > maxRemembered {
		return fingerprint, r, errBadRecord
	}
	if r.HasValue {
		r.ContentType, r.Value = string(rest[:n]), rest[n:]
	}
	return fingerprint, r, nil
}
