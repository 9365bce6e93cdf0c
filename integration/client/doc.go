// Package client sends one REST request per operation and writes down what came of it.
//
// It never retries and never follows a redirect: a retried write would be two operations that look like one.
// What makes an operation Refused without an answer is proof that no byte of the request was sent.
// An answer that the interface does not allow is a defect of the server, told to the recorder.
//
// # Concurrency
//
// A Client may be used by any number of goroutines.
//
// # Caveats
//
// The server is told a deadline a little before the client's own (Larder-Timeout), so that its answer
// usually arrives.
package client
