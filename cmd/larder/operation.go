package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

// States of an operation that are ends of it, or not.
const (
	operationRunning = "running"
	operationDone    = "done"
)

const operationsPath = "/v1/operations/"

func newOperationCmd() *cobra.Command {
	return newGroup("operation", "Look at operations, cancel them", newOperationListCmd(), newOperationShowCmd(), newOperationCancelCmd())
}

func newOperationListCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List operations, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list struct{ Operations []directory.OperationView }
			a, err := c.fetch(cmd.Context(), "/v1/operations", "", &list)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			return printOperations(cmd.OutOrStdout(), list.Operations)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newOperationShowCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "show NUMBER",
		Short: "Show one operation",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := parseOperation(args[0])
			if err != nil {
				return err
			}
			var o directory.OperationView
			a, err := c.fetch(cmd.Context(), operationsPath, n, &o)
			if err != nil {
				return err
			}
			return c.printOperation(cmd.OutOrStdout(), a, o)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func newOperationCancelCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "cancel NUMBER",
		Short: "Ask for the end of an operation, while it can be undone",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := parseOperation(args[0])
			if err != nil {
				return err
			}
			var o directory.OperationView
			r := request{method: http.MethodDelete, path: operationsPath, name: n, learn: fmt.Sprintf("\"larder operation show %s\" shows it", n)}
			a, err := c.change(cmd.Context(), r, &o)
			if err != nil {
				return err
			}
			return c.printOperation(cmd.OutOrStdout(), a, o)
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func parseOperation(text string) (string, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return "", usageError{fmt.Errorf("%q is not the number of an operation", text)}
	}
	return strconv.FormatUint(n, 10), nil
}

// printOperation prints o, which a is the answer of.
func (c *client) printOperation(w io.Writer, a answer, o directory.OperationView) error {
	if c.output == "json" {
		return printJSON(w, a.body)
	}
	return printOperations(w, []directory.OperationView{o})
}

func printOperations(w io.Writer, operations []directory.OperationView) error {
	t := newTable(w, "OPERATION", "KIND", "SHARD", "NODE", "STATE", "PHASE", "PROGRESS", "DETAIL")
	for _, o := range operations {
		detail := o.Error
		if detail == "" {
			detail = o.Detail
		}
		node := o.Node
		if o.From != "" {
			node += " for " + o.From
		}
		t.row(o.ID, o.Kind, o.Shard, node, o.State, o.Phase, progress(o), oneLine(detail))
	}
	return t.flush()
}
