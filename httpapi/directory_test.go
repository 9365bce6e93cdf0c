package httpapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// fakeDirectory is a directory of fixed answers.
type fakeDirectory struct {
	checks  []directory.Check
	unknown error         // why the table is not known
	seen    time.Time     // when the nodes were
	state   string        // of the nodes
	version atomic.Uint64 // of the table, 42 while it is less

	defaultTTL time.Duration
}

func (d *fakeDirectory) Known() error { return d.unknown }

func (d *fakeDirectory) View() directory.TableView {
	return directory.TableView{
		Cluster: "c0ffee", Version: max(d.version.Load(), 42),
		Shards: []directory.ShardView{d.Shards()[0].ShardView},
		Nodes:  map[string]directory.NodeState{"a": {HTTP: "127.0.0.1:1", State: "up"}},
	}
}

func (d *fakeDirectory) Shards() []directory.ShardDetail {
	return []directory.ShardDetail{{ShardView: directory.ShardView{
		ID: 1, End: 4096, Epoch: 3, Conf: "1-7", Leader: "a",
		Members: []directory.MemberView{{Node: "a", Role: directory.RoleVoter}},
	}, Term: 5, Sizing: &shard.Sizing{HitRatio: .5, Plus25: .6, Plus50: .7, Plus100: .8, Lookups: 9, Samples: 2}}}
}

func (d *fakeDirectory) ShardView(id shard.ID) (directory.ShardDetail, bool) {
	return directory.ShardDetail{ShardView: directory.ShardView{ID: id, Conf: "1-7", Members: []directory.MemberView{}}}, id <= 1
}

func (d *fakeDirectory) Nodes() []directory.NodeView {
	return []directory.NodeView{
		{ID: "a", HTTP: "127.0.0.1:1", State: d.state, LastSeen: d.seen},
		{ID: "b", HTTP: "127.0.0.1:2", State: d.state, LastSeen: d.seen},
	}
}

func (d *fakeDirectory) Planned() []directory.PlannedView {
	return []directory.PlannedView{{Shard: 1, From: "a", To: "b", Reason: "node a is drained", Waits: "operation 7 runs on shard 1"}}
}

func (d *fakeDirectory) Node(id string) (directory.NodeView, bool) {
	for _, node := range d.Nodes() {
		if node.ID == id {
			return node, true
		}
	}
	return directory.NodeView{}, false
}

func (d *fakeDirectory) Settings() directory.SettingsView { return settings }

func (d *fakeDirectory) DefaultTTL() time.Duration { return d.defaultTTL }

func (d *fakeDirectory) Ready() []directory.Check { return d.checks }

// The table, shards, nodes and a key's place have the documented members.
func TestShapes(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]string{
		"/v1/directory": `{"cluster":"c0ffee","version":42,"shards":[{"id":1,"start":0,"end":4096,"epoch":3,"conf":"1-7","leader":"a","members":[{"node":"a","role":"voter"}]}],"nodes":{"a":{"http":"127.0.0.1:1","state":"up"}}}`,
		"/v1/locate/k":  `{"slot":1,"shard":3,"epoch":7,"leader":"b","members":["a","b"]}`,
	} {
		if got := strings.TrimSpace(f.request(t, "GET", path, "").Body.String()); got != want {
			t.Errorf("%s: got\n%s, want\n%s", path, got, want)
		}
	}
	if got, want := f.request(t, "GET", "/v1/nodes", "").Body.String(),
		`"planned":[{"shard":1,"from":"a","to":"b","reason":"node a is drained","waits":"operation 7 runs on shard 1"}]}`; !strings.HasSuffix(strings.TrimSpace(got), want) {
		t.Errorf("nodes: got %s, want it to end with %s", got, want)
	}
	for path, want := range map[string]string{"/v1/shards": `{"shards":[{"id":1,`, "/v1/nodes": `{"nodes":[{"id":"a",`} {
		if got := f.request(t, "GET", path, "").Body.String(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want it to begin with %s", path, got, want)
		}
	}
}

// While the table is not known there is no place to tell.
func TestLocateWithoutTable(t *testing.T) {
	f := newFixture(t)
	f.data.noTable = true
	w := f.request(t, "GET", "/v1/locate/k", "")
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 503, "no-leader", AppliedNo)
	f.data.local = refuseWith(shard.ErrNoLeader)
	w = f.request(t, "PUT", "/v1/kv/k?route=local", "")
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 503, "no-leader", AppliedNo)
}

// Before the cluster is known, what describes it is unavailable rather than empty, and a request for a
// key is told why.
func TestUnknownCluster(t *testing.T) {
	f := newFixture(t)
	f.dir.unknown = fmt.Errorf("%w: the cluster is not formed yet, it waits for b", directory.ErrNoTable)
	f.data.answer = refuseWith(fmt.Errorf("gave up: %w", f.dir.unknown))
	for _, path := range []string{"/v1/directory", "/v1/shards", "/v1/shards/9", "/v1/nodes", "/v1/nodes/z", "/v1/kv/k", "/v1/operations", "/v1/operations/5", "/v1/settings"} {
		w := f.request(t, "GET", path, "")
		p := checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 503, "unavailable", AppliedNo)
		checkRetryAfter(t, w.Code, w.Header())
		if !strings.Contains(p.Detail, "not formed yet, it waits for b") {
			t.Errorf("%s: detail %q does not say why", path, p.Detail)
		}
	}
}

