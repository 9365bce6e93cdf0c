package client

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// readers has some read at the same time, one read after the other, for a while, and returns how many reads took long.
func readers(t *testing.T, c *Client, n int, d time.Duration) (slow int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range n {
		wg.Go(func() {
			for time.Now().Before(end) {
				began := time.Now()
				if _, err := c.Get(t.Context(), "k"); err != nil {
					t.Error(err)
				}
				mu.Lock()
				if time.Since(began) >= 300*time.Millisecond {
					slow++
				}
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return slow
}

// TestSilentReplica ensures that a replica which stands still, or refuses after a while, costs those who read at that moment their time once, and then one read
// now and then, whether it is near or has its turn. Once it serves it is asked again.
func TestSilentReplica(t *testing.T) {
	late := func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		problem(421, "misdirected", "no", "Larder-Leader", "a", "Larder-Epoch", "3")(w, r)
	}
	for name, row := range map[string]struct {
		near  string
		fault http.HandlerFunc
	}{"near, silent": {"b", hang}, "near, behind": {"b", late}, "hot, silent": {"", hang}, "hot, behind": {"", late}} {
		synctest.Test(t, func(t *testing.T) {
			w := newNetwork(t, "a:1", "b:1", "c:1")
			w.setTable(oneShard(1, "a"))
			w.set("a:1", func(w http.ResponseWriter, r *http.Request) {
				h := place(w, "a")
				h.Set("Larder-Read", "probe")
				h.Set("Larder-Hot", "?1")
			})
			follower := func(id string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) { place(w, id).Set("Larder-Read", "follower") }
			}
			w.set("b:1", follower("b"))
			w.set("c:1", follower("c"))
			c := w.client(Config{Near: row.near})
			defer c.Close()
			const n = 10
			if slow := readers(t, c, n, time.Second); slow != 0 {
				t.Errorf("%s: %d reads were slow", name, slow)
			}
			w.set("b:1", row.fault)
			if slow := readers(t, c, n, 30*time.Second); slow == 0 || slow > n+30 {
				t.Errorf("%s: %d reads were slow", name, slow)
			}
			w.set("b:1", follower("b"))
			time.Sleep(suspicion + time.Second)
			readers(t, c, 1, time.Second)
			w.got("b:1")
			readers(t, c, 1, time.Second)
			if len(w.got("b:1")) < 20 {
				t.Errorf("%s: it serves again, and is not asked", name)
			}
		})
	}
}

// TestLeaderNamedByFollower ensures that a follower which refuses a read does not spoil what is known of the leader: it may name the one before.
func TestLeaderNamedByFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		w.set("a:1", serve("a"))
		w.set("b:1", problem(421, "misdirected", "no", "Larder-Leader", "c", "Larder-Epoch", "3"))
		w.set("c:1", problem(421, "misdirected", "no", "Larder-Leader", "a", "Larder-Epoch", "3"))
		c := w.client(Config{Near: "b"})
		defer c.Close()
		for range 3 {
			if _, err := c.Get(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Put(t.Context(), "k", []byte("v")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(suspicion + time.Second)
		}
		if n := w.got("c:1"); len(n) != 0 {
			t.Errorf("who led before got %q", n)
		}
	})
}
