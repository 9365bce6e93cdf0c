package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naiveStore is what a store should do, done as simply as can be.
type naiveStore struct {
	entries []naiveEntry // oldest first
	owned   Range
	gone    map[uint16]uint64
}

type naiveEntry struct {
	key, value, contentType  string
	version, expireAt, stamp uint64
}

func (e naiveEntry) slot() uint16 { return Slot([]byte(e.key)) }

func (e naiveEntry) size() int { return len(e.key) + len(e.value) + len(e.contentType) }

func naiveOf(e entry) naiveEntry {
	return naiveEntry{string(e.key), string(e.value), string(e.contentType), e.version, e.expireAt, e.stamp}
}

func (n *naiveStore) index(key string) int {
	return slices.IndexFunc(n.entries, func(e naiveEntry) bool { return e.key == key })
}

func (n *naiveStore) clone() *naiveStore {
	c := &naiveStore{entries: slices.Clone(n.entries), owned: n.owned, gone: make(map[uint16]uint64)}
	for slot, version := range n.gone {
		c.gone[slot] = version
	}
	return c
}

func (n *naiveStore) sums(slot uint16) (sums slotSums) {
	if !n.owned.Contains(slot) {
		return sums
	}
	sums.gone = n.gone[slot]
	for _, e := range n.entries {
		if e.slot() == slot {
			block := blockOf([]byte(e.key), []byte(e.contentType), nil, []byte(e.value))
			sums.add(block, e.version, e.expireAt, e.stamp)
		}
	}
	return sums
}

// storeModel drives a store and its naive twin.
type storeModel struct {
	store *store
	naive *naiveStore
	tags  []string
	clock uint64 // of versions and stamps
	views []heldView
	held  []heldEntry
}

// heldView is a view with the naive store as it was then.
type heldView struct {
	view *view
	want *naiveStore
}

// heldEntry is an entry that a reader kept, with a copy made when it was read.
type heldEntry struct {
	got  entry
	want naiveEntry
}

// TestStoreModel ensures that a store does what a naive one does, whatever it is asked for in whatever
// order, with its parts in agreement; that views show the store as it was when they were taken, and that
// what was read stays as it was.
func TestStoreModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &storeModel{
			store: newStore(Slot),
			naive: &naiveStore{owned: Range{0, Slots}, gone: make(map[uint16]uint64)},
			tags:  []string{"{a}", "{b}", "{c}"}[:rapid.IntRange(1, 3).Draw(t, "tags")],
		}
		m.store.own(m.naive.owned)
		t.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"set":     m.set,
			"append":  m.append,
			"remove":  m.remove,
			"touch":   m.touch,
			"expire":  m.expire,
			"fill":    m.fill,
			"thin":    m.thin,
			"reclaim": m.reclaim,
			"own":     m.own,
			"gone":    m.raiseGone,
			"clear":   m.clear,
			"view":    m.view,
		})
		for _, h := range m.views {
			checkView(t, h)
		}
	})
}

func (m *storeModel) next() uint64 {
	m.clock++
	return m.clock
}

// key draws a key, stored ones more often than others.
func (m *storeModel) key(t *rapid.T) string {
	if n := len(m.naive.entries); n > 0 && rapid.IntRange(0, 3).Draw(t, "stored") > 0 {
		return m.naive.entries[rapid.IntRange(0, n-1).Draw(t, "entry")].key
	}
	return rapid.SampledFrom(m.tags).Draw(t, "tag") + fmt.Sprint(rapid.IntRange(0, 200).Draw(t, "key"))
}

func (m *storeModel) find(key string) ref {
	return m.store.find(Slot([]byte(key)), m.store.hash([]byte(key)), []byte(key))
}

