package main

import "testing"

// TestLRU ensures that the exact LRU evicts by bytes what was used longest ago, and refuses what is too large.
func TestLRU(t *testing.T) {
	l := newLRU(100)
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		l.access(key, 12)
	}
	l.access("a", 12) // a hit: b is the oldest now
	l.access("i", 8)  // 104 bytes: b goes
	if l.hits != 1 || l.used != 92 || l.entries["a"] == nil || l.entries["b"] != nil {
		t.Errorf("%d hits, %d bytes, a %v, b %v", l.hits, l.used, l.entries["a"], l.entries["b"])
	}
	l.access("large", 13)
	if l.refused != 1 || l.entries["large"] != nil {
		t.Errorf("%d refused", l.refused)
	}
}

// TestForget ensures that a cache that forgets evicts in the order of insertion from then on, and that reads
// count again afterwards.
func TestForget(t *testing.T) {
	fill := func() *lru {
		l := newLRU(80)
		for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			l.access(key, 10)
		}
		l.access("a", 10)
		return l
	}
	l := fill()
	l.forget()
	l.access("i", 10)
	if l.entries["a"] != nil || l.entries["b"] == nil {
		t.Error("the read before is not forgotten")
	}
	l = fill()
	l.forget()
	l.access("a", 10)
	l.access("i", 10)
	if l.entries["a"] == nil || l.entries["b"] != nil {
		t.Error("the read after does not count")
	}
	l = newLRU(80)
	l.fifo = true
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "a", "i"} {
		l.access(key, 10)
	}
	if l.entries["a"] != nil {
		t.Error("a read counts in a FIFO")
	}
}
