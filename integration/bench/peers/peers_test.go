package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gonum.org/v1/plot"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/report"
)

// TestMain lets this binary be the servers that it measures.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		if err := child(context.Background(), os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestRun ensures that a run measures each system that there is, and says what it found as tables, bars, a file and plots.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts ten processes")
	}
	dir := t.TempDir()
	var out strings.Builder
	args := []string{
		"-systems", "larder-1,larder-2-lease-bolt,etcd-E16,bare", "-conns", "1,3", "-rounds", "1", "-duration", "100ms", "-warmup", "10ms", "-keys", "50", "-items", "1000", "-mixes", "read,write",
		"-only", "speed", "-dir", dir, "-json", filepath.Join(dir, "out", "x.json"), "-plots", filepath.Join(dir, "out"),
	}
	if err := run(t.Context(), args, &out, io.Discard); err != nil && !strings.Contains(err.Error(), "bars missed") {
		t.Fatalf("%v\n%s", err, &out)
	}
	var f findings
	data, err := os.ReadFile(filepath.Join(dir, "out", "x.json"))
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Samples) != 4*2*2 {
		t.Errorf("got %d measurements, want 16", len(f.Samples))
	}
	for _, x := range f.Samples {
		if counted := x.Allocs != nil && *x.Allocs > 0; x.Rate <= 0 || x.P50 <= 0 || x.Failed != 0 || counted != (x.System != "bare") {
			t.Errorf("got %+v", x)
		}
		if synced := x.Syncs != nil && *x.Syncs > 0; synced != (x.Mix == "write" && x.System != "bare") {
			t.Errorf("syncs of %s, %s: got %v", x.System, x.Mix, x.Syncs)
		}
		if want := map[string]string{"larder-1": "probe shared", "larder-2-lease-bolt": "lease bolt"}[x.System]; strings.TrimSpace(x.ReadMode+" "+x.LogStore) != want {
			t.Errorf("%s: got reads by %q and logs in %q", x.System, x.ReadMode, x.LogStore)
		}
	}
	for _, name := range []string{"read-rate.svg", "read-p50.svg", "read-p99.svg", "write-rate.svg", "write-p50.svg", "write-p99.svg"} {
		if svg, err := os.ReadFile(filepath.Join(dir, "out", name)); err != nil || !strings.Contains(string(svg), "etcd-E16") {
			t.Errorf("%s: %v, %d bytes", name, err, len(svg))
		}
	}
	for _, want := range []string{"| 3, etcd-E16 |", "| 1, bare |", "| 1, larder-1 | probe, shared |", "| 3, larder-2-lease-bolt | lease, bolt |"} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), want) {
			t.Errorf("there is no %q in\n%s", want, &out)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestBareSpeaksLikeLarder ensures that the bare handler's answers are taken for good ones, and that it keeps what it was given.
func TestBareSpeaksLikeLarder(t *testing.T) {
	server := httptest.NewServer(bareHandler())
	defer server.Close()
	dial, end, err := bare{addr: server.Listener.Addr().String()}.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	checkConn(t, dial)
}

// TestRedisConn ensures that answers of Redis's protocol are taken for what they mean.
func TestRedisConn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with its connections
		values := map[string]string{}
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			for {
				words, err := readWords(in)
				if err != nil {
					break
				}
				switch value, found := values[words[1]]; {
				case words[0] == "SET" && words[1] == "wrong":
					io.WriteString(conn, "-ERR wrong\r\n")
				case words[0] == "SET":
					values[words[1]] = words[2]
					io.WriteString(conn, "+OK\r\n")
				case found:
					io.WriteString(conn, "$5\r\n"+value+"\r\n")
				default:
					io.WriteString(conn, "$-1\r\n")
				}
			}
			conn.Close()
		}
	}()
	dial, _, err := redis{addr: l.Addr().String()}.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkConn(t, dial)
	c, err := dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var f *load.Failure
	if err := c.Put(t.Context(), []byte("wrong"), nil); !errors.As(err, &f) || f.Kind != load.Rejected {
		t.Errorf("got %v, want that it was rejected", err)
	}
}

