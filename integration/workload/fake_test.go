package workload

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fake is a correct cache of one process: one map under one lock. Each node of a cluster of them is a handler of its own.
type fake struct {
	stale bool          // some reads show what was there before the last change
	lose  int           // every so many requests that were served their answers are lost, 0 for none
	room  int           // entries, 0 for any number: what is beyond is evicted at random
	again func() string // "" or the idempotency key that is not remembered

	mu       sync.Mutex // guards what follows
	entries  map[string]entry
	before   map[string]entry
	gone     map[string]string // why
	made     map[string]made   // by idempotency key
	version  uint64
	reads    int
	requests int
	setting  string
	changed  uint64 // version of the setting
	nodes    []string
	leader   string
}

type entry struct {
	value   string
	version uint64
	until   time.Time // zero for ever
}

// made is an answer that is remembered.
type made struct {
	what   string
	header http.Header
	status int
	body   string
}

func newFake(nodes ...string) *fake {
	return &fake{
		entries: map[string]entry{}, before: map[string]entry{}, gone: map[string]string{}, made: map[string]made{},
		version: 1, changed: 1, setting: "none", nodes: nodes, leader: nodes[0],
	}
}

// reply is an answer under construction.
type reply struct {
	http.Header
	status int
	body   string
}

func (r *reply) tag(version uint64) { r.Set("ETag", fmt.Sprintf(`"%d"`, version)) }

func (r *reply) fail(status int, typ string) {
	r.status = status
	r.Set("Content-Type", "application/problem+json")
	problem := map[string]any{"type": "/problems/" + typ, "title": "t", "detail": "d", "status": status, "applied": "no"}
	if tag := r.Get("ETag"); tag != "" {
		problem["etag"] = tag
	}
	body, _ := json.Marshal(problem)
	r.body = string(body)
}

// node is the handler of one node; urls tells where the others are.
func (f *fake) node(name string, url func(node string) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		f.mu.Lock()
		r := reply{Header: http.Header{"X-Content-Type-Options": {"nosniff"}}, status: 204}
		route, read := req.URL.Query().Get("route"), req.Method == http.MethodGet
		switch {
		case req.URL.Path == "/v1/batch":
			f.batch(&r, body)
		case req.URL.Path == "/v1/settings":
			f.settings(&r, req, string(body))
		case req.URL.Path == "/v1/directory":
			r.tag(f.changed)
			r.status, r.body = 200, fmt.Sprintf(`{"version":%d,"shards":[{"id":2,"start":8192,"end":16384,"epoch":1},{"id":1,"start":0,"end":8192,"epoch":1}]}`, f.changed)
		case route == "redirect" && name != f.leader:
			r.Set("Location", url(f.leader)+req.URL.RequestURI())
			r.status = http.StatusTemporaryRedirect
		case route == "local" && name != f.leader && !read:
			r.Set("Larder-Leader", f.leader)
			r.Set("Larder-Epoch", "2")
			r.fail(421, "misdirected")
		default:
			r.Set("Larder-Served-By", f.leader)
			if route == "local" {
				r.Set("Larder-Served-By", name)
			}
			f.serve(&r, req, string(body))
		}
		f.requests++
		lost := f.lose > 0 && f.requests%f.lose == 0
		f.mu.Unlock()
		if lost {
			panic(http.ErrAbortHandler)
		}
		for k, v := range r.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(r.status)
		io.WriteString(w, r.body)
	})
}

// look returns what is under a key now.
func (f *fake) look(key string) (entry, bool) {
	e, ok := f.entries[key]
	if ok && !e.until.IsZero() && !time.Now().Before(e.until) {
		delete(f.entries, key)
		f.gone[key] = "expired"
		ok = false
	}
	return e, ok
}