// put sets an entry in both.
func (m *storeModel) put(t fataler, key, contentType, v1, v2 string, expireAt uint64) {
	slot := Slot([]byte(key))
	if !m.naive.owned.Contains(slot) {
		return
	}
	e := naiveEntry{key, v1 + v2, contentType, m.next(), expireAt, m.next()}
	k, c, a, b := []byte(key), []byte(contentType), []byte(v1), []byte(v2)
	r := m.store.set(m.find(key), slot, m.store.hash(k), k, c, a, b, e.version, expireAt, e.stamp)
	for _, bytes := range [][]byte{k, c, a, b} {
		clear(bytes) // the store must have its own
	}
	if got := naiveOf(m.store.at(r)); got != e {
		t.Fatalf("set %+v, stored %+v", e, got)
	}
	if i := m.naive.index(key); i >= 0 {
		m.naive.entries = slices.Delete(m.naive.entries, i, i+1)
	}
	m.naive.entries = append(m.naive.entries, e)
}

func (m *storeModel) drop(r ref, i int) {
	e := m.naive.entries[i]
	m.store.remove(r)
	m.naive.entries = slices.Delete(m.naive.entries, i, i+1)
	m.naive.gone[e.slot()] = max(m.naive.gone[e.slot()], e.version)
}

func drawExpiry(t *rapid.T) uint64 { return uint64(rapid.IntRange(0, 5).Draw(t, "expiry")) }

func (m *storeModel) set(t *rapid.T) {
	size := rapid.SampledFrom([]int{0, 1, 10, 100, 230, 300, 1100, 5000}).Draw(t, "size")
	split := rapid.IntRange(0, size).Draw(t, "split")
	value := string(bytes.Repeat([]byte{byte(m.clock)}, size))
	m.put(t, m.key(t), rapid.SampledFrom([]string{"", "text/plain"}).Draw(t, "type"), value[:split], value[split:], drawExpiry(t))
}

// append makes a new value of the stored one's own bytes.
func (m *storeModel) append(t *rapid.T) {
	key := m.key(t)
	r := m.find(key)
	if r == 0 {
		return
	}
	e := m.store.at(r)
	if len(e.value) > 20000 {
		return
	}
	want := naiveEntry{key, string(e.value) + string(e.key), string(e.contentType), m.next(), e.expireAt, m.next()}
	m.store.set(r, m.store.slotOf(r), m.store.hash(e.key), e.key, e.contentType, e.value, e.key, want.version, e.expireAt, want.stamp)
	i := m.naive.index(key)
	m.naive.entries = append(slices.Delete(m.naive.entries, i, i+1), want)
}

func (m *storeModel) remove(t *rapid.T) {
	key := m.key(t)
	if r := m.find(key); r != 0 {
		m.drop(r, m.naive.index(key))
	}
}

func (m *storeModel) touch(t *rapid.T) {
	key := m.key(t)
	r := m.store.findTouch(unseeded([]byte(key)))
	i := m.naive.index(key)
	if (r != 0) != (i >= 0) {
		t.Fatalf("touch of %q finds %d, naively at %d", key, r, i)
	}
	if r == 0 {
		return
	}
	if got := m.store.touchOf(r); got != unseeded([]byte(key)) {
		t.Fatalf("touch of %q is %x", key, got)
	}
	e := m.naive.entries[i]
	e.stamp = m.next()
	m.store.touch(r, e.slot(), e.stamp)
	m.naive.entries = append(slices.Delete(m.naive.entries, i, i+1), e)
}

func (m *storeModel) expire(t *rapid.T) {
	key := m.key(t)
	r := m.find(key)
	if r == 0 {
		return
	}
	i := m.naive.index(key)
	e := m.naive.entries[i]
	e.expireAt, e.stamp = drawExpiry(t), m.next()
	m.store.expire(r, e.slot(), e.expireAt, e.stamp)
	m.naive.entries = append(slices.Delete(m.naive.entries, i, i+1), e)
}

// fill sets many entries of one kind.
func (m *storeModel) fill(t *rapid.T) {
	tag := rapid.SampledFrom(m.tags).Draw(t, "tag")
	size := rapid.SampledFrom([]int{0, 20, 200, 2000}).Draw(t, "size")
	expiring := rapid.Bool().Draw(t, "expiring")
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for range rapid.IntRange(1, 400).Draw(t, "entries") {
		expireAt := uint64(0)
		if expiring {
			expireAt = rng.Uint64N(100)
		}
		value := string(bytes.Repeat([]byte{byte(m.clock)}, rng.IntN(size+1)))
		m.put(t, tag+fmt.Sprint(rng.IntN(1000)), "", value, "", expireAt)
	}
}

