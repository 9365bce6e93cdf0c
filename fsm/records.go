package fsm

// ref names a stored entry, 0 none. It holds until the entry is removed, or until any other one is:
// removals move records. A set leaves refs as they are.
type ref uint32

// record is what the store knows of an entry beside its bytes. It has no pointers, so the garbage
// collector never looks into a page of them, and fills half a line of the processor's caches.
//
// When it expires stands apart, as many never do, and its slot, for the size.
type record struct {
	version uint64
	stamp   uint64 // of recency
	named   uint64 // the hash of the key over the address of the block
	prev    ref    // towards the oldest; of a free record itself
	next    ref    // towards the most recent; of a free record the next free one of its page
}

func nameOf(hash uint32, block address) uint64 { return uint64(hash)<<addressBits | uint64(block) }

func (rec *record) hash() uint32 { return uint32(rec.named >> addressBits) }

func (rec *record) block() address { return address(rec.named & (1<<addressBits - 1)) }

// pageLen records and their slots make a page of 8 KiB, which is a size class of the allocator. Refs of pages are pageRefs apart, a
// power of two, as records are found by division.
const (
	pageLen  = 240
	pageRefs = 256
)

type (
	page struct {
		records [pageLen]record
		slots   [pageLen]uint16
	}
	// expiries are the times at which the records of a page expire, by the log clock, milliseconds; 0 = it lives until removed.
	expiries [pageLen]uint64
)

// at returns the page of r, and its place there.
func (r ref) at() (page, place uint32) {
	i := uint32(r) - 1
	return i / pageRefs, i % pageRefs
}

// pageInfo is what the store knows of a page, kept beside the pages as views have no use for it.
type pageInfo struct {
	epoch      uint64 // in which the page was made; views older than that don't see it
	used       uint32
	free       ref    // first free record of the page
	prev, next uint32 // neighbours in the list of pages with free records, 1 more than their index
}

// records holds records in pages. A page that a view may see is copied before it is written.
type records struct {
	pages    []*page
	expiries []*expiries // of pages; nil where no record had one yet
	info     []pageInfo
	places   []*[pageLen]uint32 // of expiring records in the expiry heap; nil where a page had none yet
	placed   int                // pages that have places, and expiries
	used     int
	room     uint32 // first page with free records, 1 more than its index
	epoch    uint64 // counts the views
}

// read returns r's record, not to be written to.
func (rs *records) read(r ref) *record {
	p, i := r.at()
	return &rs.pages[p].records[i]
}

// write returns r's record to be written to. It may be another one than read returned before.
func (rs *records) write(r ref) *record {
	p, i := r.at()
	if rs.info[p].epoch != rs.epoch {
		rs.own(p)
	}
	return &rs.pages[p].records[i]
}

// own makes page p one that no view sees.
func (rs *records) own(p uint32) {
	c := new(page)
	*c = *rs.pages[p]
	rs.pages[p], rs.info[p].epoch = c, rs.epoch
	if of := rs.expiries[p]; of != nil {
		c := *of
		rs.expiries[p] = &c
	}
}

// slot returns the slot of r.
func (rs *records) slot(r ref) uint16 {
	p, i := r.at()
	return rs.pages[p].slots[i]
}

// setSlot sets the slot of r, which was just taken.
func (rs *records) setSlot(r ref, slot uint16) {
	p, i := r.at()
	rs.pages[p].slots[i] = slot
}

// expiry returns when r expires, 0 for never.
func (rs *records) expiry(r ref) uint64 { return expiryIn(rs.expiries, r) }

func expiryIn(of []*expiries, r ref) uint64 {
	p, i := r.at()
	if e := of[p]; e != nil {
		return e[i]
	}
	return 0
}

// setExpiry sets when r expires.
func (rs *records) setExpiry(r ref, at uint64) {
	p, i := r.at()
	if rs.info[p].epoch != rs.epoch {
		rs.own(p)
	}
	if rs.expiries[p] == nil {
		if at == 0 {
			return
		}
		rs.expiries[p] = new(expiries)
	}
	rs.expiries[p][i] = at
}

