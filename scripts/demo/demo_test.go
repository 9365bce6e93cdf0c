package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/fsm"
)

// TestMain lets the test binary stand in for larder: started as "server" it is a node of a cluster
// whose nodes each keep their own entries and believe to lead shard 1, but for c.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "server" {
		os.Exit(fakeServer())
	}
	os.Exit(m.Run())
}

func argument(name string) string { return os.Args[slices.Index(os.Args, name)+1] }

func fakeServer() int {
	if os.Getenv("FAKE_FAILS") != "" {
		fmt.Fprintln(os.Stderr, "no, I won't")
		return 3
	}
	if err := os.MkdirAll(argument("--data-dir"), 0o700); err != nil {
		return 1
	}
	id := argument("--id")
	leader := map[string]string{"a": "a", "b": "b", "c": "b"}[id]
	var mu sync.Mutex // guards entries
	entries := map[string]bool{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/shards", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, `{"shards":[{"id":1,"leader":%q,"items":%d,"bytes":7,"evictions":1234}]}`, leader, len(entries))
	})
	mux.HandleFunc("GET /v1/locate/{key}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"shard":1}`) })
	mux.HandleFunc("GET /v1/kv/{key}", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !entries[r.PathValue("key")] {
			w.WriteHeader(404)
		}
	})
	mux.HandleFunc("PUT /v1/kv/{key}", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		entries[r.PathValue("key")] = true
		w.WriteHeader(201)
	})
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(argument("--http"), mux) }()
	select {
	case <-term:
		return 0
	case err := <-failed:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}

