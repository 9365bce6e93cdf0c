//go:build faults

package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestWrongClock ensures that a node's clock goes as it was asked to over HTTP, and right again after.
func TestWrongClock(t *testing.T) {
	now, control := faultClock()
	h := control(http.NotFoundHandler())
	ask := func(method, path string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code
	}
	off := func() time.Duration { return time.Until(now()) }
	const tolerance = 10 * time.Second
	for _, row := range []struct {
		method, query string
		status        int
		least, most   time.Duration
	}{
		{"POST", "?offset=1h", 204, time.Hour - tolerance, time.Hour + tolerance},
		{"POST", "?offset=-48h&rate=1.5", 204, -48*time.Hour - tolerance, -48*time.Hour + tolerance},
		{"POST", "?offset=soon", 400, -48*time.Hour - tolerance, -48*time.Hour + tolerance},
		{"POST", "?rate=-1", 400, -48*time.Hour - tolerance, -48*time.Hour + tolerance},
		{"GET", "", 405, -48*time.Hour - tolerance, -48*time.Hour + tolerance},
		{"DELETE", "", 204, -tolerance, tolerance},
	} {
		if got := ask(row.method, clockPath+row.query); got != row.status {
			t.Errorf("%s %s: %d, want %d", row.method, row.query, got, row.status)
		}
		if got := off(); got < row.least || got > row.most {
			t.Errorf("%s %s: %v off, want %v to %v", row.method, row.query, got, row.least, row.most)
		}
	}
	ask("POST", clockPath+"?rate=0")
	if a, b := now(), now(); !a.Equal(b) {
		t.Errorf("a clock that stands still went from %v to %v", a, b)
	}
	if got := ask("GET", "/v1/kv/a"); got != 404 {
		t.Errorf("another path: %d", got)
	}
}
