package httpapi

import (
	"net/http"
	"sync/atomic"
)

const (
	// defaultMaxRequests is how many requests on keys a node serves at the same time.
	defaultMaxRequests = 8192
	// defaultMaxBody is how many bytes of values it takes in at the same time.
	defaultMaxBody = 256 << 20
)

// admission bounds what a node has in hand: while a shard elects, requests on its keys wait, and
// nothing else would keep them from filling the memory. What is beyond is refused at once, before
// its body is read.
type admission struct {
	requests, bytes       atomic.Int64
	maxRequests, maxBytes int64
}

// admit runs h within the bounds. A body of unknown length counts as the longest.
func (s *server) admit(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		size := r.ContentLength
		if size < 0 || size > s.cfg.MaxValueBytes {
			size = s.cfg.MaxValueBytes
		}
		a := &s.admission
		requests, bytes := a.requests.Add(1), a.bytes.Add(size)
		defer a.requests.Add(-1)
		defer a.bytes.Add(-size)
		if requests > a.maxRequests || bytes > a.maxBytes {
			return kindOverloaded.problem("The node has its hands full. Send fewer requests at a time, or try again later.")
		}
		return h(w, r)
	}
}

// take counts requests and bytes as in hand until release is called, or refuses them.
func (a *admission) take(requests, bytes int64) (release func(), err error) {
	release = func() {
		a.requests.Add(-requests)
		a.bytes.Add(-bytes)
	}
	if n, size := a.requests.Add(requests), a.bytes.Add(bytes); n > a.maxRequests || size > a.maxBytes {
		release()
		return nil, kindOverloaded.problem("The node has its hands full. Send fewer requests at a time, or try again later.")
	}
	return release, nil
}
