package fsm

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// together holds commands together, under an idempotency key unless that is "".
func together(key string, commands ...Command) []Command {
	return append([]Command{{Kind: KindAtomic, Ops: uint32(len(commands)), IdempotencyKey: key}}, commands...)
}

func get(key string) Command { return Command{Kind: KindGet, Key: []byte(key)} }

// statuses are those of results.
func statuses(results []Result) (s []Status) {
	for _, r := range results {
		s = append(s, r.Status)
	}
	return s
}

// TestGetBetween ensures that a get sees what the commands before it in the entry did, and nothing of those after it,
// and that it changes nothing but the clock.
func TestGetBetween(t *testing.T) {
	d := granted(t, 1<<20)
	got := d.at(1000, get("k"), Command{Kind: KindPut, Key: []byte("k"), Value: []byte("1"), ContentType: "t/x", TTL: 50}, get("k"), put("x"),
		incr("k", 1), get("k"), remove("k"), get("k"))
	want := []Result{0: {}, 2: {Existed: true, Version: v1 + 1, HasValue: true, Value: []byte("1"), ContentType: "t/x", TTL: 50},
		5: {Existed: true, Version: v1 + 3, HasValue: true, Value: []byte("2"), ContentType: "t/x", TTL: 50}, 7: {}}
	for i, w := range want {
		if w.Status = StatusOK; i%5 != 0 && i != 2 && i != 7 {
			continue
		}
		if !sameResult(got[i], w) {
			t.Errorf("get %d: %+v, want %+v", i, got[i], w)
		}
	}
	d.at(1001, put("old"), putTTL("k", 5))
	before := d.keys()
	if r := d.at(1005, get("k"), get("old")); r[0].TTL != 1 || !slices.Equal(d.keys(), before) {
		t.Errorf("%+v, and the order is %q", r, d.keys())
	}
	if r := d.at(1006, get("k")); r[0].Existed {
		t.Errorf("a dead entry: %+v", r)
	}
}

// TestAtomicRefused ensures that commands which are held together leave no trace where one of them is refused, whatever
// refuses it, which has its own status while the others say that they were not applied because of another.
func TestAtomicRefused(t *testing.T) {
	long := func(key string, n int) Command {
		return Command{Kind: KindPut, Key: []byte(key), Value: []byte(strings.Repeat("v", n))}
	}
	const limit = 1 << 14
	for name, c := range map[string]struct {
		commands []Command
		refused  int
		status   Status
		version  uint64
	}{
		"a key that is there":         {[]Command{put("a"), with(put("there"), Cond{Kind: CondAbsent}), put("b")}, 1, StatusCondition, v1 + 1},
		"one that was just stored":    {[]Command{put("a"), with(put("a"), Cond{Kind: CondAbsent})}, 1, StatusCondition, 0}, // as it is absent
		"one that was just deleted":   {[]Command{remove("there"), with(remove("there"), Cond{Kind: CondPresent})}, 1, StatusCondition, v1 + 1},
		"another version":             {[]Command{incr("n", 1), with(incr("n", 1), Cond{Kind: CondVersion, Version: v1 + 4})}, 1, StatusCondition, v1 + 2},
		"the first":                   {[]Command{with(remove("none"), Cond{Kind: CondPresent}), put("a")}, 0, StatusCondition, 0},
		"no entry to touch":           {[]Command{put("a"), {Kind: KindTouch, Key: []byte("none")}}, 1, StatusNotFound, 0},
		"no entry to expire":          {[]Command{remove("there"), expire("there", 5)}, 1, StatusNotFound, 0},
		"no integer":                  {[]Command{put("a"), incr("there", 1)}, 1, StatusNotInteger, 0},
		"no integer any more":         {[]Command{appendTo("n", "x"), incr("n", 1)}, 1, StatusNotInteger, 0},
		"an integer that is too long": {[]Command{appendTo("n", strings.Repeat("1", 19)), incr("n", 1)}, 1, StatusNotInteger, 0},
		"a put that is too large":     {[]Command{put("a"), long("b", limit/8)}, 1, StatusTooLarge, 0},
		"an append that becomes so":   {[]Command{long("a", limit/16), appendTo("a", strings.Repeat("v", limit/16))}, 1, StatusTooLarge, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := granted(t, limit)
			d.at(1000, putValue("there", "v"), putValue("n", "7"))
			sum := d.store.contentSum()
			keys, version := d.keys(), d.version
			for _, key := range []string{"", "i"} {
				got := d.at(1000, together(key, c.commands...)...)
				want := slices.Repeat([]Status{StatusAborted}, len(c.commands)+1)
				want[1+c.refused] = c.status
				if !slices.Equal(statuses(got), want) || got[1+c.refused].Version != c.version {
					t.Errorf("%+v, want statuses %v and version %d", got, want, c.version)
				}
			}
			if d.store.contentSum() != sum || !slices.Equal(d.keys(), keys) || d.version != version || d.Stats().Keys != 0 {
				t.Errorf("keys %q, version %d: something is left of it", d.keys(), d.version)
			}
		})
	}
}

