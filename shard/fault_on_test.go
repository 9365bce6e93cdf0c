//go:build faults

package shard

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// found are the seeded bugs that TestNemesis finds within some hundred scenarios. It meets bugExpireBlindly too, of a thousand.
// The rest take a disk that loses power, a leader that is no voter, or replicas that differ.
var found = []bug{
	bugFollowerLocal, bugConditionOutside, bugAckUnknown, bugUnknownRefused, bugNoReadIndex, bugLateJoin, bugReadyAtElection,
	bugBoundedAge, bugOwnClock, bugOwnRecency, bugRestoreNoOrder, bugAckEarly, bugVolatileLog, bugReturnsWiped, bugOwnEvictions,
	bugStaleOwner, bugRestoreMerges, bugLocalReads, bugTTLByOwnClock, bugNoDedup, bugRestoreNoKeys, bugLearnersCounted,
	bugVerifyLeader, bugLeaseEndless, bugLeaseLong, bugApplyUnsynced, bugTellUnsynced, bugAckUnsynced,
}

// chosen reports whether LARDER_BUGS, a comma-separated list, names b, or nothing.
func chosen(b bug) bool {
	wanted := os.Getenv("LARDER_BUGS")
	return wanted == "" || strings.Contains(","+wanted+",", ","+string(b)+",")
}

// TestSeededBugsShow ensures that seeded bugs which random schedules rarely meet are bugs: a test that arranges what it takes
// fails with each, and says why.
func TestSeededBugsShow(t *testing.T) {
	for _, tt := range []struct {
		bug        bug
		test, says string
	}{
		{bugLocalReads, "TestStaleVerify", "stale read"},
		{bugVerifyLeader, "TestStaleVerify", "stale read"},
		{bugLateJoin, "TestLateReaderWaitsForNextRound", "confirmed after"},
		{bugSelfCounted, "TestSelfCountsOnlyAsVoter", "a leader that is none"},
		{bugLearnersCounted, "TestLearnersNeverConfirm", "without a quorum of voters"},
		{bugPromiseForgotten, "TestLeaseKeepsOthersOut", "serves while the lease"},
		{bugPromiseBroken, "TestLeaseKeepsOthersOut", "serves while the lease"},
		{bugPromiseOverruled, "TestLeaseKeepsOthersOut", "serves while the lease"},
		{bugLeaseOverHandover, "TestLeaseEndsWithHandover", "serves while the lease"},
		{bugLeaseLong, "TestLeaseIsTakenAndRenewed", "after the last promise"},
		{bugReadyAtElection, "TestNotReadyBeforeBarrier", "ready although"},
		{bugTTLByOwnClock, "TestDueOnFollower", "on the leader"},
		{bugExpireBlindly, "TestExpiryLeavesTheNext", `want "next"`},
		{bugNoDedup, "TestIncrOnceOverFailover", `want "6"`},
		{bugRestoreNoKeys, "TestIncrOnceOverSnapshot", "after the snapshot"},
		{bugSameIncarnation, "TestIdentityLasts", "have the same incarnation"},
		{bugNoPrevIndex, "TestChangeIsPlannedFromAConfiguration", "planned before the fence"},
		{bugChecksumSilent, "TestFollowerDiverges", "not found within"},
	} {
		if !chosen(tt.bug) {
			continue
		}
		t.Run(string(tt.bug), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+tt.test+"$", "-test.count=3", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), "LARDER_FAULTS="+string(tt.bug))
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), tt.says) {
				t.Errorf("%s: %v, want it to fail and to say %q:\n%s", tt.test, err, tt.says, out)
			}
		})
	}
}

// TestSeededBugs ensures that the scenarios of TestNemesis turn red for each seeded bug that they are known to find, within
// a minute and a half, and stay green without one.
func TestSeededBugs(t *testing.T) {
	if os.Getenv("LARDER_BUGS") == "" && testing.Short() {
		t.Skip("minutes")
	}
	hunt := func(t *testing.T, b bug, limit time.Duration) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNemesis$", "-test.timeout="+(limit+time.Minute).String())
		cmd.Env = append(os.Environ(), "LARDER_FAULTS="+string(b), "LARDER_TIME="+limit.String())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	t.Run("none", func(t *testing.T) {
		if out, err := hunt(t, "", 5*time.Second); err != nil {
			t.Errorf("without a bug: %v\n%s", err, out)
		}
	})
	for _, b := range found {
		if !chosen(b) {
			continue
		}
		t.Run(string(b), func(t *testing.T) {
			start := time.Now()
			const limit = 90 * time.Second
			out, err := hunt(t, b, limit)
			if err == nil || !strings.Contains(out, "--- FAIL: TestNemesis/") && !strings.Contains(out, "panic: shard ") { // replicas that notice it themselves end
				t.Fatalf("not found in %v, %v: the scenarios have lost their teeth\n%s", limit, err, out)
			}
			t.Logf("found after %.1f s and %s scenarios", time.Since(start).Seconds(), before(out, " scenarios ("))
		})
	}
}

// before is the word that comes before mark in text.
func before(text, mark string) string {
	text, _, _ = strings.Cut(text, mark)
	return text[strings.LastIndexAny(text, " \n")+1:]
}
