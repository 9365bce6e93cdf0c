package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// batchAnswer answers a batch with a body.
func batchAnswer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(200)
		io.WriteString(w, body)
	}
}

// failure is a result with a problem.
func failure(status int, name, applied string) string {
	return fmt.Sprintf(`{"status":%d,"shard":1,"index":"5.1","problem":{"type":"/problems/%s","title":"","status":%d,"detail":"d","applied":%q}}`, status, name, status, applied)
}

// TestBatchOnTheWire ensures that operations are sent as they were asked for, to the leader of the first key's shard, which may forward.
func TestBatchOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1", "b:1", "c:1")
		w.setTable(oneShard(1, "b"))
		var sent string
		w.set("b:1", func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			sent = string(body)
			if got := r.Header.Get("Content-Type"); got != "application/json" || r.Header.Get("Idempotency-Key") != "" {
				t.Errorf("headers %v", r.Header)
			}
			problem(422, "bad-batch", "no")(rw, r)
		})
		c := w.client(Config{})
		_, err := c.Batch(t.Context(), []Op{
			GetOp("a"), GetOp("\xff\x00"), PutOp("a", nil), PutOp("a", []byte{255, 0}, TTL(time.Minute), ContentType("a/b"), IfVersion("17")),
			CreateOp("b", []byte("\u2028€"), NoTTL()), SwapOp("a", []byte("x"), IfPresent()), PutOp("c", []byte("y"), Filling("5")), DeleteOp("a", IfVersion("3")),
			IncrOp("n", -5), AppendOp("l", []byte("z"), TTL(1500*time.Millisecond)), ExpireOp("l", 0), ExpireOp("l", time.Hour, IfPresent()), TouchOp("l"),
		})
		check(t, "batch", err, ErrBadRequest)
		want := `{"ops":[{"op":"get","key":"a"},{"op":"get","key_b64":"/wA="},{"op":"put","key":"a","value":""},` +
			`{"op":"put","key":"a","value_b64":"/wA=","content_type":"a/b","ttl":"1m0s","if_match":"\"17\""},` +
			`{"op":"put","key":"b","value":"\u2028€","ttl":"none","if_none_match":"*"},{"op":"put","key":"a","value":"x","if_match":"*","return":"old"},` +
			`{"op":"put","key":"c","value":"y","fill_token":"5"},{"op":"delete","key":"a","if_match":"\"3\""},` +
			`{"op":"incr","key":"n","by":-5},{"op":"append","key":"l","value":"z","ttl":"1.5s"},{"op":"expire","key":"l","ttl":null},` +
			`{"op":"expire","key":"l","ttl":"1h0m0s","if_match":"*"},{"op":"touch","key":"l"}]}`
		if sent != want {
			t.Errorf("sent\n%s, want\n%s", sent, want)
		}
		if got := w.got("b:1"); !slices.Equal(got, []string{"POST /v1/batch"}) {
			t.Errorf("requests %q", got)
		}
	})
}

