package fsm

// index finds the entries of one slot by the hashes of their keys. It is a hash table with open addressing,
// or several once there are many entries: a full table is parted in two by one more bit of the hash
// (extendible hashing, Fagin et al. 1979). So no operation waits for much to be built anew, also where a
// slot, by a hash tag, has everything. A search looks at no entry but those of its very hash, as each costs a
// wait for memory, and finds the record and the block of one side by side.
type index struct {
	table         // the only one, unless there are parts
	parts *[]part // by the low bits of hashes, as many as number them; a part may stand in several places
}

// part is one of several tables, with all the hashes that have depth low bits in common.
type part struct {
	*table
	depth uint8
}

// table is a hash table. Its home for a hash is in proportion to the hash mixed; from there on cells are
// tried one after the other.
type table struct {
	cells []cell
	n     uint32 // cells in use
}

// cell is a place in a table; free while ref is 0. It has 12 bytes without a gap, thus three words.
type cell struct {
	high uint32 // the hash over the high bits of the block's address
	low  uint32 // the other bits of that
	ref  ref
}

const addressHigh = addressBits - 32

func newCell(hash uint32, at address, r ref) cell {
	return cell{hash<<addressHigh | uint32(at>>32), uint32(at), r}
}

func (c *cell) hash() uint32 { return c.high >> addressHigh }

func (c *cell) block() address { return address(c.high&(1<<addressHigh-1))<<32 | address(c.low) }

const (
	cellBytes = 12
	// partCells is from where on a full table is parted, 96 KiB of them.
	partCells = 8192
	// maxDepth is where tables are parted no more and grow as they must: hashes are not that equal.
	maxDepth = 16
	// joinBelow is when parts are put together again.
	joinBelow = 1024
)

// tableOf returns the table that hash belongs to.
func (x *index) tableOf(hash uint32) *table {
	if x.parts == nil {
		return &x.table
	}
	return (*x.parts)[hash&uint32(len(*x.parts)-1)].table
}

// home returns the first cell to try.
func (t *table) home(hash uint32) uint32 {
	mixed := (hash << (32 - hashBits)) * 0x9E3779B1 // Fibonacci hashing, Knuth vol. 3, 6.4
	return uint32(uint64(mixed) * uint64(len(t.cells)) >> 32)
}

// after returns the cell to try after i.
func (t *table) after(i uint32) uint32 {
	if i++; i < uint32(len(t.cells)) {
		return i
	}
	return 0
}

// insert puts a cell into the table, which must have room.
func (t *table) insert(c cell) {
	i := t.home(c.hash())
	for t.cells[i].ref != 0 {
		i = t.after(i)
	}
	t.cells[i] = c
	t.n++
}

// place returns where the cell of r is.
func (t *table) place(hash uint32, r ref) uint32 {
	i := t.home(hash)
	for t.cells[i].ref != r {
		i = t.after(i)
	}
	return i
}

// remove takes the cell of r away, and moves back those after it that would not be found across the gap.
func (t *table) remove(hash uint32, r ref) {
	gap := t.place(hash, r)
	for i := t.after(gap); t.cells[i].ref != 0; i = t.after(i) {
		home := t.home(t.cells[i].hash())
		if inRange := home > gap && home <= i; inRange || i < gap && (home > gap || home <= i) {
			continue
		}
		t.cells[gap] = t.cells[i]
		gap = i
	}
	t.cells[gap] = cell{}
	t.n--
}

// resize gives the table n cells, or as many more as the allocator would waste.
func (t *table) resize(n int) {
	old := t.cells
	if n == 0 {
		t.cells = nil
		return
	}
	t.cells = append([]cell(nil), make([]cell, n)...)
	t.cells = t.cells[:cap(t.cells)]
	t.n = 0
	for _, c := range old {
		if c.ref != 0 {
			t.insert(c)
		}
	}
}

// full reports whether another cell would make searches long, sparse whether most cells are free. A search for what is not there
// looks at 12 cells on average, which lie side by side, and at 32 in a table that is about to grow (Knuth vol. 3, 6.4).
func (t *table) full() bool { return (t.n+1)*8 > uint32(len(t.cells))*7 }

func (t *table) sparse() bool {
	return uint32(len(t.cells)) > 6*t.n+8 || t.n == 0 && len(t.cells) > 0
}

// roomy is how many cells a table that was sparse gets.
func (t *table) roomy() int {
	if t.n == 0 {
		return 0
	}
	return int(t.n+t.n/2+t.n/4) + 2
}

