package fsm

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// A block is an entry's bytes in the arena. The lengths are little-endian.
//
//	| key length u16 | content type length u16 | value length u32 | key | content type | value |
const blockHeader = 8

// blockLens returns the lengths at the beginning of a block.
func blockLens(b []byte) (key, contentType, value int) {
	return int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:])), int(binary.LittleEndian.Uint32(b[4:]))
}

// writeBlock writes the block of an entry to b, which is as long. The value is the two parts together.
func writeBlock(b, key, contentType, v1, v2 []byte) {
	binary.LittleEndian.PutUint64(b, uint64(len(key))|uint64(len(contentType))<<16|uint64(len(v1)+len(v2))<<32)
	n := blockHeader + copy(b[blockHeader:], key)
	if len(contentType) > 0 {
		n += copy(b[n:], contentType)
	}
	n += copy(b[n:], v1)
	if len(v2) > 0 {
		copy(b[n:], v2)
	}
}

// address is where a block lies: the number of its segment over its offset there.
type address uint64

const (
	addressBits = 40
	offsetBits  = 20 // within maxSegment
)

func addressOf(segment uint32, offset int) address {
	return address(segment)<<offsetBits | address(offset)
}

func (a address) segment() uint32 { return uint32(a >> offsetBits) }
func (a address) offset() uint32  { return uint32(a) & (1<<offsetBits - 1) }

const (
	minSegment = 4 << 10
	maxSegment = 1 << offsetBits
	// loneShare is the part of a segment above which a block gets one of its own: small enough that what
	// blocks leave empty at the ends of segments is far below what cleaning tolerates.
	loneShare = 16

	// newShare is the part of what lives that a segment for new blocks is as large as.
	newShare = 128
	// ages are the classes that cleaning sorts blocks into by recency, see copy. Each fills a segment of its own, of
	// ageShare. What leaves one after another then leaves from few segments. As long as an age is less than what
	// cleaning tolerates, nothing of it is copied again while it leaves.
	ages     = 8
	ageShare = 256
)

// arena holds blocks in segments, each of which is filled from its beginning to its end once and never
// written again, so that readers and views share the bytes. A segment without live blocks is left to the
// garbage collector. Those with some are cleaned, see clean.
type arena struct {
	segments [][]byte         // by number, as far as they are filled; nil of a free number
	info     []segmentInfo    // by number
	numbers  []uint32         // free ones
	filling  [1 + ages]uint32 // segments that are being filled, 1 more than their number: for new blocks, and each age

	live   uint64 // bytes of live blocks
	lone   uint64 // those of them that are alone in their segment
	shared uint64 // bytes of segments, lone ones not counted

	victim    uint32 // the segment that is being cleaned, if cleaning
	cleaning  bool
	cleanedTo uint32
	credit    uint64 // bytes that cleaning may still walk over
}

type segmentInfo struct {
	live    uint32 // bytes of live blocks
	room    uint32 // bytes allocated
	lone    bool   // made for one block
	filling bool
}

// segmentSize is the size for the next segment of an age, 0 being new blocks: a share of what lives, as a power
// of two within bounds.
func (a *arena) segmentSize(age int) int {
	n := a.live / newShare
	if age > 0 {
		n = (a.live - a.lone) / ageShare // what is alone is never cleaned
	}
	if n <= minSegment {
		return minSegment
	}
	return int(min(1<<(bits.Len64(n)-1), maxSegment))
}

// fillingSize is the size of the segment that is being filled, or else of the next one.
func (a *arena) fillingSize(age int) int {
	if f := a.filling[age]; f != 0 {
		return int(a.info[f-1].room)
	}
	return a.segmentSize(age)
}

// room returns the number of a segment with room for a block of n bytes and that age.
func (a *arena) room(n, age int) uint32 {
	if uint64(n) > math.MaxUint32 {
		panic("fsm: a block beyond 4 GiB")
	}
	a.sealUnfit(0)
	if n > a.fillingSize(0)/loneShare {
		a.lone += uint64(n)
		return a.open(n, true)
	}
	if age > 0 {
		a.sealUnfit(age)
		if !a.aged() || n > a.fillingSize(age)/loneShare {
			age = 0 // not enough of them for segments of their own
		}
	}
	if f := a.filling[age]; f != 0 && n > int(a.info[f-1].room)-len(a.segments[f-1]) {
		a.seal(age)
	}
	if a.filling[age] == 0 {
		size := a.segmentSize(age)
		a.shared += uint64(size)
		segment := a.open(size, false)
		a.filling[age], a.info[segment].filling = segment+1, true
	}
	return a.filling[age] - 1
}

// open adds a segment.
func (a *arena) open(size int, lone bool) uint32 {
	buf, info := make([]byte, 0, size), segmentInfo{room: uint32(size), lone: lone}
	if last := len(a.numbers) - 1; last >= 0 {
		n := a.numbers[last]
		a.numbers = a.numbers[:last]
		a.segments[n], a.info[n] = buf, info
		return n
	}
	if len(a.segments) == 1<<(addressBits-offsetBits) {
		panic("fsm: segments beyond what an address names") // see MaxLimit
	}
	a.segments, a.info = append(a.segments, buf), append(a.info, info)
	return uint32(len(a.segments) - 1)
}