// TestBatchResults ensures that each result comes to what the single call would have come to, whatever the others are.
func TestBatchResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1")
		w.setTable(oneShard(1, "a"))
		w.set("a:1", batchAnswer(`{"results":[`+strings.Join([]string{
			`{"status":200,"etag":"\"7\"","value":"v","content_type":"a/b","ttl":"41.5s","shard":1,"epoch":3,"index":"5.0","served_by":"b","read":"log"}`,
			`{"status":200,"etag":"\"7\"","value_b64":"/wA=","content_type":"a/b","shard":1,"epoch":3,"index":"5.0","served_by":"b","read":"probe"}`,
			`{"status":201,"etag":"\"8\"","existed":false,"shard":1,"epoch":3,"index":"5.1","served_by":"b"}`,
			`{"status":200,"etag":"\"9\"","existed":true,"value":"","content_type":"a/b","shard":1,"epoch":3,"index":"5.2","served_by":"b","replayed":true}`,
			`{"status":204,"existed":true,"shard":1,"epoch":3,"index":"5.3","served_by":"b"}`,
			failure(404, "not-found", "no"), failure(412, "precondition-failed", "no"), failure(422, "not-an-integer", "no"), failure(413, "entry-too-large", "no"),
			failure(503, "not-attempted", "no"), failure(429, "overloaded", "no"), failure(504, "outcome-unknown", "unknown"), failure(500, "internal", "unknown"),
			failure(503, "unavailable", "no"), failure(424, "aborted", "no"), `{"status":503}`, `{"status":302}`, `{"status":200,"etag":"\"7\""}`}, ",")+`]}`))
		c := w.client(Config{})
		put := PutOp("k", []byte("v"))
		got, err := c.Batch(t.Context(), []Op{GetOp("k"), GetOp("k"), put, SwapOp("k", nil), DeleteOp("k"), GetOp("k"), put, IncrOp("k", 1), put, put, put, put, put, GetOp("k"), put, put, put, GetOp("k")})
		if err != nil {
			t.Fatal(err)
		}
		place := func(index string) Place { return Place{Shard: 1, Epoch: 3, Index: index, ServedBy: "b"} }
		for i, want := range []OpResult{
			{Entry: Entry{Value: []byte("v"), ContentType: "a/b", Version: "7", Expires: true, TTL: 41500 * time.Millisecond, ReadPath: ReadLog, Place: place("5.0")}, Result: Result{Place: place("5.0")}},
			{Entry: Entry{Value: []byte{255, 0}, ContentType: "a/b", Version: "7", ReadPath: ReadProbe, Place: place("5.0")}, Result: Result{Place: place("5.0")}},
			{Entry: Entry{Place: place("5.1")}, Result: Result{Version: "8", Place: place("5.1")}},
			{Entry: Entry{Value: []byte{}, ContentType: "a/b", Place: place("5.2")}, Result: Result{Version: "9", Existed: true, HasValue: true, Replayed: true, Place: place("5.2")}},
			{Entry: Entry{Place: place("5.3")}, Result: Result{Existed: true, Place: place("5.3")}},
		} {
			if !reflect.DeepEqual(got[i], want) {
				t.Errorf("result %d:\n%+v, want\n%+v", i, got[i], want)
			}
		}
		for i, kind := range []error{ErrNotFound, ErrPrecondition, ErrNotInteger, ErrTooLarge, ErrUnavailable, ErrUnavailable, ErrOutcomeUnknown, ErrOutcomeUnknown,
			ErrUnavailable, ErrAborted, ErrOutcomeUnknown, ErrOutcomeUnknown, ErrUnavailable} {
			check(t, fmt.Sprint("result ", 5+i), got[5+i].Err, kind)
		}
	})
}

// TestBatchEscapedValue ensures that a value as long as allowed is taken however long its JSON is.
func TestBatchEscapedValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1")
		w.setTable(oneShard(1, "a"))
		const n = 100_000
		w.set("a:1", batchAnswer(`{"results":[{"status":200,"etag":"\"7\"","value":"`+strings.Repeat(`\u0000`, n)+`","shard":1,"epoch":3,"index":"5.0","served_by":"a","read":"log"}]}`))
		got, err := w.client(Config{MaxValueBytes: n}).Batch(t.Context(), []Op{GetOp("k")})
		if err != nil || got[0].Err != nil || len(got[0].Entry.Value) != n {
			t.Errorf("%v", err)
		}
	})
}

