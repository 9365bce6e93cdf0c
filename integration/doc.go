// Package integration runs real larder processes, hurts them, and checks what they answered.
//
// It proves from outside, over the command line and REST alone, that no acknowledged write is lost,
// that no answer is stale, and that replicas stay equal while nodes are killed, frozen and cut off, join,
// and become members of shards and leave them.
// It imports none of the server's packages: an oracle that shares code with its subject agrees with
// its subject's bugs (goclient alone has the Go client for its subject). It is a module of its own so that its tools stay out of the server. The benchmarks lie
// in it for the same reason, and do import what they measure.
//
//	cluster   builds the binary, starts and stops the processes
//	proxy     delays and cuts the links between them
//	tap       namespaces and a switch: also loses, repeats and reorders packets
//	disk      power loss, full and slow disks, damaged and lost files of either log store
//	port      finds ports that stay free over a restart
//	client    one REST request is one operation of a history
//	workload  many clients at once, in a shape that a checker can decide
//	history   what was asked and answered, and when; which answers mean what
//	model     what one key may do
//	check     linearizability, the certificate, durability, the age of reads that may be old
//	nemesis   faults, a plan of them from a seed, and how each is known to have had an effect
//	report    a folder to read of a recorded run
//	cmd/jepsen  all of it: make jepsen
//	goclient  what users of the Go client notice of a planned restart
//	bench     what it costs and how fast it is, the state machine beside other caches, failovers, hit ratios of traces; see make bench,
//	          bench-idle, bench-failover, bench-log, bench-fsm and bench-hitratio
//
// # Obligations
//
// A run that proves nothing must not pass: too few operations, too many undecided keys, an answer
// outside the documented table, a node that reached another one around the proxies, each fail it.
// The checkers are tested with forged histories, and the whole harness with a build whose reads
// are known to be wrong (build tag faults).
//
// # Concurrency
//
// The tests start processes and measure time, so they run one after the other.
//
// # Caveats
//
// Without root, nodes listen on 127.0.0.11 to 127.0.0.17, which only Linux routes without setup, and faults of the network
// are made by TCP proxies: bytes are late, held back for ever or never come, but packets are not lost,
// reordered or duplicated.
//
// Knobs: LARDER_ROUNDS is the number of rounds per fault, LARDER_KEEP=1 keeps the nodes' folders,
// LARDER_TEST_CATCHUP is the size in MiB of the shard that TestCatchUp gives a new member (make catchup).
//
// # Why two kinds of networks
//
// Namespaces and a switch come close to real networks and need root; proxies work for everybody who can run go test.
package integration
