package fsm

import (
	"fmt"
	"testing"
)

// TestReclaimIsBounded ensures that the end of a batch removes at most MaxReclaim dead entries, those
// first that died first, and that the others are dead to readers all the same.
func TestReclaimIsBounded(t *testing.T) {
	d := granted(t, 1<<30)
	const n = 2*MaxReclaim + 10
	var commands []Command
	for i := range n {
		commands = append(commands, putTTL(fmt.Sprint(i), uint64(1+n-i))) // the oldest dies last
	}
	d.at(1000, commands...)
	for _, left := range []int{n - MaxReclaim, n - 2*MaxReclaim, 0} {
		d.at(1000 + n + 1)
		if s := d.Stats(); s.Entries != left || s.Expirations != uint64(n-left) || s.Evictions != 0 {
			t.Fatalf("stats %+v, want %d entries", s, left)
		}
		for i, key := range d.keys() {
			if key != fmt.Sprint(i) {
				t.Fatalf("entry %d is %q: reclaimed in another order than that of expiry", i, key)
			}
			if d.Lookup([]byte(key)).Found {
				t.Fatalf("dead %q is found", key)
			}
		}
	}
}

// TestEviction ensures that a put makes room oldest first, that a put over an entry makes it the most
// recent, and that a lookup does not.
func TestEviction(t *testing.T) {
	d := granted(t, 8*entryCost)
	d.at(0, put("k0"), put("k1"), put("k2"), put("k3"), put("k4"), put("k5"), put("k6"), put("k7"))
	d.Lookup([]byte("k1"))
	d.at(0, put("k0"), put("k8"), put("k9"))
	if got, want := fmt.Sprint(d.keys()), "[k3 k4 k5 k6 k7 k0 k8 k9]"; got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
	if s := d.Stats(); s.Evictions != 2 || s.Bytes != s.Limit {
		t.Errorf("stats %+v", s)
	}
	if got := d.at(0, put("abc"))[0].Status; got != StatusTooLarge {
		t.Errorf("a byte over an eighth of the limit: status %d", got)
	}
}

// TestEvictedDeadCountsAsExpired ensures that making room with a dead entry is no eviction.
func TestEvictedDeadCountsAsExpired(t *testing.T) {
	d := granted(t, 8*entryCost)
	d.at(1000, putTTL("k0", 1), put("k1"), put("k2"), put("k3"), put("k4"), put("k5"), put("k6"), put("k7"))
	d.at(1001, put("k8"), put("k9"))
	if s := d.Stats(); s.Evictions != 1 || s.Expirations != 1 {
		t.Errorf("stats %+v, want one of each", s)
	}
}

// TestLimitShrinksInSteps ensures that a lowered limit is reached by bounded steps, that puts in the
// meantime neither stop it nor exceed the bound in force, and that a raised one acts at once.
func TestLimitShrinksInSteps(t *testing.T) {
	const n = 3*MaxShrink + 100
	d := granted(t, 1<<30)
	var commands []Command
	for i := range n {
		commands = append(commands, put(fmt.Sprintf("%02d", i%100)+fmt.Sprint(i)))
	}
	d.at(0, commands...)

	const limit = 16 * entryCost
	lower := Command{Kind: KindLimit, Limit: limit, TableVersion: 5}
	// What the batch itself wrote is over the new limit as well.
	d.at(0, put("n0"), lower, put("n1"))
	if got, want := d.Stats().Entries, n+2-MaxShrink; got != want {
		t.Fatalf("%d entries after the first step, want %d", got, want)
	}
	// Two puts: the machine stands at its bound, so each makes room for itself, then comes the step.
	before := d.Stats()
	d.at(0, put("n2"), put("n3"))
	if s := d.Stats(); s.Entries >= before.Entries+2-MaxShrink || s.Bound >= before.Bound || s.Bound != s.Bytes {
		t.Fatalf("%+v after %+v", s, before)
	}
	for d.Stats().Bound > limit {
		before := d.Stats()
		d.at(0)
		if s := d.Stats(); s.Bound >= before.Bound || before.Entries-s.Entries > MaxShrink {
			t.Fatalf("%+v after %+v", s, before)
		}
	}
	if s := d.Stats(); s.Bytes > limit || s.Bytes+Cost(8, 0, 0) < limit {
		t.Errorf("%+v: shrunk to less than the limit asks", s)
	}
	if got := d.at(0, lower)[0].Status; got != StatusStale {
		t.Errorf("the same limit again: status %d", got)
	}
	d.at(0, Command{Kind: KindLimit, Limit: 2 * limit, TableVersion: 6}, put("n4"))
	if s := d.Stats(); s.Limit != 2*limit || s.Bound != 2*limit {
		t.Errorf("raised: %+v", s)
	}
	d.at(0, Command{Kind: KindLimit, Limit: 0, TableVersion: 7})
	if s := d.Stats(); s.Entries != 0 || s.Bound != 0 {
		t.Errorf("limit 0: %+v", s)
	}
}

