package fsm

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// scan lists keys page by page and compares them with the twin's, sorted; and the state stays what it was.
func (m *model) scan(t *rapid.T) {
	prefix := rapid.SampledFrom([]string{"", "k", "k1", "k12", "fill1", "x", "{"}).Draw(t, "prefix")
	q := Scan{Prefix: []byte(prefix), Limit: rapid.IntRange(1, 7).Draw(t, "limit")}
	look := rapid.SampledFrom([]int{1, 20, scanLook}).Draw(t, "look")
	if len(m.twin.entries) > 50 {
		q.Limit, look = 400, scanLook
	}
	var want []string
	for _, e := range m.twin.entries {
		if !m.twin.dead(e) && strings.HasPrefix(e.key, prefix) {
			want = append(want, e.key)
		}
	}
	slices.SortFunc(want, compareKeys)
	before := m.straight.Checksum()
	var got []string
	q.From.Slot = uint32(m.twin.start)
	for m.twin.granted && q.From.Slot < uint32(m.twin.end) {
		p := m.straight.scan(q, look)
		if !p.Owned || p.Epoch != m.twin.epoch || len(p.Keys) > q.Limit || p.Due != 0 {
			t.Fatalf("from %+v: %+v", q.From, p)
		}
		if p.Next.Slot < q.From.Slot || p.Next.Slot == q.From.Slot && bytes.Compare(p.Next.After, q.From.After) <= 0 {
			t.Fatalf("from %+v on to %+v", q.From, p.Next)
		}
		for _, key := range p.Keys {
			got = append(got, string(key))
		}
		q.From = p.Next
	}
	if m.twin.granted && !slices.Equal(got, want) {
		t.Fatalf("prefix %q: got %q, want %q", prefix, got, want)
	}
	if m.straight.Checksum() != before {
		t.Fatal("a scan changed the state")
	}
}

func compareKeys(a, b string) int {
	return cmp.Or(cmp.Compare(Slot([]byte(a)), Slot([]byte(b))), cmp.Compare(a, b))
}

// listKeys returns all keys that begin with prefix, and in how many pages they came.
func listKeys(t *testing.T, m *Machine, prefix string, limit, look int) (keys []string, pages int) {
	t.Helper()
	q := Scan{Prefix: []byte(prefix), Limit: limit}
	for q.From = q.From.Within(q.Prefix); q.From.Slot < Slots; pages++ {
		p := m.scan(q, look)
		if !p.Owned || len(p.Keys) > limit {
			t.Fatalf("from %+v: owned %t, %d keys", q.From, p.Owned, len(p.Keys))
		}
		for _, key := range p.Keys {
			keys = append(keys, string(key))
		}
		q.From = p.Next
	}
	return keys, pages
}

// TestScanSlot ensures that the keys of a slot which has most of them come in order and each once, whatever the limit; that a
// prefix with a whole tag makes that slot alone be looked at; and that keys which are hard to tell from the cursor are listed.
func TestScanSlot(t *testing.T) {
	d := granted(t, 1<<30)
	var want, commands = []string{}, []Command{}
	for i := range 3000 {
		want = append(want, fmt.Sprint("{hot}:", i), fmt.Sprint("user:", i))
	}
	want = append(want, "{hot}:", "{hot}:\x00", "{hot}:\x00\x00", "{hot}:\xff", "{hot}:\xff\xff", "\x00", "\xff")
	for _, key := range want {
		commands = append(commands, put(key))
	}
	d.at(0, commands...)
	slices.SortFunc(want, compareKeys)
	for _, limit := range []int{1, 7, 1000, MaxPage} {
		for _, prefix := range []string{"", "{hot}:", "{hot}:\x00", "user:29", "{hot}:29", "{hot"} {
			if limit == 1 && len(prefix) < 7 {
				continue // a page for each would take long
			}
			mine := slices.DeleteFunc(slices.Clone(want), func(key string) bool { return !strings.HasPrefix(key, prefix) })
			got, pages := listKeys(t, d.Machine, prefix, limit, scanLook)
			if !slices.Equal(got, mine) {
				t.Errorf("%q by %d: got %d keys, want %d", prefix, limit, len(got), len(mine))
			}
			if strings.HasPrefix(prefix, "{hot}") && pages > len(mine)/limit+1 {
				t.Errorf("%q by %d: %d pages for %d keys of one slot", prefix, limit, pages, len(mine))
			}
		}
	}
}

