package fsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
)

// entryCost is the cost of an entry with a key of two bytes, no value and no content type.
const entryCost = Overhead + 2

// driver applies batches at successive indexes.
type driver struct {
	t testing.TB
	*Machine
	index uint64
}

// granted returns a machine of the highest level that owns every slot, with version bits 1, at clock 1000.
func granted(t testing.TB, limit uint64) *driver { return grantedAt(t, MaxLevel, limit) }

// grantedAt is granted for a machine of another level.
func grantedAt(t testing.TB, level uint8, limit uint64) *driver {
	d := &driver{t: t, Machine: New()}
	d.at(0, Command{Kind: KindLevel, Level: level, Seed: 0x5eed})
	r := d.at(1000, Command{Kind: KindGrant, Grant: Grant{
		Range: Range{0, Slots}, Epoch: 1, Generation: 1, VersionBits: 1, Limit: limit, TableVersion: 1,
	}})
	if r[0].Status != StatusOK {
		t.Fatalf("grant: %+v", r)
	}
	return d
}

// at applies one batch stamped stamp and checks the invariants, in long runs now and then.
func (d *driver) at(stamp uint64, commands ...Command) []Result {
	d.t.Helper()
	d.index++
	results, err := d.Apply(d.index, Batch{Stamp: stamp, Level: 1, Commands: commands})
	if err != nil {
		d.t.Fatal(err)
	}
	if len(results) != len(commands) {
		d.t.Fatalf("%d results for %d commands", len(results), len(commands))
	}
	if d.index < 50 || d.index%64 == 0 {
		checkInvariants(d.t, d.Machine)
	}
	return results
}

// keys returns the keys of the stored entries, oldest first.
func (d *driver) keys() (keys []string) {
	for _, e := range entriesOf(d.Machine) {
		keys = append(keys, e.key)
	}
	return keys
}

func put(key string, cond ...Cond) Command {
	c := Command{Kind: KindPut, Key: []byte(key)}
	if len(cond) > 0 {
		c.Cond = cond[0]
	}
	return c
}

func putTTL(key string, ttl uint64) Command {
	return Command{Kind: KindPut, Key: []byte(key), TTL: ttl}
}

func remove(key string, cond ...Cond) Command {
	c := put(key, cond...)
	c.Kind = KindDelete
	return c
}

const v1 = 1 << counterBits // versions under version bits 1 count from here

