//go:build faults

package shard

import (
	"os"
	"slices"
	"strings"
)

// Faults that a test asks for: LARDER_FAULTS is a comma-separated list.
var faults = strings.Split(os.Getenv("LARDER_FAULTS"), ",")

// faultVerifyLeaderReads makes reads trust hashicorp/raft's VerifyLeader: they can then be stale
// after a leader was paused.
func faultVerifyLeaderReads() bool { return slices.Contains(faults, "verify-leader-reads") }
