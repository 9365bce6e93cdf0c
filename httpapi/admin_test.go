package httpapi

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// fakeAdmin accepts every change, and notes what it was asked for.
type fakeAdmin struct {
	mu    sync.Mutex
	calls []string
	left  time.Duration // to the deadline of the last call, 0 without one
	err   error         // answers all calls that can fail, when set
	// newer, when set, is Newer; without it no table ever follows.
	newer func(ctx context.Context, version uint64) error
}

// operation is one with something in each member.
var operation = directory.OperationView{
	ID: 5, Kind: "add-member", Shard: 3, Node: "d", Replica: "3/d/17", State: "running", Phase: "catching-up",
	Detail: "waits for entries", Error: "", EntriesDone: 100, EntriesTotal: 120, ItemsDone: 10, ItemsTotal: 12, BytesDone: 4096, BytesTotal: 8192, Snapshot: true, BytesRate: 1024,
}

// settings are some with something in each member.
var settings = directory.SettingsView{Version: 17, CacheMemory: "60%", ShardBytes: 1 << 20, DefaultTTL: "1h", TouchInterval: "100ms", RepairAfter: "1m", Balance: "on", SnapshotBandwidth: "64MiB", MemoryOnly: "off", InitialShards: 8, Replicas: 3}

func (a *fakeAdmin) note(ctx context.Context, format string, args ...any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, fmt.Sprintf(format, args...))
	a.left = 0
	if deadline, ok := ctx.Deadline(); ok {
		a.left = time.Until(deadline)
	}
	return a.err
}

// called returns the calls so far.
func (a *fakeAdmin) called() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

func (a *fakeAdmin) Members(ctx context.Context, id shard.ID) (directory.MembersView, error) {
	err := a.note(ctx, "members of %d", id)
	return directory.MembersView{Shard: id, Conf: "1-7", Leader: "a", Members: []directory.MemberDetail{
		{Node: "a", Replica: "3/a/1", Role: directory.RoleVoter, State: directory.NodeUp, Match: 812, Last: 812},
	}}, err
}

func (a *fakeAdmin) Checksum(ctx context.Context, id shard.ID) (directory.ChecksumView, error) {
	err := a.note(ctx, "checksum of %d", id)
	return directory.ChecksumView{Shard: id, Index: 9, Equal: false, Replicas: []directory.ReplicaChecksum{
		{Node: "a", Replica: "3/a/1", Checksum: "00"}, {Node: "b", Replica: "3/b/1", Error: "peer unreachable"},
	}}, err
}

func (a *fakeAdmin) ChangeMember(ctx context.Context, c directory.MemberChange) (directory.OperationView, error) {
	return operation, a.note(ctx, "change %+v", c)
}

func (a *fakeAdmin) TransferLeader(ctx context.Context, id shard.ID, node string) error {
	return a.note(ctx, "leader of %d is %q", id, node)
}

func (a *fakeAdmin) RecoverShard(ctx context.Context, r directory.Recovery) (directory.RecoveryView, error) {
	return directory.RecoveryView{Shard: r.Shard, Generation: 1, Nodes: []string{"a"}, Done: r.Unsafe, Former: []directory.RecoveryMember{
		{Node: "b", Replica: "3/b/1", State: directory.NodeDown},
	}}, a.note(ctx, "recover %+v", r)
}

func (a *fakeAdmin) RebuildDirectory(ctx context.Context, r directory.Rebuild) (directory.RebuildView, error) {
	return directory.RebuildView{Node: "a", Version: 7, Done: r.Unsafe, Operations: []uint64{4},
		Nodes:  []directory.RebuildNode{{Node: "b", Directory: "0/b/0"}},
		Shards: []directory.RebuildShard{{ID: 3, Generation: 1, Leader: "a", Running: 2}}}, a.note(ctx, "rebuild %+v", r)
}

func (a *fakeAdmin) Operations() []directory.OperationView {
	return []directory.OperationView{operation}
}

func (a *fakeAdmin) Operation(n uint64) (directory.OperationView, bool) {
	return operation, n == operation.ID
}

func (a *fakeAdmin) CancelOperation(ctx context.Context, n uint64) (directory.OperationView, error) {
	return operation, a.note(ctx, "cancel %d", n)
}

