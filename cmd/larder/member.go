package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

func newMemberCmd() *cobra.Command {
	return newGroup("member", "Look at the members of shards, add and remove them",
		newMemberListCmd(),
		newMemberChangeCmd("add", http.MethodPut, "Add a member to a shard: it learns all there is, then votes"),
		newMemberChangeCmd("remove", http.MethodDelete, "Remove a member from a shard; a leader hands over first"))
}

func newMemberListCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "list SHARD",
		Short: "List the members of a shard, as its leader has them",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseShard(args[0])
			if err != nil {
				return err
			}
			var v directory.MembersView
			a, err := c.fetch(cmd.Context(), membersPath(id), "", &v)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			t := newTable(cmd.OutOrStdout(), "NODE", "REPLICA", "ROLE", "STATE", "LEADS", "MATCH", "LAST", "CONF")
			for _, m := range v.Members {
				leads := "no"
				if m.Node == v.Leader {
					leads = "yes"
				}
				state := m.State
				if m.Diverged {
					state += ", diverged"
				}
				t.row(m.Node, m.Replica, m.Role, state, leads, m.Match, m.Last, v.Conf)
			}
			return t.flush()
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func membersPath(shard string) string { return "/v1/shards/" + shard + "/members" }

// confPattern is a conf version, perhaps with the quotes of its ETag.
var confPattern = regexp.MustCompile(`^("\d+-\d+"|\d+-\d+)$`)

func newMemberChangeCmd(name, method, short string) *cobra.Command {
	var c client
	var match string
	var force, noWait bool
	cmd := &cobra.Command{
		Use:   name + " SHARD NODE",
		Short: short,
		Long: short + `.

It is done for the members that the shard has now, or for those of --if-match, and refused if they
have changed meanwhile. It waits until the change is done, however long that takes, and tells of the
progress on standard error; ^C ends the waiting, not the change. The exit code is 1 when the change
failed or was cancelled, and 6 when its end is not known.

While the setting balance is on, the number of members is the setting replicas': one more goes again some seconds later, one less
comes again. "larder settings balance=off" leaves members to you.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseShard(args[0])
			if err != nil {
				return err
			}
			node, err := parseNode(args[1])
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			r := request{
				method: method, path: membersPath(id) + "/", name: node, header: http.Header{}, query: url.Values{},
				learn: fmt.Sprintf("\"larder operation list\" and \"larder member list %s\" show whether it did", id),
			}
			switch {
			case force:
				r.query.Set("force", "true")
			case cmd.Flags().Changed("if-match"):
				if !confPattern.MatchString(match) {
					return usageError{fmt.Errorf("--if-match %q is not a conf version, such as 1-7", match)}
				}
				r.header.Set("If-Match", `"`+strings.Trim(match, `"`)+`"`)
			default:
				var v directory.MembersView
				a, err := c.fetch(ctx, membersPath(id), "", &v)
				if err != nil {
					return err
				}
				if !confPattern.MatchString(v.Conf) {
					return strange(a, false)
				}
				r.header.Set("If-Match", `"`+v.Conf+`"`)
			}
			var o directory.OperationView
			a, err := c.change(ctx, r, &o)
			if err != nil {
				return err
			}
			if noWait {
				return c.printOperation(cmd.OutOrStdout(), a, o)
			}
			f := follower{client: &c, patience: patience}
			if a, o, err = f.follow(ctx, a, o, cmd.ErrOrStderr()); err != nil {
				return err
			}
			if err := c.printOperation(cmd.OutOrStdout(), a, o); err != nil {
				return err
			}
			if o.State != operationDone {
				return endOf(o)
			}
			return nil
		},
	}
	c.adminFlags(cmd.Flags())
	cmd.Flags().StringVar(&match, "if-match", "", "only if the shard's conf version is this one, such as 1-7 (default: the present one)")
	cmd.Flags().BoolVar(&force, "force", false, "whatever the shard's members are by then")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "print the operation and return")
	cmd.MarkFlagsMutuallyExclusive("if-match", "force")
	return cmd
}

// endOf is the error for an operation that is over, but not done.
func endOf(o directory.OperationView) error {
	end := o.State
	if end == "cancelled" {
		end = "was cancelled"
	}
	if o.Error != "" {
		end += ": " + oneLine(o.Error)
	}
	return fmt.Errorf("operation %d %s", o.ID, end)
}

// patience is how long a follower goes without any news of its operation.
const patience = time.Minute

// follower polls an operation until it is over.
type follower struct {
	client   *client
	patience time.Duration
}

// follow returns the operation at its end, and the answer that told of it. The first ones are those
// of the change. Any node can tell, so single failures mean little: also a 404, of one that has not
// heard of the operation yet.
func (f follower) follow(ctx context.Context, a answer, o directory.OperationView, stderr io.Writer) (answer, directory.OperationView, error) {
	number := strconv.FormatUint(o.ID, 10)
	line := newProgressLine(stderr)
	defer line.end()
	news := time.Now()
	pause := 50 * time.Millisecond
	line.show(describe(o))
	for {
		if o.State != operationRunning {
			return a, o, nil
		}
		select {
		case <-ctx.Done():
			return a, o, exitError{exitUnknown, fmt.Errorf("stopped waiting; operation %s goes on: \"larder operation show %s\" tells how, \"larder operation cancel %s\" ends it", number, number, number)}
		case <-time.After(pause):
		}
		pause = min(pause*3/2, time.Second)
		var next directory.OperationView
		got, err := f.client.fetch(ctx, operationsPath, number, &next)
		switch {
		case err == nil:
			a, o, news = got, next, time.Now()
			line.show(describe(o))
		case ctx.Err() != nil:
		case time.Since(news) > f.patience:
			return a, o, exitError{exitUnknown, fmt.Errorf("no news of operation %s for %s: %w; it may go on, ask later with \"larder operation show %s\"", number, f.patience, err, number)}
		default:
			line.show(fmt.Sprintf("operation %s: no news, asking again", number))
		}
	}
}
