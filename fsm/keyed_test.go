package fsm

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func incr(key string, delta int64) Command {
	return Command{Kind: KindIncr, Key: []byte(key), Delta: delta}
}

func appendTo(key, value string) Command {
	return Command{Kind: KindAppend, Key: []byte(key), Value: []byte(value)}
}

func expire(key string, ttl uint64) Command {
	return Command{Kind: KindExpire, Key: []byte(key), TTL: ttl}
}

func touch(key string) Command { return Command{Kind: KindTouch, Key: []byte(key)} }

func putValue(key, value string) Command {
	return Command{Kind: KindPut, Key: []byte(key), Value: []byte(value)}
}

// with returns c with a condition.
func with(c Command, cond Cond) Command {
	c.Cond = cond
	return c
}

// TestKeyedCommands ensures that each command on one key has exactly the documented result, over each state
// of the key, and that a refused one changes nothing.
func TestKeyedCommands(t *testing.T) {
	absent, present := Cond{Kind: CondAbsent}, Cond{Kind: CondPresent}
	const next = v1 + 6
	value := func(version uint64, existed bool, value, contentType string) Result {
		return Result{Status: StatusOK, Existed: existed, Version: version, HasValue: true, Value: []byte(value), ContentType: contentType}
	}
	created := func(c Command) Command {
		c.TTL, c.ContentType = 500, "c/t"
		return c
	}
	incrTTL := incr("none", 1)
	incrTTL.TTL = 500
	old := putValue("text", "new")
	old.ReturnOld = true
	oldNone := putValue("none", "new")
	oldNone.ReturnOld = true
	oldDead := putValue("dead", "new")
	oldDead.ReturnOld = true
	for _, c := range []struct {
		name     string
		c        Command
		want     Result
		key      string // after it:
		value    string
		expireAt uint64
	}{
		{"incr", incr("n", 5), value(next, true, "46", "t/n"), "n", "46", 2000},
		{"decr below 0", incr("n", -50), value(next, true, "-9", "t/n"), "n", "-9", 2000},
		{"incr by 0", incr("n", 0), value(next, true, "41", "t/n"), "n", "41", 2000},
		{"incr to the end", incr("n", math.MaxInt64-41), value(next, true, "9223372036854775807", "t/n"), "n", "9223372036854775807", 2000},
		{"incr beyond the end", incr("n", math.MaxInt64-40), Result{Status: StatusNotInteger, Existed: true}, "n", "41", 2000},
		{"incr of text", incr("text", 1), Result{Status: StatusNotInteger, Existed: true}, "text", "abc", 0},
		{"incr of nothing much", incr("empty", 1), Result{Status: StatusNotInteger, Existed: true}, "empty", "", 0},
		{"incr that creates", incrTTL, value(next, false, "1", ""), "none", "1", 1600},
		{"incr over a dead one", incr("dead", 3), value(next, false, "3", ""), "dead", "3", 0},
		{"incr if absent", with(incr("n", 1), absent), Result{Status: StatusCondition, Existed: true, Version: v1 + 1}, "n", "41", 2000},
		{"incr if its version", with(incr("n", 1), Cond{Kind: CondVersion, Version: v1 + 1}), value(next, true, "42", "t/n"), "n", "42", 2000},

		{"append", appendTo("text", "de"), value(next, true, "abcde", ""), "text", "abcde", 0},
		{"append keeps the ttl", created(appendTo("n", "0")), value(next, true, "410", "t/n"), "n", "410", 2000},
		{"append nothing", appendTo("text", ""), value(next, true, "abc", ""), "text", "abc", 0},
		{"append that creates", created(appendTo("none", "x")), value(next, false, "x", "c/t"), "none", "x", 1600},
		{"append over a dead one", appendTo("dead", "x"), value(next, false, "x", ""), "dead", "x", 0},
		{"append too much", appendTo("text", string(make([]byte, 1<<17))), Result{Status: StatusTooLarge, Existed: true}, "text", "abc", 0},
		{"append if present", with(appendTo("none", "x"), present), Result{Status: StatusCondition}, "", "", 0},

		{"expire", expire("text", 7), Result{Status: StatusOK, Existed: true, Version: v1 + 2}, "text", "abc", 1107},
		{"persist", expire("n", 0), Result{Status: StatusOK, Existed: true, Version: v1 + 1}, "n", "41", 0},
		{"expire far away", expire("n", math.MaxUint64), Result{Status: StatusOK, Existed: true, Version: v1 + 1}, "n", "41", math.MaxUint64},
		{"expire of nothing", expire("none", 7), Result{Status: StatusNotFound}, "", "", 0},
		{"expire of a dead one", expire("dead", 7), Result{Status: StatusNotFound}, "", "", 0},
		{"expire if another version", with(expire("n", 7), Cond{Kind: CondVersion, Version: v1}), Result{Status: StatusCondition, Existed: true, Version: v1 + 1}, "n", "41", 2000},

		{"touch", touch("n"), Result{Status: StatusOK, Existed: true, Version: v1 + 1}, "n", "41", 2000},
		{"touch of nothing", touch("none"), Result{Status: StatusNotFound}, "", "", 0},
		{"touch of a dead one", touch("dead"), Result{Status: StatusNotFound}, "", "", 0},

		{"old value", old, value(next, true, "abc", ""), "text", "new", 0},
		{"no old value", oldNone, Result{Status: StatusOK, Version: next}, "none", "new", 0},
		{"dead old value", oldDead, Result{Status: StatusOK, Version: next}, "dead", "new", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := granted(t, 1<<20)
			d.at(1000, Command{Kind: KindPut, Key: []byte("n"), Value: []byte("41"), ContentType: "t/n", TTL: 1000},
				putValue("text", "abc"), putValue("empty", ""), putTTL("dead", 5), put("last"))
			before := d.Stats()
			got := d.at(1100, c.c)[0]
			if !sameResult(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if changed := d.Stats().Version != before.Version; changed != (c.want.Version == next) {
				t.Errorf("version went from %d to %d", before.Version, d.Stats().Version)
			}
			if c.key == "" {
				return
			}
			l := d.Lookup([]byte(c.key))
			if string(l.Entry.Value) != c.value || l.Entry.ExpireAt != c.expireAt {
				t.Errorf("%s is %q until %d, want %q until %d", c.key, l.Entry.Value, l.Entry.ExpireAt, c.value, c.expireAt)
			}
			if keys := d.keys(); (keys[len(keys)-1] == c.key) != (c.want.Status == StatusOK) {
				t.Errorf("order %q after a command on %s with status %d", keys, c.key, c.want.Status)
			}
		})
	}
}

