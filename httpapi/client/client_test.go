package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const placeText = "Larder-Shard: 1\r\nLarder-Epoch: 3\r\nLarder-Index: 17.4\r\nLarder-Served-By: a\r\nLarder-Read: probe\r\n"

// TestOutcomes ensures that each answer, and each way to have none, comes to the outcome that it proves.
func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name        string
		answer      http.HandlerFunc
		read, write error // nil: success
	}{
		{"good", serve("a"), nil, nil},
		{"absent", problem(404, "not-found", "no", "Larder-Shard", "1", "Larder-Epoch", "3", "Larder-Index", "1.0", "Larder-Read", "probe"), ErrNotFound, ErrBadRequest},
		{"absent, but of no place", problem(404, "not-found", "no"), ErrUnavailable, ErrBadRequest},
		{"condition", problem(412, "precondition-failed", "no", "ETag", `"7"`), ErrPrecondition, ErrPrecondition},
		{"too large", problem(413, "value-too-large", "no"), ErrTooLarge, ErrTooLarge},
		{"bad", problem(400, "bad-parameter", "no"), ErrBadRequest, ErrBadRequest},
		{"not built", problem(501, "not-built", "no"), ErrBadRequest, ErrBadRequest},
		{"no leader", problem(503, "no-leader", "no", "Retry-After", "1"), ErrUnavailable, ErrUnavailable},
		{"overloaded", problem(429, "overloaded", "no", "Retry-After", "1"), ErrUnavailable, ErrUnavailable},
		{"disk full", problem(507, "disk-full", "no"), ErrUnavailable, ErrUnavailable},
		{"unknown", problem(504, "outcome-unknown", "unknown"), ErrUnavailable, ErrOutcomeUnknown},
		{"applied, but an error", problem(500, "internal", "yes"), ErrUnavailable, ErrOutcomeUnknown},
		{"internal", problem(500, "internal", "unknown"), ErrUnavailable, ErrOutcomeUnknown},
		{"a problem without applied", problem(503, "x", ""), ErrUnavailable, ErrOutcomeUnknown},
		{"a proxy's 502", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Bad Gateway", http.StatusBadGateway) }, ErrUnavailable, ErrOutcomeUnknown},
		{"a proxy's 404", http.NotFound, ErrUnavailable, ErrOutcomeUnknown},
		{"a proxy's 200", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "log in") }, ErrUnavailable, ErrOutcomeUnknown},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Location", "/"); w.WriteHeader(307) }, ErrUnavailable, ErrOutcomeUnknown},
		{"hung up", raw(""), ErrUnavailable, ErrOutcomeUnknown},
		{"half a header", raw("HTTP/1.1 201 Created\r\nETag: \"4"), ErrUnavailable, ErrOutcomeUnknown},
		{"no HTTP", raw("hello\r\n\r\n"), ErrUnavailable, ErrOutcomeUnknown},
		{"success without a version", raw("HTTP/1.1 201 Created\r\n" + placeText + "Content-Length: 0\r\n\r\n"), ErrUnavailable, ErrOutcomeUnknown},
		{"success without a place", raw("HTTP/1.1 201 Created\r\nETag: \"4\"\r\nContent-Length: 0\r\n\r\n"), ErrUnavailable, ErrOutcomeUnknown},
		{"success cut after its header", raw("HTTP/1.1 201 Created\r\n" + placeText + "ETag: \"4\"\r\nContent-Length: 9\r\n\r\nabc"), ErrUnavailable, nil},
		{"value cut short", raw("HTTP/1.1 200 OK\r\n" + placeText + "ETag: \"4\"\r\nContent-Length: 9\r\n\r\nabc"), ErrUnavailable, ErrOutcomeUnknown},
		{"value of unknown length", raw("HTTP/1.0 200 OK\r\n" + placeText + "ETag: \"4\"\r\n\r\nabc"), ErrUnavailable, ErrOutcomeUnknown},
		{"half a problem", raw("HTTP/1.1 503 x\r\nContent-Type: application/problem+json\r\nContent-Length: 99\r\n\r\n{\"type\""), ErrUnavailable, ErrOutcomeUnknown},
		{"silence", hang, ErrUnavailable, ErrOutcomeUnknown},
	} {
		for mode, cfg := range map[string]Config{"noRetry": {NoRetry: true}, "noIdempotency": {NoIdempotency: true}, "idempotent": {}} {
			noRetry := cfg.NoRetry
			t.Run(tt.name+"/"+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newNetwork(t, "a:1", "b:1", "c:1")
					w.setTable(oneShard(1, "a"))
					for addr := range w.nodes {
						w.set(addr, tt.answer)
					}
					c := w.client(cfg)
					defer c.Close()
					sent := func() (n int) {
						for addr := range w.nodes {
							n += len(w.got(addr))
						}
						return n
					}
					begun := time.Now()
					_, err := c.Get(t.Context(), "k")
					check(t, "get", err, tt.read)
					if n := sent(); noRetry && n != 1 {
						t.Errorf("get: %d requests, want 1", n)
					}
					_, err = c.Put(t.Context(), "k", []byte("v"))
					check(t, "put", err, tt.write)
					n := sent()
					if (noRetry || cfg.NoIdempotency && errors.Is(err, ErrOutcomeUnknown)) && n != 1 {
						t.Errorf("put: %d requests, want 1", n)
					}
					if mode == "idempotent" && errors.Is(err, ErrOutcomeUnknown) && tt.name != "silence" && n < 2 {
						t.Errorf("put: %d requests, want several", n)
					}
					if took := time.Since(begun); took > 2*defaultTimeout {
						t.Errorf("took %s", took)
					}
				})
			})
		}
	}
}

