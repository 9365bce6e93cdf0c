package integration

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// TestRejoin ensures that a node which lost its disk comes back under its old id once it was removed,
// with all data; and that before that, a joiner that lost its disk is refused as a founder is.
func TestRejoin(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{
		Binary: builder.Binary(t), Shards: 3, Delay: 2 * time.Millisecond, Limit: 10 * time.Minute, Args: slices.Concat(smallLogs, byHand),
	})
	r := startRun(t, c)
	stop := r.writeOnce(2)
	p := newOperator(t, c)
	all := append(shards(t, c), 0)
	r.progress(200, 30*time.Second)

	a, b := c.Node("a"), c.Node("b")
	lose(t, b)
	if answer, err := a.RemoveNode(within(t, 10*time.Second), "b"); err != nil || answer.Status != 409 {
		t.Errorf("removing a node that hosts replicas: %s, %v, want 409", answer, err)
	}
	for _, shard := range all {
		p.change(shard, "b", false, true)
	}
	p.removeNode("b")
	if err := c.Rejoin(b, a); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t, 60*time.Second)
	c.WaitKnown(t, "b", 30*time.Second)
	for _, shard := range all {
		p.change(shard, "b", true, false)
	}
	r.progress(200, 30*time.Second)

	d := c.Join(t, b)
	c.WaitReady(t, 60*time.Second)
	c.WaitKnown(t, "d", 30*time.Second)
	p.change(all[0], "d", true, false)
	lose(t, d)
	wantDataLost(t, d, "known by another data folder")
	// It counts among the voters of that shard, which goes on without it and lets it go.
	p.change(all[0], "d", false, true)
	p.removeNode("d")
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t, 60*time.Second)
	c.WaitKnown(t, "d", 30*time.Second)
	p.change(all[0], "d", true, false)
	r.progress(100, 30*time.Second)
	stop()
	r.mark()
	r.readAll()
	r.readMembers()
	r.verify(300)

	at := quiesce(t, c)
	together(c.Nodes, func(n *cluster.Node) {
		if err := n.Terminate(within(t, 30*time.Second)); err != nil {
			t.Errorf("node %s, asked to end: %v", n.ID, err)
		}
	})
	compareOffline(t, builder.Binary(t), c, at)
}

// lose kills a node and removes its data folder.
func lose(t *testing.T, n *cluster.Node) {
	t.Helper()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.Wipe(); err != nil {
		t.Fatal(err)
	}
}

// wantDataLost starts a node without its data, and wants it to refuse to run and to say why.
func wantDataLost(t *testing.T, n *cluster.Node, why string) {
	t.Helper()
	before, err := os.ReadFile(n.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	err = n.Wait(within(t, 30*time.Second))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 {
		t.Errorf("the wiped node ended with %v, want a status that is not 0", err)
	}
	log, err := os.ReadFile(n.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	if said := string(log[len(before):]); !strings.Contains(said, why) {
		t.Errorf("it said nothing of %q:\n%s", why, said)
	}
	if err := n.Wipe(); err != nil { // of what the attempt left
		t.Fatal(err)
	}
}

// removeNode takes a node that is down and hosts nothing out of the table, once the others have
// noticed that.
func (p *operator) removeNode(node string) {
	p.t.Helper()
	said := ""
	ctx := within(p.t, operationLimit)
	if err := cluster.Poll(ctx, func() bool {
		a, err := p.node().RemoveNode(ctx, node)
		p.broken(err)
		said = a.String()
		if err == nil && a.Status != 204 && a.Status != 409 && a.Status != 503 {
			p.t.Fatalf("removing node %s: %s", node, a)
		}
		return err == nil && a.Status == 204
	}); err != nil {
		p.t.Fatalf("node %s can't be removed: %s", node, said)
	}
}
