package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
	"github.com/larder-cache/larder/integration/workload"
)

// options are what a run is asked to do; each is a flag of jepsen run, which says what it means.
type options struct {
	workload string
	nemesis  []string
	mode     string
	net      string
	disk     string
	out      string
	time     time.Duration
	rounds   int
	seed     uint64
	rate     int
	clients  int
	least    float64
	nodes    int
	replicas int
	shards   int
	delay    time.Duration
	bug      string
	binary   string
	keep     bool
	// memoryOnly keeps shards in memory alone: whatever a majority of a shard's nodes forgets at once vanishes.
	memoryOnly bool
	readMode   string // of the nodes: probe or lease; auto: by the seed
	logStore   string // of the nodes: bolt, shared or mixed; auto: by the seed

	given []string // history.Meta.Given

	say io.Writer // what a person wants to see while it runs
}

// autoMode lets the seed choose the nodes' read mode, or log stores.
const autoMode = "auto"

// reads is the nodes' read mode.
func (o options) reads() string {
	switch {
	case o.readMode != autoMode:
		return o.readMode
	case rand.New(rand.NewPCG(o.seed, 6)).IntN(2) == 0:
		return "lease"
	}
	return "probe"
}

// noFaults is the nemesis that does nothing.
const noFaults = "none"

func (o options) validate() error {
	if !slices.Contains(workload.Names(), o.workload) {
		return fmt.Errorf("no workload is called %q: there are %s", o.workload, strings.Join(workload.Names(), ", "))
	}
	if !slices.Contains([]string{"", string(history.Strict), string(history.Tight)}, o.mode) {
		return fmt.Errorf("mode %q, want strict or tight", o.mode)
	}
	if o.memoryOnly && o.mode == string(history.Strict) {
		return errors.New("with --memory-only what vanishes is not lost: it takes --mode tight")
	}
	if !slices.Contains([]string{"auto", string(cluster.Tap), string(cluster.Proxy)}, o.net) {
		return fmt.Errorf("net %q, want auto, tap or proxy", o.net)
	}
	if !slices.Contains([]string{"auto", string(cluster.Loop), string(cluster.Folder)}, o.disk) {
		return fmt.Errorf("disk %q, want auto, loop or folder", o.disk)
	}
	if !slices.Contains([]string{autoMode, "probe", "lease"}, o.readMode) {
		return fmt.Errorf("read mode %q, want auto, probe or lease", o.readMode)
	}
	if !slices.Contains([]string{autoMode, boltLog, sharedLog, mixedLogs}, o.logStore) {
		return fmt.Errorf("log store %q, want auto, bolt, shared or mixed", o.logStore)
	}
	if o.time <= 0 || o.rate < 1 || o.clients < 1 || o.rounds < 0 {
		return fmt.Errorf("time %v, rate %d and clients %d must be above 0", o.time, o.rate, o.clients)
	}
	if !slices.Contains(o.nemesis, noFaults) {
		if _, err := nemesis.Find(o.nemesis); err != nil {
			return err
		}
	}
	return nil
}

// roomMode is strict unless asked otherwise; the workload evict is about a lack of room, and what is in memory alone vanishes as well.
func (o options) roomMode() history.Mode {
	switch {
	case o.mode != "":
		return history.Mode(o.mode)
	case o.workload == "evict", o.memoryOnly:
		return history.Tight
	default:
		return history.Strict
	}
}
