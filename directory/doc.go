// Package directory keeps the map of a Larder cluster: which range of slots is which shard, on which
// nodes, at which epoch. The map is a Table; it is the state of a Raft group of its own, shard 0,
// which package shard hosts like any other. From it, the package brings up the shards of its node
// and routes requests to their leaders.
//
// Obligations:
//
//   - Each change is a logged command with a precondition, decided when it is applied (R17). The
//     table's version grows by one with each change, and never otherwise.
//   - A published table gives the guarantees numbered at Table.Validate; above all, its ranges
//     partition the slots.
//   - Two different clusters are never founded by the same nodes, and a node that lost its data never
//     comes back under its old name (R14; the argument is at former).
//   - No read or write depends on the directory's group: every node keeps a copy of the table, and
//     goes on with it when the group has no quorum (R19). Who leads and who is up is soft state,
//     carried by pings; a wrong guess costs a refusal and a retry, never a wrong answer.
//   - A change of a shard's members is an operation in the table, taken step by step by the directory's
//     leader. Each step is recorded before it is made, and is made by the shard's leader upon the
//     configuration that it was planned from, or not at all (R18; Operation, and the table at next).
//   - A request whose outcome is unknown is never repeated (Router.Do).
//   - What a shard held is given up on an operator's word, or, where shards are in memory alone, once it is certain that nobody can ever lead it
//     again (mayLead, with the argument); then nothing of the former generation can be taken for the present one (RecoverShard, with what
//     a death leaves and what can be seen).
//   - A directory that is lost begins anew on an operator's word, in a lineage of versions above all before; no shard loses anything by it, and no replica
//     is destroyed for being unknown to it (RebuildDirectory, with what a death leaves and what a former directory that is alive can do).
//
// # Parts
//
// Table, Node, Shard and Settings are the state; Command and Machine change it; PlanInitial decides
// it the first time. Operation is a change in several steps, Operation.next decides the next one; Table.wanted decides
// which replicas come, move and go: off nodes that are drained or gone (relocations), for the sake of their number (missing), and for that of
// zones and loads (improvement); Table.nextLeaders decides which leaderships move. former
// is the core of founding a cluster; join is how a later node enters. Latest holds the newest table on a
// node; soft the beliefs. Service ties them to a shard.Host, Router performs requests.
//
// # Concurrency
//
// Tables are immutable once published; Latest, soft, Router and the exported methods of Service may
// be used from anywhere. Machine belongs to the goroutine that Raft applies on. A Service runs one
// loop; whatever could wait runs as a duty beside it, at most one of a name, so that a directory
// without a quorum holds up nothing else. Close waits for all of them.
//
// # Caveats
//
//   - A table may be read before later ones reach this node. Whoever acts on it is fenced: a shard
//     checks ownership when it applies, and a grant or limit applies only if newer.
//   - Of two directories that were rebuilt on nodes that did not hear each other the one with the lower versions is given up once they do, with what it changed.
//   - The first table needs all initial nodes to be up at once; nothing after it does.
//   - A node's address may change; its id and incarnation can't. Where neither the table (a copy of
//     which each node keeps), nor the node's own pings, nor the flags it was started with lead to it,
//     nobody can find it.
//   - An operation waits for as long as what it needs is not there (its detail says what), or until it is
//     cancelled; a step that can't be taken back goes on. One that the directory began is cancelled by it where its node is gone.
//   - The number of members is the setting's: one that an operator adds beyond it goes again, one that he removes comes again, there or elsewhere,
//     some seconds later. What he wants otherwise he gets with the setting balance off.
//   - Nothing moves for the sake of zones or loads while a node that has replicas is down, or any operation runs.
//   - A feature level is raised only while all nodes of the table are up (levels): one that is gone for
//     good must be removed first.
//   - A version stands for one value (R3), but for this: a shard that is recovered with what one replica has keeps the versions that that one had, also of
//     writes which were not committed there, and those who are lost may have given them to others. New versions for all that is not known to be committed
//     would be exact, and would undo what was acknowledged upon them by conditions; so they stay, on the operator's word (TestKeepState in package shard).
//   - Leaders are spread by number, and among equals by what they serve (nextLeaders); replicas by the bytes that they hold, and by number.
//   - Zones come before room: a small node that is alone in its zone gets a replica of each shard that would share a zone otherwise, and their limits
//     shrink to what it can give.
//
// # Why not the obvious alternative
//
// Leaders and health in the table would be simpler to read, and would make every failover a write to
// the directory: no quorum there, no failover anywhere. A directory in an outside store (etcd,
// ZooKeeper) would be a second system to run, with nothing that a group of our own lacks. A table
// spread by gossip alone can't order two changes, and ownership must be ordered.
package directory
