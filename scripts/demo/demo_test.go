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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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
		fmt.Fprintf(w, `{"shards":[{"id":1,"leader":%q,"items":%d,"bytes":7}]}`, leader, len(entries))
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
	err := run(t.Context(), []string{"--larder", os.Args[0], "--trace", writeTrace(t), "--clients", "4"}, &out, &status)
	if err != nil {
		t.Fatalf("%v\n%s", err, &status)
	}
	for _, want := range []string{
		"replaying 400 accesses of trace.txt.gz with 4 clients",
		"kill -9 of node b, leader of shard 1",
		"first write to shard 1 succeeded through node",
		"the rest of the trace, without node b:",
		"hit ratio",
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
	err := run(ctx, []string{"--larder", os.Args[0], "--trace", writeTrace(t)}, writerFunc(cancel), &status)
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
	err := run(t.Context(), []string{"--larder", os.Args[0], "--trace", writeTrace(t)}, io.Discard, io.Discard)
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
		{[]string{"--larder", os.Args[0], "surplus"}, "surplus"},
	} {
		err := run(t.Context(), tt.args, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want something about %q", tt.args, err, tt.want)
		}
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
