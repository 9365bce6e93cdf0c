package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// keepingData answers a write with what it was sent, or lets it time out, and keeps all that it was given, as a batch may
// whose outcome is not known when its request ends.
type keepingData struct {
	fakeData
	mu      sync.Mutex
	kept    []keptRequest
	latest  map[string]context.Context // by client
	revived bool                       // a context went on while its client's next request was served
}

type keptRequest struct {
	req             shard.Request
	key, value      []byte // copies
	idempotencyKey  string
	contentTypeCopy string
}

func (d *keepingData) Do(ctx context.Context, req shard.Request) (shard.Response, error) {
	k := keptRequest{req, bytes.Clone(req.Key), bytes.Clone(req.Value), string([]byte(req.IdempotencyKey)), string([]byte(req.ContentType))}
	d.mu.Lock()
	d.kept = append(d.kept, k)
	n := len(d.kept)
	client, _, _ := strings.Cut(string(req.Key), "-")
	if earlier := d.latest[client]; earlier != nil && earlier.Err() == nil {
		d.revived = true
	}
	d.latest[client] = ctx
	d.mu.Unlock()
	if n%7 == 0 {
		<-ctx.Done()
		return shard.Response{}, shard.ErrOutcomeUnknown
	}
	return shard.Response{Status: fsm.StatusOK, Version: 1, Existed: true, HasValue: true, Value: req.Value, ContentType: req.ContentType}, nil
}

// Nothing that a request brought, neither bytes nor context, is ever another's: not on the same connection, not on another
// one at the same time, and not when its operation is still under way after the answer.
func TestRequestsShareNothing(t *testing.T) {
	data := &keepingData{latest: map[string]context.Context{}}
	handler, err := New(fixtureConfig(data))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(handler, 0)
	srv.noPlain = allByNetHTTP
	defer srv.Close()
	go srv.Serve(l)
	var clients sync.WaitGroup
	for client := range 8 {
		clients.Go(func() {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			reader := bufio.NewReader(conn)
			for i := range 60 {
				value := bytes.Repeat(fmt.Appendf(nil, "%d-%d.", client, i), 1+i*i%900)
				go fmt.Fprintf(conn, "PUT /v1/kv/%d-%d?return=old HTTP/1.1\r\nHost: a\r\nLarder-Timeout: 50ms\r\nContent-Type: t/%[1]d-%d\r\nIdempotency-Key: \"%[1]d-%d\"\r\nContent-Length: %[3]d\r\n\r\n%[4]s",
					client, i, len(value), value)
				resp, err := http.ReadResponse(reader, nil)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				if contentType := fmt.Sprintf("t/%d-%d", client, i); err != nil || resp.StatusCode == 200 && (!bytes.Equal(body, value) || resp.Header.Get("Content-Type") != contentType) {
					t.Errorf("%s of %d bytes came back as %s of %d, %v", contentType, len(value), resp.Header.Get("Content-Type"), len(body), err)
				}
				if resp.Close { // its body was too late
					return
				}
			}
		})
	}
	clients.Wait()
	data.mu.Lock()
	defer data.mu.Unlock()
	for _, k := range data.kept {
		if !bytes.Equal(k.req.Key, k.key) || !bytes.Equal(k.req.Value, k.value) || k.req.IdempotencyKey != k.idempotencyKey || k.req.ContentType != k.contentTypeCopy {
			t.Fatalf("the request on %q became one on %q, of %q %q", k.key, k.req.Key, k.req.ContentType, k.req.IdempotencyKey)
		}
	}
	if data.revived || len(data.kept) < 8 {
		t.Errorf("a context goes on after its request: %t; %d requests arrived", data.revived, len(data.kept))
	}
}