// TestValuesOfResultsStay ensures that the value in a result is not changed by what comes later, also of the
// same batch.
func TestValuesOfResultsStay(t *testing.T) {
	d := granted(t, 1<<20)
	got := d.at(0, putValue("n", "9"), incr("n", 1), incr("n", 1), appendTo("n", "x"), appendTo("n", "y"), remove("n"), putValue("n", "zz"))
	d.at(0, Command{Kind: KindFlush})
	for i, want := range []string{"", "10", "11", "11x", "11xy", "", ""} {
		if string(got[i].Value) != want {
			t.Errorf("command %d: value %q, want %q", i, got[i].Value, want)
		}
	}
}

// TestAppendIsBounded ensures that appending stops at MaxValue, whatever the limit allows.
func TestAppendIsBounded(t *testing.T) {
	d := granted(t, 1<<40)
	half := string(make([]byte, MaxValue/2))
	got := d.at(0, appendTo("k", half), appendTo("k", half), appendTo("k", "x"))
	if got[1].Status != StatusOK || len(got[1].Value) != MaxValue || got[2].Status != StatusTooLarge {
		t.Errorf("statuses %d %d %d, length %d", got[0].Status, got[1].Status, got[2].Status, len(got[1].Value))
	}
}

// TestFillToken ensures that a value found elsewhere is stored only where nothing was written or removed
// since the miss that asked for it (R8), whatever removed it.
func TestFillToken(t *testing.T) {
	for name, c := range map[string]struct {
		between []Command
		holds   bool
	}{
		"nothing between":            {nil, true},
		"another slot's put":         {[]Command{put("other")}, true},
		"another slot's delete":      {[]Command{put("other"), remove("other")}, true},
		"a put":                      {[]Command{put("k")}, false},
		"a put and a delete":         {[]Command{put("k"), remove("k")}, false},
		"a put and its end":          {[]Command{putTTL("k", 1)}, false},
		"a delete of what is absent": {[]Command{remove("k")}, true},
		"a flush":                    {[]Command{put("other"), {Kind: KindFlush}}, false},
		"a flush of nothing":         {[]Command{{Kind: KindFlush}}, true},
		"a prefix":                   {[]Command{put("k"), {Kind: KindDeletePrefix, Key: []byte("k"), Slots: Range{0, Slots}, Version: math.MaxUint64}}, false},
		"the slot's put":             {[]Command{put("{k}2")}, true},
		"the slot's delete":          {[]Command{put("{k}2"), remove("{k}2")}, false}, // a false refusal is safe
		"an eviction":                {append([]Command{put("k")}, fill(12)...), false},
	} {
		t.Run(name, func(t *testing.T) {
			d := granted(t, 10*entryCost)
			d.at(1000, put("k"), remove("k"))
			miss := d.Lookup([]byte("k"))
			d.at(1000, c.between...)
			d.at(1002)
			fill := with(putValue("k", "v"), Cond{Kind: CondFill, Version: miss.Version})
			got := d.at(1003, fill)[0]
			if (got.Status == StatusOK) != c.holds || got.Status != StatusOK && got.Status != StatusCondition {
				t.Errorf("fill: %+v, want it to hold: %v", got, c.holds)
			}
			if again := d.at(1004, fill)[0]; again.Status != StatusCondition {
				t.Errorf("a token used twice: %+v", again)
			}
			for _, made := range []uint64{d.version + 1, math.MaxUint64} {
				if got := d.at(1005, with(putValue("k", "v"), Cond{Kind: CondFill, Version: made}))[0]; got.Status != StatusCondition {
					t.Errorf("a token of the version %d, which is to come: %+v", made, got)
				}
			}
		})
	}
}

