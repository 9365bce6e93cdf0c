package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// server answers requests for keys and batches with reply, and all else with a 503; it returns its address.
func server(t testing.TB, reply http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/kv/") && r.URL.Path != "/v1/batch" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		reply(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// connect returns the connection of a client to one server, whatever the key.
func connect(t testing.TB, addr string) Conn {
	t.Helper()
	target, err := Open(t.Context(), HTTP{Addrs: []string{addr}, Route: RouteAny})
	if err != nil {
		t.Fatal(err)
	}
	c, err := target.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// hit answers as a node of Larder does.
func hit(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Larder-Shard", "1")
	w.Header().Set("Larder-Served-By", "a")
	if r.Method == http.MethodPut {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	io.WriteString(w, "value")
}

// problem answers with an error.
func problem(status int, name, applied string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"type":"/problems/%s","title":"t","status":%d,"detail":"d","applied":%q}`, name, status, applied)
	}
}

// TestRequests ensures that keys of any bytes and values of any length reach the server as they are, one after the other on
// one connection.
func TestRequests(t *testing.T) {
	var mu sync.Mutex
	var got []string
	from := map[string]bool{}
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		key, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/kv/"))
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		got = append(got, fmt.Sprintf("%s %q %d %s", r.Method, key, len(body), r.Host))
		from[r.RemoteAddr] = true
		mu.Unlock()
		hit(w, r)
	})
	c := connect(t, addr)
	var want []string
	for _, key := range []string{"bench-0000000000", "..", "a//b", "\x00\xff %2F?#", strings.Repeat("k", 1024)} {
		for _, size := range []int{0, 1, 128, 100_000} {
			if err := c.Put(t.Context(), []byte(key), make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("PUT %q %d %s", key, size, addr))
		}
		if err := c.Get(t.Context(), []byte(key)); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("GET %q 0 %s", key, addr))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(from) != 1 {
		t.Errorf("%d connections were made", len(from))
	}
}

// TestOutcomes ensures that each answer is taken for what it means to whoever reads, and to whoever writes.
func TestOutcomes(t *testing.T) {
	const ok, missing = "ok", "missing"
	plain := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", status) }
	}
	for what, tt := range map[string]struct {
		reply       http.HandlerFunc
		read, write string
	}{
		"success": {hit, ok, ok},
		"miss": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Larder-Shard", "1")
			problem(404, "not-found", "no")(w, r)
		}, missing, "3 404 not-found"},
		"no leader":     {problem(503, "no-leader", "no"), "0 503 no-leader", "0 503 no-leader"},
		"overload":      {problem(429, "overloaded", "no"), "0 429 overloaded", "0 429 overloaded"},
		"full":          {problem(507, "storage", "no"), "0 507 storage", "0 507 storage"},
		"unknown":       {problem(504, "outcome-unknown", "unknown"), "0 504 outcome-unknown", "1 504 outcome-unknown"},
		"too large":     {problem(413, "value-too-large", "no"), "3 413 value-too-large", "3 413 value-too-large"},
		"no right":      {problem(403, "forbidden", "no"), "2 403 forbidden", "2 403 forbidden"},
		"another's 200": {plain(200), "3 200, not an answer of Larder", "1 200, not an answer of Larder"},
		"another's 404": {plain(404), "3 404, not an answer of Larder", "3 404, not an answer of Larder"},
		"another's 502": {plain(502), "3 502, not an answer of Larder", "1 502, not an answer of Larder"},
		"closed":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "0 no answer", "1 no answer"},
		"chunks":        {func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); io.WriteString(w, "value") }, "3 " + errMalformed.Error(), "1 " + errMalformed.Error()},
		"cut in the body": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			hit(w, r)
			panic(http.ErrAbortHandler)
		}, "0 no answer", "1 no answer"},
		"closed afterward": {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Connection", "close"); hit(w, r) }, ok, ok},
	} {
		addr := server(t, tt.reply)
		c := connect(t, addr)
		// Twice, since a connection that is of no more use must be replaced.
		for range 2 {
			for name, outcome := range map[string]struct {
				err  error
				want string
			}{
				"read":  {c.Get(t.Context(), []byte("k")), tt.read},
				"write": {c.Put(t.Context(), []byte("k"), []byte("v")), tt.write},
			} {
				got := ok
				var f *Failure
				switch {
				case errors.As(outcome.err, &f):
					got = fmt.Sprintf("%d %s", f.Kind, f.Reason)
				case outcome.err != nil:
					got = outcome.err.Error()
				}
				if got != outcome.want {
					t.Errorf("%s, %s: got %q, want %q", what, name, got, outcome.want)
				}
			}
		}
	}
}

// TestPieces ensures that an answer is read whole in whatever pieces it arrives, and that what can't be an answer, or is more than one,
// is refused.
func TestPieces(t *testing.T) {
	const header = "HTTP/1.1 200 OK\r\nlarder-shard:1\r\nLARDER-SERVED-BY: b\r\nLarder-Forwarded: b\r\ncontent-length:  12\r\n\r\n"
	for what, tt := range map[string]struct {
		raw  string
		fine bool
	}{
		"answer":           {header + "hello, world", true},
		"long header":      {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 10_000) + "\r\n" + header[len("HTTP/1.1 200 OK\r\n"):] + "hello, world", true},
		"longer header":    {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxAnswerHeader) + "\r\n" + header[len("HTTP/1.1 200 OK\r\n"):] + "hello, world", false},
		"too much":         {header + "hello, world.", false},
		"too little":       {header + "hello", false},
		"nothing":          {"", false},
		"no HTTP":          {"SSH-2.0-OpenSSH_9.2 and more\r\n\r\n", false},
		"HTTP/1.0":         {strings.Replace(header, "1.1", "1.0", 1) + "hello, world", false},
		"no length":        {strings.Replace(header, "content-length", "content-langth", 1) + "hello, world", false},
		"negative length":  {strings.Replace(header, " 12", "-12", 1) + "hello, world", false},
		"huge length":      {strings.Replace(header, " 12", "99999999999", 1), false},
		"chunks":           {strings.Replace(header, "content-length:  12", "transfer-encoding: chunked", 1) + "0\r\n\r\n", false},
		"continue":         {"HTTP/1.1 100 Continue\r\n\r\n" + header + "hello, world", false},
		"no status":        {"HTTP/1.1 xyz OK\r\n\r\n", false},
		"line of no name":  {strings.Replace(header, "larder-shard:1", "larder-shard", 1) + "hello, world", false},
		"204 with a body":  {strings.Replace(header, "200", "204", 1) + "hello, world", false},
		"304 of no length": {"HTTP/1.1 304 Not Modified\r\nLarder-Shard: 1\r\nlarder-served-by: b\r\nlarder-forwarded: b\r\n\r\n", true},
	} {
		for _, size := range []int{1, 3, 1 << 20} {
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
			c.get([]byte("k"), "h", "")
			a, sent, err := c.do()
			here.Close()
			if what == "too much" && size < 1<<20 {
				continue // the rest may come after the answer was taken; it spoils the next one
			}
			if !sent || (err == nil) != tt.fine {
				t.Errorf("%s, in pieces of %d: sent %t, %v", what, size, sent, err)
			}
			if err == nil && (!a.larder || !a.forwarded || string(a.servedBy) != "b" || a.status == 200 && string(a.body) != "hello, world") {
				t.Errorf("%s, in pieces of %d: got %+v", what, size, a)
			}
		}
	}
}

// TestNoAnswerInTime ensures that a server that is silent is given up after the time that it has: a write is then unknown.
func TestNoAnswerInTime(t *testing.T) {
	release := make(chan struct{})
	addr := server(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	conn, err := dialHTTP(t.Context(), addr, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.put([]byte("k"), []byte("v"), addr, "")
	_, sent, err := conn.do()
	if f := broken(false, sent, err); !sent || f.Kind != Unknown || f.Reason != "no answer in time" {
		t.Errorf("got sent %t, %v: %+v", sent, err, f)
	}
}

// cluster is a fake one: a table, and nodes that count what they are asked and say that served served it.
type cluster struct {
	mu     sync.Mutex
	served string         // guarded by mu
	asked  map[string]int // guarded by mu
	addrs  map[string]string
}

// newCluster starts nodes a and b; the table says that a leads.
func newCluster(t *testing.T) *cluster {
	cl := &cluster{served: "a", asked: map[string]int{}, addrs: map[string]string{}}
	for _, id := range []string{"a", "b"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/directory" {
				fmt.Fprintf(w, `{"cluster":"x","version":1,"shards":[{"id":1,"start":0,"end":16384,"epoch":3,"leader":"a","members":[{"node":"a"},{"node":"b"}]}],
					"nodes":{"a":{"http":%q},"b":{"http":%q}}}`, cl.addrs["a"], cl.addrs["b"])
				return
			}
			cl.mu.Lock()
			cl.asked[id]++
			served := cl.served
			cl.mu.Unlock()
			w.Header().Set("Larder-Shard", "1")
			w.Header().Set("Larder-Served-By", served)
			if served != id {
				w.Header().Set("Larder-Forwarded", served)
			}
			io.WriteString(w, "value")
		}))
		t.Cleanup(s.Close)
		cl.addrs[id] = s.Listener.Addr().String()
	}
	return cl
}

// take returns how often a and b were asked since the last time.
func (cl *cluster) take() (a, b int) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	a, b = cl.asked["a"], cl.asked["b"]
	clear(cl.asked)
	return a, b
}

// TestRoutes ensures that requests go to the leader that the table names, and follow it when another node served one.
// With RouteAny they stay with the node of the client.
func TestRoutes(t *testing.T) {
	cl := newCluster(t)
	get := func(c Conn) {
		t.Helper()
		for range 3 {
			if err := c.Get(t.Context(), []byte("k")); err != nil {
				t.Fatal(err)
			}
		}
	}
	dial := func(target *Target, client int) Conn {
		t.Helper()
		c, err := target.Dial(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	want := func(what string, wantA, wantB int) {
		t.Helper()
		if a, b := cl.take(); a != wantA || b != wantB {
			t.Errorf("%s: a was asked %d times and b %d times, want %d and %d", what, a, b, wantA, wantB)
		}
	}
	target, err := Open(t.Context(), HTTP{Addrs: []string{cl.addrs["b"]}})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	c := dial(target, 0)
	get(c)
	want("leader", 3, 0)
	cl.mu.Lock()
	cl.served = "b"
	cl.mu.Unlock()
	get(c)
	want("the leader has moved", 1, 2)

	anyTarget, err := Open(t.Context(), HTTP{Addrs: []string{cl.addrs["a"], cl.addrs["b"]}, Route: RouteAny})
	if err != nil {
		t.Fatal(err)
	}
	for client := range 4 {
		get(dial(anyTarget, client))
	}
	want("any", 6, 6)
}

// TestGone ensures that a server that is not there is told at once when a run begins, and counted when it goes meanwhile: a
// write that could not be sent is refused, not unknown.
func TestGone(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(hit))
	addr := s.Listener.Addr().String()
	c := connect(t, addr)
	if err := c.Put(t.Context(), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	c.(*larderConn).drop(addr)
	var f *Failure
	if err := c.Put(t.Context(), []byte("k"), nil); !errors.As(err, &f) || f.Kind != Unavailable {
		t.Errorf("got %v, want a refusal", err)
	}
	for _, route := range []Route{RouteAny, RouteLeader} {
		target, err := Open(t.Context(), HTTP{Addrs: []string{addr}, Route: route})
		if err != nil {
			continue // it may say so at once
		}
		if _, err := Run(t.Context(), Config{Clients: 2, Keys: 1, Duration: time.Hour}, target.Dial); err == nil {
			t.Errorf("%s: a run with nobody there", route)
		}
		target.Close()
	}
}

// TestTimeoutIsTold ensures that servers are told how long they have where it is not what they allow by themselves.
func TestTimeoutIsTold(t *testing.T) {
	var got []string
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Larder-Timeout"))
		hit(w, r)
	})
	for _, timeout := range []time.Duration{0, defaultTimeout, 3 * time.Second} {
		target, err := Open(t.Context(), HTTP{Addrs: []string{"http://" + addr + "/"}, Route: RouteAny, Timeout: timeout})
		if err != nil {
			t.Fatal(err)
		}
		c, err := target.Dial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Get(t.Context(), []byte("k")); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if strings.Join(got, ",") != ",,3s" {
		t.Errorf("got %q", got)
	}
}

// TestTLS ensures that addresses of https are spoken to by TLS, and only where the certificate is trusted.
func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(hit))
	defer s.Close()
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	target, err := Open(t.Context(), HTTP{Addrs: []string{s.URL}, Route: RouteAny})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := target.Dial(t.Context(), 0); err == nil {
		t.Error("a certificate of nobody was trusted")
	}
	target.roots = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c, err := target.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Get(t.Context(), []byte("k")); err != nil {
		t.Error(err)
	}
}

// TestNoGarbage ensures that a request allocates nothing, so that the collector takes nothing from the servers.
func TestNoGarbage(t *testing.T) {
	const raw = "HTTP/1.1 200 OK\r\nLarder-Shard: 1\r\nContent-Length: 5\r\n\r\nvalue"
	c := &larderConn{target: &Target{limit: time.Minute}, own: "h", addrs: []string{"h"}, conns: []*httpConn{newHTTPConn(&canned{answer: raw}, time.Minute)}}
	cfg := Config{Clients: 1, Reads: 50, Keys: 1000, Zipf: 0.99, MinValue: 128, MaxValue: 128, Duration: 1}
	choose, rec := newChooser(&cfg, 0, newZipf(cfg.Keys, cfg.Zipf), newValues(&cfg)), newRecord()
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() {
		if err := c.Get(ctx, choose.nextKey()); err != nil {
			t.Fatal(err)
		}
		c.conns[0].put(choose.nextKey(), choose.value(), "h", "")
		rec.latencyLocked(true, time.Millisecond)
	}); n != 0 {
		t.Errorf("%g allocations per request", n)
	}
}

// canned is a connection that answers each request likewise.
type canned struct {
	net.Conn
	answer string
}

func (c *canned) Write(p []byte) (int, error) { return len(p), nil }
func (c *canned) Read(p []byte) (int, error)  { return copy(p, c.answer), nil }
func (c *canned) SetDeadline(time.Time) error { return nil }
