package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

const (
	catchUpValue   = 1 << 10 // bytes
	catchUpRate    = 400     // writes per second, while the member comes and before
	catchUpClients = 64
)

// TestCatchUp ensures that a new member of a large shard is caught up by a snapshot and promoted while writes go on, and that
// these take hardly longer meanwhile: their 99th percentile is at most doubled. LARDER_TEST_CATCHUP is the size of the shard in MiB;
// below 256 times are told and not judged, as so little is over too soon.
func TestCatchUp(t *testing.T) {
	processes(t)
	mib := 16
	if text := os.Getenv("LARDER_TEST_CATCHUP"); text != "" {
		var err error
		if mib, err = strconv.Atoi(text); err != nil || mib < 1 {
			t.Fatalf("LARDER_TEST_CATCHUP is %q, want a number of MiB", text)
		}
	}
	large := mib >= 256
	before := 3 * time.Second
	if large {
		before = 30 * time.Second
	}
	config := cluster.Config{Binary: builder.Binary(t), Shards: 1, Limit: 40 * time.Minute,
		Args: []string{"--max-memory", fmt.Sprintf("%dMiB", 3*mib+64)}}
	if !large { // so that a snapshot is sent all the same
		config.Args = append(config.Args, smallLogs...)
	}
	c := cluster.Start(t, config)
	id := shards(t, c)[0]
	p := newOperator(t, c)
	members := p.members(id)
	leader := c.Node(members.Leader)
	w := &writer{t: t, url: leader.URL, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: catchUpClients}}}
	defer w.client.CloseIdleConnections()

	began := time.Now()
	keys := mib << 20 / catchUpValue
	w.fill(keys)
	t.Logf("%d values of %d bytes stored in %v", keys, catchUpValue, time.Since(began).Round(time.Second))
	c.Join(t, leader)
	c.WaitReady(t, 60*time.Second)
	c.WaitKnown(t, "d", 30*time.Second)

	if large {
		began = time.Now()
		calm(t, c)
		t.Logf("the disk is calm after %v", time.Since(began).Round(time.Second))
	}
	stop := w.steady(keys)
	time.Sleep(before) // what is measured
	quiet := w.mark()
	added := time.Now()
	members = p.members(id)
	o, a, ok := p.begin(leader, id, "d", true, members.Conf)
	if !ok {
		t.Fatalf("adding d: %s", a)
	}
	phase, since := "", time.Now()
	told, fastest := 0, uint64(0) // of the snapshot
	err := cluster.Poll(within(t, 20*time.Minute), func() bool {
		now, err := leader.Operation(t.Context(), o.ID)
		if err != nil {
			return false
		}
		if now.Snapshot {
			told, fastest = told+1, max(fastest, now.BytesRate)
		}
		if now.Phase != phase {
			t.Logf("%v after the start: %s", time.Since(added).Round(10*time.Millisecond), now.Phase)
			phase, since = now.Phase, time.Now()
		}
		return now.Over()
	})
	if err != nil {
		t.Fatalf("d is no voter: %s since %v", phase, time.Since(since))
	}
	took := time.Since(added)
	busy := w.mark()
	stop()
	if o, err = leader.Operation(t.Context(), o.ID); err != nil || o.State != "done" {
		t.Fatalf("%s, %v", o, err)
	}
	t.Logf("the snapshot came in at up to %d MiB/s", fastest>>20)
	if large && (told == 0 || fastest == 0) {
		t.Error("the snapshot was never told of")
	}
	was, now := quiet.quantile(0.99), busy.quantile(0.99)
	t.Logf("%d MiB, member promoted after %v", mib, took.Round(10*time.Millisecond))
	t.Logf("before: %s", quiet)
	t.Logf("before, 99th percentile and longest by second: %s", quiet.seconds())
	t.Logf("during: %s", busy)
	t.Logf("during, 99th percentile and longest by second: %s", busy.seconds())
	t.Logf("p99 %.2f-fold; of the median second %.2f-fold (a machine that others use too has seconds that are slow by themselves)",
		float64(now)/float64(was), float64(busy.second(0.99))/float64(max(quiet.second(0.99), 1)))
	if large && now > 2*was {
		t.Errorf("the 99th percentile of writes went from %v to %v", was, now)
	}
	if len(busy.took) == 0 || busy.failed > 0 {
		t.Errorf("%d writes failed while the member came, %d did not", busy.failed, len(busy.took))
	}
}