// add puts a cell into the index.
func (x *index) add(c cell) {
	hash := c.hash()
	t := x.tableOf(hash)
	for t.full() {
		if len(t.cells) < partCells || !x.split(hash) {
			t.resize(len(t.cells) + len(t.cells)/4 + 4)
			break
		}
		t = x.tableOf(hash)
	}
	t.insert(c)
}

// drop takes r out of the index, which has entries after that.
func (x *index) drop(hash uint32, r ref, entries uint32) {
	t := x.tableOf(hash)
	t.remove(hash, r)
	if x.parts != nil && entries < joinBelow {
		x.join(int(entries))
	} else if t.sparse() {
		t.resize(t.roomy())
	}
}

// cell returns the cell of r.
func (x *index) cell(hash uint32, r ref) *cell {
	t := x.tableOf(hash)
	return &t.cells[t.place(hash, r)]
}

// split parts the table of hash in two; false where that is not done any more.
func (x *index) split(hash uint32) bool {
	if x.parts == nil {
		x.parts = &[]part{{&table{x.cells, x.n}, 0}}
		x.table = table{}
	}
	parts := *x.parts
	old := parts[hash&uint32(len(parts)-1)]
	if old.depth == maxDepth {
		return false
	}
	if 1<<old.depth == len(parts) {
		parts = append(append(make([]part, 0, 2*len(parts)), parts...), parts...)
		*x.parts = parts
	}
	bit := uint32(1) << old.depth
	var halves [2]*table
	for i := range halves {
		halves[i] = new(table)
		halves[i].resize(len(old.cells)/2 + len(old.cells)/8) // grown where the hashes are not alike many; half would be full at once
	}
	for _, c := range old.cells {
		if c.ref == 0 {
			continue
		}
		h := halves[c.hash()>>old.depth&1]
		if h.full() {
			h.resize(len(h.cells) + len(h.cells)/4)
		}
		h.insert(c)
	}
	for i := hash & (bit - 1); i < uint32(len(parts)); i += bit {
		parts[i] = part{halves[i>>old.depth&1], old.depth + 1}
	}
	return true
}

// bytes is the memory that the index holds beside its own.
func (x *index) bytes() (sum uint64) {
	x.eachTable(func(t *table, _ uint32, _ uint8) bool {
		sum += uint64(cap(t.cells)) * cellBytes
		return true
	})
	if x.parts != nil {
		const tableBytes, partBytes = 32, 16
		sum += uint64(len(*x.parts)) * (tableBytes + partBytes)
	}
	return sum
}

// join makes one table of the parts again.
func (x *index) join(entries int) {
	var one table
	one.resize(entries*2 + 4)
	x.eachTable(func(t *table, _ uint32, _ uint8) bool {
		for _, c := range t.cells {
			if c.ref != 0 {
				one.insert(c)
			}
		}
		return true
	})
	x.parts, x.table = nil, one
}

// eachTable calls f for each table, with the bits that its hashes have in common, until f returns false.
func (x *index) eachTable(f func(t *table, common uint32, depth uint8) bool) {
	if x.parts == nil {
		f(&x.table, 0, 0)
		return
	}
	for i, p := range *x.parts {
		// Its first place is the one without higher bits.
		if i>>p.depth == 0 && !f(p.table, uint32(i), p.depth) {
			return
		}
	}
}

// each calls f for each entry whose hash ends in the partBits bits of want, until f returns false.
func (x *index) each(partBits uint8, want uint32, f func(cell) bool) {
	mask := uint32(1)<<partBits - 1
	x.eachTable(func(t *table, common uint32, depth uint8) bool {
		if (common^want)&mask&(1<<depth-1) != 0 {
			return true
		}
		for _, c := range t.cells {
			if c.ref != 0 && c.hash()&mask == want && !f(c) {
				return false
			}
		}
		return true
	})
}

// indexOf returns the index of slot, nil if the slot is not owned or nothing was ever stored.
func (s *store) indexOf(slot uint16) *index {
	// Below the start, the difference wraps around beyond any length.
	if i := uint32(slot) - s.owned.Start; i < uint32(len(s.index)) {
		return &s.index[i]
	}
	return nil
}

// tableOf returns the table of slot and hash, nil if nothing is in it.
func (s *store) tableOf(slot uint16, hash uint32) *table {
	if x := s.indexOf(slot); x != nil {
		if t := x.tableOf(hash); t.n > 0 {
			return t
		}
	}
	return nil
}