// TestConditions ensures that each condition is decided against the live entry, and that a refusal
// tells the current version and changes nothing.
func TestConditions(t *testing.T) {
	always, absent, present := Cond{}, Cond{Kind: CondAbsent}, Cond{Kind: CondPresent}
	is := func(v uint64) Cond { return Cond{Kind: CondVersion, Version: v} }
	const current, next = v1 + 1, v1 + 3 // "dead" took v1+2
	for _, c := range []struct {
		name string
		c    Command
		want Result
	}{
		{"put over a live entry", put("live", always), Result{Status: StatusOK, Existed: true, Version: next}},
		{"put if absent over a live entry", put("live", absent), Result{Status: StatusCondition, Existed: true, Version: current}},
		{"put if present over a live entry", put("live", present), Result{Status: StatusOK, Existed: true, Version: next}},
		{"put if its version", put("live", is(current)), Result{Status: StatusOK, Existed: true, Version: next}},
		{"put if another version", put("live", is(current+1)), Result{Status: StatusCondition, Existed: true, Version: current}},
		{"put of a new key", put("none", always), Result{Status: StatusOK, Existed: false, Version: next}},
		{"put if absent of a new key", put("none", absent), Result{Status: StatusOK, Existed: false, Version: next}},
		{"put if present of a new key", put("none", present), Result{Status: StatusCondition, Existed: false, Version: 0}},
		{"put if version of a new key", put("none", is(0)), Result{Status: StatusCondition, Existed: false, Version: 0}},
		{"put over a dead entry", put("dead", always), Result{Status: StatusOK, Existed: false, Version: next}},
		{"put if absent over a dead entry", put("dead", absent), Result{Status: StatusOK, Existed: false, Version: next}},
		{"put if present over a dead entry", put("dead", present), Result{Status: StatusCondition, Existed: false, Version: 0}},
		{"put if version of a dead entry", put("dead", is(v1+2)), Result{Status: StatusCondition, Existed: false, Version: 0}},
		{"delete of a live entry", remove("live", always), Result{Status: StatusOK, Existed: true, Version: next}},
		{"delete if absent of a live entry", remove("live", absent), Result{Status: StatusCondition, Existed: true, Version: current}},
		{"delete if present of a live entry", remove("live", present), Result{Status: StatusOK, Existed: true, Version: next}},
		{"delete if its version", remove("live", is(current)), Result{Status: StatusOK, Existed: true, Version: next}},
		{"delete if another version", remove("live", is(current+1)), Result{Status: StatusCondition, Existed: true, Version: current}},
		{"delete of an absent key", remove("none", always), Result{Status: StatusOK, Existed: false, Version: 0}},
		{"delete if absent of an absent key", remove("none", absent), Result{Status: StatusOK, Existed: false, Version: 0}},
		{"delete if present of an absent key", remove("none", present), Result{Status: StatusCondition, Existed: false, Version: 0}},
		{"delete of a dead entry", remove("dead", always), Result{Status: StatusOK, Existed: false, Version: 0}},
		{"delete if present of a dead entry", remove("dead", present), Result{Status: StatusCondition, Existed: false, Version: 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := granted(t, 1<<20)
			d.at(1000, put("live"), putTTL("dead", 5))
			before := d.Stats()
			// The batch that moves the clock is the command's own: "dead" is not reclaimed before it.
			got := d.at(1005, c.c)[0]
			if !sameResult(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if changed := d.Stats().Version != before.Version; changed != (c.want.Version == next) {
				t.Errorf("version went from %d to %d", before.Version, d.Stats().Version)
			}
			if got.Status == StatusCondition && !d.Lookup([]byte("live")).Found {
				t.Error("a refused command removed the entry")
			}
		})
	}
}

// TestRefusalOrder ensures that ownership is judged first, then size, then the condition, then the
// counter, so that a refusal names the first thing that a client has to change.
func TestRefusalOrder(t *testing.T) {
	d := granted(t, 8*entryCost)
	bad := put("ab", Cond{Kind: CondPresent})
	bad.Value = []byte("one byte too many")
	check := func(c Command, want Status) {
		t.Helper()
		if got := d.at(0, c)[0]; !sameResult(got, Result{Status: want}) {
			t.Errorf("got %+v, want status %d alone", got, want)
		}
	}
	d.version |= maxCounter
	slot := uint32(Slot([]byte("ab")))
	for _, r := range []Range{{0, slot}, {slot + 1, Slots}} {
		d.owned = r
		check(bad, StatusNotOwner)
		check(remove("ab"), StatusNotOwner)
	}
	d.owned = Range{slot, slot + 1}
	check(bad, StatusTooLarge)
	bad.Value = nil
	check(bad, StatusCondition)
	check(put("ab"), StatusExhausted)
	check(remove("ab"), StatusOK) // absent: nothing to number
}

// TestVersions ensures that versions are the granted bits over a count from 1, raised by each change and
// nothing else, and that a used-up count refuses changes until new bits come.
func TestVersions(t *testing.T) {
	d := granted(t, 1<<20)
	got := d.at(0, put("a"), put("a", Cond{Kind: CondAbsent}), remove("a"), remove("a"), put("a"))
	var versions []uint64
	for _, r := range got {
		versions = append(versions, r.Version)
	}
	if want := []uint64{v1 + 1, v1 + 1, v1 + 2, 0, v1 + 3}; !slices.Equal(versions, want) {
		t.Errorf("versions %d, want %d", versions, want)
	}

	d.version = v1 + maxCounter - 1
	got = d.at(0, put("b"), put("c"), remove("a"), remove("none"))
	if want := []Result{{Status: StatusOK, Version: v1 + maxCounter}, {Status: StatusExhausted}, {Status: StatusExhausted}, {Status: StatusOK}}; !slices.EqualFunc(got, want, sameResult) {
		t.Errorf("at the end of the count: %+v, want %+v", got, want)
	}
	d.at(0, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, Generation: 1, VersionBits: 2, TableVersion: 1}})
	if got := d.at(0, put("c"))[0]; !sameResult(got, Result{Status: StatusOK, Existed: false, Version: 2<<counterBits + 1}) {
		t.Errorf("after a new grant: %+v", got)
	}
	if !d.Lookup([]byte("a")).Found {
		t.Error("a grant of version bits lost an entry")
	}
}