// fill puts n entries of entryCost.
func fill(n int) (commands []Command) {
	for i := range n {
		commands = append(commands, put(fmt.Sprintf("%02d", i)))
	}
	return commands
}

// TestTouchesMoveInOrder ensures that touches from reads make the order that the reads had, that what is not
// there is passed over, and that versions and expiry stay.
func TestTouchesMoveInOrder(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(1000, put("a"), putTTL("b", 5), put("c"), putTTL("d", 1), put("e"))
	var touches []byte
	for _, key := range []string{"c", "none", "a", "d", "a", "b", "c"} {
		touches = AppendTouch(touches, d.TouchOf([]byte(key)))
	}
	before := d.Stats().Version
	if got := d.at(1001, Command{Kind: KindTouches, Touches: touches})[0]; !sameResult(got, Result{Status: StatusOK}) {
		t.Errorf("result %+v", got)
	}
	if got, want := d.keys(), []string{"e", "a", "b", "c"}; !slices.Equal(got, want) { // d is dead
		t.Errorf("order %q, want %q", got, want)
	}
	if l := d.Lookup([]byte("b")); d.Stats().Version != before || l.Entry.ExpireAt != 1005 || l.Entry.Version != v1+2 {
		t.Errorf("%+v, version %d", l, d.Stats().Version)
	}
}

// TestRecent ensures that of many entries those near the recent end are told, and of few the last alone.
func TestRecent(t *testing.T) {
	d := granted(t, 1<<30)
	recent := func(key string) bool { return d.Lookup([]byte(key)).Recent }
	d.at(1000, fill(12)...)
	if !recent("11") || recent("10") {
		t.Error("of 12 entries: the last alone is recent")
	}
	const n = 6400
	for i := range n {
		d.at(1000, put(fmt.Sprint("key", i)))
	}
	told := 0
	for i := range n {
		if r := recent(fmt.Sprint("key", i)); r {
			told++
			if i < n-n/recentShare {
				t.Fatalf("entry %d of %d counts as recent", i, n)
			}
		}
	}
	if told < n/recentShare*3/4 {
		t.Errorf("%d of %d entries count as recent", told, n)
	}
	d.at(1000, touch("key5"))
	if !recent("key5") {
		t.Error("what was touched last is not recent")
	}
}

