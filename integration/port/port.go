// Package port finds TCP ports that stay free while a process is restarted on them.
//
// A port that the system gave out for 0 comes from the range that outgoing connections use
// too, so while a node is down a connection of another one may take it. Ports from here lie below that
// range (32768 on Linux by default).
//
// # Concurrency
//
// Everything may be called at any time. Two processes may be given the same port by Free, since it is
// free again on return: the start of the second one fails, loudly.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

// Ports are taken from [low, high).
const (
	low      = 12000
	high     = 32000
	attempts = 200
)

// Listen listens on a free port of ip.
func Listen(ip string) (net.Listener, error) {
	for range attempts {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(low+rand.IntN(high-low))))
		if !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
	}
	return nil, fmt.Errorf("no free port on %s in %d attempts", ip, attempts)
}

// Free returns an address on ip that nobody listens on.
func Free(ip string) (string, error) {
	l, err := Listen(ip)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
