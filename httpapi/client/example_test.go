package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	"github.com/larder-cache/larder/httpapi/client"
)

// startLarder stands for a cluster: one node with a map.
func startLarder() *httptest.Server {
	var mu sync.Mutex
	type entry struct {
		value   []byte
		version int
	}
	entries, version := map[string]entry{}, 0
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		h := w.Header()
		refuse := func(status int, name string) {
			h.Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"type":"/problems/%s","title":"","status":%d,"detail":"","applied":"no"}`, name, status)
		}
		if r.URL.Path == "/v1/directory" {
			refuse(503, "unavailable")
			return
		}
		body, _ := io.ReadAll(r.Body)
		h.Set("Larder-Shard", "1")
		h.Set("Larder-Epoch", "3")
		h.Set("Larder-Index", "17.0")
		h.Set("Larder-Served-By", "a")
		h.Set("Larder-Read", "probe")
		now, found := entries[r.URL.Path]
		match := r.Header.Get("If-Match")
		switch {
		case r.Method == "GET" && !found:
			refuse(404, "not-found")
			return
		case r.Header.Get("If-None-Match") == "*" && found, match != "" && match != strconv.Quote(strconv.Itoa(now.version)):
			h.Set("ETag", strconv.Quote(strconv.Itoa(now.version)))
			refuse(412, "precondition-failed")
			return
		case r.Method == "PUT":
			version++
			now = entry{body, version}
			entries[r.URL.Path] = now
		case r.Method == "DELETE":
			delete(entries, r.URL.Path)
			h.Set("Larder-Existed", "?0")
			if found {
				h.Set("Larder-Existed", "?1")
			}
		}
		h.Set("ETag", strconv.Quote(strconv.Itoa(now.version)))
		switch {
		case r.Method == "GET":
			w.Write(now.value)
		case r.Method == "PUT" && !found:
			w.WriteHeader(201)
		default:
			w.WriteHeader(204)
		}
	}))
}

func Example() {
	larder := startLarder()
	defer larder.Close()

	c, err := client.New(client.Config{Addrs: []string{larder.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx := context.Background()

	if _, err := c.Put(ctx, "user:1", []byte("Ada"), client.TTL(time.Minute)); err != nil {
		fmt.Println(err)
		return
	}
	entry, err := c.Get(ctx, "user:1")
	fmt.Printf("%s %v\n", entry.Value, err)
	_, err = c.Get(ctx, "user:2")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	// Output:
	// Ada <nil>
	// true
}

// A read, a change and a write on condition that nobody else wrote: repeated until it holds.
func ExampleIfVersion() {
	larder := startLarder()
	defer larder.Close()
	c, err := client.New(client.Config{Addrs: []string{larder.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx := context.Background()

	if _, err := c.Create(ctx, "visits", []byte("1")); err != nil {
		fmt.Println(err)
		return
	}
	for {
		entry, err := c.Get(ctx, "visits")
		if err != nil {
			fmt.Println(err)
			return
		}
		n, _ := strconv.Atoi(string(entry.Value))
		_, err = c.Put(ctx, "visits", []byte(strconv.Itoa(n+1)), client.IfVersion(entry.Version))
		if errors.Is(err, client.ErrPrecondition) {
			continue
		}
		fmt.Println(n+1, err)
		return
	}
	// Output: 2 <nil>
}

// What came of a write decides what to do next.
func ExampleError() {
	larder := startLarder()
	defer larder.Close()
	c, err := client.New(client.Config{Addrs: []string{larder.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx := context.Background()

	for range 2 {
		_, err := c.Create(ctx, "lock", []byte("me"))
		var e *client.Error
		switch {
		case err == nil:
			fmt.Println("created")
		case errors.Is(err, client.ErrOutcomeUnknown):
			fmt.Println("read the key to learn whether it was created")
		case errors.As(err, &e):
			fmt.Println(e.Kind, "- present version", e.Version)
		}
	}
	// Output:
	// created
	// precondition failed - present version 1
}
