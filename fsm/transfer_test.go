package fsm

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// transferPair is a source that owns all slots, and a target that owns nothing.
func transferPair(t testing.TB, limit uint64) (source, target *driver) {
	source = granted(t, limit)
	target = &driver{t: t, Machine: New()}
	target.at(0, Command{Kind: KindLevel, Level: MaxLevel, Seed: 0xbead})
	target.at(0, Command{Kind: KindLimit, Limit: limit, TableVersion: 1})
	return source, target
}

// move moves r as the transfer id, and calls between after the first copy; it returns how long the longest entry of each kind took.
func move(t testing.TB, source, target *driver, id uint64, r Range, between func()) map[Kind]time.Duration {
	t.Helper()
	took := map[Kind]time.Duration{}
	do := func(d *driver, want Status, kind Kind, tr Transfer, items []byte) Result {
		t.Helper()
		tr.ID = id
		began := time.Now()
		d.index++
		results, err := d.Apply(d.index, Batch{Commands: []Command{{Kind: kind, Transfer: &tr, Value: items}}})
		took[kind] = max(took[kind], time.Since(began))
		if err != nil {
			t.Fatal(err)
		}
		if got := results[0].Status; got != want && got != StatusBusy {
			t.Fatalf("kind %d: status %d, want %d", kind, got, want)
		}
		return results[0]
	}
	do(target, StatusOK, KindBegin, Transfer{Range: r, Attempt: 1, Generation: 1, VersionBits: uint32(id)}, nil)
	c := source.StartCopy(r)
	defer source.StopCopy(c)
	seq := uint64(0)
	send := func() {
		for items := c.Next(64 << 10); items != nil; items = c.Next(64 << 10) {
			seq++
			for do(target, StatusOK, KindChunk, Transfer{Attempt: 1, Seq: seq}, items).Status == StatusBusy {
			}
		}
	}
	send()
	if between != nil {
		between()
		if _, err := source.CaptureCopy(c); err != nil {
			t.Fatal(err)
		}
		send()
	}
	do(source, StatusOK, KindSeal, Transfer{Range: r, Target: 2}, nil)
	send()
	do(target, StatusAccepted, KindAccept, Transfer{Sealed: source.Moving().Had}, nil)
	do(source, StatusAccepted, KindSettle, Transfer{Outcome: OutcomeAccepted}, nil)
	return took
}

// tickUntilDropped applies entries until nothing is left of what was moved, and returns how many and how long the longest took.
func tickUntilDropped(d *driver) (n int, longest time.Duration) {
	for d.Moving().Dropping != (Range{}) {
		began := time.Now()
		d.index++
		if _, err := d.Apply(d.index, Batch{}); err != nil {
			d.t.Fatal(err)
		}
		longest = max(longest, time.Since(began))
		n++
	}
	return n, longest
}