// TestGrantOrder ensures that exactly the newer grants apply, by generation, epoch and version bits, and
// that version bits never fall or repeat.
func TestGrantOrder(t *testing.T) {
	grant := func(generation, epoch uint64, bits uint32) Grant {
		return Grant{Range: Range{0, 100}, Generation: generation, Epoch: epoch, VersionBits: bits, TableVersion: 1}
	}
	for _, c := range []struct {
		g    Grant
		want Status
	}{
		{grant(5, 5, 5), StatusStale},
		{grant(5, 5, 6), StatusOK},
		{grant(5, 6, 5), StatusStale}, // newer, but its bits were used already
		{grant(5, 6, 6), StatusOK},
		{grant(6, 1, 6), StatusOK}, // a new life may begin at any epoch
		{grant(6, 1, 5), StatusStale},
		{grant(4, 9, 9), StatusStale},
		{grant(5, 4, 9), StatusStale},
		{grant(5, 5, 4), StatusStale},
	} {
		d := &driver{t: t, Machine: New()}
		d.at(0, Command{Kind: KindGrant, Grant: grant(5, 5, 5)})
		before := d.Stats()
		if got := d.at(0, Command{Kind: KindGrant, Grant: c.g})[0].Status; got != c.want {
			t.Errorf("%+v: status %d, want %d", c.g, got, c.want)
		}
		before.Applied++
		after := d.Stats()
		if c.want == StatusStale && after != before {
			t.Errorf("%+v is stale and changed %+v to %+v", c.g, before, after)
		}
		if c.want == StatusOK && (after.Generation != c.g.Generation || after.Epoch != c.g.Epoch ||
			after.VersionBits() != c.g.VersionBits || after.Version != uint64(c.g.VersionBits)<<counterBits) {
			t.Errorf("%+v led to %+v", c.g, after)
		}
	}

	fresh := &driver{t: t, Machine: New()}
	if got := fresh.at(0, Command{Kind: KindGrant, Grant: grant(0, 0, 0)})[0].Status; got != StatusStale {
		t.Errorf("a first grant of nothing but zeros: status %d, want stale", got)
	}
	if got := fresh.at(0, Command{Kind: KindGrant, Grant: grant(0, 1, 0)})[0].Status; got != StatusOK {
		t.Errorf("a first grant of version bits 0: status %d", got)
	}
}

// TestGrantDropsForeign ensures that a machine never holds what it does not own: a grant of a smaller
// range drops the rest at once, without counting it as evicted or expired.
func TestGrantDropsForeign(t *testing.T) {
	d := granted(t, 1<<30)
	var commands []Command
	for i := range 500 {
		commands = append(commands, putTTL(fmt.Sprint("key", i), uint64(i%2)*100))
	}
	d.at(0, commands...)
	half := Range{Slots / 2, Slots}
	want := slices.DeleteFunc(d.keys(), func(key string) bool { return !half.Contains(Slot([]byte(key))) })
	d.at(0, Command{Kind: KindGrant, Grant: Grant{Range: half, Epoch: 2, Generation: 1, VersionBits: 2, TableVersion: 1}})
	if got := d.keys(); !slices.Equal(got, want) || len(want) == 0 || len(want) == 500 {
		t.Errorf("%d entries left, want %d", len(got), len(want))
	}
	if s := d.Stats(); s.Evictions != 0 || s.Expirations != 0 || s.Limit != 1<<30 {
		t.Errorf("stats %+v", s)
	}
	if l := d.Lookup([]byte("foo")); !l.Owned || l.Epoch != 2 {
		t.Errorf("slot 12182: %+v", l)
	}
	if l := d.Lookup([]byte("bar")); l.Owned {
		t.Errorf("slot 5061: %+v", l)
	}
}

