package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// routerRig is a router on node a over a table of nodes a, b, c with one shard, and scripted nodes.
type routerRig struct {
	*Router
	believed string // leader by soft state
	down     map[string]bool
	nodes    map[string]func(ctx context.Context) error // what each node says; nil error serves
	asked    []string
	requests []shard.Request
	at       []time.Duration // when, since the start
	began    time.Time
	reasons  []string
}

func newRouterRig(t *testing.T) *routerRig {
	rig := &routerRig{down: map[string]bool{}, nodes: map[string]func(context.Context) error{}, began: time.Now(), believed: "b"}
	latest := NewLatest()
	latest.Publish(testTable(t, 3, Settings{InitialShards: 1, Replicas: 3, CacheMemory: "60%"}))
	rig.Router = &Router{
		self:    "a",
		latest:  latest,
		known:   func() error { return nil },
		hot:     func(shard.ID) bool { return false },
		leader:  func(shard.ID) (string, uint64) { return rig.believed, 1 },
		up:      func(node string) bool { return !rig.down[node] },
		retried: func(reason string) { rig.reasons = append(rig.reasons, reason) },
		do: func(ctx context.Context, node string, req shard.Request) (shard.Response, error) {
			rig.asked = append(rig.asked, node)
			rig.requests = append(rig.requests, req)
			rig.at = append(rig.at, time.Since(rig.began))
			if req.Shard != 1 {
				t.Errorf("asked for shard %d", req.Shard)
			}
			if f := rig.nodes[node]; f != nil {
				if err := f(ctx); err != nil {
					return shard.Response{}, err
				}
			}
			return shard.Response{ServedBy: node}, nil
		},
	}
	return rig
}

func says(err error) func(context.Context) error { return func(context.Context) error { return err } }

// hangs takes until the deadline and then gives err.
func hangs(err error) func(context.Context) error {
	return func(ctx context.Context) error { <-ctx.Done(); return err }
}

var (
	readReq  = shard.Request{Op: shard.OpGet, Key: []byte("k")}
	writeReq = shard.Request{Op: shard.OpPut, Key: []byte("k")}
)

// TestRouterForwards ensures that a request goes straight to the believed leader, and that the
// response tells when that was another node.
func TestRouterForwards(t *testing.T) {
	for _, leader := range []string{"a", "b"} {
		rig := newRouterRig(t)
		rig.believed = leader
		resp, err := rig.Do(t.Context(), writeReq)
		want := leader
		if leader == "a" {
			want = ""
		}
		if err != nil || resp.ForwardedTo != want || !slices.Equal(rig.asked, []string{leader}) {
			t.Errorf("leader %s: forwarded to %q, asked %v, %v", leader, resp.ForwardedTo, rig.asked, err)
		}
	}
}

// TestRouterTellsHot ensures that reads which this node answers as leader, and no others, say that their shard is hot, as long as it is.
func TestRouterTellsHot(t *testing.T) {
	for _, row := range []struct {
		hot      bool
		read     shard.ReadPath
		believed string
		req      shard.Request
		want     bool
	}{
		{true, shard.ReadProbe, "a", readReq, true},
		{true, shard.ReadLease, "a", readReq, true},
		{false, shard.ReadLease, "a", readReq, false},
		{true, shard.ReadFollower, "b", readReq, false},
		{true, shard.ReadLocal, "a", readReq, false},
		{true, "", "a", writeReq, false},
		{true, "", "b", writeReq, false},
	} {
		rig := newRouterRig(t)
		rig.believed = row.believed
		rig.Router.hot = func(id shard.ID) bool { return id == 1 && row.hot }
		rig.Router.do = func(_ context.Context, node string, req shard.Request) (shard.Response, error) {
			return shard.Response{Shard: req.Shard, ServedBy: node, Read: row.read}, nil
		}
		for name, ask := range map[string]func(context.Context, shard.Request) (shard.Response, error){"Do": rig.Do, "Local": rig.Local} {
			if resp, err := ask(t.Context(), row.req); err != nil || resp.Hot != row.want {
				t.Errorf("%s: %+v: %t, %v", name, row, resp.Hot, err)
			}
		}
	}
}

