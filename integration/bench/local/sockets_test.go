package local

import (
	"net"
	"os"
	"runtime"
	"testing"
)

// TestConnections ensures that connections between two processes are counted once each, and others are not.
func TestConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it is read from /proc")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self := os.Getpid()
	count := func() int {
		t.Helper()
		n, err := Connections(self, self)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	for range 3 {
		here, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer here.Close()
		there, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
	}
	// Of a process with itself both ends are its own.
	if got := count() - before; got != 6 {
		t.Errorf("got %d ends of 3 connections", got)
	}
	if n, err := Connections(self, os.Getppid()); err != nil || n != 0 {
		t.Errorf("with the parent: got %d, %v", n, err)
	}
}
