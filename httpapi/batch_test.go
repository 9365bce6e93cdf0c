package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// resultsOf takes the results out of an answer.
func resultsOf(t *testing.T, w *httptest.ResponseRecorder) []batchResult {
	t.Helper()
	var answer struct{ Results []batchResult }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 || answer.Results == nil {
		t.Fatalf("got %d %s, %v", w.Code, w.Body, err)
	}
	return answer.Results
}

// Each operation asks for what its single request would, and is answered with what that would have been.
func TestBatchOperations(t *testing.T) {
	f := newFixture(t)
	f.dir.defaultTTL = time.Hour
	ops := []struct {
		op, result string
		request    shard.Request
	}{
		{`{"op":"put","key":"a","value":"x","ttl":"60s","content_type":"text/plain"}`, `{"status":201,"etag":"\"1\"","existed":false,"shard":3,"epoch":7,"index":"100.0","served_by":"a"}`,
			shard.Request{Op: shard.OpPut, Key: []byte("a"), Value: []byte("x"), TTL: time.Minute, ContentType: "text/plain"}},
		{`{"op":"put","key":"a","value_b64":"/wA=","ttl":"none","return":"old","if_match":"\"1\""}`,
			`{"status":200,"etag":"\"2\"","existed":true,"value":"x","content_type":"text/plain","shard":3,"epoch":7,"index":"101.1","served_by":"a"}`,
			shard.Request{Op: shard.OpPut, Key: []byte("a"), Value: []byte{255, 0}, ReturnOld: true, Cond: fsm.Cond{Kind: fsm.CondVersion, Version: 1}}},
		{`{"op":"get","key":"a","touch":false}`, `{"status":200,"etag":"\"2\"","value_b64":"/wA=","content_type":"application/octet-stream","shard":3,"epoch":7,"index":"102.2","served_by":"a","read":"probe"}`,
			shard.Request{Op: shard.OpGet, Key: []byte("a"), NoTouch: true}},
		{`{"op":"get","key":"a","if_none_match":"W/\"2\", \"9\""}`, `{"status":304,"etag":"\"2\"","shard":3,"epoch":7,"index":"102.3","served_by":"a","read":"probe"}`, shard.Request{Op: shard.OpGet, Key: []byte("a")}},
		{`{"op":"get","key_b64":"/wA="}`, `{"status":404,"miss":"absent","shard":3,"epoch":7,"index":"102.4","served_by":"a","read":"probe"}`, shard.Request{Op: shard.OpGet, Key: []byte{255, 0}}},
		{`{"op":"put","key":"a","value":"y","if_none_match":"*"}`, `{"status":412,"etag":"\"2\"","shard":3,"epoch":7,"index":"102.5","served_by":"a"}`,
			shard.Request{Op: shard.OpPut, Key: []byte("a"), Value: []byte("y"), TTL: time.Hour, Cond: fsm.Cond{Kind: fsm.CondAbsent}}},
		{`{"op":"put","key":"b","value":"","fill_token":"5"}`, `{"status":201,"etag":"\"3\"","existed":false,"shard":3,"epoch":7,"index":"102.6","served_by":"a"}`,
			shard.Request{Op: shard.OpPut, Key: []byte("b"), Value: []byte{}, TTL: time.Hour, Cond: fsm.Cond{Kind: fsm.CondFill, Version: 5}}},
		{`{"op":"append","key":"b","value":"1"}`, `{"status":200,"etag":"\"4\"","value":"1","content_type":"application/octet-stream","shard":3,"epoch":7,"index":"103.7","served_by":"a"}`,
			shard.Request{Op: shard.OpAppend, Key: []byte("b"), Value: []byte("1"), TTL: time.Hour}},
		{`{"op":"incr","key":"b","by":-9223372036854775808,"ttl":"1500ms"}`, "", shard.Request{Op: shard.OpIncr, Key: []byte("b"), TTL: 1500 * time.Millisecond, Delta: -1 << 63}},
		{`{"op":"incr","key":"n"}`, "", shard.Request{Op: shard.OpIncr, Key: []byte("n"), TTL: time.Hour, Delta: 1}},
		{`{"op":"incr","key":"a"}`, `{"status":422,"shard":3,"epoch":7,"index":"106.10","served_by":"a"}`, shard.Request{Op: shard.OpIncr, Key: []byte("a"), TTL: time.Hour, Delta: 1}},
		{`{"op":"expire","key":"b","ttl":"5s","if_match":"*"}`, `{"status":204,"etag":"\"5\"","shard":3,"epoch":7,"index":"106.11","served_by":"a"}`,
			shard.Request{Op: shard.OpExpire, Key: []byte("b"), TTL: 5 * time.Second, Cond: fsm.Cond{Kind: fsm.CondPresent}}},
		{`{"op":"get","key":"b"}`, "", shard.Request{Op: shard.OpGet, Key: []byte("b")}},
		{`{"op":"expire","key":"b","ttl":null}`, `{"status":204,"etag":"\"5\"","shard":3,"epoch":7,"index":"106.13","served_by":"a"}`, shard.Request{Op: shard.OpExpire, Key: []byte("b")}},
		{`{"op":"touch","key":"z"}`, `{"status":404,"shard":3,"epoch":7,"index":"106.14","served_by":"a"}`, shard.Request{Op: shard.OpTouch, Key: []byte("z")}},
		{`{"op":"delete","key":"a"}`, `{"status":204,"existed":true,"shard":3,"epoch":7,"index":"106.15","served_by":"a"}`, shard.Request{Op: shard.OpDelete, Key: []byte("a")}},
		{`{"op":"delete","key":"a","if_match":"*"}`, `{"status":412,"shard":3,"epoch":7,"index":"107.16","served_by":"a"}`, shard.Request{Op: shard.OpDelete, Key: []byte("a"), Cond: fsm.Cond{Kind: fsm.CondPresent}}},
	}
	var lines []string
	for _, o := range ops {
		lines = append(lines, o.op)
	}
	asJSON := f.request(t, "POST", "/v1/batch", `{"ops":[`+strings.Join(lines, ",")+`]}`, "Content-Type", "application/json")
	var answer struct{ Results []json.RawMessage }
	if err := json.Unmarshal(asJSON.Body.Bytes(), &answer); err != nil || len(answer.Results) != len(ops) {
		t.Fatalf("%s: %v", asJSON.Body, err)
	}
	for i, o := range ops {
		if got := f.data.batches[0].Ops[i]; !reflect.DeepEqual(got, o.request) {
			t.Errorf("%s asks for\n%+v, want\n%+v", o.op, got, o.request)
		}
		result := string(answer.Results[i])
		if at := strings.Index(result, `,"problem":`); at > 0 {
			result = result[:at] + "}"
		}
		if o.result != "" && result != o.result {
			t.Errorf("%s is answered\n%s, want\n%s", o.op, answer.Results[i], o.result)
		}
	}
	if got := string(answer.Results[12]); !strings.Contains(got, `"ttl":"5s"`) {
		t.Errorf("get of what expires: %s", got)
	}
	if h := asJSON.Header(); h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") == "" {
		t.Errorf("headers %v", h)
	}
	// A stream of the same is answered with the same, from a cache in the same state.
	f2 := newFixture(t)
	f2.dir.defaultTTL = time.Hour
	asStream := f2.request(t, "POST", "/v1/batch", strings.Join(lines, "\r\n\n")+"\n", "Content-Type", "application/x-ndjson")
	if got := strings.Count(asStream.Body.String(), "\n"); got != len(ops) || asStream.Header().Get("Content-Type") != ndjson {
		t.Errorf("stream: %d lines: %s", got, asStream.Body)
	}
	var requests []shard.Request
	for _, b := range f2.data.batches {
		requests = append(requests, b.Ops...)
	}
	for i := range ops {
		if !reflect.DeepEqual(requests[i], ops[i].request) {
			t.Errorf("stream: %s asks for %+v", ops[i].op, requests[i])
		}
	}
}

