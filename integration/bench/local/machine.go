package local

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine tells where figures are from.
func Machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	busy, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		busy = []byte("unknown")
	}
	return fmt.Sprintf("%d processors (%s), load before the run %s", runtime.NumCPU(), model, strings.TrimSpace(string(busy)))
}