// TestTransferMerges ensures that what moves stands among what is there in the order of recency, with all that it has, and that the source
// gets rid of it in steps.
func TestTransferMerges(t *testing.T) {
	source, target := transferPair(t, 1<<30)
	high := Range{Slots / 2, Slots}
	put := func(d *driver, i int) {
		c := putTTL(fmt.Sprint("k", i), uint64(i%3)*1_000_000)
		if r := d.at(epoch+uint64(i), c)[0]; r.Status != StatusOK && r.Status != StatusNotOwner {
			t.Fatalf("put: %+v", r)
		}
	}
	move(t, source, target, 2, high, nil)
	const n = 6000
	for i := range n { // each to who owns it
		put(source, i)
		put(target, i)
	}
	var want []twinEntry
	move(t, target, source, 3, high, func() {
		for i := range n * 2 / 3 { // so that records are put together, the last that was staged among them
			source.at(epoch+n, remove(fmt.Sprint("k", i)))
		}
		for i := range 200 {
			put(target, n-i)
			put(source, n-i)
		}
		for _, e := range entriesOf(source.Machine) {
			if !high.Contains(Slot([]byte(e.key))) { // the rest is staged
				want = append(want, e)
			}
		}
		want = append(want, entriesOf(target.Machine)...)
	})
	slices.SortStableFunc(want, func(a, b twinEntry) int { return int(int64(a.stamp - b.stamp)) }) // of one stamp what moves comes last
	if got := entriesOf(source.Machine); !slices.Equal(got, want) || len(got) < n/2 {
		t.Fatalf("%d entries, want %d, in another order or not the same", len(got), len(want))
	}
	if s := source.Stats(); s.Range != (Range{0, Slots}) || s.Epoch != 3 {
		t.Errorf("%+v", s)
	}
	if s := target.Stats(); s.Range != (Range{}) || s.Entries < n/2-MaxDropped {
		t.Errorf("at once: %+v", s)
	}
	if steps, _ := tickUntilDropped(target); steps < n/2/MaxDropped || target.Stats().Entries != 0 || target.Stats().Bytes != 0 {
		t.Errorf("after %d entries of the log: %+v", steps, target.Stats())
	}
	checkInvariants(t, source.Machine)
	checkInvariants(t, target.Machine)
}

// TestSealed ensures that a source answers nothing for what is sealed, whatever is asked for, and all again once the target has refused.
func TestSealed(t *testing.T) {
	source, _ := transferPair(t, 1<<20)
	source.at(epoch, put("a"), put("b"))
	slot := uint32(Slot([]byte("a")))
	all := Range{0, Slots}
	source.at(epoch, Command{Kind: KindSeal, Transfer: &Transfer{ID: 5, Range: Range{0, slot + 1}}})
	sum := source.Moving().Had
	commands := []Command{put("a"), remove("a"), {Kind: KindIncr, Key: []byte("a")}, {Kind: KindAppend, Key: []byte("a")}, {Kind: KindExpire, Key: []byte("a"), TTL: 1},
		{Kind: KindTouch, Key: []byte("a")}, {Kind: KindGet, Key: []byte("a")}, {Kind: KindFlush}, {Kind: KindDeletePrefix, Slots: all, Version: 1 << 63},
		{Kind: KindPut, Key: []byte("a"), IdempotencyKey: "x"}}
	for _, c := range commands {
		if r := source.at(epoch, c)[0]; r.Status != StatusSealed {
			t.Errorf("kind %d: %+v", c.Kind, r)
		}
	}
	for _, r := range source.at(epoch, Command{Kind: KindAtomic, Ops: 2}, put("a"), put("b")) {
		if r.Status != StatusSealed {
			t.Errorf("held together: %+v", r)
		}
	}
	source.at(epoch, Command{Kind: KindTouches, Touches: AppendTouch(nil, source.TouchOf([]byte("a")))})
	if l := source.Lookup([]byte("a")); l.Owned || !l.Sealed || l.Found {
		t.Errorf("%+v", l)
	}
	if p := source.Scan(Scan{Limit: 9}); p.Owned || !p.Sealed || len(p.Keys) > 0 {
		t.Errorf("%+v", p)
	}
	if p := source.Scan(Scan{Limit: 9, From: Cursor{Slot: slot + 1}}); !p.Owned || p.Sealed {
		t.Errorf("what is not sealed: %+v", p)
	}
	if l := source.Lookup([]byte("b")); slot < uint32(Slot([]byte("b"))) && !l.Found {
		t.Errorf("what is not sealed: %+v", l)
	}
	now := sum
	now.sum(source.Machine)
	if now != sum {
		t.Errorf("what is sealed has changed: %+v, was %+v", now, sum)
	}
	source.at(epoch, Command{Kind: KindSettle, Transfer: &Transfer{ID: 5, Outcome: OutcomeRefused}})
	for _, c := range commands {
		if r := source.at(epoch, c)[0]; r.Status == StatusSealed {
			t.Errorf("kind %d after the end: %+v", c.Kind, r)
		}
	}
}

