// Package httpapi is the REST interface of a node: keys under /v1/kv/, the directory's views, health
// and metrics.
//
// # What it owes
//
// A key is any 1 to 1024 bytes. What the client percent-encoded after the prefix is decoded once and
// nothing else happens to it: there is no cleaning and no redirect to a tidier path (see keyAfter).
//
// Every error is a problem (RFC 9457) whose member "applied" says whether the request had an effect.
// errorTable is the one place that decides this for errors from below; an error that nobody planned
// never claims that a write did not happen. This holds for requests that are too malformed to reach
// a handler, too: see Listener.
//
// Conditions are handed to the state machine and decided there. Nothing is compared before the log,
// since what was compared could be untrue by the time the write applies.
//
// What the interface promises and this version lacks is refused with 501, what it does not know
// with 400: a parameter that was ignored would be a promise broken in silence.
//
// The operations of a batch are read and checked before any of them is done, a stream's one by one. Each is answered as its
// own request would have been, whatever became of the others.
//
// # Concurrency
//
// The handler has no state of its own but metrics; any number of requests run at once, each on the
// goroutine that net/http gave it, and none starts another. A request ends by its Larder-Timeout,
// which bounds the wait for its body and for its operation alike.
//
// # Caveats
//
// A read counts as a use of the entry, with or without touch=true, a moment later: within the touch interval
// or before the next write, whichever is first. With touch=false it leaves no trace.
//
// A read is served by this node's own replica where it has one, also as a follower. With route=local it
// is served by that one or refused.
//
// GET /v1/directory has the table version as its ETag. Leaders and the states of nodes in it are hints
// that change without it. With If-None-Match and Prefer: wait=30 the answer is held while the version is
// one of those that the client has: for its wait, not its Larder-Timeout. A node that knows an older
// table than the client does has "another version" too and answers at once: a client that goes from
// node to node keeps the newer table, and pauses before it asks an outdated node again.
//
// A replay under an Idempotency-Key is answered from memory, which keeps small values only: a POST or a PUT
// with return=old whose value was longer is answered with 204 the second time. A touch takes no key, since it does no
// harm twice.
//
// PUT of a leader may find its shard led by that node for another reason than the request: it answers
// for the state, not for who brought it about.
//
// A batch is always forwarded: route has no meaning for keys of many leaders. Its reads are linearizable. JSON of batches is read
// with the second version of encoding/json (as go-json-experiment/json has it), which refuses what would change a key on its
// way: names that come twice or in other letters, text that is not UTF-8, half a surrogate pair.
//
// Listener works on the bytes of HTTP/1.1: under TLS it belongs around the TLS listener, not below.
//
// Range, If-Modified-Since and If-Unmodified-Since are ignored, as RFC 9110 has it for a resource
// without ranges and without a modification date.
//
// # Why not the obvious
//
// http.ServeMux, and mux as it comes, answer a path with "//" or ".." by a redirect to another path,
// which is another key here; and for an encoded slash they match a decoded one. mux with
// UseEncodedPath and SkipClean does neither. Methods are told apart after the path, by a map, since
// routers differ in when they answer 405 and whether they name the methods that there are.
package httpapi
