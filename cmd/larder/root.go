package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// run is the program: it returns the exit code. Data goes to stdout, everything else to stderr.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCmd(environ)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "larder: %v\n", err)
	code := exitCode(err)
	if code == exitUsage {
		fmt.Fprintf(stderr, "%q tells more.\n", cmd.CommandPath()+" --help")
	}
	return code
}

// newRootCmd returns the command line. environ is where settings come from that no flag gives.
func newRootCmd(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "larder",
		Short: "A strongly consistent, sharded, in-memory cache",
		Long: `Larder is a strongly consistent, sharded, in-memory cache.

  larder dev                  a whole cluster on this machine, to try
  larder put greeting hello   store a value
  larder get greeting         read it

Each flag can be given as a variable too: --data-dir as LARDER_DATA_DIR. A flag wins.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed,
5 unavailable and nothing applied, 6 outcome unknown, 7 not authorised,
8 a check found a violation.`,
		SilenceErrors: true, // run prints them, once
		SilenceUsage:  true, // and names --help, rather than burying the error in it
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return applyEnvironment(cmd, environ)
		},
	}
	root.AddCommand(newServerCmd(), newDevCmd(), newGetCmd(), newPutCmd(), newDelCmd(), newCheckCmd(), newVersionCmd())
	markFailures(root)
	return root
}

// markFailures makes what a command's work returns a failure. All that cobra finds wrong before is
// a matter of usage.
func markFailures(cmd *cobra.Command) {
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			err := work(cmd, args)
			var usage usageError
			var exit exitError
			var violation violationError
			if err == nil || errors.As(err, &usage) || errors.As(err, &exit) || errors.As(err, &violation) {
				return err
			}
			return exitError{exitFailed, err}
		}
	}
	for _, sub := range cmd.Commands() {
		markFailures(sub)
	}
}

const environmentPrefix = "LARDER_"

// foreignVariables are names that others set: Kubernetes gives every container the addresses of
// the services near it, and a service may well be called larder, or larder-something.
// The first few are the tests' own; faults exist only in builds with that tag.
var foreignVariables = regexp.MustCompile(`^(TEST_.*|FAULTS|ROUNDS|KEEP|(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))$`)

// applyEnvironment sets those flags of cmd that were not given from LARDER_ variables. A variable that is
// no flag of any command is an error: it was meant to have an effect.
func applyEnvironment(cmd *cobra.Command, environ []string) error {
	known := map[string]bool{}
	collectFlags(cmd.Root(), known)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		rest, ok := strings.CutPrefix(name, environmentPrefix)
		if !ok || foreignVariables.MatchString(rest) {
			continue
		}
		flag := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if !known[flag] || variableOf(flag) != name {
			return usageError{fmt.Errorf("the variable %s is set, but is no setting of larder", name)}
		}
		if f := cmd.Flags().Lookup(flag); f == nil || f.Changed {
			continue
		}
		if err := cmd.Flags().Set(flag, value); err != nil {
			return usageError{fmt.Errorf("variable %s: %w", name, err)}
		}
	}
	return nil
}

// variableOf is the variable that gives a flag.
func variableOf(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// collectFlags adds the names of all flags of cmd and the commands below it.
func collectFlags(cmd *cobra.Command, names map[string]bool) {
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			names[f.Name] = true
		}
	})
	for _, sub := range cmd.Commands() {
		collectFlags(sub, names)
	}
}
