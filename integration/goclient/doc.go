// Package goclient measures what users of the Go client notice of a cluster of real processes.
//
// The client is its subject, so it imports that one, and no other of the server's packages. It judges by what it
// remembers of its own writes.
package goclient
