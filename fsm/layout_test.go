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
		{record{}, 40, 40},
		{page{}, 10 << 10, 10 << 10}, // a size class
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
