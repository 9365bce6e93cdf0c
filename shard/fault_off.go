//go:build !faults

package shard

// Seeded bugs and test knobs exist in builds with the tag faults only.

func faultVerifyLeaderReads() bool { return false }
