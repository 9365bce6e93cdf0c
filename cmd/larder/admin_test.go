package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// fakeCluster answers for a cluster of nodes a, b, c and two shards. Resources in replies come first.
type fakeCluster struct {
	mu        sync.Mutex
	replies   map[string]http.HandlerFunc // by method and path
	operation []directory.OperationView   // successive answers of operation 5, the last one for good
	down      string                      // a node
	leader    string                      // of the shards
}

func (f *fakeCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	reply := f.replies[r.Method+" "+r.URL.Path]
	f.mu.Unlock()
	if reply != nil {
		reply(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	send := func(status int, v any) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	state := func(node string) string {
		if node == f.down {
			return directory.NodeDown
		}
		return directory.NodeUp
	}
	detail := func(id shard.ID) directory.ShardDetail {
		d := directory.ShardDetail{Source: "a", Applied: 9, Commit: 9, Items: 2, Bytes: 2048, Limit: 4096}
		d.ID, d.Conf, d.Leader = id, "1-7", f.leader
		d.Sizing = &shard.Sizing{HitRatio: .5, Plus25: .5625, Plus50: .6, Plus100: .625, Lookups: 1000, Samples: 70}
		for _, n := range []string{"a", "b", "c"} {
			d.Members = append(d.Members, directory.MemberView{Node: n, Role: directory.RoleVoter})
		}
		return d
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/directory":
		send(200, directory.TableView{Cluster: "C", Version: 42, Shards: []directory.ShardView{detail(1).ShardView}, Nodes: map[string]directory.NodeState{}})
	case "GET /v1/nodes":
		var nodes []directory.NodeView
		for _, n := range []string{"a", "b", "c"} {
			nodes = append(nodes, directory.NodeView{ID: n, State: state(n), HTTP: "127.0.0.1:7070", Replicas: 2})
		}
		send(200, map[string]any{"nodes": nodes, "planned": []directory.PlannedView{
			{Shard: 3, From: "a", To: "d", Reason: "node a holds more"},
			{Shard: 2, Reason: "it has 2 of 3 members", Waits: "no\x1b node"}}})
	case "POST /v1/nodes/a/drain", "POST /v1/nodes/d/drain":
		id := strings.Split(r.URL.Path, "/")[3]
		send(202, directory.NodeView{ID: id, State: state(id), Draining: true, Replicas: 2, Directory: true, Waits: []string{"shard 3: no\x1b room"}})
	case "POST /v1/nodes/a/undrain":
		send(202, directory.NodeView{ID: "a", State: state("a")})
	case "GET /v1/nodes/d":
		send(200, directory.NodeView{ID: "d", State: directory.NodeDown, Draining: true})
	case "GET /v1/nodes/a":
		send(200, directory.NodeView{ID: "a", State: state("a")})
	case "GET /v1/shards/0", "GET /v1/shards/3":
		send(200, detail(3))
	case "GET /v1/shards":
		send(200, map[string]any{"shards": []directory.ShardDetail{detail(1), detail(3)}})
	case "GET /v1/settings":
		send(200, directory.SettingsView{MemoryOnly: "on"})
	case "GET /v1/shards/3/members":
		send(200, directory.MembersView{Shard: 3, Conf: "1-7", Leader: "a", Members: []directory.MemberDetail{{Node: "a", Replica: "3/a/1", Role: directory.RoleVoter, State: "up", Match: 8, Last: 9}}})
	case "GET /v1/operations":
		send(200, map[string]any{"operations": []directory.OperationView{{ID: 5, Kind: "add-member", State: "running", Phase: "adding"}}})
	case "POST /v1/shards/3/recover":
		var request directory.Recovery
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			problem(400, "bad-body", err.Error())(w, r)
			return
		}
		plan := directory.RecoveryView{Shard: 3, Generation: 4, Nodes: []string{"a", "d\x1b"}, Against: "2 of 3 run", Done: request.Unsafe,
			Former: []directory.RecoveryMember{{Node: "b", Replica: "3/b/1", State: "down"}}}
		if request.KeepData {
			plan.Kept = "3/c/7"
		}
		switch {
		case !request.Unsafe:
			send(200, plan)
		case request.Generation != 4:
			problem(409, "conflict", "another generation")(w, r)
		case !request.Force:
			problem(409, "conflict", plan.Against)(w, r)
		default:
			send(202, plan)
		}
	case "POST /v1/directory/rebuild":
		var request directory.Rebuild
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			problem(400, "bad-body", err.Error())(w, r)
			return
		}
		plan := directory.RebuildView{Node: "a\x1b", Version: 9, Against: "2 of 3 voters", Done: request.Unsafe, Operations: []uint64{4},
			Nodes:  []directory.RebuildNode{{Node: "a", Answers: true, Version: 9}, {Node: "b", Directory: "0/b/0"}},
			Shards: []directory.RebuildShard{{ID: 3, Generation: 1, Leader: "a", Running: 2}}}
		switch {
		case !request.Unsafe:
			send(200, plan)
		case request.Version != 9:
			problem(409, "conflict", "another version")(w, r)
		case !request.Force:
			problem(409, "conflict", plan.Against)(w, r)
		default:
			send(202, plan)
		}
	case "PUT /v1/shards/3/leader", "DELETE /v1/nodes/d":
		w.WriteHeader(204)
	case "PUT /v1/shards/3/members/d", "DELETE /v1/shards/3/members/d", "DELETE /v1/operations/5":
		send(202, directory.OperationView{ID: 5, Kind: "add-member", Shard: 3, Node: "d", State: "running", Phase: "adding"})
	case "GET /v1/operations/5":
		f.mu.Lock()
		o := f.operation[0]
		if len(f.operation) > 1 {
			f.operation = f.operation[1:]
		}
		f.mu.Unlock()
		send(200, o)
	default:
		problem(404, "unknown-path", "no")(w, r)
	}
}

