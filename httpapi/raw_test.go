package httpapi

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// rawAnswer is an answer as it came over the socket.
type rawAnswer struct {
	status int
	header http.Header
	body   []byte
	closed bool // the server closed the connection after it
}

// exchange writes raw bytes to a new connection and reads one answer. No client library touches the
// request on its way.
func (f *fixture) exchange(t *testing.T, method string, raw []byte) rawAnswer {
	t.Helper()
	conn := f.dial(t)
	go conn.Write(raw) // the server may answer, and stop reading, before it has all
	reader := bufio.NewReader(conn)
	answer := readAnswer(t, reader, method)
	if answer.header.Get("Connection") == "close" {
		_, err := reader.ReadByte()
		answer.closed = err != nil
	}
	return answer
}

func (f *fixture) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func readAnswer(t *testing.T, reader *bufio.Reader, method string) rawAnswer {
	t.Helper()
	resp, err := http.ReadResponse(reader, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("answer ends early: %v", err)
	}
	if resp.Close {
		resp.Header.Set("Connection", "close") // ReadResponse takes it out
	}
	return rawAnswer{status: resp.StatusCode, header: resp.Header, body: body}
}

// send sends a request whose target goes out as it is written here; headers are whole lines.
func (f *fixture) send(t *testing.T, method, target string, body []byte, chunked bool, headers ...string) rawAnswer {
	t.Helper()
	var raw bytes.Buffer
	fmt.Fprintf(&raw, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, f.addr)
	for _, line := range headers {
		raw.WriteString(line + "\r\n")
	}
	switch {
	case chunked:
		raw.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for rest := body; len(rest) > 0; {
			n := min(len(rest), 10_000)
			fmt.Fprintf(&raw, "%x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		raw.WriteString("0\r\n\r\n")
	case body != nil:
		fmt.Fprintf(&raw, "Content-Length: %d\r\n\r\n%s", len(body), body)
	default:
		raw.WriteString("\r\n")
	}
	return f.exchange(t, method, raw.Bytes())
}

// escapeAll percent-encodes every byte.
func escapeAll(key string) string {
	var b strings.Builder
	for i := range len(key) {
		fmt.Fprintf(&b, "%%%02x", key[i])
	}
	return b.String()
}
