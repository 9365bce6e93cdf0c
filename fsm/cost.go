package fsm

// Overhead is what an entry costs beside the bytes of its key, value and content type. It stands for
// the memory that this package keeps per entry (see store):
//
//	34  record, and its slot
//	 8  when it expires, for an entry that does
//	 8  lengths in front of the bytes
//	16  cell of the slot's index, a quarter of them free
//	20  place in the expiry heap, for an entry that expires
//	18  rounding of pages, tables and segments
//
// A constant, never a measurement: cost decides evictions, so it must be the same on every build (R4). A
// test holds it against the heap. It doesn't cover the room that the arena leaves between cleanings (a
// sixth of the bytes) nor what the garbage collector wants: whoever sets the limit leaves that.
const Overhead = 104

// overheadLevel1 is Overhead below level 2, where machines kept entries in another way.
const overheadLevel1 = 211

// Cost is what an entry counts against the limit, in bytes: a pure function of the three lengths.
func Cost(keyLen, valueLen, contentTypeLen int) uint64 {
	return Overhead + uint64(keyLen) + uint64(valueLen) + uint64(contentTypeLen)
}
