package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// listAll lists keys to the end, by the cursors that it is given.
func (f *fixture) listAll(t *testing.T, query string) (keys []string, pages int) {
	t.Helper()
	for cursor := ""; ; {
		w := f.request(t, "GET", "/v1/keys?"+query+"&cursor="+cursor, "")
		var page struct {
			Keys []struct {
				Key    *string
				KeyB64 []byte `json:"key_b64"`
			}
			Cursor string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 {
			t.Fatalf("%d %v: %s", w.Code, err, w.Body)
		}
		pages++
		for _, k := range page.Keys {
			if (k.Key == nil) == (k.KeyB64 == nil) {
				t.Fatalf("%s", w.Body)
			}
			if k.Key != nil {
				keys = append(keys, *k.Key)
			} else {
				keys = append(keys, string(k.KeyB64))
			}
		}
		if cursor = page.Cursor; cursor == "" {
			return keys, pages
		}
	}
}

// Keys of any bytes are listed page by page and removed, by a prefix of any bytes.
func TestKeys(t *testing.T) {
	f := newFixture(t)
	all := []string{"a", "user:1", "user:2", "user:3", "{t}1", "{t}2", "\xff\x00", "\xff", "ü+ %&=/", "\x00", "<a>\u2028\"\\"}
	for _, key := range all {
		f.data.entries[key] = fakeEntry{version: 1}
	}
	for _, prefix := range []string{"", "user:", "{t}", "\xff", "ü+ %", "none", "\x00", "<"} {
		want := slices.DeleteFunc(slices.Clone(all), func(key string) bool { return !strings.HasPrefix(key, prefix) })
		for _, limit := range []int{1, 2, 100} {
			got, pages := f.listAll(t, fmt.Sprintf("prefix=%s&limit=%d", url.QueryEscape(prefix), limit))
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || pages > len(want)/limit+1 {
				t.Errorf("%q by %d: got %q in %d pages, want %q", prefix, limit, got, pages, want)
			}
		}
	}
	if last := f.data.scans[len(f.data.scans)-1]; last.Limit != 100 || last.Consistency != shard.Linearizable || last.NoLease {
		t.Errorf("asked for %+v", last)
	}
	w := f.request(t, "GET", "/v1/keys", "")
	for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "Larder-Shard": "3", "Larder-Epoch": "7", "Larder-Index": "100.2",
		"Larder-Read": "probe", "Larder-Served-By": "a", "X-Content-Type-Options": "nosniff"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if h := f.request(t, "HEAD", "/v1/keys", ""); h.Code != 200 || h.Body.Len() > 0 || h.Header().Get("Content-Length") != w.Header().Get("Content-Length") {
		t.Errorf("HEAD: %d, %v", h.Code, h.Header())
	}
	if s := f.data.scans[len(f.data.scans)-1]; s.Limit != defaultPage {
		t.Errorf("%d keys by default", s.Limit)
	}
	if w := f.request(t, "DELETE", "/v1/keys?prefix=user%3A", ""); w.Code != 200 || w.Body.String() != `{"removed":3,"cursor":""}`+"\n" {
		t.Errorf("DELETE: %d %s", w.Code, w.Body)
	}
	if got := f.data.keys(); len(got) != len(all)-3 {
		t.Errorf("%q are left", got)
	}
}

// The parameters of a read reach the cache, and an old answer tells its age.
func TestKeysConsistency(t *testing.T) {
	f := newFixture(t)
	f.data.scan = func(context.Context, shard.Scan) (shard.Page, error) {
		return shard.Page{Response: shard.Response{ServedBy: "b", Read: shard.ReadLocal, Age: 1500 * time.Millisecond, ForwardedTo: "b"}, Next: fsm.Cursor{Slot: 5}}, nil
	}
	for query, want := range map[string]shard.Scan{
		"consistency=any":                      {Consistency: shard.Any},
		"consistency=bounded&max-staleness=3s": {Consistency: shard.Bounded, MaxStaleness: 3 * time.Second},
		"lease=never":                          {NoLease: true},
	} {
		w := f.request(t, "GET", "/v1/keys?limit=7&"+query, "")
		got := f.data.scans[len(f.data.scans)-1]
		if got.Consistency != want.Consistency || got.MaxStaleness != want.MaxStaleness || got.NoLease != want.NoLease {
			t.Errorf("%s: asked for %+v", query, got)
		}
		age := "2"
		if want.NoLease {
			age = ""
		}
		if w.Header().Get("Age") != age || w.Header().Get("Larder-Forwarded") != "b" || !strings.HasPrefix(w.Body.String(), `{"keys":[],"cursor":"`) {
			t.Errorf("%s: %v %s", query, w.Header(), w.Body)
		}
	}
}

// What is wrong with a request is refused, and nothing reaches the cache.
func TestKeysRefused(t *testing.T) {
	f := newFixture(t)
	cursor := formatCursor(fsm.Cursor{Slot: uint32(fsm.Slot([]byte("user:1"))), After: []byte("user:1")})
	for _, row := range []struct{ line, header, kind string }{
		{"GET /v1/keys?limit=0", "", "bad-parameter"}, {"GET /v1/keys?limit=10001", "", "bad-parameter"}, {"GET /v1/keys?limit=x", "", "bad-parameter"},
		{"GET /v1/keys?limit=", "", "bad-parameter"}, {"GET /v1/keys?limit=-1", "", "bad-parameter"}, {"GET /v1/keys?limit=1&limit=2", "", "bad-parameter"},
		{"GET /v1/keys?prefix=%zz", "", "bad-parameter"}, {"GET /v1/keys?prefix=" + strings.Repeat("k", 1025), "", "bad-parameter"},
		{"GET /v1/keys?cursor=x", "", "bad-parameter"}, {"GET /v1/keys?cursor=0", "", "bad-parameter"}, {"GET /v1/keys?cursor=" + cursor + "A", "", "bad-parameter"},
		{"GET /v1/keys?cursor=" + cursor + "%3D", "", "bad-parameter"}, {"GET /v1/keys?prefix=a&cursor=" + cursor, "", "bad-parameter"},
		{"GET /v1/keys?touch=false", "", "bad-parameter"}, {"GET /v1/keys?route=local", "", "bad-parameter"}, {"GET /v1/keys?consistency=some", "", "bad-parameter"},
		{"GET /v1/keys?max-staleness=1s", "", "bad-parameter"}, {"GET /v1/keys?lease=always", "", "bad-parameter"}, {"GET /v1/keys", "Larder-Timeout: never", "bad-header"},
		{"DELETE /v1/keys", "", "bad-parameter"}, {"DELETE /v1/keys?prefix=", "", "bad-parameter"}, {"DELETE /v1/keys?prefix=a&limit=5", "", "bad-parameter"},
		{"DELETE /v1/keys?prefix=a&cursor=x", "", "bad-parameter"}, {"DELETE /v1/keys?prefix=a&cursor=" + cursor, "", "bad-parameter"},
		{"DELETE /v1/keys?prefix=a", "If-Match: *", "bad-header"}, {"DELETE /v1/keys?prefix=a", `Idempotency-Key: "k"`, "bad-header"},
	} {
		method, target, _ := strings.Cut(row.line, " ")
		var header []string
		if name, value, ok := strings.Cut(row.header, ": "); ok {
			header = []string{name, value}
		}
		w := f.request(t, method, target, "", header...)
		if w.Code != 400 {
			t.Errorf("%s %s: %d", row.line, row.header, w.Code)
			continue
		}
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 400, row.kind, AppliedNo)
	}
	if len(f.data.scans) > 0 {
		t.Errorf("asked for %+v", f.data.scans)
	}
}

