package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// volume is a disk that is a node's own.
type volume interface {
	Shutdown() error // cuts its power
	Remount() error  // what a machine does when it starts again
	Fill() error
	Free() error
	Slow(d time.Duration) error
	Close() error
}

// The parts of a node's folder. Where it has a disk of its own, its data is in data on that until the cluster is closed, and then
// here.
const (
	logName   = "log"
	dataName  = "data"
	mountName = "disk"
	imageName = "disk.img"
)

// owns returns the node's disk, or an error where it has none of its own.
func (n *Node) owns(what string) (volume, error) {
	if n.volume == nil {
		return nil, fmt.Errorf("%s of %s: its data lies in a folder of the machine: %w", what, n.ID, errors.ErrUnsupported)
	}
	return n.volume, nil
}

// PowerLoss ends the node as a loss of power does: what it did not sync is gone, and others hear nothing of it, where the network
// can do that. It may be started again.
func (n *Node) PowerLoss() error { return n.cluster.PowerLoss(n) }

// PowerLoss cuts the power of nodes at the same time, for example of all. Those that don't run lose it too.
func (c *Cluster) PowerLoss(nodes ...*Node) error {
	for _, n := range nodes {
		if _, err := n.owns("power loss"); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := c.network.setPower(n.ID, false); err != nil {
			return err
		}
	}
	errs := make([]error, len(nodes))
	each := func(do func(n *Node) error) {
		var all sync.WaitGroup
		for i, n := range nodes {
			all.Go(func() {
				if errs[i] == nil {
					errs[i] = do(n)
				}
			})
		}
		all.Wait()
	}
	each(func(n *Node) error { return n.volume.Shutdown() })
	each(func(n *Node) error {
		err := n.Kill()
		if errors.Is(err, ErrNotRunning) || errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	})
	each(func(n *Node) error { return n.volume.Remount() })
	return errors.Join(errs...)
}

// FillDisk takes all room that is left on the node's disk, FreeDisk gives it back.
func (n *Node) FillDisk() error {
	v, err := n.owns("filling the disk")
	if err != nil {
		return err
	}
	return v.Fill()
}

// FreeDisk ends what FillDisk did.
func (n *Node) FreeDisk() error {
	v, err := n.owns("freeing the disk")
	if err != nil {
		return err
	}
	return v.Free()
}

// SlowDisk makes each sync of the node take about d; 0 ends that.
func (n *Node) SlowDisk(d time.Duration) error {
	v, err := n.owns("slowing down the disk")
	if err != nil {
		return err
	}
	return v.Slow(d)
}

// Wipe removes the data folder of a node that does not run.
func (n *Node) Wipe() error {
	if n.Running() {
		return fmt.Errorf("wiping %s: %w", n.ID, ErrRunning)
	}
	return os.RemoveAll(n.DataDir)
}

// giveUp ends the use of the node's own disk, and keeps what is on it in a folder of the machine.
func (n *Node) giveUp() error {
	if n.volume == nil {
		return nil
	}
	v := n.volume
	n.volume = nil
	dir := filepath.Dir(n.LogFile)
	kept := filepath.Join(dir, dataName)
	var copied error
	if n.cluster.cfg.Dir != "" {
		copied = errors.Join(v.Slow(0), os.CopyFS(kept, os.DirFS(n.DataDir)))
		if errors.Is(copied, os.ErrNotExist) {
			copied = nil // it was wiped, or never started
		}
	}
	n.DataDir = kept
	return errors.Join(copied, v.Close(), os.RemoveAll(filepath.Join(dir, mountName)))
}
