package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

	"pgregory.net/rapid"
)

// larder runs the program as a shell would.
func larder(t interface{ Context() context.Context }, stdin string, environ []string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(t.Context(), args, environ, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// seen is a request as it came to a server.
type seen struct {
	line   string // method and target
	header http.Header
	body   string
}

// requests are those that a server has got.
type requests struct {
	mu  sync.Mutex
	got []seen // guarded by mu
}

func (r *requests) add(s seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, s)
}

// take returns the requests so far, and forgets them.
func (r *requests) take() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// serve starts a server that notes each request, and answers it by reply.
func serve(t *testing.T, reply http.HandlerFunc) (address string, got *requests) {
	t.Helper()
	got = &requests{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got.add(seen{r.Method + " " + r.RequestURI, r.Header.Clone(), string(body)})
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		reply(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	return server.URL, got
}

// problem answers with a problem.
func problem(status int, name, applied string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"type":"/problems/%s","title":"A title","status":%d,"detail":"A detail.","applied":%q}`, name, status, applied)
	}
}

// plain answers as something that is not Larder.
func plain(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", status) }
}

// hit answers as Larder does.
func hit(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Larder-Shard", "3")
	h.Set("Larder-Epoch", "7")
	h.Set("Larder-Index", "100.2")
	h.Set("Larder-Served-By", "a")
	h.Set("ETag", `"12"`)
	switch r.Method {
	case http.MethodGet:
		h.Set("Content-Type", "text/plain")
		h.Set("Cache-Status", "larder; hit; ttl=41")
		w.Write([]byte("value\n\x00"))
	case http.MethodPut:
		w.WriteHeader(http.StatusCreated)
	case http.MethodDelete:
		h.Set("Larder-Existed", "?1")
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPost:
		if r.URL.Query().Get("op") == "touch" {
			w.WriteHeader(http.StatusNoContent)
		} else {
			io.WriteString(w, "-7")
		}
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// hangUp reads a request and closes the connection without an answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// exitCase is an answer, and the exit codes that it leads to.
type exitCase struct {
	what          string
	reply         http.HandlerFunc
	get, put, del int
}

// ttl is the code of larder ttl that shows: it needs more than bytes to go by.
func (c exitCase) ttl() int {
	if c.what == "no Larder" {
		return max(c.get, exitFailed)
	}
	return c.get
}

// Each way that an operation can end has its exit code; a failure leaves stdout empty and says something on
// stderr.
func TestExitCodes(t *testing.T) {
	tests := []exitCase{
		{"success", hit, 0, 0, 0},
		{"absent", problem(404, "not-found", "no"), 3, 3, 3},
		{"unknown path", problem(404, "unknown-path", "no"), 1, 1, 1},
		{"precondition", problem(412, "precondition-failed", "no"), 4, 4, 4},
		{"bad request", problem(400, "bad-parameter", "no"), 1, 1, 1},
		{"too large", problem(413, "value-too-large", "no"), 1, 1, 1},
		{"not built", problem(501, "not-built", "no"), 1, 1, 1},
		{"overloaded", problem(429, "overloaded", "no"), 5, 5, 5},
		{"no leader", problem(503, "no-leader", "no"), 5, 5, 5},
		{"disk full", problem(507, "storage", "no"), 5, 5, 5},
		{"outcome unknown", problem(504, "outcome-unknown", "unknown"), 6, 6, 6},
		{"internal", problem(500, "internal", "unknown"), 6, 6, 6},
		{"internal, nothing applied", problem(500, "internal", "no"), 1, 1, 1},
		{"not authenticated", problem(401, "unauthorised", "no"), 7, 7, 7},
		{"forbidden", problem(403, "forbidden", "no"), 7, 7, 7},
		{"no Larder", plain(200), 0, 1, 1}, // bytes are bytes
		{"no Larder", plain(404), 1, 1, 1},
		{"no Larder", plain(403), 7, 7, 7},
		{"a proxy's failure", plain(502), 5, 6, 6},
		{"a proxy's failure", plain(503), 5, 6, 6},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 1, 1, 1},
		{"no answer", hangUp, 5, 6, 6},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.Write([]byte("half"))
			panic(http.ErrAbortHandler)
		}, 5, 6, 6},
	}
	for _, tc := range tests {
		address, _ := serve(t, tc.reply)
		for command, want := range map[string]int{"get": tc.get, "put": tc.put, "del": tc.del, "incr": tc.put, "touch": tc.del, "ttl": tc.ttl(), "ttl 5s": tc.put} {
			name, argument, given := strings.Cut(command, " ")
			args := []string{name, "k", "--server", address}
			if given {
				args = append(args, argument)
			}
			code, stdout, stderr := larder(t, "v", nil, args...)
			if code != want {
				t.Errorf("%s, %s: got exit code %d, want %d; stderr %q", tc.what, command, code, want, stderr)
			}
			if code != 0 && (stdout != "" || !strings.HasPrefix(stderr, "larder: ") || strings.Count(stderr, "\n") != 1) {
				t.Errorf("%s, %s: got stdout %q and stderr %q, want nothing and one line", tc.what, command, stdout, stderr)
			}
		}
	}
}

// A failed condition names the version that there is.
func TestPreconditionNamesVersion(t *testing.T) {
	address, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusPreconditionFailed)
		io.WriteString(w, `{"type":"/problems/precondition-failed","title":"T","status":412,"detail":"D","applied":"no","etag":"\"17\""}`)
	})
	if code, _, stderr := larder(t, "", nil, "put", "k", "v", "--if-match", "12", "--server", address); code != 4 || !strings.Contains(stderr, "version is 17") {
		t.Errorf("got exit code %d, %q", code, stderr)
	}
}

// Where nothing listens nothing was applied, and the next server is tried.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String()
	l.Close()
	for _, command := range []string{"get", "put", "del"} {
		code, _, stderr := larder(t, "", nil, command, "k", "--server", dead)
		if code != exitUnavailable || !strings.Contains(stderr, "nothing was sent") {
			t.Errorf("%s: got exit code %d, %q", command, code, stderr)
		}
		address, got := serve(t, hit)
		if code, _, stderr := larder(t, "", nil, command, "k", "--server", dead+", "+address); code != 0 || len(got.take()) != 1 {
			t.Errorf("%s with a second server: got exit code %d, %q", command, code, stderr)
		}
	}
}

// Once a server may have got the request no other is asked.
func TestNoSecondServerAfterSending(t *testing.T) {
	for _, reply := range []http.HandlerFunc{hangUp, problem(503, "no-leader", "no"), problem(504, "outcome-unknown", "unknown")} {
		first, asked := serve(t, reply)
		second, untouched := serve(t, hit)
		for _, command := range []string{"get", "put", "del"} {
			if code, _, _ := larder(t, "", nil, command, "k", "--server", first+","+second); code == 0 {
				t.Errorf("%s: got exit code 0", command)
			}
		}
		if a, u := len(asked.take()), len(untouched.take()); a != 3 || u != 0 {
			t.Errorf("the first server got %d requests, the second %d, want 3 and 0", a, u)
		}
	}
}

// A client that gives up on a server that stalls, as by ^C, says that a write may have happened.
func TestStalledServer(t *testing.T) {
	for command, want := range map[string]int{"put": exitUnknown, "del": exitUnknown, "get": exitUnavailable} {
		ctx, giveUp := context.WithCancel(t.Context())
		address, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			giveUp()
			<-r.Context().Done()
		})
		var out, errs bytes.Buffer
		if code := run(ctx, []string{command, "k", "--server", address}, nil, strings.NewReader(""), &out, &errs); code != want {
			t.Errorf("%s: got exit code %d, want %d; %s", command, code, want, errs.String())
		}
	}
}

// Mistakes in the command line are exit code 2, name --help, and send nothing.
func TestUsage(t *testing.T) {
	address, got := serve(t, hit)
	for _, args := range [][]string{
		{"get"}, {"get", "a", "b"}, {"get", ""}, {"get", strings.Repeat("k", 1025)},
		{"put"}, {"put", "a", "b", "c"}, {"put", ""}, {"del"}, {"del", ""},
		{"get", "k", "--consistency", "eventual"}, {"get", "k", "--if-match", "1"},
		{"get", "k", "--timeout", "0s"}, {"get", "k", "--timeout", "61s"}, {"get", "k", "--timeout", "5"},
		{"get", "k", "-o", "xml"}, {"put", "k", "v", "--ttl", "0s"}, {"put", "k", "v", "--ttl", "60"},
		{"put", "k", "v", "--ttl", ""}, {"put", "k", "v", "--fill-token", "x"}, {"put", "k", "v", "--fill-token", "7", "--if-match", "7"}, {"put", "k", "v", "--idempotency-key", ""},
		{"get", "k", "--fill", "0s"}, {"get", "k", "--fill", "31s"}, {"get", "k", "--fill", "1us"}, {"get", "k", "--fill", "5s", "--consistency", "any"}, {"get", "k", "--touch=maybe"},
		{"incr"}, {"incr", "k", "1.5"}, {"incr", "k", ""}, {"incr", "k", "9223372036854775808"}, {"incr", "k", "1", "2"}, {"incr", "k", "--ttl", "0s"}, {"incr", "k", "--idempotency-key", strings.Repeat("k", 65)},
		{"ttl"}, {"ttl", "k", "5"}, {"ttl", "k", "0s"}, {"ttl", "k", "null"}, {"ttl", "k", "1us"}, {"ttl", "k", "--if-match", "7"}, {"touch"}, {"touch", "k", ""}, {"del", "k", "--idempotency-key", "\n"},
		{"put", "k", "v", "--ttl", "1us"}, {"put", "k", "v", "--ttl", "-1s"},
		{"put", "k", "v", "--if-match", "x"}, {"put", "k", "v", "--if-match", "1", "--if-absent"},
		{"del", "k", "--if-match", `""`}, {"put", "k", "v", "--if-match", ""}, {"del", "k", "--if-match="},
		{"check"}, {"check", "replicas", "x"}, {"shard"}, {"member", "list"}, {"member", "add", "x", "d"}, {"member", "add", "3", "d", "--if-match", "7"}, {"member", "add", "3", "d", "--if-match", "1-7", "--force"}, {"node", "show", ""}, {"operation", "show", "x"}, {"get", "k", "--max-staleness", "1s"}, {"get", "k", "--consistency", "bounded", "--max-staleness", "0s"}, {"check", "data-dir"}, {"check", "data-dir", ".", "-o", "xml"}, {"check", "data-dir", ".", "--at", "1"},
		{"del", "k", "--if-absent"}, {"get", "k", "--colour"}, {"fetch", "k"},
		{"get", "k", "--server", "ftp://x"}, {"get", "k", "--server", "http://x/path"}, {"get", "k", "--server", ""},
	} {
		if !strings.Contains(strings.Join(args, " "), "--server") && args[0] != "check" {
			args = append(args, "--server", address)
		}
		code, stdout, stderr := larder(t, "", nil, args...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, "--help") {
			t.Errorf("%q: got exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
	if sent := len(got.take()); sent != 0 {
		t.Errorf("%d requests were sent", sent)
	}
}

// An empty version from a variable is no less a mistake than one from the flag.
func TestEmptyVersionVariable(t *testing.T) {
	address, got := serve(t, hit)
	for _, args := range [][]string{{"put", "k", "v"}, {"del", "k"}} {
		code, _, stderr := larder(t, "", []string{"LARDER_IF_MATCH="}, append(args, "--server", address)...)
		if code != exitUsage || !strings.Contains(stderr, "--if-match") {
			t.Errorf("%q: got exit code %d, %q", args, code, stderr)
		}
	}
	if sent := len(got.take()); sent != 0 {
		t.Errorf("%d requests were sent", sent)
	}
}

// A server that refuses a value for its length is heard, since the value is not sent before it asks for it.
func TestRefusedValueIsNotSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	received := make(chan int64)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		reader := bufio.NewReader(conn)
		for line := ""; line != "\r\n"; {
			if line, err = reader.ReadString('\n'); err != nil {
				break
			}
		}
		body := `{"type":"/problems/value-too-large","title":"T","status":413,"detail":"D.","applied":"no"}`
		fmt.Fprintf(conn, "HTTP/1.1 413 X\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
		rest, _ := io.Copy(io.Discard, reader)
		received <- rest
	}()
	code, _, stderr := larder(t, strings.Repeat("v", 2<<20), nil, "put", "k", "--server", l.Addr().String())
	if sent := <-received; code != exitFailed || sent != 0 {
		t.Errorf("got exit code %d, %q, and sent %d bytes", code, stderr, sent)
	}
}

// Flags become the headers and parameters of the interface.
func TestRequests(t *testing.T) {
	address, requests := serve(t, hit)
	tests := []struct {
		args   []string
		stdin  string
		line   string
		header map[string]string
		body   string
	}{
		{[]string{"get", "k"}, "", "GET /v1/kv/k?consistency=linearizable", map[string]string{"Larder-Timeout": "5s"}, ""},
		{[]string{"get", "k", "--consistency", "any", "--timeout", "250ms"}, "", "GET /v1/kv/k?consistency=any", map[string]string{"Larder-Timeout": "250ms"}, ""},
		{[]string{"put", "k", "v"}, "ignored", "PUT /v1/kv/k", map[string]string{"If-Match": "", "If-None-Match": "", "Content-Type": ""}, "v"},
		{[]string{"put", "k", "-"}, "from\nstdin\x00", "PUT /v1/kv/k", nil, "from\nstdin\x00"},
		{[]string{"put", "k"}, "from stdin", "PUT /v1/kv/k", nil, "from stdin"},
		{[]string{"put", "k"}, "", "PUT /v1/kv/k", nil, ""},
		{[]string{"put", "k", ""}, "ignored", "PUT /v1/kv/k", nil, ""},
		{[]string{"put", "k", "v", "--ttl", "90s", "--content-type", "a/b"}, "", "PUT /v1/kv/k?ttl=1m30s", map[string]string{"Content-Type": "a/b"}, "v"},
		{[]string{"put", "k", "v", "--if-absent"}, "", "PUT /v1/kv/k", map[string]string{"If-None-Match": "*"}, "v"},
		{[]string{"put", "k", "v", "--if-match", "12"}, "", "PUT /v1/kv/k", map[string]string{"If-Match": `"12"`}, "v"},
		{[]string{"put", "k", "v", "--if-match", `"12"`}, "", "PUT /v1/kv/k", map[string]string{"If-Match": `"12"`}, "v"},
		{[]string{"del", "k", "--if-match", "*"}, "", "DELETE /v1/kv/k", map[string]string{"If-Match": "*"}, ""},
		{[]string{"put", "k", "v", "--ttl", "none", "--return-old", "--idempotency-key", `a"b`, "--fill-token", "77"}, "", "PUT /v1/kv/k?return=old&ttl=none",
			map[string]string{"Idempotency-Key": `"a\"b"`, "Larder-Fill": "77"}, "v"},
		{[]string{"get", "k", "--fill", "1500ms", "--touch=false"}, "", "GET /v1/kv/k?consistency=linearizable&fill=1.5s&touch=false", nil, ""},
		{[]string{"incr", "k"}, "", "POST /v1/kv/k?op=incr", nil, ""},
		{[]string{"incr", "k", "5", "--ttl", "60s", "--if-match", "12", "--idempotency-key", "once"}, "", "POST /v1/kv/k?by=5&op=incr&ttl=1m0s",
			map[string]string{"If-Match": `"12"`, "Idempotency-Key": `"once"`}, ""},
		{[]string{"incr", "--", "k", "-5"}, "", "POST /v1/kv/k?by=-5&op=incr", nil, ""},
		{[]string{"ttl", "k"}, "", "GET /v1/kv/k?touch=false", nil, ""},
		{[]string{"ttl", "k", "90s", "--if-match", "*"}, "", "PATCH /v1/kv/k", map[string]string{"Content-Type": "application/merge-patch+json", "If-Match": "*"}, `{"ttl":"1m30s"}`},
		{[]string{"ttl", "k", "none", "--idempotency-key", "once"}, "", "PATCH /v1/kv/k", map[string]string{"Idempotency-Key": `"once"`}, `{"ttl":null}`},
		{[]string{"touch", "k"}, "", "POST /v1/kv/k?op=touch", nil, ""},
		{[]string{"del", "k", "--idempotency-key", "once"}, "", "DELETE /v1/kv/k", map[string]string{"Idempotency-Key": `"once"`}, ""},
		{[]string{"del", "--", "-k"}, "", "DELETE /v1/kv/-k", nil, ""},
	}
	for _, tc := range tests {
		args := append([]string{"--server", address}, tc.args[1:]...)
		code, _, stderr := larder(t, tc.stdin, nil, append(tc.args[:1:1], args...)...)
		sent := requests.take()
		if code != 0 || len(sent) != 1 {
			t.Errorf("%q: got exit code %d, %q, %d requests", tc.args, code, stderr, len(sent))
			continue
		}
		got := sent[0]
		if got.line != tc.line || got.body != tc.body {
			t.Errorf("%q: sent %q with %q, want %q with %q", tc.args, got.line, got.body, tc.line, tc.body)
		}
		for name, want := range tc.header {
			if value := got.header.Get(name); value != want {
				t.Errorf("%q: sent %s %q, want %q", tc.args, name, value, want)
			}
		}
	}
}

