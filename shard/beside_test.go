package shard

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

const besideShard = testShard + 1

// beside opens a second shard, with members on a, d and e, that a leads.
func (c *cluster) beside() {
	c.t.Helper()
	members := []Member{{"a", 1}, {"d", 1}, {"e", 1}}
	for _, m := range members {
		if err := c.hosts[m.Node].OpenCache(Spec{Shard: besideShard, R: 1, Members: members, Campaign: m.Node == "a"}); err != nil {
			c.t.Fatal(err)
		}
	}
	l := c.hosts["a"]
	c.until("the second shard's leader", func() bool { return l.Group(besideShard).Status().Ready })
	err := l.Cache(besideShard).Grant(c.t.Context(), fsm.Grant{Range: c.owned, Epoch: 1, Generation: 1, VersionBits: 1, Limit: c.limit, TableVersion: 1})
	if err != nil {
		c.t.Fatal(err)
	}
}

// writes has clients write to a shard that a leads, one write after the other, for a while, and returns how many were applied.
func (c *cluster) writes(id ID, clients int, d time.Duration) int {
	var wg sync.WaitGroup
	var applied atomic.Int64
	l, end := c.hosts["a"], time.Now().Add(d)
	for i := range clients {
		wg.Go(func() {
			for time.Now().Before(end) {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				_, err := l.Do(ctx, "a", Request{Shard: id, Op: OpPut, Key: fmt.Append(nil, "k", i), Value: []byte("v")})
				cancel()
				if err == nil {
					applied.Add(1)
				} else {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	return int(applied.Load())
}

// TestSlowShardBeside ensures that a shard whose followers are far away, or can't be reached, does not have the others of its leader's node go at its pace,
// and that it is not put off by them either.
func TestSlowShardBeside(t *testing.T) {
	const d = time.Second
	const near = 500 * time.Microsecond
	for _, far := range []LinkFaults{{Delay: near}, {Delay: 5 * time.Millisecond}, {Delay: 30 * time.Millisecond}, {Cut: true}} {
		inBubbleWithSpares(t, 5, 2, nil, func(c *cluster) {
			c.beside()
			for _, n := range c.others("a") {
				f := LinkFaults{Delay: near}
				if n >= "d" {
					f = far
				}
				c.net.SetFaults("a", n, f)
				c.net.SetFaults(n, "a", f)
			}
			var wg sync.WaitGroup
			var beside int
			wg.Go(func() { beside = c.writes(besideShard, 30, d) })
			got := c.writes(testShard, 8, d)
			wg.Wait()
			if alone := 8 * int(d/(4*near)); got < alone*9/10 {
				t.Errorf("%+v: %d writes beside it, %d would be without it", far, got, alone)
			}
			if alone := 30 * int(d/(2*far.Delay+2*near)); !far.Cut && beside < alone/2 {
				t.Errorf("%+v: it has %d writes, and would have about %d alone", far, beside, alone)
			}
		})
	}
}
