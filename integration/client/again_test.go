package client

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// script answers one request after the other; status 0 is no answer. It returns a function that tells which came.
func script(t *testing.T, answers ...said) (Target, func() []*http.Request) {
	t.Helper()
	var mu sync.Mutex
	var requests []*http.Request
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		n := len(requests)
		requests = append(requests, r)
		mu.Unlock()
		if n >= len(answers) || answers[n].status == 0 {
			panic(http.ErrAbortHandler)
		}
		for name, value := range answers[n].header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(answers[n].status)
		io.WriteString(w, answers[n].body)
	}))
	t.Cleanup(node.Close)
	return Target{Node: "a", URL: node.URL}, func() []*http.Request {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(requests)
	}
}

// TestDoAgain ensures that an operation which is sent again ends as the interface lets one conclude: a change that was made
// settles it, and after an attempt without an answer nothing else does.
func TestDoAgain(t *testing.T) {
	lost := said{}
	noLeader := said{503, refusal(), problem("/problems/no-leader", "no", "503")}
	stored := said{201, place("ETag", `"9"`), ""}
	replayed := said{201, place("ETag", `"9"`, "Idempotency-Replayed", "?1"), ""}
	conflict := said{412, place("ETag", `"9"`, "Content-Type", problemType), problem("/problems/precondition-failed", "no", "412")}
	tooOld := said{422, refusal(), problem(history.ProblemKeyTooOld, "unknown", "422")}
	gone := said{204, place("Larder-Existed", "?0"), ""}
	removed := said{204, place("Larder-Existed", "?1"), ""}
	for _, tt := range []struct {
		name     string
		kind     history.Kind
		answers  []said
		attempts int
		want     history.Outcome
	}{
		{"at once", history.Put, []said{stored}, 1, history.OK},
		{"after a refusal", history.Put, []said{noLeader, stored}, 2, history.OK},
		{"after an attempt without an answer", history.Put, []said{lost, replayed}, 2, history.OK},
		{"refused to the end", history.Put, []said{noLeader, noLeader, noLeader}, 3, history.Refused},
		{"refused at the end", history.Put, []said{lost, noLeader, noLeader}, 3, history.Unknown},
		{"never answered", history.Put, []said{lost, lost, lost}, 3, history.Unknown},
		{"a conflict", history.Create, []said{noLeader, conflict}, 2, history.OK},
		{"a conflict that may be with itself or with what it overtook", history.Create, []said{lost, conflict}, 2, history.Unknown},
		{"nothing to delete", history.Delete, []said{gone}, 1, history.OK},
		{"nothing to delete any more", history.Delete, []said{lost, gone}, 2, history.Unknown},
		{"deleted the second time", history.Delete, []said{lost, removed}, 2, history.OK},
		{"too late", history.Put, []said{lost, tooOld}, 2, history.Unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target, requests := script(t, tt.answers...)
			r := history.NewRecorder()
			c := New(Config{Recorder: r, Timeout: 5 * time.Second})
			defer c.Close()
			o := c.DoAgain(t.Context(), func(int) (Target, time.Duration) { return target, 0 }, 3,
				history.Operation{Kind: tt.kind, Key: "k", Value: "v", IdempotencyKey: "i-1"})
			if o.Outcome != tt.want || o.Attempts != tt.attempts || len(requests()) != tt.attempts {
				t.Errorf("%s after %d attempts, %d requests; want %s after %d", o.Outcome, o.Attempts, len(requests()), tt.want, tt.attempts)
			}
			if o.Outcome != history.OK && (o.Conflict || o.Version != 0 || o.Existed || o.ServedBy != "") {
				t.Errorf("what is not known has an answer: %+v", o)
			}
			if ops := r.Operations(); len(ops) != 1 || ops[0] != o || len(r.Defects()) != 0 {
				t.Errorf("recorded %v, defects %v", ops, r.Defects())
			}
			for _, req := range requests() {
				if got := req.Header.Get("Idempotency-Key"); got != `"i-1"` {
					t.Errorf("sent under the key %s", got)
				}
			}
		})
	}
}

