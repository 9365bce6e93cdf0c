package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/history"
)

const (
	// finishers read at the same time, each waiting finishTimeout for an answer.
	finishers     = 32
	finishTimeout = 3 * time.Second
	// keyTime is how long it may take until a key can be read.
	keyTime = 30 * time.Second
	// everyWay is the number of keys up to which each is read at every node; of more, each is read at two.
	everyWay = 1500
	// finishPause is how long to wait for a node that refused.
	finishPause = 50 * time.Millisecond
)

// Finish reads every key that was ever used, when nothing else runs and all is healed: through a node, by nodes alone, and by reads
// that may be old; Stop must have been called. It returns the linearizable reads, and records all. It fails where a key can't be
// read for keyTime, and reads no more then, or when ctx ends.
func (l *Load) Finish(ctx context.Context) ([]history.Operation, error) {
	if l.tables.first() > 0 {
		return l.finishSetting(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys := l.keys.names()
	next := make(chan int)
	var (
		mu    sync.Mutex // guards final and errs
		final []history.Operation
		errs  []error
		all   sync.WaitGroup
	)
	for range finishers {
		all.Go(func() {
			c := client.New(client.Config{Recorder: l.recorder, Timeout: finishTimeout, Dial: l.cfg.Dial, Targets: l.cfg.Targets})
			defer c.Close()
			process := l.recorder.NewProcess()
			for i := range next {
				ops, err := l.finishKey(ctx, c, process, keys[i], i, len(keys) <= everyWay)
				mu.Lock()
				final = append(final, ops...)
				if err != nil {
					errs = append(errs, err)
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for i := range keys {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	all.Wait()
	if ctx.Err() != nil && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("the keys were not all read: %w", ctx.Err()))
	}
	const shown = 5
	if len(errs) > shown {
		errs = append(errs[:shown], fmt.Errorf("and %d keys more", len(errs)-shown))
	}
	slices.SortFunc(final, func(a, b history.Operation) int { return int(a.Invoke - b.Invoke) })
	return final, errors.Join(errs...)
}

// finishKey reads the n-th key.
func (l *Load) finishKey(ctx context.Context, c *client.Client, process int, key string, n int, everywhere bool) ([]history.Operation, error) {
	targets := l.cfg.Targets
	var final []history.Operation
	var last history.Operation
	reading, cancel := context.WithTimeout(ctx, keyTime)
	defer cancel()
	for i := n; ; i++ {
		last = c.Do(reading, targets[i%len(targets)], history.Operation{Process: process, Kind: history.Get, Key: key, NoTouch: true})
		if last.Outcome == history.OK {
			final = append(final, last)
			break
		}
		if reading.Err() != nil {
			return nil, fmt.Errorf("key %s can't be read at the end: %s", key, last)
		}
		pause(reading, finishPause)
	}
	nodes := targets
	if !everywhere {
		nodes = targets[(n+1)%len(targets):][:1]
	}
	for i, target := range nodes {
		// A node without a replica refuses; so does one that must leave it to the leader whether a value's time is over.
		o := c.Do(ctx, target, history.Operation{Process: process, Kind: history.Get, Key: key, Local: true, NoTouch: true})
		if o.Outcome == history.OK {
			final = append(final, o)
		}
		old := history.Operation{Process: process, Kind: history.GetAny, Key: key, NoTouch: true}
		if (n+i)%2 == 0 {
			old.Kind, old.MaxStaleness = history.GetBounded, time.Second
		}
		c.Do(ctx, target, old)
	}
	return final, nil
}

// finishSetting reads the setting at every node, once that knows the last change.
func (l *Load) finishSetting(ctx context.Context) ([]history.Operation, error) {
	last := uint64(0)
	for _, o := range l.recorder.Operations() {
		if o.Key == settingKey && o.Outcome == history.OK {
			last = max(last, o.Version)
		}
	}
	c := client.New(client.Config{Recorder: l.recorder, Timeout: finishTimeout, Dial: l.cfg.Dial})
	defer c.Close()
	process := l.recorder.NewProcess()
	// Changes of unknown outcome may be the last: first all nodes must say the same.
	for {
		newest, same := uint64(0), true
		for i, target := range l.cfg.Targets {
			o := c.DoSetting(ctx, target, l.tables.first(), history.Operation{Process: process, Kind: history.GetAny, Key: settingKey})
			same = same && o.Outcome == history.OK && (i == 0 || o.Version == newest)
			newest = max(newest, o.Version)
		}
		if same && newest >= last {
			break
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the nodes do not all show the settings of version %d or later: %w", last, ctx.Err())
		}
		pause(ctx, finishPause)
	}
	var final []history.Operation
	for _, target := range l.cfg.Targets {
		o := c.DoSetting(ctx, target, l.tables.first(), history.Operation{Process: process, Kind: history.Get, Key: settingKey})
		if o.Outcome != history.OK {
			return final, fmt.Errorf("the setting can't be read at the end: %s", o)
		}
		final = append(final, o)
	}
	return final, nil
}
