package check

import (
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

const limit = 5 * time.Second

// script builds a history in which each operation takes one tick and starts a tick after the one
// before, so that nothing overlaps unless a test moves a time.
type script struct {
	ops []history.Operation
	now time.Duration
}

const tick = time.Millisecond

func (s *script) add(o history.Operation) *history.Operation {
	o.Process = 1
	if o.Key == "" {
		o.Key = "k"
	}
	if o.Outcome == "" {
		o.Outcome = history.OK
	}
	if o.Outcome == history.OK {
		o.Place.Shard, o.Place.Epoch = 1, 3
	}
	o.Invoke = s.now + tick
	o.Return = s.now + 2*tick
	s.now = o.Return
	s.ops = append(s.ops, o)
	return &s.ops[len(s.ops)-1]
}

func at(index uint64) history.Place { return history.Place{Index: index} }

func (s *script) put(value string, version, index uint64) *history.Operation {
	existed := false
	for i := range s.ops {
		existed = existed || s.ops[i].Kind.Stores()
	}
	return s.add(history.Operation{Kind: history.Put, Value: value, Version: version, Place: at(index), Existed: existed})
}

func (s *script) putUnknown(value string) *history.Operation {
	return s.add(history.Operation{Kind: history.Put, Value: value, Outcome: history.Unknown})
}

func (s *script) get(value string, version, index uint64) *history.Operation {
	return s.add(history.Operation{Kind: history.Get, Found: value != "", Read: value, Version: version, Place: at(index)})
}

func (s *script) del(version, index uint64, existed bool) *history.Operation {
	return s.add(history.Operation{Kind: history.Delete, Version: version, Place: at(index), Existed: existed})
}

// TestGoodHistories ensures that no check complains of what is allowed.
func TestGoodHistories(t *testing.T) {
	for name, build := range map[string]func(*script){
		"write, read, overwrite, delete": func(s *script) {
			s.get("", 0, 4)
			s.put("a", 10, 5)
			s.get("a", 10, 5)
			s.put("b", 11, 6)
			s.get("b", 11, 9)
			s.del(12, 10, true)
			s.get("", 0, 10)
			s.del(13, 11, false)
		},
		"an unknown write that happened": func(s *script) {
			s.put("a", 10, 5)
			s.putUnknown("b")
			s.get("b", 11, 8)
		},
		"an unknown write that never happened": func(s *script) {
			s.put("a", 10, 5)
			s.putUnknown("b")
			s.get("a", 10, 8)
		},
		"an unknown write that happened late": func(s *script) {
			s.put("a", 10, 5)
			s.putUnknown("b")
			s.get("a", 10, 5)
			s.put("c", 11, 6)
			s.get("b", 12, 9)
		},
		"an unknown delete that happened": func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Delete, Outcome: history.Unknown})
			s.get("", 0, 8)
		},
		"conditions": func(s *script) {
			s.add(history.Operation{Kind: history.Create, Value: "a", Version: 10, Place: at(5)})
			s.add(history.Operation{Kind: history.Create, Value: "b", Version: 10, Conflict: true, Place: at(6)})
			s.add(history.Operation{Kind: history.Replace, Value: "c", IfMatch: 10, Version: 11, Place: at(7), Existed: true})
			s.add(history.Operation{Kind: history.Replace, Value: "d", IfMatch: 10, Version: 11, Conflict: true, Place: at(8)})
			s.add(history.Operation{Kind: history.DeleteIf, IfMatch: 10, Version: 11, Conflict: true, Place: at(9)})
			s.add(history.Operation{Kind: history.DeleteIf, IfMatch: 11, Version: 12, Place: at(10), Existed: true})
			s.add(history.Operation{Kind: history.DeleteIf, IfMatch: 11, Conflict: true, Place: at(11)})
			s.get("", 0, 11)
		},
		"a refused condition shows the version of an unknown write": func(s *script) {
			s.put("a", 10, 5)
			s.putUnknown("b")
			s.add(history.Operation{Kind: history.Create, Value: "c", Version: 11, Conflict: true, Place: at(8)})
			s.get("b", 11, 9)
		},
		"overlapping answers in either order": func(s *script) {
			s.put("a", 10, 5)
			w := s.put("b", 11, 6)
			w.Return += 4 * tick
			s.get("a", 10, 5)
			s.get("b", 11, 6)
		},
		"values that end": func(s *script) {
			s.put("a", 10, 5).TTL = time.Second
			s.get("", 0, 6)
			s.put("b", 11, 7).Existed = false
			s.add(history.Operation{Kind: history.Expire, Existed: true, Version: 11, TTL: time.Second, Place: at(8)})
			s.get("", 0, 9)
			s.put("c", 12, 10).Existed = false
			s.add(history.Operation{Kind: history.Expire, TTL: time.Second, Outcome: history.Unknown})
			s.get("", 0, 11)
		},
		"two unknown deletes take two values": func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Delete, Outcome: history.Unknown})
			s.get("", 0, 6)
			s.put("b", 11, 7).Existed = false
			s.add(history.Operation{Kind: history.Delete, Outcome: history.Unknown})
			s.get("", 0, 8)
		},
		"several places in one entry": func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Put, Value: "b", Version: 11, Place: history.Place{Index: 5, Position: 1}, Existed: true})
			s.add(history.Operation{Kind: history.Get, Found: true, Read: "b", Version: 11, Place: history.Place{Index: 5, Position: 1}})
		},
		"another shard owns the key later": func(s *script) {
			s.put("a", 10, 50)
			o := s.get("a", 10, 3)
			o.Place.Shard, o.Place.Epoch = 2, 4
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s script
			build(&s)
			last := s.ops[len(s.ops)-1]
			var final []history.Operation
			if last.Kind == history.Get {
				final = s.ops[len(s.ops)-1:]
			} else {
				final = []history.Operation{{Kind: history.Get, Key: "k", Outcome: history.OK}}
			}
			r := Verify(s.ops, final, limit)
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			if len(r.Undecided) != 0 {
				t.Errorf("undecided: %v", r.Undecided)
			}
		})
	}
}