// check compares an error with its kind, and its Applied with that.
func check(t *testing.T, what string, err, kind error) {
	t.Helper()
	if kind == nil {
		if err != nil {
			t.Errorf("%s: %v, want success", what, err)
		}
		return
	}
	var e *Error
	if !errors.Is(err, kind) || !errors.As(err, &e) {
		t.Errorf("%s: %v, want %v", what, err, kind)
		return
	}
	if certain := e.Applied == AppliedNo; certain == (kind == ErrOutcomeUnknown) {
		t.Errorf("%s: applied is %q with %v", what, e.Applied, kind)
	}
}

// TestFields ensures that results carry what the answer says.
func TestFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		w.set("a:1", serve("a"))
		c := w.client(Config{})
		defer c.Close()
		at := Place{Shard: 1, Epoch: 3, Index: "17.4", ServedBy: "a"}
		e, err := c.Get(t.Context(), "k")
		if err != nil || string(e.Value) != "value" || e.ContentType != "text/plain" || e.Version != "42" || !e.Expires ||
			e.TTL != 41*time.Second || e.ReadPath != ReadProbe || e.Place != at {
			t.Errorf("got %+v, %v", e, err)
		}
		res, err := c.Put(t.Context(), "k", nil, TTL(time.Minute), IfVersion("7"), ContentType("a/b"))
		if err != nil || res != (Result{Version: "42", Place: at}) {
			t.Errorf("put: %+v, %v", res, err)
		}
		if _, err := c.Put(t.Context(), "k", nil, NoTTL()); err != nil || !strings.HasSuffix(w.got("a:1")[2], "ttl=none") {
			t.Errorf("without end: %q, %v", w.got("a:1"), err)
		}
		w.set("a:1", problem(412, "precondition-failed", "no", "ETag", `"9"`))
		_, err = c.Create(t.Context(), "k", []byte("v"))
		var refused *Error
		if !errors.As(err, &refused) || refused.Version != "9" {
			t.Errorf("create: %v, want version 9", err)
		}
	})
}

