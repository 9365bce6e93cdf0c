package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// kinds are all kinds of clusters, without those that can't be made here.
func kinds(t *testing.T) []Config {
	t.Helper()
	all := []Config{{Net: Proxy, Disk: Folder}}
	if err := CanTap(); err != nil {
		t.Logf("no networks can be made here: %v", err)
	} else {
		all = append(all, Config{Net: Tap, Disk: Folder})
	}
	if err := CanLoop(); err != nil {
		t.Logf("no disks can be made here: %v", err)
	} else {
		all = append(all, Config{Net: Proxy, Disk: Loop})
	}
	if len(all) == 3 {
		all = append(all, Config{Net: Tap, Disk: Loop})
	}
	return all
}

// TestKinds ensures that nodes of each kind of cluster run, are killed, paused, started again, wiped and joined by others, that
// clients reach them, and that their logs and data are in the cluster's folder once it is closed.
func TestKinds(t *testing.T) {
	for _, cfg := range kinds(t) {
		t.Run(fmt.Sprintf("%s %s", cfg.Net, cfg.Disk), func(t *testing.T) {
			cfg.Binary, cfg.Shards, cfg.Nodes, cfg.Replicas, cfg.Dir = os.Args[0], 2, 4, 3, t.TempDir()
			c, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.StartAll(t.Context(), 20*time.Second); err != nil {
				t.Fatal(err)
			}
			b := c.Node("b")
			if err := errors.Join(b.Pause(), b.Resume(), b.Kill(), b.Wipe(), b.Start()); err != nil {
				t.Fatal(err)
			}
			joined, err := c.Add(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Ready(within(t, 20*time.Second)); err != nil || len(c.Live()) != 5 || joined.ID != "e" {
				t.Fatalf("%d nodes live, %s joined: %v", len(c.Live()), joined.ID, err)
			}
			if i := slices.Index(b.args, "--replicas"); i < 0 || b.args[i+1] != "3" {
				t.Errorf("flags %v", b.args)
			}
			clients := &http.Client{Transport: &http.Transport{DialContext: c.Dial}}
			defer clients.CloseIdleConnections()
			resp, err := clients.Get(joined.URL + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			for _, n := range c.Nodes {
				if err := errors.Join(os.MkdirAll(n.DataDir, 0o755), os.WriteFile(filepath.Join(n.DataDir, "file"), []byte(n.ID), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(c.Close(), c.Close()); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.Nodes {
				if n.DataDir != filepath.Join(cfg.Dir, n.ID, "data") || n.LogFile != filepath.Join(cfg.Dir, n.ID, "log") {
					t.Errorf("%s has %s and %s", n.ID, n.DataDir, n.LogFile)
				}
				if got, err := os.ReadFile(filepath.Join(n.DataDir, "file")); string(got) != n.ID {
					t.Errorf("its data is %q, %v", got, err)
				}
				if _, err := os.Stat(n.LogFile); err != nil {
					t.Error(err)
				}
				entries, err := os.ReadDir(filepath.Join(cfg.Dir, n.ID))
				if err != nil || len(entries) != 2 {
					t.Errorf("beside them there are %v, %v", entries, err)
				}
			}
			if err := b.Start(); !errors.Is(err, ErrLimit) {
				t.Errorf("starting a node of a closed cluster: %v", err)
			}
		})
	}
}

// TestLinks ensures that what a network can do it does, and that what it can't is told so.
func TestLinks(t *testing.T) {
	for _, cfg := range kinds(t) {
		if cfg.Disk != Folder {
			continue
		}
		t.Run(string(cfg.Net), func(t *testing.T) {
			cfg.Binary, cfg.Shards, cfg.Delay = os.Args[0], 1, time.Millisecond
			l := New(t, cfg).Links
			for what, err := range map[string]error{
				"cut": l.Cut("a", "b"), "hold": l.Hold("b", "a"), "mend": l.Mend("a", "b"), "isolate": l.Isolate("c"), "heal": l.Heal(),
				"delay": l.SetDelay("a", "b", time.Second), "rate": l.SetRate("a", "b", 1000),
			} {
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			for what, err := range map[string]error{
				"loss": l.SetLoss("a", "b", 0.1), "duplicate": l.SetDuplicate("a", "b", 0.1), "reorder": l.SetReorder("a", "b", 0.1), "clients": l.CutClient("a"),
			} {
				if cfg.Net == Tap && err != nil || cfg.Net == Proxy && !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// TestCutClient ensures that a node which is cut off from clients answers none, and that peers are another matter.
func TestCutClient(t *testing.T) {
	if err := CanTap(); err != nil {
		t.Skipf("no networks can be made here: %v", err)
	}
	c := Start(t, Config{Binary: os.Args[0], Shards: 1, Net: Tap})
	a := c.Node("a")
	if err := c.Links.CutClient("a"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Get(within(t, 300*time.Millisecond), "/readyz"); err == nil {
		t.Error("it answers")
	}
	if _, _, err := c.Node("b").Get(within(t, 5*time.Second), "/readyz"); err != nil {
		t.Errorf("another node: %v", err)
	}
	if err := c.Links.Heal(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Get(within(t, 5*time.Second), "/readyz"); err != nil {
		t.Errorf("healed: %v", err)
	}
}

// TestPowerLoss ensures that nodes without power are gone, that what they did not sync is too, and that nodes whose
// data lies in a folder can't lose power.
func TestPowerLoss(t *testing.T) {
	c := Start(t, Config{Binary: os.Args[0], Shards: 1})
	for what, err := range map[string]error{
		"power loss": c.Node("a").PowerLoss(), "fill": c.Node("a").FillDisk(), "free": c.Node("a").FreeDisk(), "slow": c.Node("a").SlowDisk(time.Second),
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s of a folder: %v", what, err)
		}
	}
	if len(c.Live()) != 3 {
		t.Error("a node is gone")
	}
	if err := CanLoop(); err != nil {
		t.Skipf("no disks can be made here: %v", err)
	}
	c = Start(t, Config{Binary: os.Args[0], Shards: 1, Disk: Loop})
	a, b := c.Node("a"), c.Node("b")
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Node{a, b} {
		if err := os.MkdirAll(n.DataDir, 0o755); err != nil {
			t.Fatal(err)
		}
		// This process holds nothing open: only the kernel knows of the file.
		if err := os.WriteFile(filepath.Join(n.DataDir, "not synced"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(a.FillDisk(), a.FreeDisk(), a.SlowDisk(10*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	// Slowing down the disk synced it.
	if err := os.WriteFile(filepath.Join(a.DataDir, "newer"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.SlowDisk(0), os.WriteFile(filepath.Join(a.DataDir, "newest"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := c.PowerLoss(a, b); err != nil {
		t.Fatal(err)
	}
	if live := c.Live(); len(live) != 1 || live[0].ID != "c" {
		t.Errorf("live are %v", live)
	}
	for _, path := range []string{filepath.Join(a.DataDir, "newest"), filepath.Join(b.DataDir, "not synced")} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s outlived the power loss: %v", path, err)
		}
	}
	if err := errors.Join(a.Start(), b.Start(), c.Ready(within(t, 20*time.Second))); err != nil {
		t.Fatal(err)
	}
}

// TestLimit ensures that a cluster which lives too long is ended, and says so.
func TestLimit(t *testing.T) {
	c, err := Open(Config{Binary: os.Args[0], Shards: 1, Limit: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Node("a").Start(); err != nil {
		t.Fatal(err)
	}
	if err := Poll(within(t, 20*time.Second), func() bool { return !c.Node("a").Running() }); err != nil {
		t.Fatal("it lives on")
	}
	if err := c.Node("a").Start(); !errors.Is(err, ErrLimit) {
		t.Errorf("starting a node after the limit: %v", err)
	}
	if err := c.Close(); !errors.Is(err, ErrLimit) {
		t.Errorf("closing it: %v", err)
	}
	if _, err := os.Stat(c.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its temporary folder is still there: %v", err)
	}
}

// TestBadConfig ensures that what can't be is refused, and leaves nothing behind.
func TestBadConfig(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	good := Config{Binary: os.Args[0], Shards: 1}
	for name, change := range map[string]func(*Config){
		"no binary": func(c *Config) { c.Binary = "" }, "no shards": func(c *Config) { c.Shards = 0 },
		"six nodes": func(c *Config) { c.Nodes = 6 }, "replicas": func(c *Config) { c.Replicas = 4 },
		"net": func(c *Config) { c.Net = "carrier pigeon" }, "disk": func(c *Config) { c.Disk = "drum" },
		"jitter": func(c *Config) { c.Jitter = time.Second },
	} {
		cfg := good
		change(&cfg)
		if c, err := Open(cfg); err == nil {
			t.Errorf("%s: opened", name)
			c.Close()
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// abandonedEnv makes the test binary one that opens a cluster, tells of it, and waits to be killed.
const abandonedEnv = "ABANDONED_CLUSTER"

// told is what it tells.
type told struct {
	Dir    string
	Pids   []int
	Images []string
}

func abandoned() int {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv(abandonedEnv)), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := Open(cfg)
	if err == nil {
		err = c.StartAll(context.Background(), 20*time.Second)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	out := told{Dir: c.dir}
	for _, n := range c.Nodes {
		out.Pids = append(out.Pids, n.running().cmd.Process.Pid)
	}
	for _, d := range c.state.record.Disks {
		out.Images = append(out.Images, d.Image)
	}
	json.NewEncoder(os.Stdout).Encode(out)
	io.Copy(io.Discard, os.Stdin) // until the test is over too
	return 0
}

// TestClean ensures that a cluster whose process was killed holds nothing after Clean, that one whose process lives is left alone,
// and so is a process that only has the pid of a node.
func TestClean(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	all := kinds(t)
	cfg := all[len(all)-1]
	cfg.Binary, cfg.Shards = os.Args[0], 1
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), abandonedEnv+"="+string(text))
	owner.Stderr = os.Stderr
	in, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer owner.Wait()
	defer owner.Process.Kill()
	var is told
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&is); err != nil {
		t.Fatal(err)
	}

	if removed, err := Clean(); err != nil || len(removed) > 0 {
		t.Errorf("while it lives, cleaning removed %v: %v", removed, err)
	}
	for _, pid := range is.Pids {
		if !identify(pid).alive() {
			t.Errorf("node %d is gone", pid)
		}
	}
	owner.Process.Kill()
	owner.Wait()
	removed, err := Clean()
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range is.Images {
		if !slices.ContainsFunc(removed, func(what string) bool { return strings.HasSuffix(what, image) }) {
			t.Errorf("removed %v, not %s", removed, image)
		}
	}
	for _, pid := range is.Pids {
		if err := Poll(within(t, 10*time.Second), func() bool { return !identify(pid).alive() }); err != nil {
			t.Errorf("node %d lives on", pid)
		}
	}
	if _, err := os.Stat(is.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder is still there: %v", err)
	}
	if mounts, err := os.ReadFile("/proc/mounts"); err == nil && strings.Contains(string(mounts), is.Dir) {
		t.Errorf("something is still mounted in %s", is.Dir)
	}
	if left, err := filepath.Glob(filepath.Join(statesDir(), "*")); err != nil || len(left) > 0 {
		t.Errorf("records left are %v, %v", left, err)
	}
}

// TestCleanForeign ensures that a recorded pid that another program has by now is not killed.
func TestCleanForeign(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Wait()
	defer sleeper.Process.Kill()
	s, err := newState(t.TempDir(), false, "/somewhere/larder")
	if err != nil {
		t.Fatal(err)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	s.record.Owner = identity{Pid: dead.Process.Pid, Started: "1"}
	if err := s.addProcess("a", sleeper.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if removed, err := Clean(); err == nil || len(removed) > 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if !identify(sleeper.Process.Pid).alive() {
		t.Error("killed a process that is no node")
	}
	// The same pid at another time is no node either, and nothing to complain of.
	s.record.Processes["a"] = identity{Pid: sleeper.Process.Pid, Started: "1"}
	s.mu.Lock()
	err = s.saveLocked()
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := Clean(); err != nil || len(removed) > 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if !identify(sleeper.Process.Pid).alive() {
		t.Error("killed a process that is no node")
	}
	if err := os.Chmod(statesDir(), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := newState(t.TempDir(), false, "x"); err == nil {
		t.Error("took a folder of records that everybody can write to")
	}
}
