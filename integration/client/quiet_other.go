//go:build !unix

package client

import "net"

// quiet has no way to look: a request on a connection that was closed meanwhile becomes one of unknown outcome.
func quiet(net.Conn) bool { return true }
