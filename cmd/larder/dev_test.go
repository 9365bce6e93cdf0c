package main

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The settings of dev are checked as those of server are, before its folder is made.
func TestDevUsage(t *testing.T) {
	t.Setenv("TMPDIR", unusable(t))
	for _, args := range [][]string{
		{"--nodes", "0"}, {"--nodes", "27"}, {"--replicas", "0"}, {"--replicas", "4"}, {"--initial-shards", "0"},
		{"--cache-memory", "0%"}, {"--max-memory", "1KiB"}, {"--route", "scenic"},
		{"--http", "127.0.0.1:0"}, {"--http", "127.0.0.1:65530"}, {"--http", ":7070"}, {"--http", "0.0.0.0:7070"},
	} {
		code, _, stderr := larder(t, "", nil, append([]string{"dev"}, args...)...)
		if code != exitUsage || !strings.Contains(stderr, "--") {
			t.Errorf("%q: got exit code %d, %q", args, code, stderr)
		}
	}
	if code, _, stderr := larder(t, "", nil, "dev"); code != exitFailed {
		t.Errorf("without a place for its folder: got exit code %d, %q", code, stderr)
	}
}

// output is what a running program has written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// firstOfFree returns a port such that those which a dev cluster of three nodes takes from there are free.
// It is below those that the system gives to outgoing connections.
func firstOfFree(t *testing.T) int {
	t.Helper()
	for range 100 {
		first := 10_000 + rand.N(20_000)
		if !slices.ContainsFunc([]int{0, 1, devPorts, devPorts + 1, 2 * devPorts, 2*devPorts + 1}, func(offset int) bool {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(first+offset))
			if err == nil {
				l.Close()
			}
			return err != nil
		}) {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

// checkSettings changes the settings of a running cluster, and looks for the effect: on the time to live of
// later values, on the limits of shards, in the metrics.
func checkSettings(t *testing.T, server string) {
	t.Helper()
	do := func(want int, says string, args ...string) {
		t.Helper()
		code, out, errs := larder(t, "", nil, append(args, "--server", server)...)
		if code != want || !strings.Contains(out+errs, says) {
			t.Errorf("%q: got exit code %d, %q, %q, want %d and %q", args, code, out, errs, want, says)
		}
	}
	do(exitOK, "60%", "settings")
	do(exitOK, "1h", "settings", "default-ttl=60m", "cache-memory=30%")
	do(exitOK, "", "put", "short", "v")
	do(exitOK, `"ttl":"3`, "get", "short", "-o", "json")
	do(exitFailed, "more than the 1073741824 bytes of memory", "settings", "cache-memory=2GiB")
	do(exitFailed, "no such setting", "settings", "colour=red")
	do(exitPrecondition, "their version is", "settings", "default-ttl=none", "--if-match", "1")
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		if _, out, _ := larder(t, "", nil, "shard", "show", "1", "-o", "json", "--server", server); strings.Contains(out, `"limit":92035013`) { // 30 % of 1 GiB, by two replicas + 1.5
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the limit does not follow: %s", out)
		}
	}
	do(exitOK, "none", "settings", "default-ttl=default", "cache-memory=60%")
	// The heap's limit follows once the nodes have seen the change.
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		resp, err := http.Get("http://" + server + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), "go_gc_gomemlimit_bytes 2.8") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the metrics do not show the memory limit")
		}
	}
}

// A dev cluster takes writes and reads, ends by ^C with exit code 0 and without a word of complaint, and
// leaves data folders that check takes for sound, with either log store. Of a damaged one check says so, with exit code 8; what
// was asked wrongly of it is no damage.
func TestDevAndCheck(t *testing.T) {
	for store, log := range map[string]string{"bolt": "replicas/1-*/raft.db", "shared": "log/*.log"} {
		t.Run(store, func(t *testing.T) { testDevAndCheck(t, store, log) })
	}
}

func testDevAndCheck(t *testing.T, store, log string) {
	dir := t.TempDir()
	limit := debug.SetMemoryLimit(-1)
	first := "127.0.0.1:" + strconv.Itoa(firstOfFree(t))
	var stdout, stderr output
	ended := make(chan int, 1)
	go func() {
		ended <- run(context.Background(), []string{"dev", "--data-dir", dir, "--http", first, "--initial-shards", "2", "--log-store", store}, nil, strings.NewReader(""), &stdout, &stderr)
	}()
	deadline := time.After(time.Minute)
	for !strings.Contains(stdout.String(), "^C ends it") {
		select {
		case code := <-ended:
			t.Fatalf("ended with code %d: %s", code, stderr.String())
		case <-deadline:
			t.Fatalf("not ready: %s%s", stdout.String(), stderr.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if code, _, errs := larder(t, "", nil, "put", "k", "v", "--server", first); code != exitOK {
		t.Errorf("put: got exit code %d, %s", code, errs)
	}
	if code, out, errs := larder(t, "", nil, "get", "k", "--server", first); code != exitOK || out != "v" {
		t.Errorf("get: got exit code %d, %q, %s", code, out, errs)
	}
	if store == "bolt" { // which they don't depend on
		checkSettings(t, first)
	}
	if got, want := debug.SetMemoryLimit(-1), int64(3<<30*9/10); got < want-10 || got > want {
		t.Errorf("got a memory limit of %d for three nodes, want %d", got, want)
	}
	// Too large a value is refused by its announced length, every time.
	for range 20 {
		if code, _, errs := larder(t, strings.Repeat("v", 4<<20), nil, "put", "k", "--server", first); code != exitFailed {
			t.Errorf("put of 4 MiB: got exit code %d, %s", code, errs)
		}
	}
	complaints := stderr.String()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-ended:
		if said := strings.TrimPrefix(stderr.String(), complaints); code != exitOK || said != "" {
			t.Errorf("ended with code %d, and said\n%s", code, said)
		}
	case <-deadline:
		t.Fatal("^C does not end it")
	}

	if got := debug.SetMemoryLimit(-1); got != limit {
		t.Errorf("left a memory limit of %d, it was %d", got, limit)
	}
	node := filepath.Join(dir, "a")
	check := func(want int, says string, args ...string) {
		t.Helper()
		code, out, errs := larder(t, "", nil, append([]string{"check", "data-dir"}, args...)...)
		if code != want || !strings.Contains(out+errs, says) {
			t.Errorf("%q: got exit code %d, %q, %q, want %d and %q", args, code, out, errs, want, says)
		}
	}
	check(exitOK, "CHECKSUM", node)
	check(exitUsage, "no replica of shard 9", node, "--at", "9=1")
	check(exitFailed, "the data ends at", node, "--at", "1=1000000")
	check(exitFailed, "no data folder", dir)

	files, err := filepath.Glob(filepath.Join(node, filepath.FromSlash(log)))
	if err != nil || len(files) != 1 {
		t.Fatalf("logs of shard 1: %v, %v", files, err)
	}
	if err := os.Truncate(files[0], 0); err != nil {
		t.Fatal(err)
	}
	check(exitViolation, "data lost", node)
	check(exitViolation, "data lost", node, "--at", "1=1000000", "--at", "2=1000000")
	check(exitUsage, "no replica of shard 9", node, "--at", "9=1")
	if err := os.Remove(filepath.Join(node, "replicas.json")); err != nil {
		t.Fatal(err)
	}
	check(exitViolation, "data lost", node)
}
