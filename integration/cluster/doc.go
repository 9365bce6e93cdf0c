// Package cluster runs a cluster of real larder processes on loopback, and does to them what happens to processes.
//
// Nodes a, b and c form the cluster and listen on 127.0.0.11, .12 and .13; d and e may join it and listen on .14 and .15. What they advertise to each other is a proxy (package proxy), so
// links have a delay and can be cut. Each writes its log to a file; the end of it is shown when a test fails.
//
// # Obligations
//
// No process outlives its test: each is killed by the pid that was recorded when it was started, after a look at
// what runs under that pid, when the test ends, when it takes longer than its limit, and by
// the kernel when the test process itself dies.
//
// # Concurrency
//
// A Cluster's methods may be called by any goroutine; a Node's life is changed by one at a time.
//
// # Caveats
//
// Linux only in practice: other systems don't route 127.0.0.11 without setup, and don't kill the
// nodes with their parent.
package cluster
