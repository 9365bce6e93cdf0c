package fsm

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model drives three implementations with one log: a machine, a machine that is replaced by its own
// restored snapshot now and then, and the naive twin.
type model struct {
	index    uint64
	straight *Machine
	restored *Machine
	twin     *twin
	held     []heldValue
	last     []Command   // that had idempotency keys
	groups   [][]Command // likewise, held together
	checks   int
}

// heldValue is a value that a reader kept, with a copy made when it was read.
type heldValue struct{ got, want []byte }

// epoch is when a model's log begins: late enough for the times in idempotency keys.
const epoch = 1_700_000_000_000

// TestModel ensures that the machine does what the rules say, with every result, the order, the costs
// and the statistics equal to the naive twin's after each batch; and that snapshots taken and restored
// anywhere in between change nothing, not even in the snapshot's bytes.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{straight: New(), restored: New(), twin: &twin{level: baseLevel, gone: map[int]uint64{}}}
		if rapid.IntRange(0, 4).Draw(t, "raised") > 0 {
			m.run(t, Batch{Level: 1, Commands: []Command{{Kind: KindLevel, Level: uint8(rapid.IntRange(2, MaxLevel).Draw(t, "level")), Seed: rapid.Uint64().Draw(t, "seed")}}})
		}
		if rapid.Bool().Draw(t, "granted") {
			m.run(t, Batch{Stamp: epoch, Level: 1, Commands: []Command{{Kind: KindGrant, Grant: Grant{
				Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 4000, TableVersion: 1,
			}}}})
		}
		t.Repeat(map[string]func(*rapid.T){
			"":         m.check,
			"batch":    m.batch,
			"batch 2":  m.batch, // twice as likely as the others
			"fill":     m.fill,
			"restore":  m.restore,
			"read":     m.read,
			"scan":     m.scan,
			"tick":     m.tick,
			"count up": m.countUp,
		})
	})
}

func (m *model) batch(t *rapid.T) {
	b := Batch{Stamp: m.stamp(t), Level: rapid.SampledFrom([]uint8{0, 1}).Draw(t, "level")}
	for range rapid.IntRange(1, 12).Draw(t, "commands") {
		if m.twin.level > 2 && rapid.IntRange(0, 3).Draw(t, "held together") == 0 {
			b.Commands = append(b.Commands, m.atomic(t)...)
			continue
		}
		c := m.command(t)
		if uint64(c.needs()) <= m.twin.level {
			b.Commands = append(b.Commands, c)
		}
	}
	m.run(t, b)
}

// atomic holds a few commands together, on few keys, so that some depend on those before them.
func (m *model) atomic(t *rapid.T) []Command {
	head := m.keyed(t, Command{Kind: KindAtomic, Ops: 1})
	if head.IdempotencyKey != "" && len(m.groups) > 0 && rapid.Bool().Draw(t, "group again") {
		group := slices.Clone(m.groups[rapid.IntRange(0, len(m.groups)-1).Draw(t, "which group")])
		for i := range group {
			if group[i].DefaultTTL {
				group[i].TTL = m.ttl(t)
			}
		}
		return group
	}
	group := []Command{head}
	for range rapid.IntRange(1, 6).Draw(t, "ops") {
		c := m.command(t)
		if rapid.IntRange(0, 3).Draw(t, "get") == 0 {
			c = Command{Kind: KindGet, Key: m.key(t)}
		}
		c.Caller, c.IdempotencyKey = "", ""
		c.DefaultTTL = c.DefaultTTL && head.IdempotencyKey != ""
		if !c.keyed() || c.Cond.Kind == CondFill || c.Kind == KindGet && head.IdempotencyKey != "" {
			c = Command{Kind: KindPut, Key: m.key(t), Value: []byte("1")}
		}
		if c.Cond.Kind == CondVersion && rapid.Bool().Draw(t, "to come") {
			c.Cond.Version = m.twin.version() + rapid.Uint64Range(1, 3).Draw(t, "ahead")
		}
		group = append(group, c)
	}
	group[0].Ops = uint32(len(group) - 1)
	if head.IdempotencyKey != "" {
		m.groups = append(m.groups, group)
	}
	return group
}

