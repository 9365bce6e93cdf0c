package main

import (
	"testing"
)

// keysOf packs the keys of ids.
func keysOf(ids ...uint64) []byte {
	keys := make([]byte, len(ids)*keySize)
	for i, id := range ids {
		keyAt(keys[i*keySize:], id)
	}
	return keys
}

// TestSubjects ensures that all subjects do the same work: they hold as many entries as they were made for, new
// keys evict the oldest, and what was stored is found.
func TestSubjects(t *testing.T) {
	const entries = 1000
	for _, name := range subjectNames {
		for _, batch := range []int{1, 7, 64} {
			b := &bench{name: name}
			if err := b.fill(entries); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := b.put(100, batch); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all := make([]uint64, entries)
			for i := range all {
				all[i] = uint64(100 + i)
			}
			if got := b.s.get(keysOf(all...)); got != entries {
				t.Errorf("%s, %d per entry: found %d of the %d newest", name, batch, got, entries)
			}
			if got := b.s.get(keysOf(0, 1, 98, 99)); got != 0 {
				t.Errorf("%s, %d per entry: found %d keys that were evicted", name, batch, got)
			}
		}
	}
}

// TestReadsCount ensures that the read of a mixed run renews an entry in each subject, so that they keep
// the same entries.
func TestReadsCount(t *testing.T) {
	const entries = 1000
	for _, name := range subjectNames {
		b := &bench{name: name}
		if err := b.fill(entries); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := b.s.mixed(keysOf(0), b.newKeys(1)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := b.s.get(keysOf(0)); got != 1 {
			t.Errorf("%s: what was read was evicted", name)
		}
		if got := b.s.get(keysOf(1)); got != 0 {
			t.Errorf("%s: the oldest was not evicted", name)
		}
	}
}

// TestKeys ensures that keys are of the right length and that no two are equal.
func TestKeys(t *testing.T) {
	seen := map[string]bool{}
	for id := range uint64(10_000) {
		seen[string(keysOf(id))] = true
	}
	if len(seen) != 10_000 {
		t.Errorf("10,000 ids have %d keys", len(seen))
	}
}
