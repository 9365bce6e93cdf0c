package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestFlush ensures that a flush removes everything under one version, and that nothing of before can be
// filled in again.
func TestFlush(t *testing.T) {
	d := granted(t, 1<<20)
	if got := d.at(0, Command{Kind: KindFlush})[0]; !sameResult(got, Result{Status: StatusOK}) {
		t.Errorf("of nothing: %+v", got)
	}
	d.at(0, fill(50)...)
	d.at(0, keyed(put("k"), "key"))
	if got := d.at(0, Command{Kind: KindFlush})[0]; !sameResult(got, Result{Status: StatusOK, Version: v1 + 52, Count: 51}) {
		t.Errorf("got %+v", got)
	}
	if s := d.Stats(); s.Entries != 0 || s.Evictions != 0 || s.Keys != 1 {
		t.Errorf("%+v", s)
	}
	if got := d.at(0, put("k"))[0]; got.Version != v1+53 {
		t.Errorf("then: %+v", got)
	}
}

// TestPlanDelete ensures that the planned commands remove exactly what begins with the prefix, each of them
// looking at few entries, even where one slot holds most of them; and that what is written after the plan
// stays.
func TestPlanDelete(t *testing.T) {
	const span = 64
	d := granted(t, 1<<30)
	var commands []Command
	for i := range 2000 {
		commands = append(commands, put(fmt.Sprint("user:", i)), put(fmt.Sprint("{hot}:", i)), put(fmt.Sprint("other:", i)))
	}
	d.at(0, commands...)
	for _, prefix := range []string{"user:1", "{hot}:", "nothing", ""} {
		want := slices.DeleteFunc(d.keys(), func(key string) bool { return strings.HasPrefix(key, prefix) })
		plan := d.PlanDelete(nil, []byte(prefix), span)
		d.at(0, put(prefix+"later"))
		removed, seen := uint64(0), 0
		for _, c := range plan {
			looks := 0
			for slot := c.Slots.Start; slot < c.Slots.End; slot++ {
				d.store.inSlot(uint16(slot), c.PartBits, c.Part, func(ref) bool { looks++; return true })
			}
			if looks > 2*span {
				t.Errorf("%q: a command looks at %d entries", prefix, looks)
			}
			seen += looks
			removed += d.at(0, c)[0].Count
		}
		if prefix == "{hot}:" && seen > 2001 {
			t.Errorf("%q: %d entries looked at, where one slot has all that can match", prefix, seen)
		}
		got := d.keys()
		if got[len(got)-1] != prefix+"later" {
			t.Errorf("%q: what came after the plan is gone", prefix)
		}
		slices.Sort(want)
		got = slices.Sorted(slices.Values(got[:len(got)-1]))
		if !slices.Equal(got, want) {
			t.Errorf("%q: %d entries are left, want %d", prefix, len(got), len(want))
		}
		d.at(0, remove(prefix+"later"))
	}
	if got := d.PlanDelete(nil, []byte("x"), span); len(got) != 0 {
		t.Errorf("%d commands for nothing", len(got))
	}
}