// fill puts many small entries at once, more than one batch can reclaim or shrink away.
func (m *model) fill(t *rapid.T) {
	b := Batch{Stamp: m.twin.clock, Level: 1}
	n := rapid.SampledFrom([]int{10, 300, 1300}).Draw(t, "entries")
	ttl := rapid.SampledFrom([]uint64{0, 5}).Draw(t, "ttl")
	b.Commands = append(b.Commands, Command{Kind: KindLimit, Limit: uint64(n) * 300, TableVersion: m.twin.tableVersion + 1})
	for i := range n {
		b.Commands = append(b.Commands, Command{Kind: KindPut, Key: fmt.Appendf(nil, "fill%d", i), TTL: ttl})
	}
	m.run(t, b)
}

func (m *model) tick(t *rapid.T) { m.run(t, Batch{Stamp: m.stamp(t), Level: 1}) }

func (m *model) restore(t *rapid.T) {
	var image bytes.Buffer
	n, err := m.restored.Snapshot().WriteTo(&image)
	if err != nil || n != int64(image.Len()) {
		t.Fatalf("WriteTo: %d, %v; wrote %d bytes", n, err, image.Len())
	}
	again, err := Restore(bytes.NewReader(image.Bytes()))
	if err != nil {
		t.Fatalf("Restore: %v", err)
	}
	m.restored = again
}

// read compares a lookup with the twin's view, and keeps the value.
func (m *model) read(t *rapid.T) {
	key := m.key(t)
	got := m.straight.Lookup(key)
	slot := int(Slot(key))
	want := Lookup{Owned: slot >= m.twin.start && slot < m.twin.end, Clock: m.twin.clock, Epoch: m.twin.epoch,
		Version: m.twin.version(), Touch: m.twin.touch(string(key))}
	if i := m.twin.find(string(key)); i >= 0 && !m.twin.dead(m.twin.entries[i]) {
		e := m.twin.entries[i]
		want.Found = true
		want.Entry = Entry{Value: []byte(e.value), ContentType: e.contentType, Version: e.version, ExpireAt: e.expireAt}
		want.Cost = m.twin.cost(e)
	}
	if got.Recent && m.twin.find(string(key)) < len(m.twin.entries)-1-len(m.twin.entries)/32 {
		t.Fatalf("%q counts as recent, at %d of %d", key, m.twin.find(string(key)), len(m.twin.entries))
	}
	if got.Owned != want.Owned || got.Found != want.Found || got.Clock != want.Clock || got.Epoch != want.Epoch ||
		got.Version != want.Version || got.Touch != want.Touch || got.Cost != want.Cost ||
		!bytes.Equal(got.Entry.Value, want.Entry.Value) || got.Entry.ContentType != want.Entry.ContentType ||
		got.Entry.Version != want.Entry.Version || got.Entry.ExpireAt != want.Entry.ExpireAt {
		t.Fatalf("Lookup(%q) = %+v, want %+v", key, got, want)
	}
	m.held = append(m.held, heldValue{got.Entry.Value, want.Entry.Value})
}

// countUp brings the version counter close to its end.
func (m *model) countUp(t *rapid.T) {
	if !m.twin.granted || m.twin.counter >= maxCounter-3 || rapid.IntRange(0, 9).Draw(t, "rarely") > 0 {
		t.Skip()
	}
	m.twin.counter = maxCounter - 3
	m.straight.version = m.twin.version()
	m.restored.version = m.twin.version()
}

func (m *model) stamp(t *rapid.T) uint64 {
	step := rapid.SampledFrom([]int{-20, 0, 1, 3, 10, 60, 20_000}).Draw(t, "step")
	return uint64(max(0, int(m.twin.clock)+step))
}

func (m *model) key(t *rapid.T) []byte {
	return fmt.Appendf(nil, "k%d", rapid.IntRange(0, 15).Draw(t, "key"))
}

