package httpapi

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// TestAdmissionRefusesBeyondItsBounds ensures that a node with its hands full answers 429 at once,
// without a look at the body, that what it has in hand is let go of afterwards, and that requests
// which are no operations on keys are served all the same.
func TestAdmissionRefusesBeyondItsBounds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		body   string // of each request
	}{
		{"requests", func(c *Config) { c.MaxRequests = 2 }, ""},
		{"bytes", func(c *Config) { c.MaxBodyBytes = 20 }, "0123456789"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := &gate{arrived: make(chan struct{}), release: make(chan struct{})}
			f := newFixture(t, tc.change, func(c *Config) { c.Data = g })
			put := func() int {
				req, err := http.NewRequest(http.MethodPut, f.url+"/v1/kv/k", strings.NewReader(tc.body))
				if err != nil {
					t.Error(err)
					return 0
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return 0
				}
				defer resp.Body.Close()
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
					t.Error("429 without Retry-After")
				}
				return resp.StatusCode
			}
			held := make(chan int, 2)
			for range 2 {
				go func() { held <- put() }()
				<-g.arrived
			}
			if got := put(); got != http.StatusTooManyRequests {
				t.Errorf("the third request: %d, want 429", got)
			}
			if resp, err := http.Get(f.url + "/livez"); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("livez: %v, %v", resp, err)
			} else {
				resp.Body.Close()
			}
			close(g.release)
			for range 2 {
				if got := <-held; got != http.StatusCreated {
					t.Errorf("a request in hand: %d, want 201", got)
				}
			}
			go func() { <-g.arrived }()
			if got := put(); got != http.StatusCreated {
				t.Errorf("afterwards: %d, want 201", got)
			}
		})
	}
}

// gate is a Data whose operations wait to be let through.
type gate struct {
	fakeData
	arrived, release chan struct{}
}

func (g *gate) Do(context.Context, shard.Request) (shard.Response, error) {
	g.arrived <- struct{}{}
	<-g.release
	return shard.Response{Status: fsm.StatusOK}, nil
}