// readWords reads a command of Redis's protocol.
func readWords(in *bufio.Reader) ([]string, error) {
	line := func() (string, error) {
		s, err := in.ReadString('\n')
		return strings.TrimSpace(s), err
	}
	head, err := line()
	if err != nil {
		return nil, err
	}
	words := make([]string, int(head[1]-'0'))
	for i := range words {
		if _, err := line(); err != nil { // its length
			return nil, err
		}
		if words[i], err = line(); err != nil {
			return nil, err
		}
	}
	return words, nil
}

// checkConn misses a key, stores it and reads it.
func checkConn(t *testing.T, dial load.Dial) {
	t.Helper()
	c, err := dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if err := c.Get(t.Context(), []byte("absent")); !errors.Is(err, load.ErrMissing) {
			t.Errorf("got %v, want that it is missing", err)
		}
		if err := c.Put(t.Context(), []byte("k"), []byte("value")); err != nil {
			t.Error(err)
		}
		if err := c.Get(t.Context(), []byte("k")); err != nil {
			t.Error(err)
		}
	}
}

// TestRatios ensures that a ratio is the median of those within rounds, whatever the order of measurements, and unknown where
// a system was not measured.
func TestRatios(t *testing.T) {
	f := findings{}
	for _, x := range []sample{
		{System: "a", Round: 2, Rate: 30}, {System: "a", Round: 1, Rate: 100}, {System: "a", Round: 3, Rate: 8},
		{System: "b", Round: 1, Rate: 10}, {System: "b", Round: 3, Rate: 4}, {System: "b", Round: 2, Rate: 10},
		{System: "b", Round: 1, Rate: 1, Conns: 7},
	} {
		x.Mix = "read"
		if x.Conns == 0 {
			x.Conns = 1
		}
		f.Samples = append(f.Samples, x)
	}
	if got := f.ratio("a", "b", 1, "read", rateOf); got != 3 {
		t.Errorf("got %v, want 3, of 10, 3 and 2", got)
	}
	if got := f.ratio("a", "b", 7, "read", rateOf); !math.IsNaN(got) {
		t.Errorf("got %v of what was not measured", got)
	}
}

// TestJudge ensures that rates are to be at least, latencies at most what a bar says, that what was not measured is not judged, and that
// all bars are of systems, mixes and connections that a run has by default.
func TestJudge(t *testing.T) {
	f := findings{Memory: []weight{{System: "larder-8", Items: 100, Full: 25_000}}}
	add := func(system string, conns int, mix string, rate, p50 float64) {
		f.Samples = append(f.Samples, sample{System: system, Round: 1, Conns: conns, Mix: mix, Rate: rate, P50: p50, ServerCPU: 90 / max(rate, 1), ClientCPU: 10 / max(rate, 1)})
	}
	add("larder-8", 64, "read", 4, 0)
	add("etcd-E1", 64, "read", 1, 0)
	add("larder-8", 1, "read", 0, 31)
	add("etcd-E1", 1, "read", 0, 100)
	var out strings.Builder
	r := report.New(&out)
	f.judge(r)
	err := r.Close()
	if n := strings.Count(out.String(), "bar: "); n != 3 || strings.Count(out.String(), "MISSED") != 1 || !strings.Contains(out.String(), "0.31, MISSED") || !strings.Contains(out.String(), "client 4.00)") || err == nil {
		t.Errorf("got %v and\n%s", err, &out)
	}
	cfg, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bars {
		known := 0
		for _, name := range cfg.systems {
			if name == b.above || name == b.below {
				known++
			}
		}
		for _, m := range cfg.mixes {
			if m.name == b.mix {
				known++
			}
		}
		for _, n := range cfg.conns {
			if n == b.conns {
				known++
			}
		}
		if known != 4 {
			t.Errorf("%+v is never measured", b)
		}
	}
}

