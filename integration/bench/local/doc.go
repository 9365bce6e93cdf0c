// Package local runs servers as processes of this machine, for benchmarks: with nothing between them and their clients, so
// that what is measured is theirs. Package cluster, which hurts what it runs, has proxies there.
//
// Main runs a benchmark, in a Site. StartLarder starts nodes (Start any other server), Ready waits until they serve and Larder.Spread
// until they lead alike; CPU, RSS and Connections tell what they take.
//
// # Obligations
//
// A process is ended by the pid that was recorded when it was started, when it is closed, or by the kernel when the
// program that started it dies. A site leaves nothing behind once it is closed.
//
// # Concurrency
//
// A Process may be asked by any goroutine, and is stopped by one.
//
// # Caveats
//
// What a process takes is read from /proc: Linux only.
package local
