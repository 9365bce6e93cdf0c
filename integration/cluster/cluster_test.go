package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary stand in for the server: started as "server", it is a node that
// knows nothing but to be ready and to end.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "server" {
		os.Exit(fakeServer())
	}
	if os.Getenv(abandonedEnv) != "" {
		os.Exit(abandoned())
	}
	os.Exit(m.Run())
}

func fakeServer() int {
	if os.Getenv("FAKE_FAILS") != "" {
		fmt.Fprintln(os.Stderr, "no, I won't")
		return 3
	}
	addr := os.Args[slices.Index(os.Args, "--http")+1]
	http.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "[+]fake ok") })
	http.HandleFunc("/v1/directory", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"cluster":"x","version":7,"shards":[{"id":1,"start":0,"end":16384,"epoch":3,"leader":"b","members":[{"node":"a","role":"voter"}]}],"nodes":{"a":{"http":"h","state":"up"}}}`)
	})
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(addr, nil) }()
	select {
	case <-term:
		return 0
	case err := <-failed:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}

func start(t *testing.T) *Cluster {
	t.Helper()
	return Start(t, Config{Binary: os.Args[0], Shards: 1})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestLife ensures that nodes can be killed, restarted where they were, with flags of that start, paused, resumed and ended,
// and that each of these is what it says.
func TestLife(t *testing.T) {
	c := Start(t, Config{Binary: os.Args[0], Shards: 1, StartArgs: func(node string, start int) []string { return []string{"--nth", fmt.Sprint(node, start)} }})
	a, b := c.Node("a"), c.Node("b")
	nth := func(n *Node, want string) {
		t.Helper()
		if args := n.process.cmd.Args; !slices.Equal(args[len(args)-2:], []string{"--nth", want}) || slices.Contains(args[:len(args)-2], "--nth") {
			t.Errorf("flags %v, want --nth %s", args, want)
		}
	}
	nth(a, "a0")

	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if a.Running() || !b.Running() {
		t.Fatal("killed the wrong node")
	}
	if err := a.Kill(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("killing a dead node: %v", err)
	}
	if _, _, err := a.Get(within(t, time.Second), "/readyz"); err == nil {
		t.Error("a dead node answers")
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); !errors.Is(err, ErrRunning) {
		t.Errorf("starting a node twice: %v", err)
	}
	nth(a, "a1")
	nth(b, "b0")
	if a.Starts() != 2 || b.Starts() != 1 {
		t.Errorf("started %d and %d times", a.Starts(), b.Starts())
	}
	c.WaitReady(t, 20*time.Second)

	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Get(within(t, 200*time.Millisecond), "/readyz"); err == nil {
		t.Error("a paused node answers")
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := Poll(within(t, 10*time.Second), func() bool {
		status, _, err := b.Get(t.Context(), "/readyz")
		return err == nil && status == 200
	}); err != nil {
		t.Errorf("a resumed node does not answer: %v", err)
	}
	if err := b.Terminate(within(t, 10*time.Second)); err != nil {
		t.Errorf("a node that was asked to end: %v", err)
	}
	if b.Running() {
		t.Error("it still runs")
	}
}

// TestJoin ensures that a further node starts with the address of another one to join by and an address
// of its own behind a proxy, again with the same flags, and that only one that does not run is wiped.
func TestJoin(t *testing.T) {
	c := start(t)
	d := c.Join(t, c.Node("b"))
	c.WaitReady(t, 20*time.Second)
	for flag, want := range map[string]string{"--id": "d", "--join": c.Node("b").URL, "--raft": d.raft, "--advertise-raft": d.advertised} {
		if i := slices.Index(d.args, flag); i < 0 || d.args[i+1] != want {
			t.Errorf("flags %v, want %s %s", d.args, flag, want)
		}
	}
	if d.raft == d.advertised || !strings.HasPrefix(d.advertised, "127.0.0.14:") || slices.Contains(d.args, "--initial-cluster") {
		t.Errorf("flags %v", d.args)
	}
	if err := d.Wipe(); !errors.Is(err, ErrRunning) {
		t.Errorf("wiping a node that runs: %v", err)
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if live := c.Live(); len(live) != 3 || slices.Contains(live, d) {
		t.Errorf("live are %v", live)
	}
	if err := d.Wipe(); err != nil {
		t.Error(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	if e := c.Join(t, d); e.ID != "e" || e.IP != "127.0.0.15" {
		t.Errorf("the fifth node is %s at %s", e.ID, e.IP)
	}
	c.WaitReady(t, 20*time.Second)
}

// TestExitStatus ensures that the end of a node that fails to start is told with its status.
func TestExitStatus(t *testing.T) {
	c := New(t, Config{Binary: os.Args[0], Shards: 1, Env: []string{"FAKE_FAILS=1"}})
	a := c.Node("a")
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	err := a.Wait(within(t, 10*time.Second))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("ended with %v, want exit status 3", err)
	}
	if log := logTail(a.LogFile); !strings.Contains(log, "no, I won't") {
		t.Errorf("the log is %q", log)
	}
}

// TestNothingSurvives ensures that the end of a test ends its nodes, paused ones included, and
// removes their folders.
func TestNothingSurvives(t *testing.T) {
	var c *Cluster
	var pids []int
	t.Run("inner", func(t *testing.T) {
		c = start(t)
		for _, n := range c.Nodes {
			pids = append(pids, n.running().cmd.Process.Pid)
		}
		if err := c.Node("c").Pause(); err != nil {
			t.Fatal(err)
		}
	})
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("pid %d is still there: %v", pid, err)
		}
	}
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("folder %s is still there: %v", c.dir, err)
	}
}

// TestForeignPid ensures that a process which is not the node's binary is left alone.
func TestForeignPid(t *testing.T) {
	c := start(t)
	a := c.Node("a")
	binary := a.binary
	a.binary = "/nowhere/something-else"
	if err := a.Kill(); err == nil {
		t.Error("killed a process of another name")
	}
	if !a.Running() {
		t.Error("it is gone")
	}
	a.binary = binary
}

// TestDirectory ensures that the table is decoded.
func TestDirectory(t *testing.T) {
	c := start(t)
	d, err := c.Node("a").Directory(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if d.Version != 7 || len(d.Shards) != 1 || d.Shards[0].Leader != "b" || d.Shards[0].Members[0].Role != "voter" || d.Nodes["a"].State != "up" {
		t.Errorf("decoded %+v", d)
	}
}

// TestCPU ensures that the processor time of a node grows while it works, and that there is none of a node
// that does not run.
func TestCPU(t *testing.T) {
	c := start(t)
	a := c.Node("a")
	before, err := a.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if err := Poll(within(t, 20*time.Second), func() bool {
		_, _, getErr := a.Get(t.Context(), "/readyz")
		var now time.Duration
		now, err = a.CPU()
		return getErr != nil || err != nil || now > before
	}); err != nil {
		t.Errorf("after %v of processor time it got no more: %v", before, err)
	}
	if err != nil {
		t.Error(err)
	}
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CPU(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("processor time of a dead node: %v", err)
	}
}
