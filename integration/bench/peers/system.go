package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/local"
)

// others are the systems beside Larder.
var others = []string{"etcd-E1", "etcd-E16", "redis", "bare"}

// defaultSystems are those of a run that names none: Larder's have both ways to confirm a read where there are 8 shards.
var defaultSystems = append([]string{"larder-1", "larder-8", "larder-8-lease", "larder-64"}, others...)

// checkSystem says what is wrong with the name of a system.
func checkSystem(name string) error {
	if isLarder(name) {
		_, err := parseVariant(name, nil)
		return err
	}
	if !slices.Contains(others, name) {
		return fmt.Errorf("system %q: want larder-SHARDS, or one of %s", name, strings.Join(others, ","))
	}
	return nil
}

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
