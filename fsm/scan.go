package fsm

import (
	"bytes"
	"slices"
)

const (
	// MaxPage bounds the keys of a Page, and MaxPageBytes the bytes of them but for the last.
	MaxPage      = 10_000
	MaxPageBytes = 1 << 20
	// scanLook is how many entries a Scan looks at before it stops at the end of a slot: a few milliseconds where they are spread over a large memory.
	scanLook = 8 << 10
)

// Cursor is a place in the order in which keys are listed, by slot and then by their bytes: right behind the key After of
// Slot, or before all keys of Slot where After is empty. Slot is Slots behind the last key of all.
type Cursor struct {
	Slot  uint32
	After []byte
}

// Within returns the first place from c on where a key that begins with prefix can stand, after which no other such key is
// missed: a prefix that has a whole hash tag has one slot.
func (c Cursor) Within(prefix []byte) Cursor {
	slot, one := slotOfPrefix(prefix)
	switch {
	case one && c.Slot < uint32(slot):
		return Cursor{Slot: uint32(slot)}
	case one && c.Slot > uint32(slot), c.Slot >= Slots:
		return Cursor{Slot: Slots}
	}
	return c
}

// Scan asks for keys.
type Scan struct {
	Prefix []byte
	From   Cursor
	Limit  int    // keys, 1 to MaxPage
	Now    uint64 // what expires by then is due, Unix milliseconds; 0: nothing is
}

// Page is a part of the keys, in order.
type Page struct {
	Owned bool // the machine owns the slot of Scan.From, and answers for it; else there are no keys
	// Sealed: not Owned, but it may be again soon, see Lookup.
	Sealed bool
	Keys   [][]byte // alive by the log clock
	Next   Cursor   // where the next page begins
	Due    uint64   // 0, or when the last to expire of those keys expires that are due
	Epoch  uint64
}

// Scan lists keys from a place on, without touching their recency. A page has fewer keys than the limit, or none, where it
// ends with the machine's range, or before slots that are sealed, for its bytes, or for what there was to look at: its Next tells how far it came.
//
// It looks at scanLook entries and those of one slot more. Entries of a slot have no order, so each page from a slot looks at
// all of that slot, in time in proportion to them; memory is in proportion to the limit.
func (m *Machine) Scan(q Scan) Page { return m.scan(q, scanLook) }

// scan is Scan, and looks at so many entries.
func (m *Machine) scan(q Scan, look int) Page {
	p := Page{Epoch: m.epoch, Next: q.From.Within(q.Prefix)}
	if p.Next.Slot >= Slots || !m.owned.Contains(uint16(p.Next.Slot)) {
		return p
	}
	if p.Sealed = m.sealed(uint16(p.Next.Slot)); p.Sealed {
		return p
	}
	p.Owned = true
	looked, size := 0, 0
	for p.Next.Slot < m.owned.End && len(p.Keys) < q.Limit && !m.sealed(uint16(p.Next.Slot)) {
		n, _ := m.store.slotStats(uint16(p.Next.Slot))
		if looked > 0 && looked+n > look {
			break
		}
		looked += n
		found, all := m.smallest(q.Prefix, p.Next, n, q.Limit-len(p.Keys))
		for _, e := range found {
			if size > 0 && size+len(e.key) > MaxPageBytes {
				return p
			}
			size += len(e.key)
			p.Keys = append(p.Keys, e.key)
			p.Next.After = e.key
			if e.expireAt <= q.Now {
				p.Due = max(p.Due, e.expireAt)
			}
		}
		if !all {
			break
		}
		p.Next = Cursor{Slot: p.Next.Slot + 1}.Within(q.Prefix)
	}
	return p
}

// candidate is an entry that may be listed.
type candidate struct {
	key      []byte
	expireAt uint64
}

// smallest returns the first n keys of a slot, which has that many entries, from a place on that are alive and begin with
// prefix; and whether these are all.
func (m *Machine) smallest(prefix []byte, from Cursor, entries, n int) (first []candidate, all bool) {
	if entries == 0 {
		return nil, true
	}
	all = true
	var bound []byte // the n-th key so far; nil: not known
	cut := func() {
		slices.SortFunc(first, func(a, b candidate) int { return bytes.Compare(a.key, b.key) })
		if len(first) > n {
			first, all = first[:n], false
			bound = first[n-1].key
		}
	}
	m.store.indexOf(uint16(from.Slot)).each(0, 0, func(c cell) bool {
		key := m.store.arena.key(c.block())
		if !bytes.HasPrefix(key, prefix) || bytes.Compare(key, from.After) <= 0 {
			return true
		}
		expireAt := m.store.records.expiry(c.ref)
		switch {
		case deadAt(expireAt, m.clock):
		case bound != nil && bytes.Compare(key, bound) > 0: // and all is false already
		default:
			if first = append(first, candidate{key[:len(key):len(key)], expireAt}); len(first) > 2*n {
				cut()
			}
		}
		return true
	})
	cut()
	return first, all
}
