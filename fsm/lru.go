package fsm

// Overhead is what an entry costs beside the bytes of its key, value and content type. It stands for
// the memory that this package keeps per entry on a 64-bit machine:
//
//	32  node: list links, heap position, pointer to the item
//	80  item: headers of key, value and content type, version, expiry
//	57  slot of the hash map (string, pointer, control byte) at its emptiest, 7/16 full after growth
//	10  pointer in the expiry heap, grown by a quarter
//	 8  pointer in a snapshot that is being written
//	24  rounding of key, value and content type up to their size classes, for small ones
//
// A constant, never a measurement: cost decides evictions, so it must be the same on every build
// (R4). A test holds it against the heap. It doesn't cover the rounding of large values (at most an
// eighth of their length) nor the room that the garbage collector wants: whoever sets the limit
// leaves that.
const Overhead = 211

// Cost is what an entry counts against the limit, in bytes: a pure function of the three lengths.
func Cost(keyLen, valueLen, contentTypeLen int) uint64 {
	return Overhead + uint64(keyLen) + uint64(valueLen) + uint64(contentTypeLen)
}

// item is one stored entry. It and the bytes it points to are never written after its creation, so
// that readers and snapshots keep using it after it was replaced or removed.
type item struct {
	key         string
	value       []byte
	contentType string
	version     uint64
	expireAt    uint64 // log clock, milliseconds; 0 = lives until removed
}

func (it *item) cost() uint64 {
	return Cost(len(it.key), len(it.value), len(it.contentType))
}

// deadAt reports whether it has expired at clock.
func (it *item) deadAt(clock uint64) bool {
	return it.expireAt != 0 && it.expireAt <= clock
}

// node is an item's place in the order of recency and in the expiry heap.
type node struct {
	item       *item
	prev, next *node // towards the oldest, towards the most recent
	heapPos    int   // in lru.expiry; meaningless when the item never expires
}

// lru holds items by key, in order of recency, with their total cost and an index of those that
// expire. It decides nothing: what to evict and when is the machine's choice.
type lru struct {
	nodes  map[string]*node // never iterated: its order is not the log's
	ring   node             // sentinel; ring.next is the oldest node, ring.prev the most recent
	expiry expiryHeap
	bytes  uint64 // sum of the items' costs
}

func newLRU() *lru {
	l := &lru{nodes: make(map[string]*node)}
	l.ring.prev, l.ring.next = &l.ring, &l.ring
	return l
}

// get returns the item of key, nil when there is none. The order stays as it is.
func (l *lru) get(key []byte) *item {
	if n := l.nodes[string(key)]; n != nil {
		return n.item
	}
	return nil
}

// put stores it in place of any item of the same key, at the recent end.
func (l *lru) put(it *item) {
	n := l.nodes[it.key]
	if n != nil {
		l.detach(n)
	} else {
		n = &node{}
		l.nodes[it.key] = n
	}
	n.item = it
	l.attach(n)
}

// remove removes the item of it's key, which must be there.
func (l *lru) remove(it *item) {
	l.detach(l.nodes[it.key])
	delete(l.nodes, it.key)
}

// oldest returns the item at the old end, nil when there is none.
func (l *lru) oldest() *item { return l.ring.next.item }

// firstToExpire returns the item that comes first by (expiry, version), nil when none expires.
func (l *lru) firstToExpire() *item {
	if len(l.expiry) == 0 {
		return nil
	}
	return l.expiry[0].item
}

func (l *lru) len() int { return len(l.nodes) }

// items returns all items, oldest first.
func (l *lru) items() []*item {
	items := make([]*item, 0, l.len())
	for n := l.ring.next; n != &l.ring; n = n.next {
		items = append(items, n.item)
	}
	return items
}

// attach links n at the recent end and accounts for its item.
func (l *lru) attach(n *node) {
	n.prev, n.next = l.ring.prev, &l.ring
	n.prev.next, n.next.prev = n, n
	l.bytes += n.item.cost()
	if n.item.expireAt != 0 {
		l.expiry.add(n)
	}
}

// detach undoes attach. The key stays in the map.
func (l *lru) detach(n *node) {
	n.prev.next, n.next.prev = n.next, n.prev
	l.bytes -= n.item.cost()
	if n.item.expireAt != 0 {
		l.expiry.removeAt(n.heapPos)
	}
}