func (a *fakeAdmin) RemoveNode(ctx context.Context, id string) error {
	return a.note(ctx, "remove node %q", id)
}

func (a *fakeAdmin) DrainNode(ctx context.Context, id string, drain bool) (directory.NodeView, error) {
	return directory.NodeView{ID: id, State: directory.NodeUp, Draining: drain, Waits: []string{"shard 1: later"}}, a.note(ctx, "drain of %q is %v", id, drain)
}

func (a *fakeAdmin) ChangeSettings(ctx context.Context, c directory.SettingsChange) (directory.SettingsView, error) {
	var changed []string
	for name, value := range c.Values {
		text := "null"
		if value != nil {
			text = strconv.Quote(*value)
		}
		changed = append(changed, name+"="+text)
	}
	slices.Sort(changed)
	after := settings
	after.Version++
	return after, a.note(ctx, "settings of %d: %s", c.Version, strings.Join(changed, " "))
}

func (a *fakeAdmin) Newer(ctx context.Context, version uint64) error {
	if a.newer != nil {
		return a.newer(ctx, version)
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// adminChanges are well-formed requests that change the cluster, one per handler; see cutRequest.
var adminChanges = []string{
	"PUT /v1/shards/3/members/b?force=true", "DELETE /v1/shards/3/members/b?force=true",
	`PUT /v1/shards/3/leader {"node":"b"}`, `PATCH /v1/settings {"default-ttl":null}`, "DELETE /v1/operations/5", "DELETE /v1/nodes/b",
	`POST /v1/shards/3/recover {"unsafe":true,"generation":1}`, "POST /v1/nodes/b/drain", "POST /v1/nodes/b/undrain",
	`POST /v1/directory/rebuild {"unsafe":true,"version":7}`,
}

// cutRequest cuts "METHOD target body"; the body may be missing.
func cutRequest(line string) (method, target, body string) {
	method, rest, _ := strings.Cut(line, " ")
	target, body, _ = strings.Cut(rest, " ")
	return method, target, body
}

// The comparison of a shard's replicas is made by the directory, for the shard that the path names.
func TestChecksum(t *testing.T) {
	f := newFixture(t)
	w := f.request(t, "GET", "/v1/shards/3/checksum", "")
	const want = `{"shard":3,"index":9,"equal":false,"replicas":[{"node":"a","replica":"3/a/1","checksum":"00","error":"","diverged":false},` +
		`{"node":"b","replica":"3/b/1","checksum":"","error":"peer unreachable","diverged":false}]}`
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("got %d %s, want %s", w.Code, w.Body, want)
	}
	if got := f.admin.called(); !slices.Equal(got, []string{"checksum of 3"}) {
		t.Errorf("called %q", got)
	}
}

// The members of a shard are shown with their conf version as ETag, of the directory's own group too.
func TestMembers(t *testing.T) {
	f := newFixture(t)
	want := `{"shard":3,"conf":"1-7","leader":"a","members":[{"node":"a","replica":"3/a/1","role":"voter","state":"up","match":812,"last":812,"diverged":false}]}`
	w := f.request(t, "GET", "/v1/shards/3/members", "")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want || w.Header().Get("ETag") != `"1-7"` {
		t.Errorf("got %d, ETag %s\n%s, want 200, \"1-7\"\n%s", w.Code, w.Header().Get("ETag"), got, want)
	}
	if w := f.request(t, "GET", "/v1/shards/0/members", ""); w.Code != 200 {
		t.Errorf("of the directory: got %d", w.Code)
	}
	if got, want := f.admin.called(), []string{"members of 3", "members of 0"}; !slices.Equal(got, want) {
		t.Errorf("got calls %q, want %q", got, want)
	}
}

// A change of members reaches the directory as it was asked for, and the answer tells where to follow it.
func TestChangeMember(t *testing.T) {
	tests := []struct {
		method, target string
		headers        []string
		want           directory.MemberChange
	}{
		{"PUT", "/v1/shards/3/members/d", []string{"If-Match", `"1-7"`}, directory.MemberChange{Shard: 3, Node: "d", Add: true, Conf: "1-7"}},
		{"PUT", "/v1/shards/0/members/d?force=false", []string{"If-Match", ` "0-0" `}, directory.MemberChange{Node: "d", Add: true, Conf: "0-0"}},
		{"PUT", "/v1/shards/3/members/d?force=true", nil, directory.MemberChange{Shard: 3, Node: "d", Add: true}},
		{"DELETE", "/v1/shards/3/members/%64%2F%20%c3%a4", []string{"If-Match", `"2-18446744073709551615"`},
			directory.MemberChange{Shard: 3, Node: "d/ ä", Conf: "2-18446744073709551615"}},
		{"DELETE", "/v1/shards/18446744073709551615/members/a+b?force=true", nil, directory.MemberChange{Shard: 1<<64 - 1, Node: "a+b"}},
	}
	for _, tc := range tests {
		f := newFixture(t)
		w := f.request(t, tc.method, tc.target, "", tc.headers...)
		if w.Code != 202 || w.Header().Get("Location") != "/v1/operations/5" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: got %d, header %v: %s", tc.method, tc.target, w.Code, w.Header(), w.Body)
		}
		if got, want := f.admin.called(), []string{fmt.Sprintf("change %+v", tc.want)}; !slices.Equal(got, want) {
			t.Errorf("%s %s: got calls %q, want %q", tc.method, tc.target, got, want)
		}
	}
}

