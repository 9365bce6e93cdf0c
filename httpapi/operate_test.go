package httpapi

import (
	"context"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// checkAnswer fails unless an answer has a status, a body and headers ("" for those that it must not have).
func checkAnswer(t *testing.T, what string, status int, h http.Header, body string, wantStatus int, wantBody string, headers ...string) {
	t.Helper()
	if status != wantStatus || body != wantBody {
		t.Errorf("%s: got %d %q, want %d %q", what, status, body, wantStatus, wantBody)
	}
	for i := 0; i < len(headers); i += 2 {
		if got := h.Get(headers[i]); got != headers[i+1] {
			t.Errorf("%s: got %s %q, want %q", what, headers[i], got, headers[i+1])
		}
	}
}

// PATCH sets and clears a time to live, and leaves value and ETag alone.
func TestPatchTTL(t *testing.T) {
	f := newFixture(t)
	f.request(t, "PUT", "/v1/kv/k?ttl=5s", "v")
	for _, tc := range []struct {
		mediaType, body string
		want            time.Duration
	}{
		{mergePatch, `{"ttl":"60s"}`, time.Minute},
		{mergePatch, ` { "ttl" : null } `, 0},
		{"application/json", `{"ttl":"1500ms"}`, 1500 * time.Millisecond},
		{"application/merge-patch+json; charset=utf-8", `{"ttl":"1h"}`, time.Hour},
		{"", `{"ttl":"87600h"}`, 87600 * time.Hour},
	} {
		var headers []string
		if tc.mediaType != "" {
			headers = []string{"Content-Type", tc.mediaType}
		}
		w := f.request(t, "PATCH", "/v1/kv/k", tc.body, headers...)
		checkAnswer(t, tc.body, w.Code, w.Header(), w.Body.String(), 204, "", "ETag", `"1"`)
		checkPlace(t, w.Header(), "3", "7", "101.2", "a")
		if got := f.data.last(); got.Op != shard.OpExpire || got.TTL != tc.want || string(got.Key) != "k" || got.Cond.Kind != fsm.CondAlways {
			t.Errorf("%s: asked for %+v", tc.body, got)
		}
	}
	w := f.request(t, "GET", "/v1/kv/k", "")
	checkAnswer(t, "GET", w.Code, w.Header(), w.Body.String(), 200, "v", "ETag", `"1"`, "Cache-Status", "larder; hit; ttl=315360000")

	w = f.request(t, "PATCH", "/v1/kv/k", `{"ttl":null}`, "If-Match", `"2"`, "Idempotency-Key", `"once"`)
	p := checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 412, "precondition-failed", AppliedNo)
	if got := f.data.last(); p.ETag != `"1"` || got.IdempotencyKey != "once" || got.Cond != (fsm.Cond{Kind: fsm.CondVersion, Version: 2}) {
		t.Errorf("with If-Match: got ETag %s, asked for %+v", p.ETag, got)
	}
	w = f.request(t, "PATCH", "/v1/kv/absent", `{"ttl":null}`)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 404, "not-found", AppliedNo)
	checkPlace(t, w.Header(), "3", "7", "101.2", "a")
	w = f.request(t, "PATCH", "/v1/kv/k", `ttl=5s`, "Content-Type", "text/plain")
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 415, "media-type", AppliedNo)
	if got := w.Header().Get("Accept-Patch"); got != mergePatch {
		t.Errorf("415: got Accept-Patch %q", got)
	}
}

// A PATCH whose body is anything else is refused, and changes nothing.
func TestBadPatch(t *testing.T) {
	f := newFixture(t)
	for _, body := range []string{
		`{}`, `[]`, `null`, `"60s"`, `{"ttl":60}`, `{"ttl":true}`, `{"ttl":{}}`, `{"ttl":["60s"]}`, `{"TTL":"60s"}`, `{"ttl":"60s","value":"v"}`,
		`{"ttl":"60s","ttl":"60s"}`, `{"ttl":"60"}`, `{"ttl":"0s"}`, `{"ttl":"-1s"}`, `{"ttl":"none"}`, `{"ttl":""}`, `{"ttl":"1us"}`, `{"ttl":"87601h"}`,
		`{"ttl":"60s"`, `{"ttl":"60s"}{}`, "{\"ttl\":\"\xff\"}",
	} {
		w := f.request(t, "PATCH", "/v1/kv/k", body, "Content-Type", mergePatch)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 400, "bad-body", AppliedNo)
	}
	w := f.request(t, "PATCH", "/v1/kv/k", `{"ttl":"60s"`+strings.Repeat(" ", maxJSONBody)+`}`, "Content-Type", mergePatch)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 413, "body-too-large", AppliedNo)
	if n := f.data.reached(); n != 0 {
		t.Errorf("%d requests reached the cache", n)
	}
}

