package client

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// said is what the fake node of a test says.
type said struct {
	status int
	header map[string]string
	body   string
}

// place is what every data answer carries.
func place(more ...string) map[string]string {
	h := map[string]string{
		"X-Content-Type-Options": "nosniff",
		"Larder-Shard":           "2", "Larder-Epoch": "3", "Larder-Index": "17.4", "Larder-Served-By": "a", "Larder-Read": "probe", "Cache-Status": "larder; hit",
	}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return h
}

// refusal is what every problem carries.
func refusal(more ...string) map[string]string {
	h := map[string]string{"X-Content-Type-Options": "nosniff", "Content-Type": problemType, "Retry-After": "1"}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return h
}

func problem(typ, applied, status string) string {
	etag := ""
	if status == "412" {
		etag = `,"etag":"\"9\""`
	}
	return `{"type":"` + typ + `","title":"t","status":` + status + `,"detail":"d","applied":"` + applied + `"` + etag + `}`
}

const problemType = "application/problem+json"

func do(t *testing.T, o history.Operation, a said) (history.Operation, []error) {
	t.Helper()
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for name, value := range a.header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(a.status)
		io.WriteString(w, a.body)
	}))
	defer node.Close()
	r := history.NewRecorder()
	c := New(Config{Recorder: r, Timeout: 5 * time.Second, Targets: []Target{{Node: "a", URL: node.URL}}})
	defer c.Close()
	got := c.Do(t.Context(), Target{Node: "a", URL: node.URL}, o)
	if ops := r.Operations(); len(ops) != 1 || ops[0] != got {
		t.Errorf("recorded %v, want %v", ops, got)
	}
	return got, r.Defects()
}

