package fsm

import "container/heap"

// expiryHeap holds the nodes whose items expire, the first to expire in front. (expireAt, version) is
// a total order, as no two items share a version: replicas whose heaps are laid out differently, one
// having been restored from a snapshot, still take the same nodes off in the same order.
type expiryHeap []*node

func (h *expiryHeap) add(n *node)      { heap.Push((*heapOrder)(h), n) }
func (h *expiryHeap) removeAt(pos int) { heap.Remove((*heapOrder)(h), pos) }

// heapOrder implements heap.Interface apart from expiryHeap, which keeps that interface's untyped
// methods out of reach of the rest of the package.
type heapOrder []*node

func (h heapOrder) Len() int { return len(h) }

func (h heapOrder) Less(i, j int) bool {
	a, b := h[i].item, h[j].item
	if a.expireAt != b.expireAt {
		return a.expireAt < b.expireAt
	}
	return a.version < b.version
}

func (h heapOrder) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapPos, h[j].heapPos = i, j
}

func (h *heapOrder) Push(x any) {
	n := x.(*node)
	n.heapPos = len(*h)
	*h = append(*h, n)
}

func (h *heapOrder) Pop() any {
	last := len(*h) - 1
	n := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return n
}