// TestTransferTokens ensures that a fill token of before a transfer is good after it, unless its key was written or removed since, and that one
// of before a grant is not.
func TestTransferTokens(t *testing.T) {
	source, target := transferPair(t, 1<<20)
	source.at(epoch, put("a"), put("b"), put("c"), remove("c"))
	token := source.Lookup([]byte("x")).Version
	fill := func(d *driver, key string, token uint64) Status {
		return d.at(epoch, Command{Kind: KindPut, Key: []byte(key), Cond: Cond{Kind: CondFill, Version: token}})[0].Status
	}
	move(t, source, target, 2, Range{0, Slots}, func() { source.at(epoch, put("b"), remove("a")) })
	for key, want := range map[string]Status{"a": StatusCondition, "b": StatusCondition, "c": StatusOK, "x": StatusOK} {
		if got := fill(target, key, token); got != want {
			t.Errorf("%s: status %d, want %d", key, got, want)
		}
	}
	if got := fill(target, "y", 5); got != StatusCondition {
		t.Errorf("a token of before the grant: status %d", got)
	}
	if got := fill(target, "x", token); got != StatusCondition {
		t.Errorf("a token of before a fill: status %d", got)
	}
	// Two that were granted apart come together: each slot takes the tokens that it took before.
	high, low := Range{Slots / 2, Slots}, Range{0, Slots / 2}
	other := &driver{t: t, Machine: New()}
	other.at(0, Command{Kind: KindLevel, Level: MaxLevel, Seed: 1})
	other.at(epoch, Command{Kind: KindGrant, Grant: Grant{Range: high, Epoch: 1, Generation: 1, VersionBits: 5, Limit: 1 << 20, TableVersion: 1}})
	source, _ = transferPair(t, 1<<20)
	source.at(epoch, Command{Kind: KindGrant, Grant: Grant{Range: low, Epoch: 2, Generation: 1, VersionBits: 2, Limit: 1 << 20, TableVersion: 2}})
	source.at(epoch, put("x"), put("b")) // of which one is in each half
	other.at(epoch, put("x"), put("b"))
	old := source.version
	move(t, source, other, 6, low, nil)
	for _, key := range []string{"c", "d", "e", "f", "g"} {
		want := StatusOK
		if high.Contains(Slot([]byte(key))) {
			want = StatusCondition // it comes from nowhere: here it is of before the grant
		}
		if got := fill(other, key, old); got != want {
			t.Errorf("%s after a merge: status %d, want %d", key, got, want)
		}
	}
}

// TestTransferUsed ensures that what is used or gets another time to live while it is copied moves without its value once more, and what is
// removed, evicted or expires goes.
func TestTransferUsed(t *testing.T) {
	source, target := transferPair(t, 1<<20)
	value := make([]byte, 10_000)
	for i := range 10 {
		source.at(epoch, Command{Kind: KindPut, Key: fmt.Appendf(nil, "k%d", i), Value: value, TTL: uint64(i) * 1000})
	}
	var want []twinEntry
	before := 0
	move(t, source, target, 2, Range{0, Slots}, func() {
		before = int(target.Stats().Bytes)
		source.at(epoch+1000, Command{Kind: KindTouch, Key: []byte("k0")}, Command{Kind: KindExpire, Key: []byte("k5"), TTL: 77_000}, remove("k3"), Command{Kind: KindTouch, Key: []byte("k4")})
		want = entriesOf(source.Machine)
		c := *source.copying
		for k := range storeKinds {
			c.watch[k].heard = slices.Clone(c.watch[k].heard)
		}
		c.gone = slices.Clone(c.gone)
		c.capture(source.Machine)
		used, left := 0, 0
		items := c.Next(1 << 20)
		if len(items) > 1000 {
			t.Errorf("%d bytes for a few changes", len(items))
		}
		for len(items) > 0 {
			var it item
			if it, items, _ = nextItem(items); it.what == itemUsed {
				used++
			} else if it.what == itemLeft {
				left++
			}
		}
		if used != 3 || left != 2 { // k1 has expired
			t.Errorf("%d used and %d left, want 3 and 2", used, left)
		}
	})
	if got := entriesOf(target.Machine); !slices.Equal(got, want) || before == 0 {
		t.Errorf("got %d entries, want %d", len(got), len(want))
	}
	checkInvariants(t, target.Machine)
}