func running(done uint64) directory.OperationView {
	return directory.OperationView{ID: 5, Kind: "add-member", Shard: 3, Node: "d", State: "running", Phase: "catching-up", Detail: "waits\x1b for d",
		EntriesDone: done, EntriesTotal: 120, BytesDone: 4096, BytesTotal: 8192, Snapshot: true, BytesRate: 1024}
}

func over(state, why string) directory.OperationView {
	return directory.OperationView{ID: 5, Kind: "add-member", Shard: 3, Node: "d", State: state, Phase: state, Error: why}
}

// Each command on the cluster ends with the exit code that its answers deserve, prints data on stdout and
// says what to do next on stderr.
func TestAdminExitCodes(t *testing.T) {
	add := []string{"member", "add", "3", "d"}
	const put = "PUT /v1/shards/3/members/d"
	tests := []struct {
		args  []string
		on    string
		reply http.HandlerFunc
		want  int
		says  string // on stdout for code 0, else on stderr
	}{
		{[]string{"shard", "list"}, "", nil, 0, "LEADER"},
		{[]string{"shard", "show", "3"}, "", nil, 0, "a,b,c"},
		{[]string{"shard", "show", "3"}, "", nil, 0, "+25 %     56.2 %"},
		{[]string{"shard", "show", "3", "-o", "json"}, "", nil, 0, `"conf":"1-7"`},
		{[]string{"shard", "show", "9"}, "GET /v1/shards/9", problem(404, "unknown-shard", "no"), 3, "larder shard list"},
		{[]string{"shard", "recover", "3"}, "", nil, 0, "refused without --force: 2 of 3 run"},
		{[]string{"shard", "recover", "3", "-o", "json"}, "", nil, 0, `"done":false`},
		{[]string{"shard", "recover", "3", "--keep-data"}, "", nil, 0, "what replica 3/c/7 has is kept"},
		{[]string{"shard", "recover", "3", "--keep-data", "--unsafe", "--force"}, "", nil, 0, ""},
		{[]string{"shard", "recover", "3", "--unsafe"}, "", nil, 1, "2 of 3 run"},
		{[]string{"shard", "recover", "3", "--unsafe", "--force"}, "", nil, 0, ""},
		{[]string{"shard", "recover", "3", "--unsafe", "--force", "-o", "json"}, "", nil, 0, `"done":true`},
		{[]string{"shard", "recover", "3", "--force"}, "", nil, 2, "--unsafe"},
		{[]string{"shard", "recover", "9", "--unsafe"}, "POST /v1/shards/9/recover", problem(404, "unknown-shard", "no"), 3, "larder shard list"},
		{[]string{"shard", "recover", "3", "--unsafe"}, "POST /v1/shards/3/recover", problem(504, "outcome-unknown", "unknown"), 6, "larder shard show 3"},
		{[]string{"directory", "rebuild"}, "", nil, 0, "1 of 2 nodes answer"},
		{[]string{"directory", "rebuild"}, "", nil, 0, "operation 4 fails\nrefused without --force: 2 of 3 voters"},
		{[]string{"directory", "rebuild", "-o", "json"}, "", nil, 0, `"done":false`},
		{[]string{"directory", "rebuild", "--unsafe"}, "", nil, 1, "2 of 3 voters"},
		{[]string{"directory", "rebuild", "--unsafe", "--force"}, "", nil, 0, ""},
		{[]string{"directory", "rebuild", "--unsafe", "--force", "-o", "json"}, "", nil, 0, `"done":true`},
		{[]string{"directory", "rebuild", "--force"}, "", nil, 2, "--unsafe"},
		{[]string{"directory", "rebuild", "--unsafe"}, "POST /v1/directory/rebuild", problem(504, "outcome-unknown", "unknown"), 6, "larder directory rebuild"},
		{[]string{"shard", "transfer-leader", "3", "b"}, "", nil, 0, ""},
		{[]string{"shard", "transfer-leader", "3", "b"}, "PUT /v1/shards/3/leader", problem(409, "conflict", "no"), 1, "larder status"},
		{[]string{"shard", "transfer-leader", "3", "b"}, "PUT /v1/shards/3/leader", problem(503, "no-leader", "no"), 5, "try again"},
		{[]string{"shard", "transfer-leader", "3", "b"}, "PUT /v1/shards/3/leader", problem(504, "outcome-unknown", "unknown"), 6, "larder member list 3"},
		{[]string{"node", "list"}, "", nil, 0, "LAST-SEEN"},
		{[]string{"node", "show", "a"}, "", nil, 0, "up"},
		{[]string{"node", "list"}, "", nil, 0, "shard 3: the replica on a is to go to d: node a holds more\nshard 2: a replica is to come: it has 2 of 3 members; it waits: no  node\n"},
		{[]string{"node", "show", "x"}, "GET /v1/nodes/x", problem(404, "unknown-node", "no"), 3, "larder node list"},
		{[]string{"node", "remove", "d"}, "", nil, 0, ""},
		{[]string{"node", "remove", "d"}, "DELETE /v1/nodes/d", problem(409, "conflict", "no"), 1, "A detail"},
		{[]string{"node", "remove", "d"}, "DELETE /v1/nodes/d", hangUp, 6, "larder node list"},
		{[]string{"node", "remove", "d"}, "DELETE /v1/nodes/d", problem(403, "forbidden", "no"), 7, "A detail"},
		{[]string{"node", "remove", "d", "--force"}, "", nil, 0, ""},
		{[]string{"node", "remove", "a", "--force"}, "", nil, 1, "node a is up"},
		{[]string{"node", "drain", "d"}, "", nil, 0, "down, drained"},
		{[]string{"node", "drain", "a", "--no-wait"}, "", nil, 0, "up, drained"},
		{[]string{"node", "drain", "a", "--no-wait"}, "", nil, 0, "a: a replica that is to leave waits, shard 3: no  room\n"},
		{[]string{"node", "drain", "a", "--no-wait", "-o", "json"}, "", nil, 0, `"draining":true`},
		{[]string{"node", "drain", "a"}, "", nil, 0, "up"},
		{[]string{"node", "drain", "d"}, "POST /v1/nodes/d/drain", problem(409, "conflict", "no"), 1, "A detail"},
		{[]string{"node", "drain", "d"}, "POST /v1/nodes/d/drain", hangUp, 6, "larder node list"},
		{[]string{"node", "undrain", "a"}, "", nil, 0, "up"},
		{[]string{"operation", "list"}, "", nil, 0, "adding"},
		{[]string{"operation", "show", "5"}, "", nil, 0, "done"},
		{[]string{"operation", "cancel", "5"}, "", nil, 0, "running"},
		{[]string{"operation", "show", "6"}, "GET /v1/operations/6", problem(404, "unknown-operation", "no"), 3, "larder operation list"},
		{[]string{"member", "list", "3"}, "", nil, 0, "3/a/1"},
		{[]string{"member", "list", "3", "-o", "json"}, "", nil, 0, `"match":8`},
		{[]string{"member", "list", "3"}, "GET /v1/shards/3/members", problem(501, "not-built", "no"), 1, "A detail"},
		{add, "", nil, 0, "done"},
		{append(add, "-o", "json"), "", nil, 0, `"state":"done"`},
		{append(add, "--no-wait"), "", nil, 0, "running"},
		{[]string{"member", "remove", "3", "d", "--force"}, "", nil, 0, "done"},
		{add, put, problem(409, "conflict", "no"), 1, "larder operation list"},
		{add, put, problem(412, "precondition-failed", "no"), 4, "larder member list"},
		{add, put, problem(503, "no-leader", "no"), 5, "try again"},
		{add, put, problem(504, "outcome-unknown", "unknown"), 6, "larder operation list"},
		{add, put, plain(502), 6, "larder operation list"},
		{add, put, hangUp, 6, "larder operation list"},
		{add, "GET /v1/shards/3/members", hangUp, 5, "try again"},
		{[]string{"status"}, "", nil, 0, "All is well."},
		{[]string{"status", "-o", "json"}, "", nil, 0, `"problems":[]`},
		{[]string{"status"}, "", nil, 0, "in memory alone"},
		{[]string{"status"}, "GET /v1/directory", problem(503, "unavailable", "no"), 5, "A detail"},
	}
	for _, tc := range tests {
		f := &fakeCluster{leader: "a", operation: []directory.OperationView{over("done", "")}, replies: map[string]http.HandlerFunc{tc.on: tc.reply}}
		address, _ := serve(t, f.ServeHTTP)
		code, stdout, stderr := larder(t, "", nil, append(slices.Clone(tc.args), "--server", address)...)
		said := stderr
		if tc.want == 0 {
			said = stdout
		}
		if code != tc.want || !strings.Contains(said, tc.says) {
			t.Errorf("%q, %s: got exit code %d, %q, %q, want %d and %q", tc.args, tc.on, code, stdout, stderr, tc.want, tc.says)
		}
		if code != 0 && stdout != "" {
			t.Errorf("%q: got %q on stdout", tc.args, stdout)
		}
		if slices.Contains(tc.args, "json") && !json.Valid([]byte(stdout)) {
			t.Errorf("%q: %q is not JSON", tc.args, stdout)
		}
	}
}

