package shard

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/hashicorp/raft"
)

const (
	hurryPause     = 20 * time.Millisecond
	mostHurryPause = 300 * time.Millisecond
	hurryLimit     = 10 * time.Second
)

// hurry makes this replica stand for the very first election as soon as the other members are there,
// instead of a heartbeat timeout later. Any replica may stand at any time; only one per group is told
// to, so that they don't split the votes.
func (g *Group) hurry() {
	ctx, cancel := context.WithTimeout(g.ctx, hurryLimit)
	defer cancel()
	patience, wait := time.Now().Add(300*time.Millisecond), hurryPause
	bound := g.promise.left(g.host.mono()) > 0 // and so may the others be, from when they were opened (promise.go)
	for ctx.Err() == nil {
		i := g.instance()
		if i == nil || g.store.Term() > 1 {
			return
		}
		if id, _ := i.raft.LeaderWithID(); id != "" {
			return
		}
		here := 1
		for _, m := range g.spec.Members {
			if m.Node != g.id.Node && g.present(ctx, m) {
				here++
			}
		}
		if g.store.Term() > 1 { // somebody stood meanwhile
			return
		}
		pause := wait
		switch n := len(g.spec.Members); {
		case here < n && (here <= n/2 || time.Now().Before(patience)):
		case bound:
			bound, pause = false, promiseTime
		default:
			_, _ = i.trans.deliver(ctx, &raft.TimeoutNowRequest{RPCHeader: header(g.id.String())}, nil)
			return
		}
		t := time.NewTimer(pause)
		wait = min(2*wait, mostHurryPause) // a thousand groups may be waiting for the same node
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// present asks whether a member's replica runs.
func (g *Group) present(ctx context.Context, m Member) bool {
	p := g.host.peer(m.Node)
	if p == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*hurryPause)
	defer cancel()
	body := binary.AppendUvarint(nil, 1)
	body = binary.AppendUvarint(body, uint64(g.id.Shard))
	body = appendString(body, ReplicaID{g.id.Shard, m.Node, m.R}.String())
	body = binary.AppendUvarint(body, 0)
	body = appendDuration(body, 0)
	answer, err := p.call(ctx, frameProbe, body, false)
	r := reader{b: answer}
	return err == nil && r.uint() > 0
}