// TestDoAgainEnds ensures that the end of the context cuts a pause short, and that the operation is then sent once more.
func TestDoAgainEnds(t *testing.T) {
	target, requests := script(t, said{}, said{201, place("ETag", `"9"`, "Idempotency-Replayed", "?1"), ""})
	ctx, cancel := context.WithCancel(t.Context())
	c := New(Config{Recorder: history.NewRecorder(), Timeout: 5 * time.Second})
	defer c.Close()
	o := c.DoAgain(ctx, func(n int) (Target, time.Duration) {
		if n == 1 {
			return target, 0
		}
		cancel()
		return target, time.Hour
	}, 5, history.Operation{Kind: history.Put, Key: "k", Value: "v", IdempotencyKey: "i"})
	if o.Outcome != history.OK || len(requests()) != 2 {
		t.Errorf("%s after %d requests", o, len(requests()))
	}
}

// TestRepeat ensures that a second answer under a key which differs from the first is a defect.
func TestRepeat(t *testing.T) {
	first := history.Operation{Kind: history.Swap, Key: "k", Value: "v", IdempotencyKey: "i", Outcome: history.OK, Existed: true, Found: true, Read: "w", Version: 9}
	again := func(more ...string) map[string]string {
		return place(append([]string{"Larder-Existed", "?1", "Idempotency-Replayed", "?1", "ETag", `"9"`}, more...)...)
	}
	for _, tt := range []struct {
		name     string
		a        said
		answered bool
		defects  int
	}{
		{"the same", said{200, again(), "w"}, true, 0},
		{"the same, without the value", said{204, again(), ""}, true, 0},
		{"refused", said{503, refusal(), problem("/problems/no-leader", "no", "503")}, false, 0},
		{"another value", said{200, again(), "u"}, true, 1},
		{"another version", said{200, again("ETag", `"10"`), "w"}, true, 1},
		{"done again", said{200, again("Idempotency-Replayed", ""), "w"}, true, 1},
		{"nothing was there", said{201, again("Larder-Existed", "?0"), ""}, true, 1},
	} {
		target, _ := script(t, tt.a)
		r := history.NewRecorder()
		c := New(Config{Recorder: r, Timeout: 5 * time.Second})
		if got := c.Repeat(t.Context(), target, first); got != tt.answered || len(r.Defects()) != tt.defects || len(r.Operations()) != 0 {
			t.Errorf("%s: answered %t, defects %v, operations %v", tt.name, got, r.Defects(), r.Operations())
		}
		c.Close()
	}
}

// TestElsewhere ensures that a client goes where a node sends it, and to no other key.
func TestElsewhere(t *testing.T) {
	stored := said{201, place("ETag", `"9"`, "Larder-Served-By", "b"), ""}
	misdirect := said{421, refusal("Larder-Leader", "b", "Larder-Epoch", "3"), problem("/problems/misdirected", "no", "421")}
	const path = "/v1/kv/k"
	for _, tt := range []struct {
		name     string
		route    string
		answer   func(other string) said
		then     said
		outcome  history.Outcome
		hops     int
		defects  int
		unlisted bool // the other node is not among the targets
	}{
		{"redirected", "redirect", func(other string) said {
			return said{307, map[string]string{"Location": other + path + "?route=redirect"}, ""}
		}, stored, history.OK, 1, 0, false},
		{"redirected to a stranger", "redirect", func(other string) said {
			return said{307, map[string]string{"Location": other + path + "?route=redirect"}, ""}
		}, stored, history.OK, 1, 0, true},
		{"redirected to another key", "redirect", func(other string) said {
			return said{307, map[string]string{"Location": other + path + "2?route=redirect"}, ""}
		}, stored, history.Unknown, 0, 1, false},
		{"redirected without being asked", "", func(other string) said {
			return said{307, map[string]string{"Location": other + path, "X-Content-Type-Options": "nosniff"}, ""}
		}, stored, history.Unknown, 0, 1, false},
		{"named", "local", func(string) said { return misdirect }, stored, history.OK, 1, 0, false},
		{"named, but nobody knows it", "local", func(string) said { return misdirect }, stored, history.Refused, 0, 0, true},
		{"served by another than was asked", "local", func(string) said { return misdirect }, said{201, place("ETag", `"9"`), ""}, history.Unknown, 1, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other, _ := script(t, tt.then)
			other.Node = "b"
			first, _ := script(t, tt.answer(other.URL))
			r := history.NewRecorder()
			cfg := Config{Recorder: r, Timeout: 5 * time.Second, Targets: []Target{first, other}}
			if tt.unlisted {
				cfg.Targets = cfg.Targets[:1]
			}
			c := New(cfg)
			defer c.Close()
			o := c.Do(t.Context(), first, history.Operation{Kind: history.Put, Key: "k", Value: "v", Route: tt.route})
			if o.Outcome != tt.outcome || o.Hops != tt.hops || len(r.Defects()) != tt.defects || o.Node != "a" {
				t.Errorf("%s, %d hops, defects %v", o, o.Hops, r.Defects())
			}
		})
	}
}