// TestWorkPerPutIsBounded ensures that a put, of a new key or over a big entry, evicts no more entries
// than its own cost pays for.
func TestWorkPerPutIsBounded(t *testing.T) {
	d := granted(t, 800*entryCost)
	var commands []Command
	for i := range 800 {
		commands = append(commands, put(string([]byte{byte(i >> 8), byte(i)})))
	}
	d.at(0, commands...)
	big := put("BIG")
	big.Value = make([]byte, 100*entryCost-Cost(3, 0, 0))
	d.at(0, big)
	if s := d.Stats(); s.Evictions != 100 || s.Bytes != s.Limit {
		t.Errorf("%+v, want 100 evictions", s)
	}
	d.at(0, big)
	if s := d.Stats(); s.Evictions != 100 || s.Bytes != s.Limit {
		t.Errorf("%+v: an overwrite of equal cost evicted", s)
	}
	d.at(0, put("BIG"))
	if s := d.Stats(); s.Evictions != 100 || s.Bytes != s.Limit-99*entryCost+1 {
		t.Errorf("%+v: a smaller value did not give its bytes back", s)
	}
}

// TestTidyingIsLeftToLater ensures that an entry which evicts many does not wait until what they leave behind is tidied
// up, and that those after it do that.
func TestTidyingIsLeftToLater(t *testing.T) {
	const n = 40_000
	m := New()
	index := uint64(0)
	at := func(c ...Command) {
		index++
		if _, err := m.Apply(index, Batch{Stamp: index, Commands: c}); err != nil {
			t.Fatal(err)
		}
	}
	at(Command{Kind: KindLevel, Level: MaxLevel, Seed: 1})
	at(Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: n * Cost(8, 100, 0), TableVersion: 1}})
	key := func(i int) []byte { return fmt.Appendf(nil, "%08d", i) }
	for i := range n {
		at(Command{Kind: KindPut, Key: key(i), Value: make([]byte, 100)})
	}
	for i := 0; i < n; i += 2 { // so that what is evicted leaves holes
		at(Command{Kind: KindTouch, Key: key(i)})
	}
	for i := range 3 {
		at(Command{Kind: KindPut, Key: key(n + i), Value: make([]byte, n*Cost(8, 100, 0)/largestShare-200)})
	}
	if !m.store.records.sparse() || !m.store.arena.untidy() {
		t.Errorf("after %d evictions, nothing is left to tidy", m.evictions)
	}
	for range 200 {
		at()
	}
	if m.store.records.sparse() || m.store.arena.untidy() {
		t.Errorf("after 200 entries, there is still something to tidy: %+v", m.store.memory())
	}
	checkInvariants(t, m)
}

// TestLargeEntriesLeaveInSteps ensures that the end of a batch removes few entries when they are large, both of
// those that expired and of those above a lowered limit, and that those after it remove the rest.
func TestLargeEntriesLeaveInSteps(t *testing.T) {
	if testing.Short() {
		t.Skip("long under the race detector")
	}
	const entries, size = 100, 1 << 20
	for what, end := range map[string]struct {
		ttl uint64
		c   []Command
	}{
		"expired": {1, nil},
		"limit":   {0, []Command{{Kind: KindLimit, Limit: 1, TableVersion: 9}}},
	} {
		d := granted(t, 1<<30)
		value := make([]byte, size)
		for i := range entries {
			d.at(1000, Command{Kind: KindPut, Key: fmt.Appendf(nil, "k%d", i), Value: value, TTL: end.ttl})
		}
		d.at(1001, end.c...)
		if left, want := d.Stats().Entries, entries-MaxRemoved/size; left != want {
			t.Errorf("%s: %d entries left after one batch, want %d", what, left, want)
		}
		for range entries * size / MaxRemoved {
			d.at(1001)
		}
		if s := d.Stats(); s.Entries != 0 || s.Bound != s.Limit {
			t.Errorf("%s: at the end %+v", what, s)
		}
	}
}
