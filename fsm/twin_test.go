package fsm

import (
	"bytes"
	"encoding/hex"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"
)

// twin is a second implementation of the rules of Machine, as naive as can be: slices, oldest entry first,
// scanned for everything.
type twin struct {
	entries                       []twinEntry
	records                       []twinRecord
	gone                          map[int]uint64
	applied, clock, counter, bits uint64
	generation, epoch             uint64
	granted                       bool
	start, end                    int
	limit, bound, tableVersion    uint64
	evictions, expirations, level uint64
	recency, horizon, seed        uint64
	tokens                        uint64 // the least fill token, from level 4 on
	held                          bool
}

type twinEntry struct {
	key, value, contentType  string
	version, expireAt, stamp uint64
}

// twinRecord is what is remembered under an idempotency key.
type twinRecord struct {
	slot             int
	caller, key      string
	command          string
	timed            bool
	time, until      uint64
	version, stamp   uint64
	existed, valued  bool
	contentType, val string
	parts            []Result // of what was held together
}

func (r twinRecord) cost() uint64 {
	return uint64(104 + 3 + len(r.caller+r.key) + 19 + len(r.contentType+r.val))
}

func (tw *twin) cost(e twinEntry) uint64 {
	if tw.level == 1 {
		return uint64(211 + len(e.key+e.value+e.contentType))
	}
	return uint64(104 + len(e.key+e.value+e.contentType))
}

// touch is what touches name a key by: its slot, and 24 bits of hash.
func (tw *twin) touch(key string) Touch {
	return Touch(Slot([]byte(key)))<<24 | Touch(xxh3.HashStringSeed(key, tw.seed)&0xffffff)
}

func (tw *twin) dead(e twinEntry) bool { return e.expireAt > 0 && tw.clock >= e.expireAt }

func (tw *twin) recordBytes() (sum uint64) {
	for _, r := range tw.records {
		sum += r.cost()
	}
	return sum
}

func (tw *twin) bytes() uint64 {
	sum := tw.recordBytes()
	for _, e := range tw.entries {
		sum += tw.cost(e)
	}
	return sum
}

func (tw *twin) version() uint64 { return tw.bits<<44 + tw.counter }

func (tw *twin) stamp() uint64 {
	if tw.level == 1 {
		return tw.version()
	}
	tw.recency = max(tw.recency+1, min(tw.clock, 1<<43)*(1<<20))
	return tw.recency
}

func (tw *twin) find(key string) int {
	return slices.IndexFunc(tw.entries, func(e twinEntry) bool { return e.key == key })
}

// removeAt takes an entry out.
func (tw *twin) removeAt(i int) {
	e := tw.entries[i]
	tw.goneFrom(e, e.version)
	tw.entries = slices.Delete(tw.entries, i, i+1)
}

// goneFrom notes that something of that version left an entry's slot.
func (tw *twin) goneFrom(e twinEntry, version uint64) {
	if slot := int(Slot([]byte(e.key))); tw.level > 1 {
		tw.gone[slot] = max(tw.gone[slot], version)
	}
}

// loseAt takes an entry out that nobody asked to delete.
func (tw *twin) loseAt(i int) {
	if tw.dead(tw.entries[i]) {
		tw.expirations++
	} else {
		tw.evictions++
	}
	tw.removeAt(i)
}

func (tw *twin) apply(index uint64, b Batch) (results []Result) {
	tw.applied = index
	if b.Stamp > tw.clock {
		tw.clock = b.Stamp
	}
	for i := 0; i < len(b.Commands); i++ {
		c := b.Commands[i]
		if c.Kind == KindAtomic {
			results = append(results, tw.atomic(c, b.Commands[i+1:][:c.Ops])...)
			i += int(c.Ops)
			continue
		}
		results = append(results, tw.command(c))
	}
	for range 256 {
		first := -1
		for i, e := range tw.entries {
			if tw.dead(e) && (first < 0 || e.expireAt < tw.entries[first].expireAt ||
				e.expireAt == tw.entries[first].expireAt && e.stamp < tw.entries[first].stamp) {
				first = i
			}
		}
		if first < 0 {
			break
		}
		tw.loseAt(first)
	}
	for _, timed := range []bool{true, false} {
		for range 256 {
			i := tw.firstRecord(timed)
			if i < 0 || tw.records[i].until > tw.clock {
				break
			}
			tw.records = slices.Delete(tw.records, i, i+1)
		}
	}
	for n := 0; n < 1024 && tw.recordBytes() > tw.limit/16 && tw.firstRecord(true) >= 0; n++ {
		tw.dropRecord(tw.firstRecord(true))
	}
	bytes := tw.bytes()
	for n := 0; n < 1024 && bytes > tw.limit && len(tw.entries) > 0; n++ {
		bytes -= tw.cost(tw.entries[0])
		tw.loseAt(0)
	}
	tw.bound = max(tw.limit, bytes)
	return results
}

