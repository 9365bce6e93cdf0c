package directory

import (
	"maps"
	"slices"
	"time"

	"github.com/larder-cache/larder/shard"
)

// redialAfter is how long one address of a silent node is tried before the next one.
const redialAfter = 2 * time.Second

// addressBook decides where a node is dialled. An address is known from up to three sides, none of
// which is always right: the node itself (its pings carry it, once one arrived), the table (behind,
// when the node moved and could not register yet), and the flags of the first start (outdated, when
// it moved since). The node's own word wins; a silent one is tried at each address in turn.
type addressBook struct {
	chosen map[string]chosenAddress
}

type chosenAddress struct {
	address string
	since   time.Time
}

// choose returns the address to dial. The candidates are in order of preference and may be empty or
// repeated; own is the node's own word, "" when it gave none; alive says that it was heard lately.
func (b *addressBook) choose(node, own string, alive bool, now time.Time, candidates ...string) string {
	c := b.chosen[node]
	candidates = slices.DeleteFunc(append([]string{own}, candidates...), func(a string) bool { return a == "" })
	i := slices.Index(candidates, c.address)
	switch {
	case len(candidates) == 0:
		return ""
	case i < 0, alive && own != "" && c.address != own:
		c = chosenAddress{candidates[0], now}
	case alive:
		c.since = now
	case now.Sub(c.since) >= redialAfter:
		distinct := slices.Compact(append(slices.Clone(candidates[i:]), candidates[:i]...))
		c = chosenAddress{distinct[min(1, len(distinct)-1)], now}
	}
	if b.chosen == nil {
		b.chosen = make(map[string]chosenAddress)
	}
	b.chosen[node] = c
	return c.address
}

// peers returns how the other nodes are reached and recognised now: all that the table names. Where none
// is known yet, or it is so old that nobody whom it names is there, also the founders, those that the
// flags name, and those that told their address.
func (s *Service) peers(t *Table) map[string]shard.Peer {
	incarnations := make(map[string]string)
	if !t.Founded() || s.alone(t) {
		for name := range s.cfg.Initial {
			incarnations[name] = ""
		}
		_, founders, _ := s.cfg.Identity.Formed()
		for _, f := range founders {
			incarnations[f.Node] = f.Incarnation
		}
		for _, name := range s.soft.reporters() {
			if _, named := incarnations[name]; !named {
				incarnations[name] = ""
			}
		}
	}
	for id, n := range t.Nodes {
		incarnations[id] = n.Incarnation
	}
	delete(incarnations, s.host.Node())
	now := time.Now()
	peers := make(map[string]shard.Peer, len(incarnations))
	for id, incarnation := range incarnations {
		own, _ := s.soft.addresses(id)
		state, _ := s.soft.state(id)
		address := s.book.choose(id, own, state == NodeUp, now, t.Nodes[id].Raft, s.cfg.Initial[id])
		if address != "" {
			peers[id] = shard.Peer{Addr: address, Incarnation: incarnation}
		}
	}
	return peers
}

// alone reports whether no other node of a table was heard lately.
func (s *Service) alone(t *Table) bool {
	for id := range t.Nodes {
		if state, _ := s.soft.state(id); id != s.self.ID && state == NodeUp {
			return false
		}
	}
	return true
}

// setPeers tells the host how peers are reached, when that changed.
func (s *Service) setPeers(t *Table) {
	if peers := s.peers(t); !maps.Equal(peers, s.peersSet) {
		s.peersSet = peers
		s.host.SetPeers(maps.Clone(peers))
	}
}
