package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// misdirected is the status by which a node names another.
const misdirected = http.StatusMisdirectedRequest

// parse reads what every answer has: the problem body where there is one, and the ETag as it is.
func parse(a *answer) (history.Reply, string, error) {
	r := history.Reply{Status: a.status}
	if got := a.header.Get("X-Content-Type-Options"); got != "nosniff" {
		return r, "", fmt.Errorf("status %d with X-Content-Type-Options %q", a.status, got)
	}
	tag := a.header.Get("ETag")
	if a.status < 400 {
		return r, tag, nil
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		return r, "", fmt.Errorf("status %d with content type %q", a.status, got)
	}
	var p struct {
		Type, Title, Detail, Applied, ETag string
		Status                             int
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		return r, "", fmt.Errorf("status %d with a body that is no JSON: %w", a.status, err)
	}
	switch {
	case p.Status != a.status:
		return r, "", fmt.Errorf("status %d with a body that says %d", a.status, p.Status)
	case p.Title == "" || p.Detail == "":
		return r, "", fmt.Errorf("status %d with title %q and detail %q", a.status, p.Title, p.Detail)
	case p.ETag != tag:
		return r, "", fmt.Errorf("status %d with ETag %s and a body that says %s", a.status, tag, p.ETag)
	case (a.status == 429 || a.status == 503) && a.header.Get("Retry-After") == "":
		return r, "", fmt.Errorf("status %d without Retry-After", a.status)
	case a.status == misdirected && (a.header.Get("Larder-Leader") == "" || a.header.Get("Larder-Epoch") == ""):
		return r, "", fmt.Errorf("status %d without Larder-Leader or Larder-Epoch", a.status)
	}
	r.Problem, r.Applied = p.Type, p.Applied
	return r, tag, nil
}

// versionOf is the version that an ETag names, 0 for none.
func versionOf(tag string) (uint64, error) {
	if tag == "" {
		return 0, nil
	}
	version, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 64)
	if err != nil || version == 0 || quoted(version) != tag {
		return 0, fmt.Errorf("ETag %s is not a version", tag)
	}
	return version, nil
}

// fill sets the fields of an operation that node answered; its error is a defect.
func fill(o *history.Operation, node string, a *answer) error {
	reply, tag, err := parse(a)
	if err != nil {
		return err
	}
	o.Problem = reply.Problem
	if o.Outcome, err = history.Classify(o.Kind, reply); err != nil || o.Outcome != history.OK {
		return err
	}
	if o.Version, err = versionOf(tag); err != nil {
		return err
	}
	if err := fillPlace(o, node, a); err != nil {
		return err
	}
	switch {
	case a.status == http.StatusPreconditionFailed:
		o.Conflict = true
		if o.FillToken != 0 && o.Version == 0 {
			// A token may be refused without cause, so that nothing is said of a key that is absent.
			o.Outcome, o.Conflict = history.Refused, false
		}
		return nil
	case o.Kind.Read():
		return fillRead(o, a)
	default:
		return fillWrite(o, a)
	}
}

// fillPlace sets who answered, and from where in the log.
func fillPlace(o *history.Operation, node string, a *answer) error {
	var err error
	number := func(name, text string) uint64 {
		n, parseErr := strconv.ParseUint(text, 10, 64)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("status %d with %s %q", a.status, name, a.header.Get(name))
		}
		return n
	}
	index, position, _ := strings.Cut(a.header.Get("Larder-Index"), ".")
	o.Place = history.Place{
		Shard:    number("Larder-Shard", a.header.Get("Larder-Shard")),
		Epoch:    number("Larder-Epoch", a.header.Get("Larder-Epoch")),
		Index:    number("Larder-Index", index),
		Position: number("Larder-Index", position),
	}
	o.ServedBy = a.header.Get("Larder-Served-By")
	switch {
	case err != nil:
		return err
	case o.ServedBy == "":
		return fmt.Errorf("status %d without Larder-Served-By", a.status)
	case (o.Local || o.Route != "") && node != "" && o.ServedBy != node:
		return fmt.Errorf("a request that %s must not pass on was served by %s", node, o.ServedBy)
	case (o.Local || o.Route != "") && a.header.Get("Larder-Forwarded") != "":
		return fmt.Errorf("a request that %s must not pass on has Larder-Forwarded %q", node, a.header.Get("Larder-Forwarded"))
	}
	switch replayed := a.header.Get("Idempotency-Replayed"); {
	case replayed == "":
	case replayed == "?1" && o.IdempotencyKey != "":
		o.Replayed = true
	default:
		return fmt.Errorf("an answer under the idempotency key %q with Idempotency-Replayed %q", o.IdempotencyKey, replayed)
	}
	return nil
}