// TestRouterRetries ensures that each refusal which may pass is tried again, elsewhere or after a
// pause, and that the request is served once it has passed.
func TestRouterRetries(t *testing.T) {
	for name, row := range map[string]struct {
		err    error
		reason string
	}{
		"named leader":  {&shard.NotLeaderError{Leader: "c"}, "not_leader"},
		"names nobody":  {&shard.NotLeaderError{}, "not_leader"},
		"names itself":  {&shard.NotLeaderError{Leader: "b"}, "not_leader"},
		"no leader":     {fmt.Errorf("elections: %w", shard.ErrNoLeader), "no_leader"},
		"not owner":     {&shard.NotOwnerError{Epoch: 1}, "not_owner"},
		"unknown shard": {shard.ErrUnknownShard, "unknown_shard"},
		"stopped":       {shard.ErrStopped, "stopped"},
		"unreachable":   {shard.ErrUnreachable, "unreachable"},
		"other cluster": {shard.ErrWrongCluster, "unreachable"},
		"lost its data": {shard.ErrDataLost, "unreachable"},
	} {
		for _, req := range []shard.Request{readReq, writeReq} {
			synctest.Test(t, func(t *testing.T) {
				rig := newRouterRig(t)
				rig.nodes["b"] = says(row.err)
				rig.nodes["a"] = says(&shard.NotLeaderError{})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				resp, err := rig.Do(ctx, req)
				if err != nil || resp.ServedBy != "c" || !slices.Contains(rig.reasons, row.reason) {
					t.Errorf("%s: %+v, %v, reasons %v", name, resp, err, rig.reasons)
				}
				if took := time.Since(rig.began); name == "named leader" && (took != 0 || len(rig.asked) > 3) || took > 100*time.Millisecond {
					t.Errorf("%s: took %v over %v", name, took, rig.asked)
				}
			})
		}
	}
}

// TestRouterReturnsAtOnce ensures that overload, final refusals and unknown outcomes of writes are
// not tried again.
func TestRouterReturnsAtOnce(t *testing.T) {
	odd := errors.New("odd")
	for _, row := range []struct {
		req shard.Request
		err error
	}{
		{readReq, shard.ErrOverloaded},
		{writeReq, shard.ErrOverloaded},
		{writeReq, fmt.Errorf("%w: link lost", shard.ErrOutcomeUnknown)},
		{writeReq, fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, &shard.NotLeaderError{Leader: "c"})},
		{writeReq, fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, shard.ErrUnreachable)},
		{writeReq, shard.ErrDeadline},
		{readReq, odd},
	} {
		rig := newRouterRig(t)
		rig.nodes["a"], rig.nodes["b"] = says(row.err), says(row.err)
		if _, err := rig.Do(t.Context(), row.req); !errors.Is(err, row.err) || len(rig.asked) != 1 {
			t.Errorf("%v: got %v after asking %v", row.err, err, rig.asked)
		}
	}
}

// TestRouterReadDeadlineElsewhere ensures that a read is asked again when the far side's share of the
// deadline, which travels rounded down, ended a moment before the try did here.
func TestRouterReadDeadlineElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newRouterRig(t)
		rig.nodes["b"] = says(shard.ErrDeadline)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if resp, err := rig.Do(ctx, readReq); err != nil || resp.ServedBy == "b" {
			t.Errorf("%+v, %v", resp, err)
		}
	})
}