// thin removes a part of all entries, from the old end or at random.
func (m *storeModel) thin(t *rapid.T) {
	evict := rapid.Bool().Draw(t, "evict")
	share := rapid.IntRange(1, 10).Draw(t, "tenths")
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for range len(m.naive.entries) * share / 10 {
		i := 0
		if !evict {
			i = rng.IntN(len(m.naive.entries))
		}
		r := m.store.oldest()
		if evict {
			m.store.foresee()
		} else {
			r = m.find(m.naive.entries[i].key)
		}
		m.drop(r, i)
	}
}

// reclaim removes the first to expire.
func (m *storeModel) reclaim(t *rapid.T) {
	for range rapid.IntRange(1, 50).Draw(t, "entries") {
		first := -1
		for i, e := range m.naive.entries {
			if e.expireAt != 0 && (first < 0 || e.expireAt < m.naive.entries[first].expireAt) {
				first = i // among equals the oldest, of the least stamp
			}
		}
		r := m.store.firstToExpire()
		if first < 0 {
			if r != 0 {
				t.Fatalf("first to expire is %d, want none", r)
			}
			return
		}
		if r == 0 || string(m.store.at(r).key) != m.naive.entries[first].key {
			t.Fatalf("first to expire is %d, want %q", r, m.naive.entries[first].key)
		}
		m.drop(r, first)
	}
}

func (m *storeModel) own(t *rapid.T) {
	bounds := []uint32{0, Slots}
	for _, tag := range m.tags {
		slot := uint32(Slot([]byte(tag)))
		bounds = append(bounds, slot, slot+1)
	}
	r := Range{rapid.SampledFrom(bounds).Draw(t, "start"), rapid.SampledFrom(bounds).Draw(t, "end")}
	if r.Start > r.End {
		r = Range{}
	}
	m.store.own(r)
	m.naive.owned = r
	m.naive.entries = slices.DeleteFunc(m.naive.entries, func(e naiveEntry) bool { return !r.Contains(e.slot()) })
	for slot := range m.naive.gone {
		if !r.Contains(slot) {
			delete(m.naive.gone, slot)
		}
	}
}

func (m *storeModel) raiseGone(t *rapid.T) {
	slot, version := Slot([]byte(rapid.SampledFrom(m.tags).Draw(t, "tag"))), uint64(rapid.IntRange(0, int(m.clock)+1).Draw(t, "version"))
	m.store.raiseGone(slot, version)
	if m.naive.owned.Contains(slot) {
		m.naive.gone[slot] = max(m.naive.gone[slot], version)
	}
}

func (m *storeModel) clear(t *rapid.T) {
	version := m.next()
	m.store.clear(version)
	m.naive.entries = nil
	for slot := m.naive.owned.Start; slot < m.naive.owned.End; slot++ {
		m.naive.gone[uint16(slot)] = version
	}
}

func (m *storeModel) view(t *rapid.T) {
	const most = 4
	if len(m.views) == most {
		checkView(t, m.views[0])
		m.views = m.views[1:]
	}
	m.views = append(m.views, heldView{m.store.view(), m.naive.clone()})
	for _, e := range m.naive.entries {
		m.held = append(m.held, heldEntry{m.store.at(m.find(e.key)), e})
	}
	m.held = m.held[max(0, len(m.held)-500):]
}

