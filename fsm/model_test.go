package fsm

import (
	"bytes"
	"fmt"
	"math"
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
}

// heldValue is a value that a reader kept, with a copy made when it was read.
type heldValue struct{ got, want []byte }

// TestModel ensures that the machine does what the rules say, with every result, the order, the costs
// and the statistics equal to the naive twin's after each batch; and that snapshots taken and restored
// anywhere in between change nothing, not even in the snapshot's bytes.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{straight: New(), restored: New(), twin: &twin{level: baseLevel}}
		if rapid.Bool().Draw(t, "granted") {
			m.run(t, Batch{Stamp: 100, Level: 1, Commands: []Command{{Kind: KindGrant, Grant: Grant{
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
			"tick":     m.tick,
			"count up": m.countUp,
		})
	})
}

func (m *model) batch(t *rapid.T) {
	b := Batch{Stamp: m.stamp(t), Level: rapid.SampledFrom([]uint8{0, 1}).Draw(t, "level")}
	for range rapid.IntRange(1, 12).Draw(t, "commands") {
		b.Commands = append(b.Commands, m.command(t))
	}
	m.run(t, b)
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
	want := Lookup{Owned: slot >= m.twin.start && slot < m.twin.end, Clock: m.twin.clock, Epoch: m.twin.epoch}
	if i := m.twin.find(string(key)); i >= 0 && !m.twin.dead(m.twin.entries[i]) {
		e := m.twin.entries[i]
		want.Found = true
		want.Entry = Entry{Value: []byte(e.value), ContentType: e.contentType, Version: e.version, ExpireAt: e.expireAt}
	}
	if got.Owned != want.Owned || got.Found != want.Found || got.Clock != want.Clock || got.Epoch != want.Epoch ||
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
	step := rapid.SampledFrom([]int{-20, 0, 1, 3, 10, 60}).Draw(t, "step")
	return uint64(max(0, int(m.twin.clock)+step))
}

func (m *model) key(t *rapid.T) []byte {
	return fmt.Appendf(nil, "k%d", rapid.IntRange(0, 15).Draw(t, "key"))
}

func (m *model) command(t *rapid.T) Command {
	switch rapid.SampledFrom([]string{"put", "put", "put", "put", "put", "put", "delete", "delete", "grant", "limit", "level"}).Draw(t, "kind") {
	case "put":
		return Command{
			Kind: KindPut, Key: m.key(t), Cond: m.cond(t),
			Value:       bytes.Repeat([]byte{'v'}, rapid.SampledFrom([]int{0, 1, 30, 200, 500, 1500}).Draw(t, "value")),
			ContentType: rapid.SampledFrom([]string{"", "text/plain"}).Draw(t, "content type"),
			TTL:         rapid.SampledFrom([]uint64{0, 0, 1, 5, 40, math.MaxUint64}).Draw(t, "ttl"),
		}
	case "delete":
		return Command{Kind: KindDelete, Key: m.key(t), Cond: m.cond(t)}
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
	return Command{Kind: KindLevel, Level: rapid.Uint8Range(0, MaxLevel).Draw(t, "raise")}
}

func (m *model) limit(t *rapid.T) uint64 {
	return rapid.SampledFrom([]uint64{0, 1800, 3000, 6000, 6000, 20_000, math.MaxUint64}).Draw(t, "limit")
}

func (m *model) cond(t *rapid.T) Cond {
	c := Cond{Kind: rapid.SampledFrom([]CondKind{CondAlways, CondAlways, CondAbsent, CondPresent, CondVersion}).Draw(t, "cond")}
	if c.Kind == CondVersion {
		c.Version = rapid.Uint64Range(0, 3).Draw(t, "no version")
		if n := len(m.twin.entries); n > 0 && rapid.Bool().Draw(t, "stored version") {
			c.Version = m.twin.entries[rapid.IntRange(0, min(n, 20)-1).Draw(t, "whose")].version
		}
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
		if !slices.Equal(got, want) {
			t.Fatalf("results %+v, want %+v", got, want)
		}
		position := uint32(max(0, len(b.Commands)-1))
		if i, p := machine.Applied(); i != m.index || p != position {
			t.Fatalf("Applied() = %d, %d; want %d, %d", i, p, m.index, position)
		}
	}
}

func (m *model) check(t *rapid.T) {
	var stored []twinEntry
	for _, it := range m.straight.lru.items() {
		stored = append(stored, twinEntry{it.key, string(it.value), it.contentType, it.version, it.expireAt})
	}
	if !slices.Equal(stored, m.twin.entries) {
		t.Fatalf("entries\n%+v, want\n%+v", stored, m.twin.entries)
	}
	if got, want := m.straight.Stats(), m.twin.stats(); got != want {
		t.Fatalf("stats\n%+v, want\n%+v", got, want)
	}
	if got, want := m.restored.Stats(), m.twin.stats(); got != want {
		t.Fatalf("stats after restore\n%+v, want\n%+v", got, want)
	}
	if m.straight.Checksum() != m.restored.Checksum() {
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

// checkInvariants checks what must hold of a machine between batches, whatever its log was.
func checkInvariants(t interface {
	Helper()
	Fatalf(string, ...any)
}, m *Machine) {
	t.Helper()
	var cost uint64
	var expiring, listed int
	for n := m.lru.ring.next; n != &m.lru.ring; n = n.next {
		listed++
		cost += n.item.cost()
		if n.prev.next != n || n.next.prev != n {
			t.Fatalf("list is not linked both ways at %q", n.item.key)
		}
		if m.lru.nodes[n.item.key] != n {
			t.Fatalf("%q is listed but not found", n.item.key)
		}
		if n.item.version > m.version || n.prev != &m.lru.ring && n.prev.item.version >= n.item.version {
			t.Fatalf("version %d is out of order", n.item.version)
		}
		if !m.owned.Contains(Slot([]byte(n.item.key))) {
			t.Fatalf("%q is stored and not owned", n.item.key)
		}
		if n.item.expireAt != 0 {
			expiring++
			if n.heapPos >= len(m.lru.expiry) || m.lru.expiry[n.heapPos] != n {
				t.Fatalf("%q is not at its heap position %d", n.item.key, n.heapPos)
			}
		}
	}
	if listed != len(m.lru.nodes) || expiring != len(m.lru.expiry) {
		t.Fatalf("%d listed, %d found; %d expire, %d in the heap", listed, len(m.lru.nodes), expiring, len(m.lru.expiry))
	}
	for i := 1; i < len(m.lru.expiry); i++ {
		if heapOrder(m.lru.expiry).Less(i, (i-1)/2) {
			t.Fatalf("heap is out of order at %d", i)
		}
	}
	if cost != m.lru.bytes || m.lru.bytes > m.bound || m.bound != max(m.limit, m.lru.bytes) {
		t.Fatalf("items cost %d; bytes %d, bound %d, limit %d", cost, m.lru.bytes, m.bound, m.limit)
	}
}
