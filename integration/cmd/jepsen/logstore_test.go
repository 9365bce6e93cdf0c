package main

import (
	"fmt"
	"slices"
	"testing"
)

// TestLogStores ensures that the log stores follow from the seed, that all mixtures are drawn, that in one that is drawn for each start
// nodes differ from each other and from themselves, and that a flag has the last word.
func TestLogStores(t *testing.T) {
	drawn := map[string]int{}
	for seed := range 64 {
		o := defaults(t, fmt.Sprintf("--seed=%d", seed))
		drawn[o.logs()]++
		if again := defaults(t, fmt.Sprintf("--seed=%d", seed)); again.logs() != o.logs() {
			t.Errorf("seed %d draws %s and %s", seed, o.logs(), again.logs())
		}
		starts := map[string]int{}
		for _, node := range []string{"a", "b", "c"} {
			for start := range 8 {
				flags := o.logFlags(node, start)
				if again := o.logFlags(node, start); !slices.Equal(flags, again) || flags[0] != "--log-store" {
					t.Errorf("seed %d draws %v and %v", seed, flags, again)
				}
				starts[flags[1]]++
			}
		}
		if n := starts[boltLog]; n+starts[sharedLog] != 24 || o.logs() == boltLog && n != 24 || o.logs() == sharedLog && n != 0 || o.logs() == mixedLogs && (n == 0 || n == 24) {
			t.Errorf("seed %d, %s: the starts have %v", seed, o.logs(), starts)
		}
	}
	if drawn[boltLog] < 8 || drawn[sharedLog] < 8 || drawn[mixedLogs] < 16 {
		t.Errorf("64 seeds draw %v", drawn)
	}
	for _, want := range []string{boltLog, sharedLog, mixedLogs} {
		if o := defaults(t, "--log-store="+want); o.logs() != want {
			t.Errorf("%s was asked for and is %s", want, o.logs())
		}
	}
	founders := map[string]bool{}
	for seed := range uint64(32) {
		o := options{logStore: mixedLogs, seed: seed}
		founders[o.logOf("a", 0)+o.logOf("b", 0)+o.logOf("c", 0)] = true
	}
	if len(founders) != 8 {
		t.Errorf("the first starts of three nodes are %v", founders)
	}
}
