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
		{"swap that tells the old value", Swap, Reply{Status: 200}, OK},
		{"swap of nothing", Swap, Reply{Status: 201}, OK},
		{"swap repeated, the old value forgotten", Swap, Reply{Status: 204}, OK},
		{"put that tells a value", Put, Reply{Status: 200}, ""},
		{"incremented", Incr, Reply{Status: 200}, OK},
		{"incremented to nothing", Incr, Reply{Status: 204}, ""},
		{"increment of no number", Incr, problem(422, "/problems/not-an-integer", "no"), ""},
		{"appended", Append, Reply{Status: 200}, OK},
		{"appended, the value forgotten", Append, Reply{Status: 204}, OK},
		{"append that creates as a put does", Append, Reply{Status: 201}, ""},
		{"time to live changed", Expire, Reply{Status: 204}, OK},
		{"time to live of nothing", Expire, problem(404, ProblemAbsent, "no"), OK},
		{"touched", Touch, Reply{Status: 204}, OK},
		{"nothing to touch", Touch, problem(404, ProblemAbsent, "no"), OK},
		{"nothing to put", Put, problem(404, ProblemAbsent, "no"), ""},
		{"key too old", Incr, problem(422, ProblemKeyTooOld, "unknown"), Unknown},
		{"key too old, but certain", Incr, problem(422, ProblemKeyTooOld, "no"), ""},
		{"key too new", Delete, problem(422, ProblemKeyTooNew, "no"), Refused},
		{"key of another change", Put, problem(422, "/problems/idempotency-key-reused", "no"), ""},
		{"a touch has no key", Touch, problem(422, ProblemKeyTooOld, "unknown"), ""},
		{"memory for keys full", Append, problem(429, "/problems/idempotency-keys-full", "no"), Refused},
		{"body too slow", Swap, problem(408, ProblemSlowBody, "no"), Refused},
		{"no body, too slow", Delete, problem(408, ProblemSlowBody, "no"), ""},
		{"conflict that is another problem", Create, problem(412, "/problems/conflict", "no"), ""},
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

// TestClassifySetting ensures that settings have a table of their own: what a condition is refused for is
// no observation of them.
func TestClassifySetting(t *testing.T) {
	for _, tt := range []struct {
		kind  Kind
		reply Reply
		want  Outcome // "" = an error
	}{
		{GetAny, Reply{Status: 200}, OK},
		{Put, Reply{Status: 200}, OK},
		{Put, Reply{Status: 204}, ""},
		{Replace, Reply{412, ProblemPrecondition, "no"}, Refused},
		{Put, Reply{412, ProblemPrecondition, "no"}, ""},
		{Put, Reply{409, ProblemConflict, "no"}, Refused},
		{Put, Reply{422, "/problems/bad-setting", "no"}, ""},
		{Replace, Reply{504, ProblemUnknown, "unknown"}, Unknown},
		{GetAny, Reply{503, "/problems/unavailable", "no"}, Refused},
		{GetAny, Reply{404, ProblemAbsent, "no"}, ""},
	} {
		got, err := ClassifySetting(tt.kind, tt.reply)
		if got != tt.want && tt.want != "" || (err != nil) != (tt.want == "") {
			t.Errorf("ClassifySetting(%s, %+v) = %s, %v, want %q", tt.kind, tt.reply, got, err, tt.want)
		}
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