// A change of members goes out for the members that there are, or for those that the flags name.
func TestMemberCondition(t *testing.T) {
	for _, tc := range []struct {
		flags []string
		line  string
		match string
		sent  int
	}{
		{nil, "PUT /v1/shards/3/members/d", `"1-7"`, 2},
		{[]string{"--if-match", "1-6"}, "PUT /v1/shards/3/members/d", `"1-6"`, 1},
		{[]string{"--if-match", `"1-6"`}, "PUT /v1/shards/3/members/d", `"1-6"`, 1},
		{[]string{"--force"}, "PUT /v1/shards/3/members/d?force=true", "", 1},
	} {
		address, got := serve(t, (&fakeCluster{}).ServeHTTP)
		code, _, stderr := larder(t, "", nil, append([]string{"member", "add", "3", "d", "--no-wait", "--server", address}, tc.flags...)...)
		sent := got.take()
		if code != 0 || len(sent) != tc.sent {
			t.Errorf("%q: got exit code %d, %q, %d requests, want %d", tc.flags, code, stderr, len(sent), tc.sent)
			continue
		}
		if last := sent[len(sent)-1]; last.line != tc.line || last.header.Get("If-Match") != tc.match {
			t.Errorf("%q: sent %s with %s, want %s with %s", tc.flags, last.line, last.header.Get("If-Match"), tc.line, tc.match)
		}
	}
}

