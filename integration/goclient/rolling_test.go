package goclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/larder-cache/larder/httpapi/client"
	"github.com/larder-cache/larder/integration/cluster"
)

// builder builds the server once for all tests.
var builder *cluster.Builder

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	var err error
	if builder, err = cluster.NewBuilder(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer builder.Close()
	return m.Run()
}

// TestRollingRestart ensures that a planned restart of all nodes, one after the other, each once the one before is whole
// again, shows at most 0.1 % of requests an error, with the client's default retries, and no request a wrong answer.
func TestRollingRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: it starts real processes, which make test does")
	}
	const (
		rounds  = 2
		allowed = 0.001
	)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 4, Delay: time.Millisecond})
	u := newUsers(t, c)
	u.work(t, 64)
	u.progress(t, 2000)
	before := u.tally()
	began := time.Now()
	for range rounds {
		for _, n := range c.Nodes {
			u.progress(t, 1000)
			stopping := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			err := n.Terminate(ctx)
			cancel()
			if err != nil {
				t.Fatalf("node %s, asked to end: %v", n.ID, err)
			}
			ended := time.Now()
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
			c.WaitReady(t, 30*time.Second)
			t.Logf("node %s ended in %v, and was whole %v after its start", n.ID, ended.Sub(stopping).Round(time.Millisecond), time.Since(ended).Round(time.Millisecond))
		}
	}
	u.progress(t, 1000)
	took := time.Since(began)
	u.stop()
	after := u.tally()
	requests, failed := after.requests-before.requests, after.failed-before.failed
	share := float64(failed) / float64(requests)
	t.Logf("%d restarts in %v: %d requests, %d of them saw an error: %.4f %% (at most %g %%); half took %v or less, 99.9 %% %v, the slowest %v",
		rounds*len(c.Nodes), took.Round(time.Millisecond), requests, failed, 100*share, 100*allowed, after.took(0.5), after.took(0.999), after.took(1))
	for what, n := range after.errors {
		t.Logf("%d times: %s", n, what)
	}
	if share > allowed {
		t.Errorf("%.3f %% of requests saw an error, want at most %g %%", 100*share, 100*allowed)
	}
	if requests < 5000 {
		t.Errorf("not proved: %d requests only", requests)
	}
	for _, w := range after.wrong {
		t.Error(w)
	}
}

// users are many that share a client. Each writes keys of its own, whose values count up, and reads them and those of others.
type users struct {
	client *client.Client
	cancel context.CancelFunc
	ctx    context.Context
	all    sync.WaitGroup
	done   atomic.Int64
	// acked are the highest values of all users' keys that were acknowledged.
	acked []atomic.Int64

	mu sync.Mutex // guards sum
	t  tally
}

// tally is what came of requests.
type tally struct {
	requests, failed int
	errors           map[string]int
	wrong            []string
	times            []time.Duration // sorted by took
}

func (s *tally) took(share float64) time.Duration {
	slices.Sort(s.times)
	return s.times[int(share*float64(len(s.times)-1))].Round(100 * time.Microsecond)
}

func newUsers(t *testing.T, c *cluster.Cluster) *users {
	t.Helper()
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.URL)
	}
	cl, err := client.New(client.Config{Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	u := &users{client: cl, t: tally{errors: map[string]int{}}}
	u.ctx, u.cancel = context.WithCancel(t.Context())
	t.Cleanup(u.stop)
	return u
}

// work starts users.
func (u *users) work(t *testing.T, users int) {
	u.acked = make([]atomic.Int64, users)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range users {
		u.all.Go(func() { u.user(i, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
}

func (u *users) stop() {
	u.cancel()
	u.all.Wait()
	u.client.Close()
}

// progress waits for n successes.
func (u *users) progress(t *testing.T, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	want := u.done.Load() + n
	if err := cluster.Poll(ctx, func() bool { return u.done.Load() >= want }); err != nil {
		t.Fatalf("no progress: %d successes are missing", want-u.done.Load())
	}
}

func (u *users) tally() tally {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.t
	s.times = slices.Clone(s.times)
	return s
}

// request performs a request, counts it, and reports whether it had no error.
func (u *users) request(f func(ctx context.Context) error) bool {
	began := time.Now()
	err := f(context.WithoutCancel(u.ctx)) // what was begun is finished
	took := time.Since(began)
	if err == nil {
		u.done.Add(1)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.t.requests++
	u.t.times = append(u.t.times, took)
	if err != nil {
		u.t.failed++
		u.t.errors[err.Error()]++
	}
	return err == nil
}

func (u *users) wrong(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.t.wrong = append(u.t.wrong, fmt.Sprintf(format, args...))
}

func valueKey(user int) string { return fmt.Sprint("value/", user) }

// user works until it is stopped. It has a value, which it writes with numbers that grow, and a counter. An outcome that is not known leaves
// open which of two numbers is there.
func (u *users) user(i int, rng *rand.Rand) {
	var value, maybe int64 // what was acknowledged last, and what may be there instead
	var least, most int64  // of the counter
	for u.ctx.Err() == nil {
		switch n := rng.IntN(10); {
		case n < 3:
			maybe++
			if u.request(func(ctx context.Context) error {
				_, err := u.client.Put(ctx, valueKey(i), []byte(strconv.FormatInt(maybe, 10)))
				return err
			}) {
				value = maybe
				u.acked[i].Store(value)
			}
		case n < 5:
			var got int64
			if u.request(func(ctx context.Context) (err error) {
				got, _, err = u.client.Incr(ctx, fmt.Sprint("counter/", i), 1)
				return err
			}) {
				if got < least+1 || got > most+1 {
					u.wrong("the counter of user %d is %d, want %d to %d", i, got, least+1, most+1)
				}
				least, most = got, got
			} else {
				most++
			}
		case n < 7:
			if got, ok := u.read(i); ok && (got < value || got > maybe) {
				u.wrong("user %d reads %d, wrote %d last, and tried %d", i, got, value, maybe)
			}
		default:
			other := rng.IntN(len(u.acked))
			before := u.acked[other].Load()
			if got, ok := u.read(other); ok && got < before {
				u.wrong("user %d reads %d of user %d, after %d was acknowledged", i, got, other, before)
			}
		}
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // think
	}
}

// read returns a user's value, 0 where there is none.
func (u *users) read(user int) (value int64, ok bool) {
	ok = u.request(func(ctx context.Context) error {
		e, err := u.client.Get(ctx, valueKey(user))
		if errors.Is(err, client.ErrNotFound) {
			return nil
		}
		if err == nil {
			value, err = strconv.ParseInt(string(e.Value), 10, 64)
		}
		return err
	})
	return value, ok
}
