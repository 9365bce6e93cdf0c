package check

import (
	"slices"
	"testing"

	"github.com/larder-cache/larder/integration/history"
)

// TestLives ensures that a shard in memory alone may begin anew, empty and with a log of its own, and that what it forgot must not come
// back then; any other shard may do neither.
func TestLives(t *testing.T) {
	s := &script{}
	s.put("v1", 10, 20)
	s.get("v1", 10, 20)
	miss := s.get("", 0, 3)
	miss.Place.Epoch = 7
	again := s.put("v2", 11, 4)
	again.Place.Epoch, again.Existed = 7, false
	verdict := func(flag string, ops []history.Operation) (invalid bool) {
		r := &history.Run{Meta: history.Meta{Mode: history.Tight, Flags: map[string]string{"memory-only": flag}}, Ops: ops}
		report := Run(r, Options{KeyLimit: limit})
		return slices.ContainsFunc(report.Checks, func(c Result) bool { return c.Verdict == Invalid && c.Name != "durable" }) // nobody reads at the end
	}
	if verdict("true", s.ops) {
		t.Error("a shard in memory alone may not begin anew")
	}
	if !verdict("", s.ops) {
		t.Error("a shard on disk may begin anew")
	}
	back := s.get("v1", 10, 20)
	back.Place.Epoch = 3
	if !verdict("true", s.ops) {
		t.Error("what was forgotten may come back")
	}
}
