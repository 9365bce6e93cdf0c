package directory

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/larder-cache/larder/shard"
)

// TestMemoryOnly ensures, on real Raft groups, that where shards are kept in memory alone a node that starts again gets all its replicas
// anew, by itself and one node after the other, and that nothing acknowledged is lost by it.
func TestMemoryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a", "b", "c"}
		r := newRealRig(t, names...)
		r.configure = func(c *Config) {
			c.Settings = smallSettings
			c.Settings.MemoryOnly = true
		}
		defer func() {
			for name := range r.services {
				r.stop(name)
			}
		}()
		for _, name := range names {
			r.start(name)
		}
		r.form(names...)
		r.ready()
		written := map[string]uint64{}
		for round, name := range names {
			for n := range 20 {
				key := fmt.Sprint("key", round, "-", n)
				put := shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(key)}
				resp, err := r.do(name, put)
				if errors.Is(err, shard.ErrOutcomeUnknown) {
					resp, err = r.do(name, put)
				}
				if err != nil {
					t.Fatalf("put %s: %v", key, err)
				}
				written[key] = resp.Version
			}
			before := r.services[name].Table()
			r.stop(name)
			r.start(name)
			r.form(name)
			for again := true; again; { // of each shard there is another replica now, that votes
				r.ready()
				after := r.services[name].Table()
				again = false
				for _, sh := range before.Shards {
					was, _ := before.member(sh.ID, name)
					is, member := after.member(sh.ID, name)
					again = again || !member || is.R == was.R || is.Role != RoleVoter
				}
				if r.services[name].pause(context.Background()); t.Failed() {
					return
				}
			}
		}
		for key, version := range written {
			for _, name := range names {
				resp, err := r.do(name, shard.Request{Op: shard.OpGet, Key: []byte(key)})
				if err != nil || !resp.Found || resp.Version != version {
					t.Errorf("%s through %s: %+v, %v", key, name, resp, err)
				}
			}
		}
	})
}
