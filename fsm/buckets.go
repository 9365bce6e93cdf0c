package fsm

import "math/bits"

// bucketChunk is how many buckets lie together, 16 KiB.
const bucketChunk = 4096

// maxBuckets keeps the buckets of a slot addressable by the hash bits of a Touch.
const maxBuckets = 1 << touchHashBits

// buckets is the index of one slot, a hash table that grows and shrinks by one bucket at a time (linear
// hashing, Litwin 1980), so that no operation waits for a table to be built anew. A bucket is the first of
// a chain of records. The bucket of a hash is made of its low bits: as many as number all buckets, or one
// less where that would be beyond the last.
type buckets struct {
	first []ref // the first bucketChunk at most
	more  *[]*[bucketChunk]ref
	n     uint32
}

// addr returns the bucket of hash. There must be buckets.
func (b *buckets) addr(hash uint32) uint32 {
	mask := uint32(1)<<bits.Len32(b.n-1) - 1
	if i := hash & mask; i < b.n {
		return i
	}
	return hash & (mask >> 1)
}

// buddy returns the bucket that bucket i is split from and merged into; i > 0.
func buddy(i uint32) uint32 { return i &^ (1 << (bits.Len32(i) - 1)) }

// head returns where bucket i begins.
func (b *buckets) head(i uint32) *ref {
	if i < bucketChunk {
		return &b.first[i]
	}
	i -= bucketChunk
	return &(*b.more)[i/bucketChunk][i%bucketChunk]
}

// push adds an empty bucket.
func (b *buckets) push() {
	switch {
	case b.n < bucketChunk:
		if len(b.first) == cap(b.first) {
			b.resize(len(b.first) + len(b.first)/8 + 2)
		}
		b.first = append(b.first, 0)
	case b.n%bucketChunk == 0:
		if b.more == nil {
			b.more = new([]*[bucketChunk]ref)
		}
		*b.more = append(*b.more, new([bucketChunk]ref))
	}
	b.n++
}

// pop takes the last bucket away. It must be empty.
func (b *buckets) pop() {
	b.n--
	switch {
	case b.n < bucketChunk:
		b.first = b.first[:b.n]
		if n := len(b.first); cap(b.first) > 4*n+8 || n == 0 {
			b.resize(n)
		}
	case b.n%bucketChunk == 0:
		last := len(*b.more) - 1
		(*b.more)[last] = nil
		if *b.more = shorten(*b.more, last); last == 0 {
			b.more = nil
		}
	}
}

// resize makes room for n buckets in first. Append alone would leave up to half of it empty.
func (b *buckets) resize(n int) {
	if n == 0 {
		b.first = nil
		return
	}
	// Without a length to keep, append rounds up to the allocator's size class.
	room := append([]ref(nil), make([]ref, min(n, bucketChunk))...)
	b.first = append(room[:0], b.first...)
}

// bytes is the memory that it holds beside its own.
func (b *buckets) bytes() int {
	n := cap(b.first) * 4
	if b.more != nil {
		n += cap(*b.more)*8 + len(*b.more)*bucketChunk*4
	}
	return n
}