// A body that is no batch is refused as a whole, before anything is done, and says which operation is to blame.
func TestBadBatch(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxValueBytes = 100 })
	ok := `{"op":"put","key":"k","value":"v"}`
	for body, want := range map[string]struct {
		status int
		name   string
		says   string
	}{
		``:                              {400, "bad-body", "JSON object"},
		`[]`:                            {400, "bad-body", "JSON object"},
		`{"ops":[` + ok:                 {400, "bad-body", ""},
		`{"ops":[` + ok + `]`:           {400, "bad-body", ""},
		`{"ops":[` + ok + `]} x`:        {400, "bad-body", "follows"},
		`{"ops":[` + ok + `],"ops":[]}`: {400, "bad-body", "duplicate"},
		`{"ops":[` + ok + ok + `]}`:     {400, "bad-body", ""},
		`{"ops":[{"op":"get","key":"k","key":"l"}]}`:    {400, "bad-body", "duplicate"},
		"{\"ops\":[{\"op\":\"get\",\"key\":\"\xff\"}]}": {400, "bad-body", "UTF-8"},
		`{"ops":[{"op":"get","key":"\ud800"}]}`:         {400, "bad-body", ""}, // else another key
		`{}`:                                            {422, "bad-batch", "ops"},
		`{"ops":{}}`:                                    {422, "bad-batch", "array"},
		`{"ops":[],"atomic":1}`:                         {422, "bad-batch", "atomic"},
		`{"ops":[],"atomic":true}`:                      {422, "bad-batch", "at least"},
		`{"ops":[],"Atomic":true}`:                      {422, "bad-batch", "Atomic"},
		`{"ops":[` + ok + `,{"op":"flush"}]}`:           {422, "bad-batch", "Operation 1: op is"},
		`{"ops":[` + ok + `,5]}`:                        {422, "bad-batch", "Operation 1: an operation is a JSON object"},
		`{"ops":[{"key":"k"}]}`:                         {422, "bad-batch", "op is missing"},
		`{"ops":[{"op":"get"}]}`:                        {422, "bad-batch", "key"},
		`{"ops":[{"op":"get","key":""}]}`:               {422, "bad-batch", "0 bytes"},
		`{"ops":[{"op":"get","key":"` + strings.Repeat("k", 1025) + `"}]}`:                {422, "bad-batch", "1025 bytes"},
		`{"ops":[{"op":"get","key":"k","key_b64":"aw=="}]}`:                               {422, "bad-batch", "one of key"},
		`{"ops":[{"op":"get","key_b64":"a"}]}`:                                            {422, "bad-batch", "key_b64"},
		`{"ops":[{"op":"get","Key":"k"}]}`:                                                {422, "bad-batch", `"Key" is no member`},
		`{"ops":[{"op":"get","key":"k","soon":1}]}`:                                       {422, "bad-batch", `"soon" is no member`},
		`{"ops":[{"op":"get","key":5}]}`:                                                  {422, "bad-batch", "key is no number of JSON, and takes a string"},
		`{"ops":[{"op":"get","key":"k","value":"v"}]}`:                                    {422, "bad-batch", "value is not for op get"},
		`{"ops":[{"op":"put","key":"k"}]}`:                                                {422, "bad-batch", "value"},
		`{"ops":[{"op":"put","key":"k","value":"v","value_b64":""}]}`:                     {422, "bad-batch", "one of value"},
		`{"ops":[{"op":"put","key":"k","value":"` + strings.Repeat("v", 101) + `"}]}`:     {413, "value-too-large", "101 bytes"},
		`{"ops":[{"op":"put","key":"k","value":"v","ttl":"60"}]}`:                         {422, "bad-batch", "unit"},
		`{"ops":[{"op":"put","key":"k","value":"v","ttl":60}]}`:                           {422, "bad-batch", "ttl"},
		`{"ops":[{"op":"put","key":"k","value":"v","ttl":null}]}`:                         {422, "bad-batch", "none"},
		`{"ops":[{"op":"put","key":"k","value":"v","return":"new"}]}`:                     {422, "bad-batch", "old"},
		`{"ops":[{"op":"put","key":"k","value":"v","content_type":""}]}`:                  {422, "bad-batch", "content_type"},
		`{"ops":[{"op":"put","key":"k","value":"v","content_type":"a\nb"}]}`:              {422, "bad-batch", "content_type"},
		`{"ops":[{"op":"put","key":"k","value":"v","if_match":"17"}]}`:                    {422, "bad-batch", "if_match"},
		`{"ops":[{"op":"put","key":"k","value":"v","if_match":"W/\"17\""}]}`:              {422, "bad-batch", "if_match"},
		`{"ops":[{"op":"put","key":"k","value":"v","if_match":"\"1\", \"2\""}]}`:          {422, "bad-batch", "if_match"},
		`{"ops":[{"op":"put","key":"k","value":"v","if_none_match":"\"1\""}]}`:            {422, "bad-batch", "if_none_match"},
		`{"ops":[{"op":"put","key":"k","value":"v","if_match":"*","fill_token":"1"}]}`:    {422, "bad-batch", "exclude"},
		`{"ops":[{"op":"put","key":"k","value":"v","fill_token":"0"}]}`:                   {422, "bad-batch", "fill_token"},
		`{"ops":[{"op":"get","key":"k","if_none_match":"1"}]}`:                            {422, "bad-batch", "if_none_match"},
		`{"ops":[{"op":"delete","key":"k","if_none_match":"*"}]}`:                         {422, "bad-batch", "not for op delete"},
		`{"ops":[{"op":"incr","key":"k","by":1.5}]}`:                                      {422, "bad-batch", "by"},
		`{"ops":[{"op":"incr","key":"k","by":9223372036854775808}]}`:                      {422, "bad-batch", "by"},
		`{"ops":[{"op":"expire","key":"k"}]}`:                                             {422, "bad-batch", "ttl is missing"},
		`{"ops":[{"op":"expire","key":"k","ttl":"none"}]}`:                                {422, "bad-batch", "null"},
		`{"ops":[{"op":"touch","key":"k","if_match":"*"}]}`:                               {422, "bad-batch", "not for op touch"},
		`{"ops":[{"op":"put","key":"k","value":"v","fill_token":"1"}],"atomic":true}`:     {422, "bad-batch", "fill_token"},
		`{"ops":[` + strings.Repeat(ok+",", maxBatchOps) + ok + `]}`:                      {413, "batch-too-large", "10000"},
		`{"ops":[` + strings.Repeat(ok+",", shard.MaxAtomicOps) + ok + `],"atomic":true}`: {413, "batch-too-large", "512"},
		`{"ops":[` + strings.Repeat(`{"op":"append","key":"k","value":"v"},`, shard.MaxBatchAppends) + `{"op":"append","key":"k","value":"v"}],"atomic":true}`: {413, "batch-too-large", "64"},
	} {
		w := f.request(t, "POST", "/v1/batch", body)
		p := checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), want.status, want.name, AppliedNo)
		if !strings.Contains(p.Detail, want.says) {
			t.Errorf("%.200s: %q does not say %q", body, p.Detail, want.says)
		}
	}
	for header, want := range map[string]struct {
		status int
		name   string
	}{
		"Content-Type: text/plain": {415, "media-type"}, "Idempotency-Key: bare": {400, "bad-header"}, `Idempotency-Key: "k"`: {422, "bad-batch"},
		`If-Match: *`: {400, "bad-header"}, "Larder-Timeout: never": {400, "bad-header"}, "Content-Encoding: gzip": {415, "content-encoding"},
	} {
		name, value, _ := strings.Cut(header, ": ")
		w := f.request(t, "POST", "/v1/batch", `{"ops":[`+ok+`]}`, name, value)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), want.status, want.name, AppliedNo)
	}
	w := f.request(t, "POST", "/v1/batch", `{"ops":[{"op":"get","key":"k"}],"atomic":true}`, "Idempotency-Key", `"k"`)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 422, "bad-batch", AppliedNo)
	w = f.request(t, "POST", "/v1/batch?route=local", `{"ops":[]}`)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 400, "bad-parameter", AppliedNo)
	w = f.request(t, "POST", "/v1/batch", ok, "Content-Type", ndjson, "Idempotency-Key", `"k"`)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 422, "bad-batch", AppliedNo)
	if f.data.reached() != 0 || len(f.data.batches) != 0 {
		t.Error("something was done")
	}
	if w := f.request(t, "POST", "/v1/batch", `{"ops":[]}`); w.Body.String() != "{\"results\":[]}\n" {
		t.Errorf("an empty batch: %s", w.Body)
	}
}

