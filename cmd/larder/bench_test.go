package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
)

// cached answers as a cluster does that has every key: without a table of shards, so that requests go to this server.
func cached(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, kvPrefix) {
		problem(503, "unavailable", "no")(w, r)
		return
	}
	hit(w, r)
}

// TestBenchJSON ensures that -o json tells the whole run as one document on stdout: what was asked for, and what was measured.
func TestBenchJSON(t *testing.T) {
	address, requests := serve(t, cached)
	for _, route := range []string{"leader", "any"} {
		code, stdout, stderr := larder(t, "", nil, "bench", "--server", address, "-o", "json", "--clients", "3", "--rate", "500", "--reads", "60", "--keys", "50",
			"--zipf", "0.9", "--value-size", "10-20", "--duration", "300ms", "--warmup", "100ms", "--seed", "7", "--route", route, "--load")
		if code != 0 {
			t.Fatalf("got exit code %d, %s", code, stderr)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatalf("%v in %q", err, stdout)
		}
		for name, want := range map[string]any{
			"route": route, "clients": 3.0, "target_rate": 500.0, "read_percent": 60.0, "keys": 50.0, "zipf": 0.9, "min_value_size": 10.0, "max_value_size": 20.0,
			"batch": 0.0, "rates_of": "operations", "latencies_of": "requests", "seed": 7.0, "seconds": 0.3, "misses": 0.0, "refused": 0.0, "unknown": 0.0,
		} {
			if got[name] != want {
				t.Errorf("%s: got %v, want %v", name, got[name], want)
			}
		}
		if fmt.Sprint(got["servers"]) != "["+address+"]" {
			t.Errorf("got servers %v", got["servers"])
		}
		// Those of 300 ms that were due, whether or not they could be sent; those of the warm-up were sent as well.
		count := func(part, name string) float64 {
			n, ok := got[part].(map[string]any)[name].(float64)
			if !ok {
				t.Fatalf("there is no %s of %s: %s", name, part, stdout)
			}
			return n
		}
		if count("all", "count") != 150 || count("reads", "count")+count("writes", "count") != 150 || got["sent"].(float64)+got["unsent"].(float64) < 150 || got["rate"].(float64) <= 0 {
			t.Errorf("got %s", stdout)
		}
		previous := 0.0
		for _, name := range []string{"min_us", "p50_us", "p90_us", "p99_us", "p99_9_us", "p99_99_us", "max_us"} {
			if at := count("all", name); at < previous || at == 0 || math.IsNaN(at) {
				t.Errorf("%s is %v, after %v", name, at, previous)
			} else {
				previous = at
			}
		}
		if mean := count("all", "mean_us"); mean < count("all", "min_us") || mean > count("all", "max_us") {
			t.Errorf("the mean is %v", mean)
		}
		stored := map[string]bool{}
		for _, s := range requests.take() {
			if name, ok := strings.CutPrefix(s.line, "PUT "); ok {
				if stored[name] = true; len(s.body) < 10 || len(s.body) > 20 {
					t.Errorf("a value has %d bytes", len(s.body))
				}
			}
		}
		if len(stored) != 50 {
			t.Errorf("%d keys were stored, want 50", len(stored))
		}
	}
}

// TestBenchTable ensures that the table has a line for each kind of request that there was, and that progress goes to stderr.
func TestBenchTable(t *testing.T) {
	address, _ := serve(t, cached)
	code, stdout, stderr := larder(t, "", nil, "bench", "--server", address, "--clients", "2", "--reads", "100", "--duration", "1200ms", "--warmup", "0s")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if code != 0 || len(lines) != 5 || !strings.HasPrefix(lines[2], "REQUESTS") || !strings.HasPrefix(lines[3], "read") || !strings.HasPrefix(lines[4], "all") {
		t.Errorf("got exit code %d and\n%s\n%s", code, stdout, stderr)
	}
	if !strings.HasPrefix(stderr, "1s of 1.2s: ") {
		t.Errorf("got %q on stderr", stderr)
	}
}