func (f *fake) serve(r *reply, req *http.Request, body string) {
	key, _ := url.PathUnescape(strings.TrimPrefix(req.URL.EscapedPath(), "/v1/kv/"))
	f.version++
	r.Set("Larder-Shard", "1")
	r.Set("Larder-Epoch", "2")
	r.Set("Larder-Index", fmt.Sprintf("%d.0", f.version))
	if req.Method == http.MethodGet {
		f.read(r, req, key)
		return
	}
	id, what := req.Header.Get("Idempotency-Key"), req.Method+req.URL.RawQuery+body
	if past, ok := f.made[id]; ok && id != "" && (f.again == nil || f.again() != id) {
		if !strings.HasPrefix(what, past.what) {
			r.fail(422, "idempotency-key-reused")
			return
		}
		for k, v := range past.header {
			r.Header[k] = v
		}
		r.Set("Idempotency-Replayed", "?1")
		r.status, r.body = past.status, past.body
		return
	}
	if f.write(r, req, key, body) && id != "" {
		past := made{what: what, header: http.Header{}, status: r.status, body: r.body}
		for _, k := range []string{"ETag", "Larder-Existed"} {
			if v := r.Header.Values(k); len(v) > 0 {
				past.header[http.CanonicalHeaderKey(k)] = v
			}
		}
		if len(r.body) > 64 {
			past.status, past.body = 204, ""
		}
		f.made[id] = past
	}
}

// batch performs the operations of a batch as single requests.
func (f *fake) batch(r *reply, body []byte) {
	var in struct {
		Atomic bool
		Ops    []struct {
			Op, Key, Value, Return string
			IfMatch                string `json:"if_match"`
			IfNoneMatch            string `json:"if_none_match"`
			By                     int64
		}
	}
	if err := json.Unmarshal(body, &in); err != nil {
		r.fail(400, "bad-body")
		return
	}
	entries, gone := maps.Clone(f.entries), maps.Clone(f.gone)
	var results []map[string]any
	refused := -1
	for i, op := range in.Ops {
		query := url.Values{}
		if op.Return != "" {
			query.Set("return", op.Return)
		}
		if op.Op == "incr" || op.Op == "append" || op.Op == "touch" {
			query.Set("op", op.Op)
			query.Set("by", strconv.FormatInt(op.By, 10))
		}
		method := map[string]string{"get": "GET", "put": "PUT", "delete": "DELETE"}[op.Op]
		req := &http.Request{Method: cmp.Or(method, "POST"), URL: &url.URL{Path: "/v1/kv/" + op.Key, RawPath: "/v1/kv/" + url.PathEscape(op.Key), RawQuery: query.Encode()}, Header: http.Header{}}
		if op.IfMatch != "" {
			req.Header.Set("If-Match", op.IfMatch)
		}
		if op.IfNoneMatch != "" {
			req.Header.Set("If-None-Match", op.IfNoneMatch)
		}
		one := reply{Header: http.Header{"Larder-Served-By": {f.leader}}, status: 204}
		f.serve(&one, req, op.Value)
		index := one.Get("Larder-Index")
		if in.Atomic {
			index = fmt.Sprintf("%d.%d", f.version-uint64(i), i) // that of the first
		}
		result := map[string]any{"status": one.status, "shard": 1, "epoch": 2, "index": index, "served_by": f.leader}
		switch {
		case one.status >= 400:
			result["problem"] = json.RawMessage(one.body)
			if refused < 0 && (op.Op != "get" || one.status != 404) {
				refused = i
			}
			if op.Op == "get" {
				result["read"], result["miss"] = "log", strings.TrimPrefix(one.Get("Cache-Status"), "larder; detail=")
			}
		case op.Op == "get":
			result["read"], result["value"] = "log", one.body
		case one.status == 200:
			result["value"] = one.body
		}
		if tag := one.Get("ETag"); tag != "" {
			result["etag"] = tag
		}
		if existed := one.Get("Larder-Existed"); existed != "" {
			result["existed"] = existed == "?1"
		}
		results = append(results, result)
	}
	answer := map[string]any{"results": results}
	if in.Atomic {
		if answer["applied"] = "yes"; refused >= 0 {
			answer["applied"] = "no"
			f.entries, f.gone = entries, gone
			for i := range results {
				if i != refused {
					var one reply
					one.Header = http.Header{}
					one.fail(424, "aborted")
					results[i] = map[string]any{"status": 424, "problem": json.RawMessage(one.body)}
				}
			}
		}
	}
	text, _ := json.Marshal(answer)
	r.status, r.body = 200, string(text)
}

