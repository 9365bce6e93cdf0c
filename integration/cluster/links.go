package cluster

import "time"

// Clients is the name of the clients among the members of a network.
const Clients = "clients"

// Links are the ways between nodes, and between nodes and clients (Clients). Each belongs to an ordered pair. What a kind of network can't do
// returns an error that is errors.ErrUnsupported: proxies neither lose, repeat nor reorder, and don't stand between clients and nodes.
type Links interface {
	// Cut loses all that from sends to to, what is under way included.
	Cut(from, to string) error
	// Hold keeps back all that from sends to to until it is mended.
	Hold(from, to string) error
	// Mend ends a cut or hold of one link.
	Mend(from, to string) error
	// Isolate cuts a node off from all others, both ways, and not from the clients.
	Isolate(node string) error
	// CutClient cuts a node off from the clients, both ways.
	CutClient(node string) error
	// Heal ends all cuts and holds, and nothing else.
	Heal() error

	// SetDelay sets how long one way takes; 0 gives back the cluster's delay. The jitter stays.
	SetDelay(from, to string, d time.Duration) error
	// SetLoss, SetDuplicate and SetReorder set the share of packets that are lost, come twice, or are overtaken by later ones.
	SetLoss(from, to string, share float64) error
	SetDuplicate(from, to string, share float64) error
	SetReorder(from, to string, share float64) error
	// SetRate bounds the bytes a second; 0 ends that.
	SetRate(from, to string, bytesPerSecond int) error

	// Counts is what all links did so far.
	Counts() Counts
}

// Counts are packets, or where there are none, pieces of streams.
type Counts struct {
	Passed    uint64
	Cut       uint64 // lost since the link was cut
	Lost      uint64 // lost by chance
	Repeated  uint64
	Reordered uint64 // held back so that later ones overtake
}
