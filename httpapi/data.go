package httpapi

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// Data performs operations on keys. The deadline is the context's.
type Data interface {
	// Do performs req where its key is served, here or one hop away, and waits while that place
	// has no leader.
	Do(ctx context.Context, req shard.Request) (shard.Response, error)
	// DoBatch does so for the operations of b, and returns a reply for each.
	DoBatch(ctx context.Context, b shard.Batch) ([]shard.Reply, error)
	// Scan returns a page of keys from where the slot in which it begins is served.
	Scan(ctx context.Context, s shard.Scan) (shard.Page, error)
	// Erase removes keys, and tells how far it came: with an error nothing was removed, but for
	// shard.ErrOutcomeUnknown, with which Page.Removed is the least.
	Erase(ctx context.Context, s shard.Scan) (shard.Page, error)
	// Local performs req on this node's replica, or refuses at once: with NotLeaderError where
	// another node leads.
	Local(ctx context.Context, req shard.Request) (shard.Response, error)
	// Locate tells where a key lives, or refuses while the table is not known.
	Locate(key []byte) (directory.Location, error)
}

const (
	kvPrefix = "/v1/kv/"
	// maxContentType bounds the media type kept with a value, bytes.
	maxContentType = 256
	// defaultContentType is that of a value stored without one.
	defaultContentType = "application/octet-stream"
)

// get serves GET and HEAD.
func (s *server) get(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "consistency", "max-staleness", "lease", "touch", "fill", "route")
	if err != nil {
		return err
	}
	read, err := readOf(values)
	if err != nil {
		return err
	}
	unless, err := readTags(r.Header)
	if err != nil {
		return err
	}
	call, err := s.newCall(r, values)
	if err != nil {
		return err
	}
	call.deadline = call.deadline.Add(read.Fill) // the wait for another's fill is no part of Larder-Timeout
	read.Key = call.key
	resp, err := call.perform(read)
	if err != nil {
		return err
	}

	h := w.Header()
	f := setPlace(h, resp)
	f.set("Larder-Read", string(resp.Read))
	if resp.Hot {
		f.set("Larder-Hot", flag(true))
	}
	// An HTTP cache may keep the answer, and must ask before it gives it again: with ETag and 304
	// it is then a correct near cache.
	h["Cache-Control"] = valueNoCache
	if read.Consistency != shard.Linearizable {
		h.Set("Age", strconv.FormatInt(int64((resp.Age+time.Second-1)/time.Second), 10))
	}
	if !resp.Found {
		h.Set("Cache-Status", "larder; detail="+string(cmp.Or(resp.MissReason, shard.MissAbsent)))
		if resp.FillToken != 0 {
			h.Set("Larder-Fill", strconv.FormatUint(resp.FillToken, 10))
		}
		return kindAbsent.problem("There is no live entry under this key.")
	}
	h["Cache-Status"] = valueHit
	if resp.HasTTL {
		f.set("Cache-Status", valueHit[0]+"; ttl="+strconv.FormatInt(int64(resp.TTL/time.Second), 10))
	}
	etag := formatETag(resp.Version)
	f.set("Etag", etag)
	protect(h)
	if unless != nil && unless.matchesWeakly(etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	f.writeValue(w, r, resp)
	return nil
}

// writeValue answers with the value that resp has.
func (f *fields) writeValue(w http.ResponseWriter, r *http.Request, resp shard.Response) {
	f.header["Content-Type"] = valueDefaultType
	if resp.ContentType != "" {
		f.set("Content-Type", resp.ContentType)
	}
	f.set("Content-Length", strconv.Itoa(len(resp.Value)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(resp.Value) // the client that doesn't hear it has gone
	}
}

// put stores the body.
func (s *server) put(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "ttl", "return", "route")
	if err != nil {
		return err
	}
	returnOld := values.Has("return")
	if returnOld && values.Get("return") != "old" {
		return kindBadParameter.problem("return is old, or absent.")
	}
	key, err := idempotencyKeyOf(r.Header)
	if err != nil {
		return err
	}
	cond, err := writeCondition(r)
	if err != nil {
		return err
	}
	ttl, byDefault, err := s.ttlOf(values, r.Header)
	if err != nil {
		return err
	}
	contentType, err := describe(r.Header)
	if err != nil {
		return err
	}
	call, err := s.newCall(r, values)
	if err != nil {
		return err
	}
	value, err := s.readValue(w, r, call.deadline)
	if err != nil {
		return err
	}
	resp, err := call.perform(shard.Request{
		Op:             shard.OpPut,
		Key:            call.key,
		Value:          value,
		ContentType:    contentType,
		TTL:            ttl,
		Cond:           cond,
		ReturnOld:      returnOld,
		IdempotencyKey: key,
		DefaultTTL:     byDefault && key != "",
	})
	if err != nil {
		return err
	}
	if resp.Status == fsm.StatusCondition && cond.Kind == fsm.CondFill {
		setPlace(w.Header(), resp)
		return fillRefused(resp)
	}
	f, err := settled(w.Header(), resp)
	if err != nil {
		return err
	}
	if returnOld {
		f.set("Larder-Existed", flag(resp.Existed))
	}
	switch {
	case returnOld && resp.HasValue:
		f.writeValue(w, r, resp)
	case resp.Existed:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusCreated)
	}
	return nil
}