// TestRouterReadElsewhere ensures that a read whose node does not answer, or loses the link, is asked
// elsewhere within the deadline, and that its failure is always a refusal.
func TestRouterReadElsewhere(t *testing.T) {
	for name, hang := range map[string]func(context.Context) error{
		"hangs":               hangs(fmt.Errorf("%w: no answer", shard.ErrOutcomeUnknown)),
		"hangs to a deadline": hangs(shard.ErrDeadline),
		"unknown at once":     says(fmt.Errorf("%w: link lost", shard.ErrOutcomeUnknown)),
	} {
		synctest.Test(t, func(t *testing.T) {
			rig := newRouterRig(t)
			rig.nodes["b"] = hang
			rig.nodes["a"] = says(&shard.NotLeaderError{Leader: "c"})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if resp, err := rig.Do(ctx, readReq); err != nil || resp.ServedBy != "c" {
				t.Errorf("%s: %+v, %v", name, resp, err)
			}
			if took := time.Since(rig.began); took > readAttempt+maxPause {
				t.Errorf("%s: took %v", name, took)
			}

			rig.nodes["a"], rig.nodes["c"] = hang, hang
			if _, err := rig.Do(ctx, readReq); !shard.Refused(err) || !errors.Is(err, shard.ErrNoLeader) {
				t.Errorf("%s everywhere: %v, want a refusal", name, err)
			}
			if ctx.Err() == nil {
				t.Errorf("%s everywhere: gave up before the deadline", name)
			}
		})
	}
}

// TestRouterWriteKeepsDeadline ensures that a write that was forwarded waits for its outcome up to the
// deadline and is asked of nobody else.
func TestRouterWriteKeepsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newRouterRig(t)
		rig.nodes["b"] = hangs(fmt.Errorf("%w: no answer", shard.ErrOutcomeUnknown))
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		_, err := rig.Do(ctx, writeReq)
		if !errors.Is(err, shard.ErrOutcomeUnknown) || len(rig.asked) != 1 || time.Since(rig.began) != 4*time.Second {
			t.Errorf("%v after %v, asked %v", err, time.Since(rig.began), rig.asked)
		}
	})
}

// TestRouterGivesUp ensures that without anybody to serve it a request is tried with pauses that
// grow, never hot, until its deadline, and then refused with the last reason.
func TestRouterGivesUp(t *testing.T) {
	for name, script := range map[string]func(*routerRig) error{
		"all refuse": func(r *routerRig) error {
			for _, n := range []string{"a", "b", "c"} {
				r.nodes[n] = says(&shard.NotLeaderError{})
			}
			return new(shard.NotLeaderError)
		},
		"all name one another": func(r *routerRig) error {
			r.nodes["a"] = says(&shard.NotLeaderError{Leader: "b"})
			r.nodes["b"] = says(&shard.NotLeaderError{Leader: "c"})
			r.nodes["c"] = says(&shard.NotLeaderError{Leader: "a"})
			return new(shard.NotLeaderError)
		},
		"a stranger is named": func(r *routerRig) error {
			for _, n := range []string{"a", "b", "c"} {
				r.nodes[n] = says(&shard.NotLeaderError{Leader: "z"})
			}
			return new(shard.NotLeaderError)
		},
		"none up": func(r *routerRig) error {
			r.down = map[string]bool{"a": true, "b": true, "c": true}
			return shard.ErrNoLeader
		},
		"no table": func(r *routerRig) error {
			r.latest = NewLatest()
			return shard.ErrNoLeader
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			rig := newRouterRig(t)
			want := script(rig)
			_, err := rig.Do(t.Context(), writeReq)
			if !shard.Refused(err) || fmt.Sprintf("%T", want) == "*shard.NotLeaderError" && !errors.As(err, new(*shard.NotLeaderError)) ||
				want == shard.ErrNoLeader && !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(rig.began); took != DefaultTimeout {
				t.Errorf("%s: gave up after %v", name, took)
			}
			// A pause of at least 12.5 ms between rounds of at most three.
			if most := 3 * int(DefaultTimeout/(maxPause/2)) * 11 / 10; len(rig.asked) > most {
				t.Errorf("%s: asked %d times in %v, want at most %d", name, len(rig.asked), DefaultTimeout, most)
			}
			for i := 3; i < len(rig.at); i++ {
				if rig.at[i]-rig.at[i-3] < minPause/2 {
					t.Errorf("%s: asked four times within %v", name, rig.at[i]-rig.at[i-3])
				}
			}
		})
	}
}