// A change without a body may say so in any way; one that comes in chunks is refused as an announced one is.
func TestNoBody(t *testing.T) {
	f := newFixture(t)
	target := "/v1/shards/3/members/d?force=true"
	for _, method := range []string{"PUT", "DELETE"} {
		if got := f.send(t, method, target, []byte{}, false); got.status != 202 {
			t.Errorf("%s of length 0: got %d %s", method, got.status, got.body)
		}
		if got := f.send(t, method, target, nil, true); got.status != 202 {
			t.Errorf("%s in no chunks: got %d %s", method, got.status, got.body)
		}
		before := len(f.admin.called())
		got := f.send(t, method, target, []byte("{}"), true)
		checkProblem(t, got.status, got.header, got.body, 400, "bad-body", AppliedNo)
		got = f.exchange(t, method, []byte(method+" "+target+" HTTP/1.1\r\nHost: a\r\nLarder-Timeout: 50ms\r\nTransfer-Encoding: chunked\r\n\r\n"))
		checkProblem(t, got.status, got.header, got.body, 408, "request-timeout", AppliedNo)
		if len(f.admin.called()) != before {
			t.Errorf("%s: a refused request reached the directory", method)
		}
	}
}

// A recovery is made on the word unsafe, for a named generation, and is a plan without; its body is taken in one form only.
func TestRecoverShard(t *testing.T) {
	for body, want := range map[string]string{
		`{}`:                 "recover {Shard:3 Unsafe:false KeepData:false Generation:0 Force:false}",
		`{"unsafe":false}`:   "recover {Shard:3 Unsafe:false KeepData:false Generation:0 Force:false}",
		`{"keep_data":true}`: "recover {Shard:3 Unsafe:false KeepData:true Generation:0 Force:false}",
		` {"generation":7,"force":true,"unsafe":true}`:    "recover {Shard:3 Unsafe:true KeepData:false Generation:7 Force:true}",
		`{"generation":7,"unsafe":true,"keep_data":true}`: "recover {Shard:3 Unsafe:true KeepData:true Generation:7 Force:false}",
	} {
		f := newFixture(t)
		w := f.request(t, "POST", "/v1/shards/3/recover", body, "Content-Type", "application/json")
		status := 200
		if strings.Contains(want, "Unsafe:true") {
			status = 202
			if got := w.Header().Get("Location"); got != "/v1/shards/3" {
				t.Errorf("%s: Location %q", body, got)
			}
		}
		if calls := f.admin.called(); w.Code != status || len(calls) != 1 || calls[0] != want {
			t.Errorf("%s: got %d, %q, want %d, %q", body, w.Code, calls, status, want)
		}
	}
	for _, body := range []string{``, `[]`, `true`, `{"unsafe":"true"}`, `{"unsafe":1}`, `{"keep_data":1}`, `{"generation":true}`, `{"generation":1.0}`, `{"generation":-1}`,
		`{"generation":01}`, `{"unsafe":true,"unsafe":true}`, `{"Unsafe":true}`, `{"unsafe":true,"generation":1,"soon":true}`, `{"unsafe":{}}`, `{}{}`} {
		f := newFixture(t)
		w := f.request(t, "POST", "/v1/shards/3/recover", body, "Content-Type", "application/json")
		if w.Code != 400 || len(f.admin.called()) > 0 {
			t.Errorf("%s: got %d, %q", body, w.Code, f.admin.called())
		}
	}
	f := newFixture(t)
	if w := f.request(t, "POST", "/v1/shards/3/recover", `{"unsafe":true}`, "Content-Type", "application/json"); w.Code != 428 || len(f.admin.called()) > 0 {
		t.Errorf("without a generation: got %d, %q", w.Code, f.admin.called())
	}
}