// Limits of the body hold before it is read, and what a node has in hand bounds batches, too.
func TestBatchAdmission(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxBodyBytes = 8 << 20 })
	w := f.request(t, "POST", "/v1/batch", `{"ops":[`+strings.Repeat(" ", 5<<20)+`]}`)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 429, "overloaded", AppliedNo)
	w = f.request(t, "POST", "/v1/batch", `{"ops":[`+strings.Repeat(`{"op":"get","key":"k"},`, 9000)+`{"op":"get","key":"k"}]}`)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 429, "overloaded", AppliedNo)
	if f := newFixture(t); true {
		w := f.request(t, "POST", "/v1/batch", strings.Repeat(" ", maxBatchBody+1))
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 413, "body-too-large", AppliedNo)
	}
	one := newFixture(t, func(c *Config) { c.MaxRequests = 1 })
	one.data.answerBatch = func(context.Context, shard.Batch) ([]shard.Reply, error) {
		w := one.request(t, "POST", "/v1/batch", `{"ops":[]}`)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 429, "overloaded", AppliedNo)
		w = one.request(t, "POST", "/v1/batch", "", "Content-Type", ndjson)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 429, "overloaded", AppliedNo)
		return []shard.Reply{{}}, nil
	}
	for range 2 { // all is given back
		if w := one.request(t, "POST", "/v1/batch", `{"ops":[{"op":"get","key":"k"}]}`); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
}

