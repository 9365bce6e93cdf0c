package integration

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

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

// processes marks a test that starts real processes.
func processes(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -short: it starts real processes, which make test does")
	}
}

// rounds is how often each fault is tried: LARDER_ROUNDS, or byDefault.
func rounds(t *testing.T, byDefault int) int {
	t.Helper()
	text := os.Getenv("LARDER_ROUNDS")
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("LARDER_ROUNDS is %q, want a number above 0", text)
	}
	return n
}

// within returns a context of the test that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
