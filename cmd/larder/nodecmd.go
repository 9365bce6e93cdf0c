package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

func newNodeCmd() *cobra.Command {
	return newGroup("node", "Look at nodes, drain them, remove them",
		newNodeListCmd(), newNodeShowCmd(), newNodeDrainCmd(), newNodeUndrainCmd(), newNodeRemoveCmd())
}

func newNodeListCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the nodes",
		Long: `List the nodes, and what the directory is to change next of the members of shards, with why, and with what that waits for. What it
has begun is in "larder operation list".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list struct {
				Nodes   []directory.NodeView
				Planned []directory.PlannedView
			}
			a, err := c.fetch(cmd.Context(), "/v1/nodes", "", &list)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			return printNodes(cmd.OutOrStdout(), list.Nodes, list.Planned)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newNodeShowCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseNode(args[0])
			if err != nil {
				return err
			}
			var n directory.NodeView
			a, err := c.fetch(cmd.Context(), nodesPath, id, &n)
			if err != nil {
				return err
			}
			return c.printNode(cmd.OutOrStdout(), a, n)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newNodeDrainCmd() *cobra.Command {
	var c client
	var noWait bool
	cmd := &cobra.Command{
		Use:   "drain ID",
		Short: "Move all replicas off a node, and none onto it",
		Long: `Move all replicas off a node, and none onto it, until "larder node undrain".

Others lead what it leads, then each of its replicas is replaced by one on another node, a few at a time. It waits until the
node has none, however long that takes, and tells of the progress on standard error; ^C ends the waiting, not the draining.
The exit code is 6 when the end is not known.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseNode(args[0])
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			a, n, err := c.drain(ctx, id, "drain")
			if err == nil && !noWait {
				a, n, err = c.drained(ctx, a, n, cmd.ErrOrStderr())
			}
			if err != nil {
				return err
			}
			return c.printNode(cmd.OutOrStdout(), a, n)
		},
	}
	c.adminFlags(cmd.Flags())
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "print the node and return")
	return cmd
}

func newNodeUndrainCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "undrain ID",
		Short: "Let replicas come to a drained node again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseNode(args[0])
			if err != nil {
				return err
			}
			a, n, err := c.drain(cmd.Context(), id, "undrain")
			if err != nil {
				return err
			}
			return c.printNode(cmd.OutOrStdout(), a, n)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newNodeRemoveCmd() *cobra.Command {
	var c client
	var force bool
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Forget a node that is stopped and hosts no replicas",
		Long: `Forget a node that is stopped and hosts no replicas. Its data folder can't come back.

With --force it is drained first: each of its replicas is replaced by one on another node, without waiting until the directory
takes it for gone (the setting repair-after). It waits for that, as "larder node drain" does.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseNode(args[0])
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			if force {
				var n directory.NodeView
				if _, err := c.fetch(ctx, nodesPath, id, &n); err != nil {
					return err
				}
				if n.State == directory.NodeUp {
					return fmt.Errorf("node %s is up: stop it first, or drain it", oneLine(id))
				}
				a, n, err := c.drain(ctx, id, "drain")
				if err == nil {
					_, _, err = c.drained(ctx, a, n, cmd.ErrOrStderr())
				}
				if err != nil {
					return err
				}
			}
			r := request{method: http.MethodDelete, path: nodesPath, name: id, learn: `"larder node list" shows whether it is there`}
			if _, err := c.change(ctx, r, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "node %s is removed\n", oneLine(id))
			return nil
		},
	}
	c.connectionFlags(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "move its replicas to other nodes first")
	return cmd
}

const nodesPath = "/v1/nodes/"

// drain begins or ends the draining of a node, as what says.
func (c *client) drain(ctx context.Context, id, what string) (a answer, n directory.NodeView, err error) {
	r := request{method: http.MethodPost, path: nodesPath, name: id, suffix: "/" + what, learn: `"larder node list" shows whether it is drained`}
	a, err = c.change(ctx, r, &n)
	return a, n, err
}

// drained returns a node that is drained once it hosts no replica, and the answer that told of it. The first ones are those of
// the change. Single failures mean little, as any node can tell.
func (c *client) drained(ctx context.Context, a answer, n directory.NodeView, stderr io.Writer) (answer, directory.NodeView, error) {
	id := n.ID
	line := newProgressLine(stderr)
	defer line.end()
	news, pause := time.Now(), 50*time.Millisecond
	for {
		line.show(describeDrain(n))
		switch {
		case n.Replicas == 0 && !n.Directory:
			return a, n, nil
		case !n.Draining:
			return a, n, fmt.Errorf("node %s is not drained any more", oneLine(id))
		}
		select {
		case <-ctx.Done():
			return a, n, exitError{exitUnknown, fmt.Errorf("stopped waiting; the draining goes on: \"larder node show %s\" tells how, \"larder node undrain %s\" ends it", oneLine(id), oneLine(id))}
		case <-time.After(pause):
		}
		pause = min(pause*3/2, time.Second)
		var next directory.NodeView
		got, err := c.fetch(ctx, nodesPath, id, &next)
		switch {
		case err == nil:
			a, n, news = got, next, time.Now()
		case ctx.Err() != nil:
		case time.Since(news) > patience:
			return a, n, exitError{exitUnknown, fmt.Errorf("no news of node %s for %s: %w; the draining may go on", oneLine(id), patience, err)}
		}
	}
}

// describeDrain is how far the draining of a node is, in a line.
func describeDrain(n directory.NodeView) string {
	left := fmt.Sprintf("%d replicas", n.Replicas)
	if n.Directory {
		left += " and one of the directory"
	}
	text := fmt.Sprintf("node %s has %s", n.ID, left)
	if len(n.Waits) > 0 {
		text += "; " + n.Waits[0]
	}
	return text
}

// printNode prints n, which a is the answer of.
func (c *client) printNode(w io.Writer, a answer, n directory.NodeView) error {
	if c.output == "json" {
		return printJSON(w, a.body)
	}
	if err := printNodes(w, []directory.NodeView{n}, nil); err != nil {
		return err
	}
	for _, why := range n.Waits {
		if _, err := fmt.Fprintf(w, "%s: a replica that is to leave waits, %s\n", oneLine(n.ID), oneLine(why)); err != nil {
			return err
		}
	}
	return nil
}

func printNodes(w io.Writer, nodes []directory.NodeView, planned []directory.PlannedView) error {
	t := newTable(w, "NODE", "STATE", "LAST-SEEN", "HTTP", "RAFT", "ZONE", "CAPACITY", "REPLICAS", "LEADS", "RATE")
	for _, n := range nodes {
		state := n.State
		if n.Draining {
			state += ", drained"
		}
		t.row(n.ID, state, lastSeen(n), n.HTTP, n.Raft, n.Zone, size(n.Capacity), n.Replicas, n.Leads, fmt.Sprintf("%d/s", n.Rate))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, p := range planned {
		what := "a replica is to come"
		if p.Leader {
			what = "the leadership of " + p.From + " is to go"
		} else if p.From != "" {
			what = "the replica on " + p.From + " is to go"
		}
		if p.To != "" {
			what += " to " + p.To
		}
		what += ": " + p.Reason
		if p.Waits != "" {
			what += "; it waits: " + p.Waits
		}
		if _, err := fmt.Fprintf(w, "shard %d: %s\n", p.Shard, oneLine(what)); err != nil {
			return err
		}
	}
	return nil
}

func lastSeen(n directory.NodeView) string {
	if n.LastSeen.IsZero() {
		return "never"
	}
	return n.LastSeen.UTC().Format(time.RFC3339)
}
