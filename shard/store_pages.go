package shard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// checkPages reads all that a bbolt file is made of, and returns an error that wraps ErrDataLost where something is not as
// bbolt writes it (bbolt v1.4.3, internal/common and node.go). bbolt itself looks at some of it while it opens a file, and
// panics upon damage in a goroutine of its own, which would end the process at each start; and it is content with one of two meta
// pages, which shows the file as it was before the last transaction, though that was acknowledged.
//
// A meta page that a crash left in pieces is found here too, and costs the replica: it is 64 bytes within one sector, which
// disks write whole or not at all. All other pages are synced before the meta page that leads to them is written.
//
// What a disk never wrote, though it said so, and a bit that leads to an older page which is whole, are not found: the
// file then is what it was before, less what was written since.
func checkPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p := pages{file: f, seen: map[uint64]bool{}}
	root, err := p.metas()
	if err == nil {
		_, err = p.tree(root, nil, nil, p.root)
	}
	if err != nil {
		return fmt.Errorf("%w: damaged: %w", ErrDataLost, err)
	}
	return nil
}

// pages walks over a bbolt file.
type pages struct {
	file io.ReaderAt
	size uint64 // of a page
	high uint64 // no page in use has this number, or a higher one
	seen map[uint64]bool
}

var native = binary.NativeEndian

// Sizes and offsets within pages.
const (
	pageHeader  = 16 // number (8), flags (2), count (2), pages that follow (4)
	pageElement = 16 // branch: offset (4), key (4), page (8); leaf: flags (4), offset (4), key (4), value (4)
	branchPage  = 1
	leafPage    = 2
	bucketFlag  = 1  // of leaf elements: the value is a bucket
	bucketSize  = 16 // root page (8), sequence (8)
	metaSize    = 64 // magic, version, page size, flags (4 each), root bucket (16), free list, high, transaction, sum (8 each)
	metaSum     = 56
	boltMagic   = 0xED0CDAED
)

// metas checks both meta pages and returns the root of the newer one.
func (p *pages) metas() (root uint64, err error) {
	newest := uint64(0)
	for n := range uint64(2) {
		meta := make([]byte, metaSize)
		if _, err := p.file.ReadAt(meta, int64(n*p.size+pageHeader)); err != nil {
			return 0, fmt.Errorf("meta page %d: %w", n, err)
		}
		sum := fnv.New64a()
		sum.Write(meta[:metaSum])
		if native.Uint32(meta) != boltMagic || native.Uint64(meta[metaSum:]) != sum.Sum64() {
			return 0, fmt.Errorf("meta page %d does not fit its checksum", n)
		}
		p.size = uint64(native.Uint32(meta[8:]))
		if tx := native.Uint64(meta[48:]); n == 0 || tx > newest {
			newest, root, p.high = tx, native.Uint64(meta[16:]), native.Uint64(meta[40:])
		}
	}
	return root, nil
}

// root, entry and record look at what a leaf holds: a replica's buckets, and what is in them. A name that is damaged would
// else pass for something that was never stored.
func (p *pages) root(e element) error {
	look, ok := map[string]func(element) error{"logs": p.entry, "conf": p.record}[string(e.key)]
	switch {
	case !ok || !e.bucket:
		return fmt.Errorf("%q is no bucket of a replica", e.key)
	case len(e.value) < bucketSize:
		return errors.New("a bucket is too short")
	}
	if root := native.Uint64(e.value); root != 0 {
		_, err := p.tree(root, nil, nil, look)
		return err
	}
	elements, err := elementsOf(e.value[bucketSize:]) // a small bucket is within its page
	if err != nil {
		return err
	}
	_, err = p.elements(elements, nil, nil, look)
	return err
}

func (p *pages) entry(e element) error {
	if e.bucket || len(e.key) != 8 || binary.BigEndian.Uint64(e.key) == 0 {
		return fmt.Errorf("%q is no entry", e.key)
	}
	return nil
}

func (p *pages) record(e element) error {
	if e.bucket || !storedKey(e.key) {
		return fmt.Errorf("%q is no record", e.key)
	}
	return nil
}