// TestCircle ensures that nodes which send a client to each other and back are left, and that nothing has happened then.
func TestCircle(t *testing.T) {
	var node *httptest.Server
	var asked atomic.Int64
	node = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Location", node.URL+r.URL.RequestURI())
		w.WriteHeader(307)
	}))
	defer node.Close()
	r := history.NewRecorder()
	c := New(Config{Recorder: r, Timeout: 5 * time.Second})
	defer c.Close()
	o := c.Do(t.Context(), Target{Node: "a", URL: node.URL}, history.Operation{Kind: history.Put, Key: "k", Value: "v", Route: "redirect"})
	if o.Outcome != history.Refused || asked.Load() != maxHops+1 || len(r.Defects()) != 0 {
		t.Errorf("%s after %d requests, defects %v", o, asked.Load(), r.Defects())
	}
}

// TestClosedConnections ensures that a write does not go out on a connection which the node has closed: whether it arrived
// would be unknown.
func TestClosedConnections(t *testing.T) {
	stored := said{201, place("ETag", `"9"`), ""}
	target, requests := script(t, slices.Repeat([]said{stored}, 20)...)
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range stored.header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(stored.status)
	}))
	defer node.Close()
	r := history.NewRecorder()
	c := New(Config{Recorder: r, Timeout: 5 * time.Second})
	defer c.Close()
	for range 20 {
		c.Do(t.Context(), target, history.Operation{Kind: history.Put, Key: "k", Value: "v"})
	}
	ports := map[string]bool{}
	for _, req := range requests() {
		ports[req.RemoteAddr] = true
	}
	if len(ports) != 1 {
		t.Errorf("20 requests took %d connections", len(ports))
	}
	own := Target{Node: "a", URL: node.URL}
	for range 20 {
		if o := c.Do(t.Context(), own, history.Operation{Kind: history.Put, Key: "k", Value: "v"}); o.Outcome != history.OK {
			t.Fatal(o)
		}
		node.CloseClientConnections()
		// The end of the connection is on its way through the kernel: until it has come, nobody can know.
		conn := c.conns.take(own.addr())
		for deadline := time.Now().Add(5 * time.Second); conn != nil && quiet(conn.Conn) && time.Now().Before(deadline); {
			<-time.After(time.Millisecond)
		}
		if conn != nil {
			c.conns.put(own.addr(), conn)
		}
	}
}

