package fsm

import "bytes"

// flush removes all entries, in time proportional to the slots.
func (m *Machine) flush() Result {
	if m.moves.Out.ID != 0 {
		return Result{Status: StatusSealed}
	}
	n := m.store.len()
	if m.level >= 4 && n > 0 {
		n = int(m.store.total(m.owned).Count)
	}
	if n == 0 {
		return Result{Status: StatusOK}
	}
	if m.exhausted() {
		return Result{Status: StatusExhausted}
	}
	m.version++
	m.spoil() // what is staged goes too
	m.store.clear(m.version)
	return Result{Status: StatusOK, Version: m.version, Count: uint64(n)}
}

func (m *Machine) deletePrefix(c *Command) Result {
	first, end := max(c.Slots.Start, m.owned.Start), min(c.Slots.End, m.owned.End)
	if out := &m.moves.Out; out.ID != 0 && first < out.Sealed.Range.End && end > out.Sealed.Range.Start {
		return Result{Status: StatusSealed}
	}
	var found [][]byte // keys; the order in which a slot lists them is not the log's, and does not matter
	for slot := first; slot < end; slot++ {
		m.store.inSlot(uint16(slot), c.PartBits, c.Part, func(r ref) bool {
			if e := m.store.at(r); e.version <= c.Version && bytes.HasPrefix(e.key, c.Key) {
				found = append(found, e.key)
			}
			return true
		})
	}
	if len(found) == 0 {
		return Result{Status: StatusOK}
	}
	if m.exhausted() {
		return Result{Status: StatusExhausted}
	}
	m.version++
	result := Result{Status: StatusOK, Version: m.version}
	for _, key := range found {
		t := m.find(key, hashed{Slot(key), m.store.hash(key)})
		if t.live {
			result.Count++
			m.drop(t.ref, ReasonDeleted)
		} else {
			m.drop(t.ref, ReasonExpired)
		}
		m.store.raiseGone(t.slot, m.version)
	}
	return result
}

// PlanDelete appends to dst the KindDeletePrefix commands that together remove the entries of the present
// state whose key begins with prefix. Each walks over about span entries at most, by the present counts.
func (m *Machine) PlanDelete(dst []Command, prefix []byte, span int) []Command {
	slots := m.owned
	if slot, one := slotOfPrefix(prefix); one {
		if !slots.Contains(slot) {
			return dst
		}
		slots = Range{uint32(slot), uint32(slot) + 1}
	}
	add := func(r Range, bits uint8) {
		for part := range uint32(1) << bits {
			dst = append(dst, Command{Kind: KindDeletePrefix, Key: prefix, Slots: r, PartBits: bits, Part: part, Version: m.version})
		}
	}
	run, entries := Range{slots.Start, slots.Start}, 0
	for slot := slots.Start; slot < slots.End; slot++ {
		n, _ := m.store.slotStats(uint16(slot))
		if entries+n > span && entries > 0 {
			add(run, 0)
			run, entries = Range{slot, slot}, 0
		}
		if n > span {
			bits := uint8(0)
			for n>>bits > span && bits < MaxPartBits {
				bits++
			}
			add(Range{slot, slot + 1}, bits)
			run, entries = Range{slot + 1, slot + 1}, 0
			continue
		}
		run.End = slot + 1
		entries += n
	}
	if entries > 0 {
		add(run, 0)
	}
	return dst
}

// slotOfPrefix returns the slot of all keys that begin with prefix, if they have one in common: a whole
// hash tag is in it.
func slotOfPrefix(prefix []byte) (slot uint16, one bool) {
	open := bytes.IndexByte(prefix, '{')
	if open < 0 || bytes.IndexByte(prefix[open+1:], '}') <= 0 {
		return 0, false
	}
	return Slot(prefix), true
}
