package load

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// conn answers as its functions do.
type conn struct {
	get func(key []byte) error
	put func(key, value []byte) error
}

func (c conn) Get(_ context.Context, key []byte) error        { return c.get(key) }
func (c conn) Put(_ context.Context, key, value []byte) error { return c.put(key, value) }
func (c conn) Close() error                                   { return nil }

// dialTo makes all connections c.
func dialTo(c Conn) Dial { return func(context.Context, int) (Conn, error) { return c, nil } }

// about fails unless got is want within the precision of latencies.
func about(t *testing.T, what string, got float64, want time.Duration) {
	t.Helper()
	us := float64(want) / float64(time.Microsecond)
	if math.Abs(got-us) > us/500+1 {
		t.Errorf("%s: got %.1f µs, want %.1f", what, got, us)
	}
}

// TestStall ensures that in an open loop each request that was due while a server stalled waits from then on: the
// percentiles are those of a queue that is worked off, computed one by one. In a closed loop a single one waits.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			service  = 2 * time.Millisecond
			stall    = time.Second // from stallAt on
			stallAt  = 2 * time.Second
			interval = 10 * time.Millisecond
			duration = 10 * time.Second
			warmup   = 500 * time.Millisecond
		)
		var began time.Time
		server := conn{get: func([]byte) error {
			if at := time.Since(began); at >= stallAt && at < stallAt+stall {
				time.Sleep(stallAt + stall - at)
			}
			time.Sleep(service)
			return nil
		}}
		var want []time.Duration
		var free time.Duration
		for due := time.Duration(0); due < warmup+duration; due += interval {
			start := max(due, free)
			if start >= stallAt && start < stallAt+stall {
				start = stallAt + stall
			}
			free = start + service
			if due >= warmup {
				want = append(want, free-due)
			}
		}
		slices.Sort(want)

		cfg := Config{Clients: 1, Rate: 100, Reads: 100, Keys: 10, Warmup: warmup, Duration: duration, nap: time.Sleep}
		began = time.Now()
		r, err := Run(t.Context(), cfg, dialTo(server))
		if err != nil {
			t.Fatal(err)
		}
		if r.Reads.Count != uint64(len(want)) || r.Sent != uint64((warmup+duration)/interval) || r.Unsent != 0 || r.Rate != 100 {
			t.Errorf("got %d requests measured, %d sent, %d not, %g a second; want %d, %d, 0, 100", r.Reads.Count, r.Sent, r.Unsent, r.Rate, len(want), (warmup+duration)/interval)
		}
		for percent, got := range map[float64]float64{50: r.Reads.P50, 90: r.Reads.P90, 99: r.Reads.P99, 99.9: r.Reads.P999, 100: r.Reads.Max} {
			about(t, "open loop", got, want[int(math.Round(percent/100*float64(len(want))))-1])
		}
		if r.Reads.P90 < 100_000 {
			t.Errorf("90 %% of requests took at most %.0f µs, although a tenth of them was due in the stall", r.Reads.P90)
		}

		cfg.Rate = 0
		began = time.Now()
		if r, err = Run(t.Context(), cfg, dialTo(server)); err != nil {
			t.Fatal(err)
		}
		about(t, "closed loop, 99.9 %", r.Reads.P999, service)
		about(t, "closed loop, longest", r.Reads.Max, stall+service)
	})
}

// TestSharedQueue ensures that the next request that is due goes to any client that is free: one whose connection
// hangs holds up no other's.
func TestSharedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Clients: 2, Rate: 1000, Reads: 100, Keys: 10, Duration: time.Second, nap: time.Sleep}
		r, err := Run(t.Context(), cfg, func(_ context.Context, client int) (Conn, error) {
			var once sync.Once
			return conn{get: func([]byte) error {
				if client == 0 {
					once.Do(func() { time.Sleep(10 * time.Second) })
				}
				return nil
			}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Reads.Count != 1000 || r.Unsent != 0 {
			t.Errorf("got %d measured, %d not sent", r.Reads.Count, r.Unsent)
		}
		about(t, "99 %", r.Reads.P99, 0)
		about(t, "longest", r.Reads.Max, 10*time.Second)
	})
}

