package fsm

import (
	"math"
	"reflect"
	"testing"
)

// TestNamesHoldAll ensures that a record and a cell give back every hash and address that they may hold, and that the largest limit
// needs no others, nor more records than refs name.
func TestNamesHoldAll(t *testing.T) {
	const segments = 1 << (addressBits - offsetBits)
	for _, hash := range []uint32{0, 1, 0xa5a5a5, 1<<hashBits - 1} {
		for _, segment := range []uint32{0, 1, 4095, 4096, 0x5a5a5, segments - 1} {
			for _, offset := range []int{0, 1, 0xa5a5a, maxSegment - 1} {
				at := addressOf(segment, offset)
				rec, c := record{named: nameOf(hash, at)}, newCell(hash, at, math.MaxUint32)
				if rec.hash() != hash || rec.block() != at || c.hash() != hash || c.block() != at || c.ref != math.MaxUint32 {
					t.Errorf("hash %x at %x: record %x at %x, cell %x at %x", hash, at, rec.hash(), rec.block(), c.hash(), c.block())
				}
				if at.segment() != segment || at.offset() != uint32(offset) {
					t.Errorf("offset %x of segment %x is offset %x of segment %x", offset, segment, at.offset(), at.segment())
				}
			}
		}
	}
	if n := MaxLimit / (maxSegment / loneShare); n > segments/2 {
		t.Errorf("%d blocks that are alone, for %d segments", n, segments)
	}
	if n := uint64(MaxLimit / Overhead); n > math.MaxUint32/8 { // so that table.full and sparse don't wrap around either
		t.Errorf("%d entries", n)
	}
	if n := uint64(MaxLimit/largestShare - Overhead + blockHeader); n > math.MaxUint32 {
		t.Errorf("a block of %d bytes", n)
	}
}

// TestStoreLayout ensures that what the memory accounts assume of sizes is so, and that records hold no
// pointers.
func TestStoreLayout(t *testing.T) {
	for _, c := range []struct {
		of        any
		want, max uintptr
	}{
		{record{}, 32, 32},
		{page{}, pageLen * 34, 8 << 10}, // a size class
		{expiries{}, 1920, 2048},        // likewise
		{pageInfo{}, 24, 24},
		{index{}, 40, 40},
		{slotSums{}, 64, 64}, // a line of the cache
		{cell{}, cellBytes, cellBytes},
		{segmentInfo{}, 12, 12},
		{due{}, 16, 16},
	} {
		if got := reflect.TypeOf(c.of).Size(); got != c.want || got > c.max {
			t.Errorf("%T has %d bytes, want %d", c.of, got, c.want)
		}
	}
	for i := range reflect.TypeFor[record]().NumField() {
		if f := reflect.TypeFor[record]().Field(i); f.Type.Kind() == reflect.Pointer || f.Type.Kind() == reflect.Slice {
			t.Errorf("%s of a record is a %v", f.Name, f.Type)
		}
	}
}

// TestStoreEntryBytes ensures that an entry of 16 + 128 bytes takes no more than it has to, in a shard of eight and in a shard of all slots,
// with few entries for each slot and with many.
func TestStoreEntryBytes(t *testing.T) {
	for _, slots := range []uint32{Slots / 8, Slots} {
		s := newStore(func([]byte) uint16 { return 0 })
		s.own(Range{0, slots})
		tables := s.memory().total() + uint64(slots)*(40+64) // what a slot takes before it has entries
		entries := uint64(0)
		for _, upTo := range []uint64{uint64(slots) * 15, uint64(slots) * 20, uint64(slots) * 30, uint64(slots) * 61} {
			for ; entries < upTo; entries++ {
				var key [16]byte
				_, hash := benchKey(&key, entries)
				s.set(0, uint16(entries*7919%uint64(slots)), hash, key[:], nil, benchValue, nil, entries+1, 0, entries+1)
			}
			// 34 of the record and its slot, 8 of the lengths, 12 of the cell and what is free beside that, and the ends of segments.
			if each := float64(s.memory().total()-tables-s.payload()) / float64(entries); each > 67 {
				t.Errorf("%d slots, %d entries: %.1f bytes for each beyond its own: %+v", slots, entries, each, s.memory())
			}
		}
		if testing.Short() {
			return
		}
	}
}
