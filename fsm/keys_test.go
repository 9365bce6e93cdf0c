package fsm

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

const now = 1_700_000_000_000

// keyed gives c an idempotency key.
func keyed(c Command, key string) Command {
	c.IdempotencyKey = key
	return c
}

// timed is a key of the form that carries its time.
func timed(ms int, random string) string { return fmt.Sprintf("%d-%s", now+ms, random) }

// TestIdempotencyReplay ensures that a change is made once under its key, and answered again with the same
// status, version and small value, whatever happened to the entry since; over a restore too.
func TestIdempotencyReplay(t *testing.T) {
	for _, key := range []string{"opaque", timed(0, "r")} {
		d := granted(t, 1<<20)
		old := keyed(putValue("a", "second"), key+"2")
		old.ReturnOld = true
		commands := []Command{
			keyed(putValue("a", "first"), key), old, keyed(incr("n", 5), key), keyed(appendTo("s", "x"), key),
			keyed(appendTo("long", string(bytes.Repeat([]byte("y"), 65))), key), keyed(expire("s", 9000), key+"3"), keyed(remove("a"), key+"4"),
		}
		first := d.at(now, commands...)
		d.at(now, putValue("a", "third"), incr("n", 1), remove("s"))
		again, err := Restore(bytes.NewReader(snapshotBytes(t, d.Machine)))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []*driver{d, {t: t, Machine: again, index: d.index}} {
			before := d.Stats().Version
			for i, got := range d.at(now+IdempotencyWindow-1, commands...) {
				want := first[i]
				want.Replayed = true
				if i == 4 { // more than is remembered
					want.HasValue, want.Value, want.ContentType = false, nil, ""
				}
				if want.Status != StatusOK || !sameResult(got, want) {
					t.Errorf("command %d again: %+v, want %+v", i, got, want)
				}
			}
			if d.Stats().Version != before {
				t.Error("something was changed again")
			}
		}
		// The window is over: an opaque key is new again, one with a time never is.
		got := d.at(now+IdempotencyWindow, keyed(putValue("a", "first"), key))[0]
		if want := map[bool]Status{true: StatusOK, false: StatusKeyTooOld}[key == "opaque"]; got.Status != want || got.Replayed {
			t.Errorf("%s after the window: %+v, want status %d", key, got, want)
		}
	}
}

// TestIdempotencyScope ensures that a key is the caller's own and the slot's, that another command under it
// is refused, that a refused command or one that changes nothing is not remembered, and that ownership comes
// first.
func TestIdempotencyScope(t *testing.T) {
	d := granted(t, 1<<20)
	bob := keyed(putValue("a", "1"), "k")
	bob.Caller = "bob"
	status := func(c Command) Status {
		t.Helper()
		return d.at(now, c)[0].Status
	}
	if got := d.at(now, keyed(putValue("a", "1"), "k"), bob, keyed(putValue("b", "1"), "k")); slices.ContainsFunc(got, func(r Result) bool { return r.Status != StatusOK || r.Replayed }) {
		t.Errorf("scopes: %+v", got)
	}
	for name, c := range map[string]Command{
		"another value":     putValue("a", "2"),
		"another kind":      appendTo("a", "1"),
		"another ttl":       {Kind: KindPut, Key: []byte("a"), Value: []byte("1"), TTL: 1},
		"another type":      {Kind: KindPut, Key: []byte("a"), Value: []byte("1"), ContentType: "x"},
		"another condition": with(putValue("a", "1"), Cond{Kind: CondPresent}),
		"the slot's other":  putValue("{a}", "1"),
	} {
		if got := status(keyed(c, "k")); got != StatusKeyReused {
			t.Errorf("%s: status %d", name, got)
		}
	}
	refused := keyed(with(putValue("c", "1"), Cond{Kind: CondPresent}), "r")
	if got := status(refused); got != StatusCondition {
		t.Errorf("status %d", got)
	}
	d.at(now, put("c"))
	if got := d.at(now, refused)[0]; got.Status != StatusOK || got.Replayed {
		t.Errorf("a refusal was remembered: %+v", got)
	}
	d.at(now, keyed(remove("z"), "r"), put("z"))
	if got := d.at(now, keyed(remove("z"), "r"))[0]; got.Replayed || !got.Existed {
		t.Errorf("a delete of nothing was remembered: %+v", got)
	}
	d.at(now, Command{Kind: KindGrant, Grant: Grant{Range: Range{0, 1}, Epoch: 2, Generation: 1, VersionBits: 2, TableVersion: 1}})
	if got := status(keyed(putValue("a", "1"), "k")); got != StatusNotOwner {
		t.Errorf("not the owner: status %d", got)
	}
	if s := d.Stats(); s.Keys != 0 || s.KeyBytes != 0 {
		t.Errorf("%d keys of slots that went away", s.Keys)
	}
}

