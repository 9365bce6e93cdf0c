package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script answers each request on keys by the next of its handlers, the last of which stays, and notes the idempotency
// keys that come.
type script struct {
	mu       sync.Mutex
	handlers []http.HandlerFunc
	keys     []string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.handlers[0]
	if len(s.handlers) > 1 {
		s.handlers = s.handlers[1:]
	}
	s.keys = append(s.keys, strings.Join(r.Header.Values("Idempotency-Key"), "|"))
	s.mu.Unlock()
	h(w, r)
}

// scripted runs f on a client of three nodes that answer by the same script.
func scripted(t *testing.T, cfg Config, handlers []http.HandlerFunc, f func(t *testing.T, c *Client, s *script)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		s := &script{handlers: handlers}
		for addr := range w.nodes {
			w.set(addr, s.ServeHTTP)
		}
		c := w.client(cfg)
		defer c.Close()
		f(t, c, s)
	})
}

var madeKey = regexp.MustCompile(`^"[0-9]{12,13}-[0-9a-f]{16}"$`)

// TestRetryUnknown ensures that a write whose outcome is unknown is made again under the same key until that tells, and that
// only success does: a refusal that comes later leaves the outcome unknown.
func TestRetryUnknown(t *testing.T) {
	unknown, gone := problem(504, "outcome-unknown", "unknown"), raw("")
	for _, tt := range []struct {
		name    string
		answers []http.HandlerFunc
		want    error
		sent    int // 0: many
	}{
		{"good at once", []http.HandlerFunc{serve("a")}, nil, 1},
		{"no answer, then good", []http.HandlerFunc{gone, gone, serve("a")}, nil, 3},
		{"unknown, then good", []http.HandlerFunc{unknown, serve("a")}, nil, 2},
		{"internal, then good", []http.HandlerFunc{problem(500, "internal", "unknown"), serve("a")}, nil, 2},
		{"unknown, then overloaded, then good", []http.HandlerFunc{unknown, problem(429, "overloaded", "no", "Retry-After", "1"), serve("a")}, nil, 3},
		{"unknown, then a condition", []http.HandlerFunc{unknown, problem(412, "precondition-failed", "no", "ETag", `"7"`)}, ErrOutcomeUnknown, 2},
		{"unknown, then too large", []http.HandlerFunc{gone, problem(413, "entry-too-large", "no")}, ErrOutcomeUnknown, 2},
		{"unknown, then no leader", []http.HandlerFunc{unknown, problem(503, "no-leader", "no", "Retry-After", "1")}, ErrOutcomeUnknown, 0},
		{"unknown for ever", []http.HandlerFunc{unknown}, ErrOutcomeUnknown, 0},
		{"unknown, then too old", []http.HandlerFunc{unknown, problem(422, "idempotency-key-too-old", "unknown")}, ErrOutcomeUnknown, 2},
		{"unknown, then too new", []http.HandlerFunc{unknown, problem(422, "idempotency-key-too-new", "no")}, ErrOutcomeUnknown, 2},
		{"a condition at once", []http.HandlerFunc{problem(412, "precondition-failed", "no", "ETag", `"7"`)}, ErrPrecondition, 1},
		{"reused", []http.HandlerFunc{problem(422, "idempotency-key-reused", "no")}, ErrBadRequest, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scripted(t, Config{}, tt.answers, func(t *testing.T, c *Client, s *script) {
				begun := time.Now()
				_, err := c.Put(t.Context(), "k", []byte("v"), IfVersion("7"))
				check(t, "put", err, tt.want)
				if took := time.Since(begun); took > defaultTimeout {
					t.Errorf("took %s", took)
				}
				if n := len(s.keys); tt.sent != 0 && n != tt.sent || tt.sent == 0 && n < 3 {
					t.Errorf("sent %d times, want %d", n, tt.sent)
				}
				if keys := slices.Compact(s.keys); len(keys) != 1 || !madeKey.MatchString(keys[0]) {
					t.Errorf("sent the keys %q, want one", keys)
				}
			})
		})
	}
}

