package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// valueSize is how long values are, bytes.
const valueSize = 128

// writers are the clients of a round: a goroutine each, for which stop waits.
type writers struct {
	tally  *tally
	clock  *history.Recorder // of a round alone: it keeps all that was asked
	client *client.Client
	cancel context.CancelFunc
	all    sync.WaitGroup
}

// startWriters has all clients write until they are stopped.
func (b *bench) startWriters(ctx context.Context) *writers {
	ctx, cancel := context.WithCancel(ctx)
	w := &writers{tally: newTally(), clock: history.NewRecorder(), cancel: cancel}
	w.client = client.New(client.Config{Recorder: w.clock, Timeout: b.cfg.timeout, Dial: b.cluster.Dial})
	targets := cluster.Targets(b.cluster.Nodes)
	for i, k := range b.keys {
		w.all.Go(func() { w.write(ctx, k, targets, i) })
	}
	return w
}

// stop ends all clients. The error is what the nodes answered that they must not.
func (w *writers) stop() error {
	w.cancel()
	w.all.Wait()
	w.client.Close()
	return errors.Join(w.clock.Defects()...)
}

// failurePause is how long a client waits after a write that was not done, that it does not do nothing but ask.
const failurePause = 10 * time.Millisecond

// write writes to a key by one node as long as that goes well, then by the next one.
func (w *writers) write(ctx context.Context, k key, targets []client.Target, number int) {
	pad := strings.Repeat("x", valueSize)
	process := w.clock.NewProcess()
	for n, at := 0, number; ctx.Err() == nil; n++ {
		o := w.client.Do(ctx, targets[at%len(targets)], history.Operation{
			Process: process, Kind: history.Put, Key: k.name, Value: fmt.Sprintf("%d-%d-%s", number, n, pad)[:valueSize],
		})
		w.tally.note(k.shard, o)
		if o.Outcome == history.OK {
			continue
		}
		process = w.clock.NewProcess()
		at++
		timer := time.NewTimer(failurePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}
