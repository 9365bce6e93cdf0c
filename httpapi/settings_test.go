package httpapi

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestShowSettings ensures that all settings are shown, with the version of their last change as ETag.
func TestShowSettings(t *testing.T) {
	f := newFixture(t)
	w := f.request(t, "GET", "/v1/settings", "")
	const want = `{"cache-memory":"60%","shard-bytes":1048576,"default-ttl":"1h","touch-interval":"100ms","repair-after":"1m","balance":"on","snapshot-bandwidth":"64MiB","memory-only":"off","initial-shards":8,"replicas":3}`
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want || w.Header().Get("ETag") != `"17"` {
		t.Errorf("got %d, ETag %s\n%s, want 200, \"17\"\n%s", w.Code, w.Header().Get("ETag"), got, want)
	}
	if w := f.request(t, "GET", "/v1/settings", "", "If-None-Match", `"17"`); w.Code != 304 {
		t.Errorf("with its ETag: got %d", w.Code)
	}
}

// TestPatchSettings ensures that a change reaches the directory as it was asked for, with the version that
// it was decided for, and is answered with all settings.
func TestPatchSettings(t *testing.T) {
	for _, row := range []struct {
		body    string
		headers []string
		want    string
	}{
		{`{"cache-memory":"40%"}`, nil, `settings of 0: cache-memory="40%"`},
		{`{"shard-bytes":1048576,"default-ttl":null}`, []string{"If-Match", `"17"`}, `settings of 17: default-ttl=null shard-bytes="1048576"`},
		{` {"shard-bytes" : 1e6 , "none" : "" } `, []string{"If-Match", "*", "Content-Type", "application/merge-patch+json"}, `settings of 0: none="" shard-bytes="1e6"`},
		{`{}`, []string{"Content-Type", "application/merge-patch+json; charset=utf-8"}, `settings of 0: `},
		{`{"é":"ü"}`, []string{"Content-Type", "application/json"}, `settings of 0: é="ü"`},
	} {
		f := newFixture(t)
		w := f.request(t, "PATCH", "/v1/settings", row.body, row.headers...)
		if w.Code != 200 || w.Header().Get("ETag") != `"18"` || !strings.HasPrefix(w.Body.String(), `{"cache-memory":"60%"`) {
			t.Errorf("%s: got %d, ETag %s, %s", row.body, w.Code, w.Header().Get("ETag"), w.Body)
		}
		if got := f.admin.called(); !slices.Equal(got, []string{row.want}) {
			t.Errorf("%s: got calls %q, want %q", row.body, got, row.want)
		}
	}
}

// TestBadSettings ensures that a body which is no merge patch of settings is refused before it reaches the
// directory, and that one of another type is told which it should be.
func TestBadSettings(t *testing.T) {
	f := newFixture(t)
	for body, want := range map[string]struct {
		status int
		name   string
	}{
		`{`:                          {400, "bad-body"},
		`[]`:                         {400, "bad-body"},
		`null`:                       {400, "bad-body"},
		`"cache-memory"`:             {400, "bad-body"},
		`{"a":1}{}`:                  {400, "bad-body"},
		`{"a":1,"a":1}`:              {400, "bad-body"},
		`{"a":null,"a":null}`:        {400, "bad-body"},
		"{\"a\":\"\xff\"}":           {400, "bad-body"},
		`{"a":true}`:                 {422, "bad-setting"},
		`{"a":{"b":1}}`:              {422, "bad-setting"},
		`{"a":[1]}`:                  {422, "bad-setting"},
		strings.Repeat(" ", 5<<10):   {413, "body-too-large"},
		`{"a":1,"b":"c","a":"again"`: {400, "bad-body"},
	} {
		w := f.request(t, "PATCH", "/v1/settings", body)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), want.status, want.name, AppliedNo)
	}
	w := f.request(t, "PATCH", "/v1/settings", "{}", "Content-Type", "text/plain")
	if got := w.Header().Get("Accept-Patch"); w.Code != 415 || got != "application/merge-patch+json" {
		t.Errorf("got %d, Accept-Patch %q", w.Code, got)
	}
	if got := f.admin.called(); len(got) > 0 {
		t.Errorf("got calls %q", got)
	}
}

// TestDefaultTTL ensures that a value which is stored without a word about its time to live gets the
// cluster's, and that a request's own word goes before it, also that there is to be none.
func TestDefaultTTL(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		byDefault time.Duration
		query     string
		headers   []string
		want      time.Duration
	}{
		{0, "", nil, 0},
		{0, "?ttl=none", nil, 0},
		{time.Hour, "", nil, time.Hour},
		{time.Hour, "", []string{"Cache-Control", "no-store"}, time.Hour},
		{time.Hour, "?ttl=none", nil, 0},
		{time.Hour, "?ttl=1s", nil, time.Second},
		{time.Hour, "?ttl=2h", nil, 2 * time.Hour},
		{time.Hour, "", []string{"Cache-Control", "max-age=5"}, 5 * time.Second},
	} {
		f.dir.defaultTTL = row.byDefault
		w := f.request(t, "PUT", "/v1/kv/k"+row.query, "v", row.headers...)
		if got := f.data.last().TTL; w.Code != 201 && w.Code != 204 || got != row.want {
			t.Errorf("default %v, %q %q: got %d, ttl %v, want %v", row.byDefault, row.query, row.headers, w.Code, got, row.want)
		}
	}
	// What nobody asked for is no part of what an idempotency key stands for.
	for _, row := range []struct {
		method, query string
		headers       []string
		want          bool
	}{
		{"PUT", "", nil, true},
		{"POST", "?op=incr", nil, true},
		{"POST", "?op=append", nil, true},
		{"PUT", "?ttl=1h", nil, false},
		{"PUT", "?ttl=none", nil, false},
		{"PUT", "", []string{"Cache-Control", "max-age=3600"}, false},
		{"POST", "?op=incr&ttl=1h", nil, false},
	} {
		f.request(t, row.method, "/v1/kv/k"+row.query, "", append(row.headers, "Idempotency-Key", `"i"`)...)
		if got := f.data.last(); got.DefaultTTL != row.want || got.IdempotencyKey != "i" {
			t.Errorf("%s %s %q: got %+v, want DefaultTTL %t", row.method, row.query, row.headers, got, row.want)
		}
	}
	f.request(t, "DELETE", "/v1/kv/k", "")
	if got := f.data.last().TTL; got != 0 {
		t.Errorf("a delete has ttl %v", got)
	}
}
