package fsm

import (
	"errors"
	"slices"
)

// ErrCopyBroken is returned by CaptureCopy where the machine has lost track of what a Copy has: another one was started, all was
// flushed, or it is another machine. The transfer then needs another attempt.
var ErrCopyBroken = errors.New("the copy of a range has lost track")

// Copy makes chunks of what a source has of a range, and of what becomes of it. It stands beside the state: the leader that drives a
// transfer has one, and where it dies another one begins anew. What is captured is read by Next, without a lock.
//
// It rests on recency: whatever changes an entry or a record gives it a stamp above all before, so that what is new stands at the recent end.
type Copy struct {
	r    Range
	gone []uint64 // of each slot, as it was captured
	sent uint64   // all up to that stamp was captured

	views  [storeKinds]*view // of the beginning, as far as they are not read
	next   [storeKinds]ref
	left   [storeKinds][]leftEntry
	used   map[string]leftEntry // what entries were that have another stamp or expiry now, by their keys
	stored [storeKinds][]entry  // in order of stamps
	told   []uint16             // slots whose gone is to be told
	sealed bool
	watch  [storeKinds]watch
}

// leftEntry is an entry as it was.
type leftEntry struct {
	entry
	block []byte
}

// watch hears of a store's entries that are not any more what a Copy has.
type watch struct {
	r      Range
	sent   uint64
	heard  []leftEntry
	broken bool
}

// left hears that an entry changes or goes.
func (w *watch) left(slot uint16, block []byte, version, expireAt, stamp uint64) {
	if stamp > w.sent || !w.r.Contains(slot) {
		return
	}
	keyLen, _, _ := blockLens(block)
	w.heard = append(w.heard, leftEntry{entry{key: block[blockHeader : blockHeader+keyLen], version: version, expireAt: expireAt, stamp: stamp}, block})
}

// StartCopy begins a copy of what m has of r, of which another one is given up. It takes time in proportion to the pages of entries and the slots.
// It changes m, though none of its state.
func (m *Machine) StartCopy(r Range) *Copy {
	c := &Copy{r: r, sent: m.recency, gone: make([]uint64, r.End-r.Start)}
	m.copying = c
	for k := range storeKinds {
		s := m.storeOf(k)
		c.views[k] = s.view()
		c.next[k] = c.views[k].oldest
		c.watch[k] = watch{r: r, sent: c.sent}
		s.watch = &c.watch[k]
	}
	c.tellGone(m)
	return c
}

// StopCopy gives a copy up.
func (m *Machine) StopCopy(c *Copy) {
	if m.copying != c {
		return
	}
	m.copying = nil
	for k := range storeKinds {
		m.storeOf(k).watch = nil
	}
}

// CaptureCopy captures what has changed since, in time proportional to that and to the slots, and returns how much is to be read.
// Once the range is sealed there is nothing more: that was captured by the seal.
func (m *Machine) CaptureCopy(c *Copy) (items int, err error) {
	if m.copying != c || m.broken(c) {
		return 0, ErrCopyBroken
	}
	if !c.sealed {
		c.capture(m)
	}
	return c.pending(), nil
}

func (m *Machine) broken(c *Copy) bool {
	for k := range storeKinds {
		if m.storeOf(k).watch != &c.watch[k] || c.watch[k].broken {
			return true
		}
	}
	return false
}

// pending is how many items there are to be read; those of the beginning that are not of the range included.
func (c *Copy) pending() (n int) {
	for k := range storeKinds {
		n += len(c.left[k]) + len(c.stored[k])
		if c.views[k] != nil {
			n += c.views[k].len()
		}
	}
	return n + len(c.told)
}

// Sealed reports whether what is captured is all that there was when the range was sealed.
func (c *Copy) Sealed() bool { return c.sealed }

func (c *Copy) capture(m *Machine) {
	if c.pending() > 0 { // what is not read yet may not be there any more
		c.watch[kindEntry].broken = true
		return
	}
	for k := range storeKinds {
		s := m.storeOf(k)
		c.left[k], c.watch[k].heard = c.watch[k].heard, nil
		c.stored[k] = nil
		for r := s.newestRef; r != 0 && s.records.read(r).stamp > c.sent; r = s.records.read(r).prev {
			if c.r.Contains(s.slotOf(r)) {
				c.stored[k] = append(c.stored[k], s.at(r))
			}
		}
		slices.Reverse(c.stored[k])
	}
	c.pairUsed()
	c.sent = m.recency
	for k := range storeKinds {
		c.watch[k].sent = c.sent
	}
	c.tellGone(m)
}

// pairUsed finds the entries that have the values they had.
func (c *Copy) pairUsed() {
	c.used = make(map[string]leftEntry, len(c.left[kindEntry]))
	for _, l := range c.left[kindEntry] {
		c.used[string(l.key)] = l
	}
	same := make(map[string]bool, len(c.used))
	for i := range c.stored[kindEntry] {
		e := &c.stored[kindEntry][i]
		if l, ok := c.used[string(e.key)]; ok && l.version == e.version {
			same[string(e.key)] = true
		}
	}
	c.left[kindEntry] = slices.DeleteFunc(c.left[kindEntry], func(l leftEntry) bool {
		if same[string(l.key)] {
			return true
		}
		delete(c.used, string(l.key))
		return false
	})
}

// tellGone notes the slots that more is gone from.
func (c *Copy) tellGone(m *Machine) {
	for i := range c.gone {
		slot := uint16(c.r.Start) + uint16(i)
		if gone := m.store.gone(slot); gone != c.gone[i] {
			c.gone[i] = gone
			c.told = append(c.told, slot)
		}
	}
}

// Next returns the items of a chunk of about size bytes, nil if all that is captured was read. All of it must be read before the next capture, and
// before the range is sealed.
func (c *Copy) Next(size int) []byte {
	var b []byte
	full := func() bool { return len(b) >= size }
	// What left goes ahead, for the same key may stand among what is stored.
	for k := range storeKinds {
		for ; len(c.left[k]) > 0 && !full(); c.left[k] = c.left[k][1:] {
			l := &c.left[k][0]
			b = appendLeft(b, k, l.key, sumOf(l.block, l.version, l.expireAt, l.stamp), l.stamp, nil, [2]uint64{})
		}
	}
	for k := range storeKinds {
		for c.views[k] != nil && !full() {
			b = c.nextOf(k, b)
		}
		for ; len(c.stored[k]) > 0 && !full(); c.stored[k] = c.stored[k][1:] {
			e := &c.stored[k][0]
			if l, ok := c.used[string(e.key)]; ok && k == kindEntry {
				b = appendLeft(b, k, e.key, sumOf(l.block, l.version, l.expireAt, l.stamp), l.stamp, e, contentHash(l.block, e.version, e.expireAt))
				continue
			}
			b = appendStored(b, k, e)
		}
	}
	for ; len(c.told) > 0 && !full(); c.told = c.told[1:] {
		b = appendGone(b, c.told[0], c.gone[uint32(c.told[0])-c.r.Start])
	}
	return b
}

// nextOf appends the next entry of the beginning.
func (c *Copy) nextOf(k storeKind, b []byte) []byte {
	v, r := c.views[k], c.next[k]
	if r == 0 {
		c.views[k] = nil
		return b
	}
	p, i := r.at()
	rec := &v.pages[p].records[i]
	c.next[k] = rec.next
	if !c.r.Contains(v.pages[p].slots[i]) {
		return b
	}
	e := rec.entry(v.segments, expiryIn(v.expiries, r))
	return appendStored(b, k, &e)
}
