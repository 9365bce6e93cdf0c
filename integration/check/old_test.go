package check

import (
	"slices"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// staleness of the bounded reads below, in whole ticks.
const staleness = 10 * tick

func (s *script) old(kind history.Kind, value string, version, index uint64) *history.Operation {
	o := history.Operation{Kind: kind, Found: value != "", Read: value, Version: version, Place: at(index)}
	if kind == history.GetBounded {
		o.MaxStaleness = staleness
	}
	return s.add(o)
}

func (s *script) bounded(value string, version, index uint64) *history.Operation {
	return s.old(history.GetBounded, value, version, index)
}

func (s *script) any(value string, version, index uint64) *history.Operation {
	return s.old(history.GetAny, value, version, index)
}

// pass lets time go by.
func (s *script) pass(d time.Duration) { s.now += d }

// TestGoodOldReads ensures that reads may be as old as they say, and that no check of linearizability
// minds them.
func TestGoodOldReads(t *testing.T) {
	for name, build := range map[string]func(*script){
		"current": func(s *script) {
			s.put("a", 10, 5)
			s.bounded("a", 10, 5)
			s.any("a", 10, 5)
		},
		"replaced a moment ago": func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.bounded("a", 10, 5)
			s.bounded("", 0, 4)
			s.any("a", 10, 5)
		},
		"back in time within the bound": func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.bounded("b", 11, 6)
			s.bounded("a", 10, 5)
		},
		"removed a moment ago": func(s *script) {
			s.put("a", 10, 5)
			s.pass(2 * staleness)
			s.del(11, 6, true)
			s.bounded("a", 10, 5)
			s.bounded("", 0, 6)
		},
		"old by the time it took": func(s *script) {
			s.put("a", 10, 5)
			o := s.bounded("a", 10, 5)
			o.MaxStaleness, o.Age = time.Second, 2 // a little over a second, rounded up
		},
		"any age": func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.pass(2 * staleness)
			s.any("a", 10, 5)
			s.any("", 0, 2)
			s.bounded("b", 11, 6)
		},
		"unknown writes": func(s *script) {
			s.put("a", 10, 5)
			s.putUnknown("b")
			s.add(history.Operation{Kind: history.Delete, Outcome: history.Unknown})
			s.pass(2 * staleness)
			s.bounded("b", 11, 7)
			s.bounded("", 0, 8)
			s.any("b", 11, 7)
		},
		"a write under way": func(s *script) {
			s.put("a", 10, 5)
			w := s.put("b", 11, 6)
			w.Return += 2 * staleness
			s.pass(staleness)
			s.bounded("a", 10, 5)
			s.bounded("b", 11, 6)
		},
		"a refused condition is no change": func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 9, Version: 10, Conflict: true, Place: at(6)})
			s.bounded("a", 10, 6)
		},
		"a new owner": func(s *script) {
			s.put("a", 10, 50)
			s.pass(2 * staleness)
			o := s.bounded("a", 10, 3)
			o.Place.Shard, o.Place.Epoch = 2, 4
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s script
			build(&s)
			r := Verify(s.ops, nil, limit)
			r.Violations = slices.DeleteFunc(r.Violations, func(v Violation) bool { return v.Check == "durable" }) // nothing is read at the end
			if err := r.Err(); err != nil || len(r.Undecided) != 0 {
				t.Errorf("%v, undecided %v", err, r.Undecided)
			}
		})
	}
}

// TestForgedOldReads ensures that a read which is older than it may be is caught by what a client sees
// and by the places, each alone where it can be, and that Verify asks for both.
func TestForgedOldReads(t *testing.T) {
	for _, tt := range []struct {
		name  string
		build func(*script)
		by    string
	}{
		{"replaced for too long", func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.pass(staleness)
			s.bounded("a", 10, 5)
		}, "bounded"},
		{"replaced for too long, though it claims a fresh place", func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.pass(staleness)
			s.bounded("a", 10, 6)
		}, "bounded"},
		{"lacks an old write", func(s *script) {
			s.put("a", 10, 5)
			s.pass(staleness)
			s.bounded("", 0, 4)
		}, "bounded"},
		{"lacks an old write, though it claims a fresh place", func(s *script) {
			s.put("a", 10, 5)
			s.pass(staleness)
			s.bounded("", 0, 5)
		}, "bounded"},
		{"came back after an old delete", func(s *script) {
			s.put("a", 10, 5)
			s.del(11, 6, true)
			s.pass(staleness)
			s.bounded("a", 10, 6)
		}, "bounded"},
		{"an old place, known by another key", func(s *script) {
			s.add(history.Operation{Kind: history.Put, Key: "other", Value: "z", Version: 9, Place: at(8)})
			s.pass(staleness)
			s.bounded("", 0, 7)
		}, "bounded"},
		{"an old place, known by a read", func(s *script) {
			s.add(history.Operation{Kind: history.Get, Key: "other", Place: at(8)})
			s.pass(staleness)
			s.bounded("", 0, 7)
		}, "bounded"},
		{"ahead of what comes after it", func(s *script) {
			s.put("a", 10, 5)
			s.bounded("a", 10, 9)
			s.put("b", 11, 6)
		}, "bounded"},
		{"a value of a later place", func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.bounded("b", 11, 5)
		}, "bounded"},
		{"an unknown write's version out of order", func(s *script) {
			s.put("a", 10, 5)
			s.putUnknown("b")
			s.put("c", 11, 6)
			s.bounded("b", 12, 5)
		}, "bounded"},
		{"says to be too old", func(s *script) {
			s.put("a", 10, 5)
			s.bounded("a", 10, 5).Age = 2
		}, "bounded"},
		{"says to be too old for the time it took", func(s *script) {
			s.put("a", 10, 5)
			o := s.bounded("a", 10, 5)
			o.MaxStaleness, o.Age = time.Second, 3
		}, "bounded"},
		{"bounded, nobody's value", func(s *script) { s.bounded("z", 10, 5) }, "bounded"},
		{"any, nobody's value", func(s *script) { s.any("z", 10, 5) }, "any"},
		{"any, another key's value", func(s *script) {
			s.add(history.Operation{Kind: history.Put, Key: "other", Value: "z", Version: 9, Place: at(8)})
			s.any("z", 9, 8)
		}, "any"},
		{"any, a refused write's value", func(s *script) {
			s.add(history.Operation{Kind: history.Put, Value: "z", Outcome: history.Refused})
			s.any("z", 9, 8)
		}, "any"},
		{"any, a refused condition's value", func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Create, Value: "z", Version: 10, Conflict: true, Place: at(6)})
			s.any("z", 11, 8)
		}, "any"},
		{"any, from before its write", func(s *script) {
			s.any("a", 10, 5)
			s.put("a", 10, 5)
		}, "any"},
		{"any, another version", func(s *script) {
			s.put("a", 10, 5)
			s.any("a", 11, 5)
		}, "any"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s script
			tt.build(&s)
			found := map[string]bool{}
			for _, v := range Verify(s.ops, nil, limit).Violations {
				found[v.Check] = true
			}
			if !found[tt.by] {
				t.Errorf("%s saw nothing; violations by %v", tt.by, found)
			}
			for _, exact := range []string{"linearizable", "certificate"} {
				if found[exact] {
					t.Errorf("%s complains of a read that promises less", exact)
				}
			}
		})
	}
}
