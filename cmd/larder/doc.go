// Command larder is Larder's one binary: the server, a whole cluster to try, and the commands that
// talk to a cluster.
//
// It parses flags, wires packages together and starts and stops them; it decides nothing itself.
// Data goes to standard output and everything else to standard error; the exit codes are listed by
// "larder --help" and are a contract with scripts.
//
// # Concurrency
//
// A client command sends one request at a time and waits. A server owns the goroutines of its node, and stops
// them in order (see node).
//
// # Caveats
//
// A change, and a request for a key, is never sent twice, nor to a second server once the first may have
// got it; only reads of the cluster's state go from server to server. A write whose outcome is unknown is reported as such (exit code 6), for the caller to resolve by
// a read. It uses no proxy from the environment, since proxies tidy up paths, and a path is a key.
//
// Settings come from flags, LARDER_ variables and the file that --config names, in this order. What is
// no setting of any command is an error rather than ignored; the names that Kubernetes makes up for a service called larder are let through.
package main