// TestUnsent ensures that what was due and could not be sent is counted, with the time it waited: a run ends in time
// however far behind servers are.
func TestUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		server := conn{put: func(_, _ []byte) error { time.Sleep(600 * time.Millisecond); return nil }}
		cfg := Config{Clients: 1, Rate: 10, Keys: 10, Duration: time.Second, nap: time.Sleep}
		r, err := Run(t.Context(), cfg, dialTo(server))
		if err != nil {
			t.Fatal(err)
		}
		// Two were sent, due at 0 and 100 ms. The other eight waited from 200, 300, ... 900 ms to the end.
		if r.Sent != 2 || r.Unsent != 8 || r.Writes.Count != 10 || r.Rate != 1 {
			t.Errorf("got %d sent, %d not, %d measured, %g a second; want 2, 8, 10, 1", r.Sent, r.Unsent, r.Writes.Count, r.Rate)
		}
		about(t, "longest", r.Writes.Max, 1100*time.Millisecond)
		about(t, "shortest", r.Writes.Min, 100*time.Millisecond)
		if took := time.Since(began); took != 1200*time.Millisecond {
			t.Errorf("it took %v, want to the end of the last request: 1.2 s", took)
		}
	})
}

// TestMix ensures that requests are reads as often as asked for, that values have the lengths that were asked for, that all keys
// come, and that the same seed asks for the same.
func TestMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := func(seed uint64) (reads, writes int, keys map[string]int) {
			keys = map[string]int{}
			lengths := map[int]bool{}
			server := conn{
				get: func(key []byte) error { reads++; keys[string(key)]++; time.Sleep(time.Millisecond); return nil },
				put: func(key, value []byte) error {
					writes++
					keys[string(key)]++
					lengths[len(value)] = true
					time.Sleep(time.Millisecond)
					return nil
				},
			}
			cfg := Config{Clients: 1, Reads: 75, Keys: 20, MinValue: 3, MaxValue: 5, Duration: 20 * time.Second, Seed: seed}
			if _, err := Run(t.Context(), cfg, dialTo(server)); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(lengths, map[int]bool{3: true, 4: true, 5: true}) {
				t.Errorf("values have the lengths %v, want 3 to 5", lengths)
			}
			return reads, writes, keys
		}
		reads, writes, keys := ask(1)
		if share := float64(reads) / float64(reads+writes); share < 0.73 || share > 0.77 {
			t.Errorf("%.3f of the requests are reads, want 0.75", share)
		}
		if len(keys) != 20 || keys["bench-0000000000"] == 0 || keys["bench-0000000019"] == 0 {
			t.Errorf("got the keys %v, want 20 from bench-0000000000 on", keys)
		}
		_, _, again := ask(1)
		_, _, other := ask(2)
		if !maps.Equal(keys, again) || maps.Equal(keys, other) {
			t.Error("the same seed asks for other keys, or another one for the same")
		}
	})
}

// TestFailures ensures that failures are counted by what they mean and why, those of the warm-up apart, that misses are none, and
// that a closed loop leaves servers that refuse alone for a moment.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		answers := []error{
			nil, ErrMissing, &Failure{Unavailable, "503 no-leader"}, &Failure{Unavailable, "503 no-leader"},
			&Failure{Unknown, "no answer"}, &Failure{Denied, "403"}, &Failure{Rejected, "413"}, errors.New("strange"),
		}
		server := conn{get: func([]byte) error {
			defer func() { n++ }()
			if n >= len(answers) {
				time.Sleep(time.Hour)
				return nil
			}
			return answers[n]
		}}
		cfg := Config{Clients: 1, Reads: 100, Keys: 1, Duration: time.Minute, nap: time.Sleep}
		r, err := Run(t.Context(), cfg, dialTo(server))
		if err != nil {
			t.Fatal(err)
		}
		if r.Misses != 1 || r.Refused != 4 || r.Unknown != 2 || r.Reads.Count != uint64(len(answers)+1) {
			t.Errorf("got %d misses, %d refused, %d unknown of %d", r.Misses, r.Refused, r.Unknown, r.Reads.Count)
		}
		for kind, want := range map[Kind]uint64{Unavailable: 2, Unknown: 2, Denied: 1, Rejected: 1} {
			if got := r.Failures(kind); got != want {
				t.Errorf("kind %d: got %d, want %d", kind, got, want)
			}
		}
		want := map[string]uint64{"503 no-leader": 2, "no answer": 1, "403": 1, "413": 1, "strange": 1}
		if !maps.Equal(r.Reasons, want) {
			t.Errorf("got reasons %v, want %v", r.Reasons, want)
		}

		asked := 0
		refusing := conn{get: func([]byte) error { asked++; return &Failure{Unavailable, "refused"} }}
		cfg.Warmup, cfg.Duration = 500*time.Millisecond, 500*time.Millisecond
		if r, err = Run(t.Context(), cfg, dialTo(refusing)); err != nil {
			t.Fatal(err)
		}
		if r.Refused != uint64(asked)/2 || r.Rate != 0 || asked != int(time.Second/failurePause) {
			t.Errorf("got %d refused of %d, %g answered a second", r.Refused, asked, r.Rate)
		}
	})
}