// The outcome of each operation is its own: refused, applied or unknown; and a read is never unknown.
func TestBatchOutcomes(t *testing.T) {
	f := newFixture(t)
	unknown := fmt.Errorf("%w: link lost", shard.ErrOutcomeUnknown)
	f.data.answerBatch = func(_ context.Context, b shard.Batch) ([]shard.Reply, error) {
		return []shard.Reply{{Response: shard.Response{Status: fsm.StatusOK, Version: 5}}, {Err: unknown}, {Err: unknown}, {Err: shard.ErrDeadline},
			{Response: shard.Response{Status: fsm.StatusTooLarge}}, {Response: shard.Response{Status: fsm.StatusExhausted}}, {Err: shard.ErrOverloaded}}, nil
	}
	put := `{"op":"put","key":"k","value":"v"}`
	got := resultsOf(t, f.request(t, "POST", "/v1/batch", `{"ops":[`+put+","+put+`,{"op":"get","key":"k"},`+strings.Repeat(put+",", 3)+put+`]}`))
	for i, want := range []struct {
		status  int
		applied Applied
	}{{201, ""}, {504, AppliedUnknown}, {503, AppliedNo}, {503, AppliedNo}, {413, AppliedNo}, {503, AppliedNo}, {429, AppliedNo}} {
		applied := Applied("")
		if got[i].Problem != nil {
			applied = got[i].Problem.Applied
		}
		if got[i].Status != want.status || applied != want.applied {
			t.Errorf("result %d: %+v, want %+v", i, got[i], want)
		}
	}
}