// Who waits for an operation hears of each change of it, and of its end; a server that fails meanwhile is
// passed over.
func TestMemberProgress(t *testing.T) {
	f := &fakeCluster{operation: []directory.OperationView{running(60), running(60), running(90), over("failed", "d is gone")}}
	var polls int
	flaky, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, operationsPath) {
			if polls++; polls > 1 {
				hangUp(w, r)
			}
		}
		f.ServeHTTP(w, r)
	})
	steady, _ := serve(t, f.ServeHTTP)
	code, stdout, stderr := larder(t, "", nil, "member", "add", "3", "d", "--server", flaky+","+steady)
	if code != exitFailed || !strings.Contains(stdout, "failed") {
		t.Errorf("got exit code %d, %q", code, stdout)
	}
	want := "operation 5: adding\n" +
		"operation 5: catching-up, entries 60/120 (50%), snapshot 4.0 KiB/8.0 KiB (50%) at 1.0 KiB/s, waits  for d\n" +
		"operation 5: catching-up, entries 90/120 (75%), snapshot 4.0 KiB/8.0 KiB (50%) at 1.0 KiB/s, waits  for d\n" +
		"operation 5: failed\n" +
		"larder: operation 5 failed: d is gone\n"
	if stderr != want {
		t.Errorf("got\n%swant\n%s", stderr, want)
	}
}