// seal ends the filling of the segment that is being filled, if there is one.
func (a *arena) seal(age int) {
	f := a.filling[age]
	if f == 0 {
		return
	}
	a.filling[age], a.info[f-1].filling = 0, false
	if a.info[f-1].live == 0 {
		a.drop(f - 1)
	}
}

// sealUnfit is seal for a segment that became far too large, as most of what lived is gone, or too small, as much came: all
// blocks that are too large for it would be alone, and never fill it.
func (a *arena) sealUnfit(age int) {
	f := a.filling[age]
	if f == 0 {
		return
	}
	room, size := int(a.info[f-1].room), a.segmentSize(age)
	if room > 4*size || room < size || age > 0 && !a.aged() {
		a.seal(age)
	}
}

// aged reports whether there is enough for segments of each age.
func (a *arena) aged() bool { return a.lone <= a.live/2 && a.live-a.lone >= ageShare*minSegment }

// put stores a block and returns it and its address.
func (a *arena) put(key, contentType, v1, v2 []byte) ([]byte, address) {
	n := blockHeader + len(key) + len(contentType) + len(v1) + len(v2)
	segment := a.room(n, 0)
	at := len(a.segments[segment])
	a.segments[segment] = a.segments[segment][:at+n]
	block := a.segments[segment][at : at+n : at+n]
	writeBlock(block, key, contentType, v1, v2)
	a.account(segment, n)
	return block, addressOf(segment, at)
}

// copy stores a block that there is already and returns its new address. age is from 1 for the blocks that will
// leave first to ages for those that will leave last.
func (a *arena) copy(block []byte, age int) address {
	segment := a.room(len(block), age)
	buf := a.segments[segment]
	a.segments[segment] = append(buf, block...)
	a.account(segment, len(block))
	return addressOf(segment, len(buf))
}

func (a *arena) account(segment uint32, n int) {
	a.info[segment].live += uint32(n)
	a.live += uint64(n)
}

// block returns the block at an address, which has no room behind it.
func (a *arena) block(at address) []byte { return blockAt(a.segments, at) }

// key returns the key of the block at an address.
func (a *arena) key(at address) []byte {
	b := a.segments[at.segment()][at.offset():]
	key, _, _ := blockLens(b)
	return b[blockHeader : blockHeader+key]
}

func blockAt(segments [][]byte, at address) []byte {
	b := segments[at.segment()][at.offset():]
	key, contentType, value := blockLens(b)
	n := blockHeader + key + contentType + value
	return b[:n:n]
}

// free gives up the block of n bytes at an address.
func (a *arena) free(at address, n int) {
	segment := at.segment()
	info := &a.info[segment]
	info.live -= uint32(n)
	a.live -= uint64(n)
	if info.lone {
		a.lone -= uint64(n)
	}
	if info.live == 0 && !info.filling {
		a.drop(segment)
	}
	if a.live == 0 {
		for age := range a.filling {
			a.seal(age)
		}
	}
}

// drop leaves a segment without live blocks to the garbage collector.
func (a *arena) drop(segment uint32) {
	if info := &a.info[segment]; !info.lone {
		a.shared -= uint64(info.room)
	}
	if a.cleaning && segment == a.victim {
		a.cleaning = false
	}
	a.segments[segment], a.info[segment] = nil, segmentInfo{}
	a.numbers = append(a.numbers, segment)
}

// Cleaning keeps what segments hold beside live blocks below a sixth of these plus two segments. It walks
// over the segment with the least live share and copies the live blocks away; then the segment goes. To
// free a byte that way takes a walk over 7 at worst, when all segments are alike, so each byte stored or
// given up grants a walk over cleanRate. An operation walks over no more than cleanMost, cleanBlock being
// added to each block's length, which takes a fraction of a millisecond; the rest is left to those after it.
// Blocks go in groups of cleanBlocks, or of cleanGroup of that work where that is less.
const (
	slackShare = 6
	cleanRate  = 10
	cleanMost  = 512 << 10
	cleanBlock = 1 << 10

	cleanBlocks = 16
	cleanGroup  = 32 << 10
)

// untidy reports whether there is too much beside live blocks.
func (a *arena) untidy() bool {
	live := a.live - a.lone
	return a.shared-live > live/slackShare+2*uint64(a.segmentSize(0))
}

// grant notes that n bytes were stored or given up.
func (a *arena) grant(n int) { a.credit += cleanRate * uint64(n) }

// nextVictim chooses the segment to clean next, and reports whether there is one that is worth it.
func (a *arena) nextVictim() bool {
	for age := range a.filling {
		a.sealUnfit(age)
	}
	best := segmentInfo{live: 1, room: 1}
	for n, info := range a.info {
		if info.room == 0 || info.lone || info.filling {
			continue
		}
		if uint64(info.live)*uint64(best.room) < uint64(best.live)*uint64(info.room) {
			best, a.victim, a.cleaning = info, uint32(n), true
		}
	}
	a.cleanedTo = 0
	return a.cleaning
}

// nextBlock returns the next block of the victim, and its address.
func (a *arena) nextBlock() ([]byte, address) {
	at := addressOf(a.victim, int(a.cleanedTo))
	block := a.block(at)
	a.cleanedTo += uint32(len(block))
	return block, at
}

// tables is the memory held beside the segments.
func (a *arena) tables() uint64 {
	const slice, info, number = 24, 12, 4
	return uint64(cap(a.segments))*slice + uint64(cap(a.info))*info + uint64(cap(a.numbers))*number
}
