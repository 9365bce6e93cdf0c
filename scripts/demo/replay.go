package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// result is what a replay came to.
type result struct {
	requests  int // GETs and PUTs that were answered
	hits      int
	misses    int
	failures  int // accesses given up after every node was tried
	took      time.Duration
	latencies []time.Duration // of the requests
}

func (r result) add(o result) result {
	return result{
		requests: r.requests + o.requests, hits: r.hits + o.hits, misses: r.misses + o.misses,
		failures: r.failures + o.failures, took: r.took + o.took, latencies: slices.Concat(r.latencies, o.latencies),
	}
}

// replay performs accesses against nodes.
type replay struct {
	nodes []*node
	value string
	http  *http.Client
	turn  atomic.Int64 // whose turn it is to be asked
}

func newReplay(nodes []*node, valueSize int) *replay {
	return &replay{
		nodes: nodes,
		value: strings.Repeat("v", valueSize),
		http:  &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
}

// run performs all accesses with that many clients, each taking the next one when it is done, and
// shows on status how far it is.
func (r *replay) run(ctx context.Context, keys []string, clients int, status io.Writer) (result, error) {
	var next, done atomic.Int64
	results := make([]result, clients)
	start := time.Now()
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if n >= int64(len(keys)) {
					return
				}
				r.access(ctx, keys[n], &results[i])
				done.Add(1)
			}
		})
	}
	finished := make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() { showProgress(status, &done, len(keys), finished) })
	all.Wait()
	close(finished)
	shown.Wait()
	var total result
	for _, one := range results {
		total = total.add(one)
	}
	total.took = time.Since(start)
	return total, ctx.Err()
}

// access asks for key and stores it on a miss, as a program does that can load it from elsewhere.
func (r *replay) access(ctx context.Context, key string, to *result) {
	switch status := r.request(ctx, http.MethodGet, key, to); status {
	case http.StatusOK:
		to.hits++
	case http.StatusNotFound:
		to.misses++
		if status := r.request(ctx, http.MethodPut, key, to); status != http.StatusCreated && status != http.StatusNoContent {
			to.failures++
		}
	default:
		to.failures++
	}
}

// request sends one request to the node whose turn it is, and to the next one when a node can't be
// reached or can't serve now: to store the same value again does no harm. It returns the last
// status, 0 when no node answered.
func (r *replay) request(ctx context.Context, method, key string, to *result) int {
	status := 0
	turn := int(r.turn.Add(1))
	for i := range r.nodes {
		n := r.nodes[(turn+i)%len(r.nodes)]
		if !n.alive() {
			continue
		}
		start := time.Now()
		answered, err := send(ctx, r.http, method, n.url, key, r.value, "")
		if err != nil {
			continue
		}
		status = answered
		if status < 500 && status != http.StatusTooManyRequests {
			to.requests++
			to.latencies = append(to.latencies, time.Since(start))
			return status
		}
	}
	return status
}

// send sends a GET or a PUT of value and returns the status.
func send(ctx context.Context, c *http.Client, method, base, key, value, timeout string) (int, error) {
	var body io.Reader
	if method == http.MethodPut {
		body = strings.NewReader(value)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+"/v1/kv/"+url.PathEscape(key), body)
	if err != nil {
		return 0, err
	}
	if timeout != "" {
		req.Header.Set("Larder-Timeout", timeout)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// killAndWrite kills a node and writes to the shard through the others until a write succeeds. It returns how long
// that took, and the node it went through.
func killAndWrite(ctx context.Context, victim *node, shard uint64, nodes []*node) (time.Duration, string, error) {
	key, err := keyOf(ctx, nodes[0], shard)
	if err != nil {
		return 0, "", err
	}
	const (
		limit   = 60 * time.Second
		timeout = 300 * time.Millisecond
	)
	c := &http.Client{Timeout: timeout}
	defer c.CloseIdleConnections()
	start := time.Now()
	if err := victim.cmd.Process.Kill(); err != nil {
		return 0, "", err
	}
	<-victim.ended
	for time.Since(start) < limit {
		for _, n := range nodes {
			if !n.alive() {
				continue
			}
			status, err := send(ctx, c, http.MethodPut, n.url, key, "written after the kill", (timeout * 4 / 5).String())
			if err == nil && (status == http.StatusCreated || status == http.StatusNoContent) {
				return time.Since(start), n.id, nil
			}
			pause := time.NewTimer(10 * time.Millisecond)
			select {
			case <-pause.C:
			case <-ctx.Done():
				return 0, "", ctx.Err()
			}
		}
	}
	return 0, "", fmt.Errorf("no write to shard %d within %v of the kill", shard, limit)
}
