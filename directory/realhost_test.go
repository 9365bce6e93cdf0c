package directory

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// realRig runs services on real hosts, over a network and storage in memory.
type realRig struct {
	t        *testing.T
	net      *shard.MemoryNetwork
	memory   map[string]*shard.Memory
	hosts    map[string]*shard.Host
	services map[string]*Service

	configure func(*Config)   // changes the configuration of nodes that are started from now on
	balanced  bool            // they balance leaders and numbers of members
	wrap      func(host) host // likewise what their services see of their hosts
}

func newRealRig(t *testing.T, names ...string) *realRig {
	r := &realRig{t: t, net: shard.NewMemoryNetwork(1), memory: map[string]*shard.Memory{}, hosts: map[string]*shard.Host{}, services: map[string]*Service{}}
	for _, name := range names {
		r.memory[name] = shard.NewMemory(name)
	}
	return r
}

func (r *realRig) start(name string) {
	r.t.Helper()
	r.startAs(name, false)
}

// startAs starts a node that joins, or one of the initial ones.
func (r *realRig) startAs(name string, join bool) {
	r.t.Helper()
	h, err := shard.NewHost(shard.Config{Node: name, Memory: r.memory[name], Network: r.net.From(name), Addr: name + ":1",
		Fatal: func(err error) { r.t.Errorf("%s can't go on: %v", name, err) }})
	if err != nil {
		r.t.Fatal(err)
	}
	initial := map[string]string{"a": "a:1", "b": "b:1", "c": "c:1"}
	cfg := Config{Host: h, Identity: h, Initial: initial, Settings: smallSettings, Join: join, Memory: 128 << 20,
		Self: Node{Raft: name + ":1", HTTP: name + ":2", Capacity: Memory{permille: 600}.Of(128 << 20)}}
	if r.configure != nil {
		r.configure(&cfg)
	}
	var seen host = realHost{h}
	if r.wrap != nil {
		seen = r.wrap(seen)
	}
	s, err := newService(cfg, seen)
	if err != nil {
		r.t.Fatal(err)
	}
	if !r.balanced {
		s.balanceAfter = math.MaxInt64 // tests say who leads
	}
	if err := h.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.hosts[name], r.services[name] = h, s
}

// form starts the services of the nodes together.
func (r *realRig) form(names ...string) {
	r.t.Helper()
	errs := make(chan error)
	for _, name := range names {
		go func() { errs <- r.services[name].Start(context.Background()) }()
	}
	for range names {
		if err := <-errs; err != nil {
			r.t.Error(err)
		}
	}
}

// stop ends a node; what it finds at its next start is what a crash now would leave.
func (r *realRig) stop(name string) {
	r.t.Helper()
	r.memory[name] = r.memory[name].Crash()
	r.services[name].Close()
	if err := r.hosts[name].Close(); err != nil {
		r.t.Errorf("closing %s: %v", name, err)
	}
	delete(r.services, name)
	delete(r.hosts, name)
}

// ready waits until all nodes are ready and returns how long that took.
func (r *realRig) ready() time.Duration {
	r.t.Helper()
	began := time.Now()
	for {
		var missing []Check
		for _, s := range r.services {
			missing = append(missing, slices.DeleteFunc(s.Ready(), func(c Check) bool { return c.OK })...)
		}
		if len(missing) == 0 {
			return time.Since(began)
		}
		if time.Since(began) > time.Minute {
			r.t.Fatalf("not ready after a minute: %+v", missing)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (r *realRig) do(node string, req shard.Request) (shard.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return r.services[node].Router().Do(ctx, req)
}

// TestOnRealHosts ensures, on real Raft groups, that three fresh nodes are ready within 2 s, serve any
// key through any node, go on without the node that led, and that all of them resume after a stop.
func TestOnRealHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a", "b", "c"}
		r := newRealRig(t, names...)
		defer func() {
			for name := range r.services {
				r.stop(name)
			}
		}()
		for _, name := range names {
			r.start(name)
		}
		r.form(names...)
		if took := r.ready(); took > 2*time.Second {
			t.Errorf("ready after %v", took)
		}
		versions := make(map[string]uint64)
		for i := range 20 {
			key := fmt.Sprint("key", i)
			resp, err := r.do(names[i%3], shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(key)})
			if err != nil {
				t.Fatalf("put %s: %v", key, err)
			}
			versions[key] = resp.Version
		}
		check := func(when string) {
			t.Helper()
			for key, version := range versions {
				for name := range r.services {
					resp, err := r.do(name, shard.Request{Op: shard.OpGet, Key: []byte(key)})
					if err != nil || !resp.Found || resp.Version != version || string(resp.Value) != key {
						t.Errorf("%s: %s through %s: %+v, %v", when, key, name, resp, err)
					}
				}
			}
		}
		check("at first")

		leader, _ := r.services["b"].Leader(shard.Directory)
		r.stop(leader)
		began := time.Now()
		for key := range versions {
			for name := range r.services {
				put := shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(key)}
				resp, err := r.do(name, put)
				if errors.Is(err, shard.ErrOutcomeUnknown) { // was on its way to the node that stopped
					resp, err = r.do(name, put)
				}
				if err != nil {
					t.Errorf("put %s without %s: %v", key, leader, err)
				} else {
					versions[key] = resp.Version
				}
			}
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("writes without %s took %v", leader, took)
		}
		check("without " + leader)

		for name := range r.services {
			r.stop(name)
		}
		for _, name := range names {
			r.start(name)
		}
		r.form(names...)
		r.ready()
		check("after a stop of all")
		if v := r.services["a"].Table().Version; v != 1 {
			t.Errorf("table version %d, nothing changed", v)
		}
	})
}
