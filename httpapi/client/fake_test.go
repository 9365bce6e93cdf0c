package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// network is a fake cluster in memory: each address has a handler, connections are pipes. It works in
// a synctest bubble.
type network struct {
	t  *testing.T
	mu sync.Mutex // guards all below
	// nodes by address
	nodes map[string]*fakeNode
}

type fakeNode struct {
	addr    string
	handler http.HandlerFunc // of /v1/kv/, /v1/batch and /v1/keys
	table   http.HandlerFunc // of /v1/directory
	down    bool             // refuses connections
	got     []string         // "METHOD path?query" of requests on keys
	conns   chan net.Conn
	server  *http.Server
}

func newNetwork(t *testing.T, addrs ...string) *network {
	w := &network{t: t, nodes: map[string]*fakeNode{}}
	for _, addr := range addrs {
		f := &fakeNode{addr: addr, conns: make(chan net.Conn)}
		f.server = &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			handler := f.table
			if strings.HasPrefix(r.URL.Path, "/v1/kv/") || r.URL.Path == "/v1/batch" || r.URL.Path == "/v1/keys" {
				handler = f.handler
				f.got = append(f.got, r.Method+" "+r.URL.RequestURI())
			}
			w.mu.Unlock()
			if handler == nil {
				handler = problem(503, "unavailable", "no")
			}
			handler(rw, r)
		})}
		w.nodes[addr] = f
		go f.server.Serve(f)
		t.Cleanup(func() { f.server.Close() })
	}
	return w
}

// Accept, Close and Addr make a fakeNode a net.Listener.
func (f *fakeNode) Accept() (net.Conn, error) {
	conn, ok := <-f.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (f *fakeNode) Close() error {
	defer func() { recover() }() // closed twice
	close(f.conns)
	return nil
}
func (f *fakeNode) Addr() net.Addr { return &net.TCPAddr{} }

func (w *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	w.mu.Lock()
	f := w.nodes[addr]
	down := f == nil || f.down
	w.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	select {
	case f.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// set has the node at addr answer requests on keys with h.
func (w *network) set(addr string, h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[addr].handler = h
}

func (w *network) setTable(h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.nodes {
		f.table = h
	}
}

// crash has the node at addr refuse connections and cut those that there are.
func (w *network) crash(addr string) {
	w.mu.Lock()
	w.nodes[addr].down = true
	server := w.nodes[addr].server
	w.mu.Unlock()
	server.Close()
}

// got returns the requests on keys that reached addr since the last time.
func (w *network) got(addr string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.nodes[addr].got
	w.nodes[addr].got = nil
	return got
}

func (w *network) client(cfg Config) *Client {
	w.t.Helper()
	cfg.DialContext = w.dial
	if cfg.Addrs == nil {
		cfg.Addrs = []string{"a:1"}
	}
	c, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// oneShard is a table of one shard on a, b and c.
func oneShard(version int, leader string) http.HandlerFunc {
	return tableOf(version, fmt.Sprintf(`{"cluster":"x","version":%d,"shards":[{"id":1,"start":0,"end":16384,"epoch":3,"conf":"1-7","leader":%q,
			"members":[{"node":"a","role":"voter"},{"node":"b","role":"voter"},{"node":"c","role":"voter"}]}],
			"nodes":{"a":{"http":"a:1","state":"up"},"b":{"http":"b:1","state":"up"},"c":{"http":"c:1","state":"up"}}}`, version, leader))
}

// tableOf answers with a table that never changes: a question that waits is held.
func tableOf(version int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		etag := fmt.Sprintf("%q", fmt.Sprint(version))
		if r.Header.Get("If-None-Match") == etag {
			if r.Header.Get("Prefer") == "wait=30" {
				select {
				case <-time.After(30 * time.Second):
				case <-r.Context().Done():
				}
			}
			w.WriteHeader(304)
			return
		}
		w.Header().Set("ETag", etag)
		io.WriteString(w, body)
	}
}

// place writes what each answer of node carries.
func place(w http.ResponseWriter, node string) http.Header {
	h := w.Header()
	h.Set("Larder-Shard", "1")
	h.Set("Larder-Epoch", "3")
	h.Set("Larder-Index", "17.4")
	h.Set("Larder-Served-By", node)
	h.Set("ETag", `"42"`)
	h.Set("Larder-Read", "probe")
	h.Set("Larder-Existed", "?1")
	return h
}

// serve answers as a node that leads does.
func serve(node string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		place(w, node)
		switch r.Method {
		case "GET":
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Cache-Status", "larder; hit; ttl=41")
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "value")
		case "PUT":
			w.WriteHeader(201)
		default:
			w.WriteHeader(204)
		}
	}
}

// problem answers with an error; headers are names and values.
func problem(status int, name, applied string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/problem+json")
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"type":"/problems/%s","title":"t","status":%d,"detail":"d","applied":%q}`, name, status, applied)
	}
}

// raw answers with text and closes the connection.
func raw(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(conn, text)
			conn.Close()
		}
	}
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}
