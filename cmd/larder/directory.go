package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

func newDirectoryCmd() *cobra.Command {
	return newGroup("directory", "Rebuild the directory where it is lost", newRebuildCmd())
}

func newRebuildCmd() *cobra.Command {
	var c client
	var unsafe, force bool
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Begin the directory anew where it has lost its quorum for good",
		Long: `Begin the directory anew where it has lost its quorum for good: on the node that --server
names, from the newest table that any node has which answers, and from what replicas hold.

Without --unsafe nothing is done: it shows who answers, with which table, which shards have a
leader, and which operations would fail. With it the node begins a new directory, whose only member it is
at first; others follow by themselves. Shards serve all the time, and lose nothing. What the
former directory changed and nobody who answers has heard of is forgotten. Former members
destroy their replicas of it, those that are away as soon as these are back.

Nothing can tell members that are gone from those that are alive and out of reach. Where a majority of
them is alive and cut off, it goes on changing what is given up later. So make sure first that
their nodes are stopped, and that this node is not the one that is cut off. While it hears a
majority of them, or a leader, it refuses, unless --force is given too.

A shard whose leader does not answer keeps its members as they are until it has told them, and is
not changed before. Where it has lost its quorum too: larder shard recover.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if force && !unsafe {
				return usageError{fmt.Errorf("--force goes with --unsafe")}
			}
			plan, a, err := c.rebuild(cmd, directory.Rebuild{})
			if err != nil {
				return err
			}
			if !unsafe {
				if c.output == "json" {
					return printJSON(cmd.OutOrStdout(), a.body)
				}
				return printRebuild(cmd.OutOrStdout(), plan)
			}
			if err := printRebuild(cmd.ErrOrStderr(), plan); err != nil {
				return err
			}
			c.servers = a.server // the plan is for that node
			done, a, err := c.rebuild(cmd, directory.Rebuild{Unsafe: true, Force: force, Version: plan.Version})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "the directory was rebuilt: it begins on %s with version %d\n", oneLine(done.Node), done.Became)
			return nil
		},
	}
	c.adminFlags(cmd.Flags())
	cmd.Flags().BoolVar(&unsafe, "unsafe", false, "give up the former directory; without it nothing is done but told")
	cmd.Flags().BoolVar(&force, "force", false, "also where a majority of its members is heard")
	return cmd
}

// rebuild sends one request to rebuild the directory: for a plan, or for what the plan says.
func (c *client) rebuild(cmd *cobra.Command, r directory.Rebuild) (view directory.RebuildView, a answer, err error) {
	body := []byte("{}")
	if r.Unsafe {
		if body, err = json.Marshal(map[string]any{"unsafe": true, "force": r.Force, "version": r.Version}); err != nil {
			return view, a, err
		}
	}
	a, err = c.change(cmd.Context(), request{
		method: http.MethodPost, path: "/v1/directory/rebuild", body: body,
		header: http.Header{"Content-Type": {"application/json"}},
		learn:  fmt.Sprintf("\"larder directory rebuild\" shows the newest version that is known: %d is the former one", r.Version),
	}, &view)
	return view, a, err
}

// printRebuild shows what a rebuilding of the directory does.
func printRebuild(w io.Writer, v directory.RebuildView) error {
	t := newTable(w, "NODE", "ANSWERS", "VERSION", "DIRECTORY", "RUNS")
	answer := 0
	for _, n := range v.Nodes {
		if n.Answers {
			answer++
		}
		t.row(n.Node, n.Answers, n.Version, n.Directory, n.Runs)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "SHARD", "GENERATION", "LEADER", "RUNNING")
	for _, sh := range v.Shards {
		t.row(sh.ID, sh.Generation, sh.Leader, sh.Running)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d of %d nodes answer; the directory begins anew on %s, from version %d of its table\n", answer, len(v.Nodes), oneLine(v.Node), v.Version)
	for _, o := range v.Operations {
		fmt.Fprintf(w, "operation %d fails\n", o)
	}
	if v.Against != "" {
		fmt.Fprintf(w, "refused without --force: %s\n", oneLine(v.Against))
	}
	return nil
}
