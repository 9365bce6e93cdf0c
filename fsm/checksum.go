package fsm

import (
	"crypto/sha256"
	"encoding/binary"
)

// Checksum returns the checksum of the state: equal on all replicas of a shard that have applied the same
// index. It is the SHA-256 of the header and of the sums that are kept of each slot (R8), so it costs time
// in proportion to the slots, not to the entries. Restore makes the sums anew from the entries: where an
// entry was damaged in memory its replica and its snapshot part.
func (m *Machine) Checksum() [sha256.Size]byte {
	return checksum(&m.header, m.store, m.keys.timed, m.keys.opaque)
}

// Checksum returns the checksum of the state that the snapshot is of.
func (s *Snapshot) Checksum() [sha256.Size]byte {
	return checksum(&s.header, s.entries, s.timed, s.opaque)
}

// summed is a store or a view of one.
type summed interface {
	// slots are the sums of the slots that it covers, in order; nil where all are zero.
	slots() []slotSums
	covers() Range
}

func checksum(h *header, entries, timed, opaque summed) (sum [sha256.Size]byte) {
	const chunk = 32 << 10
	hash := sha256.New()
	buf := h.append(make([]byte, 0, chunk+512))
	kinds := [...]summed{entries, timed, opaque}
	for slot, end := h.stored().Start, h.stored().End; slot < end; slot++ {
		for kind, of := range kinds {
			all, i := of.slots(), int(slot-of.covers().Start)
			if i >= len(all) || all[i].entries == 0 && (kind > 0 || all[i].gone == 0 && all[i].lost == 0) {
				continue // without entries there is nothing to sum up
			}
			sums := all[i]
			if kind > 0 {
				sums.gone, sums.lost = 0, 0 // of records, they mean nothing and are in no snapshot
			}
			buf = append(buf, byte(kind))
			buf = binary.BigEndian.AppendUint16(buf, uint16(slot))
			buf = sums.append(buf)
			if h.level >= 4 {
				buf = binary.BigEndian.AppendUint64(buf, sums.lost)
			}
		}
		if len(buf) >= chunk {
			hash.Write(buf)
			buf = buf[:0]
		}
	}
	hash.Write(buf)
	hash.Sum(sum[:0])
	return sum
}

func (s *slotSums) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, s.entries)
	b = binary.BigEndian.AppendUint64(b, s.payload)
	b = binary.BigEndian.AppendUint64(b, s.gone)
	for _, half := range [...]uint64{s.content[0], s.content[1], s.order[0], s.order[1]} {
		b = binary.BigEndian.AppendUint64(b, half)
	}
	return b
}