// An atomic batch says whether it was applied, and what its idempotency key comes to is the answer to all of it.
func TestBatchAtomic(t *testing.T) {
	f := newFixture(t)
	const body = `{"atomic":true,"ops":[{"op":"put","key":"a","value":"1"},{"op":"delete","key":"b"}]}`
	answer := func(a, b fsm.Status, replayed bool) {
		f.data.answerBatch = func(context.Context, shard.Batch) ([]shard.Reply, error) {
			return []shard.Reply{{Response: shard.Response{Status: a, Version: 3, Replayed: replayed}}, {Response: shard.Response{Status: b, Replayed: replayed}}}, nil
		}
	}
	answer(fsm.StatusOK, fsm.StatusOK, false)
	w := f.request(t, "POST", "/v1/batch", body, "Idempotency-Key", `"once"`)
	if got := resultsOf(t, w); !strings.HasPrefix(w.Body.String(), `{"applied":"yes",`) || got[0].Status != 201 || got[1].Status != 204 || w.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("applied: %s", w.Body)
	}
	if b := f.data.batches[0]; !b.Atomic || b.IdempotencyKey != "once" || !b.Ops[0].DefaultTTL {
		t.Errorf("asked for %+v", b)
	}
	answer(fsm.StatusOK, fsm.StatusOK, true)
	w = f.request(t, "POST", "/v1/batch", body, "Idempotency-Key", `"once"`)
	if got := resultsOf(t, w); !got[1].Replayed || w.Header().Get("Idempotency-Replayed") != "?1" {
		t.Errorf("replayed: %s", w.Body)
	}
	answer(fsm.StatusCondition, fsm.StatusAborted, false)
	w = f.request(t, "POST", "/v1/batch", body)
	if got := resultsOf(t, w); !strings.HasPrefix(w.Body.String(), `{"applied":"no",`) || got[0].Status != 412 || got[1].Status != 424 || got[1].Problem.Applied != AppliedNo {
		t.Errorf("refused: %s", w.Body)
	}
	f.data.answerBatch = func(context.Context, shard.Batch) ([]shard.Reply, error) {
		return []shard.Reply{{Response: shard.Response{Status: fsm.StatusOK, Version: 3}}, {Err: shard.ErrAnswerTooLarge}}, nil
	}
	w = f.request(t, "POST", "/v1/batch", `{"atomic":true,"ops":[{"op":"put","key":"a","value":"1"},{"op":"get","key":"b"}]}`)
	if got := resultsOf(t, w); !strings.HasPrefix(w.Body.String(), `{"applied":"yes",`) || got[0].Status != 201 || got[1].Status != 413 {
		t.Errorf("applied, and a value has no room: %s", w.Body)
	}
	for status, want := range map[fsm.Status]string{fsm.StatusKeyReused: "idempotency-key-reused", fsm.StatusKeyTooNew: "idempotency-key-too-new", fsm.StatusKeysFull: "idempotency-keys-full"} {
		answer(status, status, false)
		w = f.request(t, "POST", "/v1/batch", body, "Idempotency-Key", `"once"`)
		if p := statusProblem(shard.Response{Status: status}); true {
			checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), p.Status, want, AppliedNo)
		}
	}
	f.data.answerBatch = func(context.Context, shard.Batch) ([]shard.Reply, error) { return nil, shard.ErrOutcomeUnknown }
	w = f.request(t, "POST", "/v1/batch", body)
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 504, "outcome-unknown", AppliedUnknown)
}