// TestNothingGranted ensures that a machine without a grant owns no key.
func TestNothingGranted(t *testing.T) {
	d := &driver{t: t, Machine: New()}
	got := d.at(7, put("a"), remove("a"), Command{Kind: KindLimit, Limit: 1 << 20, TableVersion: 3}, put("a"))
	want := []Result{{Status: StatusNotOwner}, {Status: StatusNotOwner}, {Status: StatusOK}, {Status: StatusNotOwner}}
	if !slices.EqualFunc(got, want, sameResult) {
		t.Errorf("results %+v, want %+v", got, want)
	}
	if l := d.Lookup([]byte("a")); l.Owned || l.Found {
		t.Errorf("lookup %+v", l)
	}
}

// TestLogClock ensures that stamps move the clock forward only, that an entry is dead from its very
// millisecond on, and that what died stays dead whatever later stamps say.
func TestLogClock(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(2000, putTTL("a", 10), putTTL("forever", math.MaxUint64), put("b"))
	find := func(key string) Lookup { return d.Lookup([]byte(key)) }
	if l := find("a"); !l.Found || l.Entry.ExpireAt != 2010 {
		t.Fatalf("fresh: %+v", l)
	}
	d.at(2009)
	if l := find("a"); !l.Found || l.Clock != 2009 {
		t.Errorf("a millisecond before its end: %+v", l)
	}
	d.at(2010)
	if l := find("a"); l.Found || l.Entry.Version != 0 {
		t.Errorf("at its end: %+v", l)
	}
	d.at(5)
	if l := find("a"); l.Found || l.Clock != 2010 {
		t.Errorf("after an early stamp: %+v", l)
	}
	if l := find("forever"); l.Entry.ExpireAt != math.MaxUint64 {
		t.Errorf("expiry overflowed: %+v", l)
	}
	// A put counts from the log clock, not from its own late stamp; one without a ttl clears it.
	d.at(1, putTTL("b", 10), put("forever"))
	if l := find("b"); l.Entry.ExpireAt != 2020 {
		t.Errorf("put with an early stamp: %+v", l)
	}
	if l := find("forever"); l.Entry.ExpireAt != 0 {
		t.Errorf("put without a ttl: %+v", l)
	}
	// The clock is set once per batch: a stamp can kill what the same batch meets, not what it puts.
	got := d.at(2020, putTTL("b", 0), putTTL("c", 1))
	if got[0].Existed || !find("b").Found || !find("c").Found {
		t.Errorf("results %+v", got)
	}
}