// On a terminal the line is rewritten, and never longer than the terminal is wide.
func TestProgressOnTerminal(t *testing.T) {
	var out bytes.Buffer
	p := &progressLine{w: &out, terminal: true}
	p.show("one")
	p.show("one")
	p.show(strings.Repeat("x", 100))
	p.end()
	if want := "\rone\x1b[K\r" + strings.Repeat("x", lineWidth) + "\x1b[K\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// Who stops waiting is told the number of the operation, which goes on.
func TestMemberInterrupted(t *testing.T) {
	ctx, giveUp := context.WithCancel(t.Context())
	f := &fakeCluster{replies: map[string]http.HandlerFunc{"GET /v1/operations/5": func(http.ResponseWriter, *http.Request) {
		giveUp()
		panic(http.ErrAbortHandler)
	}}}
	address, _ := serve(t, f.ServeHTTP)
	var out, errs bytes.Buffer
	code := run(ctx, []string{"member", "add", "3", "d", "--server", address}, nil, strings.NewReader(""), &out, &errs)
	if code != exitUnknown || !strings.Contains(errs.String(), "larder operation show 5") {
		t.Errorf("got exit code %d, %q", code, errs.String())
	}
}

// A follower without any news gives up in the end, and says that the outcome is unknown.
func TestNoNews(t *testing.T) {
	address, _ := serve(t, problem(404, "unknown-operation", "no"))
	f := follower{client: &client{servers: address, timeout: time.Second}}
	_, _, err := f.follow(t.Context(), answer{}, running(1), &bytes.Buffer{})
	if exitCode(err) != exitUnknown {
		t.Errorf("got %v", err)
	}
}

// status tells what is wrong first, with exit code 1, and what to do about it.
func TestStatusFindings(t *testing.T) {
	for _, tc := range []struct {
		f    *fakeCluster
		want string
	}{
		{&fakeCluster{leader: "a", down: "c"}, "! node c is down, last seen never: start it again\n"},
		{&fakeCluster{}, "! shard 3 has no leader"},
	} {
		address, _ := serve(t, tc.f.ServeHTTP)
		code, stdout, stderr := larder(t, "", nil, "status", "--server", address)
		if code != exitFailed || !strings.HasPrefix(stdout, tc.want) || !strings.Contains(stderr, "not all is well") {
			t.Errorf("got exit code %d, %q, %q, want %q", code, stdout, stderr, tc.want)
		}
	}
}

// A shard with too few voters, and an operation that waits, are told with what to do about them.
func TestStatusOfWaitingAndWeak(t *testing.T) {
	shardOf := func(id shard.ID, nodes ...string) directory.ShardDetail {
		d := directory.ShardDetail{}
		d.ID, d.Leader = id, nodes[0]
		for _, n := range nodes {
			d.Members = append(d.Members, directory.MemberView{Node: n, Role: directory.RoleVoter})
		}
		return d
	}
	s := clusterStatus{troubled: map[string]bool{},
		Shards:     []directory.ShardDetail{shardOf(0, "a", "b", "c"), shardOf(1, "a", "b"), shardOf(2, "a")},
		Operations: []directory.OperationView{{ID: 7, Kind: "add-member", Shard: 1, Node: "d", Detail: "the leader, a, gets no answer of d"}},
	}
	for _, n := range []string{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, directory.NodeView{ID: n, State: directory.NodeUp})
	}
	s.Shards[0].Members[2].Diverged = true
	s.judge()
	var got []string
	for _, p := range s.Problems {
		got = append(got, p.What+": "+p.Next)
	}
	want := []string{
		`shard 0: the replica on c serves nothing: its state differs from that of others or may, or its data is lost: "larder check replicas" compares states, and that node's /readyz says which it is; it is replaced by itself where the others have a quorum ("larder operation list")`,
		`shard 1 has 2 voters: it stops while either is down: "larder member add 1 NODE" adds one`,
		`shard 2 has 1 of the 3 voters that others have: "larder member add 2 NODE" adds one`,
		`operation 7 (add-member 1 d) waits: the leader, a, gets no answer of d: it goes on by itself when that passes; "larder operation cancel 7" takes it back`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A shard without a leader is told why, and what may help: an election, a node that is down, or neither.
func TestStatusOfLeaderless(t *testing.T) {
	for _, tc := range []struct {
		what string
		make func(*clusterStatus)
		want string
	}{
		{"an election", func(*clusterStatus) {}, "shard 1 has no leader: an election takes a second: look again, then at the logs of a,b,c"},
		{"nodes down", func(s *clusterStatus) { s.Nodes[0].State, s.Nodes[1].State = directory.NodeDown, directory.NodeDown },
			"shard 1 has no leader: 1 of its 3 voters serve, 2 are needed: start again a or b; where that is gone for good, \"larder shard recover 1\" says what would be given up"},
		{"data lost and a node down", func(s *clusterStatus) { s.Nodes[0].State, s.Shards[0].Members[1].Diverged = directory.NodeDown, true },
			"shard 1 has no leader: 1 of its 3 voters serve, 2 are needed: start again a; where that is gone for good, \"larder shard recover 1\" says what would be given up"},
		{"data lost", func(s *clusterStatus) { s.Shards[0].Members[0].Diverged, s.Shards[0].Members[1].Diverged = true, true },
			"shard 1 has no leader: 1 of its 3 voters serve, 2 are needed: no election can help, and nothing that is left may be thrown away: /readyz and the log of a and b say what became of the data there; where that is gone for good, \"larder shard recover 1\" says what would be given up"},
		{"the directory lost", func(s *clusterStatus) {
			s.Nodes[0].State, s.Nodes[1].State, s.Shards[0].ID = directory.NodeDown, directory.NodeDown, 0
		}, "shard 0 has no leader: 1 of its 3 voters serve, 2 are needed: start again a or b; where that is gone for good, \"larder directory rebuild\" says what would be given up"},
		{"unsettled", func(s *clusterStatus) { s.Shards[0].Leader, s.Shards[0].Unsettled = "a", true },
			"shard 1: its members are not known for certain since the directory was rebuilt: its leader tells them by itself, once it has one"},
	} {
		s := clusterStatus{troubled: map[string]bool{}, Shards: make([]directory.ShardDetail, 1)}
		s.Shards[0].ID = 1
		for _, n := range []string{"a", "b", "c"} {
			s.Nodes = append(s.Nodes, directory.NodeView{ID: n, State: directory.NodeUp})
			s.Shards[0].Members = append(s.Shards[0].Members, directory.MemberView{Node: n, Role: directory.RoleVoter})
		}
		tc.make(&s)
		s.judge()
		if len(s.Problems) == 0 || s.Problems[0].What+": "+s.Problems[0].Next != tc.want {
			t.Errorf("%s: got %q, want %q", tc.what, s.Problems, tc.want)
		}
	}
}

// Reads of the cluster's state go to the next server when one has no answer; changes don't.
func TestReadsGoOn(t *testing.T) {
	steady, got := serve(t, (&fakeCluster{}).ServeHTTP)
	for _, reply := range []http.HandlerFunc{hangUp, problem(503, "unavailable", "no")} {
		broken, _ := serve(t, reply)
		if code, _, stderr := larder(t, "", nil, "node", "list", "--server", broken+","+steady); code != 0 {
			t.Errorf("got exit code %d, %q", code, stderr)
		}
		got.take()
		if code, _, _ := larder(t, "", nil, "node", "remove", "d", "--server", broken+","+steady); code == 0 || len(got.take()) != 0 {
			t.Errorf("a change was sent twice")
		}
	}
}

// Replicas that differ are a violation; that some can't be compared is a failure; equal ones are neither.
func TestCheckReplicas(t *testing.T) {
	line := func(node, sum, err string) directory.ReplicaChecksum {
		return directory.ReplicaChecksum{Node: node, Replica: "1/" + node + "/1", Checksum: sum, Error: err}
	}
	for _, tc := range []struct {
		what string
		b    directory.ReplicaChecksum
		none bool // the shard has no leader
		want int
		says string
	}{
		{"equal", line("b", "aa", ""), false, exitOK, ""},
		{"different", line("b", "bb", ""), false, exitViolation, "shard 1 differ at index 9"},
		{"stopped", directory.ReplicaChecksum{Node: "b", Replica: "1/b/1", Error: "diverged", Diverged: true}, false, exitViolation, "on b has stopped"},
		{"one down", line("b", "", "peer unreachable"), false, exitFailed, "1 of 2 replicas"},
		{"no leader", line("b", "", ""), true, exitFailed, "1 of 1 replicas"},
	} {
		address, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/v1/directory":
				json.NewEncoder(w).Encode(directory.TableView{Shards: []directory.ShardView{{ID: 1}}})
			case r.URL.Path == "/v1/shards/1/checksum" && tc.none:
				problem(503, "no-leader", "no")(w, r)
			case r.URL.Path == "/v1/shards/1/checksum":
				json.NewEncoder(w).Encode(directory.ChecksumView{Shard: 1, Index: 9, Replicas: []directory.ReplicaChecksum{line("a", "aa", ""), tc.b}})
			default:
				t.Errorf("asked for %s", r.URL)
			}
		})
		code, stdout, stderr := larder(t, "", nil, "check", "replicas", "--server", address)
		if code != tc.want || !strings.Contains(stderr, tc.says) || !strings.Contains(stdout, "CHECKSUM") {
			t.Errorf("%s: got exit code %d, %q, %q, want %d and %q", tc.what, code, stdout, stderr, tc.want, tc.says)
		}
		if tc.none { // there is nothing else to show
			tc.want, tc.says = exitUnavailable, "try again"
		}
		code, stdout, stderr = larder(t, "", nil, "shard", "checksum", "1", "--server", address)
		if code != tc.want || !strings.Contains(stderr, tc.says) || strings.Contains(stdout, "CHECKSUM") == tc.none {
			t.Errorf("%s, one shard: got exit code %d, %q, %q, want %d and %q", tc.what, code, stdout, stderr, tc.want, tc.says)
		}
	}
}

