package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// established is the state of a connection in /proc/net/tcp.
const established = "01"

// Connections returns how many TCP connections there are between two processes of this machine.
func Connections(a, b int) (int, error) {
	ofA, err := socketsOf(a)
	if err != nil {
		return 0, err
	}
	ofB, err := socketsOf(b)
	if err != nil {
		return 0, err
	}
	type ends struct{ local, remote string }
	sockets := map[ends]string{} // to inodes
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", a, table))
		if err != nil {
			if os.IsNotExist(err) {
				continue // a machine without IPv6
			}
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == established {
				sockets[ends{f[1], f[2]}] = f[9]
			}
		}
	}
	n := 0
	for e, inode := range sockets {
		if ofA[inode] && ofB[sockets[ends{e.remote, e.local}]] {
			n++
		}
	}
	return n, nil
}

// socketsOf returns the inodes of a process's sockets.
func socketsOf(pid int) (map[string]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	inodes := map[string]bool{}
	for _, f := range files {
		to, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes, nil
}