// TestLevel ensures that the feature level only rises, and that a machine refuses what it has not been
// raised to.
func TestLevel(t *testing.T) {
	d := &driver{t: t, Machine: New()}
	if got := d.Stats().Level; got != baseLevel {
		t.Errorf("a new machine has level %d, want %d", got, baseLevel)
	}
	if _, err := d.Apply(1, Batch{Level: 2}); !errors.Is(err, ErrDivergence) {
		t.Errorf("a batch above the machine's level: %v", err)
	}
	for name, c := range levelTwo {
		for _, level := range []uint8{0, 1} { // whatever the batch says
			if _, err := d.Apply(1, Batch{Level: level, Commands: []Command{c}}); !errors.Is(err, ErrDivergence) {
				t.Errorf("%s on a machine of level 1: %v", name, err)
			}
		}
		if got := LevelOf([]Command{put("a"), c}); got != 2 {
			t.Errorf("%s needs level %d, want 2", name, got)
		}
	}
	if got := LevelOf([]Command{put("a"), remove("b"), {Kind: KindLevel, Level: 2}}); got != 1 {
		t.Errorf("commands of level 1 need level %d", got)
	}
	raise := Command{Kind: KindLevel, Level: 2}
	results, err := d.Apply(1, Batch{Level: 1, Commands: []Command{raise, raise, {Kind: KindLevel, Level: 1}}})
	if want := []Result{{Status: StatusOK}, {Status: StatusStale}, {Status: StatusStale}}; err != nil || !slices.EqualFunc(results, want, sameResult) {
		t.Errorf("raise: %+v, %v; want %+v", results, err, want)
	}
	if _, err := d.Apply(2, Batch{Level: 2}); err != nil {
		t.Errorf("a batch at the raised level: %v", err)
	}
	index := uint64(2)
	for name, commands := range levelThree {
		if got := LevelOf(commands); got != 3 {
			t.Errorf("%s needs level %d, want 3", name, got)
		}
		if _, err := d.Apply(3, Batch{Level: 2, Commands: commands}); !errors.Is(err, ErrDivergence) {
			t.Errorf("%s on a machine of level 2: %v", name, err)
		}
	}
	if _, err := d.Apply(3, Batch{Level: 2, Commands: []Command{{Kind: KindLevel, Level: 3, Seed: 5}}}); err != nil {
		t.Fatal(err)
	}
	for name, commands := range levelThree {
		if _, err := d.Apply(index+2, Batch{Level: 3, Commands: commands}); err != nil {
			t.Errorf("%s at the raised level: %v", name, err)
		}
		index++
	}
}

// levelThree are commands that level 2 doesn't have.
var levelThree = map[string][]Command{
	"get":         {{Kind: KindGet, Key: []byte("k")}},
	"atomic":      {{Kind: KindAtomic, Ops: 1}, put("k")},
	"with a key":  {{Kind: KindAtomic, Ops: 1, IdempotencyKey: "i"}, put("k")},
	"default ttl": {{Kind: KindAtomic, Ops: 1, IdempotencyKey: "j"}, {Kind: KindPut, Key: []byte("k"), DefaultTTL: true}},
}

// TestRaiseKeepsTheSeed ensures that only the raise from level 1 changes hashes: entries are found after the next, and
// fill tokens stay valid.
func TestRaiseKeepsTheSeed(t *testing.T) {
	d := grantedAt(t, 2, 1<<20)
	d.at(1000, put("a"), remove("b"))
	miss := d.Lookup([]byte("b"))
	d.at(1001, Command{Kind: KindLevel, Level: 3, Seed: 99}, put("c"))
	for _, key := range []string{"a", "c"} {
		if !d.Lookup([]byte(key)).Found {
			t.Errorf("%s is not found", key)
		}
	}
	if got := d.at(1002, with(putValue("b", "v"), Cond{Kind: CondFill, Version: miss.Version}))[0]; got.Status != StatusOK {
		t.Errorf("a token of before: %+v", got)
	}
}

// levelTwo are commands that level 1 doesn't have.
var levelTwo = map[string]Command{
	"incr":       {Kind: KindIncr, Key: []byte("k"), Delta: 1},
	"append":     {Kind: KindAppend, Key: []byte("k"), Value: []byte("v")},
	"expire":     {Kind: KindExpire, Key: []byte("k")},
	"touch":      {Kind: KindTouch, Key: []byte("k")},
	"touches":    {Kind: KindTouches, Touches: make([]byte, touchSize)},
	"flush":      {Kind: KindFlush},
	"prefix":     {Kind: KindDeletePrefix, Slots: Range{0, 1}},
	"fill":       {Kind: KindPut, Key: []byte("k"), Cond: Cond{Kind: CondFill}},
	"idempotent": {Kind: KindDelete, Key: []byte("k"), IdempotencyKey: "x"},
	"old value":  {Kind: KindPut, Key: []byte("k"), ReturnOld: true},
}

