package port

import (
	"net"
	"testing"
)

// TestPorts ensures that ports are below the range of outgoing connections, are free, and that no
// two listeners get the same.
func TestPorts(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		l, err := Listen("127.0.0.31")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p := l.Addr().(*net.TCPAddr).Port
		if p < low || p >= high || seen[p] {
			t.Errorf("port %d is out of [%d, %d) or was given out twice", p, low, high)
		}
		seen[p] = true
	}
	addr, err := Free("127.0.0.31")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("a free address is not: %v", err)
	}
	l.Close()
}