// TestReasonsAreFew ensures that however many reasons there are for failures, few are kept apart, and all counted.
func TestReasonsAreFew(t *testing.T) {
	rec := newRecord()
	for i := range 1000 {
		rec.failureLocked(&Failure{Unavailable, string(rune('0' + i%100))})
	}
	sum := uint64(0)
	for _, n := range rec.reasons {
		sum += n
	}
	if len(rec.reasons) != maxReasons+1 || sum != 1000 || rec.reasons[otherReason] != 800 {
		t.Errorf("got %d reasons, of %d failures", len(rec.reasons), sum)
	}
}

// TestInterrupted ensures that a run whose context ends stops, waits for what is under way, and tells what it measured until then.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{0, 0.1} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			var underWay atomic.Int64
			server := slow{&underWay}
			cfg := Config{Clients: 1, Rate: rate, Reads: 100, Keys: 1, Warmup: time.Second, Duration: time.Hour, nap: time.Sleep}
			began := time.Now()
			r, err := Run(ctx, cfg, dialTo(server))
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); underWay.Load() != 0 || took > 5*time.Second || r.Seconds != 2 {
				t.Errorf("rate %g: it took %v, %g s of it measured; want less than 5 s, and 2", rate, took, r.Seconds)
			}
		}
	})
}

// slow takes its time, and counts those that it has not answered.
type slow struct{ underWay *atomic.Int64 }

func (s slow) Get(ctx context.Context, _ []byte) error {
	s.underWay.Add(1)
	select {
	case <-time.After(1250 * time.Millisecond):
		s.underWay.Add(-1)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (s slow) Put(context.Context, []byte, []byte) error { panic("asked") }
func (s slow) Close() error                              { return nil }

// TestWarmup ensures that what was due in the warm-up is no part of the latencies, however late it was answered.
func TestWarmup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Bool
		server := conn{get: func([]byte) error {
			if !asked.Swap(true) {
				time.Sleep(time.Second)
			}
			return nil
		}}
		cfg := Config{Clients: 2, Rate: 10, Reads: 100, Keys: 1, Warmup: 500 * time.Millisecond, Duration: time.Second, nap: time.Sleep}
		r, err := Run(t.Context(), cfg, dialTo(server))
		if err != nil {
			t.Fatal(err)
		}
		if r.Sent != 15 || r.Reads.Count != 10 || r.Reads.Max > 1 || r.Rate != 11 {
			t.Errorf("got %d sent, %d measured, at most %.0f µs, %g answered a second; want 15, 10, 0, 11", r.Sent, r.Reads.Count, r.Reads.Max, r.Rate)
		}
	})
}

// TestProgress ensures that each second tells how far a run is, and how fast.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Progress
		server := conn{get: func([]byte) error { time.Sleep(9 * time.Millisecond); return ErrMissing }}
		cfg := Config{Clients: 3, Reads: 100, Keys: 1, Warmup: time.Second, Duration: 3500 * time.Millisecond, Progress: func(p Progress) { told = append(told, p) }}
		if _, err := Run(t.Context(), cfg, dialTo(server)); err != nil {
			t.Fatal(err)
		}
		if len(told) != 4 {
			t.Fatalf("got %d reports in 4.5 s", len(told))
		}
		for i, p := range told {
			if p.Elapsed != time.Duration(i+1)*time.Second || p.Total != 4500*time.Millisecond || math.Abs(p.Rate-333) > 3 || p.Failed != 0 {
				t.Errorf("after %d s: %+v", i+1, p)
			}
		}
	})
}

