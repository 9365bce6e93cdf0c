package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// A value comes back as it was stored, with its type, ETag, age limit and place, by GET and, without
// the bytes, by HEAD; and is gone after DELETE.
func TestValueRoundTrip(t *testing.T) {
	f := newFixture(t)
	w := f.request(t, "PUT", "/v1/kv/k?ttl=41500ms", "value", "Content-Type", "text/x-odd; a=b")
	if w.Code != http.StatusCreated || w.Header().Get("ETag") != `"1"` {
		t.Fatalf("PUT: got %d, ETag %s, want 201 and \"1\"", w.Code, w.Header().Get("ETag"))
	}
	checkPlace(t, w.Header(), "3", "7", "100.2", "a")
	if got := f.data.last().TTL; got != 41500*time.Millisecond {
		t.Errorf("PUT: got ttl %s, want 41.5s", got)
	}

	for _, method := range []string{"GET", "HEAD"} {
		w = f.request(t, method, "/v1/kv/k", "")
		want := map[string]string{
			"Content-Type":            "text/x-odd; a=b",
			"Content-Length":          "5",
			"Etag":                    `"1"`,
			"Cache-Status":            "larder; hit; ttl=41",
			"Cache-Control":           "no-cache",
			"Larder-Read":             "probe",
			"X-Content-Type-Options":  "nosniff",
			"Content-Security-Policy": "sandbox; default-src 'none'",
		}
		for name, value := range want {
			if got := w.Header().Get(name); got != value {
				t.Errorf("%s: got %s %q, want %q", method, name, got, value)
			}
		}
		body := "value"
		if method == "HEAD" {
			body = ""
		}
		if w.Code != 200 || w.Body.String() != body {
			t.Errorf("%s: got %d %q, want 200 %q", method, w.Code, w.Body, body)
		}
		checkPlace(t, w.Header(), "3", "7", "101.2", "a")
	}

	if w = f.request(t, "PUT", "/v1/kv/k", "other"); w.Code != http.StatusNoContent || w.Header().Get("ETag") != `"2"` {
		t.Errorf("second PUT: got %d, ETag %s, want 204 and \"2\"", w.Code, w.Header().Get("ETag"))
	}
	w = f.request(t, "GET", "/v1/kv/k", "")
	if got := w.Header().Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("value without a type: got %q", got)
	}
	if got := w.Header().Get("Cache-Status"); got != "larder; hit" {
		t.Errorf("value without a ttl: got Cache-Status %q", got)
	}

	for _, existed := range []string{"?1", "?0"} {
		w = f.request(t, "DELETE", "/v1/kv/k", "")
		if w.Code != http.StatusNoContent || w.Header().Get("Larder-Existed") != existed {
			t.Errorf("DELETE: got %d, Larder-Existed %s, want 204 and %s", w.Code, w.Header().Get("Larder-Existed"), existed)
		}
		checkPlace(t, w.Header(), "3", "7", w.Header().Get("Larder-Index"), "a")
	}

	w = f.request(t, "GET", "/v1/kv/k", "")
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 404, "not-found", AppliedNo)
	checkPlace(t, w.Header(), "3", "7", "104.2", "a")
	if got := w.Header().Get("Cache-Status"); got != "larder; detail=absent" {
		t.Errorf("miss: got Cache-Status %q", got)
	}
	if got := w.Header().Get("Larder-Read"); got != "probe" {
		t.Errorf("miss: got Larder-Read %q", got)
	}
}

// An empty value is a value, not a miss.
func TestEmptyValue(t *testing.T) {
	f := newFixture(t)
	if w := f.request(t, "PUT", "/v1/kv/k", ""); w.Code != http.StatusCreated {
		t.Fatalf("PUT: got %d", w.Code)
	}
	if w := f.request(t, "GET", "/v1/kv/k", ""); w.Code != 200 || w.Header().Get("Content-Length") != "0" {
		t.Errorf("GET: got %d, Content-Length %q", w.Code, w.Header().Get("Content-Length"))
	}
}