// What nobody serves is refused as a GET or a DELETE of a key is; an outcome that is unknown stays so, with what is certain.
func TestKeysErrors(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		err     error
		method  string
		status  int
		kind    string
		applied Applied
	}{
		{shard.ErrNoLeader, "GET", 503, "no-leader", AppliedNo}, {shard.ErrNoLeader, "DELETE", 503, "no-leader", AppliedNo},
		{&shard.NotOwnerError{Epoch: 3}, "GET", 503, "moved", AppliedNo}, {shard.ErrOverloaded, "GET", 429, "overloaded", AppliedNo},
		{shard.ErrDeadline, "DELETE", 503, "deadline", AppliedNo}, {shard.ErrUnreachable, "GET", 503, "unavailable", AppliedNo},
		{fmt.Errorf("%w: gone", shard.ErrOutcomeUnknown), "DELETE", 504, "outcome-unknown", AppliedUnknown},
	} {
		f.data.scan = func(context.Context, shard.Scan) (shard.Page, error) { return shard.Page{Removed: 17}, row.err }
		w := f.request(t, row.method, "/v1/keys?prefix=a", "")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), row.status, row.kind, row.applied)
		if certain := strings.Contains(w.Body.String(), "17 keys are removed for certain"); certain != (row.status == 504) {
			t.Errorf("%s: %s", row.kind, w.Body)
		}
	}
	exhausted := shard.Page{Response: shard.Response{Status: fsm.StatusExhausted, ServedBy: "a"}, Next: fsm.Cursor{Slot: 5}}
	f.data.scan = func(context.Context, shard.Scan) (shard.Page, error) { return exhausted, nil }
	w := f.request(t, "DELETE", "/v1/keys?prefix=a", "")
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 503, "versions-exhausted", AppliedNo)
	exhausted.Removed = 3
	if w := f.request(t, "DELETE", "/v1/keys?prefix=a", ""); w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"removed":3,"cursor":"A`) {
		t.Errorf("after some were removed: %d %s", w.Code, w.Body)
	}
}

