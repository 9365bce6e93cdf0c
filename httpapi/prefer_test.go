package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Preferences are read as RFC 7240 writes them, and what is none is told apart.
func TestParsePreferences(t *testing.T) {
	type list = []preference
	tests := []struct {
		text string
		want list
		ok   bool
	}{
		{"", nil, true},
		{" , ,", nil, true},
		{"wait=30", list{{"wait", "30"}}, true},
		{"Wait = 30", list{{"Wait", "30"}}, true},
		{`wait="30"`, list{{"wait", "30"}}, true},
		{`wait="\3\0"`, list{{"wait", "30"}}, true},
		{`a="x,wait=5;\"", wait=6`, list{{"a", `x,wait=5;"`}, {"wait", "6"}}, true},
		{"respond-async, wait=10;x=y", list{{"respond-async", ""}, {"wait", "10"}}, true},
		{`wait=10 ; x ; y = "z" ;; q;,b`, list{{"wait", "10"}, {"b", ""}}, true},
		{`a=""`, list{{"a", ""}}, true},
		{"a=", nil, false},
		{"=a", nil, false},
		{"a b", nil, false},
		{`a="b`, nil, false},
		{`a="b\`, nil, false},
		{`a="b"c`, nil, false},
		{"a=b=c", nil, false},
		{"a;=b", nil, false},
		{`"a"`, nil, false},
		{"a/b", nil, false},
		{"ä", nil, false},
	}
	for _, tc := range tests {
		if got, ok := parsePreferences(tc.text); ok != tc.ok || !slices.Equal(got, tc.want) {
			t.Errorf("%q: got %q, %t, want %q, %t", tc.text, got, ok, tc.want, tc.ok)
		}
	}
}

// The wait is whole seconds, cut to the longest; the first of several counts.
func TestWaitOf(t *testing.T) {
	tests := []struct {
		lines []string
		want  time.Duration
		ok    bool
	}{
		{nil, 0, true},
		{[]string{"respond-async"}, 0, true},
		{[]string{"waiter=1"}, 0, true},
		{[]string{"wait=0"}, 0, true},
		{[]string{"wait=30"}, 30 * time.Second, true},
		{[]string{"WAIT=060"}, time.Minute, true},
		{[]string{"wait=61"}, time.Minute, true},
		{[]string{"wait=99999999999999999999999"}, time.Minute, true},
		{[]string{"respond-async", `wait="7"; a=b`}, 7 * time.Second, true},
		{[]string{"wait=5, wait=9"}, 5 * time.Second, true},
		{[]string{"wait"}, 0, false},
		{[]string{`wait=""`}, 0, false},
		{[]string{"wait=1.5"}, 0, false},
		{[]string{"wait=-1"}, 0, false},
		{[]string{`wait="+1"`}, 0, false},
		{[]string{"wait=5s"}, 0, false},
		{[]string{"wait=5", `a="`}, 0, false},
	}
	for _, tc := range tests {
		if got, err := waitOf(http.Header{"Prefer": tc.lines}); got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%q: got %s, %v, want %s, ok %t", tc.lines, got, err, tc.want, tc.ok)
		}
	}
}

// follow makes newer tell of the versions that the fake directory gets.
func (f *fixture) follow(changed <-chan struct{}) {
	f.admin.newer = func(ctx context.Context, version uint64) error {
		for f.dir.View().Version <= version {
			select {
			case <-changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}
}

// A client that has the present table and prefers to wait gets the next one when it comes, and 304 when
// the wait is over; one that has another table, or none that could be outdated, is answered at once.
func TestWaitForTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newHandler(t)
		changed := make(chan struct{})
		f.follow(changed)
		tests := []struct {
			tags, prefer string
			changes      []uint64 // versions that follow, one a second
			code         int
			took         time.Duration
			applied      string
		}{
			{`"42"`, "wait=30", []uint64{43}, 200, time.Second, "wait=30"},
			{`W/"42"`, "wait=30", []uint64{43}, 200, time.Second, "wait=30"},
			{`"1", "42"`, `wait="90"`, []uint64{43}, 200, time.Second, "wait=60"},
			{`"42", "43"`, "wait=30", []uint64{43, 44}, 200, 2 * time.Second, "wait=30"}, // it has the next one too
			{`"42"`, "wait=1, x", nil, 304, time.Second, "wait=1"},
			{`"42"`, "wait=90", nil, 304, time.Minute, "wait=60"},
			{`"42", "43"`, "wait=5", []uint64{43}, 304, 5 * time.Second, "wait=5"},
			{`"41"`, "wait=30", nil, 200, 0, "wait=30"},
			{`"43"`, "wait=30", nil, 200, 0, "wait=30"},
			{`*`, "wait=30", nil, 304, 0, ""},
			{`"42"`, "wait=0", nil, 304, 0, ""},
			{`"42"`, "respond-async, waiter=1", nil, 304, 0, ""},
			{``, "wait=30", nil, 200, 0, ""},
		}
		for _, method := range []string{"GET", "HEAD"} {
			for _, tc := range tests {
				f.dir.version.Store(0)
				go func() {
					for _, version := range tc.changes {
						time.Sleep(time.Second)
						f.dir.version.Store(version)
						changed <- struct{}{}
					}
				}()
				headers := []string{"Prefer", tc.prefer, "Larder-Timeout", "1ms"}
				if tc.tags != "" {
					headers = append(headers, "If-None-Match", tc.tags)
				}
				start := time.Now()
				w := f.request(t, method, "/v1/directory", "", headers...)
				if took := time.Since(start); w.Code != tc.code || took != tc.took || w.Header().Get("Preference-Applied") != tc.applied {
					t.Errorf("%s of %s, %s: got %d after %s, applied %q, want %d after %s, applied %q",
						method, tc.tags, tc.prefer, w.Code, took, w.Header().Get("Preference-Applied"), tc.code, tc.took, tc.applied)
				}
				if want := fmt.Sprintf(`"%d"`, f.dir.View().Version); w.Header().Get("ETag") != want {
					t.Errorf("%s of %s, %s: got ETag %s, want %s", method, tc.tags, tc.prefer, w.Header().Get("ETag"), want)
				}
			}
		}
	})
}

// A wait takes no place from requests on keys, and ends when its client goes or the server shuts down.
func TestWaitEnds(t *testing.T) {
	for _, end := range []string{"client", "server"} {
		t.Run(end, func(t *testing.T) {
			f := newFixture(t, func(c *Config) { c.MaxRequests = 1 })
			waiting, over := make(chan struct{}), make(chan struct{})
			f.admin.newer = func(ctx context.Context, version uint64) error {
				close(waiting)
				<-ctx.Done()
				close(over)
				return context.Cause(ctx)
			}
			conn := f.dial(t)
			fmt.Fprintf(conn, "GET /v1/directory HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"42\"\r\nPrefer: wait=60\r\n\r\n")
			<-waiting
			if w := f.request(t, "PUT", "/v1/kv/k", "v"); w.Code != 201 {
				t.Errorf("a PUT meanwhile: got %d", w.Code)
			}
			if end == "client" {
				conn.Close()
			} else if err := f.server.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			<-over
		})
	}
}
