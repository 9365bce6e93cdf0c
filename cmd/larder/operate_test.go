package main

import (
	"net/http"
	"strings"
	"testing"
)

// The value that a put replaced goes to stdout, a replay says that it is one, and an entry without end has none.
func TestReturnedValues(t *testing.T) {
	replies := func(status int, body string, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Larder-Shard", "3")
			w.Header().Set("ETag", `"12"`)
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	const once = ", as before under this idempotency key"
	for _, tc := range []struct {
		args           string
		reply          http.HandlerFunc
		code           int
		stdout, stderr string
	}{
		{"put k v --return-old", replies(200, "old\n", "Larder-Existed", "?1"), 0, "old\n", "replaced, version 12\n"},
		{"put k v --return-old", replies(201, "", "Larder-Existed", "?0"), 0, "", "created, version 12\n"},
		{"put k v --return-old", replies(204, "", "Larder-Existed", "?1", "Idempotency-Replayed", "?1"), 0, "", "replaced, version 12" + once + "\n"},
		{"put k v", replies(204, "", "Idempotency-Replayed", "?1"), 0, "", "replaced, version 12" + once + "\n"},
		{"del k", replies(204, "", "Larder-Existed", "?1", "Idempotency-Replayed", "?1"), 0, "", "removed" + once + "\n"},
		{"incr k", replies(200, "5", "Idempotency-Replayed", "?1"), 0, "5\n", "done" + once + "\n"},
		{"incr k", replies(204, "", "Idempotency-Replayed", "?1"), 0, "", "done" + once + "\n"},
		{"ttl k none", replies(204, "", "Idempotency-Replayed", "?1"), 0, "", "changed" + once + "\n"},
		{"ttl k", replies(200, "v", "Cache-Status", "larder; hit"), 0, "none\n", ""},
	} {
		address, _ := serve(t, tc.reply)
		code, stdout, stderr := larder(t, "", nil, append(strings.Fields(tc.args), "--server", address)...)
		if code != tc.code || stdout != tc.stdout || stderr != tc.stderr {
			t.Errorf("%s: got %d\n%q\n%q\nwant %d\n%q\n%q", tc.args, code, stdout, stderr, tc.code, tc.stdout, tc.stderr)
		}
	}
}

// A reader that is to fill a miss is told its token, and that nothing was found.
func TestFillTokenIsTold(t *testing.T) {
	address, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Larder-Fill", "77")
		problem(404, "not-found", "no")(w, r)
	})
	code, stdout, stderr := larder(t, "", nil, "get", "k", "--fill", "5s", "--server", address)
	if code != exitNotFound || stdout != "" || !strings.Contains(stderr, "--fill-token 77") {
		t.Errorf("got %d, %q, %q", code, stdout, stderr)
	}
}

// touch tries all keys, and fails as not found where some are absent, but ends at any other failure.
func TestTouchSome(t *testing.T) {
	address, got := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "absent"):
			problem(404, "not-found", "no")(w, r)
		case strings.Contains(r.URL.Path, "elected"):
			problem(503, "no-leader", "no")(w, r)
		default:
			hit(w, r)
		}
	})
	for args, want := range map[string]struct {
		code, sent int
		says       string
	}{
		"a absent b":   {exitNotFound, 3, "1 of 3 keys not found"},
		"a elected b":  {exitUnavailable, 2, "title"},
		"absent":       {exitNotFound, 1, "title"},
		"absent other": {exitNotFound, 2, "absent: not found\nother: touched\n"},
	} {
		code, _, stderr := larder(t, "", nil, append([]string{"touch", "--server", address}, strings.Fields(args)...)...)
		if sent := len(got.take()); code != want.code || sent != want.sent || !strings.Contains(stderr, want.says) {
			t.Errorf("touch %s: got %d, %d requests, %q", args, code, sent, stderr)
		}
	}
}