// Pages that would take more memory than there is for requests are refused before the cache is asked.
func TestKeysAdmission(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxBodyBytes = pageBytes - 1 })
	for _, method := range []string{"GET", "DELETE"} {
		w := f.request(t, method, "/v1/keys?prefix=a", "")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 429, "overloaded", AppliedNo)
	}
	if len(f.data.scans) > 0 {
		t.Errorf("asked for %+v", f.data.scans)
	}
}

// A cursor is read as it was written, and anything else is none.
func TestCursor(t *testing.T) {
	for _, c := range []fsm.Cursor{{}, {Slot: 16383}, {Slot: uint32(fsm.Slot([]byte("k"))), After: []byte("k")},
		{Slot: uint32(fsm.Slot(bytes.Repeat([]byte{0xff}, 1024))), After: bytes.Repeat([]byte{0xff}, 1024)}} {
		text := formatCursor(c)
		got, ok := parseCursor(text)
		if !ok || got.Slot != c.Slot || !bytes.Equal(got.After, c.After) || url.QueryEscape(text) != text {
			t.Errorf("%+v: %q is %+v, %t", c, text, got, ok)
		}
		for i := range text {
			for _, other := range []string{text[:i], text[:i] + "~" + text[i+1:], text[:i] + string(text[i]^1) + text[i+1:]} {
				if got, ok := parseCursor(other); ok {
					t.Fatalf("%q is read as %+v", other, got)
				}
			}
		}
	}
	if formatCursor(fsm.Cursor{Slot: fsm.Slots}) != "" {
		t.Error("there is a cursor behind the last slot")
	}
	if wrong := formatCursor(fsm.Cursor{Slot: 5, After: []byte("k")}); wrong != "" {
		if _, ok := parseCursor(wrong); ok {
			t.Error("a key of another slot is a cursor")
		}
	}
}