// TestBenchBatch ensures that --batch has each request carry so many operations, and that rates count these, for people and as JSON.
func TestBenchBatch(t *testing.T) {
	address, requests := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/batch" {
			problem(503, "unavailable", "no")(w, r)
			return
		}
		var body struct{ Ops []struct{ Op string } }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		var results []string
		for _, op := range body.Ops {
			status := map[string]int{"get": 200, "put": 204}[op.Op]
			results = append(results, fmt.Sprintf(`{"status":%d,"shard":1,"served_by":"a"}`, status))
		}
		fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(results, ","))
	})
	args := []string{"bench", "--server", address, "--batch", "5", "--rate", "1000", "--reads", "40", "--clients", "2", "--duration", "300ms", "--warmup", "0s", "--seed", "7"}
	code, stdout, stderr := larder(t, "", nil, append(args, "-o", "json")...)
	if code != 0 {
		t.Fatalf("got exit code %d, %s", code, stderr)
	}
	var got struct {
		Batch                int
		Sent, Unsent         int
		Rate                 float64
		All, Reads, Writes   struct{ Count int }
		RatesOf, LatenciesOf string
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	batches := 0
	for _, s := range requests.take() {
		if strings.HasPrefix(s.line, "POST ") {
			if batches++; strings.Count(s.body, `"op":`) != 5 || strings.Contains(s.body, `"get"`) == strings.Contains(s.body, `"put"`) {
				t.Errorf("got a batch %s", s.body)
			}
		}
	}
	// 1,000 operations a second are 60 requests in 300 ms.
	if got.Batch != 5 || got.All.Count != 60 || got.Reads.Count == 0 || got.Writes.Count == 0 || got.Sent != 5*batches || got.Sent+got.Unsent != 300 || got.Rate <= 0 {
		t.Errorf("got %+v of %d batches", got, batches)
	}
	code, stdout, stderr = larder(t, "", nil, args...)
	if code != 0 || !strings.Contains(stdout, "operations answered a second in requests of 5,") {
		t.Errorf("got exit code %d, %s%s", code, stdout, stderr)
	}
}

// TestBenchExits ensures that a run whose requests fail has the exit code that other commands have for such a failure, that it is
// still printed, and that nothing runs where the command line is wrong or nobody is there.
func TestBenchExits(t *testing.T) {
	keys := func(reply http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, kvPrefix) {
				reply(w, r)
			} else {
				cached(w, r)
			}
		}
	}
	some := 0
	for what, tt := range map[string]struct {
		reply http.HandlerFunc
		want  int
		said  string
	}{
		"refused":   {problem(503, "no-leader", "no"), exitUnavailable, "503 no-leader"},
		"unknown":   {problem(504, "outcome-unknown", "unknown"), exitUnknown, "504 outcome-unknown"},
		"denied":    {problem(403, "forbidden", "no"), exitUnauthorised, "403 forbidden"},
		"rejected":  {problem(413, "value-too-large", "no"), exitFailed, "413 value-too-large"},
		"no Larder": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, exitUnknown, "not an answer of Larder"},
		"both": {func(w http.ResponseWriter, r *http.Request) {
			if some++; some%2 == 0 {
				problem(504, "outcome-unknown", "unknown")(w, r)
			} else {
				problem(503, "no-leader", "no")(w, r)
			}
		}, exitUnknown, "503 no-leader"},
	} {
		address, _ := serve(t, keys(tt.reply))
		args := []string{"bench", "--server", address, "--clients", "1", "--reads", "0", "--duration", "400ms", "--warmup", "0s"}
		code, stdout, stderr := larder(t, "", nil, args...)
		if code != tt.want || stdout == "" || !strings.Contains(stderr, tt.said) {
			t.Errorf("%s: got exit code %d, want %d; %s%s", what, code, tt.want, stdout, stderr)
		}
	}
	address, _ := serve(t, keys(problem(413, "value-too-large", "no")))
	if code, stdout, stderr := larder(t, "", nil, "bench", "--load", "--server", address); code != exitFailed || stdout != "" || !strings.Contains(stderr, "413 value-too-large") {
		t.Errorf("storing keys: got exit code %d; %s%s", code, stdout, stderr)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	for _, args := range [][]string{{"--server", gone}, {"--server", gone, "--route", "any"}, {"--server", gone, "--load"}} {
		if code, stdout, stderr := larder(t, "", nil, append([]string{"bench"}, args...)...); code != exitUnavailable || stdout != "" {
			t.Errorf("%q, with nobody there: got exit code %d; %s%s", args, code, stdout, stderr)
		}
	}
	for _, args := range [][]string{
		{"--clients", "0"}, {"--rate", "-1"}, {"--reads", "101"}, {"--keys", "0"}, {"--zipf", "-1"}, {"--value-size", "x"}, {"--value-size", "2-1"}, {"--value-size", ""},
		{"--value-size", "1-"}, {"--duration", "0s"}, {"--warmup", "-1s"}, {"--route", "slow"}, {"-o", "xml"}, {"--batch", "-1"}, {"--batch", "10001"}, {"--batch", "100", "--value-size", "1000000"}, {"--timeout", "0s"}, {"--server", "127.0.0.1"},
		{"--server", "http://a:1,https://b:1"}, {"extra"},
	} {
		code, stdout, stderr := larder(t, "", nil, append([]string{"bench", "--server", address}, args...)...)
		if code != exitUsage || stdout != "" || stderr == "" {
			t.Errorf("%q: got exit code %d, want 2; %s%s", args, code, stdout, stderr)
		}
	}
}
