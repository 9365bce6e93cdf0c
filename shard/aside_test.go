package shard

import (
	"math"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// TestAges ensures that the histogram of ages has each evicted entry once, at the first bound that it is not
// above, and none while entries don't know when they were used.
func TestAges(t *testing.T) {
	var a aside
	a.applied(fsm.New(), &fsm.Batch{}, nil, fsm.Stats{Level: 1, Limit: 1 << 20})
	a.Removed(1, 300, fsm.ReasonEvicted, 0, 0)
	a.applied(fsm.New(), &fsm.Batch{}, nil, fsm.Stats{Level: 2, Limit: 1 << 20})
	for i, ms := range []uint64{0, 1000, 1001, 3_600_000, math.MaxUint32 * 1000} {
		a.Removed(fsm.Touch(i), 300, fsm.ReasonEvicted, ms, 0)
	}
	a.Removed(9, 300, fsm.ReasonExpired, 77, 0)
	got := a.ages.cumulative()
	for bound, want := range map[float64]uint64{1: 2, 5: 3, 15: 3, 900: 3, 3600: 4, 30 * 86400: 4} {
		if got[bound] != want {
			t.Errorf("%d up to %v s, want %d", got[bound], bound, want)
		}
	}
	if a.ages.count != 5 || len(got) != len(ageBounds) {
		t.Errorf("%d in %d buckets", a.ages.count, len(got))
	}
}

// TestAsideForgets ensures that what would be gone from a larger machine too is not taken for a gain, and that
// the reason of a miss stays when an absent key is deleted.
func TestAsideForgets(t *testing.T) {
	const limit = 1 << 20
	stats := fsm.Stats{Level: 2, Limit: limit, Bytes: limit}
	names := []string{"deleted", "refused", "expired", "kept"}
	key := func(name string) fsm.Touch { return fsm.New().TouchOf([]byte(name)) }
	size := func(a *aside, name string) int { return a.look(&fsm.Lookup{Touch: key(name), Clock: 1000}).size }
	var a aside
	a.applied(fsm.New(), &fsm.Batch{}, nil, stats)
	for _, name := range names {
		a.Removed(key(name), 300, fsm.ReasonEvicted, 0, map[string]uint64{"expired": 1000, "kept": 1001}[name])
	}
	a.applied(fsm.New(), &fsm.Batch{Commands: []fsm.Command{
		{Kind: fsm.KindDelete, Key: []byte("deleted")},
		{Kind: fsm.KindDelete, Key: []byte("refused")},
	}}, []fsm.Result{{Status: fsm.StatusOK}, {Status: fsm.StatusCondition}}, stats)
	for name, want := range map[string]int{"deleted": fsm.Extras, "refused": 0, "expired": fsm.Extras, "kept": 0} {
		if got := size(&a, name); got != want {
			t.Errorf("%s: size %d, want %d", name, got, want)
		}
		if why := a.look(&fsm.Lookup{Touch: key(name)}).why; why != fsm.ReasonEvicted {
			t.Errorf("%s: gone for %d", name, why)
		}
	}
	a.Stored(key("refused"), 300)
	if none := a.look(&fsm.Lookup{Touch: key("refused")}); none.why != 0 || none.size != fsm.Extras {
		t.Errorf("after it was stored: %+v", none)
	}
	a.applied(fsm.New(), &fsm.Batch{Commands: []fsm.Command{{Kind: fsm.KindFlush}}}, []fsm.Result{{Status: fsm.StatusOK}}, stats)
	if got := size(&a, "kept"); got != fsm.Extras {
		t.Errorf("after a flush: size %d", got)
	}
	if none := a.look(&fsm.Lookup{Touch: key("kept"), Expired: true}); none.why != fsm.ReasonExpired || none.size != fsm.Extras || none.weight != 1 {
		t.Errorf("over and not yet removed: %+v", none)
	}
	a.restored(stats)
	if why := a.look(&fsm.Lookup{Touch: key("kept")}).why; why != 0 {
		t.Errorf("another state: gone for %d", why)
	}
}

// TestRecentReads ensures that the report adds up, and follows the load within its half-life.
func TestRecentReads(t *testing.T) {
	var r recentReads
	now, counts := time.Duration(0), readCounts{}
	reach := func(after time.Duration, more readCounts) {
		for i, n := range more {
			counts[i] += n
		}
		now += after
		r.reach(func() time.Duration { return now }, func() readCounts { return counts })
	}
	reach(time.Hour, readCounts{})
	if s := r.sizing(3); s != nil {
		t.Errorf("nobody reads: %+v", s)
	}
	reach(time.Second, readCounts{500, 500, 512, 100, 50, 25})
	want := Sizing{HitRatio: .5, Estimate: .488, Plus25: .6, Plus50: .65, Plus100: .675, Lookups: 1000, Samples: 3}
	if s := r.sizing(3); *s != want {
		t.Errorf("got %+v, want %+v", *s, want)
	}
	reach(sizingHalfLife, readCounts{500, 0, 0})
	want = Sizing{HitRatio: .75, Estimate: .744, Plus25: .8, Plus50: .825, Plus100: .8375, Lookups: 1000, Samples: 3}
	if s := r.sizing(3); math.Abs(s.Plus100-want.Plus100) > 1e-9 || math.Abs(s.HitRatio-want.HitRatio) > 1e-9 || s.Lookups != want.Lookups {
		t.Errorf("a half-life later: got %+v, want %+v", *s, want)
	}
	for range 1000 {
		reach(sizingHalfLife, readCounts{})
	}
	if s := r.sizing(3); s != nil {
		t.Errorf("nobody reads any more: %+v", s)
	}
}
