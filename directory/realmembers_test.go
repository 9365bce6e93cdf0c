package directory

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// change runs an operation to its end, through any of the nodes; what a crash or an election refuses is
// asked again. It returns how the operation ended.
func (r *realRig) change(c MemberChange, crash func()) OperationView {
	r.t.Helper()
	limit := time.Now().Add(2 * time.Minute)
	var o OperationView
	for o.ID == 0 {
		for name := range r.services {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			began, err := r.services[name].ChangeMember(ctx, c)
			cancel()
			var conflict *ConflictError
			if err == nil {
				o = began
				break
			}
			if time.Now().After(limit) {
				r.t.Fatalf("%+v: %v", c, err)
			}
			if !errors.As(err, &conflict) && shard.Refused(err) {
				continue
			}
			<-time.After(100 * time.Millisecond)
		}
	}
	if crash != nil {
		crash()
	}
	for {
		for name := range r.services {
			if now, ok := r.services[name].Operation(o.ID); ok && now.State != string(OperationRunning) {
				return now
			}
		}
		if time.Now().After(limit) {
			r.t.Fatalf("operation %d does not end: %+v", o.ID, r.services["a"].Operations())
		}
		<-time.After(50 * time.Millisecond)
	}
}

// TestMembersOnRealHosts ensures, on real Raft groups, that a node joins and becomes a member of each
// shard and of the directory, that members leave, leaders too, that the same node comes again, and that
// nothing acknowledged is lost by it, also while nodes crash in the middle of a change.
func TestMembersOnRealHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRealRig(t, "a", "b", "c", "d")
		defer func() {
			for name := range r.services {
				r.stop(name)
			}
		}()
		for _, name := range []string{"a", "b", "c"} {
			r.start(name)
		}
		r.form("a", "b", "c")
		r.ready()
		written := map[string]uint64{}
		write := func(at string, n int) {
			t.Helper()
			for i := range n {
				key := fmt.Sprint("key", len(written), "-", i)
				resp, err := r.do(at, shard.Request{Op: shard.OpPut, Key: []byte(key), Value: []byte(key)})
				if err != nil {
					t.Fatalf("put %s: %v", key, err)
				}
				written[key] = resp.Version
			}
		}
		write("a", 50)
		r.startAs("d", true)
		r.form("d")
		r.ready()
		write("d", 20)

		done := func(o OperationView) {
			t.Helper()
			if o.State != string(OperationDone) {
				t.Fatalf("%+v", o)
			}
		}
		restart := func(name string) func() {
			return func() {
				r.stop(name)
				<-time.After(500 * time.Millisecond)
				if name == "d" {
					r.startAs(name, true)
				} else {
					r.start(name)
				}
				r.form(name)
			}
		}
		for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
			done(r.change(MemberChange{Shard: id, Node: "d", Add: true}, nil))
		}
		r.ready()
		write("b", 20)
		// Leaders leave, and one of the nodes crashes meanwhile: who goes, who comes after, the directory's leader.
		for n, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
			leader, _ := r.services["d"].Leader(id)
			crashed := []string{leader, "d", ""}[n%3]
			if directory, _ := r.services["d"].Leader(shard.Directory); crashed == "" {
				crashed = directory
			}
			done(r.change(MemberChange{Shard: id, Node: leader}, restart(crashed)))
			r.ready()
			write("c", 10)
			done(r.change(MemberChange{Shard: id, Node: leader, Add: true}, restart("b")))
			r.ready()
			write("d", 10)
		}
		for _, id := range []shard.ID{1, 2, 3, 4} {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			v, err := r.services["d"].Checksum(ctx, id)
			cancel()
			if err != nil || !v.Equal || len(v.Replicas) != 4 || len(v.Replicas[0].Checksum) != 64 {
				t.Errorf("checksums of shard %d: %+v, %v", id, v, err)
			}
		}
		for name, s := range r.services {
			for _, id := range []shard.ID{shard.Directory, 1, 2, 3, 4} {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				v, err := s.Members(ctx, id)
				cancel()
				if err != nil || len(v.Members) != 4 {
					t.Errorf("%s: members of shard %d: %+v, %v", name, id, v, err)
				}
			}
		}
		// All founders leave the directory and one shard; d goes on alone, and finds itself after a restart.
		for _, node := range []string{"a", "b", "c"} {
			done(r.change(MemberChange{Shard: shard.Directory, Node: node}, nil))
			done(r.change(MemberChange{Shard: 2, Node: node}, nil))
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			r.stop(name)
		}
		for _, name := range []string{"a", "b", "c"} {
			r.start(name)
		}
		r.startAs("d", true)
		r.form("a", "b", "c", "d")
		r.ready()
		for key, version := range written {
			resp, err := r.do("b", shard.Request{Op: shard.OpGet, Key: []byte(key)})
			if err != nil || resp.Version != version {
				t.Fatalf("%s: %+v, %v, want version %d", key, resp, err, version)
			}
		}
	})
}