// firstRecord returns the record that is forgotten first, -1 if none.
func (tw *twin) firstRecord(timed bool) int {
	first := -1
	for i, r := range tw.records {
		if r.timed == timed && (first < 0 || r.until < tw.records[first].until ||
			r.until == tw.records[first].until && r.stamp < tw.records[first].stamp) {
			first = i
		}
	}
	return first
}

func (tw *twin) dropRecord(i int) {
	tw.horizon = max(tw.horizon, tw.records[i].time)
	tw.records = slices.Delete(tw.records, i, i+1)
}

func (tw *twin) command(c Command) Result {
	switch c.Kind {
	case KindGrant:
		return tw.grant(c.Grant)
	case KindLimit:
		if c.TableVersion <= tw.tableVersion {
			return Result{Status: StatusStale}
		}
		tw.setLimit(c.Limit, c.TableVersion)
		return Result{Status: StatusOK}
	case KindLevel:
		if uint64(c.Level) <= tw.level {
			return Result{Status: StatusStale}
		}
		before := tw.level
		if before < 4 && c.Level >= 4 {
			tw.tokens = tw.bits << 44
		}
		if tw.level = uint64(c.Level); before > 1 {
			return Result{Status: StatusOK}
		}
		tw.seed = c.Seed
		tw.limit = min(tw.limit, 32<<30)
		tw.recency = tw.version()
		for slot := tw.start; slot < tw.end && tw.counter > 0; slot++ {
			tw.gone[slot] = tw.version()
		}
		if tw.generation > 1 {
			tw.horizon = max(tw.horizon, tw.clock)
		}
		return Result{Status: StatusOK}
	case KindTouches:
		for chunk := range slices.Chunk(c.Touches, 5) {
			name := hex.EncodeToString(chunk)
			for i, e := range tw.entries {
				if t := AppendTouch(nil, tw.touch(e.key)); hex.EncodeToString(t) == name {
					if !tw.dead(e) {
						tw.use(i)
					}
					break
				}
			}
		}
		return Result{Status: StatusOK}
	case KindFlush, KindDeletePrefix:
		return tw.bulk(c)
	}
	slot := int(Slot(c.Key))
	if slot < tw.start || slot >= tw.end {
		return Result{Status: StatusNotOwner}
	}
	if c.IdempotencyKey == "" {
		result, _ := tw.keyed(c, func() bool { return true })
		return result
	}
	result, _ := tw.once(c, slot, tw.plain(c), func(room func() bool) (Result, []Result, bool) {
		result, changed := tw.keyed(c, room)
		return result, nil, changed
	})
	return result
}

// plain is what must be equal for a command to be the same as one of before.
func (tw *twin) plain(c Command) string {
	plain := c
	plain.Caller, plain.IdempotencyKey, plain.DefaultTTL = "", "", false
	if c.DefaultTTL {
		plain.TTL = 0
	}
	encoded, _ := AppendCommand(nil, &plain)
	return string(strconv.AppendBool(encoded, c.DefaultTTL))
}