// TestStraightToLeader ensures that requests go to the leader of the table and to nobody else, follow
// it when it changes, and leave it when it dies.
func TestStraightToLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "b"))
		w.set("b:1", serve("b"))
		c := w.client(Config{})
		defer c.Close()
		put := func() {
			t.Helper()
			if _, err := c.Put(t.Context(), "k", []byte("v")); err != nil {
				t.Fatal(err)
			}
		}
		counts := func(want string) {
			t.Helper()
			got := fmt.Sprint(w.got("a:1"), w.got("b:1"), w.got("c:1"))
			if got != want {
				t.Errorf("sent %s, want %s", got, want)
			}
		}
		put()
		put()
		counts("[] [PUT /v1/kv/k?route=local PUT /v1/kv/k?route=local] []")

		// b hands over to c, and says so.
		w.set("b:1", problem(421, "misdirected", "no", "Larder-Leader", "c", "Larder-Epoch", "3"))
		w.set("c:1", serve("c"))
		put()
		put()
		counts("[] [PUT /v1/kv/k?route=local] [PUT /v1/kv/k?route=local PUT /v1/kv/k?route=local]")

		// c dies; the others forward to a, which is learned.
		w.crash("c:1")
		w.set("a:1", serve("a"))
		w.set("b:1", serve("a"))
		put()
		w.got("a:1")
		w.got("b:1")
		put()
		counts("[PUT /v1/kv/k?route=local] [] []")
	})
}

// TestMisdirectedCircle ensures that nodes that point at each other are left to forward.
func TestMisdirectedCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		point := func(to string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("route") == "local" {
					problem(421, "misdirected", "no", "Larder-Leader", to, "Larder-Epoch", "3")(w, r)
					return
				}
				serve("c")(w, r)
			}
		}
		w.set("a:1", point("b"))
		w.set("b:1", point("a"))
		w.set("c:1", point("a"))
		c := w.client(Config{})
		defer c.Close()
		if _, err := c.Put(t.Context(), "k", []byte("v")); err != nil {
			t.Error(err)
		}
		if n := len(w.got("a:1")) + len(w.got("b:1")) + len(w.got("c:1")); n > maxHops+2 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestPausedNode ensures that a node that is silent costs a read one attempt, and later ones nothing.
func TestPausedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		w.set("a:1", hang)
		w.set("b:1", serve("b"))
		w.set("c:1", serve("b"))
		c := w.client(Config{})
		defer c.Close()
		for i, want := range []time.Duration{time.Second, 0} {
			begun := time.Now()
			if _, err := c.Get(t.Context(), "k"); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took != want {
				t.Errorf("read %d took %s, want %s", i, took, want)
			}
		}
	})
}

// TestFollowersRead ensures that reads that any replica may answer are spread, and that a follower's
// answer teaches nothing about the leader.
func TestFollowersRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		for _, id := range []string{"a", "b", "c"} {
			w.set(id+":1", func(w http.ResponseWriter, r *http.Request) {
				place(w, id).Set("Larder-Read", "local")
				w.Header().Set("Age", "2")
			})
		}
		c := w.client(Config{})
		defer c.Close()
		for range 9 {
			e, err := c.Get(t.Context(), "k", Bounded(3*time.Second))
			if err != nil || e.Age != 2*time.Second || e.ReadPath != ReadLocal {
				t.Errorf("got %+v, %v", e, err)
			}
		}
		for addr := range w.nodes {
			if got := w.got(addr); len(got) != 3 || !strings.Contains(got[0], "route=local&consistency=bounded&max-staleness=3s") {
				t.Errorf("%s got %q", addr, got)
			}
		}
		if leader := c.table.Load().find(0).leader.Load(); leader.id != "a" {
			t.Errorf("the leader is %s", leader.id)
		}
	})
}

