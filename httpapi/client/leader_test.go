package client

import (
	"errors"
	"testing"
	"testing/synctest"
)

// TestLeader ensures that programs that send their own requests are told the leader of the table, then who was
// found to serve, then, once that one is silent, another node.
func TestLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "b"))
		c := w.client(Config{})
		defer c.Close()
		leader := func(want string) {
			t.Helper()
			if got, err := c.Leader(t.Context(), "k"); err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
		leader("b:1")
		c.Answered("k", "b:1", "c")
		leader("c:1")
		c.Answered("k", "c:1", "nobody")
		leader("c:1")
		c.Answered("k", "c:1", "")
		for range 6 {
			if got, err := c.Leader(t.Context(), "k"); err != nil || got != "a:1" && got != "b:1" {
				t.Errorf("after c was silent: got %q, %v, want a or b", got, err)
			}
		}
		c.Answered("k", "a:1", "c") // it is back
		leader("c:1")
		if sent := len(w.got("a:1")) + len(w.got("b:1")) + len(w.got("c:1")); sent != 0 {
			t.Errorf("%d requests for keys were sent", sent)
		}
	})
}

// TestLeaderWithoutTable ensures that without a table an address of the configuration is named, and a client that is closed says so.
func TestLeaderWithoutTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1")
		c := w.client(Config{})
		if got, err := c.Leader(t.Context(), "k"); err != nil || got != "a:1" {
			t.Errorf("got %q, %v, want a:1", got, err)
		}
		c.Answered("k", "a:1", "a")
		c.Close()
		if _, err := c.Leader(t.Context(), "k"); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}
