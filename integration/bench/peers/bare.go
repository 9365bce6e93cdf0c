package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/gorilla/mux"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/local"
	"github.com/larder-cache/larder/integration/port"
)

// bare is a process with nothing but a handler and a map.
type bare struct {
	addr string
	p    *local.Process
}

func startBare(ctx context.Context, self, dir string) (system, error) {
	addr, err := port.Free("127.0.0.1")
	if err != nil {
		return nil, err
	}
	p, err := local.Start("bare", filepath.Join(dir, "log"), self, "child", "bare", addr)
	if err != nil {
		return nil, err
	}
	b := bare{addr, p}
	if err := p.Await(ctx, "ready", func() bool { return listens(ctx, addr) }); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// listens reports whether somebody accepts connections there.
func listens(ctx context.Context, addr string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func (b bare) processes() []*local.Process { return []*local.Process{b.p} }

// open implements system: the handler answers with what the client looks for in answers of Larder.
func (b bare) open(ctx context.Context) (load.Dial, func() error, error) {
	target, err := load.Open(ctx, load.HTTP{Addrs: []string{b.addr}, Route: load.RouteAny})
	if err != nil {
		return nil, nil, err
	}
	return target.Dial, target.Close, nil
}

func (b bare) counters(context.Context) (counters, error) { return counters{}, nil }

func (b bare) close() error { return b.p.Kill() }

// serveBare listens until ctx ends.
func serveBare(ctx context.Context, addr string) error {
	server := &http.Server{Addr: addr, Handler: bareHandler()}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bareHandler keeps values in a map, and answers with as many bytes as Larder does.
func bareHandler() http.Handler {
	var mu sync.RWMutex
	values := map[string][]byte{} // guarded by mu
	r := mux.NewRouter().UseEncodedPath().SkipClean(true)
	r.PathPrefix("/v1/kv/").HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Larder-Shard", "1")
		h.Set("Larder-Epoch", "1")
		h.Set("Larder-Index", "123456.0")
		h.Set("Larder-Served-By", "a")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
		h.Set("ETag", `"17592186167872"`)
		key := r.URL.EscapedPath()
		if r.Method == http.MethodPut {
			value, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			mu.Lock()
			values[key] = value
			mu.Unlock()
			w.WriteHeader(http.StatusNoContent)
			return
		}
		mu.RLock()
		value, found := values[key]
		mu.RUnlock()
		h.Set("Larder-Read", "probe")
		if !found {
			h.Set("Cache-Status", "larder; detail=absent")
			w.WriteHeader(http.StatusNotFound)
			return
		}
		h.Set("Cache-Status", "larder; hit")
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", strconv.Itoa(len(value)))
		w.Write(value) // the client that doesn't hear it has gone
	})
	return r
}
