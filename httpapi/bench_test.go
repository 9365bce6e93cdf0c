package httpapi

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// instantData answers at once, and always the same.
type instantData struct{ fakeData }

var benchValue = []byte(strings.Repeat("v", 100))

func (*instantData) Do(_ context.Context, req shard.Request) (shard.Response, error) {
	resp := shard.Response{Shard: 3, Epoch: 41, Index: 123_456, Position: 2, ServedBy: "a", Status: fsm.StatusOK, Version: 1<<44 + 5}
	if req.Op == shard.OpGet {
		resp.Found, resp.Read, resp.Value = true, shard.ReadProbe, benchValue
	} else {
		resp.Existed = true
	}
	return resp, nil
}

var benchRequests = map[string]string{
	"GET": "GET /v1/kv/user:1234 HTTP/1.1\r\nHost: 127.0.0.1:7070\r\n\r\n",
	"PUT": "PUT /v1/kv/user:1234 HTTP/1.1\r\nHost: 127.0.0.1:7070\r\nContent-Length: 100\r\n\r\n" + string(benchValue),
}

// fixtureConfig is that of a handler over data and other fakes.
func fixtureConfig(data Data) Config {
	return Config{
		Node: "a", Data: data, Directory: &fakeDirectory{state: directory.NodeUp}, Admin: &fakeAdmin{},
		Metrics: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// BenchmarkGet is a read that finds a value of 100 bytes, by a cache that answers at once: what the interface
// itself takes.
func BenchmarkGet(b *testing.B) { benchmarkData(b, "GET") }

// BenchmarkPut is a write of 100 bytes over another value.
func BenchmarkPut(b *testing.B) { benchmarkData(b, "PUT") }

func benchmarkData(b *testing.B, method string) {
	handler, err := New(fixtureConfig(&instantData{}))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("handler", func(b *testing.B) {
		b.ReportAllocs()
		var body *strings.Reader
		r := httptest.NewRequest(method, "/v1/kv/user:1234", nil)
		if method == "PUT" {
			body = strings.NewReader(string(benchValue))
			r = httptest.NewRequest(method, "/v1/kv/user:1234", body)
		}
		w := discardWriter{header: http.Header{}}
		for b.Loop() {
			if body != nil {
				body.Seek(0, io.SeekStart)
			}
			clear(w.header)
			handler.ServeHTTP(&w, r)
		}
	})
	b.Run("connections", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		srv := NewServer(handler, 0)
		srv.noPlain = allByNetHTTP
		done := make(chan struct{})
		go func() {
			srv.Serve(l)
			close(done)
		}()
		defer func() { <-done }()
		defer srv.Close()
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			request, reader := []byte(benchRequests[method]), bufio.NewReader(conn)
			for pb.Next() {
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				if err := skipAnswer(reader); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// discardWriter takes an answer and keeps nothing but its header.
type discardWriter struct{ header http.Header }

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *discardWriter) WriteHeader(int)             {}

// skipAnswer reads an answer with a Content-Length or without a body, and allocates nothing: what a benchmark
// counts is the server's.
func skipAnswer(reader *bufio.Reader) error {
	length := 0
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			_, err := reader.Discard(length)
			return err
		}
		const name = "content-length:"
		if len(line) > len(name) && strings.EqualFold(string(line[:len(name)]), name) {
			length, err = strconv.Atoi(string(textproto.TrimBytes(line[len(name):])))
			if err != nil {
				return err
			}
		}
	}
}