// TestSettings ensures that a change of a setting is what its answer shows, and of unknown outcome where that is of a later one.
func TestSettings(t *testing.T) {
	h := func(version string) map[string]string {
		return map[string]string{"ETag": `"` + version + `"`, "X-Content-Type-Options": "nosniff"}
	}
	body := func(ttl string) string { return `{"cache-memory":"60%","replicas":3,"default-ttl":"` + ttl + `"}` }
	at := func(version uint64) history.Place { return history.Place{Epoch: 1, Index: version} }
	for _, tt := range []struct {
		name    string
		op      history.Operation
		a       said
		want    history.Operation
		defects int
	}{
		{"read", history.Operation{Kind: history.GetAny}, said{200, h("9"), body("5s")},
			history.Operation{Kind: history.GetAny, Outcome: history.OK, Found: true, Read: "5s", Version: 9, Place: at(9)}, 0},
		{"read from before", history.Operation{Kind: history.GetAny}, said{200, h("4"), body("none")},
			history.Operation{Kind: history.GetAny, Outcome: history.OK, Place: at(4)}, 0},
		{"change", history.Operation{Kind: history.Put, Value: "5s"}, said{200, h("9"), body("5s")},
			history.Operation{Kind: history.Put, Outcome: history.OK, Existed: true, Version: 9, Place: at(9)}, 0},
		{"first change", history.Operation{Kind: history.Create, Value: "5s"}, said{200, h("9"), body("5s")},
			history.Operation{Kind: history.Create, Outcome: history.OK, Version: 9, Place: at(9)}, 0},
		{"first change, perhaps", history.Operation{Kind: history.Create, Value: "5s"}, said{},
			history.Operation{Kind: history.Put, Outcome: history.Unknown}, 0},
		{"change that another followed", history.Operation{Kind: history.Put, Value: "5s"}, said{200, h("10"), body("6s")},
			history.Operation{Kind: history.Put, Outcome: history.Unknown}, 0},
		{"condition that may be old", history.Operation{Kind: history.Replace, Value: "5s", IfMatch: 8}, said{412, refusal("ETag", `"9"`), problem("/problems/precondition-failed", "no", "412")},
			history.Operation{Kind: history.Replace, Outcome: history.Refused}, 0},
		{"without a version", history.Operation{Kind: history.GetAny}, said{200, map[string]string{"X-Content-Type-Options": "nosniff"}, body("5s")},
			history.Operation{Kind: history.GetAny, Outcome: history.Unknown}, 1},
		{"without the setting", history.Operation{Kind: history.GetAny}, said{200, h("9"), "{}"},
			history.Operation{Kind: history.GetAny, Outcome: history.Unknown}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target, requests := script(t, tt.a)
			r := history.NewRecorder()
			c := New(Config{Recorder: r, Timeout: 5 * time.Second})
			defer c.Close()
			tt.op.Key = SettingPrefix + "default-ttl"
			got := c.DoSetting(t.Context(), target, 5, tt.op)
			if len(r.Defects()) != tt.defects {
				t.Error(r.Defects())
			}
			want := tt.want
			if want.Outcome == history.OK && got.ServedBy != "a" {
				t.Errorf("served by %q", got.ServedBy)
			}
			// A read of unknown outcome says nothing, whatever its fields are.
			if got.Outcome != want.Outcome || got.Kind != want.Kind || want.Outcome == history.OK &&
				(got.Version != want.Version || got.Place != want.Place || got.Found != want.Found || got.Read != want.Read || got.Existed != want.Existed) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if m := requests()[0].Header.Get("If-Match"); tt.op.IfMatch != 0 && m != `"8"` {
				t.Errorf("If-Match is %s", m)
			}
		})
	}
}

// TestTable ensures that a table is read with its version, and that one without is a defect.
func TestTable(t *testing.T) {
	good := `{"cluster":"c","version":7,"shards":[{"id":1,"start":0,"end":16384,"epoch":3,"leader":"a","members":[{"node":"a","role":"voter"}]}]}`
	headers := map[string]string{"ETag": `"7"`, "X-Content-Type-Options": "nosniff"}
	target, _ := script(t, said{200, headers, good}, said{200, headers, strings.Replace(good, "7", "8", 1)}, said{503, refusal(), problem("/problems/unavailable", "no", "503")})
	r := history.NewRecorder()
	c := New(Config{Recorder: r, Timeout: 5 * time.Second})
	defer c.Close()
	table, ok := c.Table(t.Context(), target)
	if !ok || table.Version != 7 || len(table.Shards) != 1 || table.Shards[0].End != 16384 || len(table.Shards[0].Members) != 1 {
		t.Errorf("the table is %+v", table)
	}
	if _, ok := c.Table(t.Context(), target); ok || len(r.Defects()) != 1 {
		t.Errorf("a table of version 8 with ETag 7: defects %v", r.Defects())
	}
	if _, ok := c.Table(t.Context(), target); ok || len(r.Defects()) != 1 {
		t.Errorf("no table: defects %v", r.Defects())
	}
}
