package main

import (
	"context"
	"errors"
	"time"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/local"
)

// allSystems are all there are, in the order of the tables.
var allSystems = []string{"larder-1", "larder-8", "larder-64", "etcd-E1", "etcd-E16", "redis", "bare"}

// system is servers that run.
type system interface {
	// processes are those of the servers.
	processes() []*local.Process
	// open returns how clients are connected. close ends what they share.
	open(ctx context.Context) (dial load.Dial, close func() error, err error)
	// counters are what the servers counted so far.
	counters(ctx context.Context) (counters, error)
	close() error
}

// counters are sums over the servers of a system.
type counters struct {
	mallocs, syncs       float64
	hasMallocs, hasSyncs bool
}

// errSkip says that a system can't be measured here.
var errSkip = errors.New("not measured")

// startTime bounds the start of a system.
const startTime = time.Minute

// cpu is the processor time of all servers so far.
func cpu(s system) (sum time.Duration, err error) {
	for _, p := range s.processes() {
		took, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += took
	}
	return sum, nil
}
