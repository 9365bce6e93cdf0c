package check

import (
	"testing"

	"github.com/larder-cache/larder/integration/history"
)

// TestLeaders ensures that two leaders in one term are found, and that terms of another shard or of another life of the group are others.
func TestLeaders(t *testing.T) {
	a := history.Sample{Node: "a", Shard: 0, Role: "leader", Generation: 1, Term: 2}
	for name, c := range map[string]struct {
		change func(*history.Sample)
		want   int
	}{
		"the same term":      {func(*history.Sample) {}, 1},
		"a follower":         {func(s *history.Sample) { s.Role = "voter" }, 0},
		"another term":       {func(s *history.Sample) { s.Term = 3 }, 0},
		"another shard":      {func(s *history.Sample) { s.Shard = 1 }, 0},
		"another generation": {func(s *history.Sample) { s.Generation = 900 }, 0},
	} {
		b := a
		b.Node = "b"
		c.change(&b)
		if got := Leaders(&history.Run{Samples: []history.Sample{a, b, a}}); len(got) != c.want && !(c.want == 1 && len(got) == 2) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
