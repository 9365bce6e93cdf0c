// Package proxy puts a TCP proxy in front of the peer port of each node, to delay and cut the links between them.
//
// A Network knows nodes by name. Listen gives a node the address that it advertises; who connects to it is
// recognised by the source address of the connection, so each node must have an IP of its own and dial
// from it. Faults belong to ordered pairs: what a sends to b may be late or lost while b's bytes reach a.
//
//	a ---------------> [ listener of b ] ---------------> b
//	     from a's IP     link a -> b: requests
//	  <---------------  link b -> a: replies  <----------
//
// A cut link swallows: connections stay open, new ones are accepted, nothing is answered, as in a network
// that drops packets. TCP promises a stream without holes, so a connection that lost bytes is reset when the
// link heals; the others go on. A link that holds keeps bytes and hands them on, in order, when released.
//
// # Concurrency
//
// All methods may be called at any time by any goroutine. Close waits for every goroutine.
//
// # Caveats
//
// A cut does not stop the handshake of TCP: a node that connects over a cut link believes that it
// is connected. Protocols that greet each other find out by their deadline.
//
// # Why not a packet filter
//
// It needs root, and a delay needs kernel modules that many machines lack.
package proxy