// atomic applies commands to a copy, which it becomes if none of them is refused.
func (tw *twin) atomic(c Command, commands []Command) []Result {
	all := func(with, others Status) []Result {
		results := []Result{{Status: with}}
		for range commands {
			results = append(results, Result{Status: others})
		}
		return results
	}
	for _, c := range commands {
		if slot := int(Slot(c.Key)); slot < tw.start || slot >= tw.end {
			return all(StatusNotOwner, StatusNotOwner)
		}
	}
	var parts []Result
	do := func(room func() bool) (Result, []Result, bool) {
		then := *tw
		then.entries, then.records, then.gone = slices.Clone(tw.entries), slices.Clone(tw.records), maps.Clone(tw.gone)
		then.held = true
		changed := false
		parts = nil
		for i, c := range commands {
			part, did := then.keyed(c, func() bool { return true })
			changed = changed || did
			if part.Status != StatusOK {
				if part.Status == StatusCondition { // of what is there
					part.Existed, part.Version = false, 0
					if at := tw.find(string(c.Key)); at >= 0 && !tw.dead(tw.entries[at]) {
						part.Existed, part.Version = true, tw.entries[at].version
					}
				}
				parts = all(0, StatusAborted)[1:]
				parts[i] = part
				return Result{Status: StatusAborted}, nil, false
			}
			parts = append(parts, part)
		}
		if changed && !room() {
			parts = nil
			return Result{Status: StatusKeysFull}, nil, false
		}
		then.records, then.horizon, then.held = tw.records, tw.horizon, false
		*tw = then
		return Result{Status: StatusOK, Version: tw.version()}, parts, changed
	}
	if c.IdempotencyKey == "" {
		result, _, _ := do(func() bool { return true })
		tw.makeRoom()
		return append([]Result{result}, parts...)
	}
	said := ""
	for _, c := range commands {
		said += tw.plain(c)
	}
	result, past := tw.once(c, int(Slot(commands[0].Key)), said, do)
	switch {
	case past != nil:
		parts = nil
		for i, p := range past {
			r := Result{Status: StatusOK, Existed: p.Existed, Replayed: true}
			if kind := commands[i].Kind; kind != KindExpire && kind != KindTouch {
				r.Version = p.Version
			}
			parts = append(parts, r)
		}
	case parts == nil:
		return all(result.Status, StatusAborted)
	}
	return append([]Result{result}, parts...)
}

// once does what c asks for unless it was done before under its idempotency key; then past says what came of each part.
func (tw *twin) once(c Command, slot int, said string, do func(room func() bool) (result Result, parts []Result, changed bool)) (result Result, past []Result) {
	r := twinRecord{slot: slot, caller: c.Caller, key: c.IdempotencyKey, command: said}
	refuse := func(s Status) (Result, []Result) { return Result{Status: s}, nil }
	digits, rest, _ := strings.Cut(r.key, "-")
	if ms, err := strconv.ParseUint(digits, 10, 64); err == nil && len(digits) == 13 && digits[0] != '0' && rest != "" {
		r.timed, r.time, r.until = true, ms, ms+30_000
		if ms > tw.clock+10_000 {
			return refuse(StatusKeyTooNew)
		}
		if ms <= tw.horizon || r.until <= tw.clock {
			return refuse(StatusKeyTooOld)
		}
	} else {
		r.until = tw.clock + 30_000
	}
	for i, old := range tw.records {
		if old.slot != slot || old.caller != r.caller || old.key != r.key {
			continue
		}
		if old.until <= tw.clock {
			tw.records = slices.Delete(tw.records, i, i+1)
			break
		}
		if old.command != r.command {
			return refuse(StatusKeyReused)
		}
		result := Result{Status: StatusOK, Existed: old.existed, Version: old.version, Replayed: true}
		if old.valued && old.parts == nil {
			result.HasValue, result.Value, result.ContentType = true, []byte(old.val), old.contentType
		}
		return result, old.parts
	}
	remembered := true
	result, parts, changed := do(func() bool {
		need := r.cost() + 64 + 1024
		opaque := twin{records: slices.DeleteFunc(slices.Clone(tw.records), func(r twinRecord) bool { return r.timed })}
		for tw.recordBytes() <= tw.limit/16 && opaque.recordBytes()+need <= tw.limit/16 && tw.recordBytes()+need > tw.limit/16 {
			i := tw.firstRecord(true)
			if r.timed && r.time <= tw.records[i].time {
				break
			}
			tw.dropRecord(i)
		}
		if tw.recordBytes()+need > tw.limit/16 {
			remembered = false
			if r.timed {
				tw.horizon = max(tw.horizon, r.time)
			}
			return r.timed
		}
		return true
	})
	if changed && remembered {
		r.version, r.existed, r.parts = result.Version, result.Existed, parts
		if result.HasValue && len(result.Value) <= 64 {
			r.valued, r.val, r.contentType = true, string(result.Value), result.ContentType
		}
		if parts != nil {
			r.valued, r.val = true, strings.Repeat("?", (len(parts)+7)/8)
		}
		r.stamp = tw.stamp()
		tw.records = append(tw.records, r)
	}
	if changed {
		tw.makeRoom()
	}
	return result, nil
}

