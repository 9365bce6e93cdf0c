// Package workload runs many clients at once against a cluster, in a shape that a checker can decide.
//
// A workload is a name (Names) for what is asked for: register all kinds of requests on values, counter increments, set
// unique elements that are appended, durable many keys of few requests, ttl values that end, evict far more than there is room
// for, bounded and follower reads by the node asked alone, idempotency requests that are sent again and again, batch many
// operations in one request, one batch in three being atomic, directory the cluster's settings and table, admin changes of members and leaders beside register, and mixed several of them.
//
// Some clients are pinned to a node each, as programs are that run beside one; others ask any node, and some of those follow
// redirects (?route=redirect) or know who leads (?route=local). Half of all clients never send a request twice; the others
// send a write again under an idempotency key until it is settled, now and then much later, and now and then although it is.
// All share a few keys, so that there are conflicts. Each value is stored once in a run. A key is given up for a new
// one after 100 to 150 operations or a few writes of unknown outcome, and has at most eight operations under way
// at a time, those of unknown outcome included: beyond that the search for an order explodes.
//
// # Concurrency
//
// Start runs one goroutine per client, and for admin one for each pair of operators; Stop ends them and waits.
//
// # Caveats
//
// While a shard has no leader clients meet refusals, which are recorded too.
//
// The settings can be read only as the node asked knows them, so directory's reads are of any age until Finish, and a change
// that is refused for its version shows nothing. The table is held against itself here, not by a checker: one version
// has one content, and its ranges divide the slots.
package workload
