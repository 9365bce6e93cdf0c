package cluster

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Written is how many bytes the node's process has had written to disks since it was started.
func (n *Node) Written() (uint64, error) {
	p := n.running()
	if p == nil {
		return 0, fmt.Errorf("node %s is not running", n.ID)
	}
	path := fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if count, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseUint(strings.TrimSpace(count), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s does not tell what was written", path)
}
