package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// fakeData is a cache in a map. It counts what reaches it, so that a test can say that nothing did.
type fakeData struct {
	mu       sync.Mutex
	entries  map[string]fakeEntry
	version  uint64
	requests []shard.Request
	batches  []shard.Batch
	locals   int
	located  []byte // key of the last Locate
	leader   string // that Locate names
	noTable  bool   // Locate refuses

	// answer, when set, answers instead of the map; local does for Local.
	answer func(context.Context, shard.Request) (shard.Response, error)
	local  func(context.Context, shard.Request) (shard.Response, error)
	// answerBatch, when set, answers batches.
	answerBatch func(context.Context, shard.Batch) ([]shard.Reply, error)
	// scan, when set, answers scans; scans are those that came.
	scan  func(context.Context, shard.Scan) (shard.Page, error)
	scans []shard.Scan
}

type fakeEntry struct {
	value       []byte
	contentType string
	ttl         time.Duration
	version     uint64
}

func (d *fakeData) Do(ctx context.Context, req shard.Request) (shard.Response, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests = append(d.requests, req)
	if d.answer != nil {
		return d.answer(ctx, req)
	}
	return d.applyLocked(req), nil
}

func (d *fakeData) DoBatch(ctx context.Context, b shard.Batch) ([]shard.Reply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.batches = append(d.batches, b)
	if d.answerBatch != nil {
		return d.answerBatch(ctx, b)
	}
	replies := make([]shard.Reply, len(b.Ops))
	for i, req := range b.Ops {
		replies[i].Response = d.applyLocked(req)
		replies[i].Response.Position = uint32(i)
	}
	return replies, nil
}

func (d *fakeData) Scan(ctx context.Context, s shard.Scan) (shard.Page, error) {
	return d.page(ctx, s, func(p *shard.Page, key []byte) bool {
		p.Keys = append(p.Keys, key)
		return len(p.Keys) < s.Limit
	})
}

func (d *fakeData) Erase(ctx context.Context, s shard.Scan) (shard.Page, error) {
	return d.page(ctx, s, func(p *shard.Page, key []byte) bool {
		p.Removed++
		delete(d.entries, string(key))
		return true
	})
}

// page calls each for the keys from s.From on, until it returns false.
func (d *fakeData) page(ctx context.Context, s shard.Scan, each func(*shard.Page, []byte) bool) (shard.Page, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.scans = append(d.scans, s)
	if d.scan != nil {
		return d.scan(ctx, s)
	}
	p := shard.Page{Response: shard.Response{Shard: 3, Epoch: 7, Index: 100, Position: 2, ServedBy: "a", Status: fsm.StatusOK, Read: shard.ReadProbe}}
	place := func(a, b string) int {
		return cmp.Or(cmp.Compare(fsm.Slot([]byte(a)), fsm.Slot([]byte(b))), cmp.Compare(a, b))
	}
	for _, key := range slices.SortedFunc(maps.Keys(d.entries), place) {
		slot := uint32(fsm.Slot([]byte(key)))
		if slot < s.From.Slot || slot == s.From.Slot && key <= string(s.From.After) || !strings.HasPrefix(key, string(s.Prefix)) {
			continue
		}
		if !each(&p, []byte(key)) {
			p.Next = fsm.Cursor{Slot: slot, After: []byte(key)}
			return p, nil
		}
	}
	p.Next.Slot = fsm.Slots
	return p, nil
}

func (d *fakeData) Local(ctx context.Context, req shard.Request) (shard.Response, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.locals++
	if d.local != nil {
		return d.local(ctx, req)
	}
	return d.applyLocked(req), nil
}

func (d *fakeData) Locate(key []byte) (directory.Location, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.located = bytes.Clone(key)
	if d.noTable {
		return directory.Location{}, shard.ErrNoLeader
	}
	return directory.Location{Slot: 1, Shard: 3, Epoch: 7, Leader: d.leader, Members: []string{"a", "b"}}, nil
}

// lastLocated returns the key of the last Locate.
func (d *fakeData) lastLocated() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.located
}

func (d *fakeData) setLeader(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leader = node
}