// TestRouterDeadlinePassed ensures that nothing is asked after the deadline.
func TestRouterDeadlinePassed(t *testing.T) {
	rig := newRouterRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rig.Do(ctx, writeReq); !errors.Is(err, context.Canceled) && !errors.Is(err, shard.ErrDeadline) || len(rig.asked) > 0 {
		t.Errorf("%v, asked %v", err, rig.asked)
	}
}

// TestRouterSkipsDownLeader ensures that a leader who was not heard for long is not handed a write
// that would then be unknown: another member is asked instead.
func TestRouterSkipsDownLeader(t *testing.T) {
	rig := newRouterRig(t)
	rig.down["b"] = true
	if resp, err := rig.Do(t.Context(), writeReq); err != nil || slices.Contains(rig.asked, "b") {
		t.Errorf("%+v, %v, asked %v", resp, err, rig.asked)
	}
}

// TestRouterNewTable ensures that a request refused for its range waits for the newer table and then
// goes where that one says.
func TestRouterNewTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newRouterRig(t)
		table := rig.latest.Table().clone()
		rig.nodes["b"] = says(&shard.NotOwnerError{Epoch: 1})
		for _, n := range []string{"a", "c"} {
			rig.nodes[n] = says(&shard.NotLeaderError{Leader: "b"})
		}
		rig.latest = NewLatest() // nothing yet
		time.AfterFunc(time.Second, func() {
			table.Version++
			rig.nodes["b"] = nil
			rig.latest.Publish(table)
		})
		resp, err := rig.Do(t.Context(), writeReq)
		if took := time.Since(rig.began); err != nil || resp.ServedBy != "b" || took > time.Second+maxPause {
			t.Errorf("%+v, %v after %v", resp, err, took)
		}
	})
}

// TestRouterLocal ensures that a local request is asked of this node alone, once, and that a node
// without a replica names the leader.
func TestRouterLocal(t *testing.T) {
	rig := newRouterRig(t)
	if resp, err := rig.Local(t.Context(), readReq); err != nil || resp.ForwardedTo != "" || !slices.Equal(rig.asked, []string{"a"}) {
		t.Errorf("%+v, %v, asked %v", resp, err, rig.asked)
	}
	rig.nodes["a"] = says(shard.ErrUnknownShard)
	var notLeader *shard.NotLeaderError
	if _, err := rig.Local(t.Context(), readReq); !errors.As(err, &notLeader) || notLeader.Leader != "b" {
		t.Errorf("without a replica: %v", err)
	}
	rig.latest = NewLatest()
	if _, err := rig.Local(t.Context(), readReq); !errors.Is(err, shard.ErrNoLeader) {
		t.Errorf("without a table: %v", err)
	}
}

// TestLocate ensures that a key's place names its slot, shard, epoch, leader and members.
func TestLocate(t *testing.T) {
	rig := newRouterRig(t)
	l, err := rig.Locate([]byte("foo"))
	if err != nil || l.Slot != 12182 || l.Shard != 1 || l.Epoch != 1 || l.Leader != "b" || strings.Join(l.Members, "") != "abc" {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestRouterFill ensures that a read which would fill a miss goes to the leader alone, though this node has a replica,
// that its wait there is not taken for silence, and that after an election it waits for what is left of its time.
func TestRouterFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newRouterRig(t)
		const fill = 4 * time.Second
		rig.nodes["b"] = func(ctx context.Context) error {
			select {
			case <-time.After(3 * time.Second):
				return &shard.NotLeaderError{Leader: "c"}
			case <-ctx.Done():
				return shard.ErrDeadline
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req := shard.Request{Op: shard.OpGet, Key: []byte("k"), Fill: fill}
		if resp, err := rig.Do(ctx, req); err != nil || resp.ServedBy != "c" || !slices.Equal(rig.asked, []string{"b", "c"}) {
			t.Fatalf("%+v, %v, asked %v", resp, err, rig.asked)
		}
		if first, second := rig.requests[0].Fill, rig.requests[1].Fill; first != fill || second != time.Second {
			t.Errorf("the first was asked to wait %v, the second %v, want %v and 1s", first, second, fill)
		}
	})
}
