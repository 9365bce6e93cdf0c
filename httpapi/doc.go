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
// a handler, too: see conn.
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
// # What goes where
//
// A connection is first served by this package's own loop, which knows one kind of request: a plain one, that is a
// request (GET, HEAD, PUT, DELETE, POST, PATCH) for what clients use beside each other, keys, their places and the table
// (see plainPaths), in HTTP/1.1, whose header fits 4 KiB, is written as the grammar wants it to the byte, and asks for
// nothing but an answer (see plainHeader). The first request of another kind takes the connection to net/http, with all
// bytes that are not answered yet, and there it stays: another resource, which gorilla/mux finds; HTTP/1.0, chunked
// bodies and those of 256 KiB and above, Expect, Connection: close and Upgrade, absolute targets, folded lines, two
// lengths, and whatever is malformed. So the loop decides nothing of which readings of HTTP could differ, and there is
// one parser for all that is doubtful. Handlers don't know who serves them: to both they are an http.Handler.
//
// One thing net/http takes that is refused here: a body that has both a length and a transfer coding, or a coding in HTTP/1.0. Who stands in front and
// goes by the other of the two takes the rest of the body for a request, or a request for the body. As net/http tells its handlers of
// neither, framing follows what it reads: such a request gets 400, is the last of its connection, and nothing is done of it.
//
// To each request the loop answers byte for byte what net/http does, but for the Date. Tests hold the two against each
// other, and all tests of this package run by each. What differs is time: the loop sees within a quarter of a second, not at
// once, that a client has gone, and a shutdown closes a connection that never sent a byte at once. net/http serves all on
// connections that are not the system's own, as those of TLS are, and will have HTTP/2: there is neither yet.
//
// # Concurrency
//
// The handler has no state of its own but metrics; any number of requests run at once, each on the
// goroutine of its connection, and none starts another. A request ends by its Larder-Timeout,
// which bounds the wait for its body and for its operation alike, or when the client goes.
//
// Connections may take half of the process's descriptors, and be 32,768 at most, or as many as NewServer is told; beyond, new ones are closed
// at once (see connLimit), and counted.
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
// Keys are listed and removed by a prefix a part at a time, by cursors that name a slot and a key: so they go on across moves of ranges, and two
// pages are no common state. Where the keys of a prefix are many, DELETE ends with its time, and the answer's cursor says that there are more.
//
// What turns net/http's own answers into problems works on the bytes of HTTP/1.1: under TLS it belongs around the TLS
// connection, not below.
//
// A client that begins a request which isn't plain, and is slow, has readHeaderTimeout twice: once until that shows.
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
//
// net/http takes most of the time of a read that is answered from memory: for each request it has a goroutine look whether
// the client goes, and makes a dozen objects. valyala/fasthttp takes as little as the loop here, but reads more than the
// grammar allows, answers what is malformed by itself, does not see that a client goes, and has handlers of its own:
// before it could be trusted with a request, the request would have to be known to be plain, which is most of the loop.
package httpapi
