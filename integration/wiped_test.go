package integration

import (
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
	lose(t, b)
	wantDataLost(t, b, "data lost")
	r.progress(100, 20*time.Second)
	r.load.Stop()
	r.cluster.Nodes = c.Others("b")
	r.verify(200)
}
