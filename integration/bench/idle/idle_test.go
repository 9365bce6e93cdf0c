package main

import (
	"io"
	"strings"
	"testing"
)

// TestRun ensures that a run of real nodes finds all that is to be judged.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts three processes")
	}
	var out strings.Builder
	args := []string{"-shards", "3", "-settle", "0s", "-window", "200ms", "-dir", t.TempDir()}
	if err := run(t.Context(), args, &out, io.Discard); err != nil && !strings.Contains(err.Error(), "bars missed") {
		t.Fatalf("%v\n%s", err, &out)
	}
	if got := strings.Count(out.String(), "bar: "); got != 5 {
		t.Errorf("got %d bars, want 5:\n%s", got, &out)
	}
	if !strings.Contains(out.String(), "between two nodes: 1, met") && !strings.Contains(out.String(), "between two nodes: 2, met") {
		t.Errorf("nodes are not connected once or twice:\n%s", &out)
	}
}

// TestFlags ensures that what makes no sense is refused.
func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-shards", "0"}, {"-window", "0s"}, {"-limit", "0s"}, {"-settle", "-1s"}, {"more"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