func (m *model) command(t *rapid.T) Command {
	switch rapid.SampledFrom([]string{
		"put", "put", "put", "put", "put", "put", "delete", "delete", "incr", "append", "append", "expire", "touch", "touches", "touches",
		"prefix", "flush", "grant", "limit", "level", "get", "get",
	}).Draw(t, "kind") {
	case "put":
		c := Command{
			Kind: KindPut, Key: m.key(t), Cond: m.cond(t, CondFill), Value: m.value(t), TTL: m.ttl(t),
			ContentType: rapid.SampledFrom([]string{"", "text/plain"}).Draw(t, "content type"),
		}
		c.ReturnOld = m.twin.level > 1 && rapid.IntRange(0, 3).Draw(t, "return old") == 0
		return m.keyed(t, c)
	case "delete":
		return m.keyed(t, Command{Kind: KindDelete, Key: m.key(t), Cond: m.cond(t, CondVersion)})
	case "incr":
		return m.keyed(t, Command{
			Kind: KindIncr, Key: m.key(t), Cond: m.cond(t, CondVersion), TTL: m.ttl(t),
			Delta: rapid.SampledFrom([]int64{1, 5, -1, 0, math.MaxInt64, math.MinInt64}).Draw(t, "delta"),
		})
	case "append":
		return m.keyed(t, Command{Kind: KindAppend, Key: m.key(t), Cond: m.cond(t, CondVersion), TTL: m.ttl(t), Value: m.value(t), ContentType: "a"})
	case "expire":
		return m.keyed(t, Command{Kind: KindExpire, Key: m.key(t), Cond: m.cond(t, CondVersion), TTL: m.ttl(t)})
	case "get":
		return Command{Kind: KindGet, Key: m.key(t)}
	case "touch":
		return Command{Kind: KindTouch, Key: m.key(t)}
	case "touches":
		c := Command{Kind: KindTouches}
		for range rapid.IntRange(1, 6).Draw(t, "touches") {
			c.Touches = AppendTouch(c.Touches, m.twin.touch(string(m.key(t))))
		}
		return c
	case "prefix":
		bits := rapid.SampledFrom([]uint8{0, 0, 1, 3}).Draw(t, "part bits")
		return Command{
			Kind: KindDeletePrefix, Key: rapid.SampledFrom([][]byte{{'k'}, []byte("k1"), {}, []byte("fill1")}).Draw(t, "prefix"),
			Slots: rapid.SampledFrom([]Range{{0, Slots}, {5000, 12_000}}).Draw(t, "slots"), PartBits: bits,
			Part:    uint32(rapid.IntRange(0, 1<<bits-1).Draw(t, "part")),
			Version: rapid.SampledFrom([]uint64{m.twin.version(), math.MaxUint64, m.someVersion(t)}).Draw(t, "version"),
		}
	case "flush":
		if rapid.IntRange(0, 5).Draw(t, "rarely") > 0 {
			return Command{Kind: KindTouch, Key: m.key(t)}
		}
		return Command{Kind: KindFlush}
	case "grant":
		near := func(v uint64, what string) uint64 {
			return v + rapid.SampledFrom([]uint64{0, 0, 1, 2}).Draw(t, what) - min(v, rapid.SampledFrom([]uint64{0, 0, 1}).Draw(t, what+" back"))
		}
		return Command{Kind: KindGrant, Grant: Grant{
			Range:      rapid.SampledFrom([]Range{{0, Slots}, {0, Slots / 2}, {Slots / 4, Slots}}).Draw(t, "range"),
			Generation: near(m.twin.generation, "generation"), Epoch: near(m.twin.epoch, "epoch"),
			VersionBits: uint32(near(m.twin.bits, "bits")), Limit: m.limit(t),
			TableVersion: max(1, near(m.twin.tableVersion, "table version")),
		}}
	case "limit":
		return Command{Kind: KindLimit, Limit: m.limit(t), TableVersion: max(1, m.twin.tableVersion+rapid.Uint64Range(0, 2).Draw(t, "newer"))}
	}
	c := Command{Kind: KindLevel, Level: rapid.Uint8Range(0, MaxLevel).Draw(t, "raise")}
	if c.Level >= 2 {
		c.Seed = rapid.Uint64().Draw(t, "seed")
	}
	return c
}

