package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/larder-cache/larder/httpapi"
)

// fetch reads a resource into value, and returns its body and header. It goes from server to server
// until one has an answer.
func (c *client) fetch(ctx context.Context, path, name string, value any) (answer, error) {
	if err := c.check(); err != nil {
		return answer{}, err
	}
	a, err := c.do(ctx, request{method: http.MethodGet, path: path, name: name, again: true})
	if err != nil {
		return a, err
	}
	return a, decode(a, false, value)
}

// decode takes the resource from an answer. What is no success is an error with advice.
func decode(a answer, write bool, value any) error {
	if a.status != http.StatusOK && a.status != http.StatusAccepted && a.status != http.StatusNoContent {
		return advise(a, write)
	}
	if value == nil {
		return nil
	}
	if err := json.Unmarshal(a.body, value); err != nil {
		return strange(a, write)
	}
	return nil
}

// change sends one that needs nothing more than its path, and never sends it twice.
func (c *client) change(ctx context.Context, r request, value any) (answer, error) {
	if err := c.check(); err != nil {
		return answer{}, err
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return a, err
	}
	err = decode(a, true, value)
	var exit exitError
	if errors.As(err, &exit) && exit.code == exitUnknown {
		err = exitError{exitUnknown, followUp(exit.error, r.learn)}
	}
	return a, err
}

// advices say what to do next about a problem with the cluster.
var advices = map[string]string{
	"unknown-shard":       `"larder shard list" shows which there are`,
	"unknown-node":        `"larder node list" shows which there are`,
	"unknown-operation":   `"larder operation list" shows which are remembered`,
	"conflict":            `"larder status" and "larder operation list" show the state of things`,
	"precondition-failed": `look at the members again with "larder member list SHARD" before you decide`,
	"diverged":            `"larder check replicas" shows which replicas differ`,
	"no-leader":           `try again; if that lasts, "larder status" tells what is wrong`,
}

// advise is the error for a refused request on the cluster, with what to do next.
func advise(a answer, write bool) error {
	err := refusal(a, write)
	var p httpapi.Problem
	var exit exitError
	if json.Unmarshal(a.body, &p) != nil || !errors.As(err, &exit) {
		return err
	}
	name := strings.TrimPrefix(p.Type, "/problems/")
	if name == "precondition-failed" {
		conf := strings.Trim(a.header.Get("ETag"), `"`)
		exit.error = errors.New("the members have changed meanwhile")
		if conf != "" {
			exit.error = fmt.Errorf("the members have changed: their conf version is %s now", conf)
		}
	}
	if advice := advices[name]; advice != "" {
		exit.error = followUp(exit.error, advice)
	}
	return exit
}

// followUp adds to an error what to do next. The sentence of a server ends with a full stop.
func followUp(err error, next string) error {
	return fmt.Errorf("%s; %s", strings.TrimSuffix(err.Error(), "."), next)
}

// parseShard takes a shard's id from the command line: 0 is the directory.
func parseShard(text string) (string, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return "", usageError{fmt.Errorf("%q is not the number of a shard", text)}
	}
	return strconv.FormatUint(id, 10), nil
}

func parseNode(text string) (string, error) {
	if text == "" || text == "." || text == ".." {
		return "", usageError{fmt.Errorf("%q is not the id of a node", text)}
	}
	return text, nil
}
