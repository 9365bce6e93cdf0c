package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func runCommand() *cobra.Command { return newRunCommand(&options{}) }

// newRunCommand returns the command that fills o from its flags.
func newRunCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use: "run", Short: "Run a cluster under fire and check what it answered", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("seed") {
				o.seed = uint64(rand.Uint32())
			}
			if err := o.validate(); err != nil {
				return err
			}
			o.say, o.given = c.OutOrStdout(), given(c)
			verdict, dir, err := perform(c.Context(), *o)
			if err != nil {
				return err
			}
			fmt.Fprintf(o.say, "%s: %s\n", verdict, dir)
			return asError(verdict)
		},
	}
	f := c.Flags()
	f.StringVar(&o.workload, "workload", "register", "what the clients do (see jepsen list)")
	f.StringSliceVar(&o.nemesis, "nemesis", nil, "faults and classes of faults, or none; default: a random half of all that are possible here")
	f.StringVar(&o.mode, "mode", "", "strict: there is room for all, what vanishes is lost; tight: there is not (default strict, tight for evict)")
	f.StringVar(&o.net, "net", "auto", "tap: namespaces and a switch of our own, needs root; proxy: loopback; auto: tap where it can be")
	f.StringVar(&o.disk, "disk", "auto", "loop: a file system of its own for each node, which can lose power, needs root; folder; auto: loop where it can be")
	f.DurationVar(&o.time, "time", time.Minute, "how long faults are done; what begins in time is finished")
	f.IntVar(&o.rounds, "rounds", 0, "rounds of faults, however long they take; 0: as many as the time allows")
	f.Uint64Var(&o.seed, "seed", 0, "of the plan and the load (default random)")
	f.IntVar(&o.rate, "rate", 400, "operations a second that the clients aim at, all together")
	f.IntVar(&o.clients, "clients", 10, "clients: about two in three stay with a node, the others roam")
	f.Float64Var(&o.least, "least", 30, "successes a second below which a run proves nothing")
	f.IntVar(&o.nodes, "nodes", 0, "nodes, 3 to 5 (default drawn)")
	f.IntVar(&o.replicas, "replicas", 0, "members of each shard (default drawn)")
	f.IntVar(&o.shards, "shards", 0, "shards (default drawn, 1 to 8)")
	f.DurationVar(&o.delay, "delay", 0, "delay of each link, one way (default drawn, 1ms to 5ms)")
	f.StringVar(&o.bug, "bug", "", "seeded bug that the nodes are to have, to see it found")
	f.StringVar(&o.logStore, "log-store", autoMode, "where nodes keep the logs of their shards: bolt, shared, or mixed, drawn for each start of each; auto: drawn")
	f.BoolVar(&o.memoryOnly, "memory-only", false, "nodes that keep shards in memory alone; implies --mode tight")
	f.StringVar(&o.readMode, "read-mode", autoMode, "how the nodes' leaders confirm reads: probe or lease; auto: drawn")
	f.StringVar(&o.binary, "binary", "", "larder binary to run (default: built from this source)")
	f.StringVar(&o.out, "out", "out", "folder in which the run's folder is made")
	f.BoolVar(&o.keep, "keep", false, "keep the nodes' data; that of a run which is not valid is kept anyway")
	return c
}

// planFlags decide what is done beyond what history.Meta tells of every run.
var planFlags = []string{"nemesis", "rounds", "rate", "clients", "least", "nodes", "replicas", "shards", "delay", "memory-only", "read-mode", "log-store"}

// given returns those that were given, as history.Meta has them.
func given(c *cobra.Command) []string {
	all := []string{}
	for _, name := range planFlags {
		if f := c.Flags().Lookup(name); f.Changed {
			all = append(all, "--"+name+"="+strings.Trim(f.Value.String(), "[]"))
		}
	}
	return all
}