// A read answers 304 exactly when If-None-Match has the current tag, weak or strong, or is *.
func TestIfNoneMatchOnReads(t *testing.T) {
	f := newFixture(t)
	f.request(t, "PUT", "/v1/kv/k", "v")
	tests := []struct {
		header []string
		want   int
	}{
		{[]string{`"1"`}, 304},
		{[]string{`W/"1"`}, 304},
		{[]string{`"0", W/"1"`}, 304},
		{[]string{`"0"`, `"1"`}, 304}, // two lines
		{[]string{`*`}, 304},
		{[]string{` * `}, 304},
		{[]string{`"a,b",,"1",`}, 304}, // a comma in a tag, empty elements
		{[]string{`"2"`}, 200},
		{[]string{`"a,1"`}, 200},
		{[]string{`"01"`}, 200},
		{[]string{``}, 400},
		{[]string{`1`}, 400},
		{[]string{`"1`}, 400},
		{[]string{`"1" "2"`}, 400},
		{[]string{`w/"1"`}, 400}, // the W is case-sensitive
		{[]string{`*, "1"`}, 400},
		{[]string{`"a b"`}, 400},
	}
	for _, tc := range tests {
		var headers []string
		for _, line := range tc.header {
			headers = append(headers, "If-None-Match", line)
		}
		for _, method := range []string{"GET", "HEAD"} {
			w := f.request(t, method, "/v1/kv/k", "", headers...)
			if w.Code != tc.want {
				t.Errorf("%s with %q: got %d, want %d", method, tc.header, w.Code, tc.want)
			}
			if w.Code == 304 {
				checkPlace(t, w.Header(), "3", "7", "101.2", "a")
				if w.Body.Len() > 0 || w.Header().Get("ETag") != `"1"` || w.Header().Get("Content-Length") != "" {
					t.Errorf("%s with %q: 304 has body %q, header %v", method, tc.header, w.Body, w.Header())
				}
			}
		}
	}
	if w := f.request(t, "GET", "/v1/kv/absent", "", "If-None-Match", "*"); w.Code != 404 {
		t.Errorf("absent key: got %d, want 404", w.Code)
	}
}

// The conditional headers of a write become the state machine's condition, and its verdict the answer.
func TestWriteConditions(t *testing.T) {
	tests := []struct {
		method string
		header [2]string
		want   fsm.Cond
		codes  [2]int // key present with version 1, key absent
	}{
		{"PUT", [2]string{"If-None-Match", "*"}, fsm.Cond{Kind: fsm.CondAbsent}, [2]int{412, 201}},
		{"PUT", [2]string{"If-Match", "*"}, fsm.Cond{Kind: fsm.CondPresent}, [2]int{204, 412}},
		{"PUT", [2]string{"If-Match", `"1"`}, fsm.Cond{Kind: fsm.CondVersion, Version: 1}, [2]int{204, 412}},
		{"PUT", [2]string{"If-Match", `"2"`}, fsm.Cond{Kind: fsm.CondVersion, Version: 2}, [2]int{412, 412}},
		{"PUT", [2]string{"If-Match", `"18446744073709551615"`}, fsm.Cond{Kind: fsm.CondVersion, Version: 1<<64 - 1}, [2]int{412, 412}},
		{"PUT", [2]string{"Larder-Fill", "1"}, fsm.Cond{Kind: fsm.CondFill, Version: 1}, [2]int{204, 201}},
		{"PUT", [2]string{"Larder-Fill", "18446744073709551615"}, fsm.Cond{Kind: fsm.CondFill, Version: 1<<64 - 1}, [2]int{204, 201}},
		{"DELETE", [2]string{"If-Match", `"1"`}, fsm.Cond{Kind: fsm.CondVersion, Version: 1}, [2]int{204, 412}},
		{"DELETE", [2]string{"If-Match", `*`}, fsm.Cond{Kind: fsm.CondPresent}, [2]int{204, 412}},
	}
	for _, tc := range tests {
		f := newFixture(t)
		f.request(t, "PUT", "/v1/kv/present", "v")
		for i, key := range []string{"present", "absent"} {
			w := f.request(t, tc.method, "/v1/kv/"+key, "", tc.header[0], tc.header[1])
			if w.Code != tc.codes[i] {
				t.Errorf("%s %s: %s on %s key: got %d, want %d", tc.method, tc.header[0], tc.header[1], key, w.Code, tc.codes[i])
			}
			if got := f.data.last().Cond; got != tc.want {
				t.Errorf("%s %s: %s: got condition %+v, want %+v", tc.method, tc.header[0], tc.header[1], got, tc.want)
			}
			if want := map[string]string{"present": `"1"`, "absent": ""}[key]; w.Code == 412 && w.Header().Get("ETag") != want {
				t.Errorf("412 on %s key: got ETag %q, want %q", key, w.Header().Get("ETag"), want)
			}
		}
	}
}