// TestHotShard ensures that linearizable reads of a shard take turns among its voters for a while after its leader said that it has many,
// that all else goes to the leader, and that a refusal sends a read there.
func TestHotShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1", "d:1")
		w.setTable(tableOf(1, `{"cluster":"x","version":1,"shards":[{"id":1,"start":0,"end":16384,"epoch":3,"leader":"a",
			"members":[{"node":"a","role":"voter"},{"node":"b","role":"voter"},{"node":"c","role":"voter"},{"node":"d","role":"learner"}]}],
			"nodes":{"a":{"http":"a:1"},"b":{"http":"b:1"},"c":{"http":"c:1"},"d":{"http":"d:1"}}}`))
		hot, found := true, true
		answer := func(id, path string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				h := place(w, id)
				h.Set("Larder-Read", path)
				if id == "a" && hot {
					h.Set("Larder-Hot", "?1")
				}
				switch {
				case r.Method == http.MethodPut:
					w.WriteHeader(204)
				case !found:
					problem(404, "not-found", "no")(w, r)
				}
			}
		}
		w.set("a:1", answer("a", "probe"))
		for _, id := range []string{"b", "c", "d"} {
			w.set(id+":1", answer(id, "follower"))
		}
		c := w.client(Config{})
		defer c.Close()
		counts := func() (n [4]int) {
			for i, addr := range []string{"a:1", "b:1", "c:1", "d:1"} {
				n[i] = len(w.got(addr))
			}
			return n
		}
		read := func(times int) [4]int {
			t.Helper()
			for range times {
				if _, err := c.Get(t.Context(), "k"); found && err != nil || !found && !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
			}
			return counts()
		}
		for _, found = range []bool{true, false} {
			hot = true
			if n := read(1); n != [4]int{1} {
				t.Fatalf("found %t: the first read went to %v", found, n)
			}
			if n := read(9); n != [4]int{3, 3, 3} {
				t.Errorf("found %t: nine reads went to %v", found, n)
			}
			time.Sleep(spreadTime / 2)
			hot = false
			read(3)
			time.Sleep(spreadTime/2 + time.Second)
			if n := read(6); n != [4]int{6} {
				t.Errorf("found %t: six reads went to %v, the leader has said nothing for long", found, n)
			}
		}
		hot, found = true, true
		read(1)
		for range 3 {
			if _, err := c.Put(t.Context(), "k", []byte("v")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Get(t.Context(), "k", Fill(time.Second)); err != nil {
			t.Fatal(err)
		}
		if n := counts(); n != [4]int{4} {
			t.Errorf("writes, and a read that may fill, went to %v", n)
		}
		for _, addr := range []string{"b:1", "c:1"} {
			w.set(addr, problem(421, "misdirected", "no", "Larder-Leader", "a", "Larder-Epoch", "3"))
		}
		if n := read(6); n != [4]int{6, 1, 1} {
			t.Errorf("six reads, that followers refuse, went to %v", n)
		}
	})
}

// TestNear ensures that reads go to the node that is near where it has a voter of the shard and answers, and all else to the leader.
func TestNear(t *testing.T) {
	for near, want := range map[string][3]int{"b": {1, 3}, "elsewhere": {4}, "a": {4}} {
		synctest.Test(t, func(t *testing.T) {
			w := newNetwork(t, "a:1", "b:1", "c:1")
			w.setTable(oneShard(1, "a"))
			w.set("a:1", serve("a"))
			follower := func(w http.ResponseWriter, r *http.Request) { place(w, "b").Set("Larder-Read", "follower") }
			w.set("b:1", follower)
			c := w.client(Config{Near: near})
			defer c.Close()
			got := func() [3]int { return [3]int{len(w.got("a:1")), len(w.got("b:1")), len(w.got("c:1"))} }
			for range 3 {
				if _, err := c.Get(t.Context(), "k"); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Put(t.Context(), "k", []byte("v")); err != nil {
				t.Fatal(err)
			}
			if n := got(); n != want {
				t.Errorf("near %s: three reads and a write went to %v, want %v", near, n, want)
			}
			w.crash("b:1")
			if _, err := c.Get(t.Context(), "k"); err != nil {
				t.Errorf("near %s: without it: %v", near, err)
			}
		})
	}
}

// TestAllDown ensures that with nobody to reach a call ends at its deadline, certain that nothing happened.
func TestAllDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1")
		w.crash("a:1")
		c := w.client(Config{Timeout: 4 * time.Second})
		defer c.Close()
		begun := time.Now()
		_, err := c.Put(t.Context(), "k", []byte("v"))
		check(t, "put", err, ErrUnavailable)
		if took := time.Since(begun); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// TestCancel ensures that a context that ends before anything was sent leaves a certain refusal, and after
// it an unknown outcome.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		w.set("a:1", hang)
		c := w.client(Config{})
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := c.Put(ctx, "k", []byte("v"))
		check(t, "cancelled after", err, ErrOutcomeUnknown)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v is not context.Canceled", err)
		}
		w.got("a:1")
		_, err = c.Put(ctx, "k", []byte("v"))
		check(t, "cancelled before", err, ErrUnavailable)
		if !errors.Is(err, context.Canceled) || len(w.got("a:1")) > 0 {
			t.Errorf("%v, want context.Canceled and nothing sent", err)
		}
	})
}