// POST increments, appends and touches, by what its parameters say.
func TestOperate(t *testing.T) {
	f := newFixture(t)
	post := func(target, body string, headers ...string) (int, http.Header, string) {
		w := f.request(t, "POST", target, body, headers...)
		return w.Code, w.Header(), w.Body.String()
	}
	last := func(what string, want shard.Request) {
		t.Helper()
		got := f.data.last()
		if got.Op != want.Op || got.Delta != want.Delta || got.TTL != want.TTL || got.Cond != want.Cond || got.ContentType != want.ContentType ||
			string(got.Value) != string(want.Value) || got.IdempotencyKey != want.IdempotencyKey {
			t.Errorf("%s: asked for %+v, want %+v", what, got, want)
		}
	}

	status, h, body := post("/v1/kv/n?op=incr&by=5&ttl=60s", "")
	checkAnswer(t, "incr", status, h, body, 200, "5", "ETag", `"1"`, "Content-Type", "application/octet-stream", "Content-Length", "1", "X-Content-Type-Options", "nosniff", "Idempotency-Replayed", "")
	checkPlace(t, h, "3", "7", "100.2", "a")
	last("incr", shard.Request{Op: shard.OpIncr, Delta: 5, TTL: time.Minute})
	status, h, body = post("/v1/kv/n?op=incr", "", "Idempotency-Key", `"a \"b\" \\"`)
	checkAnswer(t, "incr", status, h, body, 200, "6", "ETag", `"2"`)
	last("incr", shard.Request{Op: shard.OpIncr, Delta: 1, IdempotencyKey: `a "b" \`})
	status, h, body = post("/v1/kv/n?op=incr&by=-10", "", "If-Match", `"2"`)
	checkAnswer(t, "incr", status, h, body, 200, "-4", "ETag", `"3"`)
	last("incr", shard.Request{Op: shard.OpIncr, Delta: -10, Cond: fsm.Cond{Kind: fsm.CondVersion, Version: 2}})
	for by, want := range map[string]int64{"9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64, "0": 0} {
		post("/v1/kv/m"+by+"?op=incr&by="+by, "")
		last("incr by "+by, shard.Request{Op: shard.OpIncr, Delta: want})
	}
	status, h, body = post("/v1/kv/n?op=incr", "", "If-Match", `"1"`)
	checkProblem(t, status, h, []byte(body), 412, "precondition-failed", AppliedNo)
	f.request(t, "PUT", "/v1/kv/text", "text")
	status, h, body = post("/v1/kv/text?op=incr", "")
	checkProblem(t, status, h, []byte(body), 422, "not-an-integer", AppliedNo)

	status, h, body = post("/v1/kv/log?op=append", "one", "Content-Type", "text/plain", "Cache-Control", "max-age=5", "Idempotency-Key", `"x"`)
	checkAnswer(t, "append", status, h, body, 200, "one", "Content-Type", "text/plain")
	last("append", shard.Request{Op: shard.OpAppend, Value: []byte("one"), ContentType: "text/plain", TTL: 5 * time.Second, IdempotencyKey: "x"})
	status, h, body = post("/v1/kv/log?op=append", ",two")
	checkAnswer(t, "append", status, h, body, 200, "one,two", "Content-Type", "text/plain")

	status, h, body = post("/v1/kv/log?op=touch", "")
	checkAnswer(t, "touch", status, h, body, 204, "")
	checkPlace(t, h, "3", "7", h.Get("Larder-Index"), "a")
	last("touch", shard.Request{Op: shard.OpTouch})
	status, h, body = post("/v1/kv/absent?op=touch", "")
	checkProblem(t, status, h, []byte(body), 404, "not-found", AppliedNo)
}

// PUT with return=old answers with the value that it replaced, and says whether there was one.
func TestReturnOld(t *testing.T) {
	f := newFixture(t)
	w := f.request(t, "PUT", "/v1/kv/k?return=old", "first", "Content-Type", "text/a")
	checkAnswer(t, "first", w.Code, w.Header(), w.Body.String(), 201, "", "ETag", `"1"`, "Larder-Existed", "?0")
	w = f.request(t, "PUT", "/v1/kv/k?return=old", "second", "Content-Type", "text/b")
	checkAnswer(t, "second", w.Code, w.Header(), w.Body.String(), 200, "first", "ETag", `"2"`, "Larder-Existed", "?1", "Content-Type", "text/a",
		"X-Content-Type-Options", "nosniff", "Content-Security-Policy", "sandbox; default-src 'none'")
	f.request(t, "PUT", "/v1/kv/k", "")
	w = f.request(t, "PUT", "/v1/kv/k?return=old", "v")
	checkAnswer(t, "an empty value", w.Code, w.Header(), w.Body.String(), 200, "", "Larder-Existed", "?1", "Content-Length", "0")
}

// A replay says that it is one, and answers without a value where none was remembered.
func TestReplays(t *testing.T) {
	f := newFixture(t)
	for _, tc := range []struct {
		method, target string
		resp           shard.Response
		status         int
		body           string
		headers        []string
	}{
		{"PUT", "/v1/kv/k", shard.Response{}, 201, "", nil},
		{"PUT", "/v1/kv/k", shard.Response{Existed: true}, 204, "", nil},
		{"PUT", "/v1/kv/k?return=old", shard.Response{Existed: true}, 204, "", []string{"Larder-Existed", "?1"}},
		{"PUT", "/v1/kv/k?return=old", shard.Response{Existed: true, HasValue: true, Value: []byte("old")}, 200, "old", []string{"Larder-Existed", "?1"}},
		{"DELETE", "/v1/kv/k", shard.Response{Existed: true}, 204, "", []string{"Larder-Existed", "?1", "ETag", ""}},
		{"POST", "/v1/kv/k?op=incr", shard.Response{HasValue: true, Value: []byte("7")}, 200, "7", nil},
		{"POST", "/v1/kv/k?op=append", shard.Response{Existed: true}, 204, "", nil},
		{"PATCH", "/v1/kv/k", shard.Response{Existed: true}, 204, "", nil},
	} {
		f.data.answer = func(_ context.Context, req shard.Request) (shard.Response, error) {
			if req.IdempotencyKey != "1700000000000-x" {
				t.Errorf("%s: asked for %+v", tc.target, req)
			}
			tc.resp.Status, tc.resp.Replayed, tc.resp.Version = fsm.StatusOK, true, 12
			return tc.resp, nil
		}
		body := ""
		if tc.method == "PATCH" {
			body = `{"ttl":null}`
		}
		w := f.request(t, tc.method, tc.target, body, "Idempotency-Key", `"1700000000000-x"`)
		headers := append([]string{"Idempotency-Replayed", "?1"}, tc.headers...)
		if tc.method != "DELETE" {
			headers = append(headers, "ETag", `"12"`)
		}
		checkAnswer(t, tc.method+" "+tc.target, w.Code, w.Header(), w.Body.String(), tc.status, tc.body, headers...)
	}
}

// A read that would fill a miss says how long it waits, gets that time on top of its timeout, and hands on the
// token.
func TestFill(t *testing.T) {
	f := newFixture(t)
	token := uint64(0)
	f.data.answer = func(ctx context.Context, req shard.Request) (shard.Response, error) {
		deadline, _ := ctx.Deadline()
		if left := time.Until(deadline); req.Fill != 1500*time.Millisecond || left > 3500*time.Millisecond || left < 3300*time.Millisecond {
			t.Errorf("asked for %+v with %v left", req, left)
		}
		return shard.Response{Shard: 3, Epoch: 7, Index: 9, ServedBy: "b", Status: fsm.StatusOK, Read: shard.ReadProbe, FillToken: token}, nil
	}
	for _, token = range []uint64{0, 1<<64 - 1} {
		for _, method := range []string{"GET", "HEAD"} {
			w := f.request(t, method, "/v1/kv/k?fill=1500ms", "", "Larder-Timeout", "2s")
			want := ""
			if token != 0 {
				want = "18446744073709551615"
			}
			if w.Code != 404 || w.Header().Get("Larder-Fill") != want {
				t.Errorf("%s: got %d, Larder-Fill %q, want 404 and %q", method, w.Code, w.Header().Get("Larder-Fill"), want)
			}
		}
	}
	f.data.answer = func(context.Context, shard.Request) (shard.Response, error) {
		return shard.Response{Shard: 3, Epoch: 7, Index: 9, Status: fsm.StatusCondition}, nil
	}
	w := f.request(t, "PUT", "/v1/kv/k", "v", "Larder-Fill", "7")
	p := checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 412, "precondition-failed", AppliedNo)
	if p.ETag != "" || strings.Contains(p.Detail, "absent") {
		t.Errorf("a fill refused after a delete: %+v", p)
	}
}