// TestForgedHistories ensures that each kind of lie is caught, and by each check that can see it.
func TestForgedHistories(t *testing.T) {
	for _, tt := range []struct {
		name  string
		build func(*script)
		by    string // the checks that must object
	}{
		{"stale read", func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.get("a", 10, 5)
		}, "linearizable certificate durable"},
		{"stale read that claims a fresh place", func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 11, 6)
			s.get("a", 10, 6)
		}, "linearizable certificate durable"},
		{"stale read after a read", func(s *script) {
			s.put("a", 10, 5)
			w := s.put("b", 11, 6)
			w.Return += 10 * tick
			s.get("b", 11, 6)
			s.get("a", 10, 5)
		}, "linearizable certificate"},
		{"lost write", func(s *script) {
			s.put("a", 10, 5)
			s.get("", 0, 6)
		}, "linearizable certificate durable"},
		{"lost write after an overwrite", func(s *script) {
			s.put("a", 10, 5)
			s.del(11, 6, true)
			s.put("b", 12, 7).Existed = false
			s.get("", 0, 9)
		}, "linearizable certificate durable"},
		{"resurrected value", func(s *script) {
			s.put("a", 10, 5)
			s.del(11, 6, true)
			s.get("", 0, 6)
			s.get("a", 10, 7)
		}, "linearizable certificate durable"},
		{"resurrected unknown write", func(s *script) {
			s.putUnknown("a")
			s.get("a", 10, 5)
			s.del(11, 6, true)
			s.get("a", 10, 7)
		}, "linearizable certificate durable"},
		{"an unknown write happens twice", func(s *script) {
			s.putUnknown("a")
			s.get("a", 10, 5)
			s.put("b", 11, 6)
			s.get("a", 12, 8)
		}, "linearizable certificate"},
		{"future version", func(s *script) {
			s.put("a", 10, 5)
			s.get("a", 12, 6)
		}, "linearizable certificate durable"},
		{"a value from before its write", func(s *script) {
			s.add(history.Operation{Kind: history.Get, Found: true, Read: "a", Version: 10, Place: at(5)})
			s.put("a", 10, 5).Existed = false
		}, "linearizable certificate"},
		{"value nobody stored", func(s *script) {
			s.put("a", 10, 5)
			s.get("z", 10, 6)
		}, "linearizable certificate durable"},
		{"value of a refused write", func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Put, Value: "b", Outcome: history.Refused})
			s.get("b", 11, 6)
		}, "linearizable certificate durable"},
		{"a version is used twice", func(s *script) {
			s.put("a", 10, 5)
			s.put("b", 10, 6)
			s.get("b", 10, 6)
		}, "linearizable certificate"},
		{"both of two conditional writes win", func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10, Version: 11, Place: at(6), Existed: true})
			s.add(history.Operation{Kind: history.Replace, Value: "c", IfMatch: 10, Version: 12, Place: at(7), Existed: true})
			s.get("c", 12, 7)
		}, "linearizable certificate"},
		{"a create wins over a value", func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Create, Value: "b", Version: 11, Place: at(6)})
			s.get("b", 11, 7)
		}, "linearizable certificate"},
		{"a condition is refused that holds", func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Replace, Value: "b", IfMatch: 10, Version: 10, Conflict: true, Place: at(6)})
			s.get("a", 10, 7)
		}, "linearizable certificate"},
		{"a delete says that nothing was there", func(s *script) {
			s.put("a", 10, 5)
			s.del(11, 6, false)
			s.get("", 0, 7)
		}, "linearizable certificate"},
		{"reordered index", func(s *script) {
			s.put("a", 10, 6)
			s.put("b", 11, 5)
			s.get("b", 11, 6)
		}, "certificate"},
		{"one unknown delete takes two values", func(s *script) {
			s.put("a", 10, 5)
			s.add(history.Operation{Kind: history.Delete, Outcome: history.Unknown})
			s.get("", 0, 6)
			s.put("b", 11, 7).Existed = false
			s.get("", 0, 8)
		}, "linearizable certificate"},
		{"a value without end is lost beside ones that end", func(s *script) {
			s.put("a", 10, 5).TTL = time.Second
			s.put("b", 11, 6)
			s.get("", 0, 7)
		}, "linearizable certificate durable"},
		{"a value is lost that was freed of its end", func(s *script) {
			s.put("a", 10, 5).TTL = time.Second
			s.add(history.Operation{Kind: history.Expire, Existed: true, Version: 10, Place: at(6)})
			s.get("", 0, 7)
		}, "linearizable certificate"},
		{"a value is there and gone at one place", func(s *script) {
			s.put("a", 10, 5).TTL = time.Second
			s.get("", 0, 5)
			o := s.get("a", 10, 5)
			o.Invoke -= 2 * tick // at the same time, so that the order is open
		}, "certificate"},
		{"two writes share a place", func(s *script) {
			s.put("a", 10, 5)
			o := s.put("b", 11, 5)
			o.Invoke -= 2 * tick // at the same time, so that real time says nothing
			s.get("b", 11, 6)
		}, "certificate"},
		{"places of other keys disagree with real time", func(s *script) {
			s.put("a", 10, 6)
			s.add(history.Operation{Kind: history.Get, Key: "other", Place: at(5)})
			s.get("a", 10, 6)
		}, "certificate"},
		{"the epoch falls", func(s *script) {
			s.put("a", 10, 5).Place.Epoch = 4
			s.get("a", 10, 6)
		}, "certificate"},
		{"two owners in one epoch", func(s *script) {
			s.put("a", 10, 5)
			s.get("a", 10, 6).Place.Shard = 2
		}, "certificate"},
		{"an old owner answers after the new one", func(s *script) {
			s.put("a", 10, 50)
			o := s.get("a", 10, 3)
			o.Place.Shard, o.Place.Epoch = 2, 4
			s.get("a", 10, 51)
		}, "certificate"},
		{"an answer without a place", func(s *script) {
			s.put("a", 10, 0)
			s.get("a", 10, 5)
		}, "certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s script
			tt.build(&s)
			last := s.ops[len(s.ops)-1]
			if last.Kind != history.Get {
				last = history.Operation{Kind: history.Get, Key: "k", Outcome: history.OK, Found: true, Read: last.Value, Version: last.Version}
			}
			r := Verify(s.ops, []history.Operation{last}, limit)
			if r.Err() == nil {
				t.Fatal("the forged history passed")
			}
			found := map[string]bool{}
			for _, v := range r.Violations {
				found[v.Check] = true
			}
			for _, by := range strings.Fields(tt.by) {
				if !found[by] {
					t.Errorf("%s saw nothing; all that was said:\n%v", by, r.Err())
				}
			}
		})
	}
}