func (f *fake) read(r *reply, req *http.Request, key string) {
	e, present := f.look(key)
	r.Set("Larder-Read", "probe")
	if r.Get("Larder-Served-By") != f.leader {
		r.Set("Larder-Read", "follower")
	}
	if req.URL.Query().Get("consistency") != "" {
		r.Set("Larder-Read", "local")
		r.Set("Age", "0")
	}
	f.reads++
	if was, ok := f.before[key]; f.stale && ok && f.reads%5 == 0 {
		e, present = was, true
	}
	if !present {
		why := f.gone[key]
		if why == "" {
			why = "absent"
		}
		r.Set("Cache-Status", "larder; detail="+why)
		if req.URL.Query().Get("fill") != "" {
			r.Set("Larder-Fill", strconv.FormatUint(f.version, 10))
		}
		r.fail(404, "not-found")
		return
	}
	r.tag(e.version)
	r.Set("Cache-Status", "larder; hit")
	if !e.until.IsZero() {
		r.Set("Cache-Status", fmt.Sprintf("larder; hit; ttl=%d", int(time.Until(e.until).Seconds())))
	}
	r.status, r.body = 200, e.value
}

// write reports whether it changed something.
func (f *fake) write(r *reply, req *http.Request, key, body string) bool {
	old, present := f.look(key)
	if present {
		r.tag(old.version)
	}
	query := req.URL.Query()
	token, _ := strconv.ParseUint(req.Header.Get("Larder-Fill"), 10, 64)
	if match := req.Header.Get("If-Match"); match != "" && (!present || match != fmt.Sprintf(`"%d"`, old.version)) ||
		req.Header.Get("If-None-Match") == "*" && present || token != 0 && present {
		r.fail(412, "precondition-failed")
		return false
	}
	op := query.Get("op")
	if !present && (req.Method == http.MethodPatch || op == "touch") {
		r.fail(404, "not-found")
		return false
	}
	if present {
		f.before[key] = old
	}
	next := entry{body, f.version, ends(query.Get("ttl"))}
	switch {
	case req.Method == http.MethodDelete:
		r.Del("ETag")
		r.Set("Larder-Existed", flag(present))
		delete(f.entries, key)
		f.gone[key] = "deleted"
		return present
	case req.Method == http.MethodPatch:
		var patch struct{ TTL string }
		json.Unmarshal([]byte(body), &patch)
		old.until = ends(patch.TTL)
		f.entries[key] = old
		return true
	case op == "touch":
		return false
	case op == "incr":
		n, _ := strconv.ParseInt(old.value, 10, 64)
		by, _ := strconv.ParseInt(query.Get("by"), 10, 64)
		if !present {
			n = 0
		}
		next.value, next.until = strconv.FormatInt(n+by, 10), old.until
		r.status, r.body = 200, next.value
	case op == "append":
		if present {
			next.value, next.until = old.value+body, old.until
		}
		r.status, r.body = 200, next.value
	case query.Get("return") == "old":
		r.Set("Larder-Existed", flag(present))
		if r.status = 201; present {
			r.status, r.body = 200, old.value
		}
	case !present:
		r.status = 201
	}
	f.entries[key] = next
	r.tag(f.version)
	if f.room > 0 {
		for victim := range f.entries {
			if len(f.entries) <= f.room {
				break
			}
			delete(f.entries, victim)
			f.gone[victim] = "evicted"
		}
	}
	return true
}

// settings has one setting, of one version.
func (f *fake) settings(r *reply, req *http.Request, body string) {
	r.tag(f.changed)
	if req.Method == http.MethodPatch {
		if match := req.Header.Get("If-Match"); match != "" && match != r.Get("ETag") {
			r.fail(412, "precondition-failed")
			return
		}
		var patch map[string]string
		json.Unmarshal([]byte(body), &patch)
		f.changed++
		f.setting = patch["default-ttl"]
		r.tag(f.changed)
	}
	shown, _ := json.Marshal(map[string]any{"default-ttl": f.setting, "replicas": 3})
	r.status, r.body = 200, string(shown)
}

func ends(ttl string) time.Time {
	if d, err := time.ParseDuration(ttl); err == nil {
		return time.Now().Add(d)
	}
	return time.Time{}
}

func flag(b bool) string {
	if b {
		return "?1"
	}
	return "?0"
}