func (m *storeModel) check(t *rapid.T) {
	checkStore(t, m.store)
	var got []naiveEntry
	payload := 0
	for r := m.store.oldest(); r != 0; r = m.store.newer(r) {
		e := naiveOf(m.store.at(r))
		version, expireAt, stamp := m.store.meta(r)
		if version != e.version || expireAt != e.expireAt || stamp != e.stamp || m.store.slotOf(r) != e.slot() ||
			m.store.sizeOf(r) != e.size() {
			t.Fatalf("%+v has version %d, expiry %d, stamp %d, slot %d, size %d",
				e, version, expireAt, stamp, m.store.slotOf(r), m.store.sizeOf(r))
		}
		if m.find(e.key) != r {
			t.Fatalf("%q found at %d, want %d", e.key, m.find(e.key), r)
		}
		payload += e.size()
		got = append(got, e)
	}
	if !slices.Equal(got, m.naive.entries) {
		t.Fatalf("entries\n%+v, want\n%+v", got, m.naive.entries)
	}
	if m.store.len() != len(got) || m.store.payload() != uint64(payload) {
		t.Fatalf("%d entries of %d bytes, want %d of %d", m.store.len(), m.store.payload(), len(got), payload)
	}
	for _, tag := range append(m.tags, "absent") {
		m.checkSlot(t, Slot([]byte(tag)))
		if r := m.find(tag + "absent"); r != 0 {
			t.Fatalf("found %d for a key that is nowhere", r)
		}
	}
	for _, h := range m.held {
		if got := naiveOf(h.got); got != h.want {
			t.Fatalf("an entry changed from %+v to %+v", h.want, got)
		}
	}
}

func (m *storeModel) checkSlot(t *rapid.T, slot uint16) {
	want := m.naive.sums(slot)
	entries, payload := m.store.slotStats(slot)
	if m.store.sums(slot) != want || m.store.gone(slot) != want.gone || entries != int(want.entries) || payload != want.payload {
		t.Fatalf("sums of slot %d are %+v, gone %d, %d entries of %d bytes, want %+v",
			slot, m.store.sums(slot), m.store.gone(slot), entries, payload, want)
	}
	bits := uint8(rapid.IntRange(0, 12).Draw(t, "bits"))
	part := uint32(rapid.IntRange(0, 1<<bits-1).Draw(t, "part"))
	var got, all []string
	m.store.inSlot(slot, bits, part, func(r ref) bool {
		got = append(got, string(m.store.at(r).key))
		return true
	})
	for _, e := range m.naive.entries {
		if e.slot() == slot && m.store.hash([]byte(e.key))&(1<<bits-1) == part {
			all = append(all, e.key)
		}
	}
	slices.Sort(got)
	slices.Sort(all)
	if !slices.Equal(got, all) {
		t.Fatalf("part %d of %d bits of slot %d has %q, want %q", part, bits, slot, got, all)
	}
	if len(all) > 1 {
		calls := 0
		m.store.inSlot(slot, bits, part, func(ref) bool { calls++; return false })
		if calls != 1 {
			t.Fatalf("%d calls after the last one was asked for", calls)
		}
	}
}

// checkView ensures that a view shows what was there when it was taken.
func checkView(t fataler, h heldView) {
	var got []naiveEntry
	payload := 0
	if err := h.view.each(func(e entry) error {
		got = append(got, naiveOf(e))
		payload += len(e.key) + len(e.value) + len(e.contentType)
		return nil
	}); err != nil {
		t.Fatalf("each: %v", err)
	}
	if !slices.Equal(got, h.want.entries) {
		t.Fatalf("view shows\n%+v, want\n%+v", got, h.want.entries)
	}
	if h.view.len() != len(got) || h.view.payload() != uint64(payload) {
		t.Fatalf("view of %d entries of %d bytes, want %d of %d", h.view.len(), h.view.payload(), len(got), payload)
	}
	for _, tag := range []string{"{a}", "{b}", "{c}", "absent"} {
		slot := Slot([]byte(tag))
		if got, want := h.view.sums(slot), h.want.sums(slot); got != want {
			t.Fatalf("view's sums of slot %d are %+v, want %+v", slot, got, want)
		}
	}
}

// TestIndexIsDense ensures that a table that grows is a quarter free on average, and never so full that searches get long.
func TestIndexIsDense(t *testing.T) {
	var x index
	var cells, entries int
	for n := uint32(1); n <= 2000; n++ {
		x.add(newCell(n*0x9E3779B1>>8, 0, ref(n)))
		if free := len(x.cells) - int(n); free*8 < len(x.cells) {
			t.Errorf("%d entries in %d cells", n, len(x.cells))
		}
		if n > 20 {
			cells, entries = cells+len(x.cells), entries+int(n)
		}
	}
	if each := float64(cells) / float64(entries); each > 1.4 {
		t.Errorf("%.2f cells for each entry", each)
	}
}