// writeTrace writes a trace in which each of 20 keys is asked for 20 times.
func writeTrace(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trace.txt.gz")
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	for i := range 400 {
		fmt.Fprintf(zw, "key %d\n", i%20)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// emptyTemp makes the demo's temporary folder visible to the test, and returns what is left in it.
func emptyTemp(t *testing.T) func() []string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return func() []string {
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
}

// TestDemo ensures that the demo runs through: it replays, kills, goes on, reports, and leaves nothing.
func TestDemo(t *testing.T) {
	left := emptyTemp(t)
	var out, status bytes.Buffer
	err := run(t.Context(), []string{"--larder", os.Args[0], "--trace", writeTrace(t), "--clients", "4", "--shards", "1", "--value-size", "2000", "--fill", "0.9"}, &out, &status)
	if err != nil {
		t.Fatalf("%v\n%s", err, &status)
	}
	for _, want := range []string{
		"room for 90 % of 20 keys",
		"replaying 400 accesses of trace.txt.gz with 4 clients",
		"kill -9 of node b, leader of shard 1",
		"first write to shard 1 succeeded through node",
		"the rest of the trace, without node b:",
		"hit ratio",
		"exact LRU        383      0.0 %",
		"the two meet once reads count",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if !strings.Contains(status.String(), "100 %  80 of 80 accesses") {
		t.Errorf("the progress is %q", &status)
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

// TestInterrupt ensures that the demo can be interrupted at any point and leaves nothing then either.
func TestInterrupt(t *testing.T) {
	left := emptyTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	var status bytes.Buffer
	// The first thing that the demo prints comes when all nodes run.
	err := run(ctx, []string{"--larder", os.Args[0], "--trace", writeTrace(t), "--fill", "0"}, writerFunc(cancel), &status)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted demo returned %v", err)
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

// writerFunc is called whenever something is written.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

// TestNodeThatFails ensures that the end of a node is told, with what it said.
func TestNodeThatFails(t *testing.T) {
	left := emptyTemp(t)
	t.Setenv("FAKE_FAILS", "1")
	err := run(t.Context(), []string{"--larder", os.Args[0], "--trace", writeTrace(t), "--fill", "0"}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "no, I won't") {
		t.Errorf("got %v, want what the node said", err)
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

// TestUsage ensures that what can't work is said before anything is started.
func TestUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--larder", "/nowhere/larder"}, "make build"},
		{[]string{"--larder", os.Args[0]}, "--trace FILE"},
		{[]string{"--larder", os.Args[0], "--trace", "/nowhere/trace"}, "no such file"},
		{[]string{"--larder", os.Args[0], "--clients", "0"}, "--clients"},
		{[]string{"--larder", os.Args[0], "--synthetic", "--trace", "x"}, "exclude"},
		{[]string{"--larder", os.Args[0], "--fill", "1.1", "--synthetic"}, "0 to 1"},
		{[]string{"--larder", os.Args[0], "--fill", "NaN", "--synthetic"}, "0 to 1"},
		{[]string{"--larder", os.Args[0], "--fill", "0.1", "--cache-memory", "1MiB", "--synthetic"}, "exclude"},
		{[]string{"--larder", os.Args[0], "--fill", "0.001", "--synthetic"}, "are the least"},
		{[]string{"--larder", os.Args[0], "--max-memory", "256KiB", "--synthetic"}, "more than --max-memory"},
		{[]string{"--larder", os.Args[0], "--max-memory", "1MB", "--synthetic"}, "1MB"},
		{[]string{"--larder", os.Args[0], "surplus"}, "surplus"},
	} {
		err := run(t.Context(), tt.args, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want something about %q", tt.args, err, tt.want)
		}
	}
}

// TestRoom ensures that the shards of a real table get the limits that the demo counts on: together
// the part of what all keys cost that was asked for, and no byte less.
func TestRoom(t *testing.T) {
	var keys []string
	var total uint64
	for i := range 3000 {
		key := strings.Repeat("k", i%100) + strconv.Itoa(i)
		keys = append(keys, key, key)
		total += fsm.Cost(len(key), 400, 0)
	}
	for _, shards := range []int{1, 2, 4, 7} {
		for _, fill := range []float64{0.1, 0.123, 1} {
			r, err := roomFor(keys, fill, shards, 400, "1GiB")
			if err != nil {
				t.Fatal(err)
			}
			capacity, err := directory.ParseMemory(strconv.FormatUint(r.node, 10))
			if err != nil {
				t.Fatal(err)
			}
			var nodes []directory.Node
			for _, id := range []string{"a", "b", "c"} {
				nodes = append(nodes, directory.Node{ID: id, Capacity: capacity.Of(1 << 30)})
			}
			planned, err := directory.PlanInitial(nodes, directory.Settings{InitialShards: shards, Replicas: 3, CacheMemory: "60%"})
			if err != nil {
				t.Fatal(err)
			}
			var sum uint64
			for _, s := range planned {
				if s.Limit != r.shard {
					t.Errorf("fill %g of %d shards: shard %d gets %d bytes, the demo counts on %d", fill, shards, s.ID, s.Limit, r.shard)
				}
				sum += s.Limit
			}
			if want := fill * float64(total); sum != r.all || float64(sum) < want || float64(sum) >= want+float64(shards)+1 {
				t.Errorf("fill %g of %d shards: they get %d bytes, the demo counts on %d, want %.1f", fill, shards, sum, r.all, want)
			}
			if r.keys != 3000 {
				t.Errorf("%d distinct keys, want 3000", r.keys)
			}
		}
	}
}

// TestRoomBounds ensures that memory which no server takes, or in which a value has no room, is refused.
func TestRoomBounds(t *testing.T) {
	var keys []string
	for i := range 300 {
		keys = append(keys, strconv.Itoa(1000+i))
	}
	each := fsm.Cost(4, 5000, 0)
	for _, tt := range []struct {
		name   string
		fill   float64
		memory string
		want   string // "" = accepted
	}{
		{"an entry is 1/8 of the shard", 8.0 / 300, "1GiB", ""},
		{"an entry is more", 7.9 / 300, "1GiB", thousands(int(8 * each))},
		{"all of the node's memory", 1, strconv.FormatUint((300*each*5+1)/2, 10), ""},
		{"more than the node has", 1, strconv.FormatUint((300*each*5+1)/2-1, 10), "--max-memory"},
	} {
		_, err := roomFor(keys, tt.fill, 1, 5000, tt.memory)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

// TestLRU ensures that the exact LRU keeps what was used last, within its bytes, by a sequence made by hand.
func TestLRU(t *testing.T) {
	l := newLRU(10)
	for i, step := range []struct {
		key       string
		cost      uint64
		hit       bool
		used      uint64
		evictions int
	}{
		{"a", 4, false, 4, 0},
		{"b", 4, false, 8, 0},
		{"a", 4, true, 8, 0},
		{"c", 2, false, 10, 0}, // just fits: c a b
		{"d", 3, false, 9, 1},  // b leaves, not a, which is older but was used: d c a
		{"b", 4, false, 9, 2},  // a leaves: b d c
		{"c", 2, true, 9, 2},
		{"e", 9, false, 9, 5},  // all three leave
		{"f", 11, false, 0, 7}, // never fits
		{"f", 1, false, 1, 7},
		{"f", 1, true, 1, 7},
	} {
		if hit := l.access(step.key, step.cost); hit != step.hit || l.used != step.used || l.evictions != step.evictions {
			t.Errorf("step %d, %s: hit %v, %d bytes, %d evictions; want %v, %d, %d",
				i, step.key, hit, l.used, l.evictions, step.hit, step.used, step.evictions)
		}
	}
	if l.hits != 3 || l.misses != 8 || l.order.Len() != len(l.entries) {
		t.Errorf("%d hits, %d misses, %d entries in order and %d by key", l.hits, l.misses, l.order.Len(), len(l.entries))
	}
}

// TestCompare ensures that the comparison says whose numbers are whose, and why they differ.
func TestCompare(t *testing.T) {
	exact := &lru{limit: 1234567, hits: 60, misses: 40, evictions: 4321}
	var out strings.Builder
	if err := compare(&out, result{hits: 45, misses: 55}, 98765, exact); err != nil {
		t.Fatal(err)
	}
	want := `
  1,234,567 bytes  evictions  hit ratio
           Larder     98,765     45.0 %
        exact LRU      4,321     60.0 %

Reads don't refresh an entry yet, so entries leave in the order in which they were written: the two meet once reads count.
`
	trimmed := func(s string) string { // tabwriter ends lines with blanks
		var lines []string
		for line := range strings.Lines(s) {
			lines = append(lines, strings.TrimRight(line, " \n"))
		}
		return strings.Join(lines, "\n")
	}
	if got := trimmed(out.String()); got != trimmed(want) {
		t.Errorf("got\n%s\nwant\n%s", got, trimmed(want))
	}
}

// TestAccessCountsAndRetries ensures that hits, misses and failures are told apart, and that a node
// which can't serve is passed over.
func TestAccessCountsAndRetries(t *testing.T) {
	// What a node answers to GET and PUT, 0 being nothing at all.
	type fakeAnswers struct{ get, put int }
	alive := make(chan struct{})
	for _, tt := range []struct {
		name string
		a, b fakeAnswers
		want result
	}{
		{"hit", fakeAnswers{200, 0}, fakeAnswers{200, 0}, result{requests: 1, hits: 1}},
		{"miss and fill", fakeAnswers{404, 201}, fakeAnswers{404, 201}, result{requests: 2, misses: 1}},
		{"miss and fill over an entry of another client", fakeAnswers{404, 204}, fakeAnswers{404, 204}, result{requests: 2, misses: 1}},
		{"one node away", fakeAnswers{0, 0}, fakeAnswers{200, 0}, result{requests: 1, hits: 1}},
		{"the other away", fakeAnswers{200, 0}, fakeAnswers{0, 0}, result{requests: 1, hits: 1}},
		{"one without a leader", fakeAnswers{503, 503}, fakeAnswers{404, 201}, result{requests: 2, misses: 1}},
		{"one overloaded", fakeAnswers{429, 429}, fakeAnswers{404, 201}, result{requests: 2, misses: 1}},
		{"nobody there", fakeAnswers{0, 0}, fakeAnswers{0, 0}, result{failures: 1}},
		{"a fill that is refused", fakeAnswers{404, 507}, fakeAnswers{404, 507}, result{requests: 1, misses: 1, failures: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newReplay([]*node{{id: "a", url: "http://a", ended: alive}, {id: "b", url: "http://b", ended: alive}}, 10)
			r.http.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
				n := map[string]fakeAnswers{"a": tt.a, "b": tt.b}[req.URL.Host]
				status := map[string]int{http.MethodGet: n.get, http.MethodPut: n.put}[req.Method]
				if status == 0 {
					return nil, errors.New("connection refused")
				}
				return &http.Response{StatusCode: status, Body: http.NoBody}, nil
			})
			var got result
			r.access(t.Context(), "k", &got)
			if got.requests != tt.want.requests || got.hits != tt.want.hits || got.misses != tt.want.misses || got.failures != tt.want.failures {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if len(got.latencies) != got.requests {
				t.Errorf("%d latencies of %d requests", len(got.latencies), got.requests)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestPercentile ensures that percentiles are of the samples and exact at the ends.
func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, tt := range []struct {
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred[:1], 99, 1}, {hundred[:3], 50, 2}, {nil, 50, 0},
	} {
		if got := percentile(tt.sorted, tt.p); got != tt.want {
			t.Errorf("p%d of %d = %d, want %d", tt.p, len(tt.sorted), got, tt.want)
		}
	}
}

// TestThousands ensures that numbers are grouped from the right.
func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 76118: "76,118", 1234567: "1,234,567", -1000: "-1,000", -999: "-999"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %s, want %s", n, got, want)
		}
	}
}

// TestBar ensures that the bar fills up and stays in its line until it is done.
func TestBar(t *testing.T) {
	var b bytes.Buffer
	bar(&b, 50, 100, time.Second, false)
	if got := b.String(); strings.Contains(got, "\n") || strings.Count(got, "=") != 20 || !strings.Contains(got, " 50 %") {
		t.Errorf("half a bar is %q", got)
	}
	b.Reset()
	bar(&b, 100, 100, time.Second, true)
	if got := b.String(); !strings.HasSuffix(got, "\n") || strings.Count(got, "=") != 40 {
		t.Errorf("a full bar is %q", got)
	}
}