func (m *model) limit(t *rapid.T) uint64 {
	return rapid.SampledFrom([]uint64{0, 1800, 3000, 6000, 6000, 20_000, math.MaxUint64}).Draw(t, "limit")
}

func (m *model) value(t *rapid.T) []byte {
	if rapid.IntRange(0, 2).Draw(t, "number") == 0 {
		return []byte(rapid.SampledFrom([]string{"0", "7", "-12", "+1", "01", "9223372036854775807", "x"}).Draw(t, "digits"))
	}
	return bytes.Repeat([]byte{'v'}, rapid.SampledFrom([]int{0, 1, 30, 200, 500, 1500}).Draw(t, "value"))
}

func (m *model) ttl(t *rapid.T) uint64 {
	return rapid.SampledFrom([]uint64{0, 0, 1, 5, 40, math.MaxUint64}).Draw(t, "ttl")
}

// keyed gives c an idempotency key, of a few now and then.
func (m *model) keyed(t *rapid.T, c Command) Command {
	if m.twin.level < 2 || rapid.IntRange(0, 2).Draw(t, "idempotent") > 0 {
		return c
	}
	c.Caller = rapid.SampledFrom([]string{"", "", "bob"}).Draw(t, "caller")
	c.IdempotencyKey = rapid.SampledFrom([]string{"a", "b", "c", "0123456789012-a", "12345678901234-a"}).Draw(t, "opaque")
	if rapid.Bool().Draw(t, "timed") {
		back := rapid.SampledFrom([]int{0, 0, 10, 29_999, 30_000, 50_000, -9_000, -10_001}).Draw(t, "back")
		// A coarse clock, so that keys come again.
		c.IdempotencyKey = fmt.Sprintf("%013d-%d", max(0, int(m.twin.clock/1000)*1000-back), rapid.IntRange(0, 3).Draw(t, "random"))
	}
	if c.Kind != KindAtomic && len(m.last) > 0 && rapid.Bool().Draw(t, "again") {
		c = m.last[rapid.IntRange(0, len(m.last)-1).Draw(t, "which")]
		if c.DefaultTTL {
			c.TTL = m.ttl(t) // the default of now
		}
		return c
	}
	if c.Kind != KindDelete && c.Kind != KindExpire && c.Kind != KindAtomic {
		c.DefaultTTL = rapid.IntRange(0, 2).Draw(t, "default ttl") == 0
	}
	if c.Kind != KindAtomic {
		m.last = append(m.last, c)
	}
	return c
}

// someVersion is one that an entry has, or had.
func (m *model) someVersion(t *rapid.T) uint64 {
	if n := len(m.twin.entries); n > 0 && rapid.Bool().Draw(t, "stored version") {
		return m.twin.entries[rapid.IntRange(0, min(n, 20)-1).Draw(t, "whose")].version
	}
	return m.twin.version() - min(m.twin.version(), rapid.Uint64Range(0, 3).Draw(t, "versions ago"))
}

// cond is a condition of a kind up to most.
func (m *model) cond(t *rapid.T, most CondKind) Cond {
	if m.twin.level < 2 {
		most = CondVersion
	}
	c := Cond{Kind: rapid.SampledFrom([]CondKind{CondAlways, CondAlways, CondAlways, CondAbsent, CondPresent, CondVersion, most}).Draw(t, "cond")}
	if c.Kind >= CondVersion {
		c.Version = m.someVersion(t) + rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "invented")
	}
	return c
}

