package load

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxNap is how long before a request is due a client waits precisely, which takes a thread of its own.
	maxNap = 2 * time.Millisecond
	// failurePause is how long a client of a closed loop leaves servers alone that don't take its requests: it would
	// else do nothing but ask one that is gone.
	failurePause = 10 * time.Millisecond
	// progressEvery is how often Config.Progress is told.
	progressEvery = time.Second
)

// Run sends requests for cfg.Warmup and then for cfg.Duration, which it measures. When ctx ends it stops sooner,
// and returns what it has measured by then. The error says that cfg is wrong or a connection can't be made.
func Run(ctx context.Context, cfg Config, dial Dial) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.nap == nil {
		cfg.nap = nap
	}
	conns, err := dialAll(ctx, cfg.Clients, dial)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	if err := canBatch(&cfg, conns); err != nil {
		return nil, err
	}
	var z *zipf
	if cfg.Zipf > 0 {
		z = newZipf(cfg.Keys, cfg.Zipf)
	}
	v := newValues(&cfg)
	r := &run{cfg: cfg, records: newRecords(cfg.Clients), began: time.Now()}
	r.end.Store(int64(cfg.Warmup + cfg.Duration))
	defer context.AfterFunc(ctx, func() { r.stop() })()

	var clients sync.WaitGroup
	for i, conn := range conns {
		clients.Go(func() {
			r.client(ctx, newAsker(&cfg, conn, newChooser(&cfg, i, z, v)), r.records[i%len(r.records)])
		})
	}
	r.watch(&clients)
	sum := newRecord()
	for _, rec := range r.records {
		sum.addLocked(rec)
	}
	return sum.result(max(time.Duration(r.end.Load())-cfg.Warmup, 0)), nil
}

// run is a run under way. Each of its clients is a goroutine, for which Run waits.
type run struct {
	cfg     Config
	records []*record
	began   time.Time
	due     atomic.Int64 // open loop: how many requests were handed to clients
	end     atomic.Int64 // when no more are due, ns after began
}

// since is the time of the run.
func (r *run) since() time.Duration { return time.Since(r.began) }

// stop makes the run end now.
func (r *run) stop() { r.end.Store(min(r.end.Load(), int64(r.since()))) }

// client sends requests until the end.
func (r *run) client(ctx context.Context, ask *asker, rec *record) {
	var timer pause
	// What is under way when ctx ends is waited for: its outcome counts.
	ctx = context.WithoutCancel(ctx)
	for {
		due := r.since()
		if r.cfg.Rate > 0 {
			before := float64(r.due.Add(1)-1) * float64(len(ask.ops)) // operations
			due = time.Duration(math.Round(before * float64(time.Second) / r.cfg.Rate))
			if due < time.Duration(r.end.Load()) {
				r.await(due, &timer)
			}
		}
		if due >= time.Duration(r.end.Load()) {
			return
		}
		read := ask.choose.read()
		if r.cfg.Rate > 0 {
			if end := time.Duration(r.end.Load()); r.since() >= end {
				rec.missed(len(ask.ops), read, end-due, due >= r.cfg.Warmup)
				continue
			}
		}
		failed := ask.do(ctx, read)
		now := r.since()
		rec.mu.Lock()
		rec.all += uint64(len(ask.ops))
		if now >= r.cfg.Warmup && now < time.Duration(r.end.Load()) {
			rec.answered += uint64(len(ask.ops) - failed)
		}
		if due >= r.cfg.Warmup {
			rec.latencyLocked(read, now-due)
			for _, err := range ask.errs {
				if err != nil {
					rec.failureLocked(err)
				}
			}
		}
		rec.mu.Unlock()
		if failed > 0 && r.cfg.Rate == 0 {
			timer.wait(failurePause)
		}
	}
}

// missed counts a request of so many operations that was due and can't be sent any more, with the time that it has waited.
func (r *record) missed(operations int, read bool, waited time.Duration, measured bool) {
	if !measured {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsent += uint64(operations)
	r.latencyLocked(read, waited)
}

// await returns when a request is due, or soon after the run was stopped.
func (r *run) await(due time.Duration, timer *pause) {
	for {
		left := min(due, time.Duration(r.end.Load())) - r.since()
		switch {
		case left <= 0:
			return
		case left > maxNap:
			timer.wait(min(left-maxNap/2, progressEvery))
		default:
			r.cfg.nap(left)
		}
	}
}

// pause is a timer that is used again and again.
type pause struct{ timer *time.Timer }

func (p *pause) wait(d time.Duration) {
	if p.timer == nil {
		p.timer = time.NewTimer(d)
	} else {
		p.timer.Reset(d)
	}
	<-p.timer.C
}

// watch waits for clients, and tells of progress meanwhile.
func (r *run) watch(clients *sync.WaitGroup) {
	total := r.cfg.Warmup + r.cfg.Duration
	report(clients, r.cfg.Progress, func() (p Progress, done uint64) {
		p.Elapsed, p.Total = min(r.since(), total), total
		for _, rec := range r.records {
			rec.mu.Lock()
			done += rec.all
			for _, n := range rec.failures {
				p.Failed += n
			}
			rec.mu.Unlock()
		}
		return p, done
	})
}

// report waits for clients. Every second until then it has tell hear what look sees: how far they are, and how many requests they
// have sent.
func report(clients *sync.WaitGroup, tell func(Progress), look func() (Progress, uint64)) {
	if tell == nil {
		clients.Wait()
		return
	}
	ended := make(chan struct{})
	go func() { // ends with the clients
		clients.Wait()
		close(ended)
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var before uint64
	at := time.Now()
	for {
		select {
		case <-ended:
			return
		case now := <-tick.C:
			p, done := look()
			p.Rate = float64(done-before) / now.Sub(at).Seconds()
			before, at = done, now
			tell(p)
		}
	}
}

// newRecords returns as many as there are threads to write to them at once.
func newRecords(clients int) []*record {
	records := make([]*record, min(clients, runtime.GOMAXPROCS(0)))
	for i := range records {
		records[i] = newRecord()
	}
	return records
}

// dialAll makes the connections of all clients, a few at a time.
func dialAll(ctx context.Context, clients int, dial Dial) ([]Conn, error) {
	const atOnce = 16
	conns, errs := make([]Conn, clients), make([]error, clients)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(clients, atOnce) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < clients; i = int(next.Add(1)) - 1 {
				if conns[i], errs[i] = dial(ctx, i); errs[i] != nil {
					return
				}
			}
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		closeAll(conns)
		return nil, err
	}
	return conns, nil
}

func closeAll(conns []Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close() // nothing is under way on it
		}
	}
}