// TestTransferEvicts ensures that a target that has no room for all evicts the oldest, whosever they are, and accepts what is left; an entry that the source
// used after the target had evicted it is not there.
func TestTransferEvicts(t *testing.T) {
	source, target := transferPair(t, 1<<20)
	high, low := Range{Slots / 2, Slots}, Range{0, Slots / 2}
	move(t, source, target, 2, high, nil)
	tickUntilDropped(source)
	for i := range 100 {
		c := putTTL(fmt.Sprintf("k%02d", i), 0)
		source.at(epoch+uint64(i), c)
		target.at(epoch+uint64(i), c)
	}
	all := append(entriesOf(source.Machine), entriesOf(target.Machine)...)
	slices.SortFunc(all, func(a, b twinEntry) int { return int(int64(a.stamp - b.stamp)) })
	const room = 40
	target.at(epoch, Command{Kind: KindLimit, Limit: room * (uint64(len("k00")) + Overhead), TableVersion: 2})
	first := entriesOf(source.Machine)[0].key
	move(t, source, target, 3, low, func() {
		if target.moves.In.Lost[kindEntry].Count == 0 {
			t.Fatal("nothing was evicted of what is staged")
		}
		source.at(epoch+200, Command{Kind: KindTouch, Key: []byte(first)})
	})
	if got := entriesOf(target.Machine); !slices.Equal(got, all[len(all)-room:]) {
		t.Errorf("got %+v, want %+v", got, all[len(all)-room:])
	}
	if s := target.Stats(); s.Bytes > s.Limit || s.Evictions == 0 {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, target.Machine)
}

// TestTransferStale ensures that chunks of former attempts, and those that were staged already, do nothing, and that after a flush all must come anew.
func TestTransferStale(t *testing.T) {
	source, target := transferPair(t, 1<<20)
	low, high := Range{0, Slots / 2}, Range{Slots / 2, Slots}
	move(t, source, target, 2, high, nil)
	tickUntilDropped(source)
	for i := range 20 {
		source.at(epoch, put(fmt.Sprint(i)))
		target.at(epoch, put(fmt.Sprint(i)))
	}
	c := source.StartCopy(low)
	items, later, last := c.Next(1), c.Next(1), c.Next(1)
	do := func(kind Kind, tr Transfer, items []byte) Status {
		tr.ID = 3
		return target.at(epoch, Command{Kind: kind, Transfer: &tr, Value: items})[0].Status
	}
	begin := Transfer{Range: low, Attempt: 1, Generation: 1, VersionBits: 3}
	do(KindBegin, begin, nil)
	do(KindChunk, Transfer{Attempt: 1, Seq: 1}, items)
	do(KindChunk, Transfer{Attempt: 1, Seq: 2}, later)
	if begin.Attempt = 2; do(KindBegin, begin, nil) != StatusOK {
		t.Fatal("no second attempt")
	}
	tickUntilDropped(target)
	staged := func() int { return int(target.store.total(low).Count) }
	for _, step := range []struct {
		attempt, seq uint64
		items        []byte
		want         Status
		staged       int
	}{{1, 1, items, StatusStale, 0}, {2, 2, later, StatusStale, 0}, {2, 1, items, StatusOK, 1}, {2, 1, later, StatusOK, 1}, {1, 2, later, StatusStale, 1}, {2, 2, later, StatusOK, 2}} {
		if got := do(KindChunk, Transfer{Attempt: step.attempt, Seq: step.seq}, step.items); got != step.want || staged() != step.staged {
			t.Errorf("chunk %d of attempt %d: status %d, %d staged; want %d, %d", step.seq, step.attempt, got, staged(), step.want, step.staged)
		}
	}
	if begin.Attempt = 1; do(KindBegin, begin, nil) != StatusStale {
		t.Error("the first attempt begins again")
	}
	own := int(target.store.total(high).Count)
	if r := target.at(epoch, Command{Kind: KindFlush})[0]; int(r.Count) != own {
		t.Errorf("flush: %+v, want %d", r, own)
	}
	if got := do(KindChunk, Transfer{Attempt: 2, Seq: 3}, last); got != StatusStale || !target.Moving().Spoiled {
		t.Errorf("after a flush: status %d, %+v", got, target.Moving())
	}
	if got := do(KindAccept, Transfer{Sealed: Sealed{Range: low}}, nil); got != StatusRefused {
		t.Errorf("after a flush: status %d", got)
	}
}

