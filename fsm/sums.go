package fsm

import (
	"encoding/binary"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// slotSums sums a slot up (R8), so that two of them can be compared without a walk over the entries. The
// two hashes are sums modulo 2^128 over the entries, high half first.
type slotSums struct {
	entries uint32
	payload uint64    // bytes of keys, values and content types
	gone    uint64    // highest version of what was removed
	content [2]uint64 // of contentHash
	order   [2]uint64 // of orderHash
	lost    uint64    // of a slot that is staged: highest version of what was removed here
}

// contentHash is the hash of an entry with the given block (see writeBlock), its recency apart.
func contentHash(block []byte, version, expireAt uint64) [2]uint64 {
	h := xxh3.Hash128(block)
	var b [32]byte
	binary.LittleEndian.PutUint64(b[0:], h.Hi)
	binary.LittleEndian.PutUint64(b[8:], h.Lo)
	binary.LittleEndian.PutUint64(b[16:], version)
	binary.LittleEndian.PutUint64(b[24:], expireAt)
	h = xxh3.Hash128(b[:])
	return [2]uint64{h.Hi, h.Lo}
}

// orderHash is the hash of an entry's place in the order. The version stands for the key: contentHash ties
// the two.
func orderHash(version, stamp uint64) [2]uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], version)
	binary.LittleEndian.PutUint64(b[8:], stamp)
	h := xxh3.Hash128(b[:])
	return [2]uint64{h.Hi, h.Lo}
}

// add counts an entry in.
func (s *slotSums) add(block []byte, version, expireAt, stamp uint64) {
	s.addHashed(block, contentHash(block, version, expireAt), version, stamp)
}

// addHashed is add of an entry with that contentHash.
func (s *slotSums) addHashed(block []byte, content [2]uint64, version, stamp uint64) {
	s.entries++
	s.payload += uint64(len(block) - blockHeader)
	s.content = add128(s.content, content)
	s.order = add128(s.order, orderHash(version, stamp))
}

// sub undoes add.
func (s *slotSums) sub(block []byte, version, expireAt, stamp uint64) {
	s.entries--
	s.payload -= uint64(len(block) - blockHeader)
	s.content = sub128(s.content, contentHash(block, version, expireAt))
	s.order = sub128(s.order, orderHash(version, stamp))
}

func add128(a, b [2]uint64) [2]uint64 {
	low, carry := bits.Add64(a[1], b[1], 0)
	high, _ := bits.Add64(a[0], b[0], carry)
	return [2]uint64{high, low}
}

func sub128(a, b [2]uint64) [2]uint64 {
	low, borrow := bits.Sub64(a[1], b[1], 0)
	high, _ := bits.Sub64(a[0], b[0], borrow)
	return [2]uint64{high, low}
}