// TestAnswers ensures that each field of an answer lands in the operation.
func TestAnswers(t *testing.T) {
	where := history.Place{Shard: 2, Epoch: 3, Index: 17, Position: 4}
	for _, tt := range []struct {
		name string
		op   history.Operation
		a    said
		want history.Operation // the answer's fields
	}{
		{"hit", history.Operation{Kind: history.Get}, said{200, place("ETag", `"9"`), "v"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Found: true, Read: "v", Version: 9, Path: "probe"}},
		{"hit on a follower", history.Operation{Kind: history.Get, Local: true}, said{200, place("ETag", `"9"`, "Larder-Read", "follower"), "v"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Found: true, Read: "v", Version: 9, Path: "follower"}},
		{"old hit", history.Operation{Kind: history.GetBounded, MaxStaleness: time.Second}, said{200, place("ETag", `"9"`, "Larder-Read", "local", "Age", "1"), "v"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Found: true, Read: "v", Version: 9, Path: "local", Age: 1}},
		{"not here", history.Operation{Kind: history.Get, Local: true}, said{421, refusal("Larder-Leader", "b", "Larder-Epoch", "3"), problem("/problems/not-here", "no", "421")},
			history.Operation{Outcome: history.Refused, Status: 421, Problem: "/problems/not-here"}},
		{"miss", history.Operation{Kind: history.Get}, said{404, place("Content-Type", problemType, "Cache-Status", "larder; detail=evicted"), problem("/problems/not-found", "no", "404")},
			history.Operation{Outcome: history.OK, Status: 404, Place: where, ServedBy: "a", Problem: "/problems/not-found", Path: "probe", Miss: "evicted"}},
		{"hit that will end", history.Operation{Kind: history.Get}, said{200, place("ETag", `"9"`, "Cache-Status", "larder; hit; ttl=41"), "v"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Found: true, Read: "v", Version: 9, Path: "probe", Timed: true, Left: 41 * time.Second}},
		{"miss with the right to fill", history.Operation{Kind: history.Get, Fill: time.Second}, said{404, place("Content-Type", problemType, "Cache-Status", "larder; detail=absent", "Larder-Fill", "77"), problem("/problems/not-found", "no", "404")},
			history.Operation{Outcome: history.OK, Status: 404, Place: where, ServedBy: "a", Problem: "/problems/not-found", Path: "probe", Miss: "absent", FillToken: 77}},
		{"incremented", history.Operation{Kind: history.Incr, Delta: 3}, said{200, place("ETag", `"9"`), "-12"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Version: 9, Number: -12}},
		{"appended", history.Operation{Kind: history.Append, Value: "v"}, said{200, place("ETag", `"9"`), "wv"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Version: 9, Found: true, Read: "wv"}},
		{"appended before", history.Operation{Kind: history.Append, Value: "v", IdempotencyKey: "i"}, said{204, place("ETag", `"9"`, "Idempotency-Replayed", "?1"), ""},
			history.Operation{Outcome: history.OK, Status: 204, Place: where, ServedBy: "a", Version: 9, Replayed: true}},
		{"swapped", history.Operation{Kind: history.Swap, Value: "v"}, said{200, place("ETag", `"9"`, "Larder-Existed", "?1"), "w"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Version: 9, Existed: true, Found: true, Read: "w"}},
		{"swapped with nothing", history.Operation{Kind: history.Swap, Value: "v"}, said{201, place("ETag", `"9"`, "Larder-Existed", "?0"), ""},
			history.Operation{Outcome: history.OK, Status: 201, Place: where, ServedBy: "a", Version: 9}},
		{"time to live set", history.Operation{Kind: history.Expire, TTL: time.Second}, said{204, place("ETag", `"9"`), ""},
			history.Operation{Outcome: history.OK, Status: 204, Place: where, ServedBy: "a", Version: 9, Existed: true}},
		{"nothing to touch", history.Operation{Kind: history.Touch}, said{404, place("Content-Type", problemType), problem("/problems/not-found", "no", "404")},
			history.Operation{Outcome: history.OK, Status: 404, Place: where, ServedBy: "a", Problem: "/problems/not-found"}},
		{"fill refused by a value", history.Operation{Kind: history.Create, FillToken: 5, Value: "v"}, said{412, place("ETag", `"9"`, "Content-Type", problemType), problem("/problems/precondition-failed", "no", "412")},
			history.Operation{Outcome: history.OK, Status: 412, Place: where, ServedBy: "a", Conflict: true, Version: 9, FillToken: 5, Problem: "/problems/precondition-failed"}},
		{"fill refused by nothing", history.Operation{Kind: history.Create, FillToken: 5, Value: "v"}, said{412, place("Content-Type", problemType), strings.ReplaceAll(problem("/problems/precondition-failed", "no", "412"), `,"etag":"\"9\""`, "")},
			history.Operation{Outcome: history.Refused, Status: 412, Place: where, ServedBy: "a", FillToken: 5, Problem: "/problems/precondition-failed"}},
		{"key too old", history.Operation{Kind: history.Put, IdempotencyKey: "i"}, said{422, refusal(), problem(history.ProblemKeyTooOld, "unknown", "422")},
			history.Operation{Outcome: history.Unknown, Status: 422, Problem: history.ProblemKeyTooOld}},
		{"created", history.Operation{Kind: history.Put, Value: "v"}, said{201, place("ETag", `"9"`), ""},
			history.Operation{Outcome: history.OK, Status: 201, Place: where, ServedBy: "a", Version: 9}},
		{"replaced", history.Operation{Kind: history.Put, Value: "v"}, said{204, place("ETag", `"9"`), ""},
			history.Operation{Outcome: history.OK, Status: 204, Place: where, ServedBy: "a", Version: 9, Existed: true}},
		{"deleted", history.Operation{Kind: history.Delete}, said{204, place("Larder-Existed", "?1"), ""},
			history.Operation{Outcome: history.OK, Status: 204, Place: where, ServedBy: "a", Existed: true}},
		{"conflict", history.Operation{Kind: history.Replace, IfMatch: 8}, said{412, place("ETag", `"9"`, "Content-Type", problemType), problem("/problems/precondition-failed", "no", "412")},
			history.Operation{Outcome: history.OK, Status: 412, Place: where, ServedBy: "a", Conflict: true, Version: 9, Problem: "/problems/precondition-failed"}},
		{"unknown", history.Operation{Kind: history.Put}, said{504, refusal(), problem("/problems/outcome-unknown", "unknown", "504")},
			history.Operation{Outcome: history.Unknown, Status: 504, Problem: "/problems/outcome-unknown"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.op.Key = "k"
			got, defects := do(t, tt.op, tt.a)
			if len(defects) != 0 {
				t.Error(defects)
			}
			want, asked := tt.want, tt.op
			want.Kind, want.Key, want.Value, want.IfMatch, want.Node = asked.Kind, asked.Key, asked.Value, asked.IfMatch, "a"
			want.Local, want.MaxStaleness, want.Fill = asked.Local, asked.MaxStaleness, asked.Fill
			want.Delta, want.TTL, want.IdempotencyKey = asked.Delta, asked.TTL, asked.IdempotencyKey
			want.Invoke, want.Return = got.Invoke, got.Return
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestDefects ensures that an answer which breaks the interface is told, and trusted in nothing.
func TestDefects(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind history.Kind
		a    said
	}{
		{"internal error", history.Put, said{500, refusal(), problem("/problems/internal", "unknown", "500")}},
		{"plain text error", history.Put, said{503, nil, "no"}},
		{"wrong status in the body", history.Put, said{503, refusal(), problem("/problems/no-leader", "no", "429")}},
		{"hit without an ETag", history.Get, said{200, place(), "v"}},
		{"read by an unknown path", history.Get, said{200, place("ETag", `"9"`, "Larder-Read", "guess"), "v"}},
		{"read by no path", history.Get, said{200, place("ETag", `"9"`, "Larder-Read", ""), "v"}},
		{"linearizable read that may be old", history.Get, said{200, place("ETag", `"9"`, "Larder-Read", "local"), "v"}},
		{"old read without an age", history.GetBounded, said{200, place("ETag", `"9"`, "Larder-Read", "local"), "v"}},
		{"weak ETag", history.Get, said{200, place("ETag", `W/"9"`), "v"}},
		{"put without an ETag", history.Put, said{201, place(), ""}},
		{"delete without Larder-Existed", history.Delete, said{204, place(), ""}},
		{"no place", history.Put, said{201, map[string]string{"ETag": `"9"`, "Larder-Served-By": "a"}, ""}},
		{"place without a position", history.Put, said{201, place("ETag", `"9"`, "Larder-Index", "17"), ""}},
		{"refusal without Retry-After", history.Put, said{503, refusal("Retry-After", ""), problem("/problems/no-leader", "no", "503")}},
		{"not here, but nowhere else", history.Put, said{421, refusal("Larder-Leader", ""), problem("/problems/misdirected", "no", "421")}},
		{"problem without a detail", history.Put, said{503, refusal(), `{"type":"/problems/no-leader","title":"t","status":503,"applied":"no"}`}},
		{"conflict with two versions", history.Replace, said{412, place("ETag", `"8"`, "Content-Type", problemType), problem("/problems/precondition-failed", "no", "412")}},
		{"value that a browser may take for a page", history.Get, said{200, place("ETag", `"9"`, "X-Content-Type-Options", ""), "v"}},
		{"hit that says miss", history.Get, said{200, place("ETag", `"9"`, "Cache-Status", "larder; detail=absent"), "v"}},
		{"hit with a time to live that is none", history.Get, said{200, place("ETag", `"9"`, "Cache-Status", "larder; hit; ttl=soon"), "v"}},
		{"miss without a reason", history.Get, said{404, place("Content-Type", problemType), problem("/problems/not-found", "no", "404")}},
		{"right to fill that nobody asked for", history.Get, said{404, place("Content-Type", problemType, "Cache-Status", "larder; detail=absent", "Larder-Fill", "77"), problem("/problems/not-found", "no", "404")}},
		{"answer of an earlier attempt that there was not", history.Put, said{204, place("ETag", `"9"`, "Idempotency-Replayed", "?1"), ""}},
		{"increment to a word", history.Incr, said{200, place("ETag", `"9"`), "many"}},
		{"swap that denies what it shows", history.Swap, said{200, place("ETag", `"9"`, "Larder-Existed", "?0"), "w"}},
		{"expiry without an ETag", history.Expire, said{204, place(), ""}},
		{"touch of nothing with an ETag", history.Touch, said{404, place("Content-Type", problemType, "ETag", `"9"`), strings.Replace(problem("/problems/not-found", "no", "404"), "}", `,"etag":"\"9\""}`, 1)}},
		{"redirect", history.Put, said{307, map[string]string{"Location": "http://127.0.0.1:1/"}, ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, defects := do(t, history.Operation{Kind: tt.kind, Key: "k"}, tt.a)
			if len(defects) != 1 || got.Outcome != history.Unknown {
				t.Errorf("outcome %s, defects %v, want unknown and one", got.Outcome, defects)
			}
		})
	}
}

// TestQuery ensures that each read says how old it may be and whether it may be passed on, and that a
// node which passed it on all the same is found out.
func TestQuery(t *testing.T) {
	for _, tt := range []struct {
		op   history.Operation
		want string
	}{
		{history.Operation{Kind: history.Get}, ""},
		{history.Operation{Kind: history.Put}, ""},
		{history.Operation{Kind: history.Get, Local: true}, "?route=local"},
		{history.Operation{Kind: history.GetBounded, MaxStaleness: time.Second, Local: true}, "?consistency=bounded&max-staleness=1s&route=local"},
		{history.Operation{Kind: history.GetAny}, "?consistency=any"},
		{history.Operation{Kind: history.Get, NoTouch: true, Fill: 50 * time.Millisecond}, "?fill=50ms&touch=false"},
		{history.Operation{Kind: history.Put, TTL: 1500 * time.Millisecond, Route: "redirect"}, "?route=redirect&ttl=1.5s"},
		{history.Operation{Kind: history.Swap}, "?return=old"},
		{history.Operation{Kind: history.Incr, Delta: -3}, "?by=-3&op=incr"},
		{history.Operation{Kind: history.Append}, "?op=append"},
		{history.Operation{Kind: history.Touch}, "?op=touch"},
		{history.Operation{Kind: history.Expire, TTL: time.Second}, ""},
	} {
		if got := query(&tt.op); got != tt.want {
			t.Errorf("query of %s is %q, want %q", tt.op, got, tt.want)
		}
	}
	got, defects := do(t, history.Operation{Kind: history.Get, Key: "k", Local: true},
		said{200, place("ETag", `"9"`, "Larder-Served-By", "b"), "v"})
	if len(defects) != 1 || got.Outcome != history.Unknown {
		t.Errorf("a read that was passed on: outcome %s, defects %v", got.Outcome, defects)
	}
}

// TestNoAnswer ensures that a write without an answer is unknown, except when nothing was sent.
func TestNoAnswer(t *testing.T) {
	r := history.NewRecorder()
	c := New(Config{Recorder: r, Timeout: 100 * time.Millisecond})
	defer c.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := Target{Node: "a", URL: "http://" + l.Addr().String()} // the kernel accepts, nobody answers
	put := history.Operation{Kind: history.Put, Key: "k", Value: "v"}
	if o := c.Do(t.Context(), silent, put); o.Outcome != history.Unknown {
		t.Errorf("a write that nobody answered: %s", o)
	}
	if o := c.Do(t.Context(), silent, history.Operation{Kind: history.Get, Key: "k"}); o.Outcome != history.Refused {
		t.Errorf("a read that nobody answered: %s", o)
	}
	l.Close()
	if o := c.Do(t.Context(), silent, put); o.Outcome != history.Refused {
		t.Errorf("a write that nobody listened for: %s", o)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if o := c.Do(ended, silent, put); o.Outcome != history.Refused {
		t.Errorf("a write that was cancelled before it was sent: %s", o)
	}
	if d := r.Defects(); len(d) != 0 {
		t.Error(d)
	}
}

// TestKeyURL ensures that nothing in a key has a meaning in the URL.
func TestKeyURL(t *testing.T) {
	if got, want := KeyURL("http://h", "a/../%2F\x00é"), "http://h/v1/kv/a%2F%2E%2E%2F%252F%00%C3%A9"; got != want {
		t.Errorf("KeyURL = %s, want %s", got, want)
	}
}
