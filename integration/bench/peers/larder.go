package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/local"
)

// larder is a cluster of three.
type larder struct{ *local.Larder }

// spreadTime is how long leaders may take to be spread over the nodes, which happens by itself.
const spreadTime = 30 * time.Second

func startLarder(ctx context.Context, cfg config, binary, dir, name string, status io.Writer) (system, error) {
	v, err := parseVariant(name, cfg.args)
	if err != nil {
		return nil, err
	}
	l, err := local.StartLarder(local.Config{Binary: binary, Dir: dir, Nodes: 3, Shards: v.shards, Args: append(v.flags(), cfg.args...)})
	if err != nil {
		return nil, err
	}
	if err := l.Ready(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	spreading, cancel := context.WithTimeout(ctx, spreadTime)
	defer cancel()
	switch err := l.Spread(spreading); {
	case ctx.Err() != nil:
		return nil, errors.Join(err, l.Close())
	case err != nil:
		fmt.Fprintf(status, "%s goes on with leaders that are not spread evenly: %v\n", name, err)
	}
	return larder{l}, nil
}

func (l larder) processes() []*local.Process {
	var all []*local.Process
	for _, n := range l.Nodes {
		all = append(all, n.Process)
	}
	return all
}

func (l larder) open(ctx context.Context) (load.Dial, func() error, error) {
	var addrs []string
	for _, n := range l.Nodes {
		addrs = append(addrs, n.Addr)
	}
	target, err := load.Open(ctx, load.HTTP{Addrs: addrs})
	if err != nil {
		return nil, nil, err
	}
	return target.Dial, target.Close, nil
}

// syncsMetric counts what nodes synced for log entries, in either kind of log.
const syncsMetric = "larder_log_syncs_total"

func (l larder) counters(ctx context.Context) (c counters, err error) {
	c.hasMallocs, c.hasSyncs = true, true
	for _, n := range l.Nodes {
		for _, m := range []struct {
			name string
			sum  *float64
			has  *bool
		}{{"go_memstats_mallocs_total", &c.mallocs, &c.hasMallocs}, {syncsMetric, &c.syncs, &c.hasSyncs}} {
			value, found, err := n.Metric(ctx, m.name)
			if err != nil {
				return c, err
			}
			*m.sum += value
			*m.has = *m.has && found
		}
	}
	return c, nil
}

func (l larder) close() error { return l.Close() }
