package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/larder-cache/larder/httpapi"
)

// Exit codes. They are a contract with scripts: append, never renumber.
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2
	exitNotFound     = 3
	exitPrecondition = 4
	exitUnavailable  = 5 // nothing was applied
	exitUnknown      = 6 // it may have been applied
	exitUnauthorised = 7
	exitViolation    = 8
)

// usageError is a mistake in the command line or the environment.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitError is a failure with the exit code that it deserves.
type exitError struct {
	code int
	error
}

func (e exitError) Unwrap() error { return e.error }

// violationError is what a check found.
type violationError struct{ error }

func (e violationError) Unwrap() error { return e.error }

// exitCode is the code for what a command returned. What is no exitError never got to its work.
func exitCode(err error) int {
	var exit exitError
	var violation violationError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &violation):
		return exitViolation
	}
	return exitUsage
}

// absences are the problems of something that there is not, unlike a path that is wrong.
var absences = []string{"/problems/not-found", "/problems/unknown-shard", "/problems/unknown-node", "/problems/unknown-operation"}

// learnByReading is what to do after a write to a key whose outcome is unknown.
const learnByReading = "read the key to learn it"

// refusal is the error for an answer that is none of the successes of a request.
func refusal(answer answer, write bool) error {
	var p httpapi.Problem
	if answer.header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(answer.body, &p) != nil {
		return strange(answer, write)
	}
	code := exitFailed
	switch {
	case p.Applied == httpapi.AppliedUnknown:
		code = exitUnknown
	case slices.Contains(absences, p.Type):
		code = exitNotFound
	case p.Status == http.StatusPreconditionFailed:
		code = exitPrecondition
	case p.Status == http.StatusUnauthorized, p.Status == http.StatusForbidden:
		code = exitUnauthorised
	case p.Status == http.StatusTooManyRequests, p.Status == http.StatusServiceUnavailable, p.Status == http.StatusInsufficientStorage:
		code = exitUnavailable
	}
	return exitError{code, explain(p)}
}

// explain puts a problem into a line for a person at a terminal, who sees no headers.
func explain(p httpapi.Problem) error {
	if p.Status == http.StatusPreconditionFailed && p.ETag != "" {
		return fmt.Errorf("precondition failed: the entry's version is %s; read it again before you decide", strings.Trim(p.ETag, `"`))
	}
	return fmt.Errorf("%s: %s", strings.ToLower(p.Title), p.Detail)
}

// strange is the error for an answer that is not of Larder's making: something stands between, or
// there. If that failed after a write was passed on, nobody knows what became of the write.
func strange(answer answer, write bool) error {
	err := fmt.Errorf("%s answered %d %s, which is no answer of Larder: is the address right, is there a proxy?",
		answer.server, answer.status, http.StatusText(answer.status))
	switch {
	case answer.status == http.StatusUnauthorized || answer.status == http.StatusForbidden:
		return exitError{exitUnauthorised, err}
	case answer.status < http.StatusInternalServerError:
		return exitError{exitFailed, err}
	case write:
		return exitError{exitUnknown, err}
	default:
		return exitError{exitUnavailable, err}
	}
}