// keyed applies a command on one key; room is asked before anything changes.
func (tw *twin) keyed(c Command, room func() bool) (result Result, changed bool) {
	refuse := func(s Status) (Result, bool) { return Result{Status: s}, false }
	e := twinEntry{key: string(c.Key), value: string(c.Value), contentType: c.ContentType}
	if c.TTL > 0 {
		e.expireAt = tw.clock + min(c.TTL, math.MaxUint64-tw.clock)
	}
	if c.Kind == KindPut && tw.cost(e) > tw.limit/8 {
		return refuse(StatusTooLarge)
	}
	at := tw.find(e.key)
	live := at >= 0 && !tw.dead(tw.entries[at])
	var old twinEntry
	if at >= 0 {
		old = tw.entries[at]
	}
	failed := Result{Status: StatusCondition, Existed: live}
	if live {
		failed.Version = old.version
	}
	holds := map[CondKind]bool{
		CondAlways: true, CondAbsent: !live, CondPresent: live, CondVersion: live && old.version == c.Cond.Version,
		CondFill: old.version <= c.Cond.Version && tw.gone[int(Slot(c.Key))] <= c.Cond.Version && tw.oldestToken() <= c.Cond.Version && c.Cond.Version <= tw.version(),
	}
	if !holds[c.Cond.Kind] {
		return failed, false
	}
	result = Result{Status: StatusOK, Existed: live}
	switch c.Kind {
	case KindGet:
		if live {
			result = Result{Status: StatusOK, Existed: true, Version: old.version, HasValue: true, Value: []byte(old.value), ContentType: old.contentType}
			if old.expireAt > 0 {
				result.TTL = old.expireAt - tw.clock
			}
		}
		return result, false
	case KindDelete:
		if !live {
			return result, false
		}
	case KindExpire, KindTouch:
		if !live {
			return Result{Status: StatusNotFound, Existed: false}, false
		}
		if !room() {
			return refuse(StatusKeysFull)
		}
		if c.Kind == KindExpire {
			tw.entries[at].expireAt = e.expireAt
		}
		result.Version = old.version
		tw.use(at)
		return result, true
	case KindIncr:
		n := int64(0)
		if live {
			var err error
			n, err = strconv.ParseInt(old.value, 10, 64)
			if err != nil || strconv.FormatInt(n, 10) != old.value {
				return Result{Status: StatusNotInteger, Existed: live}, false
			}
			e.contentType, e.expireAt = old.contentType, old.expireAt
		}
		if sum := n + c.Delta; (sum > n) != (c.Delta > 0) && c.Delta != 0 {
			return Result{Status: StatusNotInteger, Existed: live}, false
		}
		e.value = strconv.FormatInt(n+c.Delta, 10)
	case KindAppend:
		if live {
			e.contentType, e.expireAt, e.value = old.contentType, old.expireAt, old.value+e.value
		}
	}
	if c.Kind != KindDelete && tw.cost(e) > tw.limit/8 {
		return Result{Status: StatusTooLarge, Existed: live}, false
	}
	if tw.counter == 1<<44-1 {
		return refuse(StatusExhausted)
	}
	if !room() {
		return refuse(StatusKeysFull)
	}
	tw.counter++
	result.Version = tw.version()
	if c.ReturnOld && live {
		result.HasValue, result.Value, result.ContentType = true, []byte(old.value), old.contentType
	}
	if c.Kind == KindDelete {
		tw.removeAt(at)
		tw.goneFrom(old, tw.version())
		return result, true
	}
	if live {
		tw.entries = slices.Delete(tw.entries, at, at+1)
	} else if at >= 0 {
		tw.loseAt(at)
	}
	e.version, e.stamp = tw.version(), tw.stamp()
	tw.entries = append(tw.entries, e)
	if c.Kind == KindIncr || c.Kind == KindAppend {
		result.HasValue, result.Value, result.ContentType = true, []byte(e.value), e.contentType
	}
	if c.IdempotencyKey == "" {
		tw.makeRoom()
	}
	return result, true
}

