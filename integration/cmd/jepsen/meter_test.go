package main

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// TestRecover ensures that clients whose successes are back are told from those who still fail, and both from
// a machine that is slow.
func TestRecover(t *testing.T) {
	const usual = 200 // successes a second
	for _, tt := range []struct {
		name            string
		early, late     int // successes a second, before and after 3 s
		failures        int // a second, after 3 s
		looked          time.Duration
		ok              bool
		atLeast, atMost time.Duration
	}{
		{name: "at once", early: usual, late: usual, ok: true, atMost: 300 * time.Millisecond},
		{name: "before anybody looks", early: usual, late: usual, looked: 12 * time.Second, ok: true, atMost: 300 * time.Millisecond},
		{name: "later", early: 10, late: usual, ok: true, atLeast: 2 * time.Second, atMost: 3500 * time.Millisecond},
		{name: "never", late: 20, failures: 100},
		{name: "half of them", early: usual / 2, late: usual / 2, failures: usual / 2},
		{name: "slowly", early: usual / 2, late: usual / 2, ok: true, atMost: 300 * time.Millisecond},
		{name: "hardly at all", early: 5, late: 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &runner{o: options{say: io.Discard, least: 30}, recorder: history.NewRecorder(), rate: usual}
				r.done = func() int64 {
					at := r.recorder.Now()
					late := max(0, at-3*time.Second)
					return int64((at-late).Seconds()*float64(tt.early) + late.Seconds()*float64(tt.late))
				}
				stop := make(chan struct{})
				defer close(stop)
				go func() { // the record, of which only the shares matter
					for {
						select {
						case <-stop:
							return
						case <-time.After(100 * time.Millisecond):
							for range tt.late / 10 {
								r.recorder.Add(history.Operation{Outcome: history.OK})
							}
							for range tt.failures / 10 {
								r.recorder.Add(history.Operation{Outcome: history.Unknown})
							}
						}
					}
				}()
				taking, stopTaking := context.WithCancel(t.Context())
				defer stopTaking()
				go r.pulses.take(taking, r)
				time.Sleep(tt.looked)
				back, ok := r.recover(t.Context(), 0)
				if ok != tt.ok || back < tt.atLeast || ok && back > tt.atMost {
					t.Errorf("back at %v, %t; want %t between %v and %v", back, ok, tt.ok, tt.atLeast, tt.atMost)
				}
			})
		})
	}
}