// The directory is rebuilt on the word unsafe, from a named version, and the answer is a plan without; the body is taken in one form only.
func TestRebuildDirectory(t *testing.T) {
	for body, want := range map[string]string{
		`{}`: "rebuild {Unsafe:false Version:0 Force:false}",
		` {"version":7,"force":true,"unsafe":true}`: "rebuild {Unsafe:true Version:7 Force:true}",
	} {
		f := newFixture(t)
		w := f.request(t, "POST", "/v1/directory/rebuild", body, "Content-Type", "application/json")
		status := 200
		if strings.Contains(want, "Unsafe:true") {
			status = 202
			if got := w.Header().Get("Location"); got != "/v1/shards/0" {
				t.Errorf("%s: Location %q", body, got)
			}
		}
		if calls := f.admin.called(); w.Code != status || len(calls) != 1 || calls[0] != want {
			t.Errorf("%s: got %d, %q, want %d, %q", body, w.Code, calls, status, want)
		}
	}
	for _, body := range []string{``, `[]`, `{"unsafe":"true"}`, `{"generation":1}`, `{"version":true}`, `{"version":1.0}`, `{"version":1,"version":1}`, `{"Unsafe":true}`, `{}{}`} {
		f := newFixture(t)
		w := f.request(t, "POST", "/v1/directory/rebuild", body, "Content-Type", "application/json")
		if w.Code != 400 || len(f.admin.called()) > 0 {
			t.Errorf("%s: got %d, %q", body, w.Code, f.admin.called())
		}
	}
	f := newFixture(t)
	if w := f.request(t, "POST", "/v1/directory/rebuild", `{"unsafe":true}`, "Content-Type", "application/json"); w.Code != 428 || len(f.admin.called()) > 0 {
		t.Errorf("without a version: got %d, %q", w.Code, f.admin.called())
	}
}

// The body that names a leader is taken in one form only.
func TestLeader(t *testing.T) {
	f := newFixture(t)
	for _, body := range []string{`{"node":"b"}`, " {\n\"node\" : \"\\u0062\" }\r\n", `{"node":"b"}` + strings.Repeat(" ", 4084)} {
		for _, headers := range [][]string{nil, {"Content-Type", "application/json"}, {"Content-Type", `Application/JSON; charset="UTF-8"`}} {
			w := f.request(t, "PUT", "/v1/shards/3/leader", body, headers...)
			if w.Code != 204 || w.Body.Len() != 0 {
				t.Errorf("%.20s with %q: got %d %s", body, headers, w.Code, w.Body)
			}
			if calls := f.admin.called(); len(calls) == 0 || calls[len(calls)-1] != `leader of 3 is "b"` {
				t.Errorf("%.20s: got calls %q", body, calls)
			}
		}
	}
	before := len(f.admin.called())
	for _, body := range []string{
		``, `{}`, `null`, `"b"`, `["b"]`, `{"node":""}`, `{"node":null}`, `{"node":1}`, `{"node":["b"]}`, `{"node":{}}`,
		`{"Node":"b"}`, `{"node":"b","x":1}`, `{"x":1,"node":"b"}`, `{"node":"a","node":"b"}`, `{"node":"b",}`, `{"node":"b"`,
		`{"node" "b"}`, `{node:"b"}`, `{"node":"b"} {}`, `{"node":"b"}x`, `{"node":'b'}`, "{\"node\":\"\xff\"}", "\xef\xbb\xbf{\"node\":\"b\"}",
	} {
		w := f.request(t, "PUT", "/v1/shards/3/leader", body)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 400, "bad-body", AppliedNo)
	}
	for _, mediaType := range []string{"text/plain", "application/jsonp", "application/json; charset=latin1", "application/json; a=b", "", "json", "application/merge-patch+json"} {
		w := f.request(t, "PUT", "/v1/shards/3/leader", `{"node":"b"}`, "Content-Type", mediaType)
		checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 415, "media-type", AppliedNo)
	}
	got := f.send(t, "PUT", "/v1/shards/3/leader", []byte(`{"node":"b"}`+strings.Repeat(" ", 4085)), true)
	checkProblem(t, got.status, got.header, got.body, 413, "body-too-large", AppliedNo)
	if len(f.admin.called()) != before {
		t.Error("a refused request reached the directory")
	}
}

