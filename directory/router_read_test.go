package directory

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// TestRouterReadsHere ensures that a read asks this node's own voter first, and goes on to the leader at
// once where that one can't serve; that a node without a voter goes to the leader; and that a write never
// takes the way round.
func TestRouterReadsHere(t *testing.T) {
	for _, row := range []struct {
		name string
		self string
		req  shard.Request
		own  error
		want []string
	}{
		{"read", "a", readReq, nil, []string{"a"}},
		{"read, own replica lags", "a", readReq, &shard.NotLeaderError{Leader: "b"}, []string{"a", "b"}},
		{"read, own replica knows nobody", "a", readReq, shard.ErrNoLeader, []string{"a", "b"}},
		{"read, own replica does not hear the leader", "a", readReq, shard.ErrUnreachable, []string{"a", "c"}},
		{"read, own replica was replaced", "a", readReq, shard.ErrUnknownShard, []string{"a", "b"}},
		{"read on the leader", "b", readReq, nil, []string{"b"}},
		{"read on a node without a replica", "z", readReq, nil, []string{"b"}},
		{"old read", "a", shard.Request{Op: shard.OpGet, Key: []byte("k"), Consistency: shard.Any}, nil, []string{"a"}},
		{"write", "a", writeReq, nil, []string{"b"}},
	} {
		rig := newRouterRig(t)
		rig.self = row.self
		if row.own != nil {
			rig.nodes["a"] = says(row.own)
		}
		resp, err := rig.Do(t.Context(), row.req)
		if err != nil || !slices.Equal(rig.asked, row.want) || len(rig.at) > 1 && rig.at[1]-rig.at[0] > minPause/2 {
			t.Errorf("%s: asked %v at %v, %v, want %v", row.name, rig.asked, rig.at, err, row.want)
		}
		if (resp.ForwardedTo == "") != (resp.ServedBy == row.self) {
			t.Errorf("%s: %+v", row.name, resp)
		}
		for i, req := range rig.requests {
			if want := uint64(1); (row.req.Op == shard.OpGet) != (req.R == want) {
				t.Errorf("%s: request %d means replica %d", row.name, i, req.R)
			}
		}
	}
}

// TestRouterReadPassesSilentLeader ensures that a read whose own replica waited in vain for the leader does
// not wait for that one again, but goes to another member.
func TestRouterReadPassesSilentLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newRouterRig(t)
		rig.nodes["a"] = hangs(shard.ErrDeadline)
		rig.nodes["b"] = hangs(shard.ErrOutcomeUnknown)
		resp, err := rig.Do(t.Context(), readReq)
		if err != nil || resp.ServedBy != "c" || time.Since(rig.began) > readAttempt+minPause {
			t.Errorf("%+v, %v after %v, asked %v", resp, err, time.Since(rig.began), rig.asked)
		}
	})
}

// TestRouterLocalReplica ensures that a request which may not leave this node is served by its own replica as
// the table lists it, or refused with the leader's name.
func TestRouterLocalReplica(t *testing.T) {
	for _, row := range []struct {
		name, self string
		own        error
		leader     string // named by the refusal, "" for none
	}{
		{"served", "a", nil, ""},
		{"no replica here", "z", nil, "b"},
		{"another replica here", "a", shard.ErrUnknownShard, "b"},
		{"it does not hear its leader", "a", shard.ErrUnreachable, "b"},
		{"its own word", "a", &shard.NotLeaderError{Leader: "c"}, "c"},
	} {
		rig := newRouterRig(t)
		rig.self = row.self
		if row.own != nil {
			rig.nodes["a"] = says(row.own)
		}
		_, err := rig.Local(t.Context(), readReq)
		var notLeader *shard.NotLeaderError
		switch {
		case row.leader == "" && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.leader != "" && (!errors.As(err, &notLeader) || notLeader.Leader != row.leader):
			t.Errorf("%s: %v, want the leader %s named", row.name, err, row.leader)
		}
		for _, req := range rig.requests {
			if req.R != 1 {
				t.Errorf("%s: means replica %d", row.name, req.R)
			}
		}
	}
}
