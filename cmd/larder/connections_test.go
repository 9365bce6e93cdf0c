package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server takes as many connections of clients as --max-connections says, which a variable gives as well, closes further ones, and its metrics
// tell of both.
func TestMaxConnections(t *testing.T) {
	port := firstOfFree(t)
	server := "127.0.0.1:" + strconv.Itoa(port)
	var stdout, stderr output
	ended := make(chan int, 1)
	go func() {
		ended <- run(context.Background(), []string{"server", "--id", "a", "--data-dir", t.TempDir(), "--http", server, "--initial-shards", "1",
			"--initial-cluster", fmt.Sprintf("a=127.0.0.1:%d", port+1)}, []string{"LARDER_MAX_CONNECTIONS=2"}, strings.NewReader(""), &stdout, &stderr)
	}()
	dial := func() net.Conn {
		for deadline := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", server)
			if err == nil {
				t.Cleanup(func() { conn.Close() })
				conn.SetDeadline(deadline)
				return conn
			}
			if time.Now().After(deadline) || len(ended) > 0 {
				t.Fatalf("%v\n%s", err, stderr.String())
			}
		}
	}
	dial()
	ask := dial()
	if n, err := dial().Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("a third connection is open: %d bytes, %v", n, err)
	}
	fmt.Fprintf(ask, "GET /metrics HTTP/1.0\r\nHost: a\r\n\r\n")
	text, err := io.ReadAll(ask)
	if err != nil {
		t.Errorf("metrics: %v", err)
	}
	for _, line := range []string{`larder_http_connections{listener="http"} 2`, `larder_http_connections_max{listener="http"} 2`, `larder_http_connections_refused_total{listener="http"} 1`} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		resp, err := http.Get("http://" + server + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v\n%s", err, stderr.String())
		}
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-ended:
		if code != exitOK {
			t.Errorf("ended with code %d: %s", code, stderr.String())
		}
	case <-time.After(time.Minute):
		t.Fatal("^C does not end it")
	}
}
