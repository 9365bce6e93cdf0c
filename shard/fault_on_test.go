//go:build faults

package shard

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// found are the seeded bugs that TestNemesis finds. The others need what it does not do: processes that stand still, clocks
// that are wrong, disks that lose power, or requests that it does not make.
var found = []bug{
	bugFollowerLocal, bugConditionOutside, bugAckUnknown, bugUnknownRefused, bugNoReadIndex, bugLateJoin, bugReadyAtElection,
	bugBoundedAge, bugOwnClock, bugOwnRecency, bugRestoreNoOrder,
}

// TestSeededBugs ensures that the schedules of TestNemesis turn red for each seeded bug that they are known to find, within
// three tries of 30 s. LARDER_BUGS, a comma-separated list, tries these alone.
func TestSeededBugs(t *testing.T) {
	wanted := os.Getenv("LARDER_BUGS")
	if wanted == "" && testing.Short() {
		t.Skip("minutes")
	}
	tried := 0
	for _, b := range found {
		if wanted != "" && !strings.Contains(","+wanted+",", ","+string(b)+",") {
			continue
		}
		tried++
		t.Run(string(b), func(t *testing.T) {
			start := time.Now()
			const limit = 90 * time.Second
			for time.Since(start) < limit {
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNemesis$", "-test.timeout=60s")
				cmd.Env = append(os.Environ(), "LARDER_FAULTS="+string(b), "LARDER_SEEDS=40")
				out, err := cmd.CombinedOutput()
				if err != nil && strings.Contains(string(out), "--- FAIL: TestNemesis/") {
					t.Logf("found after %.1f s", time.Since(start).Seconds())
					return
				}
			}
			t.Errorf("not found in %v: the schedules have lost their teeth", limit)
		})
	}
	if tried == 0 {
		t.Errorf("%q names none of %q", wanted, found)
	}
}