// TestScanIsBounded ensures that a page ends, with few keys or none, once it has looked at enough, and at its bytes; and that
// the next one goes on from there.
func TestScanIsBounded(t *testing.T) {
	d := granted(t, 1<<30)
	for i := range 100 {
		var commands []Command
		for j := range 100 {
			commands = append(commands, put(fmt.Sprintf("k%04d", i*100+j)))
		}
		d.at(0, commands...)
	}
	keys, pages := listKeys(t, d.Machine, "k123", 100, 500)
	if len(keys) != 10 || pages < 18 || pages > 25 {
		t.Errorf("%d keys in %d pages of 500 entries out of 10,000", len(keys), pages)
	}
	long := strings.Repeat("x", MaxKey-10)
	for i := range 30 {
		var commands []Command
		for j := range 50 {
			commands = append(commands, put(fmt.Sprintf("{l}%s%d", long, i*50+j)))
		}
		d.at(0, commands...)
	}
	if keys, pages = listKeys(t, d.Machine, "{l}", MaxPage, scanLook); len(keys) != 1500 || pages != 2 {
		t.Errorf("%d long keys in %d pages", len(keys), pages)
	}
}

// TestScanTime ensures that what is dead by the log clock is not listed though it is not removed yet, and that a page tells
// which of its keys are due by a later time.
func TestScanTime(t *testing.T) {
	d := granted(t, 1<<30)
	commands := []Command{put("stays"), putTTL("due", 50), putTTL("later", 60), putTTL("last", 900)}
	for i := range MaxReclaim + 10 {
		commands = append(commands, putTTL(fmt.Sprint("dead", i), 10))
	}
	d.at(1000, commands...)
	d.at(1011)
	if n := d.Stats().Entries; n != 14 {
		t.Fatalf("%d entries: some are to be dead and not removed", n)
	}
	for now, want := range map[uint64]uint64{0: 0, 1049: 0, 1050: 1050, 1100: 1060} {
		p := d.Scan(Scan{Limit: 100, Now: now})
		if len(p.Keys) != 4 || p.Due != want || p.Next.Slot != Slots {
			t.Errorf("at %d: %q, due %d, next %+v", now, p.Keys, p.Due, p.Next)
		}
	}
}

// TestScanOwnership ensures that nothing is listed from a slot of another shard, and that a page ends with the range.
func TestScanOwnership(t *testing.T) {
	d := &driver{t: t, Machine: New()}
	d.at(0, Command{Kind: KindGrant, Grant: Grant{Range: Range{100, 200}, Epoch: 7, VersionBits: 1, Limit: 1 << 20, TableVersion: 1}})
	for slot, owned := range map[uint32]bool{0: false, 99: false, 100: true, 199: true, 200: false, Slots: false, 1 << 20: false} {
		p := d.Scan(Scan{Limit: 10, From: Cursor{Slot: slot}})
		if p.Owned != owned || p.Epoch != 7 || owned && p.Next.Slot != 200 {
			t.Errorf("from %d: %+v", slot, p)
		}
	}
	if p := d.Scan(Scan{Limit: 10, Prefix: []byte("{a}"), From: Cursor{Slot: 100}}); p.Owned || p.Next.Slot != uint32(Slot([]byte("a"))) {
		t.Errorf("with a tag of another slot: %+v", p)
	}
}

// BenchmarkScan is a page of the default size: of keys that all match, of a rare prefix, and out of a slot with a million.
func BenchmarkScan(b *testing.B) {
	for _, row := range []struct{ name, key, prefix string }{
		{"all", "user:%d", ""}, {"rare", "user:%d", "none"}, {"one slot", "{t}%d", ""},
	} {
		b.Run(row.name, func(b *testing.B) {
			d := granted(b, 4<<30)
			for i := 0; i < 1_000_000; i += 1000 {
				commands := make([]Command, 1000)
				for j := range commands {
					commands[j] = Command{Kind: KindPut, Key: fmt.Appendf(nil, row.key, i+j), Value: make([]byte, 64)}
				}
				d.index++
				if _, err := d.Apply(d.index, Batch{Level: 1, Commands: commands}); err != nil {
					b.Fatal(err)
				}
			}
			from := Cursor{}
			if row.name == "one slot" {
				from.Slot = uint32(Slot([]byte("t")))
			}
			b.ReportAllocs()
			for b.Loop() {
				d.Scan(Scan{Prefix: []byte(row.prefix), From: from, Limit: 1000})
			}
		})
	}
}
