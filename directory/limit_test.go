package directory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimited ensures that a limited context tells its end as one of package context does, waited for or not, and that contexts
// below it end with it.
func TestLimited(t *testing.T) {
	for _, wait := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			parent, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := func(d time.Duration) (*limited, context.Context) {
				l := limit(parent, d)
				if !wait {
					return l, l
				}
				below, end := context.WithCancel(l)
				t.Cleanup(end)
				return l, below
			}
			want := func(what string, ctx context.Context, err error) {
				t.Helper()
				synctest.Wait()
				if got := ctx.Err(); !errors.Is(got, err) {
					t.Errorf("waited for %t: %s: got %v, want %v", wait, what, got, err)
				}
				select {
				case <-ctx.Done():
					if err == nil {
						t.Errorf("waited for %t: %s: done", wait, what)
					}
				default:
					if err != nil {
						t.Errorf("waited for %t: %s: not done", wait, what)
					}
				}
			}
			l, ctx := begin(300 * time.Millisecond)
			time.Sleep(299 * time.Millisecond)
			if at, ok := l.Deadline(); !ok || time.Until(at) != time.Millisecond {
				t.Errorf("deadline in %v, %t", time.Until(at), ok)
			}
			if wait {
				want("before its time", ctx, nil)
			}
			time.Sleep(time.Millisecond)
			want("after its time", ctx, context.DeadlineExceeded)
			l.end()

			l, ctx = begin(time.Minute)
			l.end()
			want("ended", ctx, context.Canceled)

			l, ctx = begin(time.Minute)
			if at, _ := l.Deadline(); time.Until(at) != 700*time.Millisecond {
				t.Errorf("deadline in %v, want the parent's", time.Until(at))
			}
			time.Sleep(700 * time.Millisecond)
			want("after the parent's time", ctx, context.DeadlineExceeded)
			l.end()

			parent, cancel = context.WithCancel(t.Context())
			l, ctx = begin(time.Minute)
			cancel()
			want("parent ended", ctx, context.Canceled)
			l.end()
		})
	}
}

// TestLimitedCostsNothingUnwaited ensures that nothing but the context itself is made where nobody waits for its end.
func TestLimitedCostsNothingUnwaited(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		l := limit(t.Context(), time.Second)
		if l.Err() != nil {
			t.Error("it has ended")
		}
		l.end()
	})
	if n > 1 {
		t.Errorf("%v allocations", n)
	}
}
