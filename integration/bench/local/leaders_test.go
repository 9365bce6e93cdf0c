package local

import "testing"

// TestSpread ensures that leaders count as spread only where each shard has one and no node has two more than another.
func TestSpread(t *testing.T) {
	nodes := []string{"a", "b", "c"}
	for what, tt := range map[string]struct {
		leaders map[uint64]string
		want    bool
	}{
		"even":         {map[uint64]string{1: "a", 2: "b", 3: "c", 4: "a"}, true},
		"one has none": {map[uint64]string{1: "a", 2: "b", 3: "b", 4: "a"}, false},
		"no leader":    {map[uint64]string{1: "a", 2: "b", 3: "c", 4: ""}, false},
		"nothing":      {map[uint64]string{}, true},
	} {
		if got := Spread(tt.leaders, nodes); got != tt.want {
			t.Errorf("%s: got %t", what, got)
		}
	}
}