// settled sets the fields that the answers to all writes begin with, and returns what sets further ones, or the
// problem of a write that was refused.
func settled(h http.Header, resp shard.Response) (fields, error) {
	f := setPlace(h, resp)
	h["Cache-Control"] = valueNoCache
	if p := statusProblem(resp); p != nil {
		return f, p
	}
	if resp.Version != 0 {
		f.set("Etag", formatETag(resp.Version))
	}
	if resp.Replayed {
		f.set("Idempotency-Replayed", "?1")
	}
	protect(h)
	return f, nil
}

// fillRefused is the answer to a fill whose token no longer holds.
func fillRefused(resp shard.Response) *Problem {
	p := kindPrecondition.problem("The key was written or removed since Larder-Fill was given. Read it again before you load it.")
	if resp.Version != 0 {
		p.ETag = formatETag(resp.Version)
	}
	return p
}

// flag is a boolean of structured fields (RFC 9651).
func flag(b bool) string {
	if b {
		return "?1"
	}
	return "?0"
}

// remove serves DELETE. Removing what is absent succeeds: the key is then absent, which was asked for.
func (s *server) remove(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "route")
	if err != nil {
		return err
	}
	key, err := idempotencyKeyOf(r.Header)
	if err != nil {
		return err
	}
	cond, err := writeCondition(r)
	if err != nil {
		return err
	}
	call, err := s.newCall(r, values)
	if err != nil {
		return err
	}
	resp, err := call.perform(shard.Request{Op: shard.OpDelete, Key: call.key, Cond: cond, IdempotencyKey: key})
	if err != nil {
		return err
	}
	f, err := settled(w.Header(), resp)
	if err != nil {
		return err
	}
	delete(f.header, "Etag") // the delete's own version is that of no value
	f.set("Larder-Existed", flag(resp.Existed))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// describe returns the media type that a PUT gives its value, "" for none, and refuses what would
// be lost on the way to a reader.
func describe(h http.Header) (contentType string, err error) {
	if len(h["Content-Encoding"]) > 0 {
		return "", kindContentEncoding.problem(
			"Content-Encoding is not kept, readers would get coded bytes without it. Send the value plain, or give it a Content-Type of its own.")
	}
	if len(h["Content-Range"]) > 0 {
		return "", kindBadHeader.problem("A value is replaced as a whole: Content-Range is not for PUT.")
	}
	lines := h["Content-Type"]
	switch {
	case len(lines) == 0:
		return "", nil
	case len(lines) > 1:
		return "", kindBadHeader.problem("Content-Type is given %d times.", len(lines))
	case len(lines[0]) > maxContentType:
		return "", kindBadHeader.problem("Content-Type has %d bytes, %d are allowed.", len(lines[0]), maxContentType)
	}
	return lines[0], nil
}

// readValue reads the body within the deadline, and no more of it than a value may have.
func (s *server) readValue(w http.ResponseWriter, r *http.Request, deadline time.Time) ([]byte, error) {
	limit := s.cfg.MaxValueBytes
	tooLarge := func() error {
		return kindValueTooLarge.problem("A value may have %d bytes.", limit).hangingUp()
	}
	if r.ContentLength > limit {
		return nil, tooLarge()
	}
	if r.Body != http.NoBody {
		// Not every ResponseWriter is a connection; one that isn't does not stall either. net/http sets
		// the connection's deadline anew before the next request.
		if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return nil, kindMalformed.problem("The body could not be read: %v.", err).hangingUp()
		}
	}
	value, err := readAll(r, limit)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, kindBodyTimeout.problem("Only %d bytes of the body came in time. Larder-Timeout allows more.", len(value)).hangingUp()
	case err != nil:
		return nil, kindMalformed.problem("The body could not be read: %v.", err).hangingUp()
	case int64(len(value)) > limit:
		return nil, tooLarge()
	}
	return value, nil
}

// readAll reads the body of r, and of one whose length is not announced no more than limit + 1 bytes.
func readAll(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength < 0 {
		return io.ReadAll(io.LimitReader(r.Body, limit+1))
	}
	body := make([]byte, r.ContentLength)
	n, err := io.ReadFull(r.Body, body)
	return body[:n], err
}