// paths are the ways to a read that the interface knows, and whether they make it linearizable.
var paths = map[string]bool{"probe": true, "lease": true, "log": true, "follower": true, "local": false}

// misses are the reasons of a miss that the interface knows.
var misses = map[string]bool{"absent": true, "expired": true, "deleted": true, "evicted": true}

// fillRead sets the fields of a read.
func fillRead(o *history.Operation, a *answer) error {
	o.Path = a.header.Get("Larder-Read")
	linearizable, known := paths[o.Path]
	switch {
	case !known:
		return fmt.Errorf("a read with Larder-Read %q", o.Path)
	case !linearizable && o.Kind == history.Get:
		return fmt.Errorf("a linearizable read with Larder-Read %q", o.Path)
	}
	if o.Kind.Old() {
		var err error
		if o.Age, err = strconv.Atoi(a.header.Get("Age")); err != nil || o.Age < 0 {
			return fmt.Errorf("a read that may be old with Age %q", a.header.Get("Age"))
		}
	}
	if o.Found = a.status == http.StatusOK; o.Found {
		o.Read = string(a.body)
	}
	if o.Found != (o.Version != 0) {
		return fmt.Errorf("status %d with ETag %q", a.status, a.header.Get("ETag"))
	}
	if err := fillCacheStatus(o, a.header.Get("Cache-Status")); err != nil {
		return err
	}
	token := a.header.Get("Larder-Fill")
	if token == "" {
		return nil
	}
	var err error
	if o.FillToken, err = strconv.ParseUint(token, 10, 64); err != nil || o.FillToken == 0 || o.Fill == 0 || o.Found {
		return fmt.Errorf("a read with Larder-Fill %q", token)
	}
	return nil
}

// fillCacheStatus reads why there was nothing, or how long what was found lives.
func fillCacheStatus(o *history.Operation, status string) error {
	wrong := fmt.Errorf("found %t, with Cache-Status %q", o.Found, status)
	if !o.Found {
		var ok bool
		if o.Miss, ok = strings.CutPrefix(status, "larder; detail="); !ok || !misses[o.Miss] {
			return wrong
		}
		return nil
	}
	if status == "larder; hit" {
		return nil
	}
	text, ok := strings.CutPrefix(status, "larder; hit; ttl=")
	seconds, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || seconds < 0 {
		return wrong
	}
	o.Timed, o.Left = true, time.Duration(seconds)*time.Second
	return nil
}

// fillWrite sets the fields of a write whose condition held.
func fillWrite(o *history.Operation, a *answer) error {
	status := a.status
	o.Existed = status == http.StatusNoContent
	versioned := true // the answer names the version of what stands there now
	switch o.Kind {
	case history.Incr:
		o.Existed = false // not told
		var err error
		if o.Number, err = strconv.ParseInt(string(a.body), 10, 64); err != nil {
			return fmt.Errorf("an increment to %q", a.body)
		}
	case history.Append:
		o.Existed = false // not told
		if o.Found = status == http.StatusOK; o.Found {
			o.Read = string(a.body)
		}
	case history.Swap:
		o.Existed = status != http.StatusCreated
		if o.Found = status == http.StatusOK; o.Found {
			o.Read = string(a.body)
		}
		if err := existed(o, a); err != nil {
			return err
		}
	case history.Delete, history.DeleteIf:
		versioned = false
		o.Existed = a.header.Get("Larder-Existed") == "?1"
		if err := existed(o, a); err != nil {
			return err
		}
	case history.Expire, history.Touch:
		versioned = o.Existed
	}
	if versioned != (o.Version != 0) {
		return fmt.Errorf("status %d with ETag %q", status, a.header.Get("ETag"))
	}
	if !o.Found && o.Kind != history.Incr && status < 400 && len(a.body) > 0 {
		return fmt.Errorf("status %d with a body", status)
	}
	return nil
}

// existed checks what an answer says of what stood there before.
func existed(o *history.Operation, a *answer) error {
	want := "?0"
	if o.Existed {
		want = "?1"
	}
	if got := a.header.Get("Larder-Existed"); got != want {
		return fmt.Errorf("a %s with status %d and Larder-Existed %q", o.Kind, a.status, got)
	}
	return nil
}