// calm waits until what filling the shard has left to do is done: snapshots of the nodes' own, which are no part of what a new
// member costs, and what the system has yet to write.
func calm(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	const little, enough = 1 << 20, 8 // bytes of all nodes in a second; seconds
	quiet, last := 0, uint64(0)
	err := cluster.Poll(within(t, 3*time.Minute), func() bool {
		time.Sleep(time.Second)
		now := uint64(0)
		for _, n := range c.Nodes {
			written, err := n.Written()
			if err != nil {
				t.Fatal(err)
			}
			now += written
		}
		if quiet++; now-last > little {
			quiet = 0
		}
		last = now
		return quiet >= enough
	})
	if err != nil {
		t.Fatal("the nodes still write to their disks")
	}
	syscall.Sync()
}

// writer stores values, and notes how long that takes.
type writer struct {
	t      *testing.T
	url    string
	client *http.Client

	mu  sync.Mutex // guards now
	now latencies
}

// latencies are those of one part of a run.
type latencies struct {
	began  time.Time
	due    []time.Duration // since began: when each was to be sent
	took   []time.Duration // since it was due
	failed int
}

func (l latencies) quantile(q float64) time.Duration {
	if len(l.took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(l.took))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (l latencies) String() string {
	return fmt.Sprintf("%d writes, %d failed; p50 %v, p90 %v, p99 %v, p99.9 %v, longest %v", len(l.took), l.failed,
		l.quantile(0.5), l.quantile(0.9), l.quantile(0.99), l.quantile(0.999), l.quantile(1))
}

// bySecond are the parts of a run, by the second in which a write was due.
func (l latencies) bySecond() []latencies {
	parts := make([]latencies, slices.Max(append(slices.Clone(l.due), 0))/time.Second+1)
	for i, due := range l.due {
		part := &parts[due/time.Second]
		part.took = append(part.took, l.took[i])
	}
	return parts
}

// second is the quantile of the median second.
func (l latencies) second(q float64) time.Duration {
	var all latencies
	for _, part := range l.bySecond() {
		all.took = append(all.took, part.quantile(q))
	}
	return all.quantile(0.5)
}

func (l latencies) seconds() string {
	var text []byte
	for _, part := range l.bySecond() {
		text = fmt.Appendf(text, "%d/%d ", part.quantile(0.99).Milliseconds(), part.quantile(1).Milliseconds())
	}
	return string(text) + "ms"
}

func (w *writer) put(key int, value []byte) error {
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPut, fmt.Sprintf("%s/v1/kv/key%d", w.url, key), bytes.NewReader(value))
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// fill stores each key once.
func (w *writer) fill(keys int) {
	w.t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range catchUpClients {
		wg.Go(func() {
			value := randomValue()
			for key := next.Add(1) - 1; key < int64(keys); key = next.Add(1) - 1 {
				for try := 0; ; try++ {
					err := w.put(int(key), value)
					if err == nil {
						break
					}
					if try == 100 {
						w.t.Errorf("storing: %v", err)
						return
					}
					time.Sleep(100 * time.Millisecond) // overload: a pause is what it asks for
				}
			}
		})
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

func randomValue() []byte {
	value := make([]byte, catchUpValue)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	return value
}

// steady stores a random key at each tick, until it is stopped. Latencies count from the tick: what waits behind a slow one is slow.
func (w *writer) steady(keys int) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.mark()
	due := make(chan time.Time, 1<<16)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(due)
		began := time.Now()
		for n := 0; ctx.Err() == nil; n++ {
			at := began.Add(time.Duration(n) * time.Second / catchUpRate)
			time.Sleep(time.Until(at))
			due <- at
		}
	})
	for range catchUpClients {
		wg.Go(func() {
			value := randomValue()
			for at := range due {
				err := w.put(rand.IntN(keys), value)
				w.note(at, err)
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

func (w *writer) note(due time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.now.failed++
		return
	}
	w.now.due = append(w.now.due, due.Sub(w.now.began))
	w.now.took = append(w.now.took, time.Since(due))
}

// mark ends a part of the run and returns what was noted in it.
func (w *writer) mark() latencies {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.now
	w.now = latencies{began: time.Now()}
	return l
}