// TestStampsMerge ensures that recency stamps carry log time above a counter, so that the orders of two
// machines can be merged, and that no clock makes them stop.
func TestStampsMerge(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(5000, put("a"), put("b"))
	d.at(10, put("c"))
	d.at(math.MaxUint64, put("d"), put("e"))
	var stamps []uint64
	for _, e := range entriesOf(d.Machine) {
		stamps = append(stamps, e.stamp)
	}
	want := []uint64{5000 << 20, 5000<<20 + 1, 5000<<20 + 2, 1 << 63, 1<<63 + 1}
	if !slices.Equal(stamps, want) {
		t.Errorf("stamps %x, want %x", stamps, want)
	}
}

// TestFillTokenOfAFormerGrant ensures that a token doesn't outlive its grant: slots that went and came back,
// or were emptied by a recovery, were written by others in between, of which nothing is known here.
func TestFillTokenOfAFormerGrant(t *testing.T) {
	d := granted(t, 10_000)
	grant := func(r Range, bits uint32) Command {
		return Command{Kind: KindGrant, Grant: Grant{
			Range: r, Epoch: uint64(bits), Generation: 1, VersionBits: bits, Limit: 10_000, TableVersion: uint64(bits),
		}}
	}
	slot := uint32(Slot([]byte("a")))
	d.at(1000, put("b"))
	token := d.Lookup([]byte("a")).Version
	d.at(1000, put("a"), grant(Range{slot + 1, Slots}, 2), grant(Range{0, Slots}, 3))
	l := d.Lookup([]byte("a"))
	if l.Found {
		t.Fatalf("%+v", l)
	}
	if got := d.at(1000, put("a", Cond{Kind: CondFill, Version: token})); got[0].Status != StatusCondition {
		t.Errorf("a token of two grants ago: %+v", got[0])
	}
	if got := d.at(1000, put("a", Cond{Kind: CondFill, Version: l.Version})); got[0].Status != StatusOK {
		t.Errorf("a token of this grant: %+v", got[0])
	}
}

// TestSeedPartsKeys ensures that keys which share a hash without a seed, as who knows the function can make up as many
// as he wants, don't share it where the raise to level 2 brought a seed, and are found before and after it.
func TestSeedPartsKeys(t *testing.T) {
	named := map[Touch]string{}
	var pairs [][2]string
	for i := 0; len(pairs) < 8; i++ {
		key := fmt.Sprint("{a}", i)
		if other, ok := named[unseeded([]byte(key))]; ok {
			pairs = append(pairs, [2]string{other, key})
		}
		named[unseeded([]byte(key))] = key
	}
	d := &driver{t: t, Machine: New()}
	d.at(1000, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 1 << 20, TableVersion: 1}})
	for _, p := range pairs {
		d.at(1000, put(p[0]), put(p[1]))
	}
	shared := func() (n int) {
		for _, p := range pairs {
			a, b := d.Lookup([]byte(p[0])), d.Lookup([]byte(p[1]))
			if !a.Found || !b.Found {
				t.Fatalf("%q: found %v, %q: found %v", p[0], a.Found, p[1], b.Found)
			}
			if a.Touch == b.Touch {
				n++
			}
		}
		return n
	}
	if n := shared(); n != len(pairs) {
		t.Errorf("%d of %d pairs share a hash at level 1", n, len(pairs))
	}
	d.at(1001, Command{Kind: KindLevel, Level: 2, Seed: 12345}, put(pairs[0][0]), put("after"))
	if n := shared(); n != 0 {
		t.Errorf("%d of %d pairs share a hash under a seed", n, len(pairs))
	}
	if got := d.keys(); got[len(got)-1] != "after" || got[len(got)-2] != pairs[0][0] || len(got) != 2*len(pairs)+1 {
		t.Errorf("keys %q", got)
	}
	checkInvariants(t, d.Machine)
}