// TestIdempotencyNextGeneration ensures that a change which was made before its shard began a new generation, empty or with what a
// replica had, is not made again under its key.
func TestIdempotencyNextGeneration(t *testing.T) {
	next := func(generation uint64) Command {
		return Command{Kind: KindGrant, Grant: Grant{Range: Range{0, Slots}, Epoch: generation, Generation: generation,
			VersionBits: uint32(generation), Limit: 1 << 20, TableVersion: generation}}
	}
	raise := Command{Kind: KindLevel, Level: 2, Seed: 1}
	for name, lives := range map[string]func() *driver{
		"emptied": func() *driver {
			d := &driver{t: t, Machine: New()}
			d.at(now+100, next(2), raise)
			return d
		},
		"kept": func() *driver {
			d := &driver{t: t, Machine: New()}
			d.at(now-1, next(1), raise)
			d.at(now+100, next(2))
			return d
		},
	} {
		d := lives()
		if got := d.at(now+100, keyed(incr("n", 1), timed(100, "old")))[0]; got.Status != StatusKeyTooOld {
			t.Errorf("%s: a key of the former generation: %+v", name, got)
		}
		if got := d.at(now+100, keyed(incr("n", 1), timed(101, "new")))[0]; got.Status != StatusOK {
			t.Errorf("%s: a later key: %+v", name, got)
		}
	}
	d := &driver{t: t, Machine: New()}
	d.at(now, next(1), raise)
	if got := d.at(now, keyed(incr("n", 1), timed(0, "first")))[0]; got.Status != StatusOK {
		t.Errorf("in the first generation: %+v", got)
	}
}

// TestIdempotencyDefaultTTL ensures that a change without a TTL of its own is answered again when the default has
// changed since, and stays what it was made; to ask for a TTL, or for none, is another change.
func TestIdempotencyDefaultTTL(t *testing.T) {
	for name, c := range map[string]Command{"put": putValue("a", "1"), "incr": incr("a", 1), "append": appendTo("a", "1")} {
		d := granted(t, 1<<20)
		c = keyed(c, "k")
		c.DefaultTTL = true
		first := d.at(now, c)[0]
		later := c
		later.TTL = 5
		got := d.at(now, later)[0]
		if first.Status != StatusOK || got.Status != StatusOK || !got.Replayed || got.Version != first.Version {
			t.Errorf("%s: %+v, then %+v", name, first, got)
		}
		if e := d.Lookup([]byte("a")).Entry; e.ExpireAt != 0 {
			t.Errorf("%s: the entry ends at %d now", name, e.ExpireAt)
		}
		for _, ttl := range []uint64{0, 5} {
			asked := c
			asked.TTL, asked.DefaultTTL = ttl, false
			if got := d.at(now, asked)[0]; got.Status != StatusKeyReused {
				t.Errorf("%s with a TTL of %d: %+v", name, ttl, got)
			}
		}
	}
}

// TestIdempotencyTimes ensures that keys with a time are judged by the log clock.
func TestIdempotencyTimes(t *testing.T) {
	for key, want := range map[string]Status{
		timed(0, "r"):                     StatusOK,
		timed(IdempotencyAhead, "r"):      StatusOK,
		timed(IdempotencyAhead+1, "r"):    StatusKeyTooNew,
		timed(-IdempotencyWindow+1, "r"):  StatusOK,
		timed(-IdempotencyWindow, "r"):    StatusKeyTooOld,
		timed(-IdempotencyWindow, ""):     StatusOK, // nothing random: opaque
		"0700000000000-r":                 StatusOK, // no 13 digits
		"170000000000-r":                  StatusOK,
		"17000000000000-r":                StatusOK,
		"1600000000000-r":                 StatusKeyTooOld,
		"160000000000x-r":                 StatusOK,
		"9999999999999-r":                 StatusKeyTooNew,
		"f81d4fae-7dec-11d0-a765-00a0c91": StatusOK,
	} {
		d := granted(t, 1<<20)
		if got := d.at(now, keyed(put("a"), key))[0].Status; got != want {
			t.Errorf("%s: status %d, want %d", key, got, want)
		}
	}
}