// Each resource of the directory is JSON with an ETag, by which it is revalidated.
func TestDirectoryResources(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/v1/directory", "/v1/shards", "/v1/shards/0", "/v1/shards/1", "/v1/nodes", "/v1/nodes/a", "/v1/nodes/%61", "/v1/locate/k",
		"/v1/shards/3/members", "/v1/operations", "/v1/operations/5", "/v1/settings", "/openapi.json"} {
		w := f.request(t, "GET", path, "")
		if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: got %d %s %q", path, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
		etag := w.Header().Get("ETag")
		if etag == "" || path == "/v1/directory" && etag != `"42"` {
			t.Errorf("%s: got ETag %q", path, etag)
		}
		if w := f.request(t, "GET", path, "", "If-None-Match", etag); w.Code != 304 || w.Body.Len() > 0 || w.Header().Get("ETag") != etag {
			t.Errorf("%s with its ETag: got %d, ETag %q", path, w.Code, w.Header().Get("ETag"))
		}
		if w := f.request(t, "GET", path, "", "If-None-Match", `"other"`); w.Code != 200 {
			t.Errorf("%s with another ETag: got %d", path, w.Code)
		}
	}
}

// The ETag of a shard names its generation and configuration; that of nodes changes with what they are,
// not with each sign of life.
func TestDirectoryETags(t *testing.T) {
	f := newFixture(t)
	if got := f.request(t, "GET", "/v1/shards/1", "").Header().Get("ETag"); got != `"1-7"` {
		t.Errorf("shard: got ETag %s", got)
	}
	for _, path := range []string{"/v1/nodes", "/v1/nodes/b"} {
		f.dir.seen, f.dir.state = time.Unix(1, 0), "up"
		before := f.request(t, "GET", path, "")
		f.dir.seen = time.Unix(2, 0)
		seen := f.request(t, "GET", path, "")
		if before.Header().Get("ETag") != seen.Header().Get("ETag") || before.Body.String() == seen.Body.String() {
			t.Errorf("%s, seen once more: got %s\n%s, then %s\n%s", path, before.Header().Get("ETag"), before.Body, seen.Header().Get("ETag"), seen.Body)
		}
		f.dir.state = "down"
		if down := f.request(t, "GET", path, ""); down.Header().Get("ETag") == seen.Header().Get("ETag") {
			t.Errorf("%s, gone down: got the same ETag %s", path, down.Header().Get("ETag"))
		}
	}
}

// Shards and nodes that there are not are 404, each with its own type.
func TestUnknownResources(t *testing.T) {
	f := newFixture(t)
	for path, name := range map[string]string{
		"/v1/shards/2": "unknown-shard", "/v1/shards/x": "unknown-shard", "/v1/shards/-1": "unknown-shard",
		"/v1/nodes/c": "unknown-node", "/v1/nodes/%2f": "unknown-node",
	} {
		w := f.request(t, "GET", path, "")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 404, name, AppliedNo)
	}
}

// Whatever the interface promises and this version lacks is 501 with its type, for each of its methods,
// and nothing is done.
func TestNotBuilt(t *testing.T) {
	f := newFixture(t)
	for _, line := range []string{
		"GET /v1/events",
		"GET /v1/shards/1/events",
		"POST /v1/shards/1/split", "POST /v1/shards/1/merge",
		"GET /v1/backup", "POST /v1/restore", "GET /ui/", "GET /ui/x",
	} {
		method, path, _ := strings.Cut(line, " ")
		w := f.request(t, method, path, "")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 501, "not-built", AppliedNo)
	}
	if f.data.reached() != 0 {
		t.Error("something reached the cache")
	}
}

// Each 405 lists exactly the methods that are not.
func TestAllow(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]string{
		"/v1/kv/k": "DELETE, GET, HEAD, PATCH, POST, PUT", "/livez": "GET, HEAD", "/v1/batch": "POST",
		"/v1/nodes/a": "DELETE, GET, HEAD", "/v1/directory": "GET, HEAD", "/v1/keys": "DELETE, GET, HEAD",
	} {
		w := f.request(t, "OPTIONS", path, "")
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 405, "method-not-allowed", AppliedNo)
		if got := w.Header().Get("Allow"); got != want {
			t.Errorf("%s: got Allow %q, want %q", path, got, want)
		}
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"} {
			allowed := slices.Contains(strings.Split(want, ", "), method)
			if w := f.request(t, method, path, ""); (w.Code != 405) != allowed {
				t.Errorf("%s %s: got %d, Allow is %q", method, path, w.Code, want)
			}
		}
	}
}

// A node is alive without the cluster, and ready only when each check passes.
func TestHealth(t *testing.T) {
	f := newFixture(t)
	f.dir.checks = []directory.Check{{Name: "directory", OK: true}, {Name: "shard/1", OK: true}}
	if w := f.request(t, "GET", "/readyz", ""); w.Code != 200 || w.Body.String() != "[+]directory ok\n[+]shard/1 ok\n" {
		t.Errorf("ready: got %d %q", w.Code, w.Body)
	}
	f.dir.checks = append(f.dir.checks, directory.Check{Name: "shard/2", Detail: "no leader"})
	w := f.request(t, "GET", "/readyz", "")
	if w.Code != 503 || w.Body.String() != "[+]directory ok\n[+]shard/1 ok\n[-]shard/2 no leader\n" || w.Header().Get("Retry-After") == "" {
		t.Errorf("not ready: got %d %q", w.Code, w.Body)
	}
	if w := f.request(t, "GET", "/livez", ""); w.Code != 200 {
		t.Errorf("live: got %d", w.Code)
	}
}