// TestRetryDelete ensures that a delete which finds nothing settles nothing after an attempt that may yet be applied: such a
// delete is not remembered, and the earlier attempt would remove what is put meanwhile.
func TestRetryDelete(t *testing.T) {
	existed := func(flag string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			place(w, "a").Set("Larder-Existed", flag)
			w.WriteHeader(http.StatusNoContent)
		}
	}
	for _, tt := range []struct {
		answers []http.HandlerFunc
		want    error
	}{
		{[]http.HandlerFunc{existed("?0")}, nil},
		{[]http.HandlerFunc{raw(""), existed("?1")}, nil},
		{[]http.HandlerFunc{raw(""), existed("?0")}, ErrOutcomeUnknown},
	} {
		scripted(t, Config{}, tt.answers, func(t *testing.T, c *Client, s *script) {
			_, err := c.Delete(t.Context(), "k")
			check(t, "delete", err, tt.want)
		})
	}
}

// TestKeys ensures that each call has a key of its own, that reads, touches and clients that want none have none, and that a key
// that the caller chose is sent as it is.
func TestKeys(t *testing.T) {
	calls := func(t *testing.T, c *Client) {
		c.Put(t.Context(), "k", nil)
		c.Put(t.Context(), "k", nil)
		c.Delete(t.Context(), "k")
		c.Incr(t.Context(), "k", 1)
		c.Append(t.Context(), "k", []byte("v"))
		c.Expire(t.Context(), "k", time.Second)
		c.Swap(t.Context(), "k", []byte("v"))
		c.Create(t.Context(), "k", []byte("v"))
	}
	scripted(t, Config{}, []http.HandlerFunc{problem(400, "bad-header", "no")}, func(t *testing.T, c *Client, s *script) {
		calls(t, c)
		made := slices.Clone(s.keys)
		slices.Sort(made)
		if len(made) != 8 || len(slices.Compact(made)) != 8 {
			t.Errorf("8 calls sent the keys %q", s.keys)
		}
		for _, key := range s.keys {
			digits, _, _ := strings.Cut(strings.Trim(key, `"`), "-")
			if ms, err := strconv.ParseInt(digits, 10, 64); err != nil || !madeKey.MatchString(key) || time.Since(time.UnixMilli(ms)).Abs() > time.Second {
				t.Errorf("the key %s does not begin with the time", key)
			}
		}
		s.keys = nil
		c.Get(t.Context(), "k")
		c.Touch(t.Context(), "k")
		if keys := strings.Join(s.keys, ""); keys != "" {
			t.Errorf("a read and a touch sent the keys %q", s.keys)
		}
		s.keys = nil
		c.Delete(t.Context(), "k", WithIdempotencyKey(`my "key" \`))
		c.Put(t.Context(), "k", nil, WithIdempotencyKey("mine"))
		if want := []string{`"my \"key\" \\"`, `"mine"`}; !slices.Equal(s.keys, want) {
			t.Errorf("sent the keys %q, want %q", s.keys, want)
		}
	})
	for _, cfg := range []Config{{NoIdempotency: true}, {NoRetry: true}} {
		scripted(t, cfg, []http.HandlerFunc{problem(400, "bad-header", "no")}, func(t *testing.T, c *Client, s *script) {
			calls(t, c)
			if keys := strings.Join(s.keys, ""); keys != "" || len(s.keys) != 8 {
				t.Errorf("%+v: sent the keys %q", cfg, s.keys)
			}
		})
	}
}

// judging answers as a cluster does whose time is ahead of this machine's: it refuses keys whose time is more than 10 s
// ahead of its own, or 30 s behind.
func judging(ahead time.Duration, telling bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		now := time.Now().Add(ahead)
		if telling {
			w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		}
		digits, _, _ := strings.Cut(strings.Trim(r.Header.Get("Idempotency-Key"), `"`), "-")
		ms, _ := strconv.ParseInt(digits, 10, 64)
		switch late := now.Sub(time.UnixMilli(ms)); {
		case late < -10*time.Second:
			problem(422, "idempotency-key-too-new", "no")(w, r)
		case late > 30*time.Second:
			problem(422, "idempotency-key-too-old", "unknown")(w, r)
		default:
			serve("a")(w, r)
		}
	}
}

// TestWrongClock ensures that a client whose clock is wrong learns the cluster's time, from its first answer at the latest, and
// that one which can't learn it says what it knows.
func TestWrongClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour, 20 * time.Second, -20 * time.Second, 40 * time.Second} {
		scripted(t, Config{}, []http.HandlerFunc{judging(ahead, true)}, func(t *testing.T, c *Client, s *script) {
			for range 2 {
				if _, err := c.Put(t.Context(), "k", []byte("v")); err != nil {
					t.Errorf("%v ahead: %v", ahead, err)
				}
			}
			if n := len(s.keys); n > 3 {
				t.Errorf("%v ahead: %d attempts for two writes", ahead, n)
			}
		})
		scripted(t, Config{}, []http.HandlerFunc{judging(ahead, false)}, func(t *testing.T, c *Client, s *script) {
			_, err := c.Put(t.Context(), "k", []byte("v"))
			switch {
			case ahead > 30*time.Second:
				check(t, "too old", err, ErrOutcomeUnknown)
			case ahead < -10*time.Second:
				check(t, "too new", err, ErrBadRequest)
			default:
				check(t, "good", err, nil)
			}
			if n := len(s.keys); n > maxRenewals+1 {
				t.Errorf("%v ahead: %d attempts", ahead, n)
			}
		})
	}
	scripted(t, Config{}, []http.HandlerFunc{judging(time.Hour, true)}, func(t *testing.T, c *Client, s *script) {
		_, err := c.Put(t.Context(), "k", nil, WithIdempotencyKey(fmt.Sprintf("%d-mine", time.Now().UnixMilli())))
		check(t, "a key of the caller's", err, ErrOutcomeUnknown)
		if len(s.keys) != 1 {
			t.Errorf("sent the keys %q", s.keys)
		}
	})
}

// TestOperations ensures that each operation is asked for as the interface has it, and comes to what the answer says.
func TestOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "a"))
		c := w.client(Config{})
		defer c.Close()
		ctx := t.Context()
		var line, body, contentType string
		// answer has a answer with status, body and headers, beside those of each answer.
		answer := func(status int, text string, headers ...string) {
			w.set("a:1", func(rw http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				line, body, contentType = r.Method+" "+r.URL.RequestURI(), string(b), r.Header.Get("Content-Type")
				place(rw, "a").Set("Content-Type", "a/b")
				for i := 0; i < len(headers); i += 2 {
					rw.Header().Set(headers[i], headers[i+1])
				}
				rw.WriteHeader(status)
				io.WriteString(rw, text)
			})
		}
		sent := func(wantLine, wantBody string) {
			t.Helper()
			if line != wantLine || body != wantBody {
				t.Errorf("sent %s %q, want %s %q", line, body, wantLine, wantBody)
			}
		}
		at := Place{Shard: 1, Epoch: 3, Index: "17.4", ServedBy: "a"}

		answer(200, "-5")
		n, res, err := c.Incr(ctx, "k", -7, TTL(time.Minute))
		if n != -5 || err != nil || res != (Result{Version: "42", Place: at, HasValue: true}) {
			t.Errorf("incr: %d, %+v, %v", n, res, err)
		}
		sent("POST /v1/kv/k?route=local&by=-7&op=incr&ttl=1m0s", "")
		answer(204, "", "Idempotency-Replayed", "?1")
		if n, res, err = c.Incr(ctx, "k", 1); n != 0 || err != nil || res != (Result{Version: "42", Place: at, Replayed: true}) {
			t.Errorf("incr: %d, %+v, %v", n, res, err)
		}
		w.set("a:1", problem(422, "not-an-integer", "no"))
		_, _, err = c.Incr(ctx, "k", 1)
		check(t, "incr of text", err, ErrNotInteger)

		answer(200, "one,two", "Idempotency-Replayed", "?1")
		all, res, err := c.Append(ctx, "k", []byte(",two"), ContentType("x/y"))
		if string(all) != "one,two" || err != nil || !res.Replayed || !res.HasValue {
			t.Errorf("append: %q, %+v, %v", all, res, err)
		}
		sent("POST /v1/kv/k?route=local&op=append", ",two")
		if contentType != "x/y" {
			t.Errorf("append: sent the content type %q", contentType)
		}

		answer(200, "old")
		old, res, err := c.Swap(ctx, "k", []byte("new"))
		if string(old.Value) != "old" || old.ContentType != "a/b" || err != nil || !res.Existed || !res.HasValue || res.Version != "42" {
			t.Errorf("swap: %+v, %+v, %v", old, res, err)
		}
		sent("PUT /v1/kv/k?route=local&return=old", "new")
		answer(201, "")
		if old, res, err = c.Swap(ctx, "k", nil); err != nil || res.Existed || res.HasValue || old.Value != nil {
			t.Errorf("swap: %+v, %+v, %v", old, res, err)
		}

		answer(204, "")
		for ttl, want := range map[time.Duration]string{0: `{"ttl":null}`, 1500 * time.Millisecond: `{"ttl":"1.5s"}`} {
			if res, err := c.Expire(ctx, "k", ttl); err != nil || res != (Result{Version: "42", Existed: true, Place: at}) {
				t.Errorf("expire: %+v, %v", res, err)
			}
			sent("PATCH /v1/kv/k?route=local", want)
			if contentType != "application/merge-patch+json" {
				t.Errorf("expire: sent the content type %q", contentType)
			}
		}
		if res, err := c.Touch(ctx, "k"); err != nil || res != (Result{Version: "42", Existed: true, Place: at}) {
			t.Errorf("touch: %+v, %v", res, err)
		}
		sent("POST /v1/kv/k?route=local&op=touch", "")
		w.set("a:1", problem(404, "not-found", "no"))
		_, err = c.Expire(ctx, "k", 0)
		check(t, "expire of nothing", err, ErrNotFound)
		_, err = c.Touch(ctx, "k")
		check(t, "touch of nothing", err, ErrNotFound)
	})
}