// TestBatchAnswers ensures that an answer which is none leaves all of it unknown, once anything may have been applied, and that reads
// alone are asked again.
func TestBatchAnswers(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"too few": batchAnswer(`{"results":[]}`), "no JSON": batchAnswer(`{"results":[{`), "hung up": raw(""), "a proxy's": http.NotFound,
		"another's": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"results":[{"status":200}]}`) },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newNetwork(t, "a:1", "b:1", "c:1")
			w.setTable(oneShard(1, "a"))
			for addr := range w.nodes {
				w.set(addr, answer)
			}
			c := w.client(Config{})
			_, err := c.Batch(t.Context(), []Op{PutOp("k", nil)})
			check(t, name+", write", err, ErrOutcomeUnknown)
			if n := len(w.got("a:1")) + len(w.got("b:1")) + len(w.got("c:1")); n != 1 {
				t.Errorf("%s: %d requests for a write", name, n)
			}
			_, err = c.Batch(t.Context(), []Op{GetOp("k")})
			check(t, name+", read", err, ErrUnavailable)
			if n := len(w.got("a:1")) + len(w.got("b:1")) + len(w.got("c:1")); n < 3 {
				t.Errorf("%s: %d requests for a read", name, n)
			}
		})
	}
}

// TestBatchAtomic ensures that an atomic batch is sent again under one idempotency key while its outcome is unknown, and that only an
// answer which says that it was applied settles it then.
func TestBatchAtomic(t *testing.T) {
	for name, tc := range map[string]struct {
		second string
		want   error
	}{
		"applied":     {`{"applied":"yes","results":[{"status":201,"etag":"\"8\"","shard":1,"index":"5.1","replayed":true},{"status":204,"shard":1,"index":"5.2","existed":false}]}`, nil},
		"refused":     {`{"applied":"no","results":[` + failure(412, "precondition-failed", "no") + `,` + failure(424, "aborted", "no") + `]}`, ErrOutcomeUnknown},
		"did nothing": {`{"applied":"yes","results":[{"status":204,"shard":1,"index":"5.1","existed":false},{"status":204,"shard":1,"index":"5.2","existed":false}]}`, ErrOutcomeUnknown},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newNetwork(t, "a:1")
			w.setTable(oneShard(1, "a"))
			var keys []string
			var n atomic.Int32
			w.set("a:1", func(rw http.ResponseWriter, r *http.Request) {
				keys = append(keys, r.Header.Get("Idempotency-Key"))
				if n.Add(1) == 1 {
					problem(504, "outcome-unknown", "unknown")(rw, r)
					return
				}
				batchAnswer(tc.second)(rw, r)
			})
			c := w.client(Config{})
			ops := []Op{PutOp("{k}a", nil), DeleteOp("{k}b")}
			if name == "did nothing" {
				ops[0] = DeleteOp("{k}a")
			}
			results, err := c.Batch(t.Context(), ops, Atomic())
			check(t, name, err, tc.want)
			if err == nil && (len(results) != 2 || !results[0].Result.Replayed) {
				t.Errorf("%s: %+v", name, results)
			}
			if len(keys) < 2 || keys[0] == "" || keys[0] != keys[1] {
				t.Errorf("%s: idempotency keys %q", name, keys)
			}
		})
	}
	w := newNetwork(t, "a:1")
	w.setTable(oneShard(1, "a"))
	w.set("a:1", problem(504, "outcome-unknown", "unknown"))
	c := w.client(Config{})
	_, err := c.Batch(t.Context(), []Op{PutOp("k", nil), GetOp("k")}, Atomic())
	if check(t, "with a get", err, ErrOutcomeUnknown); len(w.got("a:1")) != 1 {
		t.Error("an atomic batch with a get was sent again")
	}
}

// TestBadBatch ensures that what no batch may have is refused before anything is sent.
func TestBadBatch(t *testing.T) {
	w := newNetwork(t, "a:1")
	c := w.client(Config{MaxValueBytes: 10})
	put := PutOp("k", nil)
	for name, tc := range map[string]struct {
		ops  []Op
		opts []BatchOption
	}{
		"an empty operation":       {[]Op{put, {}}, nil},
		"an empty key":             {[]Op{put, GetOp("")}, nil},
		"a long value":             {[]Op{PutOp("k", make([]byte, 11))}, nil},
		"a bad ttl":                {[]Op{ExpireOp("k", time.Nanosecond)}, nil},
		"a key of an operation":    {[]Op{PutOp("k", nil, WithIdempotencyKey("i"))}, nil},
		"a key without atomic":     {[]Op{put}, []BatchOption{WithIdempotencyKey("i")}},
		"a key and a get":          {[]Op{put, GetOp("k")}, []BatchOption{WithIdempotencyKey("i"), Atomic()}},
		"a fill that is no put":    {[]Op{DeleteOp("k", Filling("5"))}, nil},
		"a type of an increment":   {[]Op{IncrOp("k", 1, ContentType("a/b"))}, nil},
		"a condition that is none": {[]Op{PutOp("k", nil, IfVersion(""))}, nil},
	} {
		_, err := c.Batch(t.Context(), tc.ops, tc.opts...)
		check(t, name, err, ErrBadRequest)
	}
	if got := w.got("a:1"); len(got) > 0 {
		t.Errorf("sent %q", got)
	}
	c.Close()
	if _, err := c.Batch(t.Context(), []Op{put}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
