package main

import "container/list"

// lru is an exact LRU cache that is bounded in bytes: what Larder's hit ratio is held against. It keeps
// costs and no values.
type lru struct {
	limit, used uint64
	order       list.List // of lruEntry, the most recent first
	entries     map[string]*list.Element

	hits, misses, evictions int
}

type lruEntry struct {
	key  string
	cost uint64
}

func newLRU(limit uint64) *lru { return &lru{limit: limit, entries: make(map[string]*list.Element)} }

// access asks for key, and stores it on a miss. What costs more than the limit is not kept.
func (l *lru) access(key string, cost uint64) (hit bool) {
	if e := l.entries[key]; e != nil {
		l.order.MoveToFront(e)
		l.hits++
		return true
	}
	l.misses++
	l.entries[key] = l.order.PushFront(lruEntry{key, cost})
	for l.used += cost; l.used > l.limit; l.evictions++ {
		oldest := l.order.Remove(l.order.Back()).(lruEntry)
		delete(l.entries, oldest.key)
		l.used -= oldest.cost
	}
	return false
}

// ratio is the part of the accesses so far that were hits, percent.
func (l *lru) ratio() float64 { return percent(l.hits, l.hits+l.misses) }
