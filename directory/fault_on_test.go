//go:build faults

package directory

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestSeededBugsShow ensures that the bugs that can be built into this package are bugs: a test that arranges what it takes
// fails with each, and says why.
func TestSeededBugsShow(t *testing.T) {
	for _, tt := range []struct {
		bug        bug
		test, says string
	}{
		{bugTwoChanges, "TestTwoOperators", "begun:"},
	} {
		if wanted := os.Getenv("LARDER_BUGS"); wanted != "" && !strings.Contains(","+wanted+",", ","+string(tt.bug)+",") {
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
