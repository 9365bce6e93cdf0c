package workload

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/history"
)

// fake is a correct cache of one process: one map under one lock. With stale set, some reads show
// what was there before the last change.
type fake struct {
	stale bool
	name  string

	mu      sync.Mutex // guards what follows
	entries map[string]entry
	before  map[string]entry
	version uint64
	reads   int
}

type entry struct {
	value   string
	version uint64
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	key := strings.TrimPrefix(r.URL.EscapedPath(), "/v1/kv/")
	f.mu.Lock()
	defer f.mu.Unlock()
	old, present := f.entries[key]
	h := w.Header()
	h.Set("Larder-Shard", "1")
	h.Set("Larder-Epoch", "2")
	h.Set("Larder-Served-By", f.name)
	tag := func(version uint64) { h.Set("ETag", fmt.Sprintf(`"%d"`, version)) }
	if old.version != 0 {
		tag(old.version)
	}
	fail := func(status int, typ string) {
		h.Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"type":%q,"status":%d,"applied":"no"}`, typ, status)
	}
	if r.Method == http.MethodGet {
		h.Set("Larder-Read", "probe")
		if r.URL.Query().Get("consistency") != "" {
			h.Set("Larder-Read", "local")
			h.Set("Age", "0")
		}
		h.Set("Larder-Index", fmt.Sprintf("%d.0", f.version))
		f.reads++
		if was, ok := f.before[key]; f.stale && ok && f.reads%5 == 0 {
			old, present = was, true
			tag(old.version)
		}
		if !present {
			fail(404, "/problems/not-found")
			return
		}
		io.WriteString(w, old.value)
		return
	}
	f.version++
	h.Set("Larder-Index", fmt.Sprintf("%d.0", f.version))
	match := r.Header.Get("If-Match")
	if match != "" && match != fmt.Sprintf(`"%d"`, old.version) || r.Header.Get("If-None-Match") == "*" && present {
		fail(412, "/problems/precondition-failed")
		return
	}
	if present {
		f.before[key] = old
	}
	if r.Method == http.MethodDelete {
		h.Del("ETag")
		delete(f.entries, key)
		existed := map[bool]string{true: "?1", false: "?0"}[present]
		h.Set("Larder-Existed", existed)
		w.WriteHeader(204)
		return
	}
	f.entries[key] = entry{string(body), f.version}
	tag(f.version)
	w.WriteHeader(map[bool]int{true: 204, false: 201}[present])
}

// run runs a load against f until it did enough operations, and returns the history.
func run(t *testing.T, f *fake) ([]history.Operation, *Load) {
	t.Helper()
	f.entries, f.before, f.version, f.name = map[string]entry{}, map[string]entry{}, 1, "a"
	node := httptest.NewServer(f)
	t.Cleanup(node.Close)
	r := history.NewRecorder()
	load := Start(t.Context(), r, Config{
		Targets: []client.Target{{Node: "a", URL: node.URL}, {Node: "a", URL: node.URL}},
		Pinned:  3, Roaming: 2, Keys: 3, Prefix: "k", Timeout: 10 * time.Second, Think: 0, Seed: 1,
	})
	const enough = 2000
	deadline := time.Now().Add(30 * time.Second)
	for load.Done() < enough && time.Now().Before(deadline) {
		<-time.After(5 * time.Millisecond)
	}
	load.Stop()
	if load.Done() < enough {
		t.Fatalf("%d operations in 30 s", load.Done())
	}
	for _, err := range r.Defects() {
		t.Error(err)
	}
	return r.Operations(), load
}

// TestShape ensures that a load exercises every kind of operation with every answer, in the shape
// that it promises, and that a correct cache passes all checks.
func TestShape(t *testing.T) {
	ops, load := run(t, &fake{})
	perKey := map[string]int{}
	values := map[string]bool{}
	answers := map[string]int{}
	for _, o := range ops {
		perKey[o.Key]++
		if o.Kind.Stores() {
			if values[o.Value] {
				t.Errorf("value %q is used twice", o.Value)
			}
			values[o.Value] = true
		}
		answers[fmt.Sprintf("%s conflict=%t found=%t", o.Kind, o.Conflict, o.Found)]++
		answers[fmt.Sprintf("%s local=%t", o.Kind, o.Local)]++
	}
	for _, want := range []string{
		"get conflict=false found=true", "get conflict=false found=false", "put conflict=false found=false",
		"get local=true", "get local=false", "get-bounded local=true", "get-bounded local=false", "get-any local=true", "get-any local=false",
		"create conflict=true found=false", "create conflict=false found=false",
		"replace conflict=true found=false", "replace conflict=false found=false",
		"delete conflict=false found=false",
		"delete-if conflict=true found=false", "delete-if conflict=false found=false",
	} {
		if answers[want] == 0 {
			t.Errorf("no %s in %v", want, answers)
		}
	}
	for key, n := range perKey {
		if n > opsPerKey+concurrency {
			t.Errorf("%d operations on key %s", n, key)
		}
	}
	if got := len(load.Keys()); got < len(perKey) || got < 10 {
		t.Errorf("%d keys listed, %d used", got, len(perKey))
	}
	r := check.Linearizable(ops, 10*time.Second)
	r.Violations = append(r.Violations, check.Certificate(ops)...)
	r.Violations = append(r.Violations, check.Bounded(ops)...)
	r.Violations = append(r.Violations, check.Any(ops)...)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// TestStaleCache ensures that the load makes a stale cache show itself.
func TestStaleCache(t *testing.T) {
	ops, _ := run(t, &fake{stale: true})
	r := check.Linearizable(ops, 10*time.Second)
	if len(r.Violations) == 0 {
		t.Error("porcupine saw nothing")
	}
	if len(check.Certificate(ops)) == 0 {
		t.Error("the certificate saw nothing")
	}
}

// TestKeysAreGivenUp ensures that writes of unknown outcome count against a key's concurrency and
// that a key which had its share is replaced once.
func TestKeysAreGivenUp(t *testing.T) {
	k := newKeys("k", 1)
	rng := rand.New(rand.NewPCG(1, 1))
	var taken []*slot
	for s := k.take(rng); s != nil; s = k.take(rng) {
		taken = append(taken, s)
	}
	if len(taken) != concurrency {
		t.Fatalf("%d operations at once on a key, want %d", len(taken), concurrency)
	}
	for i, s := range taken {
		k.give(s, history.Operation{Outcome: history.Unknown})
		if i < unknownsPerKey-1 && k.take(rng) != nil {
			t.Errorf("after %d unknown writes another operation may start", i+1)
		}
	}
	if got := k.names(); len(got) != 2 {
		t.Errorf("keys used are %v, want two", got)
	}
}