func (d *fakeData) applyLocked(req shard.Request) shard.Response {
	resp := shard.Response{Shard: 3, Epoch: 7, Index: 100 + d.version, Position: 2, ServedBy: "a", Status: fsm.StatusOK}
	entry, found := d.entries[string(req.Key)]
	resp.Existed = found
	if req.Op == shard.OpGet {
		resp.Found, resp.Read = found, shard.ReadProbe
		resp.Value, resp.ContentType, resp.Version = entry.value, entry.contentType, entry.version
		resp.HasTTL, resp.TTL = entry.ttl > 0, entry.ttl
		return resp
	}
	holds := true
	switch req.Cond.Kind {
	case fsm.CondAbsent:
		holds = !found
	case fsm.CondPresent:
		holds = found
	case fsm.CondVersion:
		holds = found && entry.version == req.Cond.Version
	case fsm.CondFill:
		holds = entry.version <= req.Cond.Version
	}
	if !holds {
		resp.Status, resp.Version = fsm.StatusCondition, entry.version
		return resp
	}
	old := entry
	switch req.Op {
	case shard.OpPut:
		entry = fakeEntry{bytes.Clone(req.Value), req.ContentType, req.TTL, 0}
		if resp.HasValue = req.ReturnOld && found; resp.HasValue {
			resp.Value, resp.ContentType = old.value, old.contentType
		}
	case shard.OpIncr:
		n, err := strconv.ParseInt(cmp.Or(string(entry.value), "0"), 10, 64)
		if err != nil {
			resp.Status = fsm.StatusNotInteger
			return resp
		}
		entry.value = strconv.AppendInt(nil, n+req.Delta, 10)
		resp.HasValue, resp.Value, resp.ContentType = true, entry.value, entry.contentType
	case shard.OpAppend:
		entry.value = append(bytes.Clone(entry.value), req.Value...)
		if !found {
			entry.contentType = req.ContentType
		}
		resp.HasValue, resp.Value, resp.ContentType = true, entry.value, entry.contentType
	case shard.OpExpire, shard.OpTouch:
		if !found {
			resp.Status = fsm.StatusNotFound
			return resp
		}
		if req.Op == shard.OpExpire {
			entry.ttl = req.TTL
		}
		d.entries[string(req.Key)] = entry
		resp.Version = entry.version
		return resp
	}
	if !found && req.Op != shard.OpDelete {
		entry.ttl = req.TTL
	}
	d.version++
	resp.Version, entry.version = d.version, d.version
	d.entries[string(req.Key)] = entry
	if req.Op == shard.OpDelete {
		delete(d.entries, string(req.Key))
	}
	return resp
}

// reached returns how many operations arrived.
func (d *fakeData) reached() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.requests) + d.locals
}

// keys returns all keys stored.
func (d *fakeData) keys() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.entries))
}

func (d *fakeData) last() shard.Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.requests[len(d.requests)-1]
}

// fixture is a handler over fakes, on a real server.
type fixture struct {
	data  *fakeData
	dir   *fakeDirectory
	admin *fakeAdmin
	logs  *bytes.Buffer
	reg   *prometheus.Registry
	url   string // http://host:port
	addr  string // host:port
	// handler is what the server serves, for tests without a socket.
	handler http.Handler
	server  *Server // nil without a socket
}

// newHandler makes the handler alone. Each of its answers is held against the OpenAPI document.
func newHandler(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{
		data:  &fakeData{entries: map[string]fakeEntry{}, leader: "b"},
		dir:   &fakeDirectory{state: directory.NodeUp},
		admin: &fakeAdmin{},
		logs:  &bytes.Buffer{},
		reg:   prometheus.NewRegistry(),
	}
	cfg := Config{
		Node: "a", Data: f.data, Directory: f.dir, Admin: f.admin, Metrics: f.reg,
		Log: slog.New(slog.NewTextHandler(&lockedWriter{w: f.logs}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&cfg)
	}
	handler, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.handler = checkAnswers(t, handler)
	return f
}

// newFixture starts a server as the binary does, listener wrapped.
func newFixture(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	f := newHandler(t, change...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(f.handler, 0)
	srv.noPlain = allByNetHTTP
	srv.errLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.rest.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	f.server = srv
	done := make(chan struct{})
	go func() {
		srv.Serve(l)
		close(done)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	f.addr = l.Addr().String()
	f.url = "http://" + f.addr
	return f
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// request serves one request without a socket: method, path with query, headers as pairs.
func (f *fixture) request(t *testing.T, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = bytes.NewReader([]byte(body))
	}
	r := httptest.NewRequestWithContext(t.Context(), method, target, reader)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}
