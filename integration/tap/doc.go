// Package tap is a network of namespaces joined by a switch in this process, which can do to packets what networks do.
//
// Each member of a Network is a network namespace of its own with a loopback and one Ethernet device, a TAP, whose
// other end is a file that this process holds. What one kernel sends the switch reads, and writes to the device of the
// member whose address it bears, after what the link of that ordered pair does to it:
//
//	a ── TAP ── [ a → b: rate, delay and jitter, loss, duplicates, order, cut, hold ] ── TAP ── b
//
// A member's IP and hardware address follow from its number, so the switch answers ARP itself, at once and without
// faults: a cut is never mistaken for a forgotten neighbour. Anything that is not IPv4 for a member is dropped.
// There is no route but to the network itself, and no device that leads elsewhere: nothing leaves the machine.
//
// # Obligations
//
// The namespaces have no names. They are gone when Close has closed them, and when this process ends, however it
// does; so are the devices. Processes that were started in one must be ended by who started them.
//
// # Concurrency
//
// All methods may be called at any time by any goroutine. Close waits for every goroutine. A member's namespace is held by
// one goroutine, locked to its thread, that runs what Run hands it. Each link has one goroutine, which writes what is due;
// a link that does nothing to packets is passed by.
//
// # Caveats
//
// Linux, and root: /dev/net/tun and new namespaces need it. Supported tells. Frames have 1,500 bytes and checksums made by
// the kernel's processor, so the network is slower than loopback.
//
// # Why not netem and a bridge
//
// Many kernels lack netem. A packet filter can lose packets but not delay them, and needs tools that many machines lack.
package tap
