// Package client is the Go client of Larder: it reads and writes keys of a cluster over its REST
// interface, and goes straight to the node that serves a key.
//
//	c, err := client.New(client.Config{Addrs: []string{"127.0.0.1:7070", "127.0.0.1:7080"}})
//	...
//	result, err := c.Put(ctx, "user:1", []byte("Ada"), client.TTL(time.Minute))
//	entry, err := c.Get(ctx, "user:1")
//	result, err = c.Put(ctx, "user:1", []byte("Grace"), client.IfVersion(entry.Version))
//
// # What it owes
//
// Whoever writes must learn which of three things came of it, and the client never confuses them:
//
//   - applied: the error is nil;
//   - refused: the error is ErrPrecondition, ErrTooLarge, ErrBadRequest, ErrUnavailable or ErrClosed,
//     and the write certainly did not happen and will not;
//   - unknown: the error is ErrOutcomeUnknown, and it may have happened, or may still happen.
//
// What the server says of it decides (the member "applied" of its problem). An answer that isn't Larder's, such as
// a proxy's 502, says nothing: once a byte of a write went out, its outcome is then unknown. So it is
// where an answer says success but lacks what each answer of Larder has (shard, epoch, index, version): whoever
// wrote that answer, it can't be relied on. An answer whose status and header are whole counts, even if the
// connection breaks after it, since a write's success is told by them alone.
//
// A write is sent again if nothing of it was sent, or if the answer said that it was certainly not applied and
// another try can help. It is also sent again once it may have been applied, under the same idempotency key, which each
// write gets: the cluster applies it once and answers the second time from memory. From then on only success
// settles the call. A refusal tells of its own attempt alone, while the earlier one may still be on its way, so the
// outcome stays unknown. Reads change nothing and are sent again
// freely; a value that arrives cut short is never handed out. All of it ends at the context's deadline,
// or after Config.Timeout where it has none.
//
// The bytes of a key arrive as they are, "..", "//" and "%2F" included: no proxy is used, no redirect followed,
// nothing compressed.
//
// # Routing
//
// The client keeps the directory's table of ranges and leaders: it asks for it at the first call, then waits
// for changes in the background, and learns from each answer besides. A request goes to the believed leader
// with route=local, so that a wrong belief is refused with the right name instead of being forwarded silently. A
// leader that can't be reached, or that nobody knows, is left to another node, which forwards and waits for
// an election better than a client could. The table is a matter of speed alone: with none at all each
// request takes that way. Programs that send requests of their own go by the same table, with Leader and Answered
// (package load does).
//
// # Concurrency
//
// A Client is meant to be shared; any number of goroutines may use it. Its one goroutine, which
// keeps the table fresh, starts with the first call and ends in Close, which waits for it and for the calls
// that are under way. The table is immutable but for what answers teach about leaders and
// unreachable nodes, and is read without locks.
//
// # Caveats
//
// All of Config.Addrs must belong to one cluster: a table of another cluster replaces the one before.
//
// A server that closes an idle connection at the very moment at which a write goes out on it leaves that write's
// outcome unknown. Servers keep idle connections for two minutes, the client for 30 seconds, so
// this takes a server that stops.
//
// A proxy between client and nodes may send a PUT or DELETE twice by itself, since HTTP calls them idempotent; have it not do so.
//
// Reads of a shard whose leader says that it has many (Larder-Hot) take turns among its replicas for a while, and with Config.Near all go to
// one node. A follower's answer is as linearizable as the leader's. It takes a round trip more, which it shares with others.
//
// Get with Any or Bounded may return what linearizable reads have left behind; they promise what
// their names say, to read faster from a replica nearby.
//
// Keys begin with the time, so that an attempt that comes too late to be recognised is refused rather than applied
// again. Where the clock of this machine is wrong the client goes by the Date of the servers' answers. NoRetry and
// NoIdempotency leave the keys out: an outcome that is unknown is then for the caller to settle, by reading the
// key or by a write with a condition. Whoever repeats a call itself names it by WithIdempotencyKey.
//
// Batch sends its operations to one node, which forwards those of other shards; the results of operations are not retried. One that
// is not atomic, or has a get, carries no idempotency key: once it may have been applied it is not sent again.
//
// Keys and DeletePrefix go by way of one node, which forwards; what removes keys is not sent again once it may have been applied.
//
// Watch and the administration of a cluster are not part of the client yet.
//
// # Why not the obvious
//
// http.Client would follow redirects and keep cookies; its transport is used alone.
//
// net/http sends a request again by itself where a connection that it had used before breaks: always if
// nothing was written, and else if it takes the request for replayable. That is what GET is, and every method once the
// header has Idempotency-Key or X-Idempotency-Key, if the body is empty or can be had again
// (Request.GetBody); under HTTP/2 also after some errors that the peer reports. So writes have no GetBody, their key's
// header is written in lower case, where net/http does not see it, and HTTP/2 is switched off. With NoRetry no connection is used twice.
//
// httptrace.WroteHeaders says when the header is in a buffer, not when bytes leave, and GotConn comes
// before either. Whether something was sent is instead counted where it is written, on the
// connection that GotConn names: net/http sends one request at a time on it.
//
// The errors of a Transport can't tell it: the one for a connection found closed is not exported.
package client
