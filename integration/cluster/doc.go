// Package cluster runs a cluster of real larder processes, and does to them what happens to processes, networks and disks.
//
// Up to five nodes form the cluster and two more may join it. Each has a folder with its log and its data. There are two
// kinds of networks, and two of disks:
//
//	Proxy   nodes listen on 127.0.0.11 and so on, and advertise a proxy (package proxy): works everywhere
//	Tap     each node and the clients have a network namespace, joined by a switch (package tap): needs root
//	Folder  data lies in a folder of the machine
//	Loop    data lies on a file system of the node's own, which can lose power and run full (package disk): needs root
//
// CanTap and CanLoop tell why there can be none of a kind. Open and Close are for any program; New, Start and the methods
// that take a test are thin and show the ends of the logs when it fails.
//
// # Obligations
//
// No process outlives its cluster: each is killed by the pid that was recorded when it was started, after a look at
// what runs under that pid, when the cluster is closed, when it lives longer than its limit, and by
// the kernel when the process that opened it dies. Namespaces go with that process too. Disks don't: they are recorded
// in a folder of this user (larder-clusters-UID, in the folder for temporary files) before they are made, and Clean, which Open calls where it makes disks,
// removes those of processes that are dead.
//
// # Concurrency
//
// A Cluster's methods may be called by any goroutine; a Node's life is changed by one at a time.
//
// # Caveats
//
// Linux only in practice: other systems don't route 127.0.0.11 without setup, and don't kill the
// nodes with their parent.
//
// Proxies do not stand between clients and nodes, so CutClient needs the switch: a proxy accepts connections for a node that
// is dead, so that a refusal, after which a write has certainly not happened, would become an answer that never came.
//
// A node of the kind Tap that is killed closes its connections, as the kernel does; one that loses power falls silent.
package cluster