// Data is on stdout, byte by byte, and all else on stderr.
func TestOutput(t *testing.T) {
	address, _ := serve(t, hit)
	tests := []struct {
		args           []string
		stdout, stderr string
	}{
		{[]string{"get", "k"}, "value\n\x00", ""},
		{[]string{"get", "k", "-o", "json"}, `{"key":"k","version":"12","shard":"3","epoch":"7","index":"100.2","served_by":"a","content_type":"text/plain","bytes":7,"ttl":"41s","value":"value\n\u0000"}` + "\n", ""},
		{[]string{"get", "\xff\x00", "-o", "json"}, `{"key_b64":"/wA=","version":"12","shard":"3","epoch":"7","index":"100.2","served_by":"a","content_type":"text/plain","bytes":7,"ttl":"41s","value":"value\n\u0000"}` + "\n", ""},
		{[]string{"get", "k", "-o", "table"}, "KEY  VERSION  SHARD  EPOCH  INDEX  SERVED-BY  CONTENT-TYPE  BYTES  TTL\nk    12       3      7      100.2  a          text/plain    7      41s\n", ""},
		{[]string{"put", "k", "v"}, "", "created, version 12\n"},
		{[]string{"put", "k", "v", "-o", "json"}, `{"key":"k","version":"12","shard":"3","epoch":"7","index":"100.2","served_by":"a","created":true}` + "\n", ""},
		{[]string{"del", "k"}, "", "removed\n"},
		{[]string{"incr", "k"}, "-7\n", ""},
		{[]string{"incr", "k", "-o", "json"}, `{"key":"k","version":"12","shard":"3","epoch":"7","index":"100.2","served_by":"a","value":"-7"}` + "\n", ""},
		{[]string{"ttl", "k"}, "41s\n", ""},
		{[]string{"ttl", "k", "-o", "json"}, `{"key":"k","version":"12","shard":"3","epoch":"7","index":"100.2","served_by":"a","ttl":"41s"}` + "\n", ""},
		{[]string{"ttl", "k", "60s"}, "", "changed\n"},
		{[]string{"touch", "k", "k\n"}, "", "k: touched\n\"k\\n\": touched\n"},
		{[]string{"touch", "k", "-o", "json"}, `{"key":"k","version":"12","shard":"3","epoch":"7","index":"100.2","served_by":"a","touched":true}` + "\n", ""},
		{[]string{"del", "k\n", "-o", "table"}, "KEY    VERSION  SHARD  EPOCH  INDEX  SERVED-BY  EXISTED\n\"k\\n\"  12       3      7      100.2  a          true\n", ""},
	}
	for _, tc := range tests {
		code, stdout, stderr := larder(t, "", nil, append(tc.args, "--server", address)...)
		if code != 0 || stdout != tc.stdout || stderr != tc.stderr {
			t.Errorf("%q: got %d\n%q\n%q\nwant 0\n%q\n%q", tc.args, code, stdout, stderr, tc.stdout, tc.stderr)
		}
		if strings.Contains(strings.Join(tc.args, " "), "json") && !json.Valid([]byte(stdout)) {
			t.Errorf("%q: %q is not JSON", tc.args, stdout)
		}
	}
}

// Any key arrives as itself.
func TestAnyKeyArrives(t *testing.T) {
	address, got := serve(t, hit)
	check := func(t interface {
		Context() context.Context
		Errorf(string, ...any)
	}, key string) {
		code, _, stderr := larder(t, "v", nil, "put", "--server", address, "--", key)
		sent := got.take()
		if code != 0 || len(sent) != 1 {
			t.Errorf("%q: got exit code %d, %q", key, code, stderr)
			return
		}
		escaped, _ := strings.CutPrefix(sent[0].line, "PUT /v1/kv/")
		if arrived, err := url.PathUnescape(escaped); err != nil || arrived != key {
			t.Errorf("%q arrived as %q, %v", key, escaped, err)
		}
	}
	for _, key := range []string{"/", "//", "..", "../x", "a//b", ".", "a/../b", "%2F", "%", "?", "#", "a?b#c", "+", " ", ";", "\x00", "\xff", "ä", "a/"} {
		check(t, key)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, string(rapid.SliceOfN(rapid.Byte(), 1, maxKey).Draw(t, "key")))
	})
}