// TestRaiseChangesCosts ensures that a machine which is raised to level 2 counts its entries anew, and that
// one restored from a snapshot of before does as one that was there all along.
func TestRaiseChangesCosts(t *testing.T) {
	d := &driver{t: t, Machine: New()}
	d.at(1000, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 2000, TableVersion: 1}})
	for i := range 20 {
		d.at(1000, put(fmt.Sprint("k", i)))
	}
	if s := d.Stats(); s.Entries != 9 || s.Bytes != 9*214 {
		t.Errorf("level 1: %+v", s)
	}
	again, err := Restore(bytes.NewReader(snapshotBytes(t, d.Machine)))
	if err != nil {
		t.Fatal(err)
	}
	e := &driver{t: t, Machine: again, index: d.index}
	for _, d := range []*driver{d, e} {
		d.at(1001, Command{Kind: KindLevel, Level: 2, Seed: 77})
		if s := d.Stats(); s.Entries != 9 || s.Bytes != 9*107 {
			t.Errorf("level 2: %+v", s)
		}
		for i := range 20 {
			d.at(1002, put(fmt.Sprint("n", i)), Command{Kind: KindTouch, Key: []byte("k19")})
		}
		if s := d.Stats(); s.Entries != 18 || !d.Lookup([]byte("k19")).Found {
			t.Errorf("level 2, later: %+v", s)
		}
	}
	if d.Checksum() != e.Checksum() {
		t.Error("checksums differ")
	}
}

// TestDivergence ensures that an entry which does not fit the machine is an error and leaves no trace,
// also where only a later command of the batch does not fit.
func TestDivergence(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(1000, put("a"))
	type entry struct {
		index uint64
		b     Batch
	}
	entries := map[string]entry{
		"the same index":           {d.index, Batch{}},
		"an earlier index":         {d.index - 1, Batch{}},
		"batch above MaxLevel":     {d.index + 1, Batch{Level: MaxLevel + 1}},
		"raise above MaxLevel":     {d.index + 1, Batch{Commands: []Command{put("b"), {Kind: KindLevel, Level: MaxLevel + 1}}}},
		"raise and use in a batch": {d.index + 1, Batch{Level: MaxLevel + 1, Commands: []Command{{Kind: KindLevel, Level: MaxLevel + 1}}}},
	}
	for name, c := range malformed {
		entries["malformed: "+name] = entry{d.index + 1, Batch{Commands: []Command{put("b"), c}}}
	}
	before := d.Checksum()
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		e.b.Stamp = 9999
		results, err := d.Apply(e.index, e.b)
		if !errors.Is(err, ErrDivergence) || results != nil {
			t.Errorf("%s: %+v, %v; want ErrDivergence", name, results, err)
		}
		if d.Checksum() != before {
			t.Fatalf("%s: the state changed", name)
		}
	}
}

// TestApplied ensures that the place of the last effect is known, also of a batch without commands.
func TestApplied(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(0, put("a"), put("b"), put("c"))
	if i, p := d.Applied(); i != 3 || p != 2 {
		t.Errorf("Applied() = %d, %d; want 3, 2", i, p)
	}
	d.at(0)
	if i, p := d.Applied(); i != 4 || p != 0 {
		t.Errorf("Applied() after a tick = %d, %d; want 4, 0", i, p)
	}
}

// TestStatsJSON ensures that the names which operators and dashboards read stay, and that the version,
// which needs all 64 bits, is a string.
func TestStatsJSON(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(1001, put("a"))
	got, err := json.Marshal(d.Stats())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"entries":1,"bytes":105,"limit":1048576,"bound":1048576,"tableVersion":1,"evictions":0,"expirations":0,` +
		`"clock":1001,"version":"17592186044417","epoch":1,"generation":1,"range":{"start":0,"end":16384},"level":4,"applied":3,"keys":0,"keyBytes":0}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
