package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// answer is what came back for a raw request.
type answer struct {
	*http.Response
	body string
}

// raw sends a request byte by byte as given, since net/http would refuse to send what a test wants to see
// refused. Header lines are complete ("Name: value"); Host and Content-Length are added.
func raw(t *testing.T, n *cluster.Node, method, target string, header []string, body string) answer {
	t.Helper()
	const limit = 10 * time.Second
	host := strings.TrimPrefix(n.URL, "http://")
	conn, err := net.DialTimeout("tcp", host, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: " + host, "Connection: close"}, header...)
	if body != "" || method == http.MethodPut {
		lines = append(lines, "Content-Length: "+strconv.Itoa(len(body)))
	}
	// The answer may come before all is sent, and the rest be refused: what counts is the answer.
	go io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %.60s: %v", method, target, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %.60s: %v", method, target, err)
	}
	return answer{resp, string(got)}
}
