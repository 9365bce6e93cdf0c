package history

import "testing"

// TestClassify ensures that each documented answer has its outcome, and that an answer which the
// interface does not allow is an error.
func TestClassify(t *testing.T) {
	problem := func(status int, typ, applied string) Reply {
		return Reply{Status: status, Problem: typ, Applied: applied}
	}
	for _, tt := range []struct {
		name  string
		kind  Kind
		reply Reply
		want  Outcome // "" = an error
	}{
		{"hit", Get, Reply{Status: 200}, OK},
		{"miss", Get, problem(404, ProblemAbsent, "no"), OK},
		{"a miss that is a wrong path", Get, problem(404, "/problems/unknown-path", "no"), ""},
		{"a miss without a body", Get, Reply{Status: 404}, ""},
		{"read refused", Get, problem(503, "/problems/no-leader", "no"), Refused},
		{"read of unknown outcome", Get, problem(504, ProblemUnknown, "unknown"), ""},
		{"old read", GetBounded, Reply{Status: 200}, OK},
		{"old miss", GetAny, problem(404, ProblemAbsent, "no"), OK},
		{"read where it can't be served", Get, problem(421, "/problems/not-here", "no"), Refused},
		{"write where it can't be served", Put, problem(421, "/problems/not-here", "no"), Refused},
		{"an old read that may have happened", GetAny, problem(503, "/problems/no-leader", "unknown"), ""},
		{"a read conflicts", GetBounded, problem(412, "/problems/precondition-failed", "no"), ""},
		{"a key conflicts as a shard does", Put, problem(409, "/problems/conflict", "no"), ""},
		{"a write lacks a condition", Replace, problem(428, "/problems/precondition-required", "no"), ""},
		{"created", Put, Reply{Status: 201}, OK},
		{"replaced", Put, Reply{Status: 204}, OK},
		{"put conflicts without a condition", Put, problem(412, "/problems/precondition-failed", "no"), ""},
		{"create conflicts", Create, problem(412, "/problems/precondition-failed", "no"), OK},
		{"create replaces", Create, Reply{Status: 204}, ""},
		{"replace creates", Replace, Reply{Status: 201}, ""},
		{"conflict that happened", Replace, problem(412, "/problems/precondition-failed", "yes"), ""},
		{"write refused", Put, problem(503, "/problems/no-leader", "no"), Refused},
		{"a refusal that may have happened", Put, problem(503, "/problems/no-leader", "unknown"), ""},
		{"a refusal that says nothing", Put, Reply{Status: 503}, ""},
		{"write unknown", Put, problem(504, ProblemUnknown, "unknown"), Unknown},
		{"delete unknown", DeleteIf, problem(504, ProblemUnknown, "unknown"), Unknown},
		{"overloaded", Delete, problem(429, "/problems/overloaded", "no"), Refused},
		{"broken server", Put, problem(500, "/problems/internal", "unknown"), ""},
		{"redirect", Put, Reply{Status: 307}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Classify(tt.kind, tt.reply)
			switch {
			case tt.want == "" && err == nil:
				t.Errorf("Classify(%s, %+v) = %s, want an error", tt.kind, tt.reply, got)
			case tt.want != "" && err != nil:
				t.Errorf("Classify(%s, %+v): %v", tt.kind, tt.reply, err)
			case tt.want != "" && got != tt.want:
				t.Errorf("Classify(%s, %+v) = %s, want %s", tt.kind, tt.reply, got, tt.want)
			}
		})
	}
}

// TestPlaceOrder ensures that the epoch leads for one key and the log alone for one shard.
func TestPlaceOrder(t *testing.T) {
	a := Place{Shard: 1, Epoch: 3, Index: 90, Position: 2}
	b := Place{Shard: 2, Epoch: 4, Index: 5}
	if a.CompareSlot(b) >= 0 || b.CompareSlot(a) <= 0 {
		t.Errorf("a later epoch does not come later: %v and %v", a, b)
	}
	c := Place{Shard: 1, Epoch: 3, Index: 90, Position: 3}
	if a.Compare(c) >= 0 || c.Compare(a) <= 0 || a.Compare(a) != 0 {
		t.Errorf("positions of an entry are not in order: %v and %v", a, c)
	}
}
