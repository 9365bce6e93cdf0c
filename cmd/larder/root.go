package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
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

A setting comes from its flag, else from its variable (--data-dir as LARDER_DATA_DIR), else from the
file that --config names (lines such as "data-dir = /var/lib/larder"), else from its default.
--print-config tells which.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed,
5 unavailable and nothing applied, 6 outcome unknown, 7 not authorised,
8 a check found a violation.`,
		SilenceErrors: true, // run prints them, once
		SilenceUsage:  true, // and names --help, rather than burying the error in it
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return settle(cmd, environ)
		},
	}
	settingsFlags(root.PersistentFlags())
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Servers:", []*cobra.Command{newServerCmd(), newDevCmd()}},
		{"Data:", []*cobra.Command{newGetCmd(), newPutCmd(), newDelCmd(), newIncrCmd(), newTTLCmd(), newTouchCmd(), newScanCmd()}},
		{"The cluster:", []*cobra.Command{newStatusCmd(), newShardCmd(), newMemberCmd(), newNodeCmd(), newDirectoryCmd(), newOperationCmd(), newSettingsCmd(), newBenchCmd(), newCheckCmd()}},
		{"Other:", []*cobra.Command{newVersionCmd()}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: group.title})
		for _, cmd := range group.commands {
			cmd.GroupID = group.title
			root.AddCommand(cmd)
		}
	}
	root.SetHelpCommandGroupID("Other:")
	root.SetCompletionCommandGroupID("Other:")
	markFailures(root)
	excusePrinting(root)
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

// newGroup returns a command that only holds others, and says so when none of them is given.
func newGroup(name, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("there is no %q of %q", args[0], name)}
			}
			return usageError{errors.New("what to do is missing")}
		},
	}
	cmd.AddCommand(commands...)
	return cmd
}
