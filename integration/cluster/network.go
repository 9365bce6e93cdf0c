package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"

	"github.com/larder-cache/larder/integration/port"
	"github.com/larder-cache/larder/integration/proxy"
)

// network is what nodes and clients are joined by.
type network interface {
	Links
	// add makes room for the node of number i and returns its addresses.
	add(id string, i int) (addresses, error)
	// start starts a process where the node is.
	start(id string, cmd *exec.Cmd) error
	// setPower takes a node off the network as a machine without power is, or back on.
	setPower(id string, on bool) error
	// dial connects as clients do.
	dial(ctx context.Context, network, addr string) (net.Conn, error)
	// close ends the network. Its error says what makes a run worthless.
	close() error
}

// addresses are where a node is. All but ip have a port.
type addresses struct {
	ip         string
	http, raft string // where it listens
	advertised string // what the others dial
	flags      []string
}

// proxies are loopback addresses and a proxy in front of each node.
type proxies struct{ *proxy.Network }

// add implements network: node i has 127.0.0.(11+i).
func (p proxies) add(id string, i int) (addresses, error) {
	ip := fmt.Sprintf("127.0.0.%d", 11+i)
	http, httpErr := port.Free(ip)
	raft, raftErr := port.Free(ip)
	if err := errors.Join(httpErr, raftErr); err != nil {
		return addresses{}, err
	}
	front, err := p.Listen(id, ip, raft)
	return addresses{ip: ip, http: http, raft: raft, advertised: front}, err
}

func (proxies) start(_ string, cmd *exec.Cmd) error { return cmd.Start() }

// setPower implements network. The kernel closes the connections of a process that ends, whatever a proxy does.
func (proxies) setPower(string, bool) error { return nil }

func (proxies) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

func (p proxies) close() error {
	p.Close()
	if s := p.Strangers(); len(s) > 0 {
		return fmt.Errorf("connections that did not come from a node's own address, so that no fault could reach them: %v", s)
	}
	return nil
}

func (p proxies) Counts() Counts {
	passed, cut := p.Network.Counts()
	return Counts{Passed: passed, Cut: cut}
}

// What proxies can't do.

func (proxies) SetLoss(string, string, float64) error      { return errors.ErrUnsupported }
func (proxies) SetDuplicate(string, string, float64) error { return errors.ErrUnsupported }
func (proxies) SetReorder(string, string, float64) error   { return errors.ErrUnsupported }
func (proxies) CutClient(string) error                     { return errors.ErrUnsupported }

// newNetwork makes a network of the kind that cfg asks for.
func newNetwork(cfg Config) (network, error) {
	if cfg.Net == Tap {
		return newTap(cfg)
	}
	return proxies{proxy.New(cfg.Delay, cfg.Jitter)}, nil
}
