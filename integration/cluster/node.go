package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Node is one process of a cluster, and what it needs to be started again.
type Node struct {
	ID  string
	IP  string
	URL string // http://host:port
	// DataDir is the node's data folder.
	DataDir string
	// LogFile gets the output of all of the node's processes, one after the other.
	LogFile string

	cluster *Cluster
	volume  volume // nil where its data lies in a folder of the machine
	binary  string
	args    []string
	env     []string

	raft       string   // where it listens for peers
	advertised string   // what peers dial
	needed     []string // flags that its network needs

	mu      sync.Mutex // guards what follows
	process *process   // the last one started, nil before the first
	starts  int
}

// process is one started process. The goroutine that waits for it closes ended.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of cmd.Wait; set before ended is closed
}

// ErrRunning is returned by Start and Wipe, ErrNotRunning by what needs a process.
var (
	ErrRunning    = errors.New("node runs already")
	ErrNotRunning = errors.New("node does not run")
)

// flags are those that all starts of the node have.
func (n *Node) flags() []string {
	return append([]string{
		"server", "--id", n.ID, "--data-dir", n.DataDir,
		"--http", strings.TrimPrefix(n.URL, "http://"),
		"--raft", n.raft, "--advertise-raft", n.advertised,
	}, n.needed...)
}

// Start starts the node's process, and does not wait for anything.
func (n *Node) Start() error {
	if n.running() != nil {
		return fmt.Errorf("starting %s: %w", n.ID, ErrRunning)
	}
	if n.cluster.expired.Load() {
		return fmt.Errorf("starting %s: %w", n.ID, ErrLimit)
	}
	if err := n.cluster.network.setPower(n.ID, true); err != nil {
		return err
	}
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := n.args
	if more := n.cluster.cfg.StartArgs; more != nil {
		args = slices.Concat(args, more(n.ID, n.Starts()))
	}
	cmd := exec.Command(n.binary, args...)
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = Tied()
	if err := n.cluster.network.start(n.ID, cmd); err != nil {
		return fmt.Errorf("starting %s: %w", n.ID, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	n.mu.Lock()
	n.process = p
	n.starts++
	n.mu.Unlock()
	return n.cluster.state.addProcess(n.ID, cmd.Process.Pid)
}

// Starts returns how often the node was started.
func (n *Node) Starts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.starts
}

// running returns the node's process, nil when none runs.
func (n *Node) running() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return nil
	}
	select {
	case <-n.process.ended:
		return nil
	default:
		return n.process
	}
}

// Running reports whether the node has a process, paused or not.
func (n *Node) Running() bool { return n.running() != nil }

// signal sends sig to the node's process after a look at what runs under its pid.
func (n *Node) signal(sig syscall.Signal) (*process, error) {
	p := n.running()
	if p == nil {
		return nil, fmt.Errorf("%v to %s: %w", sig, n.ID, ErrNotRunning)
	}
	pid := p.cmd.Process.Pid
	// A process that just ended shows nothing.
	if exe, err := executable(pid); err == nil && filepath.Base(exe) != filepath.Base(n.binary) {
		return nil, fmt.Errorf("pid %d of %s is now %s: left alone", pid, n.ID, exe)
	}
	return p, p.cmd.Process.Signal(sig)
}

// Kill ends the process as kill -9 does, and returns when it is gone.
func (n *Node) Kill() error {
	p, err := n.signal(syscall.SIGKILL)
	if err != nil {
		return err
	}
	<-p.ended
	return nil
}

// pauseTime bounds how long the kernel may take to stop all threads of a process.
const pauseTime = 5 * time.Second

// Pause stops the process where it is, as SIGSTOP does, and returns once all its threads stand still:
// the signal is on its way for a moment, in which the process would still answer.
func (n *Node) Pause() error {
	p, err := n.signal(syscall.SIGSTOP)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pauseTime)
	defer cancel()
	return Poll(ctx, func() bool { return stopped(p.cmd.Process.Pid) })
}

// stopped reports whether all threads of a process are stopped by a signal.
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, t := range threads {
		stat, err := os.ReadFile(t)
		if err != nil {
			return false
		}
		// The state follows the name, which stands in parentheses and may hold anything.
		_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
		if !ok || len(rest) == 0 || rest[0] != 'T' {
			return false
		}
	}
	return true
}

// Resume lets a paused process go on.
func (n *Node) Resume() error {
	_, err := n.signal(syscall.SIGCONT)
	return err
}

// Terminate asks the process to end, and returns how it ended: nil is exit status 0.
func (n *Node) Terminate(ctx context.Context) error {
	p, err := n.signal(syscall.SIGTERM)
	if err != nil {
		return err
	}
	return n.wait(ctx, p)
}

// Wait waits until the process that was started last ends, and returns how: nil is exit status 0.
func (n *Node) Wait(ctx context.Context) error {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return ErrNotRunning
	}
	return n.wait(ctx, p)
}

func (n *Node) wait(ctx context.Context, p *process) error {
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to end: %w", n.ID, ctx.Err())
	}
}

// stop makes sure that no process of the node runs.
func (n *Node) stop() error {
	const limit = 10 * time.Second
	p, err := n.signal(syscall.SIGKILL)
	switch {
	case errors.Is(err, ErrNotRunning), errors.Is(err, os.ErrProcessDone):
		return nil
	case err != nil:
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := n.wait(ctx, p); ctx.Err() != nil {
		return err
	}
	return nil
}