// contentSum is the sum of what is stored, without the order.
func (s *store) contentSum() (sum [2]uint64) {
	for i := range s.summed {
		for j, part := range s.summed[i].content {
			sum[j] ^= part
		}
	}
	return sum
}

// TestAtomicApplies ensures that commands which are held together apply one after the other, that gets among them see
// what is before them, and that each has its own place.
func TestAtomicApplies(t *testing.T) {
	d := granted(t, 1<<20)
	got := d.at(1000, append([]Command{put("first")}, append(together("", with(put("a"), Cond{Kind: CondAbsent}), get("a"), incr("n", 2), incr("n", 3),
		with(remove("a"), Cond{Kind: CondPresent}), get("a"), expire("n", 9)), put("last"))...)...)
	for i, r := range got {
		if r.Status != StatusOK {
			t.Errorf("command %d: %+v", i, r)
		}
	}
	if got[3].Version != v1+2 || !got[3].Existed || string(got[5].Value) != "5" || got[7].Existed || got[1].Version != v1+5 || got[8].Version != v1+4 {
		t.Errorf("%+v", got)
	}
	if _, position := d.Applied(); position != 9 || !slices.Equal(d.keys(), []string{"first", "n", "last"}) {
		t.Errorf("position %d, keys %q", position, d.keys())
	}
}

// TestAtomicEvictsAfterwards ensures that nothing is evicted between commands that are held together, since what was judged
// would no longer hold, and that the bound is kept after them.
func TestAtomicEvictsAfterwards(t *testing.T) {
	d := granted(t, 10*entryCost)
	d.at(1000, fill(10)...)
	var commands []Command
	for i := range 5 {
		commands = append(commands, put(fmt.Sprintf("n%d", i)))
	}
	got := d.at(1000, together("", append(commands, with(put("00"), Cond{Kind: CondPresent}))...)...)
	if got[6].Status != StatusOK || !got[6].Existed {
		t.Errorf("%+v: what comes later was evicted before", got[6])
	}
	if want := []string{"06", "07", "08", "09", "n0", "n1", "n2", "n3", "n4", "00"}; !slices.Equal(d.keys(), want) {
		t.Errorf("keys %q, want %q", d.keys(), want)
	}
}

// TestAtomicOutOfVersions ensures that commands which are held together are refused where versions for all of them are no
// longer there.
func TestAtomicOutOfVersions(t *testing.T) {
	d := granted(t, 1<<20)
	d.version = v1 + maxCounter - 2
	if got := statuses(d.at(1000, together("", put("a"), put("b"), remove("none"), put("c"))...)); !slices.Equal(got, []Status{StatusAborted, StatusAborted, StatusAborted, StatusAborted, StatusExhausted}) {
		t.Errorf("statuses %v", got)
	}
	if got := statuses(d.at(1000, together("", put("a"), put("b"))...)); !slices.Equal(got, []Status{StatusOK, StatusOK, StatusOK}) {
		t.Errorf("statuses %v", got)
	}
}

// TestAtomicReplay ensures that commands held together under an idempotency key are applied once, that a replay has the
// versions that they made and says what was there, and that others under the key are refused.
func TestAtomicReplay(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(1_700_000_000_000, put("there"))
	commands := []Command{put("there"), put("new"), remove("none"), incr("n", 5), expire("n", 100), remove("there"), appendTo("n", "0")}
	for i := range 20 { // so that more than a byte says what was there
		commands = append(commands, put(fmt.Sprint("more", i%15)))
	}
	commands[1].TTL, commands[1].DefaultTTL = 5, true
	const key = "1700000000000-r"
	first := d.at(0, together(key, commands...)...)
	sum := d.store.contentSum()
	commands[1].TTL = 7
	again := d.at(0, together(key, commands...)...)
	for i, r := range first {
		want := Result{Status: StatusOK, Existed: r.Existed, Version: r.Version, Replayed: true}
		if r.Status != StatusOK || i > 0 && commands[i-1].Kind == KindExpire {
			want.Version = 0
		}
		if !sameResult(again[i], want) {
			t.Errorf("replay %d: %+v, want %+v", i, again[i], want)
		}
	}
	if d.store.contentSum() != sum || d.Stats().Keys != 1 {
		t.Error("it was applied twice")
	}
	for name, other := range map[string][]Command{
		"fewer":                commands[:len(commands)-1],
		"another order":        append([]Command{commands[0], commands[2], commands[1]}, commands[3:]...),
		"a ttl of one's own":   append([]Command{commands[0], putTTL("new", 7)}, commands[2:]...),
		"the first, by itself": commands[:1],
	} {
		if got := d.at(0, together(key, other...)...); got[0].Status != StatusKeyReused || got[1].Status != StatusAborted {
			t.Errorf("%s: %+v", name, got[:2])
		}
	}
	one := commands[0]
	one.IdempotencyKey = key
	if got := d.at(0, one)[0]; got.Status != StatusKeyReused {
		t.Errorf("a command by itself under the key: %+v", got)
	}
	if got := d.at(0, together("1600000000000-r", put("a"))...); got[0].Status != StatusKeyTooOld {
		t.Errorf("an old key: %+v", got)
	}
	if d.at(0, together("1700000000001-r", remove("none"))...); d.Stats().Keys != 1 {
		t.Error("what changed nothing is remembered")
	}
}

