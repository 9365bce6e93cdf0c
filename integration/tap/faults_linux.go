package tap

import (
	"net"
	"time"
)

// link returns the link of a pair.
func (n *Network) link(from, to string) (*link, error) {
	f, err := n.member(from)
	if err != nil {
		return nil, err
	}
	t, err := n.member(to)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[pair{f, t}], nil
}

func (n *Network) setMode(from, to string, m mode) error {
	l, err := n.link(from, to)
	if err == nil {
		l.setMode(m)
	}
	return err
}

func (n *Network) set(from, to string, change func(now *conditions, base conditions)) error {
	l, err := n.link(from, to)
	if err == nil {
		l.set(change)
	}
	return err
}

// Cut loses all that from sends to to, what is under way included.
func (n *Network) Cut(from, to string) error { return n.setMode(from, to, cut) }

// Hold keeps back all that from sends to to until it is mended.
func (n *Network) Hold(from, to string) error { return n.setMode(from, to, hold) }

// Mend ends a cut or hold of one link. What was held arrives, in order.
func (n *Network) Mend(from, to string) error { return n.setMode(from, to, pass) }

// Heal ends all cuts and holds. All else stays.
func (n *Network) Heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return net.ErrClosed
	}
	for _, l := range n.links {
		l.setMode(pass)
	}
	return nil
}

// Isolate cuts a node off from all other nodes, both ways.
func (n *Network) Isolate(node string) error {
	return n.cutFrom(node, func(other *member) bool { return !other.clients })
}

// CutClient cuts a node off from all clients, both ways.
func (n *Network) CutClient(node string) error {
	return n.cutFrom(node, func(other *member) bool { return other.clients })
}

func (n *Network) cutFrom(node string, concerns func(*member) bool) error {
	m, err := n.member(node)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for p, l := range n.links {
		if p.from == m && concerns(p.to) || p.to == m && concerns(p.from) {
			l.setMode(cut)
		}
	}
	return nil
}

// SetDelay sets how long packets take from now on, without changing the jitter; 0 is what it was at first.
func (n *Network) SetDelay(from, to string, d time.Duration) error {
	return n.set(from, to, func(now *conditions, base conditions) {
		if now.delay = d; d == 0 {
			now.delay = base.delay
		}
	})
}

// SetLoss sets the share of packets that are lost.
func (n *Network) SetLoss(from, to string, share float64) error {
	return n.set(from, to, func(now *conditions, _ conditions) { now.loss = share })
}

// SetDuplicate sets the share of packets that come twice.
func (n *Network) SetDuplicate(from, to string, share float64) error {
	return n.set(from, to, func(now *conditions, _ conditions) { now.duplicate = share })
}

// SetReorder sets the share of packets that later ones overtake.
func (n *Network) SetReorder(from, to string, share float64) error {
	return n.set(from, to, func(now *conditions, _ conditions) { now.reorder = share })
}

// SetRate bounds how many bytes a second pass; 0 ends that.
func (n *Network) SetRate(from, to string, bytesPerSecond int) error {
	return n.set(from, to, func(now *conditions, _ conditions) { now.rate = bytesPerSecond })
}

// SetPower switches a member's device off, or on again: off, it neither sends nor gets anything, whatever its links do.
func (n *Network) SetPower(name string, on bool) error {
	m, err := n.member(name)
	if err == nil {
		m.off.Store(!on)
	}
	return err
}

// Counts returns what all links did so far.
func (n *Network) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all Counts
	for _, l := range n.links {
		all.add(l.count())
	}
	return all
}

// CountsOf returns what one link did so far.
func (n *Network) CountsOf(from, to string) (Counts, error) {
	l, err := n.link(from, to)
	if err != nil {
		return Counts{}, err
	}
	return l.count(), nil
}
