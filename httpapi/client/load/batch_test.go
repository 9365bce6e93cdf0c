package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sentOp is an operation of a batch, as a server reads it.
type sentOp struct {
	Op       string
	KeyB64   []byte `json:"key_b64"`
	ValueB64 []byte `json:"value_b64"`
}

// TestBatchRequests ensures that a batch reaches the server as it is, keys of any bytes included, and that results of any length
// come back, each for its own operation.
func TestBatchRequests(t *testing.T) {
	var got []sentOp
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.(http.Flusher).Flush() // so that it comes in chunks
			io.WriteString(w, "value")
			return
		}
		var body struct{ Ops []sentOp }
		if r.Method != http.MethodPost || r.URL.Path != "/v1/batch" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %s %s of %q", r.Method, r.URL, r.Header.Get("Content-Type"))
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		got = body.Ops
		var results []string
		for _, op := range got {
			switch {
			case op.Op == "put":
				results = append(results, `{"status":204,"existed":true,"shard":1,"served_by":"a"}`)
			case string(op.KeyB64) == "absent":
				results = append(results, `{"status":404,"shard":1,"problem":{"type":"/problems/not-found","applied":"no"}}`)
			default:
				results = append(results, fmt.Sprintf(`{"status":200,"value":%q,"shard":1,"epoch":3,"index":"4.0","served_by":"a"}`, strings.Repeat("v", 1000)))
			}
		}
		fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(results, ",\n"))
	})
	c := connect(t, addr).(BatchConn)
	for _, ops := range [][]Op{
		{{Key: []byte("bench-0000000000"), Value: []byte("\x00\xff")}},
		{{Read: true, Key: []byte("absent")}, {Read: true, Key: []byte("\"\xff{}")}, {Key: []byte("k"), Value: []byte{}}},
		make([]Op, 500), // its answer comes in chunks
		{{Read: true, Key: []byte("absent")}},
	} {
		for i := range ops {
			if ops[i].Key == nil {
				ops[i] = Op{Read: true, Key: fmt.Appendf(nil, "key-%d", i)}
			}
		}
		errs := make([]error, len(ops))
		c.Batch(t.Context(), ops, errs)
		if len(got) != len(ops) {
			t.Fatalf("the server got %d operations, want %d", len(got), len(ops))
		}
		for i, op := range ops {
			kind := map[bool]string{true: "get", false: "put"}[op.Read]
			if got[i].Op != kind || string(got[i].KeyB64) != string(op.Key) || string(got[i].ValueB64) != string(op.Value) {
				t.Errorf("operation %d: got %+v, want %+v", i, got[i], op)
			}
			if missing := string(op.Key) == "absent"; missing != errors.Is(errs[i], ErrMissing) || !missing && errs[i] != nil {
				t.Errorf("operation %d, of %q: %v", i, op.Key, errs[i])
			}
		}
	}
	if err := c.Get(t.Context(), []byte("k")); err == nil || err.Error() != errMalformed.Error() {
		t.Errorf("a read that is answered in chunks, as none of Larder's is: %v", err)
	}
}

// TestBatchOutcomes ensures that what a batch comes to is taken for what it means, the failure of all for each of its operations.
func TestBatchOutcomes(t *testing.T) {
	const okRead, okWrite = `{"status":200,"value":"v","shard":1}`, `{"status":201,"shard":1}`
	results := func(both ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(both, ","))
		}
	}
	refused := func(status int, name, applied string) string {
		return fmt.Sprintf(`{"status":%d,"problem":{"type":"/problems/%s","applied":%q}}`, status, name, applied)
	}
	for what, tt := range map[string]struct {
		reply       http.HandlerFunc
		read, write string
	}{
		"success":       {results(okRead, okWrite), "ok", "ok"},
		"no leader":     {results(refused(503, "no-leader", "no"), okWrite), "0 503 no-leader", "ok"},
		"unknown":       {results(okRead, refused(504, "outcome-unknown", "unknown")), "ok", "1 504 outcome-unknown"},
		"of no shard":   {results(`{"status":200}`, `{"status":204}`), "3 200, not an answer of Larder", "1 204, not an answer of Larder"},
		"too few":       {results(okRead), "3 200, not an answer of Larder", "1 200, not an answer of Larder"},
		"no results":    {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }, "3 200, not an answer of Larder", "1 200, not an answer of Larder"},
		"no JSON":       {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, "3 200, not an answer of Larder", "1 200, not an answer of Larder"},
		"all refused":   {problem(429, "overloaded", "no"), "0 429 overloaded", "0 429 overloaded"},
		"all too large": {problem(413, "batch-too-large", "no"), "3 413 batch-too-large", "3 413 batch-too-large"},
		"closed":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "0 no answer", "1 no answer"},
		"closed, settled": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			results(okRead, okWrite)(w, r)
		}, "ok", "ok"},
	} {
		c := connect(t, server(t, tt.reply)).(BatchConn)
		errs := make([]error, 2)
		for range 2 { // a connection that is of no more use must be replaced
			c.Batch(t.Context(), []Op{{Read: true, Key: []byte("k")}, {Key: []byte("l"), Value: []byte("v")}}, errs)
			for i, want := range []string{tt.read, tt.write} {
				got := "ok"
				var f *Failure
				switch {
				case errors.As(errs[i], &f):
					got = fmt.Sprintf("%d %s", f.Kind, f.Reason)
				case errs[i] != nil:
					got = errs[i].Error()
				}
				if got != want {
					t.Errorf("%s, operation %d: got %q, want %q", what, i, got, want)
				}
			}
		}
	}
}