// stream is a stream of operations under way.
type stream struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	body *bufio.Reader
}

func openStream(t *testing.T, f *fixture) *stream {
	t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
	return &stream{t: t, conn: conn, in: bufio.NewReader(conn)}
}

func (s *stream) send(lines string) { fmt.Fprintf(s.conn, "%x\r\n%s\r\n", len(lines), lines) }

// next returns the next result.
func (s *stream) next() (r batchResult, err error) {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if s.body == nil {
		resp, err := http.ReadResponse(s.in, nil)
		if err != nil {
			return r, err
		}
		s.body = bufio.NewReader(resp.Body)
	}
	line, err := s.body.ReadBytes('\n')
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(line, &r)
}

// Results of a stream come while the client is still sending, in order, and the stream ends with the client's.
func TestBatchStream(t *testing.T) {
	f := newFixture(t)
	s := openStream(t, f)
	for i := range 5 {
		s.send(fmt.Sprintf("{\"op\":\"put\",\"key\":\"k%d\",\"value\":\"v\"}\n\n{\"op\":\"get\",\"key\":\"k%d\"}\n", i, i))
		if r, err := s.next(); err != nil || r.Status != 201 {
			t.Fatalf("put %d: %+v, %v", i, r, err)
		}
		if r, err := s.next(); err != nil || r.Status != 200 || *r.Value != "v" {
			t.Fatalf("get %d: %+v, %v", i, r, err)
		}
	}
	s.send(`{"op":"get","key":"k1"}`) // without an end
	io.WriteString(s.conn, "0\r\n\r\n")
	if r, err := s.next(); err != nil || r.Status != 200 {
		t.Errorf("the last line: %+v, %v", r, err)
	}
	if r, err := s.next(); err != io.EOF {
		t.Errorf("after the end: %+v, %v", r, err)
	}
	// The connection serves the next request.
	fmt.Fprintf(s.conn, "GET /v1/kv/k1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, err := http.ReadResponse(s.in, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the next request: %+v, %v", resp, err)
	}
}

