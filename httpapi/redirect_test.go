package httpapi

import (
	"net/url"
	"strings"
	"testing"

	"github.com/larder-cache/larder/shard"
)

// Whatever the key and the query look like, a redirect is 307 to the very same key and query; a path that
// is a valid URI stays as it is to the byte.
func TestRedirectKeepsPathAndQuery(t *testing.T) {
	f := newFixture(t)
	f.data.local = refuseWith(&shard.NotLeaderError{Leader: "b"})
	for _, tc := range oddKeys {
		if strings.Contains(tc.wire, "#") {
			continue // a fragment never goes over the wire
		}
		for _, query := range []string{"?route=redirect", "?ttl=%36%30s&route=redirect", "?route=%72edirect"} {
			got := f.send(t, "PUT", "/v1/kv/"+tc.wire+query, nil, false)
			location, ok := strings.CutPrefix(got.header.Get("Location"), "http://127.0.0.1:2/v1/kv/")
			path, ok2 := strings.CutSuffix(location, query)
			if got.status != 307 || !ok || !ok2 {
				t.Errorf("%q: got %d to %q, want 307 to the same path and query on b", tc.wire+query, got.status, got.header.Get("Location"))
				continue
			}
			if key, err := url.PathUnescape(path); err != nil || key != tc.key {
				t.Errorf("%q: got the key %q in %q, want %q", tc.wire, key, path, tc.key)
			}
			if !strings.ContainsAny(tc.wire, "\"{}ä") && path != tc.wire {
				t.Errorf("%q: got the path %q, want the same", tc.wire, path)
			}
		}
	}
}
