package httpapi

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

func refuseWith(err error) func(context.Context, shard.Request) (shard.Response, error) {
	return func(context.Context, shard.Request) (shard.Response, error) { return shard.Response{}, err }
}

// With route=redirect a node that does not serve the key answers 307 with the leader's address and the
// very same path and query; one that does serves it.
func TestRedirect(t *testing.T) {
	f := newFixture(t)
	for _, refusal := range []error{
		&shard.NotLeaderError{Leader: "b"}, &shard.NotLeaderError{}, shard.ErrUnknownShard,
		&shard.NotOwnerError{Epoch: 1}, fmt.Errorf("shard 3: %w", shard.ErrNoLeader),
	} {
		f.data.local = refuseWith(refusal)
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
			got := f.send(t, method, "/v1/kv/a%2Fb//..%00?route=redirect", nil, false)
			if want := "http://127.0.0.1:2/v1/kv/a%2Fb//..%00?route=redirect"; got.status != 307 || got.header.Get("Location") != want {
				t.Errorf("%s after %v: got %d to %q, want 307 to %q", method, refusal, got.status, got.header.Get("Location"), want)
			}
		}
	}
	f.data.local = nil
	if w := f.request(t, "PUT", "/v1/kv/k?route=redirect", "v"); w.Code != 201 {
		t.Errorf("on the leader: got %d", w.Code)
	}
	f.data.local = refuseWith(shard.ErrOverloaded)
	w := f.request(t, "PUT", "/v1/kv/k?route=redirect", "v")
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 429, "overloaded", AppliedNo)
	f.data.local = refuseWith(fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, shard.ErrStopped))
	w = f.request(t, "PUT", "/v1/kv/k?route=redirect", "v")
	checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 504, "outcome-unknown", AppliedUnknown)
}

// A node set to redirect does so where the request says nothing, and forwards where it says so.
func TestRouteDefault(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Route = Redirect })
	f.data.local = refuseWith(&shard.NotLeaderError{Leader: "b"})
	if w := f.request(t, "GET", "/v1/kv/k", ""); w.Code != 307 {
		t.Errorf("by default: got %d, want 307", w.Code)
	}
	if w := f.request(t, "PUT", "/v1/kv/k?route=forward", "v"); w.Code != 201 {
		t.Errorf("forward: got %d, want 201", w.Code)
	}
}

// While nobody is known to lead, a request to be redirected waits: to the first leader, or its deadline.
func TestRedirectWaits(t *testing.T) {
	f := newFixture(t)
	synctest.Test(t, func(t *testing.T) {
		f.data.local = refuseWith(shard.ErrNoLeader)
		for _, leader := range []string{"", "a"} { // none, and this node, which has just refused
			f.data.setLeader(leader)
			start := time.Now()
			w := f.request(t, "PUT", "/v1/kv/k?route=redirect", "v", "Larder-Timeout", "2s")
			checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 503, "no-leader", AppliedNo)
			if took := time.Since(start); took != 2*time.Second {
				t.Errorf("leader %q: waited %s, want 2s", leader, took)
			}
		}
		time.AfterFunc(time.Second, func() { f.data.setLeader("b") })
		if w := f.request(t, "PUT", "/v1/kv/k?route=redirect", "v"); w.Code != 307 {
			t.Errorf("got %d, want 307", w.Code)
		}
	})
}

// With route=local a node that does not serve the key says who does, at once; where it knows nobody, or
// only itself, the client is to come back rather than to search.
func TestLocal(t *testing.T) {
	f := newFixture(t)
	if w := f.request(t, "PUT", "/v1/kv/k?route=local", "v"); w.Code != 201 {
		t.Errorf("on the leader: got %d", w.Code)
	}
	tests := []struct {
		refusal       error
		located, want string
	}{
		{&shard.NotLeaderError{Leader: "c"}, "b", "c"},
		{&shard.NotLeaderError{}, "b", "b"},
		{shard.ErrUnknownShard, "b", "b"},
		{shard.ErrNoLeader, "b", "b"},
	}
	for _, tc := range tests {
		f.data.local = refuseWith(tc.refusal)
		f.data.setLeader(tc.located)
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			w := f.request(t, method, "/v1/kv/k?route=local", "")
			checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 421, "misdirected", AppliedNo)
			if w.Header().Get("Larder-Leader") != tc.want || w.Header().Get("Larder-Epoch") != "7" {
				t.Errorf("%v: got leader %q at epoch %q, want %q at 7", tc.refusal, w.Header().Get("Larder-Leader"), w.Header().Get("Larder-Epoch"), tc.want)
			}
		}
	}
	for _, located := range []string{"", "a"} {
		f.data.setLeader(located)
		for _, refusal := range []error{shard.ErrNoLeader, &shard.NotLeaderError{}} {
			f.data.local = refuseWith(refusal)
			w := f.request(t, "PUT", "/v1/kv/k?route=local", "")
			checkProblem(t, w.Code, w.Header(), w.Body.Bytes(), 503, "no-leader", AppliedNo)
			checkRetryAfter(t, w.Code, w.Header())
		}
	}
}

// A panic in a handler becomes a 500 that does not claim to know what a write did, and is logged; the
// server goes on.
func TestPanic(t *testing.T) {
	f := newFixture(t)
	f.data.answer = func(context.Context, shard.Request) (shard.Response, error) { panic("broken invariant") }
	got := f.send(t, "PUT", "/v1/kv/k", []byte("v"), false)
	checkProblem(t, got.status, got.header, got.body, 500, "internal", AppliedUnknown)
	got = f.send(t, "GET", "/v1/kv/k", nil, false)
	checkProblem(t, got.status, got.header, got.body, 500, "internal", AppliedNo)
	f.data.answer = nil
	if got := f.send(t, "PUT", "/v1/kv/k", []byte("v"), false); got.status != 201 {
		t.Errorf("after the panic: got %d", got.status)
	}
}

// Metrics count each answer under its template, never under its path or an invented method, and no log
// line has a key or a value.
func TestMetricsAndLogs(t *testing.T) {
	f := newFixture(t)
	f.data.answer = func(_ context.Context, req shard.Request) (shard.Response, error) {
		return shard.Response{Status: fsm.StatusOK, Version: 1, Read: shard.ReadProbe}, nil
	}
	f.request(t, "PUT", "/v1/kv/secretkey", "secretvalue")
	f.request(t, "GET", "/secretpath", "")
	f.request(t, "BREW", "/v1/kv/secretkey", "")
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, family := range families {
		if family.GetName() != "larder_http_request_duration_seconds" {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += l.GetName() + "=" + l.GetValue() + " "
			}
			got[labels] = m.GetHistogram().GetSampleCount()
		}
	}
	for _, want := range []string{
		"code=201 method=PUT route=/v1/kv/ ", "code=404 method=GET route=unknown ", "code=405 method=other route=/v1/kv/ ",
	} {
		if got[want] != 1 {
			t.Errorf("got %d answers with %s, want 1; all: %v", got[want], want, got)
		}
	}
	if len(got) != 3 {
		t.Errorf("got %d series, want 3: %v", len(got), got)
	}
	if w := f.request(t, "GET", "/metrics", ""); w.Code != 200 || w.Body.Len() == 0 {
		t.Errorf("/metrics: got %d, %d bytes", w.Code, w.Body.Len())
	}
	for _, secret := range []string{"secretkey", "secretvalue", "secretpath"} {
		if strings.Contains(f.logs.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
	if !strings.Contains(f.logs.String(), "route=/v1/kv/") {
		t.Error("the debug log has no line for the request")
	}
}