// run applies b to all three, by way of its encoding, and spoils the encoding afterwards: a machine
// that kept a part of it would change with it.
func (m *model) run(t *rapid.T, b Batch) {
	m.index += 1 + rapid.Uint64Range(0, 2).Draw(t, "gap")
	want := m.twin.apply(m.index, b)
	for _, machine := range []*Machine{m.straight, m.restored} {
		data, err := b.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := DecodeBatch(data)
		if err != nil {
			t.Fatal(err)
		}
		got, err := machine.Apply(m.index, decoded)
		if err != nil {
			t.Fatalf("Apply: %v", err)
		}
		for i := range data {
			data[i] = 0xAA
		}
		if !slices.EqualFunc(got, want, sameResult) {
			t.Fatalf("results %+v, want %+v", got, want)
		}
		position := uint32(max(0, len(b.Commands)-1))
		if i, p := machine.Applied(); i != m.index || p != position {
			t.Fatalf("Applied() = %d, %d; want %d, %d", i, p, m.index, position)
		}
	}
}

// sameResult compares results, nil and empty values alike.
func sameResult(a, b Result) bool {
	if !bytes.Equal(a.Value, b.Value) {
		return false
	}
	a.Value, b.Value = nil, nil
	return reflect.DeepEqual(a, b)
}

func (m *model) check(t *rapid.T) {
	stored := entriesOf(m.straight)
	if !slices.Equal(stored, m.twin.entries) {
		t.Fatalf("entries\n%+v, want\n%+v", stored, m.twin.entries)
	}
	for slot := m.twin.start; slot < m.twin.end; slot++ {
		if got := m.straight.store.gone(uint16(slot)); got != m.twin.gone[slot] {
			t.Fatalf("version %d is gone from slot %d, want %d", got, slot, m.twin.gone[slot])
		}
	}
	if m.straight.recency != m.twin.recency || m.straight.horizon != m.twin.horizon {
		t.Fatalf("recency %d and horizon %d, want %d and %d", m.straight.recency, m.straight.horizon, m.twin.recency, m.twin.horizon)
	}
	if got, want := m.straight.Stats(), m.twin.stats(); got != want {
		t.Fatalf("stats\n%+v, want\n%+v", got, want)
	}
	if got, want := m.restored.Stats(), m.twin.stats(); got != want {
		t.Fatalf("stats after restore\n%+v, want\n%+v", got, want)
	}
	// Each covers 16,384 slots: now and then is enough, since a difference stays.
	if m.checks++; m.checks%4 == 0 && m.straight.Checksum() != m.restored.Checksum() {
		t.Fatal("checksums differ between the machine and the restored one")
	}
	checkInvariants(t, m.straight)
	checkInvariants(t, m.restored)
	for _, h := range m.held {
		if !bytes.Equal(h.got, h.want) {
			t.Fatalf("a value that a reader holds became %q, was %q", h.got, h.want)
		}
	}
}

// entriesOf returns the entries, oldest first.
func entriesOf(m *Machine) []twinEntry {
	var all []twinEntry
	for r := m.store.oldest(); r != 0; r = m.store.newer(r) {
		e := m.store.at(r)
		all = append(all, twinEntry{string(e.key), string(e.value), string(e.contentType), e.version, e.expireAt, e.stamp})
	}
	return all
}

// checkInvariants checks what must hold of a machine between batches, whatever its log was.
func checkInvariants(t interface {
	Helper()
	Fatalf(string, ...any)
}, m *Machine) {
	t.Helper()
	for _, s := range []*store{m.store, m.keys.timed, m.keys.opaque} {
		checkStore(t, s)
		stamp := uint64(0)
		for r := s.oldest(); r != 0; r = s.newer(r) {
			e := s.at(r)
			if e.version > m.latest(m.slotIn(s, e.key)) || e.stamp < stamp || e.stamp == stamp && m.level < 4 || e.stamp > max(m.recency, m.version) {
				t.Fatalf("stamp %d after %d, version %d", e.stamp, stamp, e.version)
			}
			stamp = e.stamp
			if !m.stored().Contains(m.slotIn(s, e.key)) {
				t.Fatalf("%q is stored and not owned", e.key)
			}
		}
	}
	if m.bytes() > m.bound || m.bound != max(m.limit, m.bytes()) {
		t.Fatalf("bytes %d, bound %d, limit %d", m.bytes(), m.bound, m.limit)
	}
}