// A line that is no operation gets a result that says so, and is the last one: what is before it is done, what is behind it is not.
func TestBatchStreamEnds(t *testing.T) {
	get := `{"op":"get","key":"k"}` + "\n"
	for bad, want := range map[string]struct {
		status int
		name   string
	}{
		"{\n":                               {400, "bad-body"},
		"{\"op\":\"get\"}\n":                {422, "bad-batch"},
		get[:len(get)-1] + "{}\n":           {400, "bad-body"},
		"{\"atomic\":true}\n":               {422, "bad-batch"},
		strings.Repeat("x", 300<<10) + "\n": {413, "body-too-large"},
	} {
		f := newFixture(t, func(c *Config) { c.MaxValueBytes = 100 << 10 })
		w := f.request(t, "POST", "/v1/batch", get+bad+get, "Content-Type", ndjson)
		lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
		var r batchResult
		if len(lines) != 2 || json.Unmarshal([]byte(lines[1]), &r) != nil || r.Status != want.status || r.Problem.Type != "/problems/"+want.name {
			t.Errorf("%.40q: %s", bad, w.Body)
		}
		if n := len(f.data.batches); n != 1 || len(f.data.batches[0].Ops) != 1 {
			t.Errorf("%.40q: %d batches reached the cache", bad, n)
		}
	}
}

// A stream ends after a result whose outcome is unknown: what comes next might be overtaken by it.
func TestBatchStreamUnknown(t *testing.T) {
	f := newFixture(t)
	f.data.answerBatch = func(_ context.Context, b shard.Batch) ([]shard.Reply, error) {
		replies := make([]shard.Reply, len(b.Ops))
		for i := range replies {
			if replies[i].Response.Status = fsm.StatusOK; string(b.Ops[i].Key) == "bad" {
				replies[i].Err = shard.ErrOutcomeUnknown
			}
		}
		return replies, nil
	}
	s := openStream(t, f)
	s.send("{\"op\":\"delete\",\"key\":\"k\"}\n{\"op\":\"delete\",\"key\":\"bad\"}\n")
	for _, want := range []int{204, 504} {
		if r, err := s.next(); err != nil || r.Status != want {
			t.Errorf("%+v, %v, want %d", r, err, want)
		}
	}
	if r, err := s.next(); err != io.EOF {
		t.Errorf("it goes on: %+v, %v", r, err)
	}
}