// A time to live is understood in both of its forms.
func TestTTL(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		query, cacheControl string
		want                time.Duration
	}{
		{"", "", 0},
		{"?ttl=60s", "", time.Minute},
		{"?ttl=1ms", "", time.Millisecond},
		{"?ttl=1h30m", "", 90 * time.Minute},
		{"?ttl=87600h", "", 87600 * time.Hour},
		{"", "max-age=60", time.Minute},
		{"", "no-transform, Max-Age=60", time.Minute},
		{"", "no-cache", 0},
		{"", "x-max-age=5", 0},
		{"", "max-age=315360000", 87600 * time.Hour},
		{"?ttl=60s", "max-age=60", time.Minute},
		{"?ttl=none", "", 0},
		{"?ttl=1m", "max-age=60, max-age=60", time.Minute},
	}
	for _, tc := range tests {
		w := f.request(t, "PUT", "/v1/kv/k"+tc.query, "v", "Cache-Control", tc.cacheControl)
		if w.Code != 201 && w.Code != 204 {
			t.Errorf("%q %q: got %d %s", tc.query, tc.cacheControl, w.Code, w.Body)
		} else if got := f.data.last().TTL; got != tc.want {
			t.Errorf("%q %q: got %s, want %s", tc.query, tc.cacheControl, got, tc.want)
		}
	}
}

// touch=false reads without leaving a trace, and lease=never is accepted: there are no leases.
func TestReadOptions(t *testing.T) {
	f := newFixture(t)
	f.request(t, "PUT", "/v1/kv/k", "v")
	for query, noTouch := range map[string]bool{"consistency=linearizable": false, "lease=never": false, "touch=true": false,
		"touch=false": true, "consistency=bounded&touch=false": true, "consistency=any&touch=false": true,
		"consistency=linearizable&lease=never&touch=false&route=forward": true} {
		if w := f.request(t, "GET", "/v1/kv/k?"+query, ""); w.Code != 200 {
			t.Errorf("%s: got %d %s", query, w.Code, w.Body)
		}
		if got := f.data.last().NoTouch; got != noTouch {
			t.Errorf("%s: no touch %v", query, got)
		}
	}
}

// What a read may show is handed on as it was asked for; answers that may be old tell their age, others
// don't.
func TestReadConsistency(t *testing.T) {
	for query, want := range map[string]struct {
		consistency shard.Consistency
		staleness   time.Duration
		age         string
	}{
		"":                          {shard.Linearizable, 0, ""},
		"?consistency=linearizable": {shard.Linearizable, 0, ""},
		"?consistency=any":          {shard.Any, 0, "2"},
		"?consistency=bounded":      {shard.Bounded, 2 * time.Second, "2"},
		"?consistency=bounded&max-staleness=1500ms": {shard.Bounded, 1500 * time.Millisecond, "2"},
	} {
		f := newFixture(t)
		f.data.answer = func(_ context.Context, req shard.Request) (shard.Response, error) {
			if req.Consistency != want.consistency || req.MaxStaleness != want.staleness {
				t.Errorf("%q: asked for %+v", query, req)
			}
			return shard.Response{Status: fsm.StatusOK, Found: true, Version: 1, Read: shard.ReadLocal, Age: 1001 * time.Millisecond}, nil
		}
		w := f.request(t, "GET", "/v1/kv/k"+query, "")
		if w.Code != 200 || w.Header().Get("Age") != want.age || w.Header().Get("Larder-Read") != "local" || w.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%q: %d %v, want age %q", query, w.Code, w.Header(), want.age)
		}
	}
}