// TestUndecidedIsNoPass ensures that a run whose keys could not be decided fails.
func TestUndecidedIsNoPass(t *testing.T) {
	if err := (Report{Keys: 100, Undecided: []string{"a"}}).Err(); err != nil {
		t.Errorf("1 %% undecided: %v", err)
	}
	if (Report{Keys: 100, Undecided: []string{"a", "b"}}).Err() == nil {
		t.Error("2 % undecided passed")
	}
	if (Report{Keys: 1, Undecided: []string{"a"}}).Err() == nil {
		t.Error("the only key undecided passed")
	}
	// Enough unknown writes before a violation are out of reach of the search: it must say so.
	var s script
	for i := range 40 {
		s.putUnknown(string(rune('A' + i)))
	}
	s.get("A", 10, 5)
	s.get("B", 11, 6)
	s.get("nobody's", 12, 7)
	r := Linearizable(s.ops, history.Strict, 50*time.Millisecond)
	if len(r.Undecided) != 1 || r.Err() == nil {
		t.Errorf("a search out of time reported %v", r)
	}
}

// TestDurableMissingRead ensures that a key which nobody read at the end is no success.
func TestDurableMissingRead(t *testing.T) {
	var s script
	s.put("a", 10, 5)
	if len(Durable(s.ops, nil, history.Strict)) != 1 {
		t.Error("an acknowledged write that nobody looked for passed")
	}
	wrong := history.Operation{Kind: history.Get, Key: "k", Outcome: history.OK, Found: true, Read: "a", Version: 9}
	if len(Durable(s.ops, []history.Operation{wrong}, history.Strict)) != 1 {
		t.Error("an acknowledged write with another version passed")
	}
}

