package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

func newRecoverCmd() *cobra.Command {
	var c client
	var unsafe, force, keep bool
	cmd := &cobra.Command{
		Use:   "recover ID",
		Short: "Begin a new life of a shard that has lost its quorum; what it held is lost",
		Long: `Begin a new life of a shard that has lost its quorum, on nodes that are up.

Without --unsafe nothing is done: it shows which replicas would be given up, and where the new ones
would be. With it the shard begins its next generation, and is empty: reads miss, writes go on, with
versions above all before. All that it held is lost, also what was acknowledged. The former replicas
are destroyed, those of nodes that are away as soon as these are back.

With --keep-data it begins with what one replica has, of those that are up the one with the newest
log, and gets others by and by. That may be stale: what was acknowledged and had not come to this
replica is lost, old values may be back, and what nobody was told of may have happened.

Nothing can tell replicas that are gone from those that are alive and out of reach. Where a majority
of them is alive and cut off, it goes on serving those who reach it until it hears of the recovery.
So make sure first that their nodes are stopped. While the cluster hears a majority of them it
refuses, unless --force is given too.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if force && !unsafe {
				return usageError{fmt.Errorf("--force goes with --unsafe")}
			}
			id, err := parseShard(args[0])
			if err != nil {
				return err
			}
			plan, a, err := c.recover(cmd, id, directory.Recovery{KeepData: keep})
			if err != nil {
				return err
			}
			if !unsafe {
				if c.output == "json" {
					return printJSON(cmd.OutOrStdout(), a.body)
				}
				return printRecovery(cmd.OutOrStdout(), plan)
			}
			if err := printRecovery(cmd.ErrOrStderr(), plan); err != nil {
				return err
			}
			done, a, err := c.recover(cmd, id, directory.Recovery{Unsafe: true, KeepData: keep, Force: force, Generation: plan.Generation})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), a.body)
			}
			with := "empty"
			if done.Kept != "" {
				with = "with what replica " + oneLine(done.Kept) + " has"
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "shard %s was recovered: generation %d begins, %s, on %s\n", id, done.Generation+1, with, oneLine(strings.Join(done.Nodes, ", ")))
			return nil
		},
	}
	c.adminFlags(cmd.Flags())
	cmd.Flags().BoolVar(&unsafe, "unsafe", false, "give up what the shard held; without it nothing is done but told")
	cmd.Flags().BoolVar(&keep, "keep-data", false, "begin with what one replica has, which may be stale")
	cmd.Flags().BoolVar(&force, "force", false, "also where the cluster hears a majority of its replicas")
	return cmd
}

// recover sends one request of recovery: for a plan, or for what the plan says.
func (c *client) recover(cmd *cobra.Command, id string, r directory.Recovery) (view directory.RecoveryView, a answer, err error) {
	wish := map[string]any{}
	if r.KeepData {
		wish["keep_data"] = true
	}
	if r.Unsafe {
		wish["unsafe"], wish["force"], wish["generation"] = true, r.Force, r.Generation
	}
	body, err := json.Marshal(wish)
	if err != nil {
		return view, a, err
	}
	a, err = c.change(cmd.Context(), request{
		method: http.MethodPost, path: "/v1/shards/" + id + "/recover", body: body,
		header: http.Header{"Content-Type": {"application/json"}},
		learn:  fmt.Sprintf("\"larder shard show %s\" shows the generation before the dash of CONF: %d is the former one", id, r.Generation),
	}, &view)
	return view, a, err
}

// printRecovery shows what a recovery does.
func printRecovery(w io.Writer, v directory.RecoveryView) error {
	t := newTable(w, "GIVEN-UP", "NODE", "STATE", "RUNS", "LAST")
	for _, m := range v.Former {
		t.row(m.Replica, m.Node, m.State, m.Runs, m.Last)
	}
	if err := t.flush(); err != nil {
		return err
	}
	what := "all that it holds is lost; the next one begins"
	if v.Kept != "" {
		what = "what replica " + oneLine(v.Kept) + " has is kept, all else is lost; the next one begins"
	}
	fmt.Fprintf(w, "generation %d of shard %d ends, %s on %s\n", v.Generation, v.Shard, what, oneLine(strings.Join(v.Nodes, ", ")))
	if v.Against != "" {
		fmt.Fprintf(w, "refused without --force: %s\n", oneLine(v.Against))
	}
	return nil
}
