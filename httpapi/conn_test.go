package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/larder-cache/larder/shard"
)

// A value that looks exactly like an answer of net/http comes back untouched, wherever its bytes fall in
// the writes to the socket; and a malformed request after it on the same connection, sent in one go
// with it, still gets its problem.
func TestValueThatLooksLikeAnAnswer(t *testing.T) {
	canned := "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	f := newFixture(t)
	for _, value := range []string{canned, strings.Repeat(canned, 1000)} {
		// Paddings around net/http's buffer of 4 KiB put the text at the start of a write.
		for padding := 3_400; padding < 4_200; padding += 7 {
			f.checkValue(t, strings.Repeat("p", padding)+value)
		}
		f.checkValue(t, value)
	}
}

func (f *fixture) checkValue(t *testing.T, value string) {
	t.Helper()
	f.data.mu.Lock()
	f.data.entries["k"] = fakeEntry{value: []byte(value), version: 1}
	f.data.mu.Unlock()
	conn := f.dial(t)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/kv/%%zz HTTP/1.1\r\nHost: a\r\n\r\n")
	reader := bufio.NewReader(conn)
	if got := readAnswer(t, reader, "GET"); got.status != 200 || !bytes.Equal(got.body, []byte(value)) {
		t.Fatalf("value of %d bytes: got %d and %d other bytes", len(value), got.status, len(got.body))
	}
	got := readAnswer(t, reader, "GET")
	checkProblem(t, got.status, got.header, got.body, 400, "malformed-request", AppliedNo)
}

// After a 413 the client can read the answer although it has not sent all of its body, also when it asked
// first with Expect.
func TestTooLargeIsReadable(t *testing.T) {
	f := newFixture(t)
	got := f.exchange(t, "PUT", []byte("PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"))
	checkProblem(t, got.status, got.header, got.body, 413, "value-too-large", AppliedNo)
	if !got.closed {
		t.Error("the connection stayed open")
	}
}

// A connection serves one request after the other, and an idle one can be closed.
func TestKeepAlive(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(t)
	reader := bufio.NewReader(conn)
	for i := range 3 {
		fmt.Fprintf(conn, "PUT /v1/kv/k%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", i)
		if got := readAnswer(t, reader, "PUT"); got.status != 201 {
			t.Fatalf("request %d: got %d %s", i, got.status, got.body)
		}
		fmt.Fprintf(conn, "GET /v1/kv/absent HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := readAnswer(t, reader, "GET"); got.status != 404 {
			t.Fatalf("request %d: got %d %s", i, got.status, got.body)
		}
	}
}

// The answer to a malformed request reaches a client that writes all of its long request before it reads.
func TestMalformedIsReadable(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(t)
	if _, err := fmt.Fprintf(conn, "PUT /v1/kv/%%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n%s", make([]byte, 300_000)); err != nil {
		t.Fatal(err)
	}
	got := readAnswer(t, bufio.NewReader(conn), "PUT")
	checkProblem(t, got.status, got.header, got.body, 400, "malformed-request", AppliedNo)
}

// The deadline for a request's body does not outlive it: a connection goes on after a write that took
// longer.
func TestConnectionOutlivesTimeout(t *testing.T) {
	f := newFixture(t)
	f.data.answer = func(ctx context.Context, _ shard.Request) (shard.Response, error) {
		<-ctx.Done()
		return shard.Response{}, shard.ErrDeadline
	}
	conn := f.dial(t)
	reader := bufio.NewReader(conn)
	for range 2 {
		fmt.Fprintf(conn, "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nLarder-Timeout: 20ms\r\nContent-Length: 1\r\n\r\nx")
		got := readAnswer(t, reader, "PUT")
		checkProblem(t, got.status, got.header, got.body, 503, "deadline", AppliedNo)
	}
	f.data.answer = nil
	fmt.Fprintf(conn, "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	if got := readAnswer(t, reader, "PUT"); got.status != 201 {
		t.Errorf("got %d %s, want 201", got.status, got.body)
	}
}

// What net/http refuses for a reason that it doesn't give is not blamed on the request line alone, and the
// limit of headers, to which net/http adds, is not told as if it were exact.
func TestMalformedDetail(t *testing.T) {
	f := newFixture(t)
	got := f.exchange(t, "GET", []byte("GET /v1/kv/k HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n"))
	if p := checkProblem(t, got.status, got.header, got.body, 400, "malformed-request", AppliedNo); !strings.Contains(p.Detail, "or a header") {
		t.Errorf("a bad header: %s", p.Detail)
	}
	got = f.send(t, "GET", "/v1/kv/k", nil, false, "X-Long: "+strings.Repeat("x", 2*maxHeaderBytes))
	if p := checkProblem(t, got.status, got.header, got.body, 431, "headers-too-large", AppliedNo); !strings.Contains(p.Detail, "about 64 KiB") {
		t.Errorf("long headers: %s", p.Detail)
	}
}