// How a read was served, and its age, are told with -o.
func TestGetTellsOfTheRead(t *testing.T) {
	address, got := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Larder-Read", "local")
		w.Header().Set("Age", "2")
		hit(w, r)
	})
	code, stdout, stderr := larder(t, "", nil, "get", "k", "--consistency", "bounded", "--max-staleness", "3s", "-o", "json", "--server", address)
	if code != 0 || !strings.Contains(stdout, `"read":"local","age":"2"`) {
		t.Errorf("got exit code %d, %q, %q", code, stdout, stderr)
	}
	if line, want := got.take()[0].line, "GET /v1/kv/k?consistency=bounded&max-staleness=3s"; line != want {
		t.Errorf("sent %s, want %s", line, want)
	}
}

// The completion scripts of all shells are there.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, stdout, stderr := larder(t, "", nil, "completion", shell); code != 0 || stdout == "" {
			t.Errorf("%s: got exit code %d, %d bytes, %q", shell, code, len(stdout), stderr)
		}
	}
	if code, stdout, _ := larder(t, "", []string{"LARDER_COLOUR=red"}, "__complete", "shard", ""); code != 0 || !strings.Contains(stdout, "transfer-leader") {
		t.Errorf("got exit code %d, %q", code, fmt.Sprint(stdout))
	}
}

// TestDrainIsTold ensures that a drain tells what is left and what that waits for, until nothing is or the draining is ended.
func TestDrainIsTold(t *testing.T) {
	for left, want := range map[int]int{0: 0, 2: 1} {
		f := &fakeCluster{}
		address, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "GET" {
				f.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"id":"a","state":"up","replicas":%d}`, left)
		})
		code, _, stderr := larder(t, "", nil, "node", "drain", "a", "--server", address)
		if code != want || !strings.Contains(stderr, "node a has 2 replicas and one of the directory; shard 3: no  room\n") ||
			strings.Contains(stderr, "not drained any more") != (left > 0) {
			t.Errorf("%d left: got exit code %d, %q", left, code, stderr)
		}
	}
}