func (tw *twin) oldestToken() uint64 {
	if tw.level < 4 {
		return tw.bits << 44
	}
	return tw.tokens
}

func (tw *twin) makeRoom() {
	if tw.held {
		return
	}
	for bytes := tw.bytes(); bytes > tw.bound && len(tw.entries) > 0; {
		bytes -= tw.cost(tw.entries[0])
		tw.loseAt(0)
	}
}

// use moves an entry to the recent end.
func (tw *twin) use(i int) {
	e := tw.entries[i]
	e.stamp = tw.stamp()
	tw.entries = append(slices.Delete(tw.entries, i, i+1), e)
}

func (tw *twin) bulk(c Command) Result {
	doomed := func(e twinEntry) bool {
		slot := uint32(Slot([]byte(e.key)))
		return c.Kind == KindFlush || slot >= c.Slots.Start && slot < c.Slots.End && e.version <= c.Version &&
			bytes.HasPrefix([]byte(e.key), c.Key) && uint32(tw.touch(e.key)&0xffffff)%(1<<c.PartBits) == c.Part
	}
	if !slices.ContainsFunc(tw.entries, doomed) {
		return Result{Status: StatusOK}
	}
	if tw.counter == 1<<44-1 {
		return Result{Status: StatusExhausted}
	}
	tw.counter++
	result := Result{Status: StatusOK, Version: tw.version()}
	for i := 0; i < len(tw.entries); {
		e := tw.entries[i]
		if !doomed(e) {
			i++
			continue
		}
		if c.Kind == KindFlush || !tw.dead(e) {
			result.Count++
			tw.removeAt(i)
		} else {
			tw.loseAt(i)
		}
		tw.gone[int(Slot([]byte(e.key)))] = tw.version()
	}
	if c.Kind == KindFlush {
		for slot := tw.start; slot < tw.end; slot++ {
			tw.gone[slot] = tw.version()
		}
	}
	return result
}

func (tw *twin) grant(g Grant) Result {
	bits := uint64(g.VersionBits)
	have := []uint64{tw.generation, tw.epoch, tw.bits}
	if slices.Compare([]uint64{g.Generation, g.Epoch, bits}, have) <= 0 || tw.granted && bits <= tw.bits {
		return Result{Status: StatusStale}
	}
	if g.Generation > 1 && g.Generation > tw.generation && tw.level > 1 {
		tw.horizon = max(tw.horizon, tw.clock)
	}
	if !tw.granted || g.Generation != tw.generation || int(g.Range.Start) != tw.start || int(g.Range.End) != tw.end {
		tw.tokens = bits << 44
	}
	tw.granted = true
	tw.generation, tw.epoch, tw.bits, tw.counter = g.Generation, g.Epoch, bits, 0
	tw.start, tw.end = int(g.Range.Start), int(g.Range.End)
	foreign := func(slot int) bool { return slot < tw.start || slot >= tw.end }
	tw.entries = slices.DeleteFunc(tw.entries, func(e twinEntry) bool { return foreign(int(Slot([]byte(e.key)))) })
	tw.records = slices.DeleteFunc(tw.records, func(r twinRecord) bool { return foreign(r.slot) })
	for slot := range tw.gone {
		if foreign(slot) {
			delete(tw.gone, slot)
		}
	}
	if g.TableVersion > tw.tableVersion {
		tw.setLimit(g.Limit, g.TableVersion)
	}
	return Result{Status: StatusOK}
}

func (tw *twin) setLimit(limit, tableVersion uint64) {
	if tw.level >= 2 {
		limit = min(limit, 32<<30)
	}
	tw.limit, tw.tableVersion = limit, tableVersion
	tw.bound = max(tw.bound, limit)
}

func (tw *twin) stats() Stats {
	return Stats{
		Entries: len(tw.entries), Bytes: tw.bytes(), Limit: tw.limit, Bound: tw.bound, TableVersion: tw.tableVersion,
		Evictions: tw.evictions, Expirations: tw.expirations, Clock: tw.clock, Version: tw.version(),
		Epoch: tw.epoch, Generation: tw.generation, Range: Range{uint32(tw.start), uint32(tw.end)},
		Level: uint8(tw.level), Applied: tw.applied, Keys: len(tw.records), KeyBytes: tw.recordBytes(),
	}
}