// TestBatchForgets ensures that an answer without results is not taken for the one before.
func TestBatchForgets(t *testing.T) {
	answers := []string{`{"results":[{"status":200,"value":"v","shard":1}]}`, `{}`}
	c := connect(t, server(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, answers[0])
		answers = answers[1:]
	})).(BatchConn)
	errs := make([]error, 1)
	for _, want := range []bool{true, false} {
		if c.Batch(t.Context(), []Op{{Read: true, Key: []byte("k")}}, errs); (errs[0] == nil) != want {
			t.Errorf("got %v, want success %t", errs[0], want)
		}
	}
}

// TestChunks ensures that a body in chunks is read whole in whatever pieces it arrives, and that what can't be one is refused.
func TestChunks(t *testing.T) {
	const header = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	long := strings.Repeat("x", 10_000)
	for what, tt := range map[string]struct {
		raw, want string // "": refused
	}{
		"chunks":          {header + "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n", "hello, world"},
		"hexadecimal":     {header + "A\r\n0123456789\r\n000b\r\nabcdefghijk\r\n0\r\n\r\n", "0123456789abcdefghijk"},
		"long":            {header + "2710\r\n" + long + "\r\n2710\r\n" + long + "\r\n0\r\n\r\n", long + long},
		"line ends in it": {header + "6\r\n\r\n0\r\n\r" + "\r\n0\r\n\r\n", "\r\n0\r\n\r"},
		"no end":          {header + "5\r\nhello\r\n", ""},
		"cut":             {header + "5\r\nhel", ""},
		"too long":        {header + "5\r\nhello!\r\n0\r\n\r\n", ""},
		"no size":         {header + "\r\nhello\r\n0\r\n\r\n", ""},
		"wrong size":      {header + "-5\r\nhello\r\n0\r\n\r\n", ""},
		"endless size":    {header + strings.Repeat("0", 20) + "5\r\nhello\r\n0\r\n\r\n", ""},
		"huge size":       {header + "ffffffff\r\nhello\r\n0\r\n\r\n", ""},
		"trailer":         {header + "5\r\nhello\r\n0\r\nX: y\r\n\r\n", ""},
		"too much":        {header + "5\r\nhello\r\n0\r\n\r\nx", ""},
		"and a length":    {strings.Replace(header, "\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n", 1) + "5\r\nhello\r\n0\r\n\r\n", ""},
		"compressed":      {strings.Replace(header, "chunked", "gzip, chunked", 1) + "5\r\nhello\r\n0\r\n\r\n", ""},
	} {
		for _, size := range []int{1, 3, 1 << 20} {
			if what == "too much" && size < 1<<20 {
				continue // the rest may come after the answer was taken; it spoils the next one
			}
			here, there := net.Pipe()
			go func() { // ends with the pipe
				defer there.Close()
				if _, err := http.ReadRequest(bufio.NewReader(there)); err != nil {
					t.Error(err)
				}
				for rest := tt.raw; len(rest) > 0; {
					n, err := there.Write([]byte(rest[:min(size, len(rest))]))
					if rest = rest[n:]; err != nil {
						return
					}
				}
			}()
			c := newHTTPConn(here, time.Minute)
			c.batch([]Op{{Read: true, Key: []byte("k")}}, "h", "")
			c.out = c.out[:strings.Index(string(c.out), "\r\n\r\n")+4] // the other end reads no body
			a, _, err := c.do()
			here.Close()
			if (err == nil) != (tt.want != "") || err == nil && string(a.body) != tt.want {
				t.Errorf("%s, in pieces of %d: got %d bytes, %v", what, size, len(a.body), err)
			}
			if ended := what == "cut" || what == "no end"; err != nil && errors.Is(err, errMalformed) == ended {
				t.Errorf("%s, in pieces of %d: %v", what, size, err)
			}
		}
	}
}