// tree checks the pages at number and below, whose keys must not be less than least and be less than beyond, where these are
// given, and looks at what the leaves hold. It returns the last key.
func (p *pages) tree(number uint64, least, beyond []byte, look func(element) error) (last []byte, err error) {
	data, err := p.read(number)
	if err != nil {
		return nil, err
	}
	elements, err := elementsOf(data)
	if err != nil {
		return nil, fmt.Errorf("page %d: %w", number, err)
	}
	if last, err = p.elements(elements, least, beyond, look); err != nil {
		return nil, fmt.Errorf("page %d: %w", number, err)
	}
	return last, nil
}

// elements checks some, and the pages below them, as tree does.
func (p *pages) elements(elements []element, least, beyond []byte, look func(element) error) (last []byte, err error) {
	last = least
	for i, e := range elements {
		if c := bytes.Compare(e.key, last); last != nil && (c < 0 || c == 0 && i > 0) || beyond != nil && bytes.Compare(e.key, beyond) >= 0 {
			return nil, errors.New("its keys are out of order")
		}
		last = e.key
		if e.page == 0 {
			if err := look(e); err != nil {
				return nil, err
			}
			continue
		}
		next := beyond
		if i+1 < len(elements) {
			next = elements[i+1].key
		}
		if last, err = p.tree(e.page, e.key, next, look); err != nil {
			return nil, err
		}
	}
	return last, nil
}

// read returns a page, with those that it goes on in. Nothing else may be in them.
func (p *pages) read(number uint64) ([]byte, error) {
	header := make([]byte, pageHeader)
	if _, err := p.file.ReadAt(header, int64(number*p.size)); err != nil {
		return nil, fmt.Errorf("page %d: %w", number, err)
	}
	more := uint64(native.Uint32(header[12:]))
	if native.Uint64(header) != number || number < 2 || number >= p.high || more >= p.high-number {
		return nil, fmt.Errorf("page %d says that it is page %d, with %d more, of %d", number, native.Uint64(header), more, p.high)
	}
	for n := number; n <= number+more; n++ {
		if p.seen[n] {
			return nil, fmt.Errorf("page %d is there twice", n)
		}
		p.seen[n] = true
	}
	data := make([]byte, (1+more)*p.size)
	if _, err := p.file.ReadAt(data, int64(number*p.size)); err != nil {
		return nil, fmt.Errorf("page %d: %w", number, err)
	}
	return data, nil
}

// element is one of a page: with a page below it, or a value.
type element struct {
	key, value []byte
	page       uint64
	bucket     bool
}

// elementsOf reads a page. Keys and values follow the elements without a gap, so a count that is wrong is found.
func elementsOf(data []byte) ([]element, error) {
	if len(data) < pageHeader {
		return nil, errors.New("it is too short")
	}
	kind, count := native.Uint16(data[8:]), uint64(native.Uint16(data[10:]))
	if kind != branchPage && kind != leafPage || kind == branchPage && count == 0 {
		return nil, fmt.Errorf("it has %d elements and flags %x", count, kind)
	}
	next := pageHeader + count*pageElement // where the next key is to be
	if next > uint64(len(data)) {
		return nil, fmt.Errorf("it has %d elements", count)
	}
	elements := make([]element, count)
	for i := range elements {
		at := pageHeader + uint64(i)*pageElement
		raw := data[at : at+pageElement]
		var e element
		var offset, key, value uint64
		if kind == branchPage {
			offset, key, e.page = uint64(native.Uint32(raw)), uint64(native.Uint32(raw[4:])), native.Uint64(raw[8:])
			if e.page == 0 {
				return nil, fmt.Errorf("nothing is below element %d", i)
			}
		} else {
			flags := native.Uint32(raw)
			offset, key, value = uint64(native.Uint32(raw[4:])), uint64(native.Uint32(raw[8:])), uint64(native.Uint32(raw[12:]))
			if e.bucket = flags == bucketFlag; flags > bucketFlag {
				return nil, fmt.Errorf("element %d has flags %x", i, flags)
			}
		}
		end := next + key + value
		if at+offset != next || end > uint64(len(data)) {
			return nil, fmt.Errorf("element %d is not where it is to be", i)
		}
		e.key, e.value = data[next:next+key], data[next+key:end]
		elements[i], next = e, end
	}
	if count == 0 && len(bytes.Trim(data[pageHeader:], "\x00")) > 0 {
		return nil, errors.New("it says that it is empty, and is not") // bbolt writes what is empty as zeros
	}
	return elements, nil
}
