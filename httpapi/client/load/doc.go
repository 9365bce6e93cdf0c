// Package load sends requests to whatever keeps values under keys, and measures how it answers: it is what
// "larder bench" runs, and what the benchmarks that compare Larder with others run against each of them.
//
//	target, err := load.Open(load.HTTP{Servers: []string{"127.0.0.1:7070"}})
//	...
//	defer target.Close()
//	result, err := load.Run(ctx, load.Config{Clients: 16, Reads: 95, Keys: 100_000, Duration: 10 * time.Second}, target.Dial)
//
// # Obligations
//
// In an open loop requests are due at even distances, whatever becomes of those before them, and a latency
// counts from when its request was due. A server that stalls then shows in each request that would have
// come meanwhile, not only in the few that the clients had on their way ("coordinated omission"). What was
// due and could not be sent before the end is counted (Result.Unsent), and enters the latencies with the time
// that it had waited by then, which is less than the truth.
//
// In a closed loop each client sends its next request when it has the answer to the one before. That tells how much
// a server can do at a number of connections; its latencies are those of clients who wait for each other.
//
// No request is sent twice. What failed is told apart by what a caller must know: refused, certainly not
// applied; or unknown, and maybe applied. Failures enter the latencies as well, for somebody waited for each.
//
// Where a request carries many operations (Config.Batch), rates and what failed are counted in operations, due times and latencies
// are of requests. A batch goes to the leader of its first key's shard, as one of the Go client does: with keys of many shards
// most of it is forwarded.
//
// # Concurrency
//
// Run has a goroutine per client, which owns its connection, and waits for all of them. A Target may be used by
// many runs, one after the other or at once.
//
// # Caveats
//
// A program that measures takes processor time from servers on the same machine, and so what it finds is what
// both together can do. Connections here are raw HTTP/1.1 for that reason (see http.go).
//
// On Linux a request goes out about 60 µs after it is due, on other systems up to a millisecond; it
// is part of the latency in an open loop.
//
// # Why not the obvious
//
// httpapi/client and net/http take more than twice the processor time of a raw connection (BenchmarkGet shows it, servers
// included), which two cores shared with the servers don't have to spare, and send some requests again by themselves.
// fasthttp's HostClient is as lean, but would bring compressors into the one binary, and needs its own
// connections counted all the same to tell whether a byte of a request went out.
package load
