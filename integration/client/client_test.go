package client

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// answer is what the fake node of a test says.
type answer struct {
	status int
	header map[string]string
	body   string
}

// place is what every data answer carries.
func place(more ...string) map[string]string {
	h := map[string]string{
		"Larder-Shard": "2", "Larder-Epoch": "3", "Larder-Index": "17.4", "Larder-Served-By": "a", "Larder-Read": "probe",
	}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return h
}

func problem(typ, applied, status string) string {
	return `{"type":"` + typ + `","title":"t","status":` + status + `,"detail":"d","applied":"` + applied + `"}`
}

const problemType = "application/problem+json"

func do(t *testing.T, o history.Operation, a answer) (history.Operation, []error) {
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
	c := New(r, 5*time.Second)
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
		a    answer
		want history.Operation // the answer's fields
	}{
		{"hit", history.Operation{Kind: history.Get}, answer{200, place("ETag", `"9"`), "v"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Found: true, Read: "v", Version: 9, Path: "probe"}},
		{"hit on a follower", history.Operation{Kind: history.Get, Local: true}, answer{200, place("ETag", `"9"`, "Larder-Read", "follower"), "v"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Found: true, Read: "v", Version: 9, Path: "follower"}},
		{"old hit", history.Operation{Kind: history.GetBounded, MaxStaleness: time.Second}, answer{200, place("ETag", `"9"`, "Larder-Read", "local", "Age", "1"), "v"},
			history.Operation{Outcome: history.OK, Status: 200, Place: where, ServedBy: "a", Found: true, Read: "v", Version: 9, Path: "local", Age: 1}},
		{"not here", history.Operation{Kind: history.Get, Local: true}, answer{421, map[string]string{"Content-Type": problemType}, problem("/problems/not-here", "no", "421")},
			history.Operation{Outcome: history.Refused, Status: 421, Problem: "/problems/not-here"}},
		{"miss", history.Operation{Kind: history.Get}, answer{404, place("Content-Type", problemType), problem("/problems/not-found", "no", "404")},
			history.Operation{Outcome: history.OK, Status: 404, Place: where, ServedBy: "a", Problem: "/problems/not-found", Path: "probe"}},
		{"created", history.Operation{Kind: history.Put, Value: "v"}, answer{201, place("ETag", `"9"`), ""},
			history.Operation{Outcome: history.OK, Status: 201, Place: where, ServedBy: "a", Version: 9}},
		{"replaced", history.Operation{Kind: history.Put, Value: "v"}, answer{204, place("ETag", `"9"`), ""},
			history.Operation{Outcome: history.OK, Status: 204, Place: where, ServedBy: "a", Version: 9, Existed: true}},
		{"deleted", history.Operation{Kind: history.Delete}, answer{204, place("Larder-Existed", "?1"), ""},
			history.Operation{Outcome: history.OK, Status: 204, Place: where, ServedBy: "a", Existed: true}},
		{"conflict", history.Operation{Kind: history.Replace, IfMatch: 8}, answer{412, place("ETag", `"9"`, "Content-Type", problemType), problem("/problems/precondition-failed", "no", "412")},
			history.Operation{Outcome: history.OK, Status: 412, Place: where, ServedBy: "a", Conflict: true, Version: 9, Problem: "/problems/precondition-failed"}},
		{"unknown", history.Operation{Kind: history.Put}, answer{504, map[string]string{"Content-Type": problemType}, problem("/problems/outcome-unknown", "unknown", "504")},
			history.Operation{Outcome: history.Unknown, Status: 504, Problem: "/problems/outcome-unknown"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.op.Key = "k"
			got, defects := do(t, tt.op, tt.a)
			if len(defects) != 0 {
				t.Error(defects)
			}
			want := tt.want
			want.Kind, want.Key, want.Value, want.IfMatch, want.Node = tt.op.Kind, tt.op.Key, tt.op.Value, tt.op.IfMatch, "a"
			want.Local, want.MaxStaleness = tt.op.Local, tt.op.MaxStaleness
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
		a    answer
	}{
		{"internal error", history.Put, answer{500, map[string]string{"Content-Type": problemType}, problem("/problems/internal", "unknown", "500")}},
		{"plain text error", history.Put, answer{503, nil, "no"}},
		{"wrong status in the body", history.Put, answer{503, map[string]string{"Content-Type": problemType}, problem("/problems/no-leader", "no", "429")}},
		{"hit without an ETag", history.Get, answer{200, place(), "v"}},
		{"read by an unknown path", history.Get, answer{200, place("ETag", `"9"`, "Larder-Read", "guess"), "v"}},
		{"read by no path", history.Get, answer{200, place("ETag", `"9"`, "Larder-Read", ""), "v"}},
		{"linearizable read that may be old", history.Get, answer{200, place("ETag", `"9"`, "Larder-Read", "local"), "v"}},
		{"old read without an age", history.GetBounded, answer{200, place("ETag", `"9"`, "Larder-Read", "local"), "v"}},
		{"weak ETag", history.Get, answer{200, place("ETag", `W/"9"`), "v"}},
		{"put without an ETag", history.Put, answer{201, place(), ""}},
		{"delete without Larder-Existed", history.Delete, answer{204, place(), ""}},
		{"no place", history.Put, answer{201, map[string]string{"ETag": `"9"`, "Larder-Served-By": "a"}, ""}},
		{"place without a position", history.Put, answer{201, place("ETag", `"9"`, "Larder-Index", "17"), ""}},
		{"redirect", history.Put, answer{307, map[string]string{"Location": "http://127.0.0.1:1/"}, ""}},
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
	} {
		if got := query(&tt.op); got != tt.want {
			t.Errorf("query of %s is %q, want %q", tt.op, got, tt.want)
		}
	}
	got, defects := do(t, history.Operation{Kind: history.Get, Key: "k", Local: true},
		answer{200, place("ETag", `"9"`, "Larder-Served-By", "b"), "v"})
	if len(defects) != 1 || got.Outcome != history.Unknown {
		t.Errorf("a read that was passed on: outcome %s, defects %v", got.Outcome, defects)
	}
}

// TestNoAnswer ensures that a write without an answer is unknown, except when nothing was sent.
func TestNoAnswer(t *testing.T) {
	r := history.NewRecorder()
	c := New(r, 100*time.Millisecond)
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