// A client that goes takes what is under way for it along.
func TestBatchStreamCancelled(t *testing.T) {
	f := newFixture(t)
	began, ended := make(chan struct{}), make(chan error, 1)
	f.data.answerBatch = func(ctx context.Context, b shard.Batch) ([]shard.Reply, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return make([]shard.Reply, len(b.Ops)), nil
	}
	s := openStream(t, f)
	s.send("{\"op\":\"get\",\"key\":\"k\"}\n")
	io.WriteString(s.conn, "0\r\n\r\n")
	<-began
	s.conn.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on")
	}
}

// A node that shuts down ends streams that wait, without a word: what was sent is answered.
func TestBatchStreamShutdown(t *testing.T) {
	f := newFixture(t)
	s := openStream(t, f)
	s.send("{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}\n")
	if r, err := s.next(); err != nil || r.Status != 201 {
		t.Fatalf("%+v, %v", r, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := f.server.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if r, err := s.next(); err != io.EOF {
		t.Errorf("after the shutdown: %+v, %v", r, err)
	}
}

// Keys and values of any bytes come back as they were.
func TestBatchBytes(t *testing.T) {
	f := newFixture(t)
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	text := "\u2028<>&\"\\/\x00\x1f\ufffd€😀"
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString(all)
	got := resultsOf(t, f.request(t, "POST", "/v1/batch", fmt.Sprintf(`{"ops":[{"op":"put","key_b64":%q,"value":%s},{"op":"put","key":%s,"value_b64":%q},
		{"op":"get","key_b64":%q},{"op":"get","key":%s}]}`, b64, quoted, quoted, b64, b64, quoted)))
	if *got[2].Value != text || string(got[3].ValueB64) != string(all) || f.data.entries[text].version != 2 || f.data.entries[string(all)].version != 1 {
		t.Errorf("%+v", got)
	}
}

// FuzzBatchBody ensures that no body of a batch makes the node fail, and that what is taken asks for nothing that a shard would
// refuse as malformed: keys of a length that is allowed, and what each operation has.
func FuzzBatchBody(f *testing.F) {
	for _, body := range []string{
		`{"ops":[{"op":"put","key":"a","value":"x","ttl":"60s"},{"op":"get","key_b64":"/wA="}]}`,
		`{"atomic":true,"ops":[{"op":"incr","key":"n","by":-5,"if_match":"*"},{"op":"expire","key":"n","ttl":null}]}`,
		`{"ops":[{"op":"append","key":"\u00e9","value_b64":"AA==","content_type":"a/b"},{"op":"touch","key":"x"},{"op":"delete","key":"x","if_match":"\"7\""}]}`,
		`{"ops":[{"op":"put","key":"a","value":"","if_none_match":"*","return":"old"},{"op":"get","key":"a","if_none_match":"\"1\"","touch":false}]}`,
	} {
		f.Add([]byte(body))
	}
	s := &server{cfg: Config{Directory: &fakeDirectory{}, MaxValueBytes: 1 << 10}}
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := s.parseBatch(bytes.Clone(body), "", false)
		if err != nil {
			var p *Problem
			if !errors.As(err, &p) || p.Applied != AppliedNo || p.Status < 400 || p.Status >= 500 || p.Detail == "" {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		for i, op := range b.ops {
			if len(op.Key) == 0 || len(op.Key) > maxKeyBytes || len(op.Value) > 1<<10 || op.Op < shard.OpGet || op.Op > shard.OpTouch || op.TTL < 0 ||
				op.Op == shard.OpGet && op.Cond.Kind != fsm.CondAlways {
				t.Fatalf("%q: operation %d: %+v", body, i, op)
			}
		}
	})
}