// TestValueCut ensures that a write whose value does not come whole is asked for again where it has a key, and is known to have
// happened where it has none.
func TestValueCut(t *testing.T) {
	cut := raw("HTTP/1.1 200 OK\r\n" + placeText + "ETag: \"4\"\r\nContent-Length: 9\r\n\r\n12")
	whole := func(w http.ResponseWriter, r *http.Request) { place(w, "a"); io.WriteString(w, "123456789") }
	scripted(t, Config{}, []http.HandlerFunc{cut, whole}, func(t *testing.T, c *Client, s *script) {
		if n, _, err := c.Incr(t.Context(), "k", 1); n != 123456789 || err != nil || len(s.keys) != 2 {
			t.Errorf("%d, %v after %d attempts", n, err, len(s.keys))
		}
	})
	scripted(t, Config{NoIdempotency: true}, []http.HandlerFunc{cut, whole}, func(t *testing.T, c *Client, s *script) {
		_, _, err := c.Incr(t.Context(), "k", 1)
		var e *Error
		if !errors.Is(err, ErrOutcomeUnknown) || !errors.As(err, &e) || e.Applied != AppliedYes || len(s.keys) != 1 {
			t.Errorf("%v after %d attempts", err, len(s.keys))
		}
	})
}

// TestFill ensures that a read which would fill waits beyond an attempt's usual time, tells servers how long they may hold it,
// and hands on the token, and that a fill names it.
func TestFill(t *testing.T) {
	var header http.Header
	var uri string
	waits := func(w http.ResponseWriter, r *http.Request) {
		header, uri = r.Header, r.URL.RequestURI()
		select {
		case <-time.After(3 * time.Second):
			serve("a")(w, r)
		case <-r.Context().Done():
		}
	}
	scripted(t, Config{}, []http.HandlerFunc{waits}, func(t *testing.T, c *Client, s *script) {
		e, err := c.Get(t.Context(), "k", Fill(20*time.Second))
		if err != nil || string(e.Value) != "value" || len(s.keys) != 1 {
			t.Errorf("%+v, %v after %d attempts", e, err, len(s.keys))
		}
		if told := header.Get("Larder-Timeout"); !strings.HasSuffix(uri, "fill=20s") || told != "875ms" {
			t.Errorf("asked %s with Larder-Timeout %s", uri, told)
		}
		// Within a shorter deadline less of it is left to the server.
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if _, err := c.Get(ctx, "k", Fill(20*time.Second)); err != nil || !strings.HasSuffix(uri, "fill=3s") {
			t.Errorf("asked %s: %v", uri, err)
		}
	})
	absent := problem(404, "not-found", "no", "Larder-Shard", "1", "Larder-Epoch", "3", "Larder-Index", "1.0", "Larder-Read", "probe", "Larder-Fill", "77")
	scripted(t, Config{}, []http.HandlerFunc{absent, func(w http.ResponseWriter, r *http.Request) { header = r.Header; serve("a")(w, r) }}, func(t *testing.T, c *Client, s *script) {
		e, err := c.Get(t.Context(), "k", Fill(time.Second))
		check(t, "get", err, ErrNotFound)
		if e.FillToken != "77" {
			t.Errorf("token %q", e.FillToken)
		}
		if _, err := c.Put(t.Context(), "k", []byte("v"), Filling(e.FillToken)); err != nil || header.Get("Larder-Fill") != "77" {
			t.Errorf("sent Larder-Fill %q: %v", header.Get("Larder-Fill"), err)
		}
	})
}
