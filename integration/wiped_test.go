package integration

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// TestWipedNode ensures that a node which comes back under its old id without its data refuses to
// run, with an error that says so, and that the others go on.
func TestWipedNode(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 2, Delay: time.Millisecond})
	r := startRun(t, c)
	r.progress(100, 20*time.Second)

	b := c.Node("b")
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(b.DataDir); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(b.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	err = b.Wait(within(t, 30*time.Second))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 {
		t.Errorf("the wiped node ended with %v, want a status that is not 0", err)
	}
	log, err := os.ReadFile(b.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	if said := string(log[len(before):]); !strings.Contains(said, "data lost") {
		t.Errorf("it said nothing of data lost:\n%s", said)
	}
	r.progress(100, 20*time.Second)
	r.load.Stop()
	r.cluster.Nodes = c.Others("b")
	r.verify(200)
}
