package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

const (
	// maxStatusShards is how many shards fit on a screen; of more, status shows those with problems.
	maxStatusShards = 20
	// maxStatusLag is how many committed entries a replica may have yet to apply.
	maxStatusLag = 1000
)

// clusterStatus is what larder status tells, -o json as it is: parts of /v1/directory, /v1/nodes,
// /v1/shards (and /v1/shards/0 first), /v1/settings and the running ones of /v1/operations.
type clusterStatus struct {
	Server     string                    `json:"server"` // whose view of the cluster it is
	Cluster    string                    `json:"cluster"`
	Version    uint64                    `json:"version"`
	Problems   []finding                 `json:"problems"`
	Nodes      []directory.NodeView      `json:"nodes"`
	Shards     []directory.ShardDetail   `json:"shards"`
	Operations []directory.OperationView `json:"operations"`
	MemoryOnly bool                      `json:"memory_only"` // shards are in memory alone

	troubled map[string]bool // shards with problems
}

// finding is something that is not well.
type finding struct {
	What string `json:"what"`
	Next string `json:"next"` // what to do about it
}

func newStatusCmd() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell whether all is well, and what is not",
		Long: `Tell whether all is well, what is not, and what to do about it: what is wrong comes first. It is
the view of one node, which may be cut off from others that are well. The exit code is 0 when
all is well, 1 when something is not, and 5 when no node answers.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := fetchStatus(cmd.Context(), &c)
			if err != nil {
				return err
			}
			s.judge()
			if c.output == "json" {
				err = printValue(cmd.OutOrStdout(), s)
			} else {
				err = s.print(cmd.OutOrStdout())
			}
			if err == nil && len(s.Problems) > 0 {
				err = fmt.Errorf("not all is well: %s; %s", s.Problems[0].What, s.Problems[0].Next)
				if more := len(s.Problems) - 1; more > 0 {
					err = fmt.Errorf("%w (and %d more, see above)", err, more)
				}
			}
			return err
		},
	}
	c.adminFlags(cmd.Flags())
	return cmd
}

func fetchStatus(ctx context.Context, c *client) (*clusterStatus, error) {
	s := &clusterStatus{Problems: []finding{}, troubled: map[string]bool{}}
	var table directory.TableView
	var nodes struct{ Nodes []directory.NodeView }
	var own directory.ShardDetail
	var shards struct{ Shards []directory.ShardDetail }
	var operations struct{ Operations []directory.OperationView }
	var settings directory.SettingsView
	for _, part := range []struct {
		path  string
		value any
	}{{"/v1/directory", &table}, {"/v1/nodes", &nodes}, {"/v1/shards/0", &own}, {"/v1/shards", &shards}, {"/v1/operations", &operations}, {"/v1/settings", &settings}} {
		if _, err := c.fetch(ctx, part.path, "", part.value); err != nil {
			return nil, err
		}
	}
	s.Server, s.Cluster, s.Version = c.answered, table.Cluster, table.Version
	s.Nodes, s.MemoryOnly = nodes.Nodes, settings.MemoryOnly == "on"
	s.Shards = append([]directory.ShardDetail{own}, shards.Shards...)
	s.Operations = []directory.OperationView{}
	for _, o := range operations.Operations {
		if o.State == operationRunning {
			s.Operations = append(s.Operations, o)
		}
	}
	return s, nil
}

// judge finds what is not well: what keeps keys from being served first.
func (s *clusterStatus) judge() {
	var leaderless, down, other []finding
	up := map[string]bool{}
	for _, n := range s.Nodes {
		if up[n.ID] = n.State == directory.NodeUp; !up[n.ID] {
			f := finding{fmt.Sprintf("node %s is down, last seen %s", n.ID, lastSeen(n)), "start it again"}
			if n.Replicas == 0 {
				f.Next += fmt.Sprintf(", or forget it with \"larder node remove %s\" if it hosts nothing", n.ID)
			}
			down = append(down, f)
		}
	}
	for _, sh := range s.Shards {
		before := len(leaderless) + len(other)
		var voters, heard int
		var silent, stopped []string
		for _, m := range sh.Members {
			changing := slices.ContainsFunc(s.Operations, func(o directory.OperationView) bool { return o.Shard == sh.ID })
			switch {
			case m.Role == directory.RoleVoter:
				voters++
			case !changing:
				other = append(other, finding{fmt.Sprintf("shard %d: %s is a %s, and no operation is making it a voter", sh.ID, m.Node, m.Role),
					fmt.Sprintf("\"larder member remove %d %s\", then add it again", sh.ID, m.Node)})
			}
			if m.Diverged {
				other = append(other, finding{fmt.Sprintf("shard %d: the replica on %s serves nothing: its state differs from that of others or may, or its data is lost", sh.ID, m.Node),
					"\"larder check replicas\" compares states, and that node's /readyz says which it is; it is replaced by itself where the others have a quorum (\"larder operation list\")"})
			}
			switch {
			case !up[m.Node]:
				silent = append(silent, m.Node)
			case m.Role != directory.RoleVoter:
			case m.Diverged:
				stopped = append(stopped, m.Node)
			default:
				heard++
			}
		}
		switch {
		case sh.Leader == "" && heard < voters/2+1:
			f := finding{fmt.Sprintf("shard %d has no leader: %d of its %d voters serve, %d are needed", sh.ID, heard, voters, voters/2+1),
				"start again " + strings.Join(silent, " or ")}
			if len(silent) == 0 {
				f.Next = "no election can help, and nothing that is left may be thrown away: /readyz and the log of " +
					strings.Join(stopped, " and ") + " say what became of the data there"
			}
			if sh.ID == shard.Directory {
				f.Next += "; where that is gone for good, \"larder directory rebuild\" says what would be given up"
			} else {
				f.Next += fmt.Sprintf("; where that is gone for good, \"larder shard recover %d\" says what would be given up", sh.ID)
			}
			leaderless = append(leaderless, f)
		case sh.Leader == "":
			leaderless = append(leaderless, finding{fmt.Sprintf("shard %d has no leader", sh.ID), "an election takes a second: look again, then at the logs of " + members(sh)})
		case sh.Commit > sh.Applied && sh.Commit-sh.Applied > maxStatusLag:
			other = append(other, finding{fmt.Sprintf("shard %d: the replica on %s is %d entries behind", sh.ID, sh.Source, sh.Commit-sh.Applied), "look again; if it grows, that node is too slow"})
		}
		if sh.Unsettled {
			other = append(other, finding{fmt.Sprintf("shard %d: its members are not known for certain since the directory was rebuilt", sh.ID), "its leader tells them by itself, once it has one"})
		}
		if len(leaderless)+len(other) > before || len(silent) > 0 {
			s.troubled[fmt.Sprint(sh.ID)] = true
		}
	}
	most := 0
	for _, sh := range s.Shards {
		most = max(most, voters(sh))
	}
	for _, sh := range s.Shards {
		n := voters(sh)
		next := fmt.Sprintf("\"larder member add %d NODE\" adds one", sh.ID)
		switch {
		case n == 2:
			other = append(other, finding{fmt.Sprintf("shard %d has 2 voters: it stops while either is down", sh.ID), next})
		case n < most:
			other = append(other, finding{fmt.Sprintf("shard %d has %d of the %d voters that others have", sh.ID, n, most), next})
		}
	}
	for _, o := range s.Operations {
		if o.Detail != "" {
			other = append(other, finding{fmt.Sprintf("operation %d (%s %d %s) waits: %s", o.ID, o.Kind, o.Shard, o.Node, o.Detail),
				fmt.Sprintf("it goes on by itself when that passes; \"larder operation cancel %d\" takes it back", o.ID)})
		}
	}
	s.Problems = append(append(append(s.Problems, leaderless...), down...), other...)
}

// voters counts those of a shard.
func voters(sh directory.ShardDetail) int {
	n := 0
	for _, m := range sh.Members {
		if m.Role == directory.RoleVoter {
			n++
		}
	}
	return n
}

func (s *clusterStatus) print(w io.Writer) error {
	if len(s.Problems) == 0 {
		fmt.Fprintln(w, "All is well.")
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "! %s: %s\n", oneLine(p.What), oneLine(p.Next))
	}
	fmt.Fprintf(w, "\nCluster %s, table version %d, as %s sees it.\n", oneLine(s.Cluster), s.Version, s.Server)
	if s.MemoryOnly {
		fmt.Fprintln(w, "Shards are in memory alone: one of which a majority of nodes stops at the same time is empty afterwards.")
	}
	fmt.Fprintln(w)
	nodes := newTable(w, "NODE", "STATE", "LAST-SEEN", "HTTP", "REPLICAS", "LEADS")
	for _, n := range s.Nodes {
		nodes.row(n.ID, n.State, lastSeen(n), n.HTTP, n.Replicas, n.Leads)
	}
	if err := nodes.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	var items, bytes, room uint64
	hidden := 0
	shards := newTable(w, "SHARD", "SLOTS", "LEADER", "MEMBERS", "ITEMS", "BYTES", "LIMIT")
	for _, sh := range s.Shards {
		items, bytes, room = items+sh.Items, bytes+sh.Bytes, room+sh.Limit
		if len(s.Shards) > maxStatusShards && !s.troubled[fmt.Sprint(sh.ID)] {
			hidden++
			continue
		}
		shards.row(sh.ID, slots(sh), sh.Leader, members(sh), sh.Items, size(sh.Bytes), limit(sh))
	}
	shards.row("all", "", "", "", items, size(bytes), size(room))
	if err := shards.flush(); err != nil {
		return err
	}
	if hidden > 0 {
		fmt.Fprintf(w, "%d more are well: \"larder shard list\".\n", hidden)
	}
	if len(s.Operations) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return printOperations(w, s.Operations)
}