// take returns a record to fill, which may be written to.
func (rs *records) take() (ref, *record) {
	if rs.room == 0 {
		rs.grow()
	}
	return rs.takeFrom(rs.room - 1)
}

// takeFrom is take from page p, which has free records.
func (rs *records) takeFrom(p uint32) (ref, *record) {
	info := &rs.info[p]
	r := info.free
	w := rs.write(r)
	info.free = w.next
	w.prev = 0
	info.used++
	rs.used++
	if info.free == 0 {
		rs.unlist(p)
	}
	return r, w
}

// release makes r free.
func (rs *records) release(r ref) {
	p, _ := r.at()
	info := &rs.info[p]
	*rs.write(r) = record{prev: r, next: info.free}
	rs.setExpiry(r, 0)
	if info.free == 0 {
		rs.list(p)
	}
	info.free = r
	info.used--
	rs.used--
}

// grow adds a page.
func (rs *records) grow() {
	p := uint32(len(rs.pages))
	pg := new(page)
	first := ref(p*pageRefs + 1)
	for i := range ref(pageLen) {
		pg.records[i].prev, pg.records[i].next = first+i, first+i+1
	}
	pg.records[pageLen-1].next = 0
	rs.pages, rs.expiries = append(rs.pages, pg), append(rs.expiries, nil)
	rs.info = append(rs.info, pageInfo{epoch: rs.epoch, free: first})
	rs.places = append(rs.places, nil)
	rs.list(p)
}

// list puts page p in front of the list of pages with free records: what was written last is most likely
// to be no view's.
func (rs *records) list(p uint32) {
	info := &rs.info[p]
	info.prev, info.next = 0, rs.room
	if rs.room != 0 {
		rs.info[rs.room-1].prev = p + 1
	}
	rs.room = p + 1
}

func (rs *records) unlist(p uint32) {
	info := &rs.info[p]
	if info.prev != 0 {
		rs.info[info.prev-1].next = info.next
	} else {
		rs.room = info.next
	}
	if info.next != 0 {
		rs.info[info.next-1].prev = info.prev
	}
	info.prev, info.next = 0, 0
}

// sparse reports whether there are so many free records that used ones should move together.
func (rs *records) sparse() bool {
	total := len(rs.pages) * pageLen
	return total-rs.used > total/4+2*pageLen
}

// dropLast drops the last page if no record of it is used.
func (rs *records) dropLast() bool {
	last := len(rs.pages) - 1
	if rs.info[last].used != 0 {
		return false
	}
	rs.unlist(uint32(last))
	if rs.places[last] != nil {
		rs.placed--
	}
	rs.pages[last], rs.expiries[last], rs.places[last] = nil, nil, nil
	rs.expiries = shorten(rs.expiries, last)
	rs.pages, rs.info, rs.places = shorten(rs.pages, last), shorten(rs.info, last), shorten(rs.places, last)
	return true
}

// shorten cuts s to n elements and gives room back when there is much.
func shorten[E any](s []E, n int) []E {
	s = s[:n]
	if cap(s) > 4*n+16 {
		return append(make([]E, 0, 2*n), s...)
	}
	return s
}

// lastUsed returns the last used record, of the last page, which has one.
func (rs *records) lastUsed() ref {
	last := len(rs.pages) - 1
	for i := pageLen - 1; ; i-- {
		if r := ref(last*pageRefs + i + 1); rs.pages[last].records[i].prev != r {
			return r
		}
	}
}

// takeBefore is take from any but the last page, one of which has free records.
func (rs *records) takeBefore() (ref, *record) {
	p := rs.room - 1
	if int(p) == len(rs.pages)-1 {
		p = rs.info[p].next - 1
	}
	return rs.takeFrom(p)
}

// place returns where r's place in the expiry heap is noted.
func (rs *records) place(r ref) *uint32 {
	p, i := r.at()
	if rs.places[p] == nil {
		rs.places[p] = new([pageLen]uint32)
		rs.placed++
	}
	return &rs.places[p][i]
}
