//go:build faults

package fsm

import (
	"cmp"
	"slices"
)

// What follows makes a state wrong on purpose, for tests of what finds that.

// Disorder makes the order of recency that of the keys.
func (m *Machine) Disorder() {
	var refs []ref
	for r := m.store.oldest(); r != 0; r = m.store.newer(r) {
		refs = append(refs, r)
	}
	slices.SortFunc(refs, func(a, b ref) int {
		return cmp.Compare(string(m.store.at(a).key), string(m.store.at(b).key))
	})
	for _, r := range refs {
		m.store.touch(r, m.store.slotOf(r), m.used())
	}
}

// ForgetKeys forgets all idempotency keys.
func (m *Machine) ForgetKeys() {
	m.keys = newKeyMemory()
	m.keys.own(m.owned)
	m.reseed(m.seed)
}

// Merge keeps what old has and m has not.
func (m *Machine) Merge(old *Machine) {
	for r := old.store.oldest(); r != 0; r = old.store.newer(r) {
		e := old.store.at(r)
		slot, hash := Slot(e.key), m.store.hash(e.key)
		if m.owned.Contains(slot) && m.store.find(slot, hash, e.key) == 0 {
			m.store.set(0, slot, hash, e.key, e.contentType, e.value, nil, e.version, e.expireAt, m.used())
		}
	}
}

// Use makes key recent outside of the log.
func (m *Machine) Use(key []byte) {
	if r := m.store.find(Slot(key), m.store.hash(key), key); r != 0 {
		m.store.touch(r, m.store.slotOf(r), m.used())
	}
}

// Spare makes the oldest entry recent if the order of a map says so.
func (m *Machine) Spare() {
	for spared := range map[bool]struct{}{true: {}, false: {}} {
		if r := m.store.oldest(); r != 0 && spared {
			m.store.touch(r, m.store.slotOf(r), m.used())
		}
		return
	}
}
