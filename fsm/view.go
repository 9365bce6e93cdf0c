package fsm

import "slices"

// view is a store as it was at one moment. It shares pages and segments with the store, which copies a page
// before it changes it, and is released by being forgotten.
type view struct {
	pages    []*page
	expiries []*expiries
	segments [][]byte
	oldest   ref
	entries  int
	size     uint64
	owned    Range
	summed   []slotSums
}

// view returns a view of the store as it is now, in time proportional to the pages and the slots.
func (s *store) view() *view {
	s.records.epoch++
	return &view{
		pages:    slices.Clone(s.records.pages),
		expiries: slices.Clone(s.records.expiries),
		segments: slices.Clone(s.arena.segments),
		oldest:   s.oldestRef,
		entries:  s.len(),
		size:     s.size,
		owned:    s.owned,
		summed:   slices.Clone(s.summed),
	}
}

// each calls f for each entry, oldest first, and returns its first error. It may run beside any use of the
// store, and more than once.
func (v *view) each(f func(e entry) error) error {
	for r := v.oldest; r != 0; {
		p, i := r.at()
		rec := &v.pages[p].records[i]
		if err := f(rec.entry(v.segments, expiryIn(v.expiries, r))); err != nil {
			return err
		}
		r = rec.next
	}
	return nil
}

// len returns the number of entries.
func (v *view) len() int { return v.entries }

// payload returns the bytes of all keys, values and content types.
func (v *view) payload() uint64 { return v.size }

// slots returns the sums of the owned slots, in order; nil if nothing was ever stored or removed.
func (v *view) slots() []slotSums { return v.summed }

func (v *view) covers() Range { return v.owned }

// sums returns the sums of slot, zero if it was not owned.
func (v *view) sums(slot uint16) slotSums {
	if i := uint32(slot) - v.owned.Start; i < uint32(len(v.summed)) {
		return v.summed[i]
	}
	return slotSums{}
}
