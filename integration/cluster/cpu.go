package cluster

import (
	"bytes"
	"fmt"
	"os"
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
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15, utime and stime; field 2 is the name, which stands in parentheses and may hold anything.
	const name, user, system = 2, 14, 15
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < system-name {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name", p.cmd.Process.Pid, len(fields))
	}
	var ticks uint64
	for _, field := range []int{user, system} {
		n, err := strconv.ParseUint(string(fields[field-name-1]), 10, 63)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", p.cmd.Process.Pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHertz, nil
}