// TestRetryAfter ensures that a 429's wish is granted, and that a wish beyond the deadline ends the call.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		var first time.Time
		w.set("a:1", func(rw http.ResponseWriter, r *http.Request) {
			if first.IsZero() {
				first = time.Now()
				problem(429, "overloaded", "no", "Retry-After", "2")(rw, r)
				return
			}
			if gap := time.Since(first); gap < 2*time.Second {
				t.Errorf("came back after %s", gap)
			}
			serve("a")(rw, r)
		})
		c := w.client(Config{})
		defer c.Close()
		_, err := c.Put(t.Context(), "k", []byte("v"))
		check(t, "put", err, nil)
		w.set("a:1", problem(429, "overloaded", "no", "Retry-After", "60"))
		begun := time.Now()
		_, err = c.Put(t.Context(), "k", []byte("v"))
		check(t, "put", err, ErrUnavailable)
		if time.Since(begun) != 0 {
			t.Errorf("took %s", time.Since(begun))
		}
	})
}

// TestRefresh ensures that the table follows the directory: at once where it holds its answers, after a pause where
// it refuses to or ignores the wish, and never back.
func TestRefresh(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(http.HandlerFunc) http.HandlerFunc
		most int // questions in a minute
	}{
		{"held", func(h http.HandlerFunc) http.HandlerFunc { return h }, 5},
		{"501", func(h http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Prefer") != "" {
					problem(501, "not-built", "no")(w, r)
					return
				}
				h(w, r)
			}
		}, 35},
		{"ignored", func(h http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { r.Header.Del("Prefer"); h(w, r) }
		}, 35},
		{"200 always", func(h http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { r.Header.Del("If-None-Match"); h(w, r) }
		}, 35},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newNetwork(t, "a:1", "b:1", "c:1")
				var asked atomic.Int64
				version := func(v int) {
					h := tt.wrap(oneShard(v, "a"))
					w.setTable(func(rw http.ResponseWriter, r *http.Request) { asked.Add(1); h(rw, r) })
				}
				version(5)
				w.set("a:1", serve("a"))
				c := w.client(Config{})
				defer c.Close()
				if _, err := c.Get(t.Context(), "k"); err != nil {
					t.Fatal(err)
				}
				asked.Store(0)
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := int(asked.Load()); n > tt.most || n == 0 {
					t.Errorf("asked %d times in a minute, want 1 to %d", n, tt.most)
				}
				version(6)
				time.Sleep(32 * time.Second)
				synctest.Wait()
				if got := c.table.Load().version; got != 6 {
					t.Errorf("version %d, want 6", got)
				}
				version(4)
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := c.table.Load().version; got != 6 {
					t.Errorf("version %d, want 6", got)
				}
			})
		})
	}
}

// TestNewEpochAsks ensures that an answer from a range that the table doesn't know fetches a new table at once, though a
// question is being held.
func TestNewEpochAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		w.set("a:1", func(rw http.ResponseWriter, r *http.Request) {
			serve("a")(laterEpoch{rw}, r)
		})
		c := w.client(Config{})
		defer c.Close()
		if _, err := c.Delete(t.Context(), "other"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		w.setTable(oneShard(2, "a"))
		c.Delete(t.Context(), "other")
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if got := c.table.Load().version; got != 2 {
			t.Errorf("version %d, want 2", got)
		}
	})
}

// laterEpoch answers from an epoch that the table doesn't have.
type laterEpoch struct{ http.ResponseWriter }

func (w laterEpoch) WriteHeader(status int) {
	w.Header().Set("Larder-Epoch", "9")
	w.ResponseWriter.WriteHeader(status)
}

// TestClose ensures that Close ends calls under way, with what is known of them, refuses later ones, and leaves
// no goroutine: the bubble would not end.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		w.set("a:1", hang)
		c := w.client(Config{})
		done := make(chan error)
		go func() {
			_, err := c.Put(t.Context(), "k", []byte("v"))
			done <- err
		}()
		synctest.Wait()
		go c.Close()
		check(t, "under way", <-done, ErrOutcomeUnknown)
		c.Close()
		_, err := c.Get(t.Context(), "k")
		check(t, "afterwards", err, ErrClosed)
	})
}
