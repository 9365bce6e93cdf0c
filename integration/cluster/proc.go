package cluster

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Fields of /proc/PID/stat, counted from the state, which follows the name.
const (
	statState   = 0
	statUser    = 11
	statSystem  = 12
	statStarted = 19
)

// statOf returns the fields of /proc/PID/stat from the state on. The name before it stands in parentheses and may hold anything.
func statOf(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= statStarted {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	return fields, nil
}

// executable returns the path of what a process runs.
func executable(pid int) (string, error) {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return strings.TrimSuffix(exe, " (deleted)"), err
}

// identity is a process; a pid alone may be another one's by now.
type identity struct {
	Pid     int
	Started string // in the kernel's ticks since it booted, "" where that is not known
}

// identify returns the identity of a process that runs.
func identify(pid int) identity {
	id := identity{Pid: pid}
	if stat, err := statOf(pid); err == nil {
		id.Started = stat[statStarted]
	}
	return id
}

// alive reports whether the process still runs.
func (id identity) alive() bool {
	if err := syscall.Kill(id.Pid, 0); err != nil && err != syscall.EPERM {
		return false
	}
	if id.Started == "" {
		return true
	}
	stat, err := statOf(id.Pid)
	return err == nil && stat[statStarted] == id.Started && stat[statState] != "Z"
}
