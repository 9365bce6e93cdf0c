// Command jepsen proves a Larder cluster consistent under fire, or not: it starts real processes, hurts them by a plan
// that follows from a seed, records what clients ask and are answered meanwhile, and checks that record.
//
//	jepsen run --workload register --nemesis pause,partition-leader --time 60s --seed 42
//	jepsen check DIR    checks a recorded run again
//	jepsen index DIR    a page over all runs in a folder
//	jepsen list         workloads and faults, and what each needs
//	jepsen selftest     runs with seeded bugs, each of which must be found
//	jepsen nightly      run after run, over all workloads, with and without room for all
//	jepsen clean        removes what runs left behind that were killed
//
// The exit status of a run, and of its check, is the verdict: 0 valid, 1 invalid, 2 undecided, 3 not proved. What is not proved had too few
// answers or too few faults that took effect, or could not be run at all.
//
// # Concurrency
//
// Beside the clients, a goroutine samples what the nodes say of themselves, and one or two do faults. All have ended
// before the record is written.
//
// # Caveats
//
// Times are measured on the one machine that all of it shares: a machine that is busy with something else shows slow
// recoveries. A seed gives the same plan, not the same run.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/integration/check"
)

// The exit statuses.
const (
	exitValid = iota
	exitInvalid
	exitUndecided
	exitNotProved
)

// commands make the subcommands, each in a file of its own.
var commands = []func() *cobra.Command{runCommand, checkCommand, indexCommand, listCommand, selftestCommand, nightlyCommand, cleanCommand}

func main() { os.Exit(execute()) }

// execute runs the command line and returns the exit status. The first interrupt ends a run early and in good
// order, a second one ends the process; the nodes end with it.
func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()
	root := &cobra.Command{
		Use: "jepsen", Short: "Prove a cluster consistent under fire, or not",
		SilenceUsage: true, SilenceErrors: true,
	}
	for _, command := range commands {
		root.AddCommand(command())
	}
	err := root.ExecuteContext(ctx)
	var v verdictError
	switch {
	case err == nil:
		return exitValid
	case errors.As(err, &v):
		return v.status()
	}
	fmt.Fprintln(os.Stderr, "jepsen:", err)
	return exitNotProved
}

// verdictError is a verdict other than valid, which was printed.
type verdictError struct{ verdict check.Verdict }

func (e verdictError) Error() string { return string(e.verdict) }

func (e verdictError) status() int {
	switch e.verdict {
	case check.Invalid:
		return exitInvalid
	case check.Undecided:
		return exitUndecided
	default:
		return exitNotProved
	}
}

// asError is nil for a valid run.
func asError(v check.Verdict) error {
	if v == check.Valid {
		return nil
	}
	return verdictError{v}
}