// TestIdempotencyMemory ensures that the memory stays within its share of the limit and is counted in it,
// that the oldest keys with a time go first and the horizon tells of them, and that opaque keys are refused
// when nothing else can go.
func TestIdempotencyMemory(t *testing.T) {
	const limit = 1 << 20
	d := granted(t, limit)
	const n = 2000
	for i := range n {
		r := d.at(now, keyed(put("a"), timed(i, "r")))[0]
		if r.Status != StatusOK || r.Replayed {
			t.Fatalf("key %d: %+v", i, r)
		}
		if s := d.Stats(); s.KeyBytes > limit/keysShare || s.Bytes != s.KeyBytes+uint64(s.Entries)*Cost(1, 0, 0) {
			t.Fatalf("%+v", s)
		}
	}
	kept := d.Stats().Keys
	if kept < 300 || d.horizon != uint64(now+n-kept-1) {
		t.Fatalf("%d kept, horizon %d", kept, d.horizon-now)
	}
	got := d.at(now, keyed(put("a"), timed(n-kept-1, "r")), keyed(put("a"), timed(n-kept, "r")), keyed(put("a"), timed(n-kept-500, "r")))
	if got[0].Status != StatusKeyTooOld || !got[1].Replayed || got[2].Status != StatusKeyTooOld {
		t.Errorf("around the horizon: %+v", got)
	}
	// One that would be the first to go is done and not remembered: the horizon answers for it.
	late := &driver{t: t, Machine: granted(t, limit).Machine, index: 10}
	for i := range kept + 10 {
		late.at(now, keyed(put("a"), timed(i+5000, "r")))
	}
	horizon := int(late.horizon - now)
	c := keyed(incr("n", 1), timed(horizon+1, "new"))
	first, second := late.at(now, c)[0], late.at(now, c)[0]
	if first.Status != StatusOK || second.Replayed != (second.Status == StatusOK) || second.Status != StatusOK && second.Status != StatusKeyTooOld {
		t.Errorf("the oldest of all: %+v, then %+v", first, second)
	}
	if l := late.Lookup([]byte("n")); string(l.Entry.Value) != "1" {
		t.Errorf("applied to %q", l.Entry.Value)
	}

	full := -1
	for i := range n {
		if r := d.at(now, keyed(incr("n", 1), fmt.Sprint("opaque", i)))[0]; r.Status != StatusOK {
			full = i
			if r.Status != StatusKeysFull {
				t.Fatalf("opaque key %d: %+v", i, r)
			}
			break
		}
	}
	if full < 300 || d.idempotency().timed.len() != 0 {
		t.Fatalf("full after %d opaque keys, with %d others", full, d.idempotency().timed.len())
	}
	if l := d.Lookup([]byte("n")); string(l.Entry.Value) != fmt.Sprint(full) {
		t.Errorf("%d changes made %q", full, l.Entry.Value)
	}
	if r := d.at(now, keyed(incr("n", 1), "opaque5"))[0]; !r.Replayed || string(r.Value) != "6" {
		t.Errorf("a protected key: %+v", r)
	}
	// A key with a time goes on: done, and too old from then on.
	c = keyed(incr("n", 1), timed(n+5, "r"))
	if first, second := d.at(now, c)[0], d.at(now, c)[0]; first.Status != StatusOK || second.Status != StatusKeyTooOld {
		t.Errorf("with a memory full of others: %+v, then %+v", first, second)
	}
	d.at(now + IdempotencyWindow)
	d.at(now + IdempotencyWindow)
	d.at(now + IdempotencyWindow)
	if s := d.Stats(); s.Keys != 0 {
		t.Errorf("%d keys after the window", s.Keys)
	}
}

// idempotency is the memory of keys, which driver's own method hides.
func (d *driver) idempotency() *keyMemory { return &d.Machine.keys }

// TestIdempotencyUnderALoweredLimit ensures that the memory comes down with the limit.
func TestIdempotencyUnderALoweredLimit(t *testing.T) {
	d := granted(t, 1<<20)
	for i := range 400 {
		d.at(now, keyed(put("a"), timed(i, "r")))
	}
	d.at(now, Command{Kind: KindLimit, Limit: 1 << 16, TableVersion: 2})
	if s := d.Stats(); s.KeyBytes > 1<<16/keysShare || s.Keys == 0 || d.horizon != uint64(now+400-s.Keys-1) {
		t.Errorf("%+v, horizon %d", s, d.horizon-now)
	}
	for i := range 20 {
		d.at(now, keyed(put("a"), fmt.Sprint("opaque", i)))
	}
	d.at(now, Command{Kind: KindLimit, Limit: 0, TableVersion: 3})
	if s := d.Stats(); s.Entries != 0 || s.Bound != s.KeyBytes || s.Keys == 0 {
		t.Errorf("limit 0: %+v", s)
	}
}