// Operations have the documented members, and an ETag that changes with their progress.
func TestOperations(t *testing.T) {
	f := newFixture(t)
	one := `{"id":5,"kind":"add-member","shard":3,"node":"d","replica":"3/d/17","state":"running","phase":"catching-up","detail":"waits for entries","error":"","reason":"",` +
		`"entries_done":100,"entries_total":120,"items_done":10,"items_total":12,"bytes_done":4096,"bytes_total":8192,"snapshot":true,"bytes_per_second":1024}`
	for path, want := range map[string]string{"/v1/operations/5": one, "/v1/operations": `{"operations":[` + one + `]}`} {
		if got := strings.TrimSpace(f.request(t, "GET", path, "").Body.String()); got != want {
			t.Errorf("%s: got\n%s, want\n%s", path, got, want)
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		if w := f.request(t, method, "/v1/operations/6", ""); w.Code != 404 {
			t.Errorf("%s of an unknown one: got %d", method, w.Code)
		}
	}
	w := f.request(t, "DELETE", "/v1/operations/5", "")
	if w.Code != 202 || strings.TrimSpace(w.Body.String()) != one || w.Header().Get("Location") != "/v1/operations/5" {
		t.Errorf("cancel: got %d, header %v: %s", w.Code, w.Header(), w.Body)
	}
	if got, want := f.admin.called(), []string{"cancel 5"}; !slices.Equal(got, want) {
		t.Errorf("got calls %q, want %q", got, want)
	}
}

// A node is removed under its id as it is, however it was encoded.
func TestRemoveNode(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"a", "a/b", "%", "ä ", ".."} {
		if w := f.request(t, "DELETE", "/v1/nodes/"+url.PathEscape(id), ""); w.Code != 204 || w.Body.Len() != 0 {
			t.Errorf("%q: got %d %s", id, w.Code, w.Body)
		}
		if calls := f.admin.called(); calls[len(calls)-1] != fmt.Sprintf("remove node %q", id) {
			t.Errorf("%q: got calls %q", id, calls)
		}
	}
}

// Draining begins and ends under a node's id as it is, and is answered with the node and where it is.
func TestDrainNode(t *testing.T) {
	f := newFixture(t)
	for path, drain := range map[string]bool{"drain": true, "undrain": false} {
		for _, id := range []string{"a", "a/b", ".."} {
			target := "/v1/nodes/" + url.PathEscape(id)
			w := f.request(t, "POST", target+"/"+path, "")
			if want := fmt.Sprintf(`"draining":%v,"waits":["shard 1: later"]`, drain); w.Code != 202 || !strings.Contains(w.Body.String(), want) || w.Header().Get("Location") != target {
				t.Errorf("%s %q: got %d %v %s", path, id, w.Code, w.Header(), w.Body)
			}
			if calls := f.admin.called(); calls[len(calls)-1] != fmt.Sprintf("drain of %q is %v", id, drain) {
				t.Errorf("%s %q: got calls %q", path, id, calls)
			}
		}
	}
}

// What asks another node, or changes the cluster, ends by its Larder-Timeout, 5 s without it.
func TestAdminTimeout(t *testing.T) {
	f := newFixture(t)
	for _, line := range append([]string{"GET /v1/shards/3/members"}, adminChanges...) {
		method, path, body := cutRequest(line)
		for header, want := range map[string]time.Duration{"": 5 * time.Second, "60s": time.Minute, "900ms": 900 * time.Millisecond} {
			var headers []string
			if header != "" {
				headers = []string{"Larder-Timeout", header}
			}
			f.request(t, method, path, body, headers...)
			if left := f.admin.left; left > want || left < want-800*time.Millisecond {
				t.Errorf("%s with Larder-Timeout %q: %s left, want %s", line, header, left, want)
			}
		}
	}
}
