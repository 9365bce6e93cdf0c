package httpapi

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// oddKeys are keys that routers, clients and proxies are known to turn into other keys, each as it
// goes over the wire, with what it must be in the cache.
var oddKeys = []struct{ wire, key string }{
	{"a//b", "a//b"},
	{"/", "/"},
	{"//", "//"},
	{"a/", "a/"},
	{"a//", "a//"},
	{"a", "a"},
	{".", "."},
	{"..", ".."},
	{"../x", "../x"},
	{"a/../b", "a/../b"},
	{"a/./b", "a/./b"},
	{"%2e%2e", ".."},
	{"..%2fx", "../x"},
	{"a%2Fb", "a/b"},
	{"a%2fb", "a/b"},
	{"a%252Fb", "a%2Fb"}, // unescaped once
	{"%00", "\x00"},
	{"a%00b", "a\x00b"},
	{"a+b", "a+b"},
	{"a%2Bb", "a+b"},
	{"a%20b", "a b"},
	{"%ff%fe", "\xff\xfe"},
	{"\xc3\xa4", "ä"}, // raw, not encoded
	{"%c3%a4", "ä"},
	{"a;b=c", "a;b=c"},
	{"a%3Bb", "a;b"},
	{"a%3Fb=c", "a?b=c"},
	{"a%23b", "a#b"},
	{"a#b", "a#b"},
	{"a%0d%0ab", "a\r\nb"},
	{"{id}", "{id}"},
	{"a\"b%2f", "a\"b/"}, // raw and encoded together
	{"a:b@c&d=e,f$g!h*i'j(k)~l", "a:b@c&d=e,f$g!h*i'j(k)~l"},
	{"v1/kv/a", "v1/kv/a"},
	{"livez", "livez"},
	{strings.Repeat("k", 1024), strings.Repeat("k", 1024)},
	{strings.Repeat("%ff", 1024), strings.Repeat("\xff", 1024)},
}

// Each odd key is stored, read, found by locate and deleted as itself: through a real server, as it was
// put on the wire, without a redirect on the way.
func TestOddKeys(t *testing.T) {
	f := newFixture(t)
	for _, tc := range oddKeys {
		if got := f.send(t, "PUT", "/v1/kv/"+tc.wire, []byte(tc.key), false); got.status != http.StatusCreated {
			t.Errorf("PUT %q: got %d %s, want 201", tc.wire, got.status, got.body)
			continue
		}
		if got := f.data.keys(); !slices.Equal(got, []string{tc.key}) {
			t.Errorf("PUT %q stored the keys %q, want %q", tc.wire, got, tc.key)
		}
		for _, wire := range []string{tc.wire, escapeAll(tc.key), url.PathEscape(tc.key)} {
			if got := f.send(t, "GET", "/v1/kv/"+wire, nil, false); got.status != 200 || string(got.body) != tc.key {
				t.Errorf("GET %q: got %d %q, want 200 %q", wire, got.status, got.body, tc.key)
			}
			if got := f.send(t, "GET", "/v1/locate/"+wire, nil, false); got.status != 200 || string(f.data.lastLocated()) != tc.key {
				t.Errorf("locate %q: got %d and key %q, want 200 and %q", wire, got.status, f.data.lastLocated(), tc.key)
			}
		}
		if got := f.send(t, "HEAD", "/v1/kv/"+tc.wire, nil, false); got.status != 200 {
			t.Errorf("HEAD %q: got %d, want 200", tc.wire, got.status)
		}
		if got := f.send(t, "DELETE", "/v1/kv/"+tc.wire, nil, false); got.status != 204 || len(f.data.keys()) != 0 {
			t.Errorf("DELETE %q: got %d, left %q", tc.wire, got.status, f.data.keys())
		}
	}
}

// curl reaches the same keys when told to leave the path alone.
func TestOddKeysByCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed; TestOddKeys says the same of raw sockets")
	}
	f := newFixture(t)
	for _, wire := range []string{"a//b", "..", "a/../b", "a%2Fb", "%00", "%ff", "a+b", "a/"} {
		key, err := url.PathUnescape(wire)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), curl, "--path-as-is", "-q", "-sS", "-f", "--noproxy", "*",
			"-X", "PUT", "--data-binary", "x", f.url+"/v1/kv/"+wire).CombinedOutput()
		if err != nil {
			t.Errorf("curl %q: %v %s", wire, err, out)
		}
		if got := f.data.keys(); !slices.Contains(got, key) {
			t.Errorf("curl %q stored %q, want %q among them", wire, got, key)
		}
	}
}

// Any key of 1 to 1024 bytes, encoded in any of the ways that clients have, is the same key in the
// cache.
func TestAnyKey(t *testing.T) {
	f := newFixture(t)
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 1024).Draw(t, "key")
		encode := rapid.SampledFrom([]func(string) string{url.PathEscape, escapeAll, func(s string) string {
			return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
		}}).Draw(t, "encoding")
		r, err := http.NewRequest("PUT", f.url+"/v1/kv/"+encode(string(key)), strings.NewReader("v"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 201 && resp.StatusCode != 204 {
			t.Fatalf("key %q: got %d", key, resp.StatusCode)
		}
		if got := f.data.last().Key; !bytes.Equal(got, key) {
			t.Fatalf("got key %q, want %q", got, key)
		}
	})
}

// However a request line is written, the key is what url parsing says was decoded once, or the
// request is refused; nothing panics.
func FuzzKey(f *testing.F) {
	for _, tc := range oddKeys {
		f.Add(tc.wire)
	}
	f.Fuzz(func(t *testing.T, wire string) {
		u, err := url.ParseRequestURI("/v1/kv/" + wire)
		if err != nil {
			return
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = u
		key, err := keyAfter(r, kvPrefix)
		if err != nil {
			return
		}
		if want := strings.TrimPrefix(u.Path, kvPrefix); string(key) != want {
			t.Errorf("%q: got key %q, want %q", wire, key, want)
		}
	})
}
