package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// Process is a server that was started. The goroutine that waits for it closes ended.
type Process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	err   error // of its end; set before ended is closed
}

// stopTime is how long a server may take to end in good order.
const stopTime = 10 * time.Second

// Start starts a server, whose output goes to the file log.
func Start(name, log, binary string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = cluster.Tied()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &Process{name: name, cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Pid is the process's.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// CPU returns the processor time that the process has taken so far, to 1/100 s.
func (p *Process) CPU() (time.Duration, error) { return cluster.CPUOf(p.Pid()) }

// CPU returns the processor time that processes, or nodes, have taken so far, together.
func CPU[P interface{ CPU() (time.Duration, error) }](of []P) (sum time.Duration, err error) {
	for _, p := range of {
		took, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += took
	}
	return sum, nil
}

// RSS returns the memory of the process, bytes, files that are mapped into it included.
func (p *Process) RSS() (uint64, error) { return Memory(strconv.Itoa(p.Pid()), "VmRSS") }

// MappedRSS is the part of RSS that is of mapped files, bytes: the kernel takes it back when others need memory.
func (p *Process) MappedRSS() (uint64, error) { return Memory(strconv.Itoa(p.Pid()), "RssFile") }

// Kill ends the process as kill -9 does, and returns when it is gone.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Close asks the process to end, and kills it when it does not in time.
func (p *Process) Close() error { return p.end(syscall.SIGTERM) }

func (p *Process) end(sig syscall.Signal) error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("ending %s: %w", p.name, err)
	}
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", p.name, err)
	}
	<-p.ended
	return nil
}

// Await waits until done, which is asked again and again, says so, the process ends, or ctx does.
func (p *Process) Await(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := false
	err := cluster.Poll(ctx, func() bool {
		select {
		case <-p.ended:
			gone = true
			return true
		default:
			return done()
		}
	})
	switch {
	case gone:
		return fmt.Errorf("%s ended (%v) before it was %s:\n%s", p.name, p.err, what, p.lastWords())
	case err != nil:
		return fmt.Errorf("%s is not %s: %w:\n%s", p.name, what, err, p.lastWords())
	}
	return nil
}

// lastWords is the end of the process's output.
func (p *Process) lastWords() string {
	const size = 2 << 10
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(len(data)-size, 0):])
}

// Memory reads a line of /proc/PID/status, such as VmRSS, in bytes; pid "self" is this process.
func Memory(pid, name string) (uint64, error) {
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), " kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%s/status", name, pid)
}
