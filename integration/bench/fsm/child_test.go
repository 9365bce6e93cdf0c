package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

// ask sends commands to a child and returns its answers.
func ask(t *testing.T, name string, commands ...string) []answer {
	t.Helper()
	var out strings.Builder
	if err := child([]string{name}, strings.NewReader(strings.Join(commands, "\n")), &out); err != nil {
		t.Fatal(err)
	}
	var answers []answer
	for d := json.NewDecoder(strings.NewReader(out.String())); d.More(); {
		var a answer
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, a)
	}
	if len(answers) != len(commands) {
		t.Fatalf("%d answers to %d commands", len(answers), len(commands))
	}
	return answers
}

// TestChild ensures that a child measures what it is asked for, and says so where it can't.
func TestChild(t *testing.T) {
	for _, name := range subjectNames {
		answers := ask(t, name, "get 10", "fill 2000", "put 640 64", "get 500", "heap", "mixed 20", "mix", "put 2000 1", "nonsense")
		for i, a := range answers {
			if wrong := i == 0 || i == len(answers)-1; wrong != (a.Error != "") {
				t.Errorf("%s: answer %d has error %q", name, i, a.Error)
			}
		}
		if put, get := answers[2], answers[3]; put.NS <= 0 || get.NS <= 0 {
			t.Errorf("%s: a put takes %v ns, a get %v", name, put.NS, get.NS)
		}
		if h := answers[4]; h.Heap < 2000*(keySize+valueSize) || h.RSS < h.Heap {
			t.Errorf("%s: 2,000 entries have %d bytes of heap in %d of RSS", name, h.Heap, h.RSS)
		}
		if again := answers[7]; again.NS <= 0 {
			t.Errorf("%s: a put in a mixed order takes %v ns", name, again.NS)
		}
		if m := answers[5].Mixed; m == nil || m.OpsPerSecond <= 0 || m.GCShare < 0 || m.GCShare > 1 || m.LongestOp <= 0 {
			t.Errorf("%s: a read-mostly run came to %+v", name, m)
		}
	}
	for i, a := range ask(t, "larder", "fill 2000", "touch 512 256", "encode 640 64", "decode 640 64") {
		if a.Error != "" || i > 0 && a.NS <= 0 {
			t.Errorf("answer %d is %+v", i, a)
		}
	}
}

// TestSnapshotUnderLoad ensures that a run restores what it wrote and knows how long Apply took.
func TestSnapshotUnderLoad(t *testing.T) {
	m, err := newMachine(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	l := &loaded{m: m, keys: make([]byte, keySize), rate: 20_000}
	s, err := l.shoot(t.TempDir(), 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if s.Entries == 0 || s.Entries > m.len() || s.Size < int64(s.Entries)*(keySize+valueSize) || s.Restore <= 0 || s.Write < s.Hold {
		t.Errorf("%+v of %d entries", s, m.len())
	}
	if w := s.Without; w.Count == 0 || w.P50 <= 0 || w.P50 > w.P99 || w.P99 > w.P999 || w.P999 > w.Max {
		t.Errorf("latencies %+v", w)
	}
}

// TestSummarize ensures that quantiles are those of the values.
func TestSummarize(t *testing.T) {
	var all []time.Duration
	for i := range 1000 {
		all = append(all, time.Duration(1000-i))
	}
	got := summarize(all, time.Second)
	want := latencies{P50: 501, P99: 991, P999: 1000, Max: 1000, Count: 1000, Rate: 1000}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := summarize(nil, time.Second); got != (latencies{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

// TestLongestPause ensures that only pauses of the run itself count.
func TestLongestPause(t *testing.T) {
	histogram := func(counts ...uint64) *metrics.Float64Histogram {
		return &metrics.Float64Histogram{Counts: counts, Buckets: []float64{0, 0.001, 0.002, 0.003}}
	}
	for _, tt := range []struct {
		before, after *metrics.Float64Histogram
		want          time.Duration
	}{
		{histogram(5, 1, 1), histogram(9, 2, 1), 2 * time.Millisecond},
		{histogram(5, 1, 1), histogram(5, 1, 1), 0},
		{histogram(0, 0, 0), histogram(0, 0, 1), 3 * time.Millisecond},
	} {
		if got := longestPause(tt.before, tt.after); got != tt.want {
			t.Errorf("from %v to %v: %v, want %v", tt.before.Counts, tt.after.Counts, got, tt.want)
		}
	}
}

// TestChurn ensures that churn writes as much as asked, in every phase, and never beyond the bound.
func TestChurn(t *testing.T) {
	a, err := runChurn([]string{"4194304", "12", "100000000"})
	if err != nil {
		t.Fatal(err)
	}
	c := a.Churn
	if len(c.Phases) != len(churnPhases) || c.Written < 12*4<<20 || c.Peak < 4<<20 {
		t.Errorf("%d phases, %d bytes written, %d bytes at the peak", len(c.Phases), c.Written, c.Peak)
	}
	for _, p := range c.Phases {
		if p.Entries == 0 || p.RSS == 0 {
			t.Errorf("phase %+v", p)
		}
	}
}

// TestFillRedis ensures that Redis is asked for as many different keys as are counted, and that a wrong
// answer is noticed.
func TestFillRedis(t *testing.T) {
	for _, size := range []string{":1500\r\n", ":1499\r\n"} {
		ours, theirs := net.Pipe()
		keys := make(chan int, 1)
		go func() {
			n, err := serveRedis(theirs, size)
			if err != nil {
				t.Error(err)
			}
			keys <- n
		}()
		err := fillRedis(ours, 1500)
		ours.Close()
		if n := <-keys; n != 1500 {
			t.Errorf("%d keys came", n)
		}
		if (err == nil) != (size == ":1500\r\n") {
			t.Errorf("told of %q: error %v", size, err)
		}
	}
}

// serveRedis answers SET with OK and anything else with size, and returns how many keys it saw.
func serveRedis(conn net.Conn, size string) (int, error) {
	defer conn.Close()
	in, keys := bufio.NewReader(conn), map[string]bool{}
	answers := make(chan string, 10_000) // a pipe has no buffer, and the client writes before it reads
	written := make(chan struct{})
	go func() {
		defer close(written)
		for a := range answers {
			io.WriteString(conn, a)
		}
	}()
	defer func() {
		close(answers)
		<-written
	}()
	for {
		var count, length int
		if _, err := fmt.Fscanf(in, "*%d\r\n", &count); err != nil {
			return len(keys), nil // it hung up
		}
		var args []string
		for range count {
			if _, err := fmt.Fscanf(in, "$%d\r\n", &length); err != nil {
				return len(keys), err
			}
			arg := make([]byte, length+2)
			if _, err := io.ReadFull(in, arg); err != nil {
				return len(keys), err
			}
			args = append(args, string(arg[:length]))
		}
		if args[0] != "SET" {
			answers <- size
			continue
		}
		keys[args[1]] = true
		answers <- "+OK\r\n"
	}
}
