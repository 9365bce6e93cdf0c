package cluster

import (
	"fmt"
	"strconv"
	"time"
)

// userHertz is the unit in which Linux tells processor time, on all machines that Go knows.
const userHertz = 100

// CPU returns the processor time that the node's process has taken so far, in user and in system mode, to
// 1/100 s. Linux only.
func (n *Node) CPU() (time.Duration, error) {
	p := n.running()
	if p == nil {
		return 0, fmt.Errorf("processor time of %s: %w", n.ID, ErrNotRunning)
	}
	return CPUOf(p.cmd.Process.Pid)
}

// CPUOf returns the processor time that a process has taken so far, in user and in system mode, to 1/100 s. Linux only.
func CPUOf(pid int) (time.Duration, error) {
	fields, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	var ticks uint64
	for _, field := range []int{statUser, statSystem} {
		n, err := strconv.ParseUint(fields[field], 10, 63)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHertz, nil
}
