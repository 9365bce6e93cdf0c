package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/gorilla/mux"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// Admin changes the cluster, and follows its changes. Its errors are those of packages directory and
// shard; all methods wait no longer than their context.
type Admin interface {
	// Members asks a shard's leader for the configuration and what each member has of the log.
	Members(ctx context.Context, id shard.ID) (directory.MembersView, error)
	// Checksum compares the replicas of a data shard at one index.
	Checksum(ctx context.Context, id shard.ID) (directory.ChecksumView, error)
	// ChangeMember begins an operation.
	ChangeMember(ctx context.Context, c directory.MemberChange) (directory.OperationView, error)
	// TransferLeader returns once node leads the shard, also when it did already.
	TransferLeader(ctx context.Context, id shard.ID, node string) error
	// RecoverShard begins the next generation of a shard, or says what that would do.
	RecoverShard(ctx context.Context, r directory.Recovery) (directory.RecoveryView, error)
	// RebuildDirectory begins the directory anew on this node, or says what that would do.
	RebuildDirectory(ctx context.Context, r directory.Rebuild) (directory.RebuildView, error)
	// Operations returns those that the table keeps, newest first.
	Operations() []directory.OperationView
	// Operation returns one of them; false for a number that there is not.
	Operation(n uint64) (directory.OperationView, bool)
	// CancelOperation asks for an end; the operation goes on until it has undone what it did.
	CancelOperation(ctx context.Context, n uint64) (directory.OperationView, error)
	// RemoveNode takes a node without replicas out of the table.
	RemoveNode(ctx context.Context, id string) error
	// DrainNode begins to move replicas off a node, or ends that.
	DrainNode(ctx context.Context, id string, drain bool) (directory.NodeView, error)
	// ChangeSettings returns all settings once this node knows the changed ones.
	ChangeSettings(ctx context.Context, c directory.SettingsChange) (directory.SettingsView, error)
	// Newer returns nil once the table's version is above version, or the cause for which ctx ended.
	Newer(ctx context.Context, version uint64) error
}

// bounded returns the request's context with the deadline that its Larder-Timeout gives it.
func bounded(r *http.Request) (context.Context, context.CancelFunc, error) {
	timeout, err := timeoutOf(r.Header)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	return ctx, cancel, nil
}

// change is bounded for a request that changes the cluster and has no body. It refuses a body, and
// conditions where they are not understood: those of RFC 9110 must not be ignored.
func change(w http.ResponseWriter, r *http.Request, conditional bool) (context.Context, context.CancelFunc, error) {
	if err := refuseConditions(r.Header, conditional); err != nil {
		return nil, nil, err
	}
	ctx, cancel, err := bounded(r)
	if err != nil {
		return nil, nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := noBody(w, r, deadline); err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, cancel, nil
}

// refuseConditions refuses the conditional headers of a change, If-Match unless it is conditional.
func refuseConditions(h http.Header, conditional bool) error {
	if len(h.Values("If-None-Match")) > 0 {
		return kindBadHeader.problem("If-None-Match has no meaning for this request.")
	}
	if !conditional && len(h.Values("If-Match")) > 0 {
		return kindBadHeader.problem("If-Match has no meaning for this request.")
	}
	return nil
}

// decimal is the number that text writes in its one decimal form: no sign, no zeros before it.
func decimal(text string) (uint64, bool) {
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == text
}

// shardOf is the shard that the path names.
func shardOf(r *http.Request) (shard.ID, error) {
	text := mux.Vars(r)["id"]
	id, ok := decimal(text)
	if !ok {
		return 0, kindUnknownShard.problem("There is no shard %q. GET /v1/shards lists them.", text)
	}
	return shard.ID(id), nil
}

// nodeOf is the node that the path's variable names, decoded.
func nodeOf(r *http.Request, variable string) (string, error) {
	text := mux.Vars(r)[variable]
	id, err := url.PathUnescape(text)
	if err != nil {
		return "", kindUnknownNode.problem("There is no node %q. GET /v1/nodes lists them.", text)
	}
	return id, nil
}

// accept answers that an operation runs, and where to follow it.
func accept(w http.ResponseWriter, operation directory.OperationView) error {
	return goesOn(w, operationsPath+"/"+strconv.FormatUint(operation.ID, 10), operation)
}

// goesOn answers that what was asked for is under way, how it stands, and where to follow it.
func goesOn(w http.ResponseWriter, location string, state any) error {
	body, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Location", location)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusAccepted)
	w.Write(body) // the client that doesn't hear it has gone
	return nil
}

// done answers that a change has happened, and that there is nothing to say of it.
func done(w http.ResponseWriter) error {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// removeNode serves DELETE of a node.
func (s *server) removeNode(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := nodeOf(r, "id")
	if err != nil {
		return err
	}
	ctx, cancel, err := change(w, r, false)
	if err != nil {
		return err
	}
	defer cancel()
	if err := s.cfg.Admin.RemoveNode(ctx, id); err != nil {
		return err
	}
	return done(w)
}

func (s *server) drainNode(w http.ResponseWriter, r *http.Request) error {
	return s.setDrain(w, r, true)
}

func (s *server) undrainNode(w http.ResponseWriter, r *http.Request) error {
	return s.setDrain(w, r, false)
}

// setDrain serves POST of a node's drain and undrain, and answers with the node.
func (s *server) setDrain(w http.ResponseWriter, r *http.Request, drain bool) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := nodeOf(r, "id")
	if err != nil {
		return err
	}
	ctx, cancel, err := change(w, r, false)
	if err != nil {
		return err
	}
	defer cancel()
	node, err := s.cfg.Admin.DrainNode(ctx, id, drain)
	if err != nil {
		return err
	}
	return goesOn(w, nodesPath+"/"+url.PathEscape(id), node)
}