// TestFill ensures that all keys are stored, once each, those that are refused again, and that what can't be stored ends it.
func TestFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		stored := map[string]int{}
		refused := 0
		server := conn{put: func(key, value []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if refused < 100 {
				refused++
				return &Failure{Unavailable, "busy"}
			}
			if len(value) != 7 {
				t.Errorf("got a value of %d bytes", len(value))
			}
			stored[string(key)]++
			return nil
		}}
		cfg := Config{Clients: 7, Keys: 1000, MinValue: 7, MaxValue: 7, Duration: 1}
		if err := Fill(t.Context(), cfg, dialTo(server)); err != nil {
			t.Fatal(err)
		}
		for key, times := range stored {
			if times != 1 {
				t.Errorf("%s was stored %d times", key, times)
			}
		}
		if len(stored) != 1000 {
			t.Errorf("%d keys are stored, want 1000", len(stored))
		}
		for _, f := range []*Failure{{Denied, "403"}, {Rejected, "413"}, {Unavailable, "503"}} {
			err := Fill(t.Context(), cfg, dialTo(conn{put: func(_, _ []byte) error { return f }}))
			if !errors.Is(err, f) {
				t.Errorf("got %v, want %v", err, f)
			}
		}
	})
}

// TestValidate ensures that each bound of a configuration is held, and that no connection is made for one that is wrong.
func TestValidate(t *testing.T) {
	good := Config{Clients: 1, Rate: 1, Reads: 50, Keys: 1, Zipf: 1, MinValue: 1, MaxValue: 2, Duration: 1}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*Config){
		"no client": func(c *Config) { c.Clients = 0 }, "too many clients": func(c *Config) { c.Clients = MaxClients + 1 },
		"rate": func(c *Config) { c.Rate = -1 }, "no rate": func(c *Config) { c.Rate = math.NaN() }, "high rate": func(c *Config) { c.Rate = 2 * MaxRate },
		"few reads": func(c *Config) { c.Reads = -1 }, "many reads": func(c *Config) { c.Reads = 101 },
		"no keys": func(c *Config) { c.Keys = 0 }, "too many keys": func(c *Config) { c.Keys = MaxKeys + 1 },
		"zipf": func(c *Config) { c.Zipf = -0.1 }, "high zipf": func(c *Config) { c.Zipf = 11 },
		"value": func(c *Config) { c.MinValue = -1 }, "values": func(c *Config) { c.MinValue = 3 }, "long value": func(c *Config) { c.MaxValue = MaxValue + 1 },
		"batch": func(c *Config) { c.Batch = -1 }, "long batch": func(c *Config) { c.Batch = MaxBatch + 1 }, "large batch": func(c *Config) { c.Batch, c.MaxValue = 100, 1<<20 },
		"duration": func(c *Config) { c.Duration = 0 }, "warmup": func(c *Config) { c.Warmup = -1 },
	} {
		cfg := good
		spoil(&cfg)
		dial := func(context.Context, int) (Conn, error) {
			t.Errorf("%s: a connection was made", what)
			return nil, errors.New("no")
		}
		if _, err := Run(t.Context(), cfg, dial); err == nil {
			t.Errorf("%s: run", what)
		}
		if err := Fill(t.Context(), cfg, dial); err == nil {
			t.Errorf("%s: filled", what)
		}
	}
}

// TestDialFails ensures that a run for which not all connections can be made does not begin, and leaves none open.
func TestDialFails(t *testing.T) {
	refused := errors.New("refused")
	var open atomic.Int64
	dial := func(_ context.Context, client int) (Conn, error) {
		if client == 17 {
			return nil, refused
		}
		open.Add(1)
		return closing{&open}, nil
	}
	cfg := Config{Clients: 30, Keys: 1, Duration: time.Hour}
	if _, err := Run(t.Context(), cfg, dial); !errors.Is(err, refused) {
		t.Errorf("got %v, want %v", err, refused)
	}
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections are open", n)
	}
}

// closing counts connections that are open.
type closing struct{ open *atomic.Int64 }

func (c closing) Get(context.Context, []byte) error        { panic("asked") }
func (c closing) Put(_ context.Context, _, _ []byte) error { panic("asked") }
func (c closing) Close() error                             { c.open.Add(-1); return nil }
