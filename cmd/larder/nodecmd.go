package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

func newNodeCmd() *cobra.Command {
	return newGroup("node", "Look at nodes, remove them", newNodeListCmd(), newNodeShowCmd(), newNodeRemoveCmd())
}

func newNodeListCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list struct{ Nodes []directory.NodeView }
			a, err := c.fetch(cmd.Context(), "/v1/nodes", "", &list)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			return printNodes(cmd.OutOrStdout(), list.Nodes)
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
			a, err := c.fetch(cmd.Context(), "/v1/nodes/", id, &n)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			return printNodes(cmd.OutOrStdout(), []directory.NodeView{n})
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newNodeRemoveCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Forget a node that is stopped and hosts no replicas",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseNode(args[0])
			if err != nil {
				return err
			}
			r := request{method: http.MethodDelete, path: "/v1/nodes/", name: id, learn: `"larder node list" shows whether it is there`}
			if _, err := c.change(cmd.Context(), r, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "node %s is removed\n", oneLine(id))
			return nil
		},
	}
	c.connectionFlags(cmd.Flags())
	return cmd
}

func printNodes(w io.Writer, nodes []directory.NodeView) error {
	t := newTable(w, "NODE", "STATE", "LAST-SEEN", "HTTP", "RAFT", "ZONE", "CAPACITY", "REPLICAS", "LEADS")
	for _, n := range nodes {
		t.row(n.ID, n.State, lastSeen(n), n.HTTP, n.Raft, n.Zone, size(n.Capacity), n.Replicas, n.Leads)
	}
	return t.flush()
}

func lastSeen(n directory.NodeView) string {
	if n.LastSeen.IsZero() {
		return "never"
	}
	return n.LastSeen.UTC().Format(time.RFC3339)
}
