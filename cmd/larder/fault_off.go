//go:build !faults

package main

import (
	"net/http"
	"time"
)

// faultClock is the clock of a node, nil for the system's, and what changes it over HTTP: nothing in what users run.
func faultClock() (now func() time.Time, control func(http.Handler) http.Handler) {
	return nil, func(h http.Handler) http.Handler { return h }
}
