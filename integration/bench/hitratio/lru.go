package main

import (
	"cmp"
	"container/list"
	"slices"
)

// lru is an exact LRU cache that is bounded in bytes: what ours is held against. It keeps costs and no
// values, and refuses what costs more than an eighth of its limit, as ours does.
type lru struct {
	limit, used uint64
	order       list.List // of *lruEntry, the most recent first
	entries     map[string]*list.Element
	stored      uint64 // counts the entries stored so far
	fifo        bool   // reads don't count

	hits, refused int
}

type lruEntry struct {
	key  string
	cost uint64
	born uint64 // stored as the born-th
}

func newLRU(limit uint64) *lru { return &lru{limit: limit, entries: make(map[string]*list.Element)} }

// access asks for key, and stores it on a miss.
func (l *lru) access(key string, cost uint64) {
	if e := l.entries[key]; e != nil {
		if !l.fifo {
			l.order.MoveToFront(e)
		}
		l.hits++
		return
	}
	if cost > l.limit/8 {
		l.refused++
		return
	}
	l.stored++
	l.entries[key] = l.order.PushFront(&lruEntry{key, cost, l.stored})
	for l.used += cost; l.used > l.limit; {
		oldest := l.order.Remove(l.order.Back()).(*lruEntry)
		delete(l.entries, oldest.key)
		l.used -= oldest.cost
	}
}

// forget puts the entries in the order in which they were stored: what a new leader knows who was never
// told of reads.
func (l *lru) forget() {
	byBirth := make([]*lruEntry, 0, l.order.Len())
	for e := l.order.Front(); e != nil; e = e.Next() {
		byBirth = append(byBirth, e.Value.(*lruEntry))
	}
	sortByBirth(byBirth)
	l.order.Init()
	for _, entry := range byBirth {
		l.entries[entry.key] = l.order.PushFront(entry)
	}
}

// sortByBirth sorts entries, those stored first first.
func sortByBirth(entries []*lruEntry) {
	slices.SortFunc(entries, func(a, b *lruEntry) int { return cmp.Compare(a.born, b.born) })
}
