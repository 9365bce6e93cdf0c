package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// scan lists all pages, one key a line, stops at its limit, and ends with what its last request came to.
func TestScan(t *testing.T) {
	address, got := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case q.Get("prefix") == "none":
			fmt.Fprint(w, `{"keys":[],"cursor":""}`)
		case q.Get("prefix") == "strange":
			fmt.Fprint(w, `{}`)
		case q.Get("cursor") == "c2" && q.Get("prefix") == "bad":
			problem(503, "no-leader", "no")(w, r)
		case q.Get("cursor") == "":
			fmt.Fprint(w, `{"keys":[{"key":"a b"},{"key":"x\n"}],"cursor":"c1"}`)
		case q.Get("cursor") == "c1":
			fmt.Fprint(w, `{"keys":[],"cursor":"c2"}`)
		default:
			fmt.Fprint(w, `{"keys":[{"key_b64":"/wA="}],"cursor":""}`)
		}
	})
	for _, tc := range []struct {
		args   []string
		code   int
		stdout string
		sent   []string
	}{
		{nil, 0, "a b\n\"x\\n\"\n\"\\xff\\x00\"\n", []string{"limit=1000", "cursor=c1&limit=1000", "cursor=c2&limit=1000"}},
		{[]string{"-o", "json"}, 0, `{"key":"a b"}` + "\n" + `{"key":"x\n"}` + "\n" + `{"key_b64":"/wA="}` + "\n", []string{"limit=1000", "cursor=c1&limit=1000", "cursor=c2&limit=1000"}},
		{[]string{"a \xff", "--limit", "3"}, 0, "a b\n\"x\\n\"\n\"\\xff\\x00\"\n", []string{"limit=3&prefix=a+%FF", "cursor=c1&limit=1&prefix=a+%FF", "cursor=c2&limit=1&prefix=a+%FF"}},
		{[]string{"--limit", "2"}, 0, "a b\n\"x\\n\"\n", []string{"limit=2"}},
		{[]string{"none"}, 0, "", []string{"limit=1000&prefix=none"}},
		{[]string{"bad"}, exitUnavailable, "a b\n\"x\\n\"\n", []string{"limit=1000&prefix=bad", "cursor=c1&limit=1000&prefix=bad", "cursor=c2&limit=1000&prefix=bad"}},
		{[]string{"strange"}, exitFailed, "", []string{"limit=1000&prefix=strange"}},
		{[]string{"a", "b"}, exitUsage, "", nil}, {[]string{"--limit", "-1"}, exitUsage, "", nil}, {[]string{strings.Repeat("k", 1025)}, exitUsage, "", nil},
	} {
		code, stdout, stderr := larder(t, "", nil, append([]string{"scan", "--server", address}, tc.args...)...)
		if code != tc.code || stdout != tc.stdout || (code != 0) != (stderr != "") {
			t.Errorf("%q: got %d\n%q\n%q\nwant %d\n%q", tc.args, code, stdout, stderr, tc.code, tc.stdout)
		}
		var sent []string
		for _, s := range got.take() {
			sent = append(sent, s.line)
		}
		for i := range tc.sent {
			tc.sent[i] = "GET /v1/keys?" + tc.sent[i]
		}
		if !slices.Equal(sent, tc.sent) {
			t.Errorf("%q: sent %q, want %q", tc.args, sent, tc.sent)
		}
	}
}