// TestFlags ensures that -quick fills in only what was not given, and that what is unknown is refused.
func TestFlags(t *testing.T) {
	cfg, err := parse([]string{"-quick", "-rounds", "4"}, io.Discard)
	if err != nil || cfg.rounds != 4 || len(cfg.conns) != 3 || len(cfg.only) != 1 {
		t.Errorf("got %+v, %v", cfg, err)
	}
	for _, args := range [][]string{{"-systems", "memcached"}, {"-systems", "larder-0"}, {"-systems", "larder-8-fast"}, {"-conns", "0"}, {"-conns", "x"}, {"-mixes", "scan"}, {"-only", "disk"}, {"-rounds", "0"}, {"more"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// TestVariants ensures that the name of a Larder says how many shards it has and with which flags its nodes run, and that flags
// for all of them win.
func TestVariants(t *testing.T) {
	for name, want := range map[string]variant{
		"larder-1":            {1, "probe", "shared"},
		"larder-64-lease":     {64, "lease", "shared"},
		"larder-8-bolt":       {8, "probe", "bolt"},
		"larder-8-lease-bolt": {8, "lease", "bolt"},
		"larder-8-bolt-lease": {8, "lease", "bolt"},
	} {
		if got, err := parseVariant(name, []string{"--memory-only"}); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
	args := []string{"--read-mode", "lease", "--log-store=shared", "--log-store=bolt"}
	if got, err := parseVariant("larder-8", args); err != nil || got != (variant{8, "lease", "bolt"}) {
		t.Errorf("with %q: got %+v, %v", args, got, err)
	}
	if got := strings.Join(variant{8, "lease", "bolt"}.flags(), " "); got != "--read-mode lease --log-store bolt" {
		t.Errorf("got flags %q", got)
	}
	for _, name := range []string{"larder-", "larder-x", "larder--lease", "larder-8-", "etcd-E1"} {
		if got, err := parseVariant(name, nil); err == nil {
			t.Errorf("%q: got %+v", name, got)
		}
	}
}

// TestAxes ensures that each number of connections has a label, and latencies labels at the steps between the least and the most.
func TestAxes(t *testing.T) {
	f := findings{}
	for i, conns := range []int{1, 16, 256} {
		for _, system := range []string{"larder-8", "larder-8-lease"} {
			f.Samples = append(f.Samples, sample{System: system, Round: 1, Conns: conns, Mix: "read", Rate: 20_000 * float64(i+1), P50: 170 * float64(i+1), P99: 0})
		}
	}
	labels := func(ticks []plot.Tick) (all []string) {
		for _, x := range ticks {
			if !x.IsMinor() {
				all = append(all, x.Label)
			}
		}
		return all
	}
	for _, tt := range []struct {
		d    drawing
		y, x string
	}{
		{drawings[0], "0 30 000 60 000", "1 16 256"},
		{drawings[1], "0.1 0.2 0.5 1", "1 16 256"},
	} {
		p, err := f.draw(allMixes[0], tt.d)
		if err != nil || p == nil {
			t.Fatalf("%s: got %v, %v", tt.d.name, p, err)
		}
		x, y := strings.Join(labels(p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max)), " "), strings.Join(labels(p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max)), " ")
		if p.X.Min != 1 || p.X.Max <= 256 {
			t.Errorf("%s: connections are from %g to %g, want from 1 to where the legend has room", tt.d.name, p.X.Min, p.X.Max)
		}
		if x != tt.x || y != tt.y {
			t.Errorf("%s: got labels %q and %q, want %q and %q", tt.d.name, x, y, tt.x, tt.y)
		}
	}
	if p, err := f.draw(allMixes[0], drawings[2]); p != nil || err != nil {
		t.Errorf("latencies where all failed: got %v, %v", p, err)
	}
	for value, want := range map[float64][2]float64{1: {1, 1}, 1.5: {1, 2}, 4.9: {2, 5}, 7: {5, 10}, 0.03: {0.02, 0.05}, 200: {200, 200}} {
		if down, up := step(value, false), step(value, true); math.Abs(down-want[0]) > 1e-9 || math.Abs(up-want[1]) > 1e-9 {
			t.Errorf("%g lies between %g and %g, want %v", value, down, up, want)
		}
	}
}
