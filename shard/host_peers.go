package shard

import (
	"context"
	"fmt"
	"time"
)

// Peer is how another node is reached and recognised.
type Peer struct {
	Addr        string // Raft address
	Incarnation string // "" = any
}

// Handler answers a Call. An error refuses, unless it is ErrOutcomeUnknown.
type Handler = func(ctx context.Context, from string, payload []byte) ([]byte, error)

func (h *Host) hello(target string) hello {
	id := h.storage.Identity()
	return hello{min: protocolMin, max: protocolMax, cluster: id.Cluster, node: id.Node, incarnation: id.Incarnation, target: target}
}

// SetPeers replaces the table of peers (this node is ignored in it). Links to peers that changed
// are dropped, and so are those to peers that are missing from the table.
func (h *Host) SetPeers(peers map[string]Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, p := range h.peers {
		if _, known := peers[node]; !known {
			p.cancel()
			delete(h.peers, node)
		}
	}
	for link, theirs := range h.inbounds {
		// An earlier life of a node, or one that is no member any more, may still have links open.
		if theirs.cluster == "" {
			continue
		}
		if p, known := peers[theirs.node]; !known || p.Incarnation != "" && p.Incarnation != theirs.incarnation {
			link.Close()
		}
	}
	for node, addr := range peers {
		if node == h.cfg.Node || h.closed {
			continue
		}
		if p := h.peers[node]; p != nil {
			p.setAddr(addr)
			continue
		}
		p := newPeer(h, node, addr)
		h.peers[node] = p
		h.wg.Go(p.run)
	}
}

// refusalPatience is how long all peers must have refused this node's data folder before it ends:
// one that joined again under an id is refused by those who have not heard of it yet.
const refusalPatience = 10 * time.Second

// checkRefusals ends the process when the cluster knows this node by another data folder: most peers
// say so, have for a while, and none takes this one.
func (h *Host) checkRefusals(err error) {
	if h.refused() {
		h.fatal(err) // without a lock: it may close the host
	}
}

func (h *Host) refused() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	refusing := 0
	for _, p := range h.peers {
		p.mu.Lock()
		linked := p.link != nil
		p.mu.Unlock()
		if linked {
			return false
		}
		if since := p.refuses.Load(); since > 0 && h.mono()-time.Duration(since) >= refusalPatience {
			refusing++
		}
	}
	return 2*refusing > len(h.peers)
}

func (h *Host) peer(node string) *peer {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.peers[node]
}

// forget drops what peers were to be asked for an instance that has ended.
func (h *Host) forget(i *instance) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.peers {
		p.probes.forget(i)
	}
}

func (h *Host) peerAddr(node string) Peer {
	p := h.peer(node)
	if p == nil {
		return Peer{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Call sends payload to the handler of method on node and returns its answer. An error that is not
// ErrOutcomeUnknown means that the handler did not run, or is the handler's own refusal.
func (h *Host) Call(ctx context.Context, node, method string, payload []byte) ([]byte, error) {
	body := appendDuration(nil, timeLeft(ctx, maxForward))
	body = appendString(body, method)
	body = appendString(body, payload)
	if node == h.cfg.Node {
		return h.serveCall(ctx, node, true, 0, body)
	}
	p := h.peer(node)
	if p == nil {
		return nil, fmt.Errorf("%w: no address for node %q", ErrUnreachable, node)
	}
	return p.call(ctx, frameCall, body, false)
}

// Handle sets the handler of a method; before Start. Methods that begin with "form" are served to
// nodes that are not members of the cluster yet, and are the only ones that are.
func (h *Host) Handle(method string, f Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[method] = f
}

// Gossip makes every ping (each 500 ms to each peer) carry what report returns, and hands to
// receive what peers' pings carry. receive must not block.
func (h *Host) Gossip(report func() []byte, receive func(from string, payload []byte)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report, h.receive = report, receive
}

func (h *Host) gossip() []byte {
	h.mu.RLock()
	f := h.report
	h.mu.RUnlock()
	if f == nil {
		return nil
	}
	return f()
}

func (h *Host) receiveGossip(from string, payload []byte) {
	h.mu.RLock()
	f := h.receive
	h.mu.RUnlock()
	if f != nil {
		f(from, payload)
	}
}

// Heard returns when a frame of node last arrived; zero if never.
func (h *Host) Heard(node string) time.Time {
	p := h.peer(node)
	if p == nil {
		return time.Time{}
	}
	if at := p.heard.Load(); at > 0 {
		return h.began.Add(time.Duration(at))
	}
	return time.Time{}
}