// TestReplayedAnswers ensures that an answer which repeats an earlier one's is not held to the place of the repetition, and
// that its value still can't come back once it was replaced.
func TestReplayedAnswers(t *testing.T) {
	s := &script{}
	s.put("one", 10, 1)
	s.put("two", 11, 2)
	s.ops[0].Replayed, s.ops[0].Attempts, s.ops[0].Place.Index, s.ops[0].Return = true, 2, 3, s.now+tick
	s.now += tick
	s.get("two", 11, 4)
	if r := Verify(s.ops, s.ops[2:], limit); len(r.Violations) > 0 {
		t.Errorf("a repeated answer: %v", r.Violations)
	}
	s.get("one", 10, 5)
	if r := Verify(s.ops, s.ops[2:3], limit); len(r.Violations) == 0 {
		t.Error("a replaced value came back unnoticed")
	}
}

// TestConditionOnReplayedVersion ensures that a condition may hold on a version which a repeated answer alone has told,
// and on none that was replaced.
func TestConditionOnReplayedVersion(t *testing.T) {
	s := &script{}
	s.put("one", 10, 1)
	s.put("two", 11, 2)
	s.ops[1].Replayed, s.ops[1].Attempts, s.ops[1].Place.Index = true, 2, 3
	s.add(history.Operation{Kind: history.Replace, Value: "three", IfMatch: 11, Existed: true, Version: 12, Place: at(4)})
	s.get("three", 12, 5)
	if r := Verify(s.ops, s.ops[3:], limit); len(r.Violations) > 0 {
		t.Errorf("a version that a repeated answer told: %v", r.Violations)
	}
	s.add(history.Operation{Kind: history.Replace, Value: "four", IfMatch: 11, Existed: true, Version: 13, Place: at(6)})
	if v, _ := Certificate(s.ops, history.Strict); len(v) == 0 {
		t.Error("a condition on a replaced version held unnoticed")
	}
}