// A miss tells why there is no entry; a replica that does not say is taken to know of none.
func TestMissReason(t *testing.T) {
	for reason, want := range map[shard.MissReason]string{"": "absent", shard.MissAbsent: "absent", shard.MissEvicted: "evicted",
		shard.MissExpired: "expired", shard.MissDeleted: "deleted"} {
		f := newFixture(t)
		f.data.answer = func(context.Context, shard.Request) (shard.Response, error) {
			return shard.Response{Status: fsm.StatusOK, Read: shard.ReadProbe, MissReason: reason}, nil
		}
		w := f.request(t, "GET", "/v1/kv/k", "")
		if got := w.Header().Get("Cache-Status"); w.Code != 404 || got != "larder; detail="+want {
			t.Errorf("%q: %d, Cache-Status %q", reason, w.Code, got)
		}
	}
}

// Larder-Timeout is the operation's deadline, 5 s without it.
func TestTimeout(t *testing.T) {
	for header, want := range map[string]time.Duration{"": 5 * time.Second, "60s": time.Minute, "250ms": 250 * time.Millisecond} {
		f := newFixture(t)
		f.data.answer = func(ctx context.Context, req shard.Request) (shard.Response, error) {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left > want || left < want-200*time.Millisecond {
				t.Errorf("Larder-Timeout %q: %s left (deadline %t), want %s", header, left, ok, want)
			}
			return shard.Response{Status: fsm.StatusOK, Version: 1, Read: shard.ReadProbe}, nil
		}
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			var headers []string
			if header != "" {
				headers = []string{"Larder-Timeout", header}
			}
			f.request(t, method, "/v1/kv/k", "", headers...)
		}
		if f.data.reached() != 3 {
			t.Errorf("%d of 3 requests arrived", f.data.reached())
		}
	}
}

// A forwarded answer names the node that gave it.
func TestForwarded(t *testing.T) {
	f := newFixture(t)
	f.data.answer = func(context.Context, shard.Request) (shard.Response, error) {
		return shard.Response{Shard: 3, Epoch: 7, Index: 9, ServedBy: "b", ForwardedTo: "b", Read: shard.ReadProbe, Status: fsm.StatusOK, Version: 5}, nil
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		w := f.request(t, method, "/v1/kv/k", "")
		checkPlace(t, w.Header(), "3", "7", "9.0", "b")
		if got := w.Header().Get("Larder-Forwarded"); got != "b" {
			t.Errorf("%s: got Larder-Forwarded %q, want b", method, got)
		}
	}
	f.data.answer = nil
	if w := f.request(t, "PUT", "/v1/kv/k", ""); w.Header().Values("Larder-Forwarded") != nil {
		t.Errorf("served here: got Larder-Forwarded %q, want none", w.Header().Values("Larder-Forwarded"))
	}
}

// A body of exactly the limit is stored, one byte more is not, whether its length is announced or not.
func TestValueLimit(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxValueBytes = 100_000 })
	for _, size := range []int{100_000, 100_001, 5_000_000} {
		for _, chunked := range []bool{false, true} {
			before := f.data.reached()
			resp := f.send(t, "PUT", fmt.Sprintf("/v1/kv/%d-%t", size, chunked), make([]byte, size), chunked)
			if size == 100_000 {
				if resp.status != 201 {
					t.Errorf("%d bytes, chunked %t: got %d %s, want 201", size, chunked, resp.status, resp.body)
				}
				continue
			}
			checkProblem(t, resp.status, resp.header, resp.body, 413, "value-too-large", AppliedNo)
			if f.data.reached() != before {
				t.Errorf("%d bytes, chunked %t: something reached the cache", size, chunked)
			}
		}
	}
}

// hotData answers reads as the leader of a hot shard.
type hotData struct {
	fakeData
	found bool
}

func (d *hotData) Do(context.Context, shard.Request) (shard.Response, error) {
	return shard.Response{Read: shard.ReadProbe, Found: d.found, Version: 1, Hot: true}, nil
}

// TestHot ensures that clients hear that a shard is hot, of what is not there too.
func TestHot(t *testing.T) {
	for _, found := range []bool{true, false} {
		f := newFixture(t, func(c *Config) { c.Data = &hotData{found: found} })
		if w := f.request(t, "GET", "/v1/kv/k", ""); w.Header().Get("Larder-Hot") != "?1" {
			t.Errorf("found %t: %d, %v", found, w.Code, w.Header())
		}
	}
}