// TestAtomicNotOwner ensures that commands held together are refused as a whole where one key is not owned.
func TestAtomicNotOwner(t *testing.T) {
	d := granted(t, 1<<20)
	slot := uint32(Slot([]byte("a")))
	d.at(1000, Command{Kind: KindGrant, Grant: Grant{Range: Range{slot, slot + 1}, Epoch: 2, Generation: 1, VersionBits: 2, Limit: 1 << 20, TableVersion: 2}})
	for _, key := range []string{"", "i"} {
		got := d.at(1000, append(together(key, put("a"), put("b")), put("a"))...)
		if !slices.Equal(statuses(got), []Status{StatusNotOwner, StatusNotOwner, StatusNotOwner, StatusOK}) {
			t.Errorf("%+v", got)
		}
	}
}

// TestAtomicMeetsDead ensures that an entry which is dead, and not removed yet, counts as none.
func TestAtomicMeetsDead(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(1000, Command{Kind: KindPut, Key: []byte("k"), Value: []byte("no number"), TTL: 5})
	got := d.at(1005, together("", get("k"), incr("k", 3), with(remove("k"), Cond{Kind: CondPresent}), with(put("k"), Cond{Kind: CondAbsent}))...)
	if got[0].Status != StatusOK || got[1].Existed || string(got[2].Value) != "3" {
		t.Errorf("%+v", got)
	}
}

// TestAtomicKeyWithoutChange ensures that commands which change nothing need no room for their idempotency key, while others
// are refused where there is none.
func TestAtomicKeyWithoutChange(t *testing.T) {
	d := granted(t, 16*1000)
	if got := d.at(1000, together("opaque", remove("none"))...); !slices.Equal(statuses(got), []Status{StatusOK, StatusOK}) {
		t.Errorf("without a change: %+v", got)
	}
	if got := d.at(1000, together("opaque", remove("none"), put("a"))...); !slices.Equal(statuses(got), []Status{StatusKeysFull, StatusAborted, StatusAborted}) {
		t.Errorf("with one: %+v", got)
	}
}

// TestAtomicOfOne ensures that one command held together with no other is another change than the command by itself, so
// that neither answers for the other under the same idempotency key.
func TestAtomicOfOne(t *testing.T) {
	one := put("a")
	one.IdempotencyKey = "i"
	for name, commands := range map[string][2][]Command{
		"held together later": {{one}, together("i", put("a"))},
		"by itself later":     {together("i", put("a")), {one}},
	} {
		d := granted(t, 1<<20)
		d.at(1000, commands[0]...)
		if got := d.at(1000, commands[1]...); got[0].Status != StatusKeyReused {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestAtomicForgedFingerprint ensures that a record of another change whose fingerprint is the same, as fingerprints can be
// forged, is none that a replay is made of.
func TestAtomicForgedFingerprint(t *testing.T) {
	d := granted(t, 1<<20)
	d.at(1000)
	commands := together("i", put("a"))
	id, _ := d.recallIn(Slot([]byte("a")), &commands[0], d.fingerprintAll(&commands[0], commands[1:]))
	d.remember(&id, &Result{Version: d.version})
	if got := statuses(d.at(1000, commands...)); !slices.Equal(got, []Status{StatusKeyReused, StatusAborted}) {
		t.Errorf("statuses %v", got)
	}
}

// TestAtomicAtTheEndOfTime ensures that commands which are held together are judged as they then apply also where no time is left to
// live: what has any is dead at once.
func TestAtomicAtTheEndOfTime(t *testing.T) {
	for name, c := range map[string]struct {
		first, then Command
		refused     Status
	}{
		"put":       {putTTL("k", 5), touch("k"), StatusNotFound},
		"put over":  {putTTL("old", 5), with(put("old"), Cond{Kind: CondPresent}), StatusCondition},
		"expire":    {expire("old", 5), touch("old"), StatusNotFound},
		"increment": {Command{Kind: KindIncr, Key: []byte("k"), TTL: 5}, touch("k"), StatusNotFound},
		"append":    {Command{Kind: KindAppend, Key: []byte("k"), TTL: 5}, with(appendTo("k", "x"), Cond{Kind: CondPresent}), StatusCondition},
		"kept":      {Command{Kind: KindAppend, Key: []byte("old"), TTL: 5}, touch("old"), StatusOK},
		"deleted":   {putTTL("k", 5), remove("k"), StatusOK},
	} {
		d := granted(t, 1<<20)
		d.at(math.MaxUint64, put("old"))
		whole := StatusOK
		if c.refused != StatusOK {
			whole = StatusAborted
		}
		if got := d.at(0, together("", c.first, c.then)...); got[0].Status != whole || got[2].Status != c.refused {
			t.Errorf("%s: %v", name, statuses(got))
		}
	}
}
