//go:build faults

package directory

import (
	"os"
	"slices"
	"strings"
)

var bugs = strings.Split(os.Getenv("LARDER_FAULTS"), ",")

func (b bug) on() bool { return slices.Contains(bugs, string(b)) }