// batching is a conn that takes batches.
type batching struct {
	conn
	do func(ops []Op, errs []error)
}

func (b batching) Batch(_ context.Context, ops []Op, errs []error) { b.do(ops, errs) }

// TestBatchRun ensures that with batches rates and failures are counted in operations, latencies in requests, each of which has
// reads or writes alone, and that an open loop spaces requests so that operations are due at the rate.
func TestBatchRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, writes := 0, 0
		keys := map[string]int{}
		server := batching{do: func(ops []Op, errs []error) {
			time.Sleep(time.Millisecond)
			for i, op := range ops {
				if op.Read != ops[0].Read || len(op.Value) != map[bool]int{true: 0, false: 7}[op.Read] {
					t.Errorf("got %+v in a batch", op)
				}
				keys[string(op.Key)]++
				errs[i] = nil
			}
			if ops[0].Read {
				errs[0] = ErrMissing
				reads++
			} else {
				errs[1], errs[2] = &Failure{Unavailable, "503"}, &Failure{Unknown, "504"}
				writes++
			}
		}}
		cfg := Config{Clients: 1, Rate: 1000, Reads: 60, Batch: 10, Keys: 100, MinValue: 7, MaxValue: 7, Duration: 10 * time.Second, nap: time.Sleep}
		began := time.Now()
		r, err := Run(t.Context(), cfg, dialTo(server))
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if reads+writes != 1000 || took < 9990*time.Millisecond || took > 10*time.Second || reads < 500 || reads > 700 {
			t.Fatalf("got %d batches of reads and %d of writes in %v, want 1000 in 10 s, three fifths of them of reads", reads, writes, took)
		}
		if r.Sent != 10_000 || r.Rate != float64(10_000-2*writes)/10 || r.Misses != uint64(reads) || r.Refused != uint64(writes) || r.Unknown != uint64(writes) {
			t.Errorf("got %+v of %d and %d batches", r, reads, writes)
		}
		if r.Reads.Count != uint64(reads) || r.Writes.Count != uint64(writes) || r.All.Count != 1000 || r.All.P50 < 1000 || r.All.P50 > 1010 {
			t.Errorf("got latencies %+v of %d and %d batches", r.All, reads, writes)
		}
		if want := map[string]uint64{"503": uint64(writes), "504": uint64(writes)}; !maps.Equal(r.Reasons, want) {
			t.Errorf("got reasons %v, want %v", r.Reasons, want)
		}
		if len(keys) != 100 {
			t.Errorf("got %d keys, want all 100", len(keys))
		}

		// One that can't keep up: what was due and not sent counts in operations too.
		slow := batching{do: func(_ []Op, errs []error) { clear(errs); time.Sleep(time.Second) }}
		if r, err = Run(t.Context(), cfg, dialTo(slow)); err != nil {
			t.Fatal(err)
		}
		if r.Sent != 100 || r.Unsent != 9900 || r.All.Count != 1000 {
			t.Errorf("got %d sent, %d unsent, %d latencies; want 100, 9900, 1000", r.Sent, r.Unsent, r.All.Count)
		}

		if _, err := Run(t.Context(), cfg, dialTo(conn{})); err == nil {
			t.Error("a run over connections that carry no batches")
		}
	})
}

// TestBatchBounds ensures that the longest batch which is allowed fits into what a server takes.
func TestBatchBounds(t *testing.T) {
	cfg := Config{Clients: 1, Batch: 5000, Keys: 1, MaxValue: 2400, Duration: 1}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	c := newHTTPConn(nil, time.Minute)
	ops := make([]Op, cfg.Batch)
	for i := range ops {
		ops[i] = Op{Key: []byte("bench-0000000000"), Value: make([]byte, cfg.MaxValue)}
	}
	c.batch(ops, "h", "")
	if n, bound := len(c.ops), maxBatchSize(cfg.Batch, cfg.MaxValue); n != bound-1 || n > maxBatchBytes { // the first has no comma
		t.Errorf("a batch has %d bytes; its bound is %d, the server's %d", n, bound, maxBatchBytes)
	}
	if cfg.MaxValue = 2500; cfg.Validate() == nil {
		t.Error("a batch that no server takes")
	}
	if cfg.Reads = 100; cfg.Validate() != nil {
		t.Error("reads have no values")
	}
}
