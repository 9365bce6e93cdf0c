// Package client sends requests and writes down what came of them, one request on a key being one operation.
//
// Do sends a request once. What makes an operation Refused without an answer is proof that no byte of the
// request was sent. DoAgain sends a write again, under an idempotency key, until it is settled; all attempts are one operation.
// It follows the rule that the interface has for that: once an attempt may have been applied only a change that was made
// settles the operation, since a refusal is not remembered under the key and says nothing of an attempt that may
// still be on its way. Repeat sends what was settled once more and holds the answer against the first.
//
// Batch sends several operations in one request, each of which is an operation of its own, and holds their places in the log
// against their order.
//
// An answer that the interface does not allow is a defect of the server, told to the recorder: a status outside the
// outcome table, a header that lacks or contradicts another, a redirect to another key.
//
// # Concurrency
//
// A Client may be used by any number of goroutines. It starts none.
//
// # Caveats
//
// The server is told a deadline a little before the client's own (Larder-Timeout), so that its answer
// usually arrives.
//
// # Why not net/http's client
//
// It sends some requests again by itself, those with an Idempotency-Key among them, and each of its connections takes two
// goroutines and several wake-ups a request, of which a load on a small machine that also runs the cluster has
// thousands a second. Its parser is used.
package client
