// Package nemesis plans what is done to a cluster, and does it.
//
// A Plan follows from a seed and Options alone: knobs of the cluster, a random half of the faults (a swarm), and
// rounds of one fault or of two of different classes. It says by role who is hurt ("the leader of shard 2, else
// the first of c, a, b"), since who leads is known only then. Faults are the rows of one table (Faults): a new one
// is a row with a name, what it needs, how it is done and undone, and how it is known to have had an effect.
// A Nemesis does steps of a plan to a System and returns what came of each, for the history of the run.
//
// # Obligations
//
// Whoever is hurt is mended: when Do returns, the step's cuts, pauses, clocks, disks, processes and members are
// as they were, or its Fault says in Err what is not. A fault without evidence of an effect has none, whatever was
// done. No round of a plan lets more disks lose what they acknowledged than a shard survives, and while one is
// broken no member leaves a shard. A guest, a node that a fault has join so that there is one to move replicas to, has left.
//
// # Concurrency
//
// NewPlan is a pure function. Do may be called for two steps at a time; cuts of several are joined, and each undo
// takes back its own. What a fault goes on doing runs in a goroutine that is waited for before its undo.
//
// # Caveats
//
// A System of proxies can't lose or reorder packets, and folders can't lose power: what a fault needs and is not
// there keeps it out of the plan (Options.Have).
//
// # Why not one type per fault
//
// Thirty faults share a dozen verbs. A table shows which combinations are missing; thirty types hide it.
package nemesis
