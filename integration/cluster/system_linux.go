package cluster

import (
	"context"
	"net"
	"os/exec"
	"syscall"

	"github.com/larder-cache/larder/integration/disk"
	"github.com/larder-cache/larder/integration/tap"
)

// Tied makes the kernel kill a node when the thread that started it ends, and so when this process dies, however it dies. It is in a
// process group of its own, so that an interrupt from the terminal is for this process alone, which ends in good order.
func Tied() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// CanTap returns nil when this process can make networks of the kind Tap, else why it can't.
func CanTap() error { return tap.Supported() }

// CanLoop returns nil when this process can make disks of the kind Loop, else why it can't.
func CanLoop() error { return disk.Supported() }

// taps is a switch and its namespaces.
type taps struct{ *tap.Network }

// The ports of a node whose address is its own.
const (
	httpPort = "7070"
	raftPort = "7071"
)

func newTap(cfg Config) (network, error) {
	n := taps{tap.New(tap.Config{Delay: cfg.Delay, Jitter: cfg.Jitter, Seed: cfg.Seed})}
	if _, err := n.AddClients(Clients); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// add implements network. The namespace is all that protects the node.
func (t taps) add(id string, _ int) (addresses, error) {
	ip, err := t.Add(id)
	if err != nil {
		return addresses{}, err
	}
	raft := net.JoinHostPort(ip, raftPort)
	return addresses{ip: ip, http: net.JoinHostPort(ip, httpPort), raft: raft, advertised: raft, flags: []string{"--insecure"}}, nil
}

func (t taps) start(id string, cmd *exec.Cmd) error { return t.Run(id, cmd.Start) }

func (t taps) setPower(id string, on bool) error { return t.SetPower(id, on) }

func (t taps) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return t.Dial(ctx, Clients, network, addr)
}

func (t taps) close() error { return t.Close() }

func (t taps) Counts() Counts { return Counts(t.Network.Counts()) }

// loopSize is the size of a node's disk. It takes only what is used of it.
const loopSize = 512 << 20

func newLoop(image, dir string) (volume, error) { return disk.NewLoop(image, dir, loopSize) }

func removeLoop(image, dir string) error { return disk.Remove(image, dir) }