// TestTransferRaises ensures that the target's clock, order and horizon are not behind the source's.
func TestTransferRaises(t *testing.T) {
	source, target := transferPair(t, 1<<20)
	source.at(epoch+5000, put("a"))
	source.horizon = epoch - 7
	move(t, source, target, 2, Range{0, Slots}, nil)
	if target.clock < epoch+5000 || target.horizon != epoch-7 || target.recency < source.recency || target.version <= source.version {
		t.Errorf("target %+v\nsource %+v", target.header, source.header)
	}
	if r := target.at(0, Command{Kind: KindPut, Key: []byte("b"), IdempotencyKey: fmt.Sprint(epoch-8, "-x")})[0]; r.Status != StatusKeyTooOld {
		t.Errorf("below the source's horizon: %+v", r)
	}
}

// TestTransferLostTokens ensures that a fill token of before a write is refused where what was written has been evicted from what is staged.
func TestTransferLostTokens(t *testing.T) {
	source, target := transferPair(t, 1<<20)
	source.at(epoch, put("a"))
	token := source.Lookup([]byte("x")).Version
	source.at(epoch+1, put("x"))
	source.at(epoch+2, put("a"))
	target.at(epoch, Command{Kind: KindLimit, Limit: 9 * (1 + Overhead), TableVersion: 2})
	for i := range 9 {
		source.at(epoch+3, put(fmt.Sprint(i)))
	}
	move(t, source, target, 2, Range{0, Slots}, nil)
	if r := target.at(epoch, Command{Kind: KindPut, Key: []byte("x"), Cond: Cond{Kind: CondFill, Version: token}})[0]; r.Status != StatusCondition {
		t.Errorf("fill: %+v", r)
	}
}

// BenchmarkTransfer moves half of a machine of a million entries, and tells how long the longest entry of the log of each kind took.
func BenchmarkTransfer(b *testing.B) {
	for range b.N {
		b.StopTimer()
		source, target := transferPair(b, 4<<30)
		for i := range 1000 {
			batch := Batch{Stamp: epoch + uint64(i)}
			for j := range 1000 {
				batch.Commands = append(batch.Commands, Command{Kind: KindPut, Key: fmt.Appendf(nil, "key-%012d", i*1000+j), Value: make([]byte, 128)})
			}
			source.index++
			if _, err := source.Apply(source.index, batch); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		took := move(b, source, target, 2, Range{Slots / 2, Slots}, nil)
		_, dropping := tickUntilDropped(source)
		for kind, name := range map[Kind]string{KindChunk: "chunk", KindSeal: "seal", KindAccept: "accept", KindSettle: "settle"} {
			b.ReportMetric(float64(took[kind].Microseconds()), name+"-us")
		}
		b.ReportMetric(float64(dropping.Microseconds()), "drop-us")
	}
}
