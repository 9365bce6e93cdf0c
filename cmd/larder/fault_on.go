//go:build faults

package main

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// clockPath changes a node's clock: POST with offset (a duration; default 0) and rate (default 1; 0 stands still)
// from now on, DELETE sets it right.
const clockPath = "/v1/faults/clock"

// wrongClock is a clock that can be set wrong.
type wrongClock struct {
	mu     sync.Mutex // guards what follows
	since  time.Time  // when it was set, by the right clock
	offset time.Duration
	rate   float64
}

func (c *wrongClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	right := time.Now()
	passed := right.Sub(c.since)
	return right.Add(c.offset + time.Duration(float64(passed)*(c.rate-1)))
}

func (c *wrongClock) set(offset time.Duration, rate float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since, c.offset, c.rate = time.Now(), offset, rate
}

func (c *wrongClock) serve(w http.ResponseWriter, r *http.Request) {
	offset, rate := time.Duration(0), 1.0
	var err error
	if s := r.FormValue("offset"); s != "" && r.Method == http.MethodPost {
		offset, err = time.ParseDuration(s)
	}
	if s := r.FormValue("rate"); s != "" && err == nil && r.Method == http.MethodPost {
		rate, err = strconv.ParseFloat(s, 64)
	}
	switch {
	case r.Method != http.MethodPost && r.Method != http.MethodDelete:
		w.Header().Set("Allow", "POST, DELETE")
		http.Error(w, "POST or DELETE", http.StatusMethodNotAllowed)
	case err != nil || !(rate >= 0 && rate <= 100):
		http.Error(w, fmt.Sprintf("offset must be a duration, rate a number from 0 to 100: %v", err), http.StatusBadRequest)
	default:
		c.set(offset, rate)
		w.WriteHeader(http.StatusNoContent)
	}
}

// faultClock is the clock of a node, and what changes it over HTTP.
func faultClock() (now func() time.Time, control func(http.Handler) http.Handler) {
	c := &wrongClock{since: time.Now(), rate: 1}
	return c.now, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == clockPath {
				c.serve(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}
